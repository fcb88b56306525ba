"""What runs problems through an engine, where the problems come from, and who watches."""

from orchestrator.runtime.driver.driver import Driver
from orchestrator.runtime.driver.observer import Observer
from orchestrator.runtime.driver.source import Arrivals

__all__ = ["Arrivals", "Driver", "Observer"]

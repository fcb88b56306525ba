"""Contract checks for each kind of plugin, to call from a plugin's own tests.

A broken rule raises AssertionError with a message that names the rule and the remedy. No test
framework is needed. Every check runs when it is called; within an event loop, to which its engine
belongs, `check_engine` must be awaited.

    from orchestrator.testing import check_strategy

    def test_my_strategy_keeps_the_contract():
        check_strategy(MyStrategy(n=8))

Use `trace`, `pool` and `explore` to test a plugin's decisions.
"""

from orchestrator.testing.domains import check_domain
from orchestrator.testing.engines import check_engine
from orchestrator.testing.scripted.pools import PROBLEM, pool, trace
from orchestrator.testing.scripted.simulation import explore
from orchestrator.testing.selectors import check_selector
from orchestrator.testing.similarity import check_similarity
from orchestrator.testing.sinks import check_sink
from orchestrator.testing.strategies import check_strategy
from orchestrator.testing.verifiers import check_verifier

__all__ = [
    "PROBLEM",
    "check_domain",
    "check_engine",
    "check_selector",
    "check_similarity",
    "check_sink",
    "check_strategy",
    "check_verifier",
    "explore",
    "pool",
    "trace",
]

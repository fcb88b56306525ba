"""A vLLM plugin that ends an engine process once the process that opened the engine has ended.

If its parent is killed, vLLM's engine process stays alive, idle and with its memory, once it has
nothing to compute. vLLM loads this module through its entry point `vllm.general_plugins` in every
one of its processes; it acts only in the child of the process that called `Vllm.open`. vLLM itself
then ends the workers. Imports nothing of vllm, so that it can run in any of its processes.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess

# id of the process that opens engines, for its child processes
OPENER = "LEADLINE_ENGINE_OPENER"
_POLL_SECONDS = 5.0


def install() -> None:
    """Watch the opener from a thread if it is this process's parent; otherwise do nothing."""
    parent = multiprocessing.parent_process()
    if parent is not None and os.environ.get(OPENER) == str(parent.pid):
        threading.Thread(
            target=_end_with, args=(parent,), daemon=True, name="leadline-guard"
        ).start()


def _end_with(parent: BaseProcess) -> None:
    # The pipe reports it at once. But a process forked by the opener may keep its other end open,
    # so the parent's id is also checked.
    while not wait([parent.sentinel], _POLL_SECONDS) and os.getppid() == parent.pid:
        pass
    # even in the middle of a step: no process is left that needs a clean shutdown
    os.kill(os.getpid(), signal.SIGKILL)

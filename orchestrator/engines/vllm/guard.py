"""A vLLM plugin that ends an engine process when the process that opened the engine is gone.

vLLM's engine process survives a parent that was killed, idle and with its memory, as soon as it has
nothing to compute. vLLM loads this through its entry point `vllm.general_plugins` in every process
of its own; it acts only in the one whose parent called `Vllm.open`. The workers follow by vLLM's
own means. Imports nothing of vllm, so that it may run in any of its processes.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess

# the process that opens engines, for the processes that it starts
OPENER = "LEADLINE_ENGINE_OPENER"
_POLL_SECONDS = 5.0


def install() -> None:
    """Watch the opener from a thread if it is this process's parent; nothing otherwise."""
    parent = multiprocessing.parent_process()
    if parent is not None and os.environ.get(OPENER) == str(parent.pid):
        threading.Thread(
            target=_end_with, args=(parent,), daemon=True, name="leadline-guard"
        ).start()


def _end_with(parent: BaseProcess) -> None:
    # The pipe reports it at once. But a process that the opener forked may hold its other end, so
    # the parent's id is checked, too.
    while not wait([parent.sentinel], _POLL_SECONDS) and os.getppid() == parent.pid:
        pass
    # in the middle of a step there is nobody left to shut down for
    os.kill(os.getpid(), signal.SIGKILL)

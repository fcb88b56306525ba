"""From where problems are to the documents there: a file, a folder, a glob, a URI, standard input.

`?name=...&split=...` behind a folder or a data set of the model hub selects some of its files, by
their folders and names. Not covered: what is in a document.
"""

from __future__ import annotations

import bz2
import glob
import gzip
import lzma
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, cast
from urllib.parse import parse_qsl

from orchestrator.core.errors import LeadlineError, PlanError, describe
from orchestrator.jobs.rows.record import Document, Record
from orchestrator.plan.file.sources import QUERY, STANDARD_INPUT, Location, is_uri

HUB = "hf://"
_DATA = frozenset(
    {".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".tab", ".parquet", ".pq"}
    | {".arrow", ".feather", ".ipc"}
)
# files that tools leave beside data
_NOT_DATA = frozenset(
    {"dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json"}
)
_DECOMPRESSED: Mapping[str, Callable[[Any], Any]] = {
    ".gz": gzip.open,
    ".bz2": bz2.open,
    ".xz": lzma.open,
}
_SPLITS = ("train", "test", "validation", "valid", "val", "dev", "eval")
# of a remote file: 32 MiB, so that the columns of a Parquet file do not displace each other
_CACHE = {"block_size": 1 << 20, "cache_type": "blockcache", "cache_options": {"maxblocks": 32}}


class _SeveralSplits(PlanError):
    """The files of a data set are those of several splits, and none was named."""


def documents(location: Location) -> list[Document]:
    """Return the documents at a location, in order of their names.

    PlanError when there is none, or when what would read it is not installed.
    """
    text = str(location)
    if text == STANDARD_INPUT:
        return [_standard_input()]
    path, query = _split_query(location)
    if is_uri(location):
        return _remote(path, query)
    if Path(path).is_dir():
        return _in_folder(Path(path), query)
    if glob.has_magic(path) and not Path(path).exists():
        found = [Path(name) for name in sorted(glob.glob(path, recursive=True))]
        files = [one for one in found if one.is_file()]
        if not files:
            raise PlanError(f"no file matches {path}")
        return [_local(file, str(file)) for file in files]
    return [_local(Path(path), Path(path).name)]


def _split_query(location: Location) -> tuple[str, dict[str, str]]:
    text = str(location)
    match = None if isinstance(location, Path) and location.exists() else QUERY.search(text)
    return (text, {}) if match is None else (text[: match.start()], dict(parse_qsl(match[1])))


def _local(path: Path, label: str) -> Document:
    return Document(str(path), label, partial(_open_local, path))


def _open_local(path: Path) -> BinaryIO:
    if path.is_dir():
        raise PlanError(f"{path} is a directory; name the file of problems in it")
    try:
        opener = _DECOMPRESSED.get(path.suffix.lower())
        return path.open("rb") if opener is None else cast("BinaryIO", opener(path))
    except FileNotFoundError as error:
        raise PlanError(f"there is no file {path}") from error
    except OSError as error:
        raise PlanError(f"{path} cannot be read: {error.strerror}") from error


def _standard_input() -> Document:
    kept = tempfile.NamedTemporaryFile(prefix="leadline-stdin-")  # noqa: SIM115 - lives as long as the document
    shutil.copyfileobj(sys.stdin.buffer, kept)
    kept.flush()

    def opened(kept: Any = kept) -> BinaryIO:
        return Path(kept.name).open("rb")

    return Document("the standard input", "stdin", opened)


def _in_folder(folder: Path, query: Mapping[str, str]) -> list[Document]:
    names = [str(p.relative_to(folder)) for p in sorted(folder.rglob("*")) if p.is_file()]
    return [_local(folder / name, name) for name in selected(names, query, str(folder))]


def selected(names: Sequence[str], query: Mapping[str, str], whole: str) -> list[str]:
    """Return the data files among the files of a folder that a query selects.

    `name` is a folder, or a file without its suffix; `split` is a word of the file's name, or a
    folder. Files that name no split belong to every split. PlanError, listing what there is, if
    nothing is left.
    """
    data = [name for name in names if is_data(name)]
    if not data:
        raise PlanError(
            f"{whole} contains no file of problems; there may be JSONL, JSON, CSV, TSV, Parquet "
            "and Arrow files"
        )
    chosen = data
    if (name := query.get("name", "")) and PurePosixPath(whole).name.lower() != name.lower():
        chosen = [file for file in data if _is_named(file, name)]
    if split := query.get("split", ""):
        of_split = [file for file in chosen if _words(file) & {split.lower()}]
        others = [file for file in chosen if _words(file) & set(_SPLITS)]
        chosen = of_split or ([] if others else chosen)
    if not chosen:
        asked = " and ".join(f"{k} {v!r}" for k, v in query.items() if k != "revision")
        listed = ", ".join(data[:8]) + (f" and {len(data) - 8} more" if len(data) > 8 else "")
        raise PlanError(f"{whole} has no file of {asked}; it has: {listed}")
    kinds = {split for file in chosen for split in _words(file) & set(_SPLITS)}
    if "split" not in query and len(kinds) > 1:
        raise _SeveralSplits(
            f"{whole} has the splits {', '.join(sorted(kinds))}; name one: {whole}?split=test"
        )
    return chosen


def is_data(name: str) -> bool:
    """Tell whether a file's name shows that it may hold problems."""
    path = PurePosixPath(name)
    stem = PurePosixPath(path.stem) if path.suffix.lower() in _DECOMPRESSED else path
    is_hidden = any(part.startswith((".", "_")) for part in path.parts)
    return stem.suffix.lower() in _DATA and path.name not in _NOT_DATA and not is_hidden


def _is_named(file: str, name: str) -> bool:
    path = PurePosixPath(file)
    stem = PurePosixPath(path.name.partition(".")[0]).name
    return name.lower() in {part.lower() for part in (*path.parts[:-1], stem)}


def _words(file: str) -> set[str]:
    return set(re.split(r"[^a-z0-9]+", file.lower()))


def _remote(uri: str, query: Mapping[str, str]) -> list[Document]:
    if uri.startswith(HUB) and not uri.startswith((f"{HUB}datasets/", f"{HUB}buckets/")):
        return _of_the_hub(uri.removeprefix(HUB), query)
    fs, path = _file_system(uri)
    with remote_errors(uri):
        if glob.has_magic(path):
            files = sorted(fs.glob(path))
        elif uri.startswith(("http://", "https://")):  # whether it is a folder shows no server
            files = [path]
        elif fs.isdir(path):
            return _below(fs, path, query, uri)
        else:
            files = [path]
    if not files:
        raise PlanError(f"no file matches {uri}")
    return [_remote_document(fs, file, PurePosixPath(file).name, uri) for file in files]


def _below(fs: Any, folder: str, query: Mapping[str, str], whole: str) -> list[Document]:
    prefix = f"{folder.rstrip('/')}/"
    names = [str(file).removeprefix(prefix) for file in sorted(fs.find(folder))]
    chosen = selected(names, query, whole)
    return [_remote_document(fs, prefix + name, name, whole) for name in chosen]


def _of_the_hub(id: str, query: Mapping[str, str]) -> list[Document]:
    """Return the documents of a data set of the hub: its files, or what `datasets` reads of it."""
    revision = f"@{query['revision']}" if query.get("revision") else ""
    folder = f"datasets/{id.strip('/')}{revision}"
    whole = f"{HUB}{id}"
    fs, path = _file_system(f"{HUB}{folder}")
    with remote_errors(whole):
        try:
            return _below(fs, path, query, whole)
        except _SeveralSplits:
            raise
        except PlanError as no_files:
            return [_by_datasets(id, query, no_files)]


def _by_datasets(id: str, query: Mapping[str, str], no_files: PlanError) -> Document:
    try:
        import datasets  # an extra
    except ImportError as error:
        raise PlanError(
            f"{no_files}; what its files do not show, the package `datasets` may read: "
            "pip install 'leadline[datasets]'"
        ) from error

    def records() -> Any:
        with remote_errors(f"{HUB}{id}"):
            rows = datasets.load_dataset(
                id,
                query.get("name") or None,
                split=query.get("split") or "test",
                revision=query.get("revision") or None,
                streaming=True,
            )
            for line, row in enumerate(rows, start=1):
                yield Record(line, dict(row), in_table=True)

    return Document(f"{HUB}{id}", id.rpartition("/")[2], _no_content, records, is_remote=True)


def _no_content() -> BinaryIO:
    raise PlanError("a data set that is read by `datasets` has no bytes")


def _file_system(uri: str) -> tuple[Any, str]:
    try:
        import fsspec  # an extra
    except ImportError as error:
        raise PlanError(
            f"{uri}: reading from a URI needs fsspec: pip install 'leadline[remote]'"
        ) from error
    try:
        fs, path = fsspec.core.url_to_fs(uri)
    except ImportError as error:  # of the package for this scheme
        raise PlanError(f"{uri}: {error}") from error
    except ValueError as error:
        raise PlanError(f"{uri}: {error}; `leadline` reads what fsspec knows") from error
    return fs, str(path)


def _remote_document(fs: Any, path: str, label: str, uri: str) -> Document:
    name = uri if uri.endswith(label) else f"{uri}: {label}"
    return Document(name, label, partial(_open_remote, fs, path, uri), is_remote=True)


def _open_remote(fs: Any, path: str, uri: str) -> BinaryIO:
    with remote_errors(uri):
        file = fs.open(path, "rb", **_CACHE)
        if not file.seekable():  # of a server that sends whole files only
            kept = cast("BinaryIO", tempfile.TemporaryFile())  # noqa: SIM115 - the caller closes it
            shutil.copyfileobj(file, kept)
            kept.seek(0)
            file = kept
        opener = _DECOMPRESSED.get(PurePosixPath(path).suffix.lower())
        return cast("BinaryIO", file if opener is None else opener(file))


@contextmanager
def remote_errors(uri: str) -> Iterator[None]:
    """Turn every error of a file system in the block into a PlanError that names the URI."""
    try:
        yield
    except LeadlineError:
        raise
    except FileNotFoundError as error:
        raise PlanError(f"there is no {uri}: {describe(error)}") from error
    except Exception as error:  # each file system has the errors of its own library
        raise PlanError(f"{uri} cannot be read: {describe(error)}") from error

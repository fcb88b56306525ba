"""The sockets by which commands find the services of the same user on this machine.

The one rule: the file system says who may. A folder of sockets is its user's alone (mode 0700), and
what is not is neither used nor trusted. The name of a socket has the identity of the engine behind
it, so a command looks only at those that have its own. Not covered: what is sent (`remote`).
"""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

from orchestrator.core.errors import EngineError
from orchestrator.plan.models import cache_home

_LONGEST_PATH = 103  # bytes: a socket's address has 104 on macOS and 108 on Linux, with a final 0
_BACKLOG = 1024


@dataclass(frozen=True, slots=True)
class ServiceSocket:
    """The socket of a running service, and the address at which others reach it."""

    path: Path

    @property
    def address(self) -> str:
        """The root address of the service, such as http://127.0.0.1:8321."""
        return f"http://{self.path.stem.split('-', 2)[2]}"


def running_sockets(identity: str = "") -> list[ServiceSocket]:
    """Return the sockets of running services, the one that started last first.

    Those of one engine, or of all. A socket that its service has left behind is removed.
    """
    pattern = f"{_host()}-{identity or '*'}-*.sock"
    found = [path for folder in _folders() if _is_private(folder) for path in folder.glob(pattern)]
    started = {path: at for path in found if (at := _started(path)) is not None}
    return [ServiceSocket(path) for path in sorted(started, key=lambda p: (-started[p], p.name))]


def socket_folder() -> Path:
    """Return the folder in which services make their sockets; EngineError if there is none."""
    faults = []
    for folder in _folders():
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            folder.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            faults.append(f"{folder} cannot be made: {error.strerror}")
            continue
        if _is_private(folder):
            return folder
        faults.append(f"{folder} is not this user's alone")
    raise EngineError("; ".join(faults) or "this system has no sockets, or this user no home")


@contextlib.contextmanager
def published_socket(identity: str, address: str) -> Iterator[socket.socket]:
    """Yield a listening socket that commands find until the end of the block.

    `address` is that of the service, such as http://127.0.0.1:8321. EngineError if there is no
    place for it.
    """
    path = socket_folder() / f"{_host()}-{identity}-{address.removeprefix('http://')}.sock"
    if len(os.fsencode(path)) > _LONGEST_PATH:
        raise EngineError(f"{path} is too long for a socket")
    running_sockets()  # which removes what services that were killed left behind
    # it appears under its name when it listens: one that does not would be taken for left behind
    hidden = path.with_name(f".{uuid.uuid4().hex[:8]}")
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as place:
        try:
            place.bind(str(hidden))
            place.listen(_BACKLOG)
            hidden.rename(path)
            own = path.lstat().st_ino
        except OSError as error:
            raise EngineError(f"{path} cannot be made: {error.strerror}") from error
        try:
            yield place
        finally:
            # not the one of a service that has taken the address since
            with contextlib.suppress(OSError):
                if path.lstat().st_ino == own:
                    path.unlink()


def _folders() -> list[Path]:
    """Return where sockets may be: in the runtime folder of the session, or in the cache."""
    folders: list[Path] = []
    if not hasattr(socket, "AF_UNIX"):
        return folders
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    if os.path.isabs(runtime) and os.path.isdir(runtime):
        folders.append(Path(runtime, "leadline"))
    with contextlib.suppress(RuntimeError):  # a user without a home
        folders.append(cache_home() / "sockets")
    return folders


def _is_private(folder: Path) -> bool:
    """Tell whether a folder, which is no link, is this user's alone."""
    try:
        state = folder.lstat()
    except OSError:
        return False
    is_own = hasattr(os, "geteuid") and state.st_uid == os.geteuid()
    return is_own and stat.S_ISDIR(state.st_mode) and not stat.S_IMODE(state.st_mode) & 0o077


def _started(path: Path) -> int | None:
    """Return when this user's service began to listen, in nanoseconds; None if none listens.

    Then its socket is removed.
    """
    with contextlib.suppress(OSError):
        state = path.lstat()
        if not stat.S_ISSOCK(state.st_mode) or state.st_uid != os.geteuid():
            return None
        try:
            with socket.socket(socket.AF_UNIX) as probe:
                probe.setblocking(False)
                probe.connect(str(path))
        except BlockingIOError:  # it listens, and has no room for one more
            pass
        except ConnectionRefusedError:
            if path.lstat().st_ino == state.st_ino:  # none has taken its address since
                path.unlink()
            return None
        return state.st_mtime_ns
    return None


def _host() -> str:
    """Return 8 hex digits of this machine's name: a home may be that of several machines."""
    return blake2b(socket.gethostname().encode(), digest_size=4).hexdigest()

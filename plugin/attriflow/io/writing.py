"""The one way to write a file: under a new name beside its place, then put there in one step.

Whatever goes wrong, a full disk included, an older file stays as it was and nothing is left behind. A file that exists
is replaced only when that was asked for; links, devices, pipes and sockets never are.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import stat
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from attriflow.errors import AttriflowError, InputError

ROOM = 4096
"""Bytes that a disk must still have room for when an output is announced."""

_NO_FILES = {
    stat.S_IFDIR: "a folder",
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def check_outputs(paths: Iterable[str | Path | None], overwrite: bool = False) -> None:
    """Find out, before the work, whether files can be written; nothing is left behind.

    Args:
        paths: The files; None for those that are not wanted. Folders that they need are made when they are written.
        overwrite: Whether files that exist may be replaced.

    Raises:
        InputError: One exists, is no regular file, is named twice, or its folder takes no files (permissions, a full
            disk).
    """
    wanted = [Path(path) for path in paths if path is not None]
    for i, path in enumerate(wanted):
        check_free(path, overwrite)
        if path in wanted[:i]:
            raise InputError(f"{path} is named for two outputs")
        with told(path):
            folder = next(parent for parent in (path.parent, *path.parent.parents) if os.path.lexists(parent))
            probe = _new_file(folder, path)
            try:
                probe.write_bytes(bytes(ROOM))
            finally:
                probe.unlink(missing_ok=True)


def check_free(path: str | Path, overwrite: bool) -> None:
    """Raise `InputError` for a file that exists, unless it may be replaced, and for what is no regular file."""
    with told(path):
        try:
            mode = os.lstat(path).st_mode
        except FileNotFoundError:
            return
    kind = _NO_FILES.get(stat.S_IFMT(mode))
    if kind is not None:
        raise InputError(f"{path} is {kind}, which is never replaced; expected the name of a file")
    if not overwrite:
        raise InputError(f"{path} exists already; pass overwrite=True (--overwrite) to replace it")


def write_with(function: Callable[[Path], Any], path: str | Path, *, overwrite: bool = False) -> Path:
    """Let a function write a file beside its place, and put it there when it is whole.

    The file gets the permissions that the umask leaves, whatever the function gives it.
    """
    path = Path(path)
    check_free(path, overwrite)
    with told(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = _new_file(path.parent, path)
        mode = stat.S_IMODE(temporary.stat().st_mode)
        try:
            function(temporary)
            temporary.chmod(mode)
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
            put(temporary, path, overwrite=overwrite)
        finally:
            temporary.unlink(missing_ok=True)
    return path


def write_content(content: str | bytes, path: str | Path, *, overwrite: bool = False) -> Path:
    """Write bytes, or a text as UTF-8 (see `write_with`)."""
    data = content.encode() if isinstance(content, str) else content
    return write_with(lambda free: free.write_bytes(data), path, overwrite=overwrite)


def put(temporary: Path, path: Path, *, overwrite: bool = False) -> None:
    """Give a file that is whole its name; one that appeared there meanwhile stays, unless it may be replaced."""
    if not overwrite:
        with contextlib.suppress(OSError):  # file systems without hard links
            os.link(temporary, path)
            temporary.unlink()
            return
    check_free(path, overwrite)
    temporary.replace(path)
    temporary.unlink(missing_ok=True)  # two names of one file, of a process killed right after `link`


def clear(path: Path) -> None:
    """Remove what killed processes left of a file, whose lock the caller holds."""
    for left in path.parent.glob(f"{_start(path)}*.tmp"):
        left.unlink(missing_ok=True)


def _start(path: Path) -> str:
    """How temporary names of a file begin; as long for a long name as for a short one."""
    return f".attriflow-{hashlib.blake2b(os.fsencode(path.name), digest_size=4).hexdigest()}-"


def _new_file(folder: Path, path: Path) -> Path:
    """An empty file for what will be `path`, under a name that nobody else has."""
    new = folder / f"{_start(path)}{secrets.token_hex(8)}.tmp"
    new.touch(exist_ok=False)
    return new


@contextlib.contextmanager
def told(path: str | Path) -> Iterator[None]:
    """Errors of the file system as one line that names the output."""
    try:
        yield
    except AttriflowError:
        raise
    except (OSError, ValueError) as error:  # ValueError: a name with a null character
        raise InputError(f"cannot write {path}: {getattr(error, 'strerror', None) or error}") from error

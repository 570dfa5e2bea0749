"""The journal of a run: its records so far as JSON lines, and how far it came.

`NAME.part` grows by one block of lines per window of rows. `NAME.state` says how many bytes of it count and what run
it belongs to; it is replaced in one step after the block is on the disk. Whatever a killed process left behind those
bytes is cut off by the next one, so every row is there once. The finished file appears in one step, too.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from attriflow.errors import InputError
from attriflow.io import check_outputs, files, lines, write_content
from attriflow.io.records import Record
from attriflow.io.writing import clear, put, told

_STATE = {"settings": dict, "rows": int, "failed": int, "bytes": int}

SETTINGS = "settings"
"""Entry of a file's first record: what the run depends on."""


class Journal:
    """What a run has written so far. As a context: `open`, then `commit` for every window, then `finish`."""

    def __init__(self, target: Path, settings: Mapping[str, Any], *, overwrite: bool = False) -> None:
        """Nothing is touched before `open`.

        Args:
            target: The finished file.
            settings: What the run depends on.
            overwrite: Begin anew over a finished file, or over what an interrupted run left.
        """
        self.target, self.settings = target, json.loads(json.dumps(settings, default=repr))
        self.part = target.with_name(target.name + ".part")
        self.state = target.with_name(target.name + ".state")
        text = json.dumps(self.settings, sort_keys=True)
        self.run = hashlib.blake2b(text.encode(), digest_size=6).hexdigest()
        self.rows = self.failed = self.size = 0
        self._file: Any = None
        self.overwrite = overwrite

    def open(self, resume: bool, finished: Callable[[Path], str | None]) -> bool:
        """Start, or go on where the last process stopped.

        Args:
            resume: Go on with what is there. Without it, an interrupted run is an error, not overwritten.
            finished: Reads the mark of the run that made a finished file.

        Returns:
            Whether there is anything to do: False when the finished file is there.

        Raises:
            InputError: What is there was made from other data or with other options, is damaged, or is in use.
        """
        before, existed = self._read_state(), self.target.exists()
        begun = before is not None and before["rows"] > 0  # a run that failed before its first row is none
        if before is not None and begun and resume:
            self._go_on(before)
        elif begun and not self.overwrite:
            raise InputError(
                f"{self.part} is from a run that was interrupted: pass --resume to go on with it, or --overwrite to "
                "begin anew"
            )
        there = resume and existed
        if there and finished(self.target) == self.run:
            if not (begun and self.part.exists()):
                self.state.unlink(missing_ok=True)  # killed between the last two steps of `finish`
                return False
            self.overwrite = True  # killed one step earlier
        elif there and not self.overwrite:
            what = self._changed(_settings_of(self.target)) or "it was made from other data or with other options"
            raise InputError(f"{self.target} is finished, but {what}")
        check_outputs([self.target], self.overwrite)
        check_outputs([self.part, self.state], overwrite=True)
        if before is None and self.part.exists() and self.part.stat().st_size:
            raise InputError(f"{self.part} is in the way, and not from a run of attriflow: choose another output")
        with told(self.part):
            self.target.parent.mkdir(parents=True, exist_ok=True)
            self._lock()
        if self._overtaken(before, existed):
            self.rows = self.failed = self.size = 0
            return self.open(resume, finished)
        found = self._file.seek(0, os.SEEK_END)
        if found < self.size:
            raise InputError(f"{self.part} is damaged: {found} bytes, where {self.state.name} says {self.size}")
        self._write_state()
        self._file.truncate(self.size)
        self._file.seek(self.size)
        return True

    def commit(self, block: Sequence[Record], rows: int, failed: int) -> None:
        """Write the records of the next `rows` rows; they are safe when this returns."""
        if not self.size and block:  # the finished file tells what it was made with
            block = [{**block[0], SETTINGS: self.settings}, *block[1:]]
        data = "".join(lines.line(record, self.run) for record in block).encode("utf-8")
        with told(self.part):
            self._file.write(data)
            self._file.flush()
            os.fsync(self._file.fileno())
        self.rows, self.failed, self.size = self.rows + rows, self.failed + failed, self.size + len(data)
        self._write_state()

    def records(self) -> Iterator[Record]:
        """What has been committed."""
        return lines.read(self.part)

    def finish(self, write: Callable[..., Any] | None) -> None:
        """Make the finished file: with `write(records, path, run, overwrite=...)`, or from the journal itself."""
        if write is None:
            with told(self.target):
                put(self.part, self.target, overwrite=self.overwrite)
        else:
            write(self.records(), self.target, self.run, overwrite=self.overwrite)
            self.part.unlink(missing_ok=True)
        self.state.unlink(missing_ok=True)  # a process that came to resume may have taken it away

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: object) -> None:
        if self._file is None:
            return
        if kind is not None and not self.rows:  # nothing that the corrected command would have to go on with
            self.part.unlink(missing_ok=True)
            self.state.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # what is in the file counts; a full disk was told of
            self._file.close()

    def _lock(self) -> None:
        file = self.part.open("ab+")
        with contextlib.suppress(ImportError):  # there is no fcntl on Windows
            import fcntl

            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                file.close()
                raise InputError(f"another process is writing {self.part}") from error
        self._file = file
        for path in (self.target, self.part, self.state):
            clear(path)

    def _overtaken(self, before: Mapping[str, Any] | None, existed: bool) -> bool:
        """Whether another process went on, or finished, between a look and the lock; then the lock is given up.

        Args:
            before: The state as it was read.
            existed: Whether the finished file was there.
        """
        try:
            same = os.path.samestat(os.fstat(self._file.fileno()), self.part.stat())
        except FileNotFoundError:
            same = False
        if same and (self._read_state(), self.target.exists()) == (before, existed):
            return False
        if same and not self.part.stat().st_size:
            self.part.unlink()  # made by the lock, where the other process had taken it away
        self._file.close()
        self._file = None
        return True

    def _read_state(self) -> dict[str, Any] | None:
        """What an earlier process wrote, if there was one."""
        if not self.state.exists():
            return None
        try:
            state = json.loads(self.state.read_text(encoding="utf-8"))
            return {name: kind(state[name]) for name, kind in _STATE.items()}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{self.state} is damaged; delete it and {self.part.name} to start again") from error

    def _go_on(self, state: Mapping[str, Any]) -> None:
        before, self.rows, self.failed, self.size = (state[name] for name in _STATE)
        if what := self._changed(before):
            raise InputError(f"cannot resume {self.target}: {what}")

    def _changed(self, before: Mapping[str, Any] | None) -> str:
        """What differs from the settings of another run; empty when nothing does, or they are not known."""
        names = sorted({*before, *self.settings}) if before is not None else []
        known = before or {}
        changed = [k for k in names if known.get(k) != self.settings.get(k)]
        return "; ".join(f"{k} was {_short(known.get(k))}, now {_short(self.settings.get(k))}" for k in changed)

    def _write_state(self) -> None:
        state = {"rows": self.rows, "failed": self.failed, "bytes": self.size, "settings": self.settings}
        write_content(json.dumps(state), self.state, overwrite=True)


def _settings_of(path: Path) -> Mapping[str, Any] | None:
    """The settings that a finished file was made with, where it tells."""
    try:
        found = next(files.read(path), {}).get(SETTINGS)
    except InputError:
        return None
    return found if isinstance(found, Mapping) else None


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 100 else f"{text[:97]}..."

"""A file that grows by whole blocks: what a killed process left behind the last one is cut off by the next process.

`NAME.part` has the blocks. `NAME.state` says how many bytes of it count and what they were made with; it is replaced in
one step after a block is on the disk.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attriflow.errors import InputError
from attriflow.io.writing import clear, told, write_content

_logger = logging.getLogger(__name__)


class Appended:
    """The file, what it depends on (`settings`), and numbers that are told beside its size (`counts`)."""

    def __init__(
        self,
        place: Path,
        settings: Mapping[str, Any],
        counts: tuple[str, ...] = (),
        rounding: Mapping[str, Any] | None = None,
    ) -> None:
        """Nothing is touched before it is opened.

        Args:
            place: The path without the endings.
            settings: What the blocks are made with.
            counts: Names of the numbers.
            rounding: What may change the last digit of numbers; where it has changed, going on says so.
        """
        self.part, self.state = (place.with_name(f"{place.name}.{ending}") for ending in ("part", "state"))
        self.settings, self.rounding = json.loads(json.dumps([settings, rounding or {}], default=repr))
        self.counts, self.size = dict.fromkeys(counts, 0), 0
        self._file: Any = None

    def read_state(self) -> dict[str, Any] | None:
        """What an earlier process wrote, if there was one: `settings`, `rounding`, `bytes` and the counts."""
        if not self.state.exists():
            return None
        try:
            state = json.loads(self.state.read_text(encoding="utf-8"))
            numbers = {name: int(state[name]) for name in (*self.counts, "bytes")}
            return {"settings": dict(state["settings"]), "rounding": dict(state.get("rounding", {})), **numbers}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{self.state} is damaged; delete it and {self.part.name} to start again") from error

    def go_on(self, state: Mapping[str, Any], what: object) -> None:
        """Take up what an earlier process wrote; `InputError` where it was made with other settings."""
        if differs := self.changed(state["settings"]):
            raise InputError(f"cannot resume {what}: {differs}")
        before, now = state["rounding"], self.rounding
        if before and now and before != now:
            _logger.warning(
                "%s goes on with %s, and began with %s: sums may be rounded differently, in their last digit. With "
                "OMP_NUM_THREADS=1 for every process, bytes are equal",
                *(what, *(", ".join(f"{k} {v}" for k, v in one.items()) for one in (now, before))),
            )
        self.counts, self.size = {name: state[name] for name in self.counts}, state["bytes"]

    def changed(self, before: Mapping[str, Any] | None) -> str:
        """What differs from the settings of another run; empty when nothing does, or they are not known."""
        names = sorted({*before, *self.settings}) if before is not None else []
        known = before or {}
        changed = [k for k in names if known.get(k) != self.settings.get(k)]
        return "; ".join(f"{k} was {_short(known.get(k))}, now {_short(self.settings.get(k))}" for k in changed)

    def begin(self, *others: Path) -> None:
        """Lock the file, clear up after killed processes (of `others`, too) and cut off what does not count."""
        self.lock(*others)
        self.start()

    def lock(self, *others: Path) -> None:
        """The first half of `begin`: nothing that was written is touched."""
        with told(self.part):
            self.part.parent.mkdir(parents=True, exist_ok=True)
            self._lock()
        for path in (*others, self.part, self.state):
            clear(path)

    def start(self) -> None:
        """The second half of `begin`."""
        found = self._file.seek(0, os.SEEK_END)
        if found < self.size:
            raise InputError(f"{self.part} is damaged: {found} bytes, where {self.state.name} says {self.size}")
        self._write_state()
        self._file.truncate(self.size)
        self._file.seek(self.size)

    def is_there(self) -> bool:
        """Whether the locked file still has its name: who finishes takes it away."""
        try:
            return os.path.samestat(os.fstat(self._file.fileno()), self.part.stat())
        except FileNotFoundError:
            return False

    def append(self, data: bytes, **more: int) -> None:
        """Write a block; it is safe when this returns. `more`: by how much the counts grow."""
        with told(self.part):
            self._file.write(data)
            self._file.flush()
            os.fsync(self._file.fileno())
        self.size += len(data)
        self.counts = {name: n + more.get(name, 0) for name, n in self.counts.items()}
        self._write_state()

    def remove(self) -> None:
        """Remove both files."""
        self.part.unlink(missing_ok=True)
        self.state.unlink(missing_ok=True)

    def close(self) -> None:
        """Give the lock back."""
        if self._file is not None:
            with contextlib.suppress(OSError):  # what is in the file counts; a full disk was told of
                self._file.close()
            self._file = None

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

    def _write_state(self) -> None:
        state = {**self.counts, "bytes": self.size, "settings": self.settings, "rounding": self.rounding}
        write_content(json.dumps(state), self.state, overwrite=True)


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 100 else f"{text[:97]}..."

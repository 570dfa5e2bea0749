"""The journal of a run: its records so far as JSON lines, and how far it came.

It grows by one block of lines per window of rows (see `attriflow.io.appended`), so every row is there once. The
finished file appears in one step, too.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from attriflow.errors import InputError
from attriflow.io import check_outputs, files, lines
from attriflow.io.appended import Appended
from attriflow.io.records import Record
from attriflow.io.writing import put, told

SETTINGS = "settings"
"""Entry of a file's first record: what the run depends on."""


class Journal(Appended):
    """What a run has written so far. As a context: `open`, then `commit` for every window, then `finish`."""

    def __init__(
        self,
        target: Path,
        settings: Mapping[str, Any],
        *,
        overwrite: bool = False,
        rounding: Mapping[str, Any] | None = None,
    ) -> None:
        """Nothing is touched before `open`.

        Args:
            target: The finished file.
            settings: What the run depends on.
            overwrite: Begin anew over a finished file, or over what an interrupted run left.
            rounding: See `Appended`.
        """
        super().__init__(target, settings, ("rows", "failed"), rounding)
        self.target, self.overwrite = target, overwrite
        text = json.dumps(self.settings, sort_keys=True)
        self.run = hashlib.blake2b(text.encode(), digest_size=6).hexdigest()

    @property
    def rows(self) -> int:
        """Rows that were committed."""
        return self.counts["rows"]

    @property
    def failed(self) -> int:
        """Those of them that failed."""
        return self.counts["failed"]

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
        before, existed = self.read_state(), self.target.exists()
        begun = before is not None and before["rows"] > 0  # a run that failed before its first row is none
        if before is not None and begun and resume:
            self.go_on(before, self.target)
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
            what = self.changed(_settings_of(self.target)) or "it was made from other data or with other options"
            raise InputError(f"{self.target} is finished, but {what}")
        check_outputs([self.target], self.overwrite)
        check_outputs([self.part, self.state], overwrite=True)
        if before is None and self.part.exists() and self.part.stat().st_size:
            raise InputError(f"{self.part} is in the way, and not from a run of attriflow: choose another output")
        self.lock(self.target)
        if self._overtaken(before, existed):
            self.counts, self.size = dict.fromkeys(self.counts, 0), 0
            return self.open(resume, finished)
        self.start()
        return True

    def commit(self, block: Sequence[str], rows: int, failed: int) -> None:
        """Write the lines of the next `rows` rows; they are safe when this returns."""
        if not self.size and block:  # the finished file tells what it was made with
            first = json.loads(block[0])
            first.pop("run")
            block = [lines.line({**first, SETTINGS: self.settings}, self.run), *block[1:]]
        self.append("".join(block).encode("utf-8"), rows=rows, failed=failed)

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
            self.remove()
        self.close()

    def _overtaken(self, before: Mapping[str, Any] | None, existed: bool) -> bool:
        """Whether another process went on, or finished, between a look and the lock; then the lock is given up.

        Args:
            before: The state as it was read.
            existed: Whether the finished file was there.
        """
        if self.is_there() and (self.read_state(), self.target.exists()) == (before, existed):
            return False
        if self.is_there() and not self.part.stat().st_size:
            self.part.unlink()  # made by the lock, where the other process had taken it away
        self.close()
        return True


def _settings_of(path: Path) -> Mapping[str, Any] | None:
    """The settings that a finished file was made with, where it tells."""
    try:
        found = next(files.read(path), {}).get(SETTINGS)
    except InputError:
        return None
    return found if isinstance(found, Mapping) else None

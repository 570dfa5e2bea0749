"""What the units of an evaluation found, in a folder: another process goes on where this one stopped.

A unit is a method (or the step functions, or explanations under changed conditions) and a block of examples. Its record
is one line of `units.part`, which counts once it is whole (see `attriflow.io.appended`). Its files are written before:
attributions (safetensors), and the scores of changed inputs that all methods share (npz). So every unit is there once,
or not at all, and memory is bounded by a block.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from attriflow import io
from attriflow.errors import AttriflowError, InputError
from attriflow.evaluation.results import ExampleValues
from attriflow.io.appended import Appended
from attriflow.types import Attribution

BLOCK = 64
"""Examples of a unit: the same for all engines, as it decides how numbers are rounded."""
NAME = "units"


class WorkError(AttriflowError):
    """What was found cannot be kept: a full disk, say."""


class Work:
    """The units that are done, in memory: only explanations are kept, as nobody else will ask.

    Attributes:
        lasting: Whether everything is kept, and read back rather than held.
        resumed: Units that an earlier process had done.
    """

    lasting = False

    def __init__(self) -> None:
        self.resumed = 0
        self._attributions: dict[str, Sequence[Attribution]] = {}

    def __contains__(self, unit: str) -> bool:
        return False

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def record(self, unit: str) -> dict[str, Any]:
        """What a unit found, as it was put."""
        raise KeyError(unit)

    def put(
        self,
        unit: str,
        record: Mapping[str, Any],
        attributions: Sequence[Attribution] | None = None,
        scores: Mapping[str, np.ndarray] | None = None,
    ) -> None:
        """Keep what a unit found; it is safe when this returns.

        Args:
            unit: Its name.
            record: Plain values.
            attributions: Of its examples.
            scores: Of changed inputs, see `VariantScorer.known`.
        """
        if attributions is not None:
            self._attributions[unit] = attributions

    def attributions(self, unit: str) -> Sequence[Attribution]:
        """Those of a unit."""
        return self._attributions[unit]

    def scores(self, unit: str) -> dict[str, np.ndarray]:
        """Scores of changed inputs that a unit added to those that methods share."""
        return {}

    def release(self) -> None:
        """Hold no explanations."""
        self._attributions = {}

    def close(self) -> None:
        """Let another process go on."""


class WorkFolder(Work):
    """The same in a folder."""

    lasting = True

    def __init__(
        self,
        folder: Path,
        settings: Mapping[str, Any],
        resume: bool = False,
        rounding: Mapping[str, Any] | None = None,
    ) -> None:
        """Start, or go on with what is there.

        Args:
            folder: Where; it may not exist yet.
            settings: What the units depend on.
            resume: There must be units of an earlier process, made with the same settings.
            rounding: See `Appended`.

        Raises:
            InputError: There are none, or what decides their numbers has changed, or another process is at it.
        """
        super().__init__()
        self.folder, self._places = folder, dict[str, tuple[int, int]]()
        self._file = Appended(folder / NAME, settings, ("units",), rounding)
        before = self._file.read_state() if resume else None
        if before is not None:
            self._file.go_on(before, "the evaluation")
        elif resume:
            raise InputError(f"there is no work of an evaluation in {folder}")
        self._file.begin()
        place = 0
        with self._file.part.open("rb") as lines:
            for line in lines:
                self._places[str(json.loads(line)["unit"])] = place, len(line)
                place += len(line)
        self.resumed = len(self._places)

    def __contains__(self, unit: str) -> bool:
        return unit in self._places

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def record(self, unit: str) -> dict[str, Any]:
        """What a unit found, as it was put."""
        place, length = self._places[unit]
        with self._file.part.open("rb") as lines:
            lines.seek(place)
            return dict(json.loads(lines.read(length)))

    def put(
        self,
        unit: str,
        record: Mapping[str, Any],
        attributions: Sequence[Attribution] | None = None,
        scores: Mapping[str, np.ndarray] | None = None,
    ) -> None:
        """Keep what a unit found, see `Work`."""
        line = (json.dumps({"unit": unit, **record}) + "\n").encode()
        try:
            if attributions is not None:
                io.save(attributions, self.path(unit), overwrite=True)
                self._attributions = {unit: attributions}  # one block is held
            kept = self.path(unit, ".npz")
            if scores:
                io.write_with(lambda path: _write(path, scores), kept, overwrite=True)
            else:
                kept.unlink(missing_ok=True)  # of an earlier try
            place = self._file.size, len(line)
            self._file.append(line, units=1)
        except InputError as error:
            raise WorkError(str(error)) from error
        self._places[unit] = place

    def attributions(self, unit: str) -> Sequence[Attribution]:
        """Those of a unit."""
        if unit not in self._attributions:
            self._attributions = {unit: io.load(self.path(unit))}
        return self._attributions[unit]

    def scores(self, unit: str) -> dict[str, np.ndarray]:
        """Scores of changed inputs that a unit added to those that methods share."""
        path = self.path(unit, ".npz")
        if not path.exists():
            return {}
        with np.load(path, allow_pickle=False) as found:
            return dict(found)

    def path(self, unit: str, ending: str = ".safetensors") -> Path:
        """A file of a unit."""
        return self.folder / f"{hashlib.blake2b(unit.encode(), digest_size=10).hexdigest()}{ending}"

    def close(self) -> None:
        """Let another process go on."""
        self._file.close()


def _write(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    with path.open("wb") as file:  # by a path numpy would choose its own ending
        np.savez(file, allow_pickle=False, **arrays)


def unit_of(kind: str, method: str, number: int | None = None) -> str:
    """The name of a unit: what is done, for which method, for which block (None: not by blocks)."""
    return f"{kind}/{method}" if number is None else f"{kind}/{method}/{number}"


def scored_record(
    values: Mapping[str, Sequence[ExampleValues]], failed: Mapping[str, Mapping[int, str]]
) -> dict[str, Any]:
    """Values of metrics per example, and where each failed, as a record."""
    plain = {
        name: [[v.values, list(v.skipped.items()), v.per_step, list(v.curves.items())] for v in examples]
        for name, examples in values.items()
    }
    return {"values": plain, "failed": {name: list(found.items()) for name, found in failed.items()}}


def scored_of(record: Mapping[str, Any]) -> tuple[dict[str, list[ExampleValues]], dict[str, dict[int, str]]]:
    """Back from a record, without curves."""
    failed = {name: dict(map(tuple, found)) for name, found in record["failed"].items()}
    return read_values(record["values"], curves=False), failed


def read_values(plain: Mapping[str, Any], curves: bool = True) -> dict[str, list[ExampleValues]]:
    """Values of metrics per example."""
    return {
        name: [
            ExampleValues(
                values=tuple(values),
                skipped=dict(map(tuple, skipped)),
                per_step=per_step,
                curves={step: tuple(map(tuple, curve)) for step, curve in known} if curves else {},
            )
            for values, skipped, per_step, known in examples
        ]
        for name, examples in plain.items()
    }


def read_seeded(plain: Any) -> list[dict[str, dict[int, float | None]]] | None:
    """`MethodResult.seeded`, whose examples JSON has as texts."""
    if plain is None:
        return None
    return [{name: {int(i): v for i, v in found.items()} for name, found in draw.items()} for draw in plain]

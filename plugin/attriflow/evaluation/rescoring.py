"""`rescore` for a whole data set: asked one explanation at a time, answered from packed batches and a cache."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from attriflow.errors import InputError
from attriflow.types import Example, Perturbation, Rescore, Variant

if TYPE_CHECKING:
    from attriflow.model import AttributionModel

Key = tuple[int, int, Perturbation, int, bytes]
CHUNK = 4096
"""Variants handed to the model at once: enough to fill batches, few enough to bound memory."""


class VariantScorer:
    """Scores changed inputs of a list of examples, each distinct change once.

    Changes that differ only where a step cannot see, or in special tokens (which always stay), are the same change.
    Those that do not depend on any explanation (nothing, one token or everything goes, or who asks says so) are kept
    for all methods. The others are forgotten by `release`, so memory stays bounded by one method on a few examples.

    Attributes:
        computed: Distinct changes scored so far.
        seconds: Time spent on them.
    """

    def __init__(
        self,
        model: AttributionModel,
        examples: Sequence[Example],
        *,
        attribute_target: bool = False,
        batch_size: int | None = None,
        chunk: int = CHUNK,
    ) -> None:
        self.model, self.examples = model, examples
        self.attribute_target, self.batch_size, self.chunk = attribute_target, batch_size, chunk
        self.computed, self.seconds = 0, 0.0
        self._shared: dict[Key, Tensor] = {}
        self._transient: dict[Key, Tensor] = {}
        self._layouts: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    def for_example(self, index: int) -> Rescore:
        """The `rescore` of one example."""

        def rescore(
            keep: Tensor, steps: Sequence[int] | None = None, *, how: Perturbation = "delete", draw: int = 0
        ) -> Tensor:
            if keep.ndim != 2 or (steps is not None and len(steps) != len(keep)):
                raise InputError(f"keep must be [variant, input] with one step per variant, not {tuple(keep.shape)}")
            rows = (keep if how == "soft" else keep.bool()).tolist()
            variants = [
                Variant(keep=tuple(row), step=None if steps is None else int(steps[i]), how=how, draw=draw)
                for i, row in enumerate(rows)
            ]
            values = self.scores((index, v) for v in variants)
            if not values:
                shape = (0, self.examples[index].n_steps) if steps is None else (0,)
                return torch.zeros(shape, dtype=torch.float64)
            return torch.stack(values) if steps is None else torch.cat(values)

        return rescore

    def prefetch(self, requests: Iterable[tuple[int, Variant]], *, shared: bool = False) -> None:
        """Compute what is not known yet, packed into full batches.

        Args:
            requests: (number of the example, change) pairs.
            shared: They do not depend on any explanation, so that every method will ask for them.
        """
        self._compute(((index, *self._canonical(index, variant)) for index, variant in requests), shared)

    def scores(self, requests: Iterable[tuple[int, Variant]]) -> list[Tensor]:
        """Log-probabilities per request: `[1]` for one step, `[step]` for all."""
        asked = [(index, *self._canonical(index, variant)) for index, variant in requests]
        self._compute(asked, shared=False)
        return [self._shared[k] if k in self._shared else self._transient[k] for _, k, _ in asked]

    def release(self) -> None:
        """Forget the scores of changes that depend on an explanation."""
        self._transient.clear()

    def known(self, since: int = 0) -> dict[str, np.ndarray]:
        """What is kept for all methods, but for the first `since` changes, as arrays; see `take`."""
        new = list(self._shared.items())[since:]
        if not new:
            return {}
        keys = [key for key, _ in new]
        return {
            "numbers": np.array([(index, step, draw, len(code)) for index, step, _, draw, code in keys]),
            "how": np.frombuffer(json.dumps([key[2] for key in keys]).encode(), dtype=np.uint8),
            "codes": np.frombuffer(b"".join(key[4] for key in keys), dtype=np.uint8),
            "sizes": np.array([len(value) for _, value in new]),
            "values": torch.cat([value for _, value in new]).numpy(),
        }

    def take(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Keep for all methods what `known` gave."""
        if not arrays:
            return
        codes, begin = arrays["codes"].tobytes(), 0
        hows = json.loads(arrays["how"].tobytes())
        values = torch.from_numpy(arrays["values"]).split(arrays["sizes"].tolist())
        for (index, step, draw, length), how, value in zip(arrays["numbers"].tolist(), hows, values, strict=True):
            self._shared[index, step, how, draw, codes[begin : begin + length]] = value
            begin += length

    @property
    def n_known(self) -> int:
        """Number of changes that are kept for all methods."""
        return len(self._shared)

    def forget(self) -> None:
        """Forget all scores."""
        self._shared.clear()
        self._transient.clear()

    def _compute(self, requests: Iterable[tuple[int, Key, Variant]], shared: bool) -> None:
        missing: dict[Key, tuple[int, Variant]] = {}
        for index, key, variant in requests:
            if key not in self._shared and key not in self._transient:
                missing[key] = (index, variant)
            if len(missing) >= self.chunk:
                self._run(missing, shared)
                missing = {}
        if missing:
            self._run(missing, shared)

    def _run(self, missing: dict[Key, tuple[int, Variant]], shared: bool) -> None:
        begin = time.perf_counter()
        values = self.model.rescore(
            self.examples,
            list(missing.values()),
            attribute_target=self.attribute_target,
            batch_size=self.batch_size,
        )
        self.computed += len(missing)
        for (key, (index, variant)), value in zip(missing.items(), values, strict=True):
            known = self._shared if shared or self._same_for_all(index, variant) else self._transient
            known[key] = value.detach().to("cpu", torch.float64)
        self.seconds += time.perf_counter() - begin

    def _same_for_all(self, index: int, variant: Variant) -> bool:
        """Whether every explanation leads to this change."""
        gone = variant.keep.count(0)
        if variant.how == "soft" and gone + variant.keep.count(1) < len(variant.keep):
            return False
        if gone <= 1 and variant.how != "soft":
            return True
        removable, position = self._layout(index)
        step = self.examples[index].n_steps - 1 if variant.step is None else variant.step
        return gone == int((removable & (position < self.examples[index].positions(step)[1] - 1)).sum())

    def _canonical(self, index: int, variant: Variant) -> tuple[Key, Variant]:
        removable, position = self._layout(index)
        if len(variant.keep) != len(removable):
            raise InputError(f"keep has {len(variant.keep)} inputs, the attribution has {len(removable)}")
        if variant.step is None and self.examples[index].n_steps == 1:
            variant = replace(variant, step=0)  # all of the steps, or the one that there is: the same answer
        soft = variant.how == "soft"
        keep = np.array(variant.keep, dtype=np.float32 if soft else bool)
        keep[~removable] = 1
        if variant.step is not None:
            # what lies beyond a step's prefix is cut anyway
            keep[position >= self.examples[index].positions(variant.step)[1] - 1] = 1
        draw = variant.draw if soft else 0
        code = keep.tobytes() if soft else np.packbits(keep).tobytes()
        key = (index, -1 if variant.step is None else variant.step, variant.how, draw, code)
        return key, replace(variant, keep=tuple(keep.tolist()), draw=draw)

    def _layout(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Which inputs can be removed, and each one's decoder position (negative: source, seen by all)."""
        if index not in self._layouts:
            example = self.examples[index]
            tokens = example.inputs(self.attribute_target)
            removable = np.array([not t.special for t in tokens], dtype=bool)
            self._layouts[index] = removable, np.arange(len(tokens)) - len(example.source)
        return self._layouts[index]

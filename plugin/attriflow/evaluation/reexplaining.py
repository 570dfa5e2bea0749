"""`reexplain` for a whole data set: asked one example at a time, answered for all of them at once."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import torch

from attriflow.errors import InputError
from attriflow.evaluation.changes import NotApplicableError, OtherTarget, noisy_embeddings, random_parameters
from attriflow.evaluation.selection import part_of
from attriflow.registry import methods
from attriflow.types import Attribution, Example, Reexplain

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from attriflow.model import AttributionModel

Explain = Callable[..., list[Attribution]]
"""`(method, examples, **settings)`, where settings are `seed` and `attributed_fn` if they change."""
KINDS = ({"seed"}, {"noise", "draw"}, {"randomise", "draw"}, {"other_target"})


class Reexplainer:
    """Has methods explain some of the examples again, each change once for all metrics that ask for it.

    Attributes:
        sample: Numbers of the examples that are explained again.
        explanations: Explanations made so far.
        seconds: Time spent on them.
    """

    def __init__(
        self,
        model: AttributionModel,
        examples: Sequence[Example],
        explain: Explain,
        *,
        sample: Sequence[int],
        seed: int = 0,
        other_target: Callable[[int], OtherTarget] | None = None,
        why_no_target: str = "",
    ) -> None:
        """Prepare.

        Args:
            model, examples: What is explained.
            explain: Explains examples as the evaluation does.
            sample: Numbers of the examples that may be asked for.
            seed: Of the evaluation.
            other_target: Makes the step function of the k-th other token (see `changes.target_function`).
            why_no_target: The reason why it is None.
        """
        self.model, self.examples, self.explain = model, examples, explain
        self.sample, self.seed, self.other_target, self.why_no_target = tuple(sample), seed, other_target, why_no_target
        self.explanations, self.seconds = 0, 0.0
        self._method = ""
        self._given: Sequence[Attribution] | Mapping[int, Attribution] = ()
        self._known: dict[tuple[tuple[str, Any], ...], dict[int, Attribution] | NotApplicableError] = {}
        self._draws: bool | None = None

    def start(self, method: str, given: Sequence[Attribution] | Mapping[int, Attribution]) -> None:
        """Turn to a method that has explained (at least) the sample; what is known of the one before is forgotten."""
        self._method, self._given, self._known, self._draws = method, given, {}, None

    def for_example(self, index: int) -> Reexplain:
        """The `reexplain` of one example."""

        def reexplain(**changes: Any) -> Attribution:
            if set(changes) not in KINDS:
                given, allowed = ", ".join(sorted(changes)), "; ".join(" with ".join(sorted(kind)) for kind in KINDS)
                raise InputError(f"reexplain cannot change {given or 'nothing'}. Allowed: {allowed}")
            key = tuple(sorted(changes.items()))
            if key not in self._known:
                self._known[key] = self._timed(changes)
            found = self._known[key]
            if isinstance(found, NotApplicableError):
                raise NotApplicableError(*found.args)
            return found[index]

        return reexplain

    def _timed(self, changes: dict[str, Any]) -> dict[int, Attribution] | NotApplicableError:
        begin = time.perf_counter()
        try:
            return dict(zip(self.sample, self._changed(changes), strict=True))
        except NotApplicableError as error:
            return NotApplicableError(*error.args)  # without the traceback, which would hold on to memory
        finally:
            self.seconds += time.perf_counter() - begin

    def _changed(self, changes: dict[str, Any]) -> list[Attribution]:
        if "seed" in changes:
            if not self._draws_numbers():
                return [self._given[i] for i in self.sample]
            return self._run(self.sample, seed=self._seed(changes["seed"]))
        if "other_target" in changes:
            if self.other_target is None:
                raise NotApplicableError(self.why_no_target)
            return self._run(self.sample, attributed_fn=self.other_target(changes["other_target"]))
        with self.model.lock, self._context(changes):
            return self._run(self.sample)

    def _context(self, changes: dict[str, Any]) -> AbstractContextManager[None]:
        if "noise" in changes:
            if not changes["noise"]:
                return nullcontext()
            return noisy_embeddings(self.model.wrapped, changes["noise"], changes["draw"])
        return random_parameters(self.model.model, changes["randomise"], changes["draw"])

    def _seed(self, number: int) -> int:
        return (self.seed + number) % 2**32

    def _draws_numbers(self) -> bool:
        """Whether the seed matters to the method.

        It says so itself (`deterministic=True`), or it is tried on the longest example, where samplers have most to
        leave out; both explanations are made anew, alone, as those of a batch may differ by rounding.
        """
        part = part_of(self._method)
        if self._draws is None and part in methods and methods.info(part).meta.get("deterministic"):
            self._draws = False
        if self._draws is None:
            longest = max(self.sample, key=lambda i: len(self.examples[i].source) + len(self.examples[i].target))
            one, other = (self._run([longest], seed=self._seed(k))[0].scores for k in (0, 1))
            self._draws = not torch.equal(one.nan_to_num(), other.nan_to_num())
        return self._draws

    def _run(self, indices: Sequence[int], **settings: Any) -> list[Attribution]:
        self.explanations += len(indices)
        return [_lean(a) for a in self.explain(self._method, [self.examples[i] for i in indices], **settings)]


def _lean(attribution: Attribution) -> Attribution:
    """Only what metrics compare: one score per step and token."""
    return attribution.replace(
        scores=attribution.token_scores(), axes=("step", "input"), norms=None, step_scores={}, sequence_scores={}
    )


def spread(n: int, at_most: int | None) -> list[int]:
    """Numbers of so many of `n` examples, evenly spread over the data set; all when None."""
    if at_most is None or at_most >= n:
        return list(range(n))
    return [i * n // at_most for i in range(at_most)]

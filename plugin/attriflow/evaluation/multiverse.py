"""The rows of all worlds: each explanation made once, reduced and scored in several ways."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from attriflow.evaluation.choices import AXES, Choices, Row, World, explained_as, scored_as
from attriflow.evaluation.results import MethodResult
from attriflow.evaluation.scoring import MetricRunner
from attriflow.evaluation.selection import part_of
from attriflow.registry import methods
from attriflow.types import Attribution

if TYPE_CHECKING:
    import pandas as pd

    from attriflow.evaluation.config import EvaluationConfig

AS_SET, NONE = "as set", "-"
_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Found:
    """A row: `values` are mean and number of examples with a value by metric, NaN where a metric does not apply."""

    status: str
    reason: str
    values: Mapping[str, tuple[float, float]]

    @classmethod
    def of(cls, result: MethodResult, names: Sequence[str], before: Found | None = None) -> Found:
        """What a method's result says about some metrics; `before` has the others."""
        means, counts = result.metrics, result.counts
        own = {
            name: (means.get(name, math.nan), float(counts.get(name, 0)) if result.applies(name) else math.nan)
            for name in names
        }
        problems = "; ".join(f"{m}: {why}" for m, why in result.problems.items() if m in names)
        return cls(result.status, result.reason or problems, {**(before.values if before else {}), **own})


class Multiverse:
    """Explains and scores, method by method.

    Attributes:
        choices: What is computed.
        found: Row -> what is known of it, of the methods so far.
    """

    def __init__(
        self,
        choices: Choices,
        config: EvaluationConfig,
        explain: Callable[..., list[Attribution]],
        scored: Callable[[Sequence[str], Mapping[str, Mapping[str, Any]]], MetricRunner],
        options: Mapping[str, Mapping[str, Any]],
    ) -> None:
        """Prepare.

        Args:
            choices: From `choices`.
            config: Checked settings.
            explain: `(method, **arguments)` explains the data.
            scored: `(metrics, options)` makes what computes metrics; all share the scores of changed inputs.
            options: Metric -> options as set.
        """
        self.choices, self.config, self._explain = choices, config, explain
        self.found: dict[Row, Found] = {}
        self._runners = {"": scored(choices.metrics, options)}
        for how in dict.fromkeys(world.perturbation for world in choices.worlds):
            if how:
                changed = scored_as(how, choices.metrics, options)
                self._runners[how] = scored(list(changed), changed)

    def add(self, result: MethodResult, explained: Sequence[Attribution]) -> None:
        """Compute the rows of a method that the evaluation has finished, and its explanations as set."""
        made = {("", ""): list(explained)}
        rows = [row for row in self.choices.rows if row.method == result.name]
        for row in sorted(rows, key=lambda row: bool(row.world.perturbation)):
            as_set = not result.ok or row.world == World()
            self.found[row] = Found.of(result, self.choices.metrics) if as_set else self._row(row, made)

    def told(self, method: str) -> list[Any]:
        """What is known of the rows of a method, as plain values; see `take`."""
        found = [self.found[row] for row in self.choices.rows if row.method == method]
        return [(f.status, f.reason, dict(f.values)) for f in found]

    def take(self, method: str, told: Sequence[Any]) -> None:
        """Know what `told` gave."""
        rows = [row for row in self.choices.rows if row.method == method]
        for row, (status, reason, values) in zip(rows, told, strict=True):
            self.found[row] = Found(status, reason, {name: (mean, n) for name, (mean, n) in values.items()})

    def _row(self, row: Row, made: dict[tuple[str, str], list[Attribution]]) -> Found:
        """A row of its own; `made` are the explanations of the method by baseline and objective."""
        plain = row.world.but(perturbation="")
        before = self.found.get(Row(row.method, plain))
        if before is not None and before.status == "failed":
            return before
        out, runner = MethodResult(name=row.method), self._runners[row.world.perturbation]
        try:
            out.attributions = self._explained(row.method, plain, made)
        except Exception as error:
            if self.config.fail_fast:
                raise
            _logger.debug("'%s' failed in %s", row.method, plain, exc_info=True)
            out.fail(error)
            return Found.of(out, self.choices.metrics)
        runner.score(out)
        return Found.of(out, list(runner.metrics), before)

    def _explained(
        self, method: str, world: World, made: dict[tuple[str, str], list[Attribution]]
    ) -> list[Attribution]:
        key = world.baseline, world.objective
        if key not in made:
            made[key] = self._explain(method, **explained_as(world.but(reduction="")))
        if not world.reduction:
            return made[key]
        norms = [a.norms for a in made[key]]
        if world.reduction == "norm" and all(n is not None for n in norms):
            return [a.replace(scores=n, norms=None) for a, n in zip(made[key], norms, strict=True)]
        return self._explain(method, **explained_as(world))

    def rows(self) -> pd.DataFrame:
        """One row per row that is known: `row`, `method`, `family`, the choices, `status`, `reason`, metrics, `NAME_n`.

        "-" is an option that a method does not have; `NAME_n` (examples with a value) is missing where a metric does
        not apply.
        """
        import pandas as pd

        known = [row for row in self.choices.rows if row in self.found]
        return pd.DataFrame([self._shown(number, row) for number, row in enumerate(known)])

    def worlds(self) -> pd.DataFrame:
        """One row per world and method that is known: `world`, the choices, `method`, `row` (see `rows`)."""
        import pandas as pd

        numbers = {row: i for i, row in enumerate(row for row in self.choices.rows if row in self.found)}
        rows = [
            {"world": i, **{a: v or AS_SET for a, v in world.by_axis.items()}, "method": r.method, "row": numbers[r]}
            for i, (world, rows) in enumerate(self.choices.worlds.items())
            for r in rows
            if r in numbers
        ]
        return pd.DataFrame(rows, columns=["world", *AXES, "method", "row"])

    def _shown(self, number: int, row: Row) -> dict[str, Any]:
        found, part = self.found[row], methods.info(part_of(row.method))
        options = {**part.options, **self.config.method_options.get(row.method, {})}
        as_set = {axis: str(options.get(axis, NONE)) for axis in ("reduction", "baseline")}
        return {
            "row": number,
            "method": row.method,
            "family": part.meta["family"],
            **{axis: value or as_set.get(axis, AS_SET) for axis, value in row.world.by_axis.items()},
            "status": found.status,
            "reason": found.reason,
            **{name: mean for name, (mean, _) in found.values.items()},
            **{f"{name}_n": n for name, (_, n) in found.values.items()},
        }

"""An evaluation that stops at any of its units and goes on in another process: the same numbers, nothing twice."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from evaluation_fakes import FakeModel

from attriflow.errors import InputError
from attriflow.evaluation import runner as running
from attriflow.evaluation.config import EvaluationConfig
from attriflow.evaluation.data import EvaluationData
from attriflow.evaluation.results import Finished
from attriflow.evaluation.runner import Evaluation
from attriflow.evaluation.tables import curves_table, scores_table, step_scores_table
from attriflow.evaluation.work import Work, WorkError, WorkFolder
from attriflow.registry import methods
from attriflow.types import Attribution

WORDS = "a b c d e f g".split()
DATA = EvaluationData(
    inputs=tuple(" ".join(WORDS[: 2 + i % 4]) for i in range(7)), targets=("x y", "z") * 3 + ("z",), rationales=None
)
SETTINGS = {
    "methods": ["first", "drawn", "broken", "again"],
    "metrics": ["deletion_auc", "taucorr_loo", "seed_variance", "aopc_compr"],
    "step_functions": ["entropy"],
    "reexplain_examples": 3,
    "throughput": False,
}


def broken(example: Any) -> torch.Tensor:
    raise ValueError("cannot explain this")


class Model(FakeModel):
    """Counts what is explained; `drawn` depends on the seed."""

    def __init__(self) -> None:
        super().__init__({"first": lambda e: torch.arange(len(e.target), 0, -1), "broken": broken})
        self.explain["again"] = self.explain["first"]
        self.explained: list[tuple[str, int, int]] = []

    def attribute_examples(
        self, examples: Sequence[Any], method: str, seed: int = 0, **options: Any
    ) -> list[Attribution]:
        if method == "drawn":
            self.explain["drawn"] = lambda e: torch.rand(
                len(e.target), generator=torch.Generator().manual_seed(seed + len(e.target))
            )
        self.explained.append((method, len(examples), seed))
        return super().attribute_examples(examples, method)


@pytest.fixture(autouse=True)
def parts(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Methods that exist for these tests only, and blocks of three examples."""
    monkeypatch.setattr(running, "BLOCK", 3)
    names = ("first", "drawn", "broken", "again")
    for name in names:
        methods.register(name, family="test")(lambda engine: None)
    yield
    for name in names:
        methods.unregister(name)


def evaluated(work: Work | None, **changes: Any) -> tuple[dict[str, Any], Model]:
    """Everything that an evaluation knows in the end."""
    model = Model()
    evaluation = Evaluation(model, DATA, EvaluationConfig.from_dict({**SETTINGS, **changes}), work)
    explanations = {}
    for event in evaluation.run():
        if isinstance(event, Finished) and event.result.ok:
            explanations[event.result.name] = [a.scores for a in evaluation.explanations(event.result.name)]
    facts = [
        (
            r.name,
            r.status,
            r.reason,
            r.family,
            dict(r.options),
            dict(r.facts),
            r.problems,
            r.failures,
            r.same_as,
            r.seeded,
        )
        for r in evaluation.results
    ]
    return {
        "facts": facts,
        "explanations": explanations,
        "scores": scores_table(evaluation.results, evaluation.examples),
        "curves": curves_table(evaluation.curves(), evaluation.examples),
        "steps": step_scores_table(evaluation.step_scores, evaluation.examples),
    }, model


def assert_same(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert found["facts"] == expected["facts"]
    for name in ("scores", "curves", "steps"):
        pd.testing.assert_frame_equal(found[name], expected[name], check_exact=True)
    assert list(found["explanations"]) == list(expected["explanations"])
    for name, scores in expected["explanations"].items():
        for one, other in zip(found["explanations"][name], scores, strict=True):
            assert torch.equal(one.nan_to_num(-7), other.nan_to_num(-7))


class Stopped(WorkFolder):
    """A folder whose process dies after some units."""

    left = 0

    def put(self, *arguments: Any, **more: Any) -> None:
        if not self.left:
            raise KeyboardInterrupt
        self.left -= 1
        super().put(*arguments, **more)


def test_a_folder_changes_no_number(tmp_path: Path) -> None:
    expected, _ = evaluated(None)
    assert len(expected["curves"]) and expected["facts"][2][1] == "failed" and expected["facts"][3][8] == "first"
    work = WorkFolder(tmp_path, {})
    found, _ = evaluated(work)
    assert_same(found, expected)
    assert {"steps", "explain/first/2", "score/again/0", "again/drawn", "failed/broken"} <= set(work)
    work.close()


def test_a_process_that_stops_at_any_unit_is_gone_on_with(tmp_path: Path) -> None:
    expected, _ = evaluated(None)
    n = 26
    for stop in (1, 8, 15, n - 1):
        for left in (stop, n):
            work = Stopped(tmp_path / str(stop), {"seed": 0}, left == n)
            work.left = left
            with contextlib.suppress(KeyboardInterrupt):
                found, _ = evaluated(work)
            work.close()
        assert_same(found, expected)
    again = WorkFolder(tmp_path / "8", {"seed": 0}, True)
    assert again.resumed == len(list(again)) == n
    last, model = evaluated(again)
    again.close()
    assert_same(last, expected)
    assert model.explained == [] and model.rescored == []


def test_what_decides_the_numbers_must_be_the_same(tmp_path: Path) -> None:
    WorkFolder(tmp_path, {"seed": 0, "weights": "abc"}).close()
    with pytest.raises(InputError, match=r"cannot resume the evaluation: seed was 0, now 1; weights was \"abc\""):
        WorkFolder(tmp_path, {"seed": 1, "weights": "abd"}, True)
    with pytest.raises(InputError, match="no work of an evaluation in"):
        WorkFolder(tmp_path / "other", {}, True)
    first = WorkFolder(tmp_path, {"seed": 0, "weights": "abc"}, True)
    with pytest.raises(InputError, match="another process is writing"):
        WorkFolder(tmp_path, {"seed": 0, "weights": "abc"}, True)
    first.close()


def test_a_line_that_was_cut_off_does_not_count(tmp_path: Path) -> None:
    work = WorkFolder(tmp_path, {})
    work.put("explain/m/0", {"a": 1.5})
    work.close()
    with (tmp_path / "units.part").open("a") as f:
        f.write(json.dumps({"unit": "explain/m/1"})[:10])
    again = WorkFolder(tmp_path, {}, True)
    assert list(again) == ["explain/m/0"] and again.record("explain/m/0") == {"unit": "explain/m/0", "a": 1.5}
    again.put("explain/m/1", {})
    again.close()
    last = WorkFolder(tmp_path, {}, True)
    assert list(last) == ["explain/m/0", "explain/m/1"]
    last.close()


def test_a_full_disk_is_not_the_methods_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    work = WorkFolder(tmp_path, {})

    def full(*arguments: Any, **more: Any) -> None:
        raise InputError("cannot write units: No space left on device")

    monkeypatch.setattr("attriflow.evaluation.work.io.save", full)
    with pytest.raises(WorkError, match="No space left"):
        evaluated(work)
    work.close()

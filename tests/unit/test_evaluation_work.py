"""An evaluation that stops at any of its units and goes on in another process: the same numbers, nothing twice."""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd
import pytest
import torch
from evaluation_fakes import FakeModel

from attriflow.errors import InputError
from attriflow.evaluation import blocks
from attriflow.evaluation import runner as running
from attriflow.evaluation.config import EvaluationConfig
from attriflow.evaluation.data import EvaluationData
from attriflow.evaluation.results import Finished
from attriflow.evaluation.runner import Evaluation
from attriflow.evaluation.tables import curves_table, scores_table, step_scores_table
from attriflow.evaluation.work import Work, WorkError, WorkFolder
from attriflow.registry import methods
from attriflow.streaming.journal import Journal
from attriflow.types import Attribution
from attriflow.workers import Done, dispatch, rounding, run_units
from attriflow.workers.dispatch import Answered, Dispatch, Ready
from attriflow.workers.units import do

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


def fragile(example: Any) -> torch.Tensor:
    """Fails on the fourth example, which is in the second block."""
    if example.input_text == "a b c d e":
        raise ValueError("too long for me")
    return torch.arange(len(example.target), 0, -1)


class Model(FakeModel):
    """Counts what is explained; `drawn` depends on the seed."""

    def __init__(self) -> None:
        super().__init__({"first": lambda e: torch.arange(len(e.target), 0, -1), "broken": broken, "fragile": fragile})
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
    names = ("first", "drawn", "broken", "again", "fragile")
    for name in names:
        methods.register(name, family="test")(lambda engine: None)
    yield
    for name in names:
        methods.unregister(name)


def evaluated(
    work: Work | None, elsewhere: Callable[[Evaluation], Mapping[str, float]] | None = None, **changes: Any
) -> tuple[dict[str, Any], Model]:
    """Everything that an evaluation knows in the end."""
    model = Model()
    evaluation = Evaluation(model, DATA, EvaluationConfig.from_dict({**SETTINGS, **changes}), work, elsewhere)
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


def test_rows_that_are_read_otherwise_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    work = Stopped(tmp_path, {})
    work.left = 3
    with pytest.raises(KeyboardInterrupt):
        evaluated(work)
    work.close()
    monkeypatch.setitem(globals(), "DATA", replace(DATA, inputs=DATA.inputs[::-1]))
    with pytest.raises(InputError, match="cannot resume the evaluation: its rows are tokenised or generated otherwise"):
        evaluated(work := WorkFolder(tmp_path, {}, True))
    work.close()


def test_other_threads_or_engines_go_on_and_say_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    here, threads = rounding("local", None), torch.get_num_threads()
    assert here == {"threads": threads}
    WorkFolder(tmp_path / "work", {}, rounding=here).close()
    WorkFolder(tmp_path / "work", {}, True, rounding=here).close()
    assert caplog.messages == []
    WorkFolder(tmp_path / "work", {}, True, rounding=rounding("processes", 2)).close()
    (said,) = caplog.messages
    assert said.startswith(
        f"the evaluation goes on with threads {threads}, engine processes, workers 2, and began with threads {threads}"
        ": sums may be rounded differently, in their last digit"
    )
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert rounding("processes", 2) == here  # every worker has one

    caplog.clear()
    for number in (1, 1, 2):  # the other user of such files
        with Journal(tmp_path / "out.jsonl", {}, rounding={"threads": number}) as journal:
            journal.open(True, lambda path: None)
            journal.commit(['{"row": 0, "run": 1}\n'], 1, 0)
    assert [m.partition(":")[0] for m in caplog.messages] == [
        f"{tmp_path / 'out.jsonl'} goes on with threads 2, and began with threads 1"
    ]


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


METHODS = ["fragile", *SETTINGS["methods"]]


@pytest.fixture
def fill(monkeypatch: pytest.MonkeyPatch) -> Callable[[Evaluation], Mapping[str, float]]:
    """Workers' work, in this process."""
    monkeypatch.setattr(blocks, "weights_digest", lambda model: "abc")
    return partial(blocks.fill, load=Model)


def test_workers_find_what_this_process_would(tmp_path: Path, fill: Any) -> None:
    expected, alone = evaluated(here := WorkFolder(tmp_path / "here", {}), methods=METHODS)
    work = WorkFolder(tmp_path / "there", {})
    found, model = evaluated(work, fill, methods=METHODS)
    assert_same(found, expected)
    assert found["facts"][0][1:3] == ("failed", "ValueError: too long for me")
    whole = {(name, n, 0): times for name in ("first", "drawn", "again") for n, times in ((3, 2), (1, 1))}
    assert Counter(alone.explained) - Counter(model.explained) == whole | {("fragile", 3, 0): 2, ("broken", 3, 0): 1}
    void = {f"score/{name}/{n}" for name in ("fragile", "broken") for n in (0, 2)}  # done again without these
    more = {*(f"failed/broken/{n}" for n in range(3)), "failed/fragile/1", "explain/fragile/2"}
    assert set(here) < set(work) and set(work) - set(here) == more | void
    for unit in here:  # also who asked first for what all methods share, which decides batches
        one, other = here.scores(unit), work.scores(unit)
        assert {k: v.tolist() for k, v in one.items()} == {k: v.tolist() for k, v in other.items()}
    assert work.scores("score/fragile/0") == {}
    here.close()
    work.close()


def test_a_driver_that_stops_goes_on(tmp_path: Path, fill: Any) -> None:
    expected, _ = evaluated(None, methods=METHODS)
    for stop in (12, 22):
        for left in (stop, 99):
            work = Stopped(tmp_path / str(stop), {}, left == 99)
            work.left = left
            with contextlib.suppress(KeyboardInterrupt):
                found, _ = evaluated(work, fill, methods=METHODS)
            work.close()
        assert_same(found, expected)


def test_blocks_that_lose_their_workers_are_told_and_the_others_kept(
    tmp_path: Path, fill: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = list[str]()

    def losing(factory: Any, units: Any, **options: Any) -> Iterator[Done]:
        units = list(units)
        asked.extend(unit.id for unit in units)
        yield from run_units(factory, [unit for unit in units if unit.id != "1"])
        yield from (Done(unit, None, "lost its worker 3 times: killed", "p", 0.0) for unit in units if unit.id == "1")

    with monkeypatch.context() as patched:
        patched.setattr(blocks, "run_units", losing)
        work = WorkFolder(tmp_path, {})
        with pytest.raises(InputError, match=r"^1 of 3 blocks .*'resume'.*: block 1 lost its worker 3 times: killed$"):
            evaluated(work, fill)
        work.close()
        with contextlib.suppress(InputError):
            evaluated(work := WorkFolder(tmp_path, {}, True), fill)
        work.close()
    assert asked == ["0", "1", "2", "1"]
    found, _ = evaluated(work := WorkFolder(tmp_path, {}, True), fill)
    work.close()
    assert_same(found, evaluated(None)[0])


class Small(Model):
    """The first `small` of them lack memory: for a method on some texts, or for every changed input."""

    made, small, what = 0, 0, "method"
    asked: ClassVar[list[int]] = []

    def __init__(self) -> None:
        super().__init__()
        Small.made += 1
        self.number, self.explain["fragile"] = Small.made, self.large

    def large(self, example: Any) -> torch.Tensor:
        if example.input_text == "a b" and self.what == "method":
            Small.asked.append(self.number)
            if self.number <= self.small:
                raise MemoryError("no room")
        return torch.arange(len(example.target), 0, -1)

    def rescore(self, *arguments: Any, **options: Any) -> list[torch.Tensor]:
        if self.what == "metric" and self.number <= self.small:
            raise torch.OutOfMemoryError("no room")
        return super().rescore(*arguments, **options)


class InTurn:
    """Workers in this process."""

    def __init__(self, factory: Any, n: int) -> None:
        self.factory, self.n, self.work, self.given = factory, n, dict[str, Any](), list[tuple[str, Any]]()
        self.loading = list[str]()

    def hire(self) -> str:
        self.loading.append(str(len(self.work)))
        self.work[self.loading[-1]] = self.factory()
        return self.loading[-1]

    def give(self, worker: str, payload: Any) -> None:
        self.given.append((worker, payload))

    def wait(self) -> list[Any]:
        found: list[Any] = [Ready(name, name) for name in self.loading]
        found += [Answered(name, do(self.work[name], payload)) for name, payload in self.given]
        self.loading, self.given = [], []
        return found

    def wanted(self) -> int:
        return self.n

    def waits_for_all(self) -> bool:
        return True

    def close(self) -> None:
        pass


@pytest.mark.parametrize("what", ["method", "metric"])
def test_a_block_for_which_a_worker_lacks_memory_is_tried_elsewhere(
    tmp_path: Path, fill: Any, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    monkeypatch.setattr(dispatch, "SHORT", 0.0)  # one unit at a time
    monkeypatch.setattr(Small, "what", what)

    def evaluated_by(n: int, small: int) -> dict[str, Any]:
        monkeypatch.setattr(Small, "made", 0)
        monkeypatch.setattr(Small, "small", small)
        monkeypatch.setattr(Small, "asked", [])
        monkeypatch.setattr(
            blocks, "run_units", lambda factory, units, **_: Dispatch(InTurn(factory, n), units, 3, False).run()
        )
        work = WorkFolder(tmp_path / f"{n} {small}", {})
        found, _ = evaluated(work, partial(fill, load=Small), methods=METHODS)
        work.close()
        return found

    expected = evaluated_by(2, 0)
    of_method = {fact[0]: fact[1:3] for fact in expected["facts"]}
    assert of_method["fragile"][0] == of_method["first"][0] != "failed"
    assert_same(evaluated_by(2, 1), expected)
    assert Small.asked.count(1) == (what == "method")
    found = evaluated_by(1, 1)
    if what == "metric":
        problems = {fact[0]: fact[6] for fact in found["facts"]}
        assert problems["first"]["deletion_auc"] == "OutOfMemoryError: no room"
    else:
        assert found["facts"][0][1:3] == ("failed", "MemoryError: no room")
        assert [fact[:8] for fact in found["facts"][1:]] == [fact[:8] for fact in expected["facts"][1:]]
        assert Small.asked == [1] * (3 + 1)  # for the next block, it is known that no other try would save the method


def test_workers_that_cannot_do_this_say_so(tmp_path: Path, fill: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    work = WorkFolder(tmp_path, {})
    with pytest.raises(InputError, match=r"^engine 'local' cannot send these settings: "):
        evaluated(work, fill, attributed_fn=lambda forward: forward.logits.sum(-1))
    monkeypatch.setattr(blocks, "weights_digest", lambda model: id(model))
    with pytest.raises(InputError, match=r"^a worker finds other weights under "):
        evaluated(work, fill)
    with pytest.raises(ValueError, match="cannot explain this"):
        monkeypatch.setattr(blocks, "weights_digest", lambda model: "abc")
        evaluated(work, fill, fail_fast=True)
    work.close()

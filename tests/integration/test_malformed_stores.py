"""Stores with runs of other people, versions and accidents: what is odd is named and left out, the rest is shown."""

from __future__ import annotations

import functools
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import strategies as st
from logged_evaluations import tables
from odd import NUMBERS, OUTCOMES, TEXTS, changed, damaged, fuzzed, told

from attriflow.tracking.artifacts import write_table
from attriflow.tracking.places import folders

# -- stores -----------------------------------------------------------------------------------------------------------


@functools.cache
def logged() -> tuple[Any, bytes]:
    """`leaderboard.json` and `scores.parquet` of an evaluation."""
    draws = np.random.default_rng(0)
    values = {m: {"aopc_compr": draws.random(4), "aopc_suff": draws.random(4)} for m in "ab"}
    board, scores = tables(values)
    with tempfile.TemporaryDirectory() as folder:
        write_table(board, Path(folder) / "leaderboard.json")
        write_table(scores, Path(folder) / "scores.parquet")
        found = json.loads((Path(folder) / "leaderboard.json").read_text())
        return found, (Path(folder) / "scores.parquet").read_bytes()


def run_of(board: Any, scores: bytes, folder: Path, number: int, tags: Any, params: Any) -> Any:
    """A run as MLflow's client tells it, with its files in a folder."""
    from types import SimpleNamespace

    from attriflow.tracking.evaluations import EvaluationRun

    place = folder / f"run{number}"
    place.mkdir()
    (place / "leaderboard.json").write_text(json.dumps(board))
    (place / "scores.parquet").write_bytes(scores)
    info = SimpleNamespace(
        run_id=f"r{number}", run_name="n", start_time=number, status="FINISHED", artifact_uri=str(place)
    )
    return EvaluationRun(SimpleNamespace(info=info, data=SimpleNamespace(tags=tags, params=params)))


TAGS = {
    "attriflow.device": "cpu", "attriflow.model_name": "m", "attriflow.inputs": "0123456789abcdef",
    "attriflow.weights": "w", "attriflow.data_name": "d", "attriflow.forward_equivalents": '{"a": [1.0, 2.0]}',
}  # fmt: skip
PARAMS = {
    "attriflow.methods": '["a", "b"]', "attriflow.method_options": '{"a": {"x": 1}}', "attriflow.seed": "0",
    "attriflow.attributed_fn": "probability", "attriflow.metric_options": "{}",
}  # fmt: skip


def texts_only(values: Any) -> dict[str, str]:
    """As MLflow has them."""
    found = values if isinstance(values, dict) else {}
    return {k: v if isinstance(v, str) else json.dumps(v) for k, v in found.items()}


BOARDS = st.deferred(lambda: changed(logged()[0]))
TABLES = st.deferred(lambda: damaged(logged()[1]))
ODD = st.one_of(
    st.tuples(BOARDS, st.none(), st.just(TAGS), st.just(PARAMS)),
    st.tuples(st.none(), TABLES, st.just(TAGS), st.just(PARAMS)),
    st.tuples(st.none(), st.none(), changed(TAGS), changed(PARAMS)),
    st.tuples(BOARDS, st.none(), changed(TAGS), changed(PARAMS)),
)


def gathered(odd: Any) -> Any:
    """What is compared of two runs, one of them odd: it counts, or is named and left out; the other one counts."""
    from attriflow.tracking.gathering import gather

    board, scores, tags, params = odd
    with tempfile.TemporaryDirectory() as folder:
        known = logged()
        good = run_of(*known, Path(folder), 1, TAGS, PARAMS)
        other = run_of(
            known[0] if board is None else board, known[1] if scores is None else scores, Path(folder), 2,
            texts_only(tags), texts_only(params),
        )  # fmt: skip
        notes: list[str] = []
        found = gather(folder, [other, good], notes=notes)
    OUTCOMES[not notes] += 1
    assert good in found.runs
    assert len(found.runs) + len(notes) == 2
    assert all(line.startswith("run r2 (n): left out, ") and "\n" not in line for line in notes)
    assert {"a", "b"} <= {str(name).partition(" ")[0] for name in found.cells["method"]}
    return found


@fuzzed(3, 80, ODD)
def test_odd_runs(odd: Any) -> None:
    gathered(odd)


@fuzzed(1, 8, ODD)
def test_leaderboards_over_odd_runs(odd: Any) -> None:
    from attriflow.statistics.standings import standings

    assert len(standings(gathered(odd), "both").rows) >= 2


@fuzzed(4, 60, st.lists(st.tuples(TEXTS, TEXTS, NUMBERS.map(float)), max_size=3))
def test_tables_of_scores(rows: Any) -> None:
    from attriflow.tracking.foreign import score_table

    frame = pd.DataFrame(rows, columns=["method", "metric", "value"]).assign(example=0)
    told(lambda: score_table(pa.Table.from_pandas(frame, preserve_index=False)))


@fuzzed(8, 300, BOARDS, changed(PARAMS))
def test_what_runs_tell(board: Any, params: Any) -> None:
    from attriflow.tracking.foreign import board_rows, cost_rounds, method_options, options_of_metrics

    told(lambda: board_rows(json.dumps(board)))
    given = texts_only(params)
    told(lambda: method_options(given.get("attriflow.methods", ""), given.get("attriflow.method_options", "")))
    for text in given.values():
        cost_rounds(text), options_of_metrics(text)


@pytest.mark.parametrize(
    ("tag", "known"),
    [
        ('["", "evaluations/b"]', ["", "evaluations/b"]),
        ('["../../x", "/etc", "evaluations/../x", "evaluations/..", 3, "evaluations/b/c"]', [""]),
        ('{"a": 1}', [""]),
        ("[" * 5000, [""]),
    ],
)
def test_folders_that_a_run_names_lie_in_it(tag, known):
    assert folders({"attriflow.evaluations": tag, "attriflow.device": "cpu"}) == known


@pytest.mark.parametrize("folder", ["../../x", "/etc", "evaluations/..", 3, None, ["x"]])
def test_claims_that_lie_outside_of_their_run(folder):
    claim = json.dumps({"folder": folder, "began": 1, "held": True})
    tags = {"attriflow.evaluations.x": claim, f"{folder}/attriflow.evaluation": "1"}
    assert folders(tags) == [] and folders(tags | {"attriflow.device": "cpu"}) == [""]
    good = json.dumps({"folder": "evaluations/b", "began": 1, "held": True})
    named = {"attriflow.evaluations.y": good, "evaluations/b/attriflow.evaluation": "2"}
    assert folders(tags | named) == ["evaluations/b"]
    older = {"attriflow.device": "cpu", "attriflow.model": "GPT2"}
    assert folders(named | older) == ["", "evaluations/b"]

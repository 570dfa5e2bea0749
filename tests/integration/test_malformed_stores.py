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
from hypothesis import strategies as st
from logged_evaluations import tables
from odd import NUMBERS, TEXTS, changed, damaged, fuzzed, told

from attriflow.tracking.artifacts import write_table

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


@fuzzed(6, 120, st.deferred(lambda: changed(logged()[0])), changed(TAGS), changed(PARAMS),
        st.deferred(lambda: st.one_of(st.just(logged()[1]), damaged(logged()[1]))), st.integers(0, 3))  # fmt: skip
def test_leaderboards_over_odd_runs(board: Any, tags: Any, params: Any, scores: bytes, which: int) -> None:
    """A run with something odd in it is shown, or named and left out; the other one is there."""
    from attriflow.statistics.standings import standings
    from attriflow.tracking.evaluations import read_all
    from attriflow.tracking.gathering import gather

    with tempfile.TemporaryDirectory() as folder:
        good = run_of(*logged(), Path(folder), 1, TAGS, PARAMS)
        odd = run_of(
            board if which in (0, 3) else logged()[0], scores if which == 1 else logged()[1], Path(folder), 2,
            texts_only(tags) if which in (2, 3) else TAGS, texts_only(params) if which in (2, 3) else PARAMS,
        )  # fmt: skip
        notes: list[str] = []
        runs, tables = read_all(folder, [odd, good], notes)
        assert good in runs
        assert len(runs) + len(notes) == 2
        assert all(line.startswith("run r2 (n): left out, ") and "\n" not in line for line in notes)
        for by in ("method", "both"):
            rows = standings(gather(runs, tables, notes=notes), by).rows
            assert {"a", "b"} <= {str(label).partition(" ")[0] for label in rows["method"]}


@fuzzed(4, 60, st.lists(st.tuples(TEXTS, TEXTS, NUMBERS), max_size=3))
def test_tables_of_scores(rows: Any) -> None:
    from attriflow.tracking.foreign import score_table

    frame = pd.DataFrame(rows, columns=["method", "metric", "value"]).assign(example=0)
    told(lambda: score_table(pa.Table.from_pandas(frame, preserve_index=False)))

"""Small parts of the tracking layer that need no store."""

from __future__ import annotations

import json
import logging
import os
import random
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest

from attriflow.tracking import places
from attriflow.tracking.artifacts import read_table, write_table
from attriflow.tracking.quiet import PROGRESS_BAR, no_artifact_bars, quiet
from attriflow.tracking.run_logger import key_of, text_of


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("saliency/aopc_compr", "saliency/aopc_compr"),
        ("my+method", "my_method"),
        ("größe", "größe"),
        ("x" * 300, "x" * 250),
    ],
)
def test_names_that_mlflow_accepts(name: str, key: str) -> None:
    from mlflow.utils.validation import _validate_metric_name

    assert key_of(name) == key
    _validate_metric_name(key_of(name))


def test_settings_as_text() -> None:
    assert text_of("auto") == "auto"
    assert text_of(None) == "null"
    assert text_of({"a": [1, 0.5], "b": "è"}) == '{"a": [1, 0.5], "b": "è"}'
    assert text_of({"f": len}).startswith('{"f": "<built-in')


@pytest.mark.parametrize("ending", ["json", "parquet"])
def test_tables_keep_texts_and_gaps(ending: str, tmp_path: Path) -> None:
    table = pd.DataFrame(
        {
            "example": [0, 1, 2],
            "token": ["007", "2024-01-01", "à\n\u2028"],
            "value": [1 / 3, float("nan"), 1e-12],
            "skipped": [None, "empty rationale", None],
        }
    )
    path = tmp_path / f"table.{ending}"
    write_table(table, path)
    back = read_table(path)
    assert back["token"].tolist() == table["token"].tolist()
    assert back["value"].tolist()[0] == pytest.approx(1 / 3, abs=1e-14)
    assert back["value"].isna().tolist() == [False, True, False]
    assert back["value"].tolist()[2] == pytest.approx(1e-12)
    assert back["skipped"].isna().tolist() == [True, False, True]


def test_quiet_leaves_everything_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PROGRESS_BAR, "true")
    import mlflow

    logger = logging.getLogger("mlflow")
    level = logger.level
    with pytest.raises(ZeroDivisionError), quiet():
        assert logger.level == logging.WARNING and os.environ[PROGRESS_BAR] == "false"
        _ = 1 / 0
    assert logger.level == level and os.environ[PROGRESS_BAR] == "true"
    monkeypatch.delenv(PROGRESS_BAR)
    with no_artifact_bars():
        pass
    assert PROGRESS_BAR not in os.environ
    assert mlflow.__version__


class TestPlaces:
    """Processes that choose a place in one run at the same moment."""

    class Store:
        """Tags of one run; every operation takes a moment in which others get their turn."""

        def __init__(self, tags=()):
            self.tags, self.random, self.steps = dict(tags), random.Random(0), 0

        def turn(self):
            self.steps += 1
            time.sleep(self.random.random() * 2e-3)

        def get_run(self, run_id):
            self.turn()
            found = SimpleNamespace(data=SimpleNamespace(tags=dict(self.tags)))
            self.turn()
            return found

        def set_tag(self, run_id, name, value):
            self.turn()
            self.tags[name] = value
            self.turn()

        def delete_tag(self, run_id, name):
            del self.tags[name]

    @staticmethod
    def claim(store, prefix="", identity="1"):
        return places.claim(store, lambda call: call(), "run", prefix, identity)

    def test_each_has_its_own(self, monkeypatch):
        monkeypatch.setattr(places, "PAUSE", 1e-3)
        for prefix in ["", "x/"] * 5:
            store = self.Store()
            with ThreadPoolExecutor(5) as pool:
                found = list(pool.map(lambda n: self.claim(store, prefix, str(n)), range(5)))  # noqa: B023
            assert len({place.folder for place in found}) == 5
            assert all(store.tags[place.claim[0]] == place.claim[1] for place in found) and len(store.tags) == 5

    def test_a_rival(self, monkeypatch):
        """Who claims the same place in the moment between the two looks: one that comes first, or has it, keeps it."""
        monkeypatch.setattr(places, "PAUSE", 0)
        for name, held, withdraws, expected in [
            ("0", False, False, "evaluations/2"),
            ("z", True, False, "evaluations/2"),
            ("z", False, True, ""),
            ("z", False, False, "evaluations/2"),  # it has died
        ]:
            store, write, read = self.Store(), self.Store.set_tag, self.Store.get_run
            rival = f"{places.EVALUATIONS}.{name}"

            def set_tag(run_id, name, value, rival=rival, held=held, store=store, write=write):
                write(store, run_id, name, value)
                store.tags.setdefault(rival, json.dumps({"folder": "", "began": 1, "held": held}))

            def get_run(run_id, rival=rival, withdraws=withdraws, store=store, read=read):
                if withdraws and store.steps > 9:
                    store.tags.pop(rival, None)
                return read(store, run_id)

            store.set_tag, store.get_run = set_tag, get_run
            assert self.claim(store).folder == expected, (name, held, withdraws)

    def test_the_same_evaluation(self):
        tags = {
            "attriflow.device": "cpu",
            "attriflow.model": "GPT2",
            "attriflow.evaluations.a": json.dumps({"folder": "evaluations/x", "began": 1, "held": True}),
            "evaluations/x/attriflow.evaluation": "1",
            "evaluations/x/attriflow.metric_prefix": "x/",
        }
        found = self.claim(self.Store(tags), "x/")
        assert (found.folder, found.again, found.ended, found.others) == ("evaluations/x", True, False, ("",))
        assert self.claim(self.Store(tags | {"evaluations/x/attriflow.ended": "yes"}), "x/").ended
        assert self.claim(self.Store(tags), "y/").folder == "evaluations/y"

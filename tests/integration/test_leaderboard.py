"""`attriflow leaderboard` over real MLflow stores."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pandas as pd
import pytest
from browser_support import in_browser, nameless, overflow, poor_contrasts
from logged_evaluations import copies, log_evaluation, numbers
from mlflow import MlflowClient

from attriflow.cli import main
from attriflow.tracking.artifacts import read_table

METHODS = {"occlusion": 0.9, "saliency": 0.6, "random": 0.1}


def run(*arguments: str) -> int:
    """Exit code of a command."""
    try:
        main(arguments)
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def fill(client: MlflowClient, experiment: str) -> dict[str, str]:
    """Two models, one of them evaluated twice with other numbers the first time; one method fails on one model."""
    values = {method: numbers(mean, i) for i, (method, mean) in enumerate(METHODS.items())}
    worse = {method: numbers(mean - 0.05, 10 + i) for i, (method, mean) in enumerate(METHODS.items())}
    costs = {"occlusion": 20.0, "saliency": 3.0, "random": 0.0}
    old = log_evaluation(client, experiment, "good", worse)
    time.sleep(0.002)  # stores order runs by milliseconds
    first = log_evaluation(client, experiment, "good", {**values, "deeplift": numbers(0.5, 7)}, costs=costs)
    second = log_evaluation(client, experiment, "bad", {**worse, "deeplift": "no rule for <this> activation"})
    return {"old": old, "good": first, "bad": second}


@pytest.fixture
def filled(store: str) -> tuple[str, dict[str, str]]:
    """The store with those runs."""
    client = MlflowClient(store)
    return store, fill(client, client.get_experiment_by_name("test").experiment_id)


@pytest.mark.parametrize(
    ("by", "rows"),
    [("method", 4), pytest.param("model", 2, marks=pytest.mark.slow), pytest.param("both", 8, marks=pytest.mark.slow)],
)
def test_everything_is_written_and_logged(filled, by, rows, tmp_path, capsys):
    store, runs = filled
    files = [str(tmp_path / f"board.{suffix}") for suffix in ("html", "csv", "md", "json", "png")]
    arguments = ["-e", "test", "--tracking-uri", store, "--by", by, "--output", *files, "--log-to", runs["good"]]
    assert run("leaderboard", *arguments) == 0, capsys.readouterr().err
    printed = capsys.readouterr().out
    assert "1 of 3 runs do not count" in printed and "wins" in printed
    table = pd.read_csv(tmp_path / "board.csv")
    assert len(table) == rows
    content = json.loads((tmp_path / "board.json").read_text())
    assert {row["id"] for row in content["runs"]} == set(runs.values())
    assert any("no rule for <this>" in f["reason"] for f in content["failures"])
    page = (tmp_path / "board.html").read_text()
    assert "no rule for &lt;this&gt; activation" in page and "no rule for <this>" not in page
    assert page.count("data:image/png") == sum(1 for _ in tmp_path.glob("board*.png"))
    client = MlflowClient(store)
    logged = {Path(a.path).name for a in client.list_artifacts(runs["good"], f"leaderboard/{by}")}
    assert {"leaderboard.html", "leaderboard.csv", "leaderboard.md", "leaderboard.json"} <= logged
    assert any(name.startswith("critical_differences") for name in logged)
    assert "leaderboard.json" in {a.path for a in client.list_artifacts(runs["good"])}  # the run's own is still there


def test_the_latest_counts_and_numbers_are_those_logged(filled, tmp_path):
    store, _ = filled
    assert run("leaderboard", "-e", "test", "--tracking-uri", store, "--by", "both", "-o", str(tmp_path / "x.csv")) == 0
    table = pd.read_csv(tmp_path / "x.csv").set_index(["model", "method"])
    assert table.loc[("good", "occlusion"), "aopc_compr"] == pytest.approx(numbers(0.9, 0)["aopc_compr"].mean())
    assert table.loc[("bad", "saliency"), "aopc_suff"] == pytest.approx(numbers(0.55, 11)["aopc_suff"].mean())
    assert table.loc[("good", "occlusion"), "forward_equivalents"] == 20
    assert table.loc[("bad", "deeplift"), "status"] == "failed"


def test_runs_by_id_and_other_options_are_rows_of_their_own(store, tmp_path, capsys):
    client = MlflowClient(store)
    experiment = client.get_experiment_by_name("test").experiment_id
    ids = [
        log_evaluation(client, experiment, "m", {"lime": numbers(mean, i)}, options={"lime": {"n_samples": n}}, seed=s)
        for i, (mean, n, s) in enumerate([(0.3, 10, 0), (0.5, 10, 1), (0.9, 99, 0)])
    ]
    target = str(tmp_path / "x.csv")
    assert run("leaderboard", "--runs", *ids, "--tracking-uri", store, "-o", target) == 0, capsys.readouterr().err
    table = pd.read_csv(target).set_index("label")
    assert list(table.index) == ["lime (n_samples=99)", "lime (n_samples=10)"]
    both = (numbers(0.3, 0)["aopc_compr"].mean() + numbers(0.5, 1)["aopc_compr"].mean()) / 2
    assert table.loc["lime (n_samples=10)", "aopc_compr"] == pytest.approx(both)  # mean over seeds
    assert table.loc["lime (n_samples=10)", "aopc_compr_n"] == 16  # which are no more examples


def test_twins_and_own_metrics_are_those_of_the_evaluation(store, tmp_path, capsys):
    """One evaluation has the same ranks and gains on the store's board as on its own."""
    client = MlflowClient(store)
    values = {
        "saliency": numbers(0.3, 1),
        "occlusion": numbers(0.9, 0),
        "lime": numbers(0.6, 3),
        "random": numbers(0, 2),
    }
    values["feature_ablation"] = values["occlusion"]
    run_id = log_evaluation(
        client,
        client.get_experiment_by_name("test").experiment_id,
        "m",
        values,
        alike={"feature_ablation": "occlusion"},
        own={"lime": ["aopc_suff"]},
    )
    path = client.download_artifacts(run_id, "leaderboard.json", str(tmp_path))
    own = read_table(path).set_index("method")
    target = str(tmp_path / "x.csv")
    assert run("leaderboard", "--runs", run_id, "--tracking-uri", store, "-o", target) == 0, capsys.readouterr().err
    table = pd.read_csv(target).set_index("label").loc[own.index]
    assert own["rank"].tolist() == table["rank"].tolist() == [1, 1, 2, 3, 4]
    assert table["same_as"].dropna().to_dict() == {"feature_ablation": "occlusion"}
    assert table["places_gained"].dropna().to_dict() == own["places_gained"].dropna().to_dict() == {"lime": 0}
    assert table.loc["lime", "scored_by_own"] == "aopc_suff"
    assert "occlusion = feature_ablation" in capsys.readouterr().out


def test_versions_of_a_model_stand_side_by_side_and_runs_of_one_evaluation_are_joined(store, tmp_path, capsys):
    client = MlflowClient(store)
    experiment = client.get_experiment_by_name("test").experiment_id

    def logged(weights, mean, metrics, **tags):
        time.sleep(0.002)
        values = {m: {k: numbers(x + mean, i)[k] for k in metrics} for i, (m, x) in enumerate(METHODS.items())}
        return log_evaluation(client, experiment, "m", values, tags={"weights": weights, "targets": "t", **tags})

    logged("old", 0.0, ["aopc_compr"])
    logged("new", -0.05, ["aopc_compr", "aopc_suff"])
    logged("old", 0.02, ["aopc_suff"])
    logged("old", -0.09, ["aopc_compr", "aopc_suff"], targets="others")
    target = str(tmp_path / "x.csv")
    assert run("leaderboard", "-e", "test", "--tracking-uri", store, "--by", "both", "-o", target) == 0
    assert "do not count" not in capsys.readouterr().out
    table = pd.read_csv(target)
    assert len(table) == 9
    first = table[table["method"] == "occlusion"].set_index(["model", "aopc_compr"])
    means = {mean: float(numbers(0.9 + mean, 0)["aopc_compr"].mean()) for mean in (0.0, -0.05, -0.09)}
    found = {model: [c for m, c in first.index if m == model] for model in ("m (version 1)", "m (version 2)")}
    assert found["m (version 2)"] == pytest.approx([means[-0.05]])
    assert sorted(found["m (version 1)"]) == pytest.approx(sorted([means[0.0], means[-0.09]]))
    joined = first["aopc_suff"].tolist()
    assert numbers(0.92, 0)["aopc_suff"].mean() in [pytest.approx(v) for v in joined]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("-e", "tset"), "unknown experiment 'tset'; did you mean 'test'?"),
        (("-e", "test"), "no finished evaluations by attriflow in test"),
        (("--runs", "0" * 32), "cannot read the MLflow store"),
        ((), "name an experiment (--experiment) or runs (--runs)"),
        (("-e", "test", "--by", "modle"), "did you mean 'model'"),
        (("-e", "test", "-o", "board.xls"), "expected one of html, csv, md, json, png"),
    ],
)
def test_mistakes_are_one_line(store, arguments, message, capsys):
    assert run("leaderboard", *arguments, "--tracking-uri", store) == 1
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def odd_runs(client: MlflowClient, experiment: str) -> dict[str, str]:
    """One run of every kind that is none of a finished evaluation."""

    def one(model: str) -> str:
        return log_evaluation(client, experiment, model, {"occlusion": numbers(0.9, 0)})

    out = {name: one(name) for name in ("no json", "no scores", "no options", "running", "failed")}
    client.log_text(out["no json"], "{", "leaderboard.json")
    client.log_text(out["no scores"], "a,b", "scores.parquet")
    client.update_run(out["running"], status="RUNNING")
    client.update_run(out["failed"], status="FAILED")
    client.set_tag(out["failed"], "attriflow.stopped", "told to stop (SIGTERM)")
    out["foreign"] = client.create_run(experiment, run_name="training").info.run_id
    client.set_terminated(out["foreign"])
    out["no options"] = client.create_run(experiment, tags={"attriflow.device": "cpu"}).info.run_id
    client.set_terminated(out["no options"])
    return out


WHY = {
    "no json": "left out, leaderboard.json is not JSON",
    "no scores": "left out, cannot read scores.parquet",
    "no options": "left out, its param attriflow.methods is no list of names",
    "running": "left out, it is RUNNING",
    "failed": "left out, it is FAILED (told to stop (SIGTERM))",
    "foreign": "left out, it is no evaluation by attriflow",
}


def test_runs_that_do_not_count_are_named_and_the_rest_is_shown(filled, tmp_path, capsys):
    store, ids = filled
    client = MlflowClient(store)
    odd = odd_runs(client, client.get_experiment_by_name("test").experiment_id)
    target = tmp_path / "x.csv"
    assert run("leaderboard", "-e", "test", "--tracking-uri", store, "-o", str(target)) == 0
    printed = " ".join(capsys.readouterr().out.split())
    for name, reason in WHY.items():
        assert f"run {odd[name]} " in printed
        assert reason in printed, name
    assert not [i for i in ids.values() if f"run {i} (" in printed]
    assert set(pd.read_csv(target)["label"]) == {*METHODS, "deeplift"}
    # by its id a run counts whatever its status, which is said
    assert run("leaderboard", "--runs", odd["failed"], odd["foreign"], "--tracking-uri", store) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert f"run {odd['failed']} " in printed and "it is FAILED" in printed and WHY["foreign"] in printed
    for name in ("no json", "no scores", "no options", "foreign"):
        assert run("leaderboard", "--runs", odd[name], "--tracking-uri", store) == 1
        error = capsys.readouterr().err
        assert error.startswith("error: no evaluation can be compared: run ") and len(error.splitlines()) == 1
        assert run("check", "--baseline-run", ids["good"], "--run", odd[name], "--tracking-uri", store) == 2
        assert len(capsys.readouterr().err.splitlines()) == 1


def test_a_store_that_is_not_there_is_not_created(tmp_path, capsys):
    assert run("leaderboard", "-e", "x", "--tracking-uri", f"sqlite:///{tmp_path / 'no.db'}") == 1
    assert "does not exist" in capsys.readouterr().err and not (tmp_path / "no.db").exists()


@pytest.mark.slow
def test_a_folder_as_store(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # what newer versions of MLflow want to be told
    client = MlflowClient(str(tmp_path / "runs"))
    fill(client, client.create_experiment("test"))
    target = str(tmp_path / "x.csv")
    code = run("leaderboard", "-e", "test", "--tracking-uri", str(tmp_path / "runs"), "-o", target)
    assert code == 0, capsys.readouterr().err
    assert len(pd.read_csv(target)) == 4


@pytest.mark.slow
def test_500_runs_in_ten_seconds(store, tmp_path, capsys):
    client = MlflowClient(store)
    experiment = client.get_experiment_by_name("test").experiment_id
    first = log_evaluation(client, experiment, "m0", {m: numbers(x, 0) for m, x in METHODS.items()})
    many = {f"{i:032x}": (f"m{i}", {m: numbers(x + 0.0002 * i, i) for m, x in METHODS.items()}) for i in range(1, 500)}
    copies(tmp_path / "mlflow.db", first, many)
    begin = time.process_time()  # of this process: other programs share the machine
    arguments = ("-e", "test", "--tracking-uri", store, "-o", str(tmp_path / "x.html"), str(tmp_path / "x.csv"))
    assert run("leaderboard", *arguments) == 0, capsys.readouterr().err
    assert time.process_time() - begin < 10
    table = pd.read_csv(tmp_path / "x.csv").set_index("label")
    assert table["blocks"].tolist() == [500] * 3
    expected = sum(numbers(0.9 + 0.0002 * i, i)["aopc_compr"].mean() for i in range(500)) / 500
    assert table.loc["occlusion", "aopc_compr"] == pytest.approx(expected)


class TestPage:
    """The page in a real browser."""

    pytestmark = in_browser

    @pytest.fixture(params=[1280, 390])
    def page(self, request, visit, filled, tmp_path):
        store, _ = filled
        assert (
            run("leaderboard", "-e", "test", "--tracking-uri", store, "--by", "both", "-o", str(tmp_path / "x.html"))
            == 0
        )
        return visit(tmp_path / "x.html", request.param)

    def test_it_sorts_fits_and_can_be_read(self, page):
        names = page.locator("#leaderboard table.board").first.locator("tbody th bdi")
        assert names.all_inner_texts()[:3] == ["occlusion", "saliency", "random"]  # of the model that was first
        head = page.locator("#leaderboard table.board").first.locator("thead tr").last.locator("th", has_text="compr")
        head.locator("button").click()
        assert head.get_attribute("aria-sort") == "descending"
        values = page.locator("#leaderboard table.board").first.locator("tbody tr:not(.failed)")
        place = head.evaluate("e => e.cellIndex")
        shown = [float(v) for v in values.evaluate_all(f"rows => rows.map(r => r.cells[{place}].dataset.sort)")]
        assert shown == sorted(shown, reverse=True) and len(shown) == 7
        assert "no rule for <this> activation" in page.locator("tr.failed").inner_text()
        for tab in ("leaderboard", "comparisons", "costs", "failures", "runs"):
            page.locator(f"[data-tab={tab}]").click()
            for scheme in ("light", "dark"):
                page.emulate_media(color_scheme=scheme)
                assert overflow(page) <= 0, tab
                assert poor_contrasts(page) == [], tab
                assert nameless(page) == [], tab
        assert page.locator("#comparisons .matrix").count() == 2
        assert page.locator("img").evaluate_all("all => all.every(one => one.naturalWidth > 0)")

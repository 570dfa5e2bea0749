"""Every recipe runs and does what it says."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from fresh import run_fresh

import attriflow

RECIPES = Path(__file__).resolve().parents[2] / "recipes"
DOCS = RECIPES.parent / "docs"
sys.path.append(str(RECIPES))
import make_pictures  # noqa: E402
import make_screenshots  # noqa: E402
import plot_convergence  # noqa: E402
import real_models  # noqa: E402

pytestmark = pytest.mark.slow


def run(folder: Path, *arguments: str) -> str:
    done = run_fresh(RECIPES / arguments[0], folder, *arguments[1:])
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_quickstart(tmp_path):
    printed = run(tmp_path, "quickstart.py")
    assert "'rossa' depends most on 'red'" in printed
    assert attriflow.load(tmp_path / "quickstart-output" / "attributions.safetensors")[0].targets[-2].text == "rossa"
    assert "rossa" in (tmp_path / "quickstart-output" / "attributions.html").read_text(encoding="utf-8")


def test_contrastive(tmp_path):
    printed = run(tmp_path, "contrastive.py")
    assert "occlusion: 'house' speaks most for 'rossa' against 'rosso'" in printed
    assert "rosso" in (tmp_path / "contrastive-output" / "contrast.html").read_text(encoding="utf-8")


def test_context_reliance(tmp_path):
    printed = run(tmp_path, "context_reliance.py", "--examples", "10", "--out", "table.md")
    assert printed.count("occlusion") == 4
    assert "`kl_divergence`" in (tmp_path / "table.md").read_text(encoding="utf-8")


def test_planted_evidence(tmp_path):
    printed = run(
        tmp_path,
        "planted_evidence.py",
        "--examples",
        "6",
        "--methods",
        "deeplift,random,input_x_gradient.norm",
        "--out",
        "table.md",
    )
    rows = {
        line.split("|")[1].strip(): line.split("|")[2:-1] for line in printed.splitlines() if line.startswith("| `")
    }
    assert [float(cell.split()[0]) for cell in rows["`deeplift`"]] == [1.0] * 5
    assert all(float(cell.split()[0]) < 0.5 for cell in rows["`random`"])
    assert (tmp_path / "table.md").read_text(encoding="utf-8").strip() in printed


def test_planted_hops(tmp_path):
    printed = run(tmp_path, "planted_hops.py", "--examples", "2", "--methods", "occlusion")
    (row,) = (line for line in printed.splitlines() if line.startswith("| `"))
    cells = [tuple(map(float, cell.split("→"))) for cell in row.split("|")[2:-1]]
    assert all(hopped == 1 > direct for direct, hopped in cells[:-1]) and cells[-1] == (1, 1)


@pytest.mark.sweep  # tests/integration/test_bad_explainers.py looks at more of it
def test_bad_explainers(tmp_path):
    printed = run(tmp_path, "bad_explainers.py", "--examples", "12", "--out", "table.md")
    marks, gates = printed.strip().split("\n\n")[-2:]
    counts = marks.splitlines()[-1].split("|")[4:-1]
    assert all(int(n) >= 10 for n in counts)
    assert (tmp_path / "table.md").read_text(encoding="utf-8").strip() in printed

    ranked = [line for line in gates.splitlines()[2:] if "| ok |" in line]
    assert len(ranked) == 1 and "`occlusion` | 1.00" in ranked[0]


def test_what_boards_of_the_real_models_once_ranked():
    """Of two metrics, one does not apply to two of the four rows: they share its last places, 3 and 4."""
    board = pd.DataFrame(
        {
            "method": ["a", "b", "a.norm", "c", "random_unsigned", "random", "position"],
            "directions": "x: higher, y: lower",
            "x": [0.9, 0.8, 1.0, 0.7, 0.1, 0.0, 2.0],
            "y": [0.2, np.nan, 0.0, 0.1, np.nan, np.nan, np.nan],
            "rank": [1.5, 2.0, 1.0, 2.5, np.nan, np.nan, np.nan],
            "rank (removal)": [1.0, 2.0, 1.0, 3.0, np.nan, np.nan, np.nan],
            "gates_failed": ["", "", "", "", "randomisation (1.00)", "", ""],
            "same_as": ["", "", "", "a", "", "", ""],
            "status": ["ok", "ok", "ok", "ok", "gated", "gated", "gated"],
            "reason": "",
        }
    )
    assert real_models.before(board).to_dict() == {"a": 1.5, "b": 2.75, "c": 2.0, "random_unsigned": 3.75}
    redundancy = pd.DataFrame({"first": ["x"], "second": ["y"], "effective_number": [1.5]})
    lines = real_models.board(board, redundancy).splitlines()
    assert lines[2] == "| `a` | 1.5 | 1.5 | 1.0 |  |" and lines[4] == "| `a.norm` | - | 1.0 | 1.0 |  |"
    assert lines[5] == "| `c` | 2.0 | 2.5 | 3.0 | explains as a |" and lines[-1] == "2 metrics, in effect 1.5."


def test_rows_of_the_real_models():
    """What can be tested without the packages: 60 rows each, whose targets follow on their prompts."""
    antibodies, drugs = real_models.rows("IgLM", 60), real_models.rows("annalog", 60)
    assert len(antibodies) == drugs["input"].nunique() == 60 and antibodies["input"].nunique() == 56
    for given, target in zip(antibodies["input"].str.split(), antibodies["target"].str.split(), strict=True):
        assert target[:-1] == given and len(given) - 2 in real_models.CUTS
    assert set(antibodies["input"].str.split().str[1]) == {"[HUMAN]", "[MOUSE]", "[CAMEL]"}
    part = real_models.settings("annalog")["method_options"]["layer_deeplift"]
    assert part["target_layer"] == "model.encoder.layers.0"
    weight = real_models.torch.zeros(2)
    names = ["encoder.layers.0.positionwise_feedforward.fc_1.weight", "decoder.layers.2.encoder_attention.fc_q.bias"]
    assert [real_models.marian(name, weight)[0] for name in names] == [
        "model.encoder.layers.0.fc1.weight",
        "model.decoder.layers.2.encoder_attn.q_proj.bias",
    ]


def test_multiverse(tmp_path):
    printed = run(tmp_path, "multiverse.py", "--examples", "2", "--rows", "24", "--out", "made")
    assert "multiverse: 24 rows" in printed and "of 66 pairs of methods" in printed
    assert (tmp_path / "made" / "multiverse.png").read_bytes()[:4] == b"\x89PNG"
    made = pd.read_csv(tmp_path / "made" / "multiverse.csv")
    pictured = pd.read_csv(DOCS / "images" / "multiverse.csv")
    assert len(made) == 12 * 11 and made["share"].between(0, 1).all() and made.shape[0] == pictured.shape[0]


def test_custom_method(tmp_path):
    printed = run(tmp_path, "custom_method.py", "--examples", "4")
    assert [line.split()[0] for line in printed.splitlines()] == ["occlusion", "saliency", "recency", "random"]


@pytest.mark.sweep
@pytest.mark.parametrize("examples", [32])
def test_leaderboard(tmp_path, examples):
    printed = run(tmp_path, "leaderboard.py", "--examples", str(examples))
    assert "recall-damaged" in printed and "logged to run" in printed
    board = json.loads((tmp_path / "leaderboard-output" / "model.json").read_text(encoding="utf-8"))
    scores = {row["label"]: row for row in board["rows"]}
    assert scores["recall-damaged"]["auprc_plau"] < scores["recall"]["auprc_plau"]
    if examples < 32:
        return
    won = {pair["winner"] for pair in board["pairs"] if pair["metric"] in ("aopc_compr", "auprc_plau")}
    assert won == {"recall"}
    # what the picture of critical differences shows
    make_pictures.places(tmp_path / "leaderboard-output" / "method.csv", tmp_path / "places.csv")
    files = (tmp_path / "places.csv", DOCS / "images" / "critical_differences.csv")
    found, pictured = (pd.read_csv(file, index_col="label") for file in files)
    pd.testing.assert_frame_equal(found.loc[pictured.index], pictured, atol=0.15, rtol=0)


def test_scores_in_the_pictures():
    """The attributions that the pictures of views show are those that the methods give."""
    model = attriflow.load_model("demo/translate", device="cpu")
    found = {}
    for name in make_screenshots.EXPLAINED:
        found |= make_screenshots.scores(name, make_screenshots.explain(model, name))
    pictured = json.loads((DOCS / "images" / "attributions.json").read_text(encoding="utf-8"))
    assert found.keys() == pictured.keys()
    for name, rows in found.items():
        for (token, scores), (wanted, values) in zip(rows, pictured[name], strict=True):
            assert token == wanted and scores == pytest.approx(values, abs=2e-3, rel=2e-3), (name, token)


def test_errors_in_the_picture_of_convergence():
    found = plot_convergence.measure(samples=(4, 16), seeds=2)
    rows = pd.read_csv(DOCS / "convergence.csv")
    pictured = rows[rows["samples"].isin((4, 16)) & (rows["seed"] < 2)].reset_index(drop=True)
    pd.testing.assert_frame_equal(found, pictured, atol=2e-6, rtol=0)


def test_every_picture_is_made():
    """By `make pictures`; and shown somewhere."""
    made = {"leaderboard", "convergence", "images/critical_differences", "images/multiverse", "images/scaling"}
    made |= {f"images/{shot.__name__}" for shot in make_screenshots.SHOTS}
    assert {str(path.relative_to(DOCS).with_suffix("")) for path in DOCS.rglob("*.png")} == made
    pages = "".join(path.read_text(encoding="utf-8") for path in DOCS.rglob("*.md"))
    assert not [name for name in made if f"({name}.png)" not in pages]


@pytest.mark.sweep
def test_gpu_throughput(tmp_path):
    """On whatever device there is."""
    printed = run(
        tmp_path, "gpu_throughput.py", "--methods", "saliency,dummy", "--largest-batch", "4", "--batch-seconds", "60"
    )
    assert "| `saliency` |" in printed and "saliency: fastest with" in printed and "4+" in printed
    assert (tmp_path / "throughput-output" / "batches.png").stat().st_size > 10_000


def test_data_set(tmp_path):
    settings = str(RECIPES / "attribute_dataset.yaml")
    code = f"from attriflow.cli import main; main(['attribute-dataset', '--config', {settings!r}])"
    done = run_fresh(code, tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    rows = (tmp_path / "attributions.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(rows) == 20
    assert all(json.loads(row) for row in rows)


def test_all_are_in_the_docs():
    page = (RECIPES.parent / "docs" / "recipes.md").read_text(encoding="utf-8")
    missing = [p.name for p in RECIPES.glob("*.py") if p.name not in page and p.name != "make_docs.py"]
    assert not missing

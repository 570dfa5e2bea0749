"""A new part is one file, or one package of a stranger's: nothing else has to know its name."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "tests" / "ext_package"

METHOD = '''
"""A method."""
from dataclasses import dataclass

import torch
from attriflow.engine import Engine, Scores
from attriflow.registry import methods


@methods.register(
    "newcomer",
    family="control",
    floor=lambda problem, n_samples, **_: n_samples * problem.forward(),
    demo={"n_samples": 3},
    trial={"n_samples": 2},
    runs_model=False,
)
@dataclass(frozen=True)
class Newcomer:
    """Equal credit to everything."""

    n_samples: int = 5

    def __call__(self, engine: Engine) -> Scores:
        return Scores({block: engine.visible(block).to(engine.dtype) for block in engine.blocks})
'''
METRIC = '''
"""A metric."""
from attriflow.registry import metrics


@metrics.register("new_metric", higher_is_better=False)
def new_metric(attribution, rescore):
    """Log-probability of every step; lower is better."""
    return rescore(attribution.token_scores().isnan()[:1] | True)[0].tolist()
'''
EVALUATE = """
import sys
sys.path[:0] = [ROOT + "/recipes", ROOT + "/docs"]
import attriflow
from attriflow.evaluation.config import EvaluationConfig
from attriflow.evaluation.data import EvaluationData
from attriflow.evaluation.runner import Evaluation
from attriflow.evaluation.tables import directions, leaderboard

def evaluated(method, metrics):
    config = EvaluationConfig.from_dict(
        {"methods": [method, "random"], "metrics": metrics, "step_functions": [], "throughput": False}
    )
    data = EvaluationData(inputs=("anna has a red hat . what color is the hat ?",), targets=("red",))
    evaluation = Evaluation(attriflow.load_model("demo/recall"), data, config)
    list(evaluation.run())
    for result in evaluation.results:
        assert result.ok and not result.problems, (result.reason, result.problems)
    board = leaderboard(evaluation.results, metrics, directions(metrics), 1)
    assert board[metrics].notna().all().all()
    return evaluation.results[0].metrics

def seen(method, metrics):
    import contextlib, io
    import make_docs
    import _hooks
    from attriflow.cli import main
    assert method in attriflow.list_feature_attribution_methods()
    assert set(metrics) <= set(attriflow.list_metrics())
    for command, names in (("methods", [method]), ("metrics", metrics)):
        for options in ([], ["--json"]):
            sys.argv, out = ["attriflow", command, *options], io.StringIO()
            with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
                main()
            assert all(name in out.getvalue() for name in names), (command, out.getvalue()[-500:])
    for table in ("methods", "method_options"):
        assert f"| `{method}` |" in make_docs.table(table)
    for table in ("metrics", "metric_costs"):
        assert all(f"| `{name}` |" in make_docs.table(table) for name in metrics)
    assert f"## {method}" in _hooks._registry("methods")
    assert all(f"## {name}" in _hooks._registry("metrics") for name in metrics)
"""
FLOOR = """
from attriflow.measuring.floors import Problem, Work, floor
problem = Problem(Work.of_shape(layers=2, width=8, vocabulary=10), 0, 6, 2)
"""


def run(code: str, *folders: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([*map(str, folders), os.environ.get("PYTHONPATH", "")])}
    code = EVALUATE.replace("ROOT", repr(str(ROOT))) + FLOOR + code
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.slow
def test_a_method_and_a_metric_are_one_file_each(tmp_path):
    """Found in their home packages without any table touched: listed, documented, evaluated, measured, in the demo."""
    for folder, name, source in (("methods", "newcomer", METHOD), ("metrics", "new_metric", METRIC)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / f"{name}.py").write_text(source)
    run(
        "import attriflow.methods, attriflow_metrics\n"
        f"attriflow.methods.__path__.append({str(tmp_path / 'methods')!r})\n"
        f"attriflow_metrics.__path__.append({str(tmp_path / 'metrics')!r})\n"
        "seen('newcomer', ['new_metric'])\n"
        "assert evaluated('newcomer', ['new_metric'])['new_metric'] < 0\n"
        "assert floor('newcomer', {}, problem) == 5 * problem.forward()\n"
        "assert floor('newcomer', {'n_samples': 2}, problem) == 2 * problem.forward()\n"
        "from attriflow.tracking.demo import settings\n"
        "assert settings('recall')['method_options']['newcomer'] == {'n_samples': 3}\n"
        "assert EvaluationConfig.from_dict({}).methods.count('newcomer') == 1\n"
    )


@pytest.mark.slow
def test_a_strangers_package(tmp_path):
    """Installed the way pip leaves it, written against public names, registered with the least there is to say."""
    for source in PACKAGE.rglob("*"):
        if source.is_file() and "__pycache__" not in source.parts:
            target = tmp_path / source.relative_to(PACKAGE)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(source.read_bytes())
    run(
        "import torch\n"
        "seen('first_token', ['mean_score', 'first_token_drop', 'n_inputs'])\n"
        "assert 'double_logit' in attriflow.list_step_functions()\n"
        "m = attriflow.load_model('demo/recall')\n"
        "out = m.attribute('anna has a red hat .', method='first_token', step_scores=['double_logit', 'logits'])\n"
        "s = out[0].step_scores\n"
        "assert torch.allclose(s['double_logit'], 2 * s['logits'])\n"
        "assert out[0].scores[0, 0] == 1\n"
        "found = evaluated('first_token', ['mean_score', 'first_token_drop', 'n_inputs'])\n"
        "assert 0 < found['mean_score'] <= 1 and found['n_inputs'] > 1\n"
        "assert floor('first_token', {}, problem) == problem.forward()  # as its cost says\n"
        "assert 'n_inputs' not in directions(attriflow.list_metrics())  # nobody said what is better: not ranked\n"
        "assert 'first_token' in EvaluationConfig.from_dict({}).methods\n"
        "assert 'mean_score' not in EvaluationConfig.from_dict({}).metrics  # installing changes no default\n",
        tmp_path,
    )


def test_the_strangers_package_knows_public_names_only():
    for path in PACKAGE.rglob("*.py"):
        for line in path.read_text().splitlines():
            if "attriflow" in line and "import" in line:
                assert "._" not in line and "attriflow.registry" not in line, line

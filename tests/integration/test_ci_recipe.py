"""The recipe for regression checks in CI: what can be run of it runs, the rest is at least what it says it is."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import yaml
from fresh import run_fresh

from attriflow.cli import main
from attriflow.cli.app import app
from attriflow.regression.rules import Rules

FOLDER = Path(__file__).resolve().parents[2] / "recipes" / "ci_regression"


def test_rules_are_read():
    rules = Rules.read(FOLDER / "rules.yaml")
    assert rules.quality("saliency", "aopc_compr", True) == (0.02, 0.5)
    assert rules.quality("random", "aopc_compr", True) == (None, None)
    assert rules.speed("x[lime]") == (2, 0.5)


def test_rules_of_the_docs_are_the_defaults_and_are_read(tmp_path):
    page = (FOLDER.parents[1] / "docs" / "regression-checks.md").read_text(encoding="utf-8")
    (tmp_path / "rules.yaml").write_text(re.findall(r"^```yaml\n(.*?)^```", page, re.M | re.S)[0])
    rules, default = Rules.read(tmp_path / "rules.yaml"), Rules()
    for name in ("max_slowdown", "slack", "max_drop", "level", "missing"):
        assert getattr(rules, name) == getattr(default, name)


@pytest.mark.parametrize("name", ["github-workflow.yml", "pre-commit-config.yaml"])
def test_commands_exist_with_their_options(name):
    import typer

    text = (FOLDER / name).read_text(encoding="utf-8")
    assert isinstance(yaml.safe_load(text), dict)
    commands = typer.main.get_command(app).commands
    code = " ".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    found = re.findall(r"attriflow (benchmark|check) (.*?)(?= &&| *'| - name| +- uses|$)", code)
    assert {command for command, _ in found} == {"benchmark", "check"}
    for command, arguments in found:
        known = {o for p in commands[command].params for o in (*p.opts, *p.secondary_opts)}
        given = [w for w in shlex.split(re.sub(r"\$\{\{.*?\}\}", "x", arguments)) if w.startswith("--")]
        assert given and set(given) <= known, set(given) - known


@pytest.mark.slow
def test_evaluate_validate_and_check(tmp_path, capsys):
    store = f"sqlite:///{tmp_path / 'mlflow.db'}"
    settings = ["--store", store, "--examples", "12", "--methods", "occlusion", "random"]
    first = run_fresh(FOLDER / "evaluate.py", tmp_path, *settings, "--baseline")
    assert first.returncode == 0, first.stderr[-2000:]
    second = run_fresh(FOLDER / "evaluate.py", tmp_path, *settings)
    assert second.returncode == 0, second.stderr[-2000:]
    found = dict(re.findall(r"^(run|baseline-run)=(\w+)$", second.stdout, re.M))
    assert found["baseline-run"] in first.stdout and "MLflow accepts the result" in second.stdout
    arguments = ["--baseline-run", found["baseline-run"], "--run", found["run"], "--tracking-uri", store]
    with pytest.raises(SystemExit) as stop:
        main(["check", *arguments, "--rules", str(FOLDER / "rules.yaml")])
    assert not stop.value.code, capsys.readouterr().out
    assert "Passed" in capsys.readouterr().out


@pytest.mark.sweep  # it measures time
def test_a_method_that_is_really_broken_fails(tmp_path):
    """A method that does its work eight times, and one that returns its scores in random order."""
    script = FOLDER.parents[1] / "benchmarks" / "regression_checks.py"
    # what is measured beside other tests on the same cores may spread by more than three times
    arguments = ["--runs", "0", "--times", "8", "--examples", "16", "--timed", "mine", "--output", str(tmp_path)]
    done = run_fresh(script, tmp_path, *arguments)
    assert done.returncode == 0, done.stderr[-2000:]
    assert re.search(r"8 times: 1 of 1 failed\n  mine: slower: \d+\.\d\d times the cost", done.stdout), done.stdout
    worse = re.findall(r"^  mine/(\w+): worse by 0\.\d+", done.stdout, re.M)
    assert set(worse) == {"aopc_compr", "aopc_suff", "auprc_plau", "token_f1_plau"}
    assert "shuffled scores: 4 of 16 failed" in done.stdout

"""Regression checks: what fails, what does not, and what they say about it."""

from __future__ import annotations

import json
from xml.etree import ElementTree

import numpy as np
import pytest

from attriflow.cli import main
from attriflow.errors import AttriflowError
from attriflow.regression.rules import Rules
from attriflow.regression.verdicts import Scores, judge_costs, judge_scores
from attriflow.views.evaluations.verdicts import junit, markdown, summary, verdict_table

RNG = np.random.default_rng(0)


def run(*arguments):
    try:
        main([str(a) for a in arguments])
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def write(path, costs, key="forward_equivalents", **machine):
    """A file of pytest-benchmark; a cost is a number or a list with one per round."""
    entries = []
    for name, cost in costs.items():
        rounds = cost if isinstance(cost, list) else [cost]
        extra = {key: float(np.median(rounds)), f"{key}_rounds": rounds} if cost is not None else {}
        entries.append({"name": name, "fullname": f"suites/x.py::{name}", "extra_info": extra, "stats": {}})
    path.write_text(json.dumps({"machine_info": machine, "benchmarks": entries}))
    return path


def noisy(level, rounds=7, spread=0.1):
    return (level * np.exp(spread * RNG.standard_normal(rounds))).tolist()


def verdicts(baseline, current, **rules):
    return {v.name: v for v in judge_costs(baseline, current, Rules(**rules))}


class TestSpeed:
    def test_twice_the_cost_fails_and_says_so(self):
        found = verdicts({"lime": noisy(10), "ig": noisy(5)}, {"lime": noisy(20), "ig": noisy(5)})
        assert found["lime"].failed and not found["ig"].failed
        message = found["lime"].message
        assert message.startswith("slower: ") and "times the cost" in message and "1.5 times is allowed" in message

    def test_rounds_that_spread_a_lot_do_not_fail(self):
        found = verdicts({"x": [8, 10, 12]}, {"x": [5.0, 17.0, 40.0]})
        assert not found["x"].failed and "by the spread of its rounds it may be only" in found["x"].message

    def test_tiny_costs_have_slack(self):
        assert not verdicts({"x": [0.02]}, {"x": [0.08]})["x"].failed
        assert verdicts({"x": [0.02]}, {"x": [0.08]}, slack=0.0)["x"].failed

    def test_overrides_by_pattern_and_the_last_wins(self):
        overrides = [{"match": "*", "max_slowdown": 1.1}, {"match": ["*lime*"], "max_slowdown": None}]
        found = verdicts({"a_lime": [10], "b": [10]}, {"a_lime": [90], "b": [12]}, overrides=overrides)
        assert not found["a_lime"].failed and found["b"].failed

    def test_missing_and_new(self):
        found = verdicts({"a": [1], "b": [1]}, {"b": [1], "c": [1]})
        assert (found["a"].outcome, found["a"].failed) == ("missing", True)
        assert (found["c"].outcome, found["c"].failed) == ("new", False)
        assert not verdicts({"a": [1]}, {}, missing="ignore")["a"].failed


def scores(drop, n=32, higher=True, method="m", metric="x", spread=0.1, common=0.3):
    """A method on the same examples twice, the second time worse by `drop` on average."""
    level = 0.5 + common * RNG.standard_normal(n)
    sign = 1 if higher else -1
    after = level - sign * drop + spread * RNG.standard_normal(n)
    return Scores(method=method, metric=metric, higher_is_better=higher, baseline=level, current=after)


class TestQuality:
    @pytest.mark.parametrize("higher", [True, False])
    def test_a_drop_fails_in_the_metrics_own_direction(self, higher):
        bad, good = (judge_scores([scores(d, higher=higher, spread=0.02)], Rules())[0] for d in (0.2, -0.2))
        assert bad.failed and bad.message.startswith("worse by 0.")
        assert not good.failed

    def test_examples_are_paired(self):
        """A drop far smaller than the spread of examples is found, as it is on every example."""
        found = judge_scores([scores(0.05, spread=0.01, common=1.0)], Rules())[0]
        assert found.failed and "a drop of 0.01 is allowed" in found.message

    def test_no_drop_fails_no_build(self):
        """100 checks of 50 tests of the same thing measured twice: with level 5%, 5 false alarms are expected."""
        failed = [any(v.failed for v in judge_scores([scores(0.01) for _ in range(50)], Rules())) for _ in range(100)]
        assert sum(failed) <= 11  # 99.5% of a binomial distribution

    def test_few_examples_do_not_fail_by_chance(self):
        tests = [scores(0.0, n=5) for _ in range(40)]
        found = judge_scores(tests, Rules(max_drop=0.0))
        assert not any(v.failed for v in found)
        assert any("5 examples cannot tell in 40 tests, 10 could" in v.message for v in found)

    def test_rounding_is_no_drop(self):
        s = Scores(method="m", metric="x", higher_is_better=True, baseline=np.ones(32), current=np.ones(32) - 1e-8)
        assert judge_scores([s], Rules(max_drop=0.0))[0].outcome == "ok"

    def test_least_and_most_values(self):
        low, high = (scores(0, metric=name, higher=up, spread=0) for name, up in (("up", True), ("down", False)))
        rules = Rules(metrics={"up": {"min_value": 0.9}, "down": {"max_value": 0.1}})
        found = judge_scores([low, high], rules)
        assert [v.failed for v in found] == [True, True]
        assert "below the least accepted value, 0.9" in found[0].message
        assert not any(v.failed for v in judge_scores([low], Rules(metrics={"up": {"min_value": 0.5}})))

    def test_a_limit_on_the_wrong_side_is_an_error(self):
        rules = Rules(metrics={"x": {"min_value": 0.5}})
        with pytest.raises(AttriflowError, match="lower is better: use 'max_value'"):
            judge_scores([scores(0, higher=False)], rules)

    def test_a_metric_without_common_examples_is_untested(self):
        s = Scores(
            method="m", metric="x", higher_is_better=True,
            baseline=np.array([1, np.nan]), current=np.array([np.nan, 1]),
        )  # fmt: skip
        assert judge_scores([s], Rules())[0].outcome == "untested"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("max_slowdwn: 2", "did you mean 'max_slowdown'"),
        ("max_slowdown: 0.5", "1 or more"),
        ("max_drop: -1", "0 or more"),
        ("level: 2", "between 0 and 1"),
        ("missing: explode", "Allowed: fail, ignore"),
        ("metrics: {x: {max_dropp: 1}}", "did you mean 'max_drop'"),
        ("overrides: [{max_drop: 1}]", "needs a 'match'"),
        ("[1]", "must hold settings by name"),
        ("a: [", "is not YAML"),
    ],
)
def test_wrong_rules_are_named(text, message, tmp_path, capsys):
    (tmp_path / "rules.yaml").write_text(text)
    files = [write(tmp_path / f"{name}.json", {"x": 1.0}) for name in ("a", "b")]
    code = run("check", "--baseline", files[0], "--current", files[1], "--rules", tmp_path / "rules.yaml")
    assert code == 2 and message in capsys.readouterr().err


class TestCommand:
    @pytest.mark.parametrize("key", ["forward_equivalents", "forward_pass_equivalents"])
    def test_no_change_is_0_and_a_slowdown_is_1(self, key, tmp_path, capsys):
        base = write(tmp_path / "base.json", {"x[lime]": noisy(10), "y": noisy(3)}, key)
        same = write(tmp_path / "same.json", {"x[lime]": noisy(10), "y": noisy(3)}, key)
        slow = write(tmp_path / "slow.json", {"x[lime]": noisy(20), "y": noisy(3)}, key)
        assert run("check", "--baseline", base, "--current", same) == 0
        assert "Passed: 2 within the limits." in capsys.readouterr().out
        assert run("check", "--baseline", base, "--current", slow) == 1
        out = capsys.readouterr().out
        assert "slower:" in out and "Failed: 1 worse, 1 within the limits." in out

    def test_what_was_counted_may_not_grow_at_all(self, tmp_path, capsys):
        base, now = (write(tmp_path / f"{n}.json", {"waits": n, "uploads": 0}, "count") for n in (3, 4))
        rules = tmp_path / "rules.yaml"
        rules.write_text("max_slowdown: 1\nslack: 0\n")
        assert run("check", "--baseline", base, "--current", base, "--rules", rules) == 0
        assert run("check", "--baseline", base, "--current", now, "--rules", rules) == 1
        assert "4 counted, 3 in the baseline" in " ".join(capsys.readouterr().out.split())

    def test_reports(self, tmp_path, monkeypatch, capsys):
        base = write(tmp_path / "base.json", {"slow|er": [10, 10], "gone": [1], "same": [3]}, device="cpu")
        now = write(tmp_path / "now.json", {"slow|er": [30, 30], "more": [1], "same": [3]}, device="cuda")
        monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary.md"))
        assert run("check", "--baseline", base, "--current", now, "--junit", tmp_path / "out" / "junit.xml") == 1
        assert "device: cuda, in the baseline cpu" in capsys.readouterr().out
        suite = ElementTree.parse(tmp_path / "out" / "junit.xml").getroot()[0]
        assert (suite.get("tests"), suite.get("failures")) == ("4", "2")
        failed = {case.get("name"): case.find("failure") for case in suite}
        assert failed["slow|er"].get("message").startswith("slower: 3.00 times the cost")
        assert failed["gone"].get("type") == "missing" and failed["more"] is None
        text = (tmp_path / "summary.md").read_text()
        assert text.startswith("## now.json against base.json") and "| ✗ | slow\\|er | 10 | 30 | slower" in text

    @pytest.mark.parametrize(
        ("baseline", "message"),
        [
            (None, "cannot read"),
            ("nope", "is not JSON"),
            ("{}", "no file of pytest-benchmark"),
            ('{"benchmarks": [{"name": "x", "extra_info": {}}]}', "has 'forward_pass_equivalents' or"),
        ],
    )
    def test_bad_files_are_2(self, baseline, message, tmp_path, capsys):
        current = write(tmp_path / "now.json", {"x": 1.0})
        if baseline is not None:
            (tmp_path / "base.json").write_text(baseline)
        assert run("check", "--baseline", tmp_path / "base.json", "--current", current) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1

    @pytest.mark.parametrize("arguments", [(), ("--baseline", "x"), ("--baseline", "x", "--run", "y")])
    def test_half_of_a_pair_is_2(self, arguments, capsys):
        assert run("check", *arguments) == 2
        assert "give two files" in capsys.readouterr().err


def test_views_have_the_failures_first():
    found = judge_costs({"a": [1], "b": [1]}, {"a": [1], "b": [9]}, Rules())
    assert verdict_table(found).row_count == 2
    assert markdown(found, "t").index("| b |") < markdown(found, "t").index("| a |")
    assert summary([]) == "Passed: nothing to compare."
    assert ElementTree.fromstring(junit(found, "t\x00")).get("failures") == "1"

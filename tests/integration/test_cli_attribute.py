"""`attribute`, `attribute-dataset`, `show` and `convert` on the demo models; the main paths in real processes."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import attriflow
from attriflow.cli import main

TEXTS = ["the red house", "the small dog sleeps", "a big tree"]
TRANSLATE = ("-m", "demo/translate", "--device", "cpu")


def run(*arguments: str) -> int:
    """Exit code of a command in this process."""
    with pytest.raises(SystemExit) as stop:
        main(list(arguments))
    return int(stop.value.code or 0)


def process(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """A command in a process of its own, with its output piped."""
    code = "from attriflow.cli import main; main()"
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd, env=environment, timeout=300)


@pytest.fixture(scope="module")
def translate():
    return attriflow.load_model("demo/translate", device="cpu")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "d.csv"
    with path.open("w", newline="") as f:
        csv.writer(f).writerows([["en", "it"], *([t, "la casa"] for t in TEXTS)])
    return path


def attributed(tmp_path: Path, *options: str) -> Any:
    """What `attribute` saves."""
    path = tmp_path / "out.json"
    assert run("attribute", *TRANSLATE, "-i", *TEXTS[:2], "--hide", "-o", str(path), *options) == 0
    return attriflow.load(path)


def close(found: Any, expected: Any) -> None:
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a.scores, b.scores, equal_nan=True)
        assert (a.inputs, a.targets, a.step_scores.keys()) == (b.inputs, b.targets, b.step_scores.keys())


class TestAttribute:
    """Every option changes what Python's `attribute` is given."""

    @pytest.mark.parametrize(
        ("options", "keywords"),
        [
            ((), {}),
            (("--do_prefix_attribution",), {"attribute_target": True}),
            (
                ("--attribute_target", "-s", "2", "-e", "3"),
                {"attribute_target": True, "attr_pos_start": 2, "attr_pos_end": 3},
            ),
            (("--step_scores", "probability", "entropy"), {"step_scores": ["probability", "entropy"]}),
            (("-fn", "logit"), {"attributed_fn": "logit"}),
            (
                ("-a", "integrated_gradients", "--method-option", "n_steps=3"),
                {"method": "integrated_gradients", "n_steps": 3},
            ),
            (("-a", "random", "--seed", "5"), {"method": "random", "seed": 5}),
            (("-g", "il gatto", "il cane"), {"generated_texts": ["il gatto", "il cane"]}),
            (("--generation_kwargs", '{"max_new_tokens": 2}'), {"generation_args": {"max_new_tokens": 2}}),
            (("-a", "attention", "--eos", "-bs", "1"), {"method": "attention", "include_eos_baseline": True}),
            (
                ("--attribution_kwargs", '{"granular": true, "abs": false}', "--output_step_attributions", "-v"),
                {"granular": True, "abs": False},
            ),
            (
                ("-fn", "contrast_prob_diff", "-g", "il gatto", "il cane", "--contrast_targets", "la gatto", "la cane"),
                {
                    "attributed_fn": "contrast_prob_diff",
                    "generated_texts": ["il gatto", "il cane"],
                    "contrast_targets": ["la gatto", "la cane"],
                },
            ),
            (
                ("-fn", "contrast_prob", "--contrast-sources", *reversed(TEXTS[:2]), "--contrast-force-inputs"),
                {"attributed_fn": "contrast_prob", "contrast_sources": TEXTS[1::-1], "contrast_force_inputs": True},
            ),
        ],
        ids=lambda value: " ".join(value)[:40] if isinstance(value, tuple) else "",
    )
    def test_options(self, options, keywords, translate, tmp_path):
        expected = translate.attribute(TEXTS[:2], **{"method": "saliency", **keywords})
        close(attributed(tmp_path, *options), expected)

    @pytest.mark.parametrize(
        ("options", "method", "aggregation"),
        [
            (("--normalize_attributions",), "saliency", {"normalize": True}),
            (("--rescale-attributions",), "saliency", {"rescale": True}),
            (("--aggregate_output",), "saliency", {"normalize": False}),
            (("--attribution_aggregators", "vnorm"), "saliency", {"aggregator": ["vnorm"], "normalize": False}),
            (("--attribution_aggregators", "vnorm", "--normalize_attributions"), "saliency", {"aggregator": ["vnorm"]}),
            (
                ("--attribution_aggregators", "scores", "subwords"),
                "saliency",
                {"aggregator": ["scores", "subwords"], "normalize": False},
            ),
            (
                ("--attribution_aggregators", "mean", "max", "--attribution_selectors", "0", "1"),
                "attention",
                {"aggregator": [("mean", {"select_idx": 0}), ("max", {"select_idx": 1})], "normalize": False},
            ),
        ],
        ids=lambda value: " ".join(value)[:40] if isinstance(value, tuple) else "",
    )
    def test_aggregation(self, options, method, aggregation, translate, tmp_path):
        expected = translate.attribute(TEXTS[:2], method=method, granular="aggregator" in aggregation)
        close(attributed(tmp_path, "-a", method, *options), expected.aggregate(**aggregation))

    def test_dtype_and_loading_options(self, tmp_path):
        found = attributed(
            tmp_path, "--dtype", "float64", "--model_kwargs", "{}", "--tokenizer_kwargs", '{"use_fast": true}'
        )
        assert found[0].scores.dtype == torch.float64 and found[0].provenance.dtype == "float64"

    def test_target_prefix(self, translate, tmp_path):
        found = attributed(tmp_path, "-g", "la", "il", "--generate_from_target_prefix")
        for attribution, prefix in zip(found, ("la", "il"), strict=True):
            assert attribution.target_text.startswith(prefix) and len(attribution.targets) > 2
            assert attribution.provenance.generated
        # the first step is the one that a forced target begins with, too
        forced = translate.attribute(TEXTS[:2], ["la", "il"], method="saliency")
        torch.testing.assert_close(found[0].scores[0], forced[0].scores[0])
        assert (
            run("attribute", "-m", "demo/recall", "-i", "a", "-g", "b", "--generate_from_target_prefix", "--hide") == 1
        )

    def test_target_language(self, tmp_path):
        """What the tokenizer's target language is, the generation begins with, as for multilingual models."""
        found = attributed(tmp_path, "--tokenizer_kwargs", '{"tgt_lang": "casa"}')
        assert [a.targets[0].text for a in found] == ["casa", "casa"]

    def test_parts_of_ones_own(self, tmp_path):
        (tmp_path / "own.py").write_text("def halved(forward):\n    return forward.of_target(forward.logits) / 2\n")
        own = f"{tmp_path / 'own.py'}:halved"
        found = attributed(tmp_path, "-fn", own, "--step_scores", own, "logit")[0]
        values = list(found.step_scores.values())
        torch.testing.assert_close(values[0] * 2, values[1])

    def test_config(self, translate, tmp_path):
        settings = {
            "attribution_method": "occlusion",
            "step-scores": ["entropy"],
            "input_texts": "not this",
            "hide": False,
        }
        (tmp_path / "c.yaml").write_text(json.dumps(settings))
        found = attributed(tmp_path, "--config", str(tmp_path / "c.yaml"))
        close(found, translate.attribute(TEXTS[:2], method="occlusion", step_scores=["entropy"]))

    @pytest.mark.parametrize("suffix", ["", ".safetensors", ".json", ".jsonl", ".parquet", ".html"])
    def test_output(self, suffix, tmp_path, capsys):
        path = tmp_path / "deep" / f"out{suffix}"
        assert run("attribute", *TRANSLATE, "-i", TEXTS[0], "--save_path", str(path), "--viz_path", f"{path}.page") == 0
        printed = capsys.readouterr()
        assert "casa" in printed.out and "wrote" in printed.err and "\x1b" not in printed.out
        assert "<html" in Path(f"{path}.page").read_text(encoding="utf-8")
        if suffix != ".html":
            assert attriflow.load(path)[0].input_text == TEXTS[0]

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (("-a", "salincy"), "did you mean 'saliency'"),
            (("-fn", "probabilty"), "did you mean 'probability'"),
            (("--step_scores", "entrpy"), "did you mean 'entropy'"),
            (("--attribution_aggregators", "subword"), "did you mean 'subwords'"),
            (("--method-option", "n_stps=3"), "'n_stps'"),
            (("-o", "out.txt"), "cannot tell the format of out.txt"),
            (("-fn", "contrast_prob_diff"), "pass contrast_targets"),
            (("-g", "one", "two"), "1 input texts but 2 generated texts"),
            (("-m", "no/such-model"), "cannot load the model 'no/such-model'"),
            (("--device", "gpu"), "there is no device 'gpu' here"),
        ],
    )
    def test_a_mistake_is_one_line(self, options, message, capsys):
        assert run("attribute", *TRANSLATE, "-i", TEXTS[0], *options) == 1
        printed = capsys.readouterr()
        assert message in printed.err and printed.err.startswith("error: ") and len(printed.err.splitlines()) == 1
        assert printed.out == ""

    def test_a_fault_of_ours_is_one_line_too(self, tmp_path, capsys):
        (tmp_path / "own.py").write_text("def broken(forward):\n    return {}['key']\n")
        given = ("attribute", *TRANSLATE, "-i", TEXTS[0], "-fn", f"{tmp_path / 'own.py'}:broken")
        assert run(*given) == 1
        assert capsys.readouterr().err == "error: KeyError: 'key' (--debug shows where)\n"
        assert run(*given, "--debug") == 1
        assert "Traceback" in capsys.readouterr().err


class TestDataset:
    def test_the_same_as_attribute(self, data, translate, tmp_path):
        out = tmp_path / "out.jsonl"
        given = ("attribute-dataset", *TRANSLATE, "-d", "csv", "--files", str(data), "-in", "en", "--hide")
        assert run(*given, "-gen", "it", "--split", "train[1:]", "-a", "input_x_gradient", "-o", str(out)) == 0
        close(attriflow.load(out), translate.attribute(TEXTS[1:], ["la casa"] * 2, method="input_x_gradient"))

    @pytest.mark.parametrize("suffix", [".json", ".parquet", ".safetensors"])
    def test_formats_and_contrast(self, suffix, data, translate, tmp_path, capsys):
        out = tmp_path / f"out{suffix}"
        contrast = ("-fn", "contrast_prob_diff", "--generated", "en", "--contrast_targets_field", "it")
        options = ("--dataset", str(data), "--input", "en", "--normalize_attributions", *contrast)
        assert run("attribute-dataset", *TRANSLATE, *options, "-o", str(out), "--hide") == 0
        expected = translate.attribute(
            TEXTS, TEXTS, contrast_targets=["la casa"] * 3, method="saliency", attributed_fn="contrast_prob_diff"
        )
        close(attriflow.load(out), expected.aggregate(normalize=True))
        printed = capsys.readouterr()
        assert printed.out == "" and "3 rows" in printed.err and f"wrote {out}" in printed.err

    def test_failed_rows(self, tmp_path, capsys):
        data = tmp_path / "d.jsonl"
        rows = [{"text": "the red house"}, {"text": ""}, {"other": 1}, {"text": "a dog"}, {"text": "the " * 4000}]
        data.write_text("".join(json.dumps(row) + "\n" for row in rows))
        given = (
            "attribute-dataset",
            *TRANSLATE,
            "-d",
            str(data),
            "-a",
            "dummy",
            "--hide",
            "-o",
            str(tmp_path / "o.jsonl"),
        )
        assert run(*given) == 0
        printed = capsys.readouterr().err
        assert "row 1 failed: 'text' must be a text" in printed and "row 2 failed: there is no 'text'" in printed
        assert "row 4 failed: " in printed and "5 rows, 3 failed" in printed
        found = [json.loads(line) for line in (tmp_path / "o.jsonl").read_text(encoding="utf-8").splitlines()]
        assert [(r["row"], "error" in r) for r in found] == [(0, False), (1, True), (2, True), (3, False), (4, True)]
        assert run(*given, "--strict", "--overwrite") == 1
        assert capsys.readouterr().err == "error: row 1: 'text' must be a text that is not empty, not ''\n"

    def test_shown(self, data, capsys):
        assert (
            run("attribute-dataset", *TRANSLATE, "-d", str(data), "-in", "en", "-a", "dummy", "--split", "train[:2]")
            == 0
        )
        printed = capsys.readouterr()
        assert TEXTS[0] in printed.out and TEXTS[1] in printed.out and TEXTS[2] not in printed.out

    def test_resume_says_what_it_did(self, data, tmp_path, capsys):
        given = (
            "attribute-dataset",
            *TRANSLATE,
            "-d",
            str(data),
            "-in",
            "en",
            "--hide",
            "-o",
            str(tmp_path / "o.parquet"),
        )
        assert run(*given, "-a", "dummy", "--resume") == 0
        assert run(*given, "-a", "dummy", "--resume") == 0
        assert "was complete already" in capsys.readouterr().err
        assert run(*given, "-a", "saliency", "--resume") == 1
        assert 'method was "dummy", now "saliency"' in capsys.readouterr().err

    def test_a_name_after_config_is_the_data_sets_configuration(self, data, capsys):
        """As Inseq's short form; files have no configurations."""
        given = ("attribute-dataset", *TRANSLATE, "-d", str(data), "-in", "en", "-a", "dummy", "--hide")
        assert run(*given, "--config", "en-it") == 0

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (("-d", "nowhere.csv"), "no such file: nowhere.csv"),
            (("-d", "DATA", "-in", "eng"), "did you mean 'en'"),
            (("-d", "DATA"), "name the column of input texts; there are en, it"),
            (("-d", "DATA", "-in", "en", "--split", "test"), "no split 'test'"),
            (("-d", "DATA", "-in", "en", "-a", "salincy"), "did you mean 'saliency'"),
            (("-d", "DATA", "-in", "en", "-o", "x.csv"), "cannot tell the format of x.csv"),
        ],
    )
    def test_a_mistake_is_one_line(self, options, message, data, capsys):
        assert run("attribute-dataset", *TRANSLATE, *(str(data) if o == "DATA" else o for o in options)) == 1
        error = capsys.readouterr().err
        assert message in error and error.startswith("error: ") and len(error.splitlines()) == 1


class TestFiles:
    @pytest.fixture(scope="class")
    def saved(self, translate, tmp_path_factory):
        path = tmp_path_factory.mktemp("saved") / "out.safetensors"
        return translate.attribute(TEXTS, method="saliency", step_scores=["entropy"]).save(path)

    def test_convert_and_show(self, saved, tmp_path, capsys):
        assert run("show", str(saved)) == 0
        expected = capsys.readouterr().out
        assert all(text in expected for text in TEXTS) and "entropy" in expected
        before = saved
        for suffix in (".json", ".parquet", ".jsonl", ".safetensors"):
            path = tmp_path / f"out{suffix}"
            assert run("convert", str(before), str(path)) == 0
            capsys.readouterr()
            assert run("show", str(path)) == 0
            assert capsys.readouterr().out == expected
            before = path
        assert run("convert", str(before), str(tmp_path / "out.html")) == 0
        assert TEXTS[2] in (tmp_path / "out.html").read_text(encoding="utf-8")

    def test_a_part(self, saved, capsys):
        assert run("show", str(saved), "--first", "1", "-n", "1") == 0
        printed = capsys.readouterr()
        assert TEXTS[1] in printed.out and TEXTS[0] not in printed.out and "--first 2" in printed.err
        assert run("show", str(saved), "--first", "7") == 0
        assert "has no attribution 7" in capsys.readouterr().err

    def test_mistakes(self, saved, tmp_path, capsys):
        (tmp_path / "broken.json").write_text("{")
        (tmp_path / "there.json").write_text("{}")
        for arguments, message in (
            (("show", "nowhere.json"), "no such file"),
            (("show", str(tmp_path / "broken.json")), "is not a readable attriflow file"),
            (("show", str(tmp_path / "page.html")), "cannot tell the format"),
            (("convert", str(saved), str(tmp_path / "there.json")), "exists already"),
            (("convert", str(saved), str(tmp_path / "x.xlsx")), "cannot tell the format"),
        ):
            assert run(*arguments) == 1
            error = capsys.readouterr().err
            assert message in error and len(error.splitlines()) == 1
        assert run("convert", str(saved), str(tmp_path / "there.json"), "--overwrite") == 0
        assert len(attriflow.load(tmp_path / "there.json")) == 3


class TestProcesses:
    """The commands of the library that attriflow's users come from, with only the program's name changed."""

    @pytest.mark.slow
    def test_attribute(self, tmp_path):
        seed = ("attribute", "--model_name_or_path", "demo/translate", "--attribution_method", "saliency")
        done = process(*seed, "--input_texts", "the red house", cwd=tmp_path)
        assert done.returncode == 0 and done.stderr == "", done.stderr
        assert "la casa rossa" in done.stdout and "house" in done.stdout
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.slow
    def test_attribute_dataset(self, data, tmp_path):
        done = process(
            *("attribute-dataset", "--model_name_or_path", "demo/translate", "--attribution_method", "saliency"),
            *(
                "--do_prefix_attribution",
                "--dataset_name",
                "csv",
                "--dataset_files",
                str(data),
                "--input_text_field",
                "en",
            ),
            *("--dataset_split", "train[:2]", "--viz_path", "attributions.html", "--batch_size", "8", "--hide"),
            cwd=tmp_path,
        )
        assert done.returncode == 0 and done.stdout == "", done.stderr
        assert [line.split(" ")[0] for line in done.stderr.splitlines()] == ["2", "wrote"]
        page = (tmp_path / "attributions.html").read_text(encoding="utf-8")
        assert TEXTS[0] in page and TEXTS[1] in page and TEXTS[2] not in page
        assert sorted(p.name for p in tmp_path.iterdir()) == ["attributions.html", "d.csv"]

    def test_a_wrong_method_and_debug(self, tmp_path):
        wrong = ("attribute", "-m", "demo/translate", "-a", "no_such", "-i", "x")
        done = process(*wrong, cwd=tmp_path)
        assert done.returncode == 1 and "Traceback" not in done.stderr and len(done.stderr.splitlines()) == 1
        done = process(*wrong, "--debug", cwd=tmp_path)
        assert done.returncode == 1 and "Traceback" in done.stderr

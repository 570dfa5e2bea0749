"""`attriflow attribute-context`: the seed's command, every option, and mistakes."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from attriflow.cli import main
from attriflow.context import load

RECALL = [
    "--model_name_or_path", "demo/recall", "--input_context_text", "anna has a red hat .",
    "--input_current_text", "what color is the hat ?",
]  # fmt: skip


def run(*arguments: str, code: int = 0) -> None:
    with pytest.raises(SystemExit) as exited:
        main(["attribute-context", *arguments])
    assert exited.value.code == code


@pytest.mark.slow
def test_the_seed_document_in_a_real_process(tmp_path):
    command = [sys.executable, "-c", "from attriflow.cli import main; main()", "attribute-context", *RECALL]
    done = subprocess.run(
        [*command, "--attributed_fn", "contrast_prob_diff", "-o", str(tmp_path / "c.json")],
        capture_output=True, text=True, timeout=300, env={**os.environ, "HF_HUB_OFFLINE": "1"}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "[red]" in done.stdout
    assert "*red*" in done.stdout
    assert "Instead of:" in done.stdout
    (found,) = load(tmp_path / "c.json")
    assert found.cci_scores[0].cti_token == "red"


def test_every_option(tmp_path, capsys):
    run(
        "--model-name-or-path", "demo/translate", "--input-context-text", "the house",
        "--input-current-text", "of the old man is red", "--input-template", "{context} {current}",
        "--output-context-text", "la casa", "--output-current-text", "di il uomo vecchio è rossa",
        "--output-template", "{context} {current}",
        "--contextless-input-current-text", "<unk> <unk> {current}",
        "--contextless-output-current-text", "<unk> <unk> {current}",
        "--attribution-method", "lime", "--method-option", "n_samples=64", "--attributed-fn", "contrast_prob_diff",
        "--attribution-kwargs", '{"logprob": true}', "--context-sensitivity-metric", "kl_divergence",
        "--context-sensitivity-metric-kwargs", '{"top_k": 20}', "--context-sensitivity-std-threshold", "0.5",
        "--context-sensitivity-topk", "2", "--attribution-std-threshold", "0", "--attribution-topk", "1",
        "--special-tokens-to-keep", "<unk>", "--handle-output-context-strategy", "pre",
        "--contextless-output-next-tokens", "rosso", "--normalize-attributions", "--show-intermediate-outputs",
        "--no-add-output-info", "--no-show-viz", "--save-path", str(tmp_path / "c.json"),
        "--viz-path", str(tmp_path / "c.html"), "--seed", "3",
    )  # fmt: skip
    printed = capsys.readouterr()
    assert "lime" in printed.out, "the intermediate attribution"
    assert "Input context" not in printed.out
    (found,) = load(tmp_path / "c.json")
    assert found.info is None
    (cues,) = found.cci_scores
    assert (cues.cti_token, cues.contrast_token) == ("rossa", "rosso")
    assert [found.input_context_tokens[i] for i in cues.input_cues] == ["house"]
    page = (tmp_path / "c.html").read_text(encoding="utf-8")
    assert "rossa" in page
    assert "data-cues" in page


def test_a_configuration_file(tmp_path, capsys):
    config = tmp_path / "c.yaml"
    config.write_text(
        "model_name_or_path: demo/recall\ninput_current_text: what color is the hat ?\n"
        "input_context_text: leo has a pink hat .\nattribution_method: occlusion\n"
    )
    run("--config", str(config), "--input_context_text", "anna has a red hat .")
    assert "[red]" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([*RECALL, "--attribution_method", "salience"], 1, "did you mean 'saliency'"),
        ([*RECALL, "--context_sensitivity_metric", "kl"], 1, "unknown step function 'kl'"),
        ([*RECALL, "--method-option", "n_stesp=3"], 1, "unknown option of attribution method 'saliency' 'n_stesp'"),
        ([*RECALL, "--input_template", "{current}"], 1, "has no place {context}"),
        ([*RECALL[:2], "--input_current_text", "what ?"], 1, "there is no context"),
        (RECALL[:4], 2, "input-current-text"),
        ([*RECALL, "--handle_output_context_strategy", "guess"], 2, "guess"),
        ([*RECALL, "--prompt_user_for_contextless_output_next_tokens", "--attributed_fn", "contrast_prob_diff"], 1,
         "asks the user"),
        (["--model_name_or_path", "demo/other", *RECALL[2:]], 1, "demo/other"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line(arguments, code, message, capsys):
    run(*arguments, code=code)
    error = capsys.readouterr().err.strip()
    assert message in error
    assert len(error.splitlines()) == 1


def test_asked_in_a_terminal(capsys, monkeypatch):
    """The user names the word to compare with."""
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("rich.prompt.Prompt.ask", lambda *_, **__: "blue")
    run(*RECALL, "--attributed_fn", "contrast_prob_diff", "--prompt_user_for_contextless_output_next_tokens")
    assert "Instead of:     blue" in capsys.readouterr().out


def test_json_of_inseqs_shape(tmp_path):
    run(*RECALL, "-o", str(tmp_path / "c.json"), "--hide-viz", code=2)
    run(*RECALL, "-o", str(tmp_path / "c.json"))
    (result,) = json.loads((tmp_path / "c.json").read_text(encoding="utf-8"))["results"]
    assert result["info"]["attribution_method"] == "saliency"

"""Files that Inseq saved (`recipes/inseq_files.py`), against the numbers that Inseq reads from them."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
import torch

import attriflow
from attriflow import context
from attriflow.cli import main
from attriflow.errors import InputError
from attriflow.io.inseqfiles import readable

DATA = Path(__file__).resolve().parents[1] / "data" / "inseq"
FILES = json.loads((DATA / "expected.json").read_text(encoding="utf-8"))["files"]


@pytest.fixture(scope="module")
def arrays():
    with np.load(DATA / "expected.npz") as found:
        return dict(found)


@pytest.mark.parametrize("file", FILES)
def test_numbers_and_tokens(file, arrays):
    out = attriflow.load(DATA / file)
    assert len(out) == len(FILES[file])
    for number, (found, facts) in enumerate(zip(out, FILES[file], strict=True)):
        expected = {k.split("/", 2)[2]: v for k, v in arrays.items() if k.startswith(f"{file}/{number}/")}
        mine = {
            "source_attributions": found.source_attributions,
            "target_attributions": found.target_attributions,
            **{f"step_scores/{name}": v for name, v in found.step_scores.items()},
            **{f"sequence_scores/{name}_attentions": v for name, v in found.sequence_scores.items()},
        }
        if found.provenance.method == "dummy":
            assert found.scores.nan_to_num().abs().max() == 0
            mine.pop("target_attributions")
        mine = {name: v for name, v in mine.items() if v is not None}
        assert mine.keys() == expected.keys()
        for name, values in expected.items():
            torch.testing.assert_close(mine[name], torch.from_numpy(values), rtol=0, atol=0, equal_nan=True, msg=name)
        start, stop = facts["attr_pos_start"], facts["attr_pos_start"] + len(found.targets)
        assert found.start == start and [t.id for t in found.targets] == [i for _, i in facts["target"][start:stop]]
        texts = {"source": found.input_text, "prompt": found.input_text, "generated": found.target_text}
        for token in (*found.inputs, *found.targets):
            if token.start is not None:
                assert texts[token.segment][token.start : token.end] == token.text
        whole = [t for t in found.inputs if not t.special and t.id >= 0]
        assert all(t.start is not None for t in whole) and "Ġ" not in "".join(t.text for t in whole)


def test_used_like_our_own(tmp_path):
    """Aggregated as Inseq aggregates, shown, converted: as any attribution."""
    (plain,), (expected,) = attriflow.load(DATA / "plain.json"), attriflow.load(DATA / "aggregated.json")
    torch.testing.assert_close(plain.aggregate().scores, expected.scores, equal_nan=True)
    assert [t.text for t in plain.aggregate("subwords").inputs] == ["ki", "nakol", "temo", "pari", "mitemi"]
    assert "mitemi" in plain.to_html()
    for source in ("two.json", "eighth.json.gz"):
        target = tmp_path / f"{source.partition('.')[0]}.parquet"
        with pytest.raises(SystemExit, match="0"):
            main(["convert", str(DATA / source), str(target)])
        assert attriflow.load(target) == attriflow.load(DATA / source)


def test_context(tmp_path):
    """Inseq's scores; the cues it would draw; saved anew as ours."""
    recorded = json.loads((DATA / "context.json").read_text(encoding="utf-8"))
    (found,) = out = context.load(DATA / "context.json")
    assert found.cti_scores == recorded["cti_scores"] and found.output_current_tokens == ["ki", "mitemi"]
    (cues,), (expected,) = found.cci_scores, recorded["cci_scores"]
    assert cues.input_context_scores == expected["input_context_scores"] and cues.cti_idx == expected["cti_idx"]
    mean, std = np.mean(cues.input_context_scores), np.std(cues.input_context_scores, ddof=1)
    assert cues.input_cues == [i for i, s in enumerate(cues.input_context_scores) if s >= mean + std]
    assert context.load(out.save(tmp_path / "context.json")) == out and "nakol" in out.to_html()
    with pytest.raises(InputError, match=r"attriflow\.context\.load"):
        attriflow.load(DATA / "context.json")


def test_vocabularies():
    assert readable(["ĠcafÃ©", "Ċ", "a"]) == [" café", "\n", "a"]
    assert readable(["▁la", "s", "##ing", "low</w>"]) == [" la", "s", "ing", "low"]
    assert readable(["ĠRome → ĠParis"]) == ["Rome → Paris"]


def test_damaged(tmp_path, monkeypatch):
    path = tmp_path / "damaged.json"
    content = json.loads((DATA / "aggregated.json").read_text())
    content["attributes"]["sequence_attributions"][0]["attributes"]["target_attributions"] = "AAAA"
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"damaged\.json"):
        attriflow.load(path)
    monkeypatch.setenv("ATTRIFLOW_MAX_BYTES", "100000")
    path.write_bytes(gzip.compress(b" " * 10**6))
    with pytest.raises(InputError, match="ATTRIFLOW_MAX_BYTES"):
        attriflow.load(path)

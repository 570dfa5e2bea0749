"""Files of attributions: everything comes back, and a wrong file is one clear error."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

import attriflow
from attriflow import io
from attriflow.errors import InputError
from attriflow.io import files
from attriflow.io.records import from_record, to_record
from attriflow.output import AttributionOutput
from attriflow.types import Attribution, Provenance, Token

NAN = float("nan")
SUFFIXES = sorted(io.FORMATS)


def tokens(n: int, segment: str) -> tuple[Token, ...]:
    texts = ("▁né", '"<b>&', "\n", "你好", "a\\")
    return tuple(
        Token(text=texts[i % 5], id=i, start=i or None, end=i + 1 if i else None, segment=segment, special=i == 2)
        for i in range(n)
    )


def make(dtype: torch.dtype = torch.float32, extra: tuple[int, ...] = ()) -> Attribution:
    """Random scores with what a step cannot see, extreme numbers and every optional part."""
    generator = torch.Generator().manual_seed(len(extra))
    scores = torch.randn((3, 4, *extra), generator=generator, dtype=torch.float64).to(dtype)
    scores[0, 2:], scores[1, 3] = NAN, NAN
    scores[2, 0] = 1e-30
    return Attribution(
        scores=scores,
        axes=("step", "input", *("layer", "head")[: len(extra)]),
        inputs=tokens(4, "prompt"),
        targets=tokens(3, "generated"),
        start=1,
        norms=None if extra else scores.abs(),
        step_scores={"perplexity": torch.tensor([float("inf"), NAN, 0.1], dtype=torch.float64)},
        sequence_scores={"decoder_self": torch.rand((4, 4, *extra), generator=generator)} if extra else {},
        provenance=Provenance(method="m", options={"n": 3, "f": None, "baselines": ["a"], "fn": len}, generated=True),
        input_text="né\n你好",
        segments=((0, 2), (3, 5)),
        target_text='"quoted"',
    )


def same(a: Attribution, b: Attribution) -> None:
    record_a, record_b = to_record(a), to_record(b)
    assert record_a.keys() == record_b.keys()
    for name, value in record_a.items():
        if name in ("scores", "norms", "step_scores", "sequence_scores"):
            torch.testing.assert_close(value, record_b[name], rtol=0, atol=0, equal_nan=True, check_dtype=True)
        else:
            assert value == record_b[name], name


ALL = [make(), make(torch.float64), make(torch.bfloat16), make(torch.float16, (2, 3)), make(torch.float32, (2,))]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_everything_comes_back(suffix, tmp_path):
    path = AttributionOutput(ALL).save(tmp_path / "folder" / f"out{suffix}")
    for back, given in zip(attriflow.load(path), ALL, strict=True):
        same(back, given)
    assert [p.name for p in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("source", SUFFIXES)
@pytest.mark.parametrize("target", SUFFIXES)
def test_every_format_into_every_other(source, target, tmp_path):
    io.save(ALL, tmp_path / f"a{source}")
    failed = {"row": 7, "error": "no text"}
    files.write([*files.read(tmp_path / f"a{source}"), failed], tmp_path / f"b{target}", run="abc123")
    assert files.run_of(tmp_path / f"b{target}") == "abc123"
    assert files.run_of(tmp_path / f"a{source}") is None
    *_, last = files.read(tmp_path / f"b{target}")
    assert (last["row"], last["error"]) == (7, "no text")
    for back, given in zip(io.iterate(tmp_path / f"b{target}"), ALL, strict=True):
        same(back, given)


def test_json_is_strict_and_readable(tmp_path):
    io.save(ALL[:1], tmp_path / "a.json")

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    found = json.loads((tmp_path / "a.json").read_text(encoding="utf-8"), parse_constant=refuse)["attributions"][0]
    assert found["inputs"]["text"][3] == "你好" and found["input_text"] == "né\n你好"
    assert found["scores"][0][2] is None and found["step_scores"]["perplexity"] == ["Infinity", None, 0.1]
    assert max(len(repr(x)) for x in found["scores"][2]) < 16  # single precision needs no 17 digits


def test_parquet_is_a_table(tmp_path):
    pd = pytest.importorskip("pandas")
    io.save(ALL[:2], tmp_path / "a.parquet")
    table = pd.read_parquet(tmp_path / "a.parquet")
    assert list(table["input_text"]) == ["né\n你好"] * 2
    assert list(table["inputs"][0]["text"]) == [t.text for t in ALL[0].inputs]
    assert list(table["scores"][0]["shape"]) == [3, 4]


def test_no_suffix_is_safetensors_and_others_are_refused(tmp_path):
    path = io.save(ALL[:1], tmp_path / "attributions")
    assert path.name == "attributions"
    same(io.load(path)[0], ALL[0])
    with pytest.raises(InputError, match=r"\.safetensors, \.json, \.jsonl, \.parquet"):
        io.save(ALL, tmp_path / "a.txt")
    with pytest.raises(InputError, match=r"cannot tell the format"):
        io.load(tmp_path / "a.pickle")


def test_html(tmp_path):
    out = AttributionOutput([replace(ALL[0], provenance=Provenance(method="saliency"))])
    path = out.save(tmp_path / "page.html")
    page = path.read_text(encoding="utf-8")
    assert "saliency" in page and "<html" in page
    with pytest.raises(InputError, match="overwrite"):
        out.save(path)
    with pytest.raises(InputError, match="cannot tell the format"):
        attriflow.load(path)


@pytest.mark.parametrize("suffix", SUFFIXES)
class TestBrokenFiles:
    def test_missing(self, suffix, tmp_path):
        with pytest.raises(InputError, match="no such file"):
            io.load(tmp_path / f"a{suffix}")

    def test_cut_off(self, suffix, tmp_path):
        path = io.save(ALL, tmp_path / f"a{suffix}")
        path.write_bytes(path.read_bytes()[:-40])
        with pytest.raises(InputError, match=rf"a\{suffix}.* is not a readable attriflow file") as found:
            io.load(path)
        assert "\n" not in str(found.value)

    def test_something_else(self, suffix, tmp_path):
        path = tmp_path / f"a{suffix}"
        path.write_bytes(b"\x80\xff not one of ours")
        with pytest.raises(InputError, match="is not a readable attriflow file"):
            io.load(path)

    def test_empty(self, suffix, tmp_path):
        path = io.save([], tmp_path / f"a{suffix}")
        assert io.load(path) == []

    def test_an_interrupted_save_leaves_the_old_file(self, suffix, tmp_path):
        path = io.save(ALL[:1], tmp_path / f"a{suffix}")
        before = path.read_bytes()

        def broken():
            yield ALL[0]
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            io.save(broken(), path, overwrite=True)
        assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_foreign_files(tmp_path):
    import pandas as pd
    from safetensors.torch import save_file

    pd.DataFrame({"a": [1]}).to_parquet(tmp_path / "a.parquet")
    (tmp_path / "a.json").write_text('{"a": 1}')
    (tmp_path / "a.jsonl").write_text('{"a": 1}\n')
    save_file({"x": torch.zeros(1)}, tmp_path / "a.safetensors")
    for suffix in SUFFIXES:
        with pytest.raises(InputError, match="that attriflow wrote"):
            io.load(tmp_path / f"a{suffix}")


@pytest.mark.parametrize(
    "damage",
    [
        {"scores": [[1.0], [1.0, 2.0]]},
        {"scores": [["x"]]},
        {"scores": [[0.0] * 4] * 2},
        {"inputs": {"text": ["a"]}},
        {"provenance": {"nonsense": 1}},
        {"dtypes": {"scores": "load"}},
        {"targets": 3},
    ],
)
def test_wrong_content_is_one_message(damage, tmp_path):
    from attriflow.io.records import dumps

    record = {**json.loads(dumps(to_record(ALL[0]))), **damage}
    (tmp_path / "a.jsonl").write_text(json.dumps(record) + "\n", encoding="utf-8")
    with pytest.raises(InputError) as found:
        io.load(tmp_path / "a.jsonl")
    assert "\n" not in str(found.value)


def test_a_field_that_is_added_later_has_its_default():
    record = to_record(ALL[0])
    del record["sequence_scores"], record["start"]
    assert from_record(record).start == 0

"""Rows of data sets: every format, every part of a split, from any row on."""

from __future__ import annotations

import gzip

import pytest

from attriflow.datasets import open_dataset
from attriflow.datasets.splits import Split
from attriflow.errors import AttriflowError, InputError

ROWS = [{"id": str(i), "text": f'zeile {i}, "quoted"\nand more é'} for i in range(700)]


def write(path, rows=ROWS):
    import pandas as pd

    frame = pd.DataFrame(rows)
    writers = {
        ".csv": lambda: frame.to_csv(path, index=False),
        ".tsv": lambda: frame.to_csv(path, index=False, sep="\t"),
        ".json": lambda: frame.to_json(path, orient="records"),
        ".jsonl": lambda: frame.to_json(path, orient="records", lines=True),
        ".parquet": lambda: frame.to_parquet(path, row_group_size=50),
    }
    writers[path.suffix]()
    return str(path)


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".json", ".jsonl", ".parquet"])
class TestFiles:
    def test_all_rows_in_order_and_from_any_row(self, suffix, tmp_path):
        rows = open_dataset(write(tmp_path / f"d{suffix}"))
        assert rows.columns == ("id", "text") and len(rows) == 700
        for start in (0, 1, 49, 50, 333, 699, 700):
            assert list(rows.read(start)) == ROWS[start:]

    def test_parts(self, suffix, tmp_path):
        path = write(tmp_path / f"d{suffix}")
        for split, expected in {
            "train[:2]": ROWS[:2],
            "train[-3:]": ROWS[-3:],
            "train[10%:20%]": ROWS[70:140],
            "train[690:9999]": ROWS[690:],
            "train[5:2]": [],
        }.items():
            rows = open_dataset(path, split=split)
            assert list(rows.read()) == expected and len(rows) == len(expected)
        assert list(open_dataset(path, split="train[100:200]").read(98)) == ROWS[198:200]

    def test_several_files_are_one(self, suffix, tmp_path):
        name = {".csv": "csv", ".tsv": "csv", ".parquet": "parquet"}.get(suffix, "json")
        for i in range(3):
            write(tmp_path / f"part{i}{suffix}", ROWS[i * 200 : (i + 1) * 200])
        rows = open_dataset(name, files=[f"part*{suffix}"], folder=str(tmp_path), split="train[150:450]")
        assert list(rows.read(100)) == ROWS[250:450]

    def test_identity_follows_the_content(self, suffix, tmp_path):
        before = open_dataset(write(tmp_path / f"d{suffix}")).identity()
        (tmp_path / f"d{suffix}").touch()
        assert open_dataset(str(tmp_path / f"d{suffix}")).identity() == before
        write(tmp_path / f"d{suffix}", [*ROWS[:-1], {**ROWS[-1], "text": "other"}])
        assert open_dataset(str(tmp_path / f"d{suffix}")).identity() != before

    def test_not_a_file_of_its_kind(self, suffix, tmp_path):
        path = tmp_path / f"d{suffix}"
        path.write_bytes(b"\x89PNG\r\n\x1a\n\x00\xff\xfe")
        with pytest.raises(InputError, match=rf"cannot read .*d\{suffix}|is not UTF-8"):
            list(open_dataset(str(path)).read())


def test_rows_that_cannot_be_read_are_told_one_by_one(tmp_path):
    (tmp_path / "d.csv").write_text("a,b\n1,2\n3\n\n4,5,6\n7,8\n")
    rows = list(open_dataset(str(tmp_path / "d.csv")).read())
    assert [r if isinstance(r, dict) else str(r) for r in rows] == [
        {"a": "1", "b": "2"},
        "1 cells for 2 columns",
        "3 cells for 2 columns",
        {"a": "7", "b": "8"},
    ]
    (tmp_path / "d.jsonl").write_text('{"a": 1}\n{"a": \n[1]\n\n{"a": 2}')
    rows = open_dataset(str(tmp_path / "d.jsonl"))
    good = [r if isinstance(r, dict) else str(r).split(":")[0] for r in rows.read()]
    assert good == [{"a": 1}, "not JSON", "a row must be an object, not list", {"a": 2}] and len(rows) == 4


def test_csv_cells_are_text_as_it_stands(tmp_path):
    (tmp_path / "d.csv").write_text(f"a\nNA\n007\n{'x' * 200_000}\n", encoding="utf-8-sig")
    assert [r["a"] for r in open_dataset(str(tmp_path / "d.csv")).read()] == ["NA", "007", "x" * 200_000]


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_compressed_files(suffix, tmp_path):
    write(tmp_path / f"d{suffix}")
    with gzip.open(tmp_path / f"d{suffix}.gz", "wb") as f:
        f.write((tmp_path / f"d{suffix}").read_bytes())
    for rows in (
        open_dataset(str(tmp_path / f"d{suffix}.gz")),
        open_dataset({".csv": "csv", ".jsonl": "json"}[suffix], files=[str(tmp_path / f"d{suffix}.gz")]),
    ):
        assert len(rows) == 700 and list(rows.read(690)) == ROWS[690:]
    (tmp_path / f"d{suffix}.gz").write_bytes(b"not gzip")
    with pytest.raises(InputError, match="cannot read"):
        open_dataset(str(tmp_path / f"d{suffix}.gz"))


def test_empty_files(tmp_path):
    for name, content in {"d.csv": "", "h.csv": "a,b\n", "d.jsonl": "", "d.json": "[]"}.items():
        (tmp_path / name).write_text(content)
        rows = open_dataset(str(tmp_path / name))
        assert len(rows) == 0 and list(rows.read()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "nowhere.csv"}, "no such file: nowhere.csv"),
        ({"name": "csv", "files": ["nowhere.csv"]}, "no such file: nowhere.csv"),
        ({"name": "csv", "files": ["nowhere*.csv"]}, "no file matches"),
        ({"name": "demo/recall", "split": "test"}, "no split 'test'"),
        ({"name": "demo/recall", "split": "train[a:b]"}, "cannot read the split"),
        ({"name": "demo/nope"}, "demo/recall, demo/translate"),
    ],
)
def test_wrong_names(arguments, message):
    with pytest.raises(AttriflowError, match=message.replace("[", r"\[")):
        open_dataset(**arguments)


def test_demo():
    rows = open_dataset("demo/recall", split="train[:3]")
    assert {"input", "target", "rationale"} <= set(rows.columns) and len(list(rows.read())) == 3


@pytest.mark.parametrize("total", [0, 1, 7, 100])
@pytest.mark.parametrize("low", [None, "0", "3", "-2", "10%", "99%"])
@pytest.mark.parametrize("high", [None, "5", "-1", "50%", "100%"])
def test_splits_are_slices(total, low, high):
    split = Split.parse(f"test[{low or ''}:{high or ''}]")
    ends = [None if e is None else round(int(e[:-1]) * total / 100) if "%" in e else int(e) for e in (low, high)]
    assert list(range(total))[slice(*split.bounds(total))] == list(range(total))[slice(*ends)]


class TestHuggingFace:
    @pytest.fixture(autouse=True)
    def _cache(self, tmp_path, monkeypatch):
        datasets = pytest.importorskip("datasets")
        monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
        datasets.disable_progress_bars()

    def test_a_folder_and_a_builder_with_options(self, tmp_path):
        (tmp_path / "data").mkdir()
        write(tmp_path / "data" / "train.csv")
        rows = open_dataset(str(tmp_path / "data"), split="train[10:20]")
        assert rows.columns == ("id", "text") and len(rows) == 10
        assert [r["id"] for r in rows.read(4)] == [14, 15, 16, 17, 18, 19]  # pandas reads numbers
        (tmp_path / "semicolons.csv").write_text("a;b\n1;x\n2;y\n")
        rows = open_dataset("csv", files=[str(tmp_path / "semicolons.csv")], options={"delimiter": ";"})
        assert list(rows.read()) == [{"a": 1, "b": "x"}, {"a": 2, "b": "y"}]
        assert rows.identity()["rows"] == 2

    def test_saved_to_disk(self, tmp_path):
        import datasets

        made = datasets.Dataset.from_list(ROWS)
        datasets.DatasetDict({"test": made}).save_to_disk(str(tmp_path / "saved"))
        rows = open_dataset(str(tmp_path / "saved"), split="test[690:]")
        assert list(rows.read()) == ROWS[690:]
        with pytest.raises(InputError, match="there are test"):
            open_dataset(str(tmp_path / "saved"), split="train")

    def test_unknown(self):
        with pytest.raises(InputError, match="cannot load the data set 'no/such_thing'") as found:
            open_dataset("no/such_thing")
        assert "\n" not in str(found.value)


def test_without_datasets_installed(monkeypatch):
    import sys

    from attriflow.errors import MissingExtraError

    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingExtraError, match=r"attriflow\[datasets\]"):
        open_dataset("no/such_thing")

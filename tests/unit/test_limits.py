"""Files that unpack to more than there is memory, and files that are no rows at all."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
import zipfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save_file

import attriflow
from attriflow.context.result import load as load_context
from attriflow.datasets import limits, open_dataset
from attriflow.errors import InputError
from attriflow.regression.benchmarks import read_benchmarks
from attriflow.tracking.artifacts import read_table


@pytest.fixture
def limit(monkeypatch):
    def set_to(n: int) -> None:
        monkeypatch.setenv(limits.VARIABLE, str(n))

    return set_to


def rows_of(path) -> list:
    return list(open_dataset(str(path)).read())


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl"])
def test_a_bomb(suffix, tmp_path, limit):
    """20 MB in 20 kB, as many rows and as one: the error comes when the limit is reached."""
    limit(5_000_000)
    head = b"text\n" if suffix != ".jsonl" else b""
    row = b'{"text": "aaaaaaaaaaaaaaa"}\n' if suffix == ".jsonl" else b"a" * 49 + b"\n"
    for name, content in (("rows", head + row * (20_000_000 // len(row))), ("one", head + b"a" * 20_000_000)):
        path = tmp_path / f"{name}{suffix}.gz"
        path.write_bytes(gzip.compress(content, 1))
        with pytest.raises(InputError, match=r"unpacks to more than 5,000,000 bytes|has a row of over 312,500"):
            rows_of(path)
    plain = tmp_path / f"plain{suffix}"  # of any size, a few rows at a time
    plain.write_bytes(head + row * (8_000_000 // len(row)))
    assert len(open_dataset(str(plain))) == 8_000_000 // len(row)


_AGREEMENT = b"orig_sentence\tsubj_index\tverb_index\tverb_pos\n"


def test_agreement_data(tmp_path, limit):
    limit(1_000_000)
    path = tmp_path / "a.tsv.gz"
    path.write_bytes(gzip.compress(_AGREEMENT + b"the dog barks\t2\t3\tVBZ\n" * 200_000))
    with pytest.raises(InputError, match=r"unpacks to more than 1,000,000 bytes: the limit .*_BYTES sets"):
        open_dataset(f"agreement:{path}")


def test_columns_of_equal_values(tmp_path, limit):
    """A million equal numbers are a few bytes, by the file's own account, too."""
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"n": pa.array([7] * 1_000_000), "text": ["x"] * 1_000_000}), path)
    assert path.stat().st_size < 20_000
    limit(10_000_000)
    with pytest.raises(InputError, match="has a row group of 16,000,000 bytes"):
        rows_of(path)
    with pytest.raises(InputError, match="unpacks to 16,000,000 bytes"):
        read_table(path)


def test_large_equal_texts_are_read_few_at_a_time(tmp_path, limit):
    """Stored once, they are 51 MB as rows; a batch has as many as fit."""
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": ["x" * 200_000] * 256}), path)
    limit(2_000_000)
    with pq.ParquetFile(path) as file:
        sizes = {len(batch) for batch in limits.batches(file, path, 256)}
    assert max(sizes) <= 10
    assert sum(len(row["text"]) for row in open_dataset(str(path)).read()) == 51_200_000


def test_files_that_are_read_as_a_whole(tmp_path, limit):
    limit(100_000)
    content = {"format": 2, "attributions": [], "benchmarks": [], "results": [], "filler": "x" * 30_000}
    path = tmp_path / "a.json"
    path.write_text(json.dumps(content))
    (tmp_path / "list.json").write_text(json.dumps([{"text": "x" * 30} for _ in range(1000)], indent=1))
    save_file({"a": torch.zeros(30_000)}, tmp_path / "a.safetensors")
    for read in (
        lambda: attriflow.load(path),
        lambda: attriflow.load(tmp_path / "a.safetensors"),
        lambda: read_benchmarks(path),
        lambda: load_context(path),
        lambda: rows_of(tmp_path / "list.json"),
        lambda: read_table(path),
        lambda: open_dataset(f"hatexplain:{path}"),
    ):
        with pytest.raises(InputError, match=r"the limit is 100,000 bytes in memory, which ATTRIFLOW_MAX_BYTES sets"):
            read()
    limit(1_000_000)
    assert list(attriflow.load(path)) == [] and len(rows_of(tmp_path / "list.json")) == 1000


def test_the_limit_is_a_number(monkeypatch):
    for wrong in ("4GB", "0", "-1"):
        monkeypatch.setenv(limits.VARIABLE, wrong)
        with pytest.raises(InputError, match="must be a number of bytes"):
            limits.most()
    monkeypatch.delenv(limits.VARIABLE)
    assert limits.most() == 2**30


def archives() -> dict[str, bytes]:
    zipped, tarred = io.BytesIO(), io.BytesIO()
    with zipfile.ZipFile(zipped, "w") as file:
        file.writestr("a.csv", "text\na\n")
    with tarfile.open(fileobj=tarred, mode="w") as file:
        file.addfile(tarfile.TarInfo("a.csv"))
    return {
        "a zip archive": zipped.getvalue(),
        "a tar archive": tarred.getvalue(),
        "a gzip archive": gzip.compress(b"a"),
    }


WRONG = {
    **archives(),
    "a web page": b"\xef\xbb\xbf\n <!DOCTYPE html><html><body>404: not found</body></html>",
    "a web page (HTML or XML)": b"<html>\n<head><title>Sign in</title></head>\n</html>\n",
    "a binary file": b"text\n\x00\x01\n",
}


@pytest.mark.parametrize("kind", WRONG)
def test_no_rows_at_all(kind, tmp_path):
    """None of these is a data set of 0 rows, or of one column named `<!DOCTYPE html>`."""
    for suffix in (".csv", ".tsv", ".jsonl", ".csv.gz"):
        path = tmp_path / f"a{suffix}"
        path.write_bytes(gzip.compress(WRONG[kind]) if suffix.endswith(".gz") else WRONG[kind])
        with pytest.raises(InputError) as error:
            open_dataset(str(path))
        assert f"{path}: it is {kind}" in str(error.value) and "not text with a row per line" in str(error.value)


def test_text_that_only_looks_like_it(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("text,html\n<p>a,PK\n", encoding="utf-8-sig")
    assert rows_of(path) == [{"text": "<p>a", "html": "PK"}]

"""Data sets through a model: order, failures, resumption, and a process that dies at any step of the journal."""

from __future__ import annotations

import functools
import itertools
import json
import os
from pathlib import Path

import pytest
import torch

import attriflow
from attriflow import io
from attriflow.datasets import open_dataset
from attriflow.errors import InputError, OptionError, UnknownNameError
from attriflow.io import files
from attriflow.output import AttributionOutput
from attriflow.streaming import Fields, attribute_dataset
from attriflow.streaming import run as streaming_run
from attriflow.streaming.journal import Journal
from attriflow.streaming.rows import explain_window
from attriflow.streaming.windows import WindowExplainer
from attriflow.types import Attribution, Provenance, Token
from attriflow.workers import Done
from attriflow.workers.units import do

SUFFIXES = (".jsonl", ".json", ".parquet", ".safetensors", ".html")
CLOCK = itertools.count(1)


def explain(input_texts, generated_texts=None):
    """One token per character; "bad" cannot be explained. The time taken differs from call to call, as it does."""
    if any("bad" in text for text in input_texts):
        raise InputError("bad text")
    out = []
    for text in input_texts:
        inputs = tuple(Token(text=c, id=ord(c), start=i, end=i + 1) for i, c in enumerate(text))
        scores = torch.tensor([[ord(c) / 7 for c in text]], dtype=torch.float32)
        target = (Token(text="x", id=1, segment="generated"),)
        how = Provenance(method="stub", seconds=float(next(CLOCK)))
        out.append(Attribution(scores=scores, inputs=inputs, targets=target, provenance=how, input_text=text))
    return AttributionOutput(out)


@pytest.mark.filterwarnings("ignore:no steps for")
def test_a_row_with_nothing_to_explain_fails_as_it_does_alone():
    model = attriflow.load_model("demo/recall", "dummy")
    rows = [{"text": "anna has a", "target": f"anna has a{more}"} for more in (" red", "", " hat")]
    fields = Fields(inputs="text", targets="target")
    results = explain_window(rows, fields, functools.partial(model.attribute, show_progress=False))
    assert [type(r).__name__ for r in results] == ["list", "NothingToExplainError", "list"]
    assert str(results[1]) == str(explain_window(rows[1:2], fields, model.attribute)[0])


def test_a_window_says_when_memory_ran_out_for_a_row():
    def full(input_texts, **more):
        if "long" in input_texts:
            raise torch.OutOfMemoryError("no room")
        return explain(input_texts)

    rows = [{"text": text} for text in ("one", "long", "bad", "four")]
    work = WindowExplainer(load=lambda: full, fields=Fields(inputs="text"), run="run")()
    found = do(work, (0, rows))
    assert found.no_memory and found.error is None  # tried again elsewhere; what stands in the end is this
    assert found.result.wrong == [(1, "OutOfMemoryError: no room"), (2, "bad text")]
    assert len(found.result.block) == 4
    assert not do(work, (0, rows[2:])).no_memory


@pytest.fixture
def data(tmp_path):
    """40 rows; rows 7 and 25 fail, row 12 has no text."""
    texts = [f"text {i}" for i in range(40)]
    texts[7], texts[25], texts[12] = "bad", "also bad", " "
    path = tmp_path / "data.csv"
    path.write_text("text,id\n" + "".join(f"{t},{i}\n" for i, t in enumerate(texts)))
    return path


def run(data, output=None, split="train", **options):
    return attribute_dataset(open_dataset(str(data), split=split), lambda: explain, output=output, window=8, **options)


def left(folder: Path, *kept: str) -> list[str]:
    return sorted(p.name for p in folder.iterdir() if p.name not in kept)


@pytest.mark.parametrize("suffix", SUFFIXES[:-1])
def test_every_row_once_in_order(suffix, data, tmp_path):
    failures = []
    out = tmp_path / f"out{suffix}"
    summary = run(data, out, on_failure=lambda row, why: failures.append((row, why)))
    assert (summary.rows, summary.failed, summary.resumed) == (40, 3, 0)
    records = list(files.read(out))
    assert [r["row"] for r in records] == list(range(40))
    wrong = {r["row"]: r["error"] for r in records if "error" in r}
    assert (
        wrong
        == dict(failures)
        == {7: "bad text", 12: "'text' must be a text that is not empty, not ' '", 25: "bad text"}
    )
    found = io.load(out)
    assert [a.input_text for a in found] == [f"text {i}" for i in range(40) if i not in wrong]
    torch.testing.assert_close(found[3].scores, explain(["text 3"])[0].scores)
    assert left(tmp_path) == sorted(["data.csv", out.name])


def test_page_and_file_from_one_run(data, tmp_path):
    run(data, tmp_path / "out.jsonl", page=tmp_path / "out.html")
    assert left(tmp_path) == ["data.csv", "out.html", "out.jsonl"]
    assert "text 39" in (tmp_path / "out.html").read_text(encoding="utf-8")


def test_a_page_of_any_name(data, tmp_path):
    for _ in range(2):
        run(data, page=tmp_path / "page", resume=True)
    assert "<html" in (tmp_path / "page").read_text(encoding="utf-8") and left(tmp_path) == ["data.csv", "page"]


def test_only_to_be_shown(data, tmp_path):
    shown = []
    summary = run(data, on_window=lambda attributions: shown.extend(a.input_text for a in attributions))
    assert len(shown) == 37 and summary.failed == 3 and left(tmp_path) == ["data.csv"]


def test_several_sequences_per_row(tmp_path):
    (tmp_path / "d.csv").write_text("text\na\nb\n")
    rows = open_dataset(str(tmp_path / "d.csv"))
    twice = lambda input_texts: [a for a in explain(input_texts) for _ in range(2)]  # noqa: E731
    for suffix in SUFFIXES[:-1]:
        attribute_dataset(rows, lambda: twice, output=tmp_path / f"out{suffix}")
        found = [(r["row"], r["sequence"], r["input_text"]) for r in files.read(tmp_path / f"out{suffix}")]
        assert found == [(0, 0, "a"), (0, 1, "a"), (1, 0, "b"), (1, 1, "b")]


def test_no_rows(tmp_path):
    (tmp_path / "d.csv").write_text("text\n")
    for suffix in SUFFIXES:
        summary = run(tmp_path / "d.csv", tmp_path / f"out{suffix}")
        assert (summary.rows, summary.finished_before) == (0, False) and (tmp_path / f"out{suffix}").exists()


class TestFailures:
    def test_strict(self, data, tmp_path):
        with pytest.raises(InputError, match="row 7: bad text"):
            run(data, tmp_path / "out.jsonl", strict=True)

    def test_nothing_works(self, tmp_path):
        (tmp_path / "d.csv").write_text("text\nbad\nbad\n")
        with pytest.raises(InputError, match="none of the first 2 rows can be explained; row 0: bad text"):
            run(tmp_path / "d.csv", tmp_path / "out.jsonl")

    def test_settings_are_not_rows(self, data):
        def wrong(input_texts):
            calls.append(len(input_texts))
            raise OptionError("unknown option")

        calls = []
        with pytest.raises(OptionError):
            attribute_dataset(open_dataset(str(data)), lambda: wrong)
        assert len(calls) == 1

    def test_any_error_of_a_row(self, tmp_path):
        def fragile(input_texts):
            if "b" in input_texts:
                raise RuntimeError("shape\nmismatch")
            return explain(input_texts)

        (tmp_path / "d.csv").write_text("text\na\nb\nc\n")
        rows = open_dataset(str(tmp_path / "d.csv"))
        attribute_dataset(rows, lambda: fragile, output=tmp_path / "out.jsonl")
        assert [r.get("error") for r in files.read(tmp_path / "out.jsonl")] == [
            None,
            "RuntimeError: shape mismatch",
            None,
        ]

    def test_columns(self, data):
        with pytest.raises(UnknownNameError, match=r"did you mean 'text'\? Allowed: id, text"):
            run(data, fields=Fields(inputs="txt"))
        with pytest.raises(InputError, match="name the column of input texts; there are a, b"):
            Fields().resolved(("a", "b"))
        assert Fields().resolved(("a",)).inputs == "a" and Fields().resolved(("a", "input")).inputs == "input"

    def test_chats(self):
        chat = [{"role": "user", "content": "hi"}]
        assert Fields(inputs="m").texts({"m": chat}) == {"input_texts": chat}
        with pytest.raises(InputError, match="must be a text"):
            Fields(inputs="m", targets="m").texts({"m": chat})

    def test_files_that_need_memory(self, tmp_path):
        class Many(type(open_dataset("demo/recall"))):
            def __len__(self):
                return 1_000_000

        rows = open_dataset("demo/recall")
        rows.__class__ = Many
        with pytest.raises(InputError, match=r"1,000,000 rows are too many for a \.safetensors file"):
            attribute_dataset(rows, lambda: explain, output=tmp_path / "a.safetensors")


class Killed(BaseException):
    """Nobody catches it, as nobody catches SIGKILL."""


class Dying:
    """Raises `Killed` at the n-th step that changes a file: before it, or right after it."""

    def __init__(self, monkeypatch, at):
        self.left, self.after = at // 2, at % 2
        for owner, name in ((os, "fsync"), (Path, "replace"), (Path, "unlink"), (Journal, "_lock")):
            monkeypatch.setattr(owner, name, self.step(getattr(owner, name)))

    def step(self, function):
        def call(*arguments, **options):
            self.left -= 1
            if self.left == -1 and not self.after:
                raise Killed
            out = function(*arguments, **options)
            if self.left == -1:
                raise Killed
            return out

        return call


@pytest.mark.parametrize(
    "suffix", [s if s in (".jsonl", ".parquet") else pytest.param(s, marks=pytest.mark.slow) for s in SUFFIXES]
)
def test_killed_at_every_step(suffix, data, tmp_path, monkeypatch):
    whole, out = tmp_path / f"whole{suffix}", tmp_path / f"out{suffix}"
    run(data, whole, "train[:20]")
    expected = whole.read_bytes()
    for at in itertools.count():
        died = 0
        for again in (True, True, False):  # dies twice at the same step of each process, then is left alone
            with monkeypatch.context() as patches:
                if again:
                    Dying(patches, at)
                try:
                    run(data, out, "train[:20]", resume=True)
                except Killed:
                    died += 1
        assert out.read_bytes() == expected, at
        assert left(tmp_path, "data.csv", whole.name) == [out.name], at
        if not died:
            break
        out.unlink()
    assert at >= 26  # before and after each of: lock, three writes per window, the last two moves


@pytest.mark.slow
def test_windows_in_processes(data, tmp_path):
    run(data, tmp_path / "local.jsonl")
    options = {"window": 8, "engine": "processes", "workers": 1}
    load = functools.partial(functools.partial, explain)
    out = attribute_dataset(open_dataset(str(data)), load, output=tmp_path / "there.jsonl", **options)
    assert (out.rows, out.failed, list(out.pace)) == (40, 3, ["process 1"])
    lines = (tmp_path / "there.jsonl").read_text().splitlines()
    assert lines == (tmp_path / "local.jsonl").read_text().splitlines()


def test_a_window_whose_workers_are_lost(data, tmp_path, monkeypatch):
    def losing(factory, units, **options):
        work = factory()
        for unit in units:
            lost = unit.id == "16"
            yield Done(unit, None if lost else work(unit.payload), "lost its worker" if lost else None, "worker", 0.0)

    run(data, tmp_path / "whole.jsonl")
    monkeypatch.setattr(streaming_run, "run_units", losing)
    failures = []
    assert run(data, tmp_path / "out.jsonl", on_failure=lambda row, why: failures.append(row)).failed == 11
    assert failures == [7, 12, *range(16, 24), 25]
    records = list(files.read(tmp_path / "out.jsonl"))
    assert [r["row"] for r in records] == list(range(40)) and records[16]["error"] == "lost its worker"
    kept = [r for r in files.read(tmp_path / "whole.jsonl") if not 16 <= r["row"] < 24]
    assert [r for r in records if not 16 <= r["row"] < 24] == kept


class TestResume:
    @pytest.fixture
    def interrupted(self, data, tmp_path):
        """Two windows are done, and a third one has been begun."""
        out = tmp_path / "out.jsonl"

        def stop(_):
            if next(calls) == 2:
                raise Killed

        calls = itertools.count()
        with pytest.raises(Killed):
            run(data, out, on_window=stop)
        assert json.loads((tmp_path / "out.jsonl.state").read_text())["rows"] == 24
        assert not out.exists()
        return out

    def test_goes_on_where_it_stopped(self, interrupted, data):
        seen = []
        summary = run(data, interrupted, resume=True, on_window=seen.append)
        assert (summary.resumed, summary.rows, summary.failed, len(seen)) == (24, 40, 3, 2)

    def test_half_a_line_is_cut_off(self, interrupted, data, tmp_path):
        with (tmp_path / "out.jsonl.part").open("ab") as f:
            f.write(b'{"row": 24, "input_te')
        run(data, interrupted, resume=True)
        run(data, tmp_path / "whole.jsonl")
        assert interrupted.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()

    def test_is_not_overwritten_by_accident(self, interrupted, data):
        with pytest.raises(InputError, match="pass --resume to go on"):
            run(data, interrupted)

    def test_changed_data(self, interrupted, data):
        data.write_text(data.read_text().replace("text 39", "text 38"))
        with pytest.raises(InputError, match=r"cannot resume .*out\.jsonl: data was .*, now "):
            run(data, interrupted, resume=True)

    def test_changed_options(self, interrupted, data):
        with pytest.raises(InputError, match='method was null, now "occlusion"'):
            run(data, interrupted, resume=True, settings={"method": "occlusion"})

    def test_another_part(self, interrupted, data):
        rows = open_dataset(str(data), split="train[:30]")
        with pytest.raises(InputError, match="cannot resume"):
            attribute_dataset(rows, lambda: explain, output=interrupted, window=8, resume=True)

    def test_damage(self, interrupted, data, tmp_path):
        part, state = tmp_path / "out.jsonl.part", tmp_path / "out.jsonl.state"
        content = part.read_bytes()
        part.write_bytes(content[:-5])
        with pytest.raises(InputError, match="is damaged"):
            run(data, interrupted, resume=True)
        part.write_bytes(content)
        state.write_text("{")
        with pytest.raises(InputError, match="is damaged; delete it"):
            run(data, interrupted, resume=True)

    def test_two_processes(self, interrupted, data):
        pytest.importorskip("fcntl")
        with pytest.raises(InputError, match="another process is writing"):
            run(data, interrupted, resume=True, on_window=lambda _: run(data, interrupted, resume=True))

    @pytest.mark.parametrize("begun", [True, False])
    def test_another_process_finishes_before_the_lock(self, begun, interrupted, data, tmp_path, monkeypatch):
        out = interrupted
        if not begun:
            for name in ("out.jsonl.part", "out.jsonl.state"):
                (tmp_path / name).unlink()
        lock = Journal._lock

        def late(journal):
            monkeypatch.setattr(Journal, "_lock", lock)
            run(data, out, resume=True)
            lock(journal)

        monkeypatch.setattr(Journal, "_lock", late)
        summary = run(data, out, resume=True, on_window=lambda _: pytest.fail("did it again"))
        assert summary.finished_before and summary.resumed == 40 and len(io.load(out)) == 37
        monkeypatch.setattr(Journal, "_lock", late)
        with pytest.raises(InputError, match="exists already"):
            run(data, out := tmp_path / "third.jsonl", on_window=lambda _: pytest.fail("did it again"))
        assert left(tmp_path) == ["data.csv", "out.jsonl", "third.jsonl"]

    def test_another_process_looks_while_one_finishes(self, data, tmp_path, monkeypatch):
        out, unlink, found = tmp_path / "out.jsonl", Path.unlink, []

        def slow(path, *arguments, **options):
            if path.name == "out.jsonl.state" and not found:
                found.append(None)
                found[0] = run(data, out, resume=True)
            unlink(path, *arguments, **options)

        monkeypatch.setattr(Path, "unlink", slow)
        assert not run(data, out).finished_before and found[0].finished_before
        assert left(tmp_path) == ["data.csv", "out.jsonl"]

    def test_finished(self, data, tmp_path):
        for suffix in SUFFIXES:
            out = tmp_path / f"out{suffix}"
            run(data, out)
            before = out.stat()
            summary = attribute_dataset(
                open_dataset(str(data)), lambda: pytest.fail("loaded a model"), output=out, window=8, resume=True
            )
            assert (
                summary.finished_before
                and summary.resumed == summary.rows == 40
                and out.stat().st_mtime_ns == before.st_mtime_ns
            )
            with pytest.raises(InputError, match=r"is finished, but (seed was null, now 1|it was made from)"):
                run(data, out, resume=True, settings={"seed": 1})
        with pytest.raises(InputError, match="exists already; pass overwrite=True"):
            run(data, tmp_path / "out.jsonl", settings={"seed": 1})
        run(data, tmp_path / "out.jsonl", settings={"seed": 1}, overwrite=True)
        assert len(io.load(tmp_path / "out.jsonl")) == 37

    @pytest.mark.parametrize("resume", [False, True])
    def test_a_failure_before_the_first_row_leaves_nothing(self, resume, data, tmp_path):
        out = tmp_path / "out.jsonl"

        def typo():
            raise UnknownNameError("no such model")

        with pytest.raises(UnknownNameError):
            attribute_dataset(open_dataset(str(data)), typo, output=out, settings={"model": "typo"}, resume=resume)
        assert left(tmp_path, "data.csv") == []
        # killed there, it leaves a run without rows, which is in nobody's way either
        with Journal(out, {"model": "typo"}) as killed:
            killed.open(False, lambda _: None)
        assert left(tmp_path, "data.csv") == ["out.jsonl.part", "out.jsonl.state"]
        run(data, out, resume=resume)
        assert left(tmp_path, "data.csv") == ["out.jsonl"]

    def test_overwrite_begins_anew(self, interrupted, data, tmp_path):
        assert run(data, interrupted, settings={"seed": 1}, overwrite=True).resumed == 0
        assert left(tmp_path, "data.csv") == ["out.jsonl"]

    def test_files_of_others_beside_it(self, data, tmp_path):
        (tmp_path / "out.jsonl.part").write_text("MINE")
        for options in ({}, {"resume": True}, {"overwrite": True}):
            with pytest.raises(InputError, match="part is in the way"):
                run(data, tmp_path / "out.jsonl", **options)
        (tmp_path / "page.html").write_text("MINE")
        with pytest.raises(InputError, match=r"page\.html exists already"):
            run(data, tmp_path / "b.jsonl", page=tmp_path / "page.html", resume=True)
        assert left(tmp_path, "data.csv") == ["out.jsonl.part", "page.html"]
        assert (tmp_path / "out.jsonl.part").read_text() == (tmp_path / "page.html").read_text() == "MINE"


class TestWhatDecidesARow:
    """The same names, and something else behind them."""

    @pytest.fixture
    def base(self, tmp_path, monkeypatch):
        import shutil

        from attriflow.demo import demo_path

        monkeypatch.chdir(tmp_path)
        shutil.copytree(demo_path("demo/translate"), "model")
        (tmp_path / "d.csv").write_text("en\nthe red house\na dog\n")
        given = "-m model -d d.csv -in en --hide --device cpu -a dummy -o out.jsonl --resume"
        return ["attribute-dataset", *given.split()]

    @staticmethod
    def command(arguments):
        from attriflow.cli import main

        with pytest.raises(SystemExit) as stop:
            main(arguments)
        return stop.value.code

    def test_contents_of_the_model(self, base, tmp_path, capsys):
        assert self.command(base) == 0
        assert self.command(base) == 0 and "complete already" in capsys.readouterr().err
        first = json.loads((tmp_path / "out.jsonl").read_text().splitlines()[0])
        assert first["settings"]["model"] == "model" and "model file model.safetensors" in first["settings"]
        for name in ("model.safetensors", "tokenizer.json", "chat_template.jinja"):
            path = tmp_path / "model" / name
            before, times = (path.read_bytes(), path.stat()) if path.exists() else (None, None)
            changed = bytearray(before or b"{{ messages }} ")
            changed[-1] ^= 1  # of the same size, and as old
            path.write_bytes(changed)
            if times is not None:
                os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
            assert self.command(base) == 1
            assert f"model file {name} was" in capsys.readouterr().err
            path.unlink() if before is None else path.write_bytes(before)
        assert self.command(base) == 0

    @pytest.mark.parametrize("suffix", ["json", "parquet", "safetensors"])
    def test_what_was_compared_is_in_the_file(self, base, suffix, capsys):
        given = [word.replace("jsonl", suffix) for word in base]
        assert self.command(given) == 0
        assert self.command([*given, "--seed", "3"]) == 1
        assert "is finished, but seed was 0, now 3" in capsys.readouterr().err

    def test_source_of_functions(self, base, tmp_path, capsys):
        given = [*base, "--step-scores", "own.py:own"]
        source = "def own(forward):\n    return 2 * forward.of_target(forward.logits)\n"
        (tmp_path / "own.py").write_text(source)
        assert self.command(given) == 0, capsys.readouterr().err
        (tmp_path / "own.py").write_text(source.replace("2", "3"))
        assert self.command(given) == 1
        assert "step function own.py:own was" in capsys.readouterr().err

    def test_secrets_are_not_written(self):
        from attriflow.streaming.deciding import without_secrets

        assert without_secrets({"token": "x", "use_auth_token": "y", "revision": "z"}) == {"revision": "z"}

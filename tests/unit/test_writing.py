"""Outputs: whole or not at all, with ordinary permissions, over nothing that nobody asked to replace."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import socket
import stat
from pathlib import Path

import pytest
import torch
from matplotlib.figure import Figure

from attriflow import io
from attriflow.cli import main
from attriflow.errors import InputError
from attriflow.io.writing import check_outputs, write_content, write_with
from attriflow.output import AttributionOutput
from attriflow.types import Attribution, Provenance, Token
from attriflow.views.figures import save_figure

OUT = AttributionOutput(
    [
        Attribution(
            scores=torch.rand(20, 60, dtype=torch.float64),
            inputs=tuple(Token(text=f"t{i}", id=i, segment="source") for i in range(60)),
            targets=tuple(Token(text="y", id=1, segment="generated") for _ in range(20)),
            provenance=Provenance(method="m"),
        )
    ]
)
SAVE = {
    **dict.fromkeys(("a.json", "a.jsonl", "a.parquet", "a.safetensors", "a.html"), OUT.save),
    "a.png": lambda path, **options: save_figure(Figure(), path, **options),
}


@contextlib.contextmanager
def file_size(most: int):
    """No file may grow beyond so many bytes: what a full disk does, without one."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture
def umask():
    before = os.umask(0)
    yield os.umask
    os.umask(before)


@pytest.mark.parametrize("name", SAVE)
@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_permissions_are_those_of_the_umask(name, mask, tmp_path, umask):
    umask(mask)
    path = SAVE[name](tmp_path / name)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~mask
    assert [p.name for p in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("name", SAVE)
def test_an_existing_file_only_when_asked(name, tmp_path):
    path = tmp_path / name
    path.write_text("MINE")
    with pytest.raises(InputError, match=r"exists already; pass overwrite=True \(--overwrite\)"):
        SAVE[name](path)
    assert path.read_text() == "MINE"
    SAVE[name](path, overwrite=True)
    assert path.read_bytes() != b"MINE" and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("name", SAVE)
def test_no_room(name, tmp_path):
    path = tmp_path / name
    path.write_text("old")
    beside = tmp_path / f"{name}.tmp"
    beside.write_text("another process's")
    with file_size(300), pytest.raises(InputError, match=f"cannot write .*{name}: .*[Ff]ile too large"):
        SAVE[name](path, overwrite=True)
    assert path.read_text() == "old" and beside.read_text() == "another process's"
    assert len(list(tmp_path.iterdir())) == 2


def kinds(folder: Path) -> dict[str, Path]:
    """What is no regular file, of every kind that this user may make."""
    (folder / "file").write_text("far")
    (folder / "link").symlink_to(folder / "file")
    (folder / "dangling").symlink_to(folder / "nothing")
    (folder / "folder").mkdir()
    os.mkfifo(folder / "pipe")
    here = os.open(".", os.O_RDONLY)
    os.chdir(folder)  # addresses of sockets are short
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket")
    os.fchdir(here)
    os.close(here)
    found = {name: folder / name for name in ("link", "dangling", "folder", "pipe", "socket")}
    with contextlib.suppress(PermissionError):
        os.mknod(folder / "device", 0o666 | stat.S_IFCHR, os.makedev(1, 3))  # a null device of our own
        found["device"] = folder / "device"
    return found


def test_what_is_no_file_is_never_replaced(tmp_path):
    for name, path in kinds(tmp_path).items():
        before = os.lstat(path)
        for overwrite in (False, True):
            for attempt in (
                lambda path=path, o=overwrite: OUT.save(path, overwrite=o),
                lambda path=path, o=overwrite: check_outputs([path], o),
                lambda path=path, o=overwrite: write_content("x", path, overwrite=o),
            ):
                with pytest.raises(InputError, match="which is never replaced"):
                    attempt()
        after = os.lstat(path)
        assert (after.st_ino, after.st_mode, after.st_mtime_ns) == (
            before.st_ino,
            before.st_mode,
            before.st_mtime_ns,
        ), name
    assert (tmp_path / "file").read_text() == "far" and not (tmp_path / "nothing").exists()
    assert not list(tmp_path.glob(".attriflow*"))


def test_a_file_that_appears_meanwhile_stays(tmp_path):
    path = tmp_path / "a"

    def slow(free: Path) -> None:
        free.write_text("ours")
        path.write_text("theirs")

    with pytest.raises(InputError, match="exists already"):
        write_with(slow, path)
    assert path.read_text() == "theirs" and len(list(tmp_path.iterdir())) == 1


def test_file_systems_without_hard_links(tmp_path, monkeypatch):
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    assert write_content("ours", tmp_path / "a").read_text() == "ours"
    with pytest.raises(InputError, match="exists already"):
        write_content("again", tmp_path / "a")
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_outputs_are_checked_without_a_trace(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    check_outputs([tmp_path / "new" / "deep" / "a.json", None, tmp_path / "b.json"])
    for path, message in (
        (tmp_path / "file" / "a.json", "Not a directory"),
        (tmp_path / ("n" * 300), "File name too long"),
        (tmp_path / "a\0b", "null"),
    ):
        with pytest.raises(InputError, match=f"cannot write .*{message}"):
            check_outputs([path])
    with pytest.raises(InputError, match="named for two outputs"):
        check_outputs([tmp_path / "a", tmp_path / "a"])
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
    with file_size(1000), pytest.raises(InputError, match="cannot write"):  # less room than a disk must have
        check_outputs([tmp_path / "a"])

    def refuse(*_: object, **options: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "touch", refuse)
    with pytest.raises(InputError, match=r"cannot write .*a: Permission denied"):
        check_outputs([tmp_path / "a"])
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


COMMANDS = {
    "attribute": ["attribute", "-m", "demo/recall", "-i", "a", "--output"],
    "attribute, page": ["attribute", "-m", "demo/recall", "-i", "a", "--viz-path"],
    "attribute-dataset": ["attribute-dataset", "-m", "demo/recall", "-d", "demo/recall", "--output"],
    "attribute-dataset, page": ["attribute-dataset", "-m", "demo/recall", "-d", "demo/recall", "--viz-path"],
    "attribute-context": ["attribute-context", "-m", "demo/recall", "--input-current-text", "a", "--save-path"],
    "attribute-context, page": ["attribute-context", "-m", "demo/recall", "--input-current-text", "a", "--viz-path"],
    "benchmark": ["benchmark", "-m", "demo/recall", "-d", "demo/recall", "--output"],
    "leaderboard": ["leaderboard", "-e", "x", "--output"],
    "check": ["check", "--baseline", "no.json", "--current", "no.json", "--junit"],
    "convert": ["convert", "no.json"],
}


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_every_command_looks_at_its_outputs_first(command, tmp_path, monkeypatch, capsys):
    """Before a model, data or a store is opened: each of these would be an error of its own here."""
    for module in ("model.load_model", "datasets.opening.open_dataset", "tracking.leaderboard.leaderboard"):
        monkeypatch.setattr(f"attriflow.{module}", lambda *_, **__: pytest.fail("the work began"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.json").write_text("MINE")
    (tmp_path / "folder.json").mkdir()
    (tmp_path / "link.json").symlink_to("mine.json")
    for name, why in (
        ("mine.json", "exists already"), ("folder.json", "is a folder"), ("link.json", "is a symbolic link"),
        ("mine.json/a.json", "Not a directory"),
    ):  # fmt: skip
        with pytest.raises(SystemExit) as stop:
            main([*command, name])
        error = capsys.readouterr().err
        assert stop.value.code in (1, 2) and why in error and error.count("\n") == 1, error
    assert (tmp_path / "mine.json").read_text() == "MINE"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["folder.json", "link.json", "mine.json"]


def test_the_demo_updates_its_own_folder_only(tmp_path, capsys):
    (tmp_path / "report.html").write_text("MINE")
    with pytest.raises(SystemExit) as stop:
        main(["demo", "--output", str(tmp_path)])
    assert stop.value.code == 1 and "report.html exists already" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]


def test_names_of_formats_are_still_checked(tmp_path):
    with pytest.raises(InputError, match="cannot tell the format"):
        io.save(OUT, tmp_path / "a.txt")

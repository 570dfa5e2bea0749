"""A disk that is full at a random moment of writing. The table of docs/reliability.md.

sudo unshare --mount python benchmarks/full_disks.py --trials 60   # mounts small disks, which nobody else sees

Every trial writes one kind of output to a disk of random size, over an older file where there may be one. A data-set
run is then resumed on a larger disk.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from reliability import ended, started, table

SHORT = ["-a", "dummy", "--device", "cpu", "--hide"]
TEXT = ["attribute", "-m", "demo/translate", *SHORT, "-i", *["the red house"] * 60, "-g", *["la casa rossa"] * 60]
ROWS = ["attribute-dataset", "-m", "demo/translate", "-d", "demo/translate", "-in", "input", "--split", "train[:40]"]
ROWS += [*SHORT, "-gen", "target", "-bs", "1"]
SUFFIXES = (".jsonl", ".json", ".parquet", ".safetensors", ".html")
KINDS = [(name, suffix) for suffix in SUFFIXES for name in ("attribute", "attribute-dataset")]
OLD = "an older file\n"
PAGE = 4096


@contextlib.contextmanager
def disk(folder: Path, size: int) -> Iterator[Path]:
    """A disk of so many bytes."""
    folder.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def command(kind: str, output: Path) -> list[str]:
    return [*(TEXT if kind == "attribute" else ROWS), "-o", str(output)]


def run(arguments: list[str], log: Path) -> tuple[int, list[str]]:
    """Exit code, and the lines that it said about an error."""
    code = ended(started(arguments, log))
    said = log.read_text(errors="replace").splitlines()
    return code, [line for line in said if line.startswith(("error:", "Traceback"))]


def trial(kind: str, suffix: str, whole: bytes, folder: Path, draw: random.Random) -> dict[str, object]:
    """One full disk."""
    room = len(whole) * (1 if kind == "attribute" else 2) + 4 * PAGE  # with the journal of a data-set run
    with disk(folder / "disk", PAGE * draw.randint(1, room // PAGE)) as place:
        output, old = place / f"out{suffix}", kind == "attribute"
        if old:
            output.write_text(OLD)
        code, errors = run([*command(kind, output), *(["--overwrite"] if old else [])], folder / "log")
        names = {p.name for p in place.iterdir()}
        found: dict[str, object] = {
            "full": code != 0,
            "one line": code == 1 and len(errors) == 1 and errors[0].startswith("error: cannot write"),
            "left": bool(names - {output.name, f"{output.name}.part", f"{output.name}.state"}),
            "old": output.read_text(errors="replace") == OLD if old else not output.exists(),
        }
        if code and not old:
            subprocess.run(["mount", "-o", f"remount,size={4 * room + (1 << 20)}", str(place)], check=True)
            code, _ = run([*command(kind, output), "--resume"], folder / "log")
            found["same"] = code == 0 and output.read_bytes() == whole and [*place.iterdir()] == [output]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    import torch

    import attriflow
    import attriflow.views.html

    torch.set_num_threads(1)
    attriflow.load_model("demo/translate")
    draw, found = random.Random(options.seed), {kind: list[dict[str, object]]() for kind in KINDS}
    with tempfile.TemporaryDirectory(prefix="full-disks-") as name:
        folder, whole = Path(name), dict[tuple[str, str], bytes]()
        for i, (kind, suffix) in enumerate(itertools.islice(itertools.cycle(KINDS), options.trials)):
            if (kind, suffix) not in whole:
                output = folder / f"{kind}{suffix}"
                code, errors = run(command(kind, output), folder / "log")
                if code:
                    sys.exit(f"exit code {code}: {errors}")
                whole[kind, suffix] = output.read_bytes()
            found[kind, suffix].append(trial(kind, suffix, whole[kind, suffix], folder, draw))
            print(f"{i + 1}/{options.trials} {kind} {suffix}: {found[kind, suffix][-1]}", file=sys.stderr, flush=True)
    rows = []
    for (kind, suffix), trials in found.items():
        full = [t for t in trials if t["full"]]
        resumed = [t for t in full if "same" in t]
        rows.append([
            f"`{kind} -o x{suffix}`",
            len(trials),
            len(full),
            *(f"{sum(bool(t[what]) for t in full)} of {len(full)}" for what in ("one line", "old")),
            sum(bool(t["left"]) for t in trials),
            f"{sum(bool(t['same']) for t in resumed)} of {len(resumed)}" if kind != "attribute" else "",
        ])  # fmt: skip
    header = [
        "output",
        "trials",
        "disk was full",
        "said in one line",
        "older file kept, or none",
        "temporary files left",
    ]
    print(table(rows, [*header, "resumed to the same bytes"]))


if __name__ == "__main__":
    main()

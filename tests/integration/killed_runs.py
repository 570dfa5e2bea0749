"""Kills `attriflow attribute-dataset --resume` at random moments until it is done; started by test_kill.py.

The imports are made once; every process is a fork that runs the command from its start, and dies by SIGKILL. Prints, as
JSON, what every trial did.

Usage: python killed_runs.py FOLDER TRIALS ROWS [OPTION ...]
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

SUFFIXES = (".jsonl", ".parquet", ".json", ".safetensors", ".html")
KILLS = 2  # per trial, before the process is left alone


def start(arguments: list[str], log: Path, own_session: bool = False) -> int:
    pid = os.fork()
    if pid:
        return pid
    code = 70
    try:
        if own_session:
            os.setsid()
            signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in the background of a shell
        with log.open("wb") as f:
            os.dup2(f.fileno(), 1)
            os.dup2(f.fileno(), 2)
        from attriflow.cli import main

        main(arguments)
    except SystemExit as stop:
        code = int(stop.code or 0)
    finally:
        os._exit(code)


def wait(pid: int, log: Path) -> None:
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if code != 0:
        sys.exit(f"exit code {code}: {log.read_text(errors='replace')}")


def trial(base: list[str], folder: Path, suffix: str, seconds: float, draw: random.Random) -> dict:
    out, log = folder / f"out{suffix}", folder / "log"
    state = folder / f"out{suffix}.state"
    kills = []
    for _ in range(KILLS):
        pid = start([*base, "-o", str(out), "--resume"], log)
        time.sleep(draw.uniform(0.0, 1.1 * seconds))
        done, _ = os.waitpid(pid, os.WNOHANG)
        if done:
            break
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        kills.append(json.loads(state.read_text())["rows"] if state.exists() else "finished" if out.exists() else None)
    wait(start([*base, "-o", str(out), "--resume"], log), log)
    equal = out.read_bytes() == (folder / f"whole{suffix}").read_bytes()
    left = sorted(p.name for p in folder.glob("out*") if p != out)
    out.unlink()
    return {"suffix": suffix, "rows at each kill": kills, "equal": equal, "left": left}


def main() -> None:
    folder, trials, rows = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    data = folder / "data.csv"
    sentences = [
        f"{a} {j} {n}" for a in ("the", "a") for j in ("red", "small", "old") for n in ("house", "dog", "tree")
    ]
    with data.open("w", encoding="utf-8") as f:
        f.write("en,n\n")
        f.writelines(f"{'' if i % 50 == 7 else sentences[i % 18]},{i}\n" for i in range(rows))
    base = ["attribute-dataset", "-m", "demo/translate", "-d", str(data), "-in", "en", "--hide", "--device", "cpu"]
    base += ["-bs", "2", "--generation-kwargs", '{"max_new_tokens": 3}', *sys.argv[4:]]
    import torch

    import attriflow

    torch.set_num_threads(1)
    attriflow.load_model("demo/translate")  # so that forks need not import what it takes
    seconds = {}
    used = SUFFIXES[: max(1, min(trials, len(SUFFIXES)))]
    for suffix in used:
        begin = time.perf_counter()
        wait(start([*base, "-o", str(folder / f"whole{suffix}")], folder / "log"), folder / "log")
        seconds[suffix] = time.perf_counter() - begin
    draw = random.Random(time.time_ns())
    suffixes = [used[i % len(used)] for i in range(trials)]
    print(json.dumps([trial(base, folder, suffix, seconds[suffix], draw) for suffix in suffixes]))


if __name__ == "__main__":
    main()

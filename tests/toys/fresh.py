"""Code in a process of its own, forked from one that has made the slow imports and nothing else."""

from __future__ import annotations

import multiprocessing
import os
import runpy
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path

SLOW_IMPORTS = ("torch", "transformers", "captum.attr", "pandas", "matplotlib.pyplot", "mlflow.models", "mlflow.pyfunc")


@dataclass(frozen=True)
class Done:
    returncode: int
    stdout: str
    stderr: str


def run_fresh(code: str | Path, folder: Path, *arguments: str, timeout: float = 600) -> Done:
    """
    Run code, or a script with arguments, as a new interpreter in `folder` would.

    Settings that MLflow leaves in the environment are not handed on: the stores and experiments of other tests do not
    exist in this folder.
    """
    if not hasattr(os, "fork"):
        raise RuntimeError("needs fork")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["fresh_imports"])
    out, err = folder / ".stdout", folder / ".stderr"
    process = context.Process(target=_run, args=(code, folder, arguments, out, err))
    process.start()
    process.join(timeout)
    if process.exitcode is None:
        process.kill()
        process.join()
    done = Done(process.exitcode, out.read_text(encoding="utf-8"), err.read_text(encoding="utf-8"))
    out.unlink()
    err.unlink()
    return done


def _run(code: str | Path, folder: Path, arguments: tuple[str, ...], out: Path, err: Path) -> None:
    for number, path in ((1, out), (2, err)):
        with path.open("wb") as file:
            os.dup2(file.fileno(), number)
    # pytest's capture has replaced neither in the server, which these are copies of
    sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", encoding="utf-8", closefd=False, buffering=1)  # noqa: SIM115
    for name in [n for n in os.environ if n.startswith("MLFLOW_") and n != "MLFLOW_ENABLE_ASYNC_TRACE_LOGGING"]:
        del os.environ[name]
    os.chdir(folder)
    status = 0
    try:
        if isinstance(code, Path):
            sys.argv = [str(code), *arguments]
            sys.path.insert(0, str(code.parent))
            runpy.run_path(str(code), run_name="__main__")
        else:
            sys.argv = ["-c"]
            sys.path.insert(0, "")
            # MLflow and dataclasses look a module up by its name
            scope = sys.modules["__main__"].__dict__
            exec(compile(code, "<snippet>", "exec"), scope)
    except SystemExit as stop:
        status = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        if isinstance(stop.code, str):
            print(stop.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)

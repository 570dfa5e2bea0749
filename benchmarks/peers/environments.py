"""Virtual environments of the peers, built once in a cache folder: their pins do not fit beside attriflow's."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

TRANSFORMERS = {"4.57": "transformers==4.57.6", "5": "transformers>=5,<6"}
# Inseq's value zeroing fails on transformers 5; scikit-learn, joblib and nltk are what its methods import
INSEQ = ["inseq==0.7.1", "scikit-learn", "joblib", "nltk", "psutil"]
INTERPRETO = ["interpreto==0.5.0", "psutil"]


def requirements(peer: str, transformers: str) -> list[str] | None:
    """What is installed after torch; None for peers that run in attriflow's own environment."""
    if peer == "inseq":
        return [*INSEQ, TRANSFORMERS[transformers]]
    return INTERPRETO if peer == "interpreto" else None


def python_for(peer: str, folder: Path, transformers: str, torch: str) -> str:
    """The interpreter of a peer, in an environment that is made when it is not there."""
    wanted = requirements(peer, transformers)
    if wanted is None:
        return sys.executable
    name = f"{peer}-transformers-{transformers}" if peer == "inseq" else peer
    home = folder.resolve() / name
    stamp = home / ".complete"
    content = hashlib.sha256("\n".join([torch, *wanted]).encode()).hexdigest()
    python = home / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if stamp.exists() and stamp.read_text() == content:
        return str(python)
    print(f"building the environment '{name}' (once, some minutes): {torch}, {', '.join(wanted)}", flush=True)
    shutil.rmtree(home, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", str(home)], check=True)
    # torch by pip with the user's own settings: which build fits depends on the machine
    _run([str(python), "-m", "pip", "install", "--quiet", *torch.split()])
    uv = shutil.which("uv") or shutil.which("uv", path=str(Path(sys.executable).parent))
    try:
        if uv is None:
            raise FileNotFoundError("uv")
        _run([uv, "pip", "install", "--quiet", "--python", str(python), *wanted])
    except (subprocess.CalledProcessError, FileNotFoundError):
        _run([str(python), "-m", "pip", "install", "--quiet", *wanted])
    stamp.write_text(content)
    return str(python)


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.stderr.write(done.stdout + done.stderr)
        done.check_returncode()

"""Peak memory of an evaluation of many rows, everything that it logs included.

python benchmarks/evaluation_memory.py 10000    # rows, 5 cheap methods, 6 metrics; prints seconds and the peak

The rows are two words each, so that what takes the time is not the model. The evaluation runs in a process of its own.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

METHODS = ("saliency", "input_x_gradient", "attention", "attention_rollout", "random")
METRICS = ("aopc_compr", "aopc_suff", "taucorr_loo", "deletion_auc", "insertion_auc", "logprob_compr")
WORDS = ("the red house", "a small dog", "the old tree", "a red tree", "the small house", "an old dog")


def evaluate(rows: int, folder: Path) -> dict[str, float]:
    """Evaluate in this process; what it took."""
    import pandas as pd
    import torch

    from attriflow.tracking.command import evaluate as run

    torch.set_num_threads(1)
    data = folder / "rows.csv"
    pd.DataFrame([{"en": WORDS[i % 6], "de": "haus"} for i in range(rows)]).to_csv(data, index=False)
    settings = {
        "inputs": "en",
        "methods": ",".join(METHODS),
        "metrics": ",".join(METRICS),
        "step_functions": "probability",
        "throughput": False,
        "device": "cpu",
    }
    begin = time.perf_counter()
    run("demo/translate", str(data), settings, targets="de", tracking_uri=f"sqlite:///{folder}/mlflow.db")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
    return {"rows": rows, "seconds": round(time.perf_counter() - begin, 1), "peak_mb": round(peak, 1)}


def main() -> None:
    """Measure the number of rows that is given."""
    if len(sys.argv) > 2:
        os.chdir(sys.argv[2])
        print(json.dumps(evaluate(int(sys.argv[1]), Path(sys.argv[2]))))
        return
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, os.path.abspath(__file__), *sys.argv[1:], folder], check=True)


if __name__ == "__main__":
    main()

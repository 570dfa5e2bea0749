"""Every registered method on a long input: seconds and peak memory, each in a process of its own.

Usage: ``python benchmarks/long_inputs.py [--methods saliency,attention] [--prompt 4096] [--generated 64]
[--limit 1800] [--out FOLDER]``. The model has random weights in the style of Llama: 4 layers, 256 wide, 4 heads over 2
key-value heads, vocabulary 1,000, float32. Peak memory is the resident memory of the whole process, Python, torch and
model included (their share is printed).
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

VOCABULARY, LAYERS, WIDTH = 1000, 4, 256
SENTENCE = 64
"""Words per sentence of the prompt."""

# Small but sensible: few path points and samples; perturbations of thousands of tokens one by one go by sentence.
# Methods that are not here run with the options that they give for trials.
STEPS, SAMPLES = {"n_steps": 4}, {"n_samples": 4}
OPTIONS: dict[str, dict[str, Any]] = {
    "integrated_gradients": STEPS,
    "layer_integrated_gradients": STEPS,
    "discretized_integrated_gradients": STEPS,
    "sequential_integrated_gradients": {"n_steps": 1, "norms": False},
    "gradient_shap": SAMPLES,
    "smooth_grad": SAMPLES,
    "var_grad": SAMPLES,
    "occlusion": {"unit": "sentence"},
    "feature_ablation": {"unit": "sentence"},
    "lime": {"n_samples": 64},
    "kernel_shap": {"n_samples": 64},
    "context_cite": {"n_samples": 64},
    "shapley_sampling": {"n_samples": 1, "unit": "sentence"},
    "reagent": {"max_probe_steps": 4, "num_probes": 2},
}


def make_model() -> Any:
    """The wrapped model and its word-level tokenizer ("w17" has the id 17)."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    import attriflow

    words = {"<unk>": 0, "<s>": 1, "</s>": 2, ".": 3} | {f"w{i}": i for i in range(4, VOCABULARY)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        intermediate_size=4 * WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=65536,
        initializer_range=WIDTH**-0.5,
    )
    return attriflow.load_model(LlamaForCausalLM(config).eval(), tokenizer=fast)


def make_texts(prompt: int, generated: int) -> tuple[str, str]:
    """Prompt, and prompt with continuation."""
    draw = random.Random(0)
    words = [
        "." if i % SENTENCE == SENTENCE - 1 else f"w{draw.randrange(4, VOCABULARY)}" for i in range(prompt + generated)
    ]
    return " ".join(words[:prompt]), " ".join(words)


def peak() -> float:
    """Largest resident memory of this process so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1.0 if sys.platform == "darwin" else 1024.0)


def work(method: str, options: Mapping[str, Any], prompt: int, generated: int, threads: int) -> None:
    """In the subprocess: run one method, print what it took as the last line."""
    import torch

    torch.set_num_threads(threads)
    model = make_model()
    text, target = make_texts(prompt, generated)
    model.attribute("w5 w6 .", "w5 w6 . w7 w8", method=method, show_progress=False, **options)
    before, begin = peak(), time.perf_counter()
    (found,) = model.attribute(text, target, method=method, show_progress=False, **options)
    seconds = time.perf_counter() - begin
    p = found.provenance
    counts = {"forward_rows": p.forward_rows, "backward_rows": p.backward_rows}
    print(json.dumps({"seconds": seconds, "peak": peak(), "idle": before, "shape": list(found.scores.shape), **counts}))


def watched(command: list[str], limit: float, most: float, threads: int) -> dict[str, Any]:
    """Run a command; ended when it takes too long or too much memory, and then with the peak that was seen."""
    import psutil

    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    begin = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    seen, reason = 0.0, ""
    output: list[str] = []
    reader = threading.Thread(target=lambda: output.extend(process.communicate()), daemon=True)
    reader.start()
    while reader.is_alive():
        reader.join(0.1)
        try:
            seen = max(seen, float(psutil.Process(process.pid).memory_info().rss))
        except psutil.Error:
            continue
        reason = f"more than {limit:g} s" if time.monotonic() - begin > limit else reason
        reason = f"ended above {most / 2**30:g} GiB" if seen > most else reason
        if reason:
            process.kill()
            reader.join()
    if reason:
        return {"peak": seen, "note": reason}
    if process.returncode:
        last = output[1].strip().splitlines()[-1:] or [f"exit status {process.returncode}"]
        return {"peak": seen, "note": last[0][:200]}
    return dict(json.loads(output[0].strip().splitlines()[-1]))


def table(rows: list[dict[str, Any]], bound: float) -> str:
    """Markdown."""
    lines = [
        f"| method | options | seconds | peak GiB | within {bound:g} GiB | passes (products) |",
        "|" + " --- |" * 6,
    ]
    for r in rows:
        seconds = f"{r['seconds']:.1f}" if "seconds" in r else r["note"].replace("|", "/")
        passes = f"{r['forward_rows']:g} ({r['backward_rows']:g})" if "seconds" in r else ""
        options = ", ".join(f"{k}={v}" for k, v in r["options"].items())
        lines.append(
            f"| `{r['method']}` | {options} | {seconds} | {r['peak'] / 2**30:.2f} | {verdict(r, bound)} | {passes} |"
        )
    return "\n".join(lines) + "\n"


def verdict(row: Mapping[str, Any], bound: float) -> str:
    """Whether memory stayed in bounds; a method that was cut short can only be known to have missed them."""
    if row["peak"] > bound * 2**30:
        return "NO"
    return "yes" if "seconds" in row else "so far"


def main() -> int:
    """Measure every method and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--methods", default=None, help="comma-separated; all registered when left out")
    parser.add_argument("--prompt", type=int, default=4096)
    parser.add_argument("--generated", type=int, default=64)
    parser.add_argument("--limit", type=float, default=1800.0, help="seconds per method")
    parser.add_argument("--bound", type=float, default=6.0, help="GiB that a method should stay within")
    parser.add_argument("--most", type=float, default=12.0, help="GiB at which a method is ended")
    parser.add_argument("--options", type=json.loads, default={}, help='JSON: {"occlusion": {"unit": "token"}}')
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=None, help="folder for long_inputs.md and long_inputs.json")
    parser.add_argument("--work", default=None, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        work(options.work, options.options, options.prompt, options.generated, options.threads)
        return 0
    from attriflow.registry import methods

    rows: list[dict[str, Any]] = []
    for name in options.methods.split(",") if options.methods else methods.names():
        chosen = options.options.get(name, OPTIONS.get(name, methods.info(name).meta["trial"]))
        command = [sys.executable, __file__, "--work", name, "--options", json.dumps(chosen)]
        sizes = {"prompt": options.prompt, "generated": options.generated, "threads": options.threads}
        command += [part for k, v in sizes.items() for part in (f"--{k}", str(v))]
        row = {"method": name, "options": chosen}
        row |= watched(command, options.limit, options.most * 2**30, options.threads)
        rows.append(row)
        took = f"{row['seconds']:.1f} s" if "seconds" in row else row["note"]
        print(f"{name}: {took}, {row['peak'] / 2**30:.2f} GiB", file=sys.stderr, flush=True)
        if options.out is not None:
            save(options.out, rows, options)
    print(heading(options) + "\n\n" + table(rows, options.bound))
    idle = [r["idle"] for r in rows if "idle" in r]
    if idle:
        print(f"Python, torch and model alone: {max(idle) / 2**30:.2f} GiB.")
    return 0


def heading(options: argparse.Namespace) -> str:
    """What was measured."""
    return (
        f"{options.prompt:,} prompt + {options.generated:,} generated tokens, {LAYERS} layers, {WIDTH} wide, "
        f"{options.threads} threads"
    )


def save(folder: Path, rows: list[dict[str, Any]], options: argparse.Namespace) -> None:
    """Write what there is so far."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "long_inputs.md").write_text(heading(options) + "\n\n" + table(rows, options.bound))
    setting = {k: getattr(options, k) for k in ("prompt", "generated", "threads", "bound", "limit")}
    (folder / "long_inputs.json").write_text(json.dumps({**setting, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())

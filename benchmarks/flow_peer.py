"""Flow routes of an answer as one span beside FlashTrace 0.1.1's, on the same model and ids: seconds, memory, ranks.

Usage: ``python benchmarks/flow_peer.py --python ENVIRONMENT/bin/python [--lengths 1000,4000]``, where the other
environment has ``pip install torch flashtrace==0.1.1``. Each side runs in a process of its own on one thread; seconds
are the processor's. Prints the table of docs/long-answers.md.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch

SPAN = 100


def ours(folder: Path, ids: list[int]) -> list[float]:
    """Scores of every token before the answer, from attriflow."""
    from dataclasses import replace

    from random_models import NoTokenizer, _tokens
    from transformers import AutoModelForCausalLM

    from attriflow.model import AttributionModel
    from attriflow.models.causal import CausalLM
    from attriflow.types import Example

    hf = AutoModelForCausalLM.from_pretrained(folder).requires_grad_(False)
    model, start = AttributionModel(CausalLM(hf, NoTokenizer(), "random")), len(ids) - SPAN
    text = Example(
        target=_tokens(ids[:start], "prompt") + _tokens(ids[start:], "generated"), start=start, stop=len(ids)
    )
    first = replace(text, target=text.target[:20], start=15, stop=20)  # checks of the model
    model.attribute_examples([first], "information_flow_routes", attributed_fn_args={"logprob": True})

    def work() -> list[float]:
        span = replace(text, spans=((start, len(ids)),))
        found = model.attribute_examples([span], "information_flow_routes", attributed_fn_args={"logprob": True})[0]
        return found.scores[0, :start].tolist()

    return measured(work)


def theirs(folder: Path, ids: list[int]) -> list[float]:
    """The same from FlashTrace: the parts of `calculate_ifr_span` that do not tokenise."""
    from flashtrace.attribution import LLMIFRAttribution
    from flashtrace.core import compute_ifr_sentence_aggregate
    from transformers import AutoModelForCausalLM

    hf = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").requires_grad_(False)
    tracer, tokens = LLMIFRAttribution(hf, None), torch.tensor([ids])

    @torch.no_grad()
    def work() -> list[float]:
        cache, attentions, metadata, weights = tracer._capture_model_state(tokens, torch.ones_like(tokens))
        found = compute_ifr_sentence_aggregate(
            sink_start=len(ids) - SPAN - 1,  # where the answer's first token is read
            sink_end=len(ids) - 2,
            cache=cache,
            attentions=attentions,
            weight_pack=weights,
            params=tracer._build_ifr_params(metadata, len(ids)),
            rotary_emb=metadata.rotary_emb,
        )
        return found.token_importance_total[: len(ids) - SPAN].tolist()

    return measured(work)


def measured(work: Any) -> list[float]:
    """Run, and say what it took on the last line of the output."""
    before = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the highest so far starts from here
    begin = time.process_time()
    scores: list[float] = work()
    seconds = time.process_time() - begin
    print(json.dumps({"seconds": seconds, "gib": (_status("VmHWM") - before) / 2**20, "scores": scores}))
    return scores


def _status(name: str) -> int:
    """A line of the process's status, in KiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def run(python: str, side: str, folder: Path, ids: list[int]) -> dict[str, Any]:
    """One side in a process of its own."""
    command = [python, __file__, "--side", side, "--folder", str(folder)]
    done = subprocess.run(command, input=json.dumps(ids), check=True, stdout=subprocess.PIPE, text=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--python", help="of the environment that has flashtrace")
    parser.add_argument(
        "--lengths", default="1000,4000", help="tokens of prompt and answer; the answer is the last 100"
    )
    parser.add_argument("--side", choices=["ours", "theirs"], help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.side:
        (ours if options.side == "ours" else theirs)(options.folder, json.load(sys.stdin))
        return
    from random_models import Shape, random_examples, random_model

    from attriflow.statistics.ranks import spearman

    shape = Shape("llama", layers=4, width=256, heads=4, vocabulary=1000, positions=16384)
    print("| tokens | attriflow | GiB | FlashTrace 0.1.1 | GiB | rank correlation |\n|" + " --- |" * 6)
    with tempfile.TemporaryDirectory() as name:
        random_model(shape).model.save_pretrained(name)
        for length in map(int, options.lengths.split(",")):
            (text,) = next(random_examples(shape, length - SPAN, SPAN, 1))
            ids = [token.id for token in text.target]
            us, them = run(sys.executable, "ours", Path(name), ids), run(options.python, "theirs", Path(name), ids)
            rank = spearman(*(np.abs(side["scores"]) for side in (us, them)))
            print(
                f"| {length:,} | {us['seconds']:.1f} s | {us['gib']:.2f} | {them['seconds']:.1f} s | {them['gib']:.2f} "
                f"| {rank:.2f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()

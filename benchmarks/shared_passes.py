"""Shared passes against a loop over target steps, on a GPT-2-small-shaped model with random weights.

Usage: ``python benchmarks/shared_passes.py [--prompt 20] [--target 20] [--rounds 3] [--small]``. Both are run in turn
in one process, so the ratio means something on a noisy machine; the scores must agree.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from random_models import NoTokenizer
from transformers import GPT2Config, GPT2LMHeadModel

from attriflow.model import AttributionModel
from attriflow.models.causal import CausalLM
from attriflow.types import Example, Token


def loop_saliency(hf: torch.nn.Module, ids: list[int], start: int) -> list[torch.Tensor]:
    """One forward and one backward per target token."""
    out = []
    for end in range(start, len(ids)):
        embeds = hf.get_input_embeddings()(torch.tensor([ids[:end]])).detach().requires_grad_(True)
        probability = hf(inputs_embeds=embeds, use_cache=False).logits[0, -1].softmax(-1)[ids[end]]
        out.append(torch.autograd.grad(probability, embeds)[0].norm(dim=-1)[0])
    return out


@torch.no_grad()
def loop_occlusion(hf: torch.nn.Module, ids: list[int], start: int) -> list[torch.Tensor]:
    """One batched forward over all occluded prefixes per target token."""
    out = []
    table = hf.get_input_embeddings()
    for end in range(start, len(ids)):
        rows = table(torch.tensor([ids[:end]])).repeat(end + 1, 1, 1)
        place = torch.arange(end)
        rows[place, place] = table(torch.tensor(0))
        scores = hf(inputs_embeds=rows, use_cache=False, logits_to_keep=1).logits[:, -1].softmax(-1)[:, ids[end]]
        out.append(scores[-1] - scores[:-1])
    return out


def timed(function: Callable[[], object]) -> tuple[float, object]:
    """Seconds and result."""
    begin = time.perf_counter()
    result = function()
    return time.perf_counter() - begin, result


def main() -> None:
    """Print pass counts, ratios and the largest difference."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompt", type=int, default=20)
    parser.add_argument("--target", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--small", action="store_true", help="a 2-layer model, for a quick run")
    options = parser.parse_args()
    torch.manual_seed(0)
    shape = {"n_layer": 2, "n_embd": 64, "n_head": 4, "vocab_size": 500} if options.small else {}
    hf = GPT2LMHeadModel(GPT2Config(**shape)).eval().requires_grad_(False)
    model = AttributionModel(CausalLM(hf, NoTokenizer(), "gpt2-small-shaped"))
    ids = torch.randint(1, hf.config.vocab_size, (options.prompt + options.target,)).tolist()
    tokens = tuple(Token(text=str(i), id=i) for i in ids)
    example = Example(target=tokens, start=options.prompt, stop=len(ids))
    length = len(ids)
    print(f"{options.prompt} prompt + {options.target} target tokens, L = {length}")
    for method, loop in (("saliency", loop_saliency), ("occlusion", loop_occlusion)):
        ratios = []
        model.attribute_examples([example], method)
        for _ in range(options.rounds):
            ours, found = timed(lambda method=method: model.attribute_examples([example], method)[0])
            theirs, wanted = timed(lambda loop=loop: loop(hf, ids, options.prompt))
            ratios.append((theirs / ours, ours, theirs))
        worst = max((found.scores[j, : len(w)] - w).abs().max().item() for j, w in enumerate(wanted))
        scale = max(w.abs().max().item() for w in wanted)
        ratio = statistics.median(r for r, _, _ in ratios)
        p = found.provenance
        print(
            f"{method}: forward passes {p.forward_rows:g} in {p.forward_calls:g} calls, products {p.backward_rows:g}; "
            f"loop / shared = {ratio:.1f} (median of {options.rounds}; "
            f"last: {ratios[-1][2]:.2f} s / {ratios[-1][1]:.2f} s); "
            f"largest difference {worst:.1e} at scale {scale:.1e}"
        )


if __name__ == "__main__":
    main()

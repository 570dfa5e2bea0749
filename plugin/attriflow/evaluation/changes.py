"""Changed circumstances under which sanity and robustness metrics have a method explain again.

Every change is undone on exit: weights come back bit by bit, hooks are removed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn

from attriflow.errors import InputError
from attriflow.kernels.seeds import hashed
from attriflow.models.base import BLOCKS, LanguageModel
from attriflow.models.blocks import find_blocks
from attriflow.models.offload import device_of
from attriflow.registry import step_functions
from attriflow.types import Forward

NOISE_ROWS = 8192
"""Tokens that have noise of their own; in larger vocabularies, ids that far apart share theirs."""


class NotApplicableError(InputError):
    """A metric has nothing to say here, and why."""


@contextmanager
def noisy_embeddings(model: LanguageModel, noise: float, draw: int) -> Iterator[None]:
    """Gaussian noise on the token embeddings.

    A token has the same noise wherever it stands, so that it keeps it when a method moves, replaces or deletes others.

    Args:
        model: The wrapped model.
        noise: Standard deviation relative to the root mean square of the embeddings.
        draw: Which noise.
    """
    for block in BLOCKS[not model.is_encoder_decoder :]:
        model.embedding_scale(block)  # measured from embeddings without noise
    modules = dict.fromkeys(model.embedding(block) for block in BLOCKS[not model.is_encoder_decoder :])
    handles = [
        module.register_forward_hook(_adding(module, noise, draw, number)) for number, module in enumerate(modules)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def _adding(module: nn.Embedding, noise: float, draw: int, number: int) -> Callable[..., Tensor]:
    rows = min(NOISE_ROWS, module.num_embeddings)
    embedded = module(torch.arange(rows, device=device_of(module)))
    size = embedded.double().square().mean().sqrt().item()
    generator = torch.Generator().manual_seed(hashed(f"noise/{draw}/{number}", size=6))
    table = torch.randn(embedded.shape, generator=generator, dtype=torch.float32) * (noise * size)
    table = table.to(embedded.device, embedded.dtype)

    def hook(_module: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return output + table[(given[0] % rows).to(table.device)]

    return hook


@contextmanager
def random_parameters(hf: nn.Module, share: float, draw: int) -> Iterator[None]:
    """Parameters drawn anew in a share of the model's stages, the output first (Adebayo et al. 2018, section 3.2).

    Each parameter tensor is drawn from a normal distribution with its own mean and standard deviation. A tensor that
    two stages share (tied embeddings) belongs to the one nearer to the input.

    Args:
        hf: The model.
        share: Of the stages; at least one of them is changed.
        draw: Which random numbers.
    """
    found = stages(hf)
    chosen = found[len(found) - max(1, round(share * len(found))) :]
    parameters = [pair for stage in chosen for pair in stage]
    for name, parameter in parameters:
        if not parameter.is_floating_point() or parameter.device.type == "meta":
            raise NotApplicableError(f"parameter '{name}' cannot be randomised: it is quantised or not in memory")
    before = [p.detach().to("cpu", copy=True) for _, p in parameters]
    try:
        with torch.no_grad():
            for (name, parameter), value in zip(parameters, before, strict=True):
                generator = torch.Generator().manual_seed(hashed(f"parameters/{draw}/{name}", size=6))
                drawn = torch.randn(value.shape, generator=generator, dtype=torch.float32)
                wide = value.float()
                parameter.copy_(drawn * wide.std(correction=0) + wide.mean())
        yield
    finally:
        with torch.no_grad():
            for (_, parameter), value in zip(parameters, before, strict=True):
                parameter.copy_(value)


def stages(hf: nn.Module) -> list[list[tuple[str, nn.Parameter]]]:
    """The model's parameters from the input to the output: one stage per block, one for what lies between blocks.

    Blocks stand in the order in which the architecture declares them.
    """
    blocks: dict[int, int] = {}  # parameter -> its block
    for number, block in enumerate(find_blocks(hf)):
        for parameter in block.parameters():
            blocks.setdefault(id(parameter), number)
    named = list(hf.named_parameters())  # each tensor once, under the first of its names
    return [list(group) for _, group in groupby(named, key=lambda pair: blocks.get(id(pair[1])))]


@dataclass(frozen=True)
class OtherTarget:
    """A step function that scores random other tokens in place of the targets.

    A token's substitute depends on nothing else, so that batches and chunks of steps agree.

    Attributes:
        function: `(Forward) -> [batch, step]`.
        number: Which other tokens.
        stepwise: See `Objective`.
    """

    function: Callable[[Forward], Tensor]
    number: int
    stepwise: bool

    def __call__(self, forward: Forward) -> Tensor:
        """Values `[batch, step]`."""
        others = self._others(forward.logits.shape[-1]).to(forward.target_ids.device)
        return self.function(replace(forward, target_ids=others[forward.target_ids]))

    def _others(self, size: int) -> Tensor:
        """For each id another one: the next in a random circle."""
        order = torch.randperm(size, generator=torch.Generator().manual_seed(hashed(f"target/{self.number}", size=6)))
        others = torch.empty_like(order)
        others[order] = order.roll(-1)
        return others


def target_function(
    attributed_fn: str | Callable[[Forward], Tensor], options: Mapping[str, Any]
) -> tuple[Callable[[int], OtherTarget] | None, str]:
    """What makes step functions of other targets out of what is attributed; None, and why, where there are none."""
    if callable(attributed_fn):
        name, stepwise = getattr(attributed_fn, "__name__", type(attributed_fn).__name__), False
        bound = partial(attributed_fn, **options) if options else attributed_fn
    else:
        part = step_functions.info(attributed_fn)
        name, stepwise, bound = part.name, bool(part.meta.get("stepwise", True)), part.build(**options)
    if not reads_target(bound):
        return None, f"the attributed function, '{name}', is not one of the target token alone"
    return partial(OtherTarget, bound, stepwise=stepwise), ""


def reads_target(function: Callable[[Forward], Tensor]) -> bool:
    """Whether a step function's value depends on which token is the target (and on nothing but logits)."""
    logits = torch.linspace(-1, 1, 6).view(1, 1, 6)
    try:
        first, second = (function(Forward(logits=logits, target_ids=torch.tensor([[i]]))) for i in (1, 4))
    except Exception:  # a stranger's function may need whatever a real forward has
        return False
    return first.shape == second.shape == (1, 1) and bool((first != second).all())

"""Changed circumstances under which sanity and robustness metrics have a method explain again.

Every change is undone on exit: weights come back bit by bit, hooks are removed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
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
from attriflow.models.offload import Weight, changed, device_of, weights_of
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
    weights = [weight for stage in found[len(found) - max(1, round(share * len(found))) :] for weight in stage]
    for weight in weights:
        if weight.why_fixed is not None:
            raise NotApplicableError(f"parameter '{weight.name}' cannot be randomised: {weight.why_fixed}")
    with ExitStack() as stack:
        for weight in weights:
            for module, name in weight.copies:
                stack.enter_context(changed(module, name, partial(_drawn, f"parameters/{draw}/{weight.name}")))
        yield


def _drawn(seed: str, value: Tensor) -> Tensor:
    """Normally distributed numbers of a tensor's shape, mean and standard deviation."""
    generator = torch.Generator().manual_seed(hashed(seed, size=6))
    wide = value.float()
    drawn = torch.randn(value.shape, generator=generator, dtype=torch.float32)
    return (drawn * wide.std(correction=0) + wide.mean()).to(value.dtype)


def stages(hf: nn.Module) -> list[list[Weight]]:
    """The model's weights from the input to the output: one stage per block, one for what lies between blocks.

    Blocks stand in the order in which the architecture declares them.
    """
    weights = weights_of(hf)
    blocks: dict[int, int] = {}  # parameter -> its block
    for number, block in enumerate(find_blocks(hf)):
        for parameter in block.parameters():
            blocks.setdefault(id(parameter), number)

    def of(weight: Weight) -> int | None:
        return min((n for copy in weight.copies if (n := blocks.get(id(getattr(*copy)))) is not None), default=None)

    return [list(group) for _, group in groupby(weights, key=of)]


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

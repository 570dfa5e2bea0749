"""Attention that makes its weights again, tile by tile: the gradients of plain autograd, and what it keeps."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention as sdpa

from attriflow.kernels.attention import Operands
from attriflow.kernels.recomputed import ROWS, recomputed, recomputes

SHAPES = {  # rows, heads, key-value heads, queries, keys
    "short": (2, 2, 2, 7, 7),
    "shared keys": (2, 6, 2, ROWS // 2, ROWS // 2),
    "tiles": (1, 2, 1, ROWS + 9, ROWS + 9),
    "cross attention": (2, 2, 2, 70, 110),
}


def tensors(shape: tuple[int, ...]) -> list[Tensor]:
    rows, heads, groups, queries, keys = shape
    generator = torch.Generator().manual_seed(sum(shape))
    sizes = [(rows, heads, queries, 6), (rows, groups, keys, 6), (rows, groups, keys, 5)]
    return [torch.randn(s, generator=generator, dtype=torch.float64).requires_grad_() for s in sizes]


def options(shape: tuple[int, ...], kind: str) -> dict[str, Any]:
    rows, heads, groups, queries, keys = shape
    seen = torch.ones(1, 1, queries, keys, dtype=torch.bool).tril()
    found: dict[str, Any] = {"enable_gqa": heads != groups, "scale": 0.7}
    if kind == "causal":
        return {**found, "is_causal": True}
    if kind == "window":  # queries of a row of padding see nothing
        mask = seen.triu(-9).repeat(rows, 1, 1, 1)
        mask[-1, :, :3] = False
        return {**found, "attn_mask": mask}
    if kind == "bias":
        bias = torch.linspace(-1, 1, heads * queries * keys, dtype=torch.float64).view(1, heads, queries, keys)
        return {**found, "attn_mask": bias.where(seen, -torch.inf)}
    return found


@pytest.mark.parametrize("kind", ["all", "causal", "window", "bias"])
@pytest.mark.parametrize("shape", SHAPES)
def test_gradients(shape: str, kind: str) -> None:
    given, kwargs = tensors(SHAPES[shape]), options(SHAPES[shape], kind)
    call = Operands.of(given, kwargs)
    assert recomputes(call)
    results = []
    for out in (sdpa(*given, **kwargs), recomputed(call, sdpa, given, kwargs)):
        vectors = torch.randn((3, *out.shape), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        if kind == "window":  # nothing depends on padding
            vectors[:, -1, :, :3] = 0

        def product(vector: Tensor, out: Tensor = out) -> tuple[Tensor, ...]:
            return torch.autograd.grad(out, given, vector, retain_graph=True)

        alone = [torch.stack(g) for g in zip(*map(product, vectors), strict=True)]
        results.append((out, alone, product, vectors))
    (expected, one, *_), (got, own, product, vectors) = results
    assert torch.equal(got, expected)
    for a, b, c in zip(one, own, torch.vmap(product)(vectors), strict=True):
        assert a.abs().max() > 1e-3
        torch.testing.assert_close(b, a, atol=1e-12, rtol=1e-12)
        torch.testing.assert_close(c, a, atol=1e-12, rtol=1e-12)


def test_nothing_as_large_as_the_weights_is_kept() -> None:
    given = tensors((1, 4, 2, 200, 200))
    kept: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        kwargs = {"is_causal": True, "enable_gqa": True}
        recomputed(Operands.of(given, kwargs), sdpa, given, kwargs)
    assert sum(kept) == sum(t.numel() for t in given) + given[0].shape[:3].numel() * given[2].shape[-1]


@pytest.mark.parametrize("change", [{"dropout_p": 0.1}, {"attn_mask": torch.zeros(1, 1, 7, 7, requires_grad=True)}])
def test_others_are_left_to_torch(change: dict[str, Any]) -> None:
    assert not recomputes(Operands.of(tensors(SHAPES["short"]), change))

"""Attention's own backward: the gradients of plain autograd, for one gradient and for many at once."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from attriflow.kernels import attention as attention_products
from attriflow.kernels.attention import TILE, attention

SHAPES = {
    "short": (2, 2, 7, 7),
    "one tile": (1, 3, 90, 90),
    "tiles": (2, 2, 2 * TILE + 9, 2 * TILE + 9),
    "more keys than queries": (1, 2, TILE + 40, TILE + 90),
    "cross attention": (2, 2, 70, 110),
}


def tensors(shape: tuple[int, ...]) -> list[Tensor]:
    rows, heads, queries, keys = shape
    generator = torch.Generator().manual_seed(sum(shape))
    sizes = [(rows, heads, queries, 6), (rows, heads, keys, 6), (rows, heads, keys, 5)]
    return [torch.randn(s, generator=generator, dtype=torch.float64) for s in sizes]


def masks(shape: tuple[int, ...]) -> dict[str, Tensor | None]:
    rows, _, queries, keys = shape
    least = torch.finfo(torch.float64).min
    causal = torch.full((1, 1, queries, keys), least, dtype=torch.float64).triu(keys - queries + 1)
    padded = causal.expand(rows, 1, -1, -1).clone()
    padded[0, :, :, :3] = least  # the first queries of the row see nothing at all
    bias = torch.linspace(-1, 1, queries * keys, dtype=torch.float64).view(1, 1, queries, keys)
    return {
        "none": None,
        "causal": causal,
        "padded": padded,
        "bias": bias,
        "infinite": causal.where(causal == 0, -torch.inf),
    }


def plain(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    scores = query @ key.transpose(-1, -2)
    return (scores if mask is None else scores + mask).softmax(-1) @ value


@pytest.mark.parametrize("mask", ["none", "causal", "padded", "bias", "infinite"])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("wanted", [(0, 1, 2), (0,), (1,), (2,), (1, 2)])
def test_gradients(shape: str, mask: str, wanted: tuple[int, ...]) -> None:
    given, masked = tensors(SHAPES[shape]), masks(SHAPES[shape])[mask]
    found = []
    for function in (plain, attention):
        leaves = [t.clone().requires_grad_(i in wanted) for i, t in enumerate(given)]
        out = function(*leaves, masked)
        wishes = [leaves[i] for i in wanted]
        vectors = torch.randn((5, *out.shape), generator=torch.Generator().manual_seed(1), dtype=torch.float64)

        def product(vector: Tensor, out: Tensor = out, wishes: list[Tensor] = wishes) -> tuple[Tensor, ...]:
            return torch.autograd.grad(out, wishes, vector, retain_graph=True)

        alone = [torch.stack(g) for g in zip(*map(product, vectors), strict=True)]
        found.append((out.detach(), alone, torch.vmap(product)(vectors)))
    (expected, one, _), (got, own, many) = found
    assert torch.allclose(got, expected, atol=1e-12)
    for a, b, c in zip(one, own, many, strict=True):
        assert a.abs().max() > 1e-3
        assert torch.allclose(b, a, atol=1e-12)
        assert torch.allclose(c, a, atol=1e-12)


def test_many_gradients_share_products(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    together = attention_products._together
    monkeypatch.setattr(attention_products, "_together", lambda *a: calls.append(a[0].shape) or together(*a))
    query, key, value = (torch.randn(1, 2, 7, 4, requires_grad=True) for _ in range(3))
    out = attention(query, key, value, None)
    torch.vmap(lambda v: torch.autograd.grad(out, key, v))(torch.randn(3, *out.shape))
    assert calls == [(3, 1, 2, 7, 4)]


def test_tiles_leave_out_keys_that_nobody_sees() -> None:
    width = 2 * TILE + 5
    weights = torch.ones(1, 2, width, width).tril()
    assert [(t.start, t.stop, seen) for t, seen in attention_products._tiles(weights)] == [
        (0, TILE, TILE),
        (TILE, 2 * TILE, 2 * TILE),
        (2 * TILE, width, width),
    ]

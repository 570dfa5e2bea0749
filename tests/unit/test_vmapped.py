"""What `torch.vmap` runs, seen from inside."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from attriflow.kernels import attention as attention_products
from attriflow.kernels import linear
from attriflow.kernels.attention import attention
from attriflow.kernels.vmapped import together


def test_there_and_back() -> None:
    seen = []

    def function(x: Tensor) -> Tensor:
        found = together(x)
        assert found is not None
        every, back = found
        seen.append(every)
        return back(every * 2) + x

    given = torch.randn(4, 3, 2)
    assert torch.equal(torch.vmap(function, in_dims=1)(given), 3 * given.movedim(1, 0))
    assert torch.equal(seen[0], given.movedim(1, 0))
    assert type(seen[0] + 1) is Tensor


def test_outside() -> None:
    assert together(torch.ones(2)) is None
    outer, seen = torch.ones(2), []
    torch.vmap(lambda x: seen.append(together(outer)) or x)(outer)
    assert seen == [None]


def test_several_at_once() -> None:
    seen = []
    for transform in (torch.vmap, lambda f: torch.func.grad(lambda x: f(x).sum())):
        transform(torch.vmap(lambda x: seen.append(together(x)) or x))(torch.ones(2, 3))
    assert seen == [None, None]


def test_another_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    for functorch in (SimpleNamespace(), None):
        monkeypatch.setattr(torch._C, "_functorch", functorch)
        assert together(torch.ones(2)) is None


@pytest.mark.parametrize("name", ["linear", "attention"])
def test_nothing_but_time_is_lost_where_it_cannot_be_seen(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    x = torch.randn(1, 2, 5, 6, requires_grad=True)
    if name == "linear":
        monkeypatch.setattr(linear, "SMALLEST", 1)
        layer = nn.Linear(6, 6).requires_grad_(False)
        with linear.without_zero_rows(layer):
            out = layer(x)
    else:
        out = attention(x, x.detach(), x, None)
    vectors = torch.randn(3, *out.shape)
    found = []
    for module in (linear, attention_products):
        for see in (together, lambda _: None):
            monkeypatch.setattr(module, "together", see)
            found.append(torch.vmap(lambda v: torch.autograd.grad(out, x, v, retain_graph=True)[0])(vectors))
    assert found[0].abs().max() > 0.1
    for other in found[1:]:
        assert torch.allclose(other, found[0], atol=1e-5)

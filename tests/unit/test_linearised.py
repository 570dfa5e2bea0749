"""Shared local derivatives leave models the freedom they have otherwise."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.activations import ACT2FN

from attriflow.engine.linearised import linearised


class Changing(nn.Module):
    """Changes what activations and norms give back in place."""

    def __init__(self) -> None:
        super().__init__()
        self.act, self.norm = ACT2FN["gelu_new"], nn.LayerNorm(4)
        self.double().requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.act(x).mul_(0.5) + F.gelu(x).add_(x) + self.norm(x).sub_(1.0)
        return out


@pytest.mark.parametrize("together", [False, True])
def test_results_may_be_changed_in_place(together: bool) -> None:
    model = Changing()
    x = torch.linspace(-2, 2, 12, dtype=torch.float64).view(3, 4).requires_grad_(True)
    vectors = torch.randn(5, 3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    plain = model(x)
    with linearised(model, 1e6):
        out = model(x)
    assert torch.equal(out, plain)

    def product(vector: Tensor, value: Tensor) -> Tensor:
        return torch.autograd.grad(value, x, vector, retain_graph=True)[0]

    wanted = torch.stack([product(v, plain) for v in vectors])
    found = (
        torch.vmap(product, (0, None))(vectors, out) if together else torch.stack([product(v, out) for v in vectors])
    )
    torch.testing.assert_close(found, wanted, atol=1e-12, rtol=1e-12)

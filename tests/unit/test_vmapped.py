"""What `torch.vmap` runs, seen from inside."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from attriflow.vmapped import together


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
    outer = torch.ones(2)
    torch.vmap(lambda x: x if together(outer) is None else x / 0)(outer)


@pytest.mark.parametrize("transform", [torch.vmap, lambda f: torch.func.grad(lambda x: f(x).sum())])
def test_several_at_once(transform) -> None:
    def function(x: Tensor) -> Tensor:
        with pytest.raises(RuntimeError, match="several transformations"):
            together(x)
        return x

    transform(torch.vmap(function))(torch.ones(2, 3))


def test_another_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch._C, "_functorch", SimpleNamespace())
    with pytest.raises(RuntimeError, match="does not show"):
        together(torch.ones(2))

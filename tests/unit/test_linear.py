"""Frozen linear layers whose gradients leave out zero rows: the same numbers; others are left alone."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from attriflow.engine import plain
from attriflow.kernels import linear
from attriflow.kernels.linear import without_zero_rows


class Conv1D(nn.Module):
    """GPT-2's layer: the weight is `[in, out]`."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(6, 9))
        self.bias = nn.Parameter(torch.randn(9))

    def forward(self, x: Tensor) -> Tensor:
        out = torch.addmm(self.bias, x.view(-1, x.shape[-1]), self.weight)
        return out.view(*x.shape[:-1], -1)


LAYERS = {
    "linear": lambda: nn.Linear(6, 9),
    "no bias": lambda: nn.Linear(6, 9, bias=False),
    "addmm": Conv1D,
}


@pytest.fixture(autouse=True)
def _small_layers_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear, "SMALLEST", 1)


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Shapes of the inputs of layers that were taken."""
    found: list[tuple[int, ...]] = []
    apply = linear._Linear.apply
    monkeypatch.setattr(linear._Linear, "apply", lambda x, *rest: found.append(tuple(x.shape)) or apply(x, *rest))
    return found


def frozen(name: str) -> nn.Module:
    torch.manual_seed(0)
    return LAYERS[name]().requires_grad_(False)


def input_of(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, dtype=dtype).requires_grad_(True)


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("shape", [(4, 6), (2, 3, 6), (5, 1, 6)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_values_and_gradients(
    name: str, shape: tuple[int, ...], dtype: torch.dtype, taken: list[tuple[int, ...]]
) -> None:
    layer = frozen(name).to(dtype)
    x = input_of(*shape, dtype=dtype)
    vectors = torch.randn(7, *shape[:-1], 9, dtype=dtype)
    vectors[2:, ..., : shape[-2] // 2, :] = 0  # rows that need no product
    with without_zero_rows(layer):
        own = layer(x)
    assert [math.prod(s) for s in taken] == [math.prod(shape)]
    other = layer(x)
    assert torch.equal(own, other)

    def products(out: Tensor) -> tuple[Tensor, Tensor]:
        def product(v: Tensor) -> Tensor:
            return torch.autograd.grad(out, x, v, retain_graph=True)[0]

        return torch.stack([product(v) for v in vectors]), torch.vmap(product)(vectors)

    (alone, many), (own_alone, own_many) = products(other), products(own)
    for a, b in ((alone, own_alone), (many, own_many), (alone, many)):
        assert torch.allclose(a, b, atol=1e-5)
    assert (own_many[2:, ..., : shape[-2] // 2, :] == 0).all()


@pytest.mark.parametrize("multiple", [1, 4])
def test_zero_rows_are_left_out(multiple: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear, "CHOSEN", multiple)
    layer = frozen("no bias")
    x = input_of(5, 6)
    with without_zero_rows(layer):
        out = layer(x)
    vectors = torch.zeros(3, 5, 9)
    vectors[0, :2], vectors[1, :1], vectors[2, 1:] = 1, torch.finfo(torch.float32).tiny, torch.nan
    multiplied: list[tuple[int, ...]] = []

    class Products(TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            if func in (Tensor.matmul, Tensor.__matmul__, torch.matmul):
                multiplied.append(tuple(args[0].shape))
            return func(*args, **(kwargs or {}))

    def product(v: Tensor) -> Tensor:
        with Products():
            return torch.autograd.grad(out, x, v, retain_graph=True)[0]

    got = torch.vmap(product)(vectors)
    kept = linear._without_zeros
    with Products():
        again = kept(vectors, layer.weight)
    assert (2 + 1 + 4 if multiple == 1 else 8, 9) in multiplied
    assert torch.allclose(got, vectors @ layer.weight, equal_nan=True, atol=1e-6)
    assert torch.allclose(again, got, equal_nan=True)
    assert (got[1, 0] != 0).any()
    assert (torch.vmap(product)(torch.zeros_like(vectors)) == 0).all()


def test_gradients_of_gradients() -> None:
    layer = frozen("linear")
    x = input_of(4, 6)
    with without_zero_rows(layer):
        out = layer(x).pow(3).sum()
    (first,) = torch.autograd.grad(out, x, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), x)
    (first,) = torch.autograd.grad(layer(x).pow(3).sum(), x, create_graph=True)
    assert torch.allclose(second, torch.autograd.grad(first.sum(), x)[0], atol=1e-4)


@pytest.mark.parametrize(
    "change",
    [
        lambda layer: layer.requires_grad_(True),
        lambda layer: setattr(layer, "bias", nn.Parameter(layer.bias.detach(), requires_grad=True)),
    ],
    ids=["learning", "bias learns"],
)
def test_layers_that_learn_are_left_alone(change, taken: list[object]) -> None:
    layer = frozen("linear")
    change(layer)
    x = input_of(3, 6)
    with without_zero_rows(layer):
        layer(x).sum().backward()
    assert taken == []
    assert layer.bias.grad is not None


def test_autocast_is_left_alone(taken: list[object]) -> None:
    layer = frozen("linear")
    with torch.autocast("cpu", torch.bfloat16), without_zero_rows(layer):
        assert layer(input_of(3, 6)).dtype == torch.bfloat16
    assert taken == []


def test_tensors_of_other_kinds_are_left_alone(taken: list[object]) -> None:
    class Other(Tensor):
        pass

    layer = frozen("linear")
    with without_zero_rows(layer):
        layer(input_of(3, 6).as_subclass(Other))
        layer(input_of(0, 6))
        layer(torch.randn(3, 6))  # no gradient is wanted
    assert taken == []


@pytest.mark.parametrize("shape", [(1,), (3, 9), (1, 9)])
def test_biases_of_other_shapes_are_left_alone(shape: tuple[int, ...], taken: list[object]) -> None:
    weight, bias, x = torch.randn(6, 9), torch.randn(shape), input_of(3, 6)
    with without_zero_rows(frozen("linear")):
        assert torch.allclose(torch.addmm(bias, x, weight), x @ weight + bias, atol=1e-5)
    assert taken == []


def test_nothing_is_watched_where_nothing_can_be_gained(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = frozen("linear")
    assert isinstance(without_zero_rows(layer), TorchFunctionMode)
    with torch.no_grad():
        assert not isinstance(without_zero_rows(layer), TorchFunctionMode)
    with plain():
        assert not isinstance(without_zero_rows(layer), TorchFunctionMode)
    monkeypatch.setattr(linear, "SMALLEST", 6 * 9 + 1)
    assert not isinstance(without_zero_rows(layer), TorchFunctionMode)

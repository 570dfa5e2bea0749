"""Frozen linear layers through oneDNN: PyTorch's own numbers, and left alone where that would not hold."""

from __future__ import annotations

import os

import psutil
import pytest
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from attriflow.engine.memory import give_back
from attriflow.kernels import linear
from attriflow.kernels.linear import fast_products

pytestmark = pytest.mark.skipif(linear._product() is None, reason="PyTorch without MKL or oneDNN")


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
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Shapes of the inputs that went through oneDNN."""
    found: list[tuple[int, ...]] = []
    multiplied = linear._multiplied
    monkeypatch.setattr(linear, "_multiplied", lambda x, *rest: found.append(tuple(x.shape)) or multiplied(x, *rest))
    return found


def frozen(name: str) -> nn.Module:
    torch.manual_seed(0)
    return LAYERS[name]().requires_grad_(False)


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("shape", [(4, 6), (2, 3, 6), (5, 1, 6)])
def test_values_and_gradients(name: str, shape: tuple[int, ...], calls: list[tuple[int, ...]]) -> None:
    layer = frozen(name)
    x = torch.randn(shape).requires_grad_(True)
    vectors = torch.randn(7, *shape[:-1], 9)
    vectors[2:, ..., : shape[-2] // 2, :] = 0  # rows that need no product
    found = []
    for context in (torch.backends.mkldnn.flags(enabled=False), torch.backends.mkldnn.flags(enabled=True)):
        with context:
            before = len(calls)
            with fast_products(layer):
                out = layer(x)

            def product(v: Tensor, out: Tensor = out) -> Tensor:
                return torch.autograd.grad(out, x, v, retain_graph=True)[0]

            found.append((out.detach(), torch.stack([product(v) for v in vectors]), torch.vmap(product)(vectors)))
            found.append(len(calls) - before)
    (value, alone, many), none, (own_value, own_alone, own_many), some = found
    assert none == 0
    assert some == 1 + 7 + 1
    for a, b in ((value, own_value), (alone, own_alone), (many, own_many), (alone, many)):
        assert torch.allclose(a, b, atol=1e-5)
    assert (own_many[2:, ..., : shape[-2] // 2, :] == 0).all()


@pytest.mark.parametrize("multiple", [1, 4])
def test_zero_rows_are_left_out(multiple: int, calls: list[tuple[int, ...]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear, "CHOSEN", multiple)
    layer = frozen("no bias")
    x = torch.randn(5, 6).requires_grad_(True)
    with fast_products(layer):
        out = layer(x)
    vectors = torch.zeros(3, 5, 9)
    vectors[0, :2], vectors[1, :1], vectors[2, 1:] = 1, torch.finfo(torch.float32).tiny, torch.nan
    calls.clear()

    def product(v: Tensor) -> Tensor:
        return torch.autograd.grad(out, x, v, retain_graph=True)[0]

    got = torch.vmap(product)(vectors)
    assert calls == [(2 + 1 + 4 if multiple == 1 else 8, 9)]
    assert torch.allclose(got, vectors @ layer.weight, equal_nan=True, atol=1e-6)
    assert (got[1, 0] != 0).any()
    assert (torch.vmap(product)(torch.zeros_like(vectors)) == 0).all()


@pytest.mark.parametrize("given", [None, "7"])
def test_memory_for_compiled_products_is_limited(given: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "ONEDNN_PRIMITIVE_CACHE_CAPACITY"
    monkeypatch.setenv(name, given or "")
    if given is None:
        monkeypatch.delenv(name)
    fast_products(frozen("linear"))
    assert os.environ[name] == (given or str(linear.KEPT))


def test_few_shapes_are_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Others are filled up to one of them, or left to MKL; the numbers are the same."""
    monkeypatch.setattr(linear, "COMPILED", 3)
    monkeypatch.setattr(linear, "_KNOWN", {})
    given, product = [], linear._product()
    monkeypatch.setattr(linear, "_product", lambda: lambda x, *rest: given.append(x.numel() // 6) or product(x, *rest))
    layer, bare = frozen("linear"), frozen("no bias")
    for module, n, wanted in (
        (layer, 4, 4),
        (layer, 40, 40),
        (bare, 12, 12),
        (layer, 4, 4),
        (layer, 3, 4),  # filled up
        (layer, 32, 40),
        (layer, 31, None),  # too much to fill up
        (layer, 41, None),
        (bare, 11, 12),
        (bare, 40, None),  # a shape of another layer
    ):
        given.clear()
        x = torch.randn(n, 6)
        with fast_products(module), torch.no_grad():
            out = module(x.view(1, n, 6))
        assert given == [wanted] * (wanted is not None)
        assert out.shape == (1, n, 9)
        assert torch.allclose(out[0], module(x), atol=1e-6)


def test_memory_does_not_grow_with_the_number_of_shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear, "_KNOWN", {})
    monkeypatch.setattr(linear, "COMPILED", 20)
    layer = nn.Linear(512, 512).requires_grad_(False)

    def run(lengths: range) -> None:
        with fast_products(layer), torch.no_grad():
            for n in lengths:
                layer(torch.randn(n, 512))
        give_back()

    run(range(100, 120))
    before = psutil.Process().memory_info().rss
    run(range(120, 420))  # 90 MB if each were compiled
    assert psutil.Process().memory_info().rss < before + 15 * 2**20


def test_gradients_of_gradients() -> None:
    layer = frozen("linear")
    x = torch.randn(4, 6).requires_grad_(True)
    with fast_products(layer):
        out = layer(x).pow(3).sum()
    (first,) = torch.autograd.grad(out, x, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), x)
    (first,) = torch.autograd.grad(layer(x).pow(3).sum(), x, create_graph=True)
    assert torch.allclose(second, torch.autograd.grad(first.sum(), x)[0], atol=1e-4)


@pytest.mark.parametrize(
    "change",
    [
        lambda layer: layer.requires_grad_(True),
        lambda layer: layer.double(),
        lambda layer: layer.bfloat16(),
        lambda layer: setattr(layer, "bias", nn.Parameter(layer.bias.detach(), requires_grad=True)),
    ],
    ids=["learning", "double", "half", "bias learns"],
)
def test_others_are_left_alone(change, calls: list[tuple[int, ...]]) -> None:
    layer = frozen("linear")
    change(layer)
    x = torch.randn(3, 6, dtype=layer.weight.dtype)
    expected = layer(x)
    with fast_products(layer):
        assert torch.equal(layer(x), expected)
    assert calls == []


def test_learning_layers_are_taken_where_nothing_is_learned(calls: list[tuple[int, ...]]) -> None:
    layer = nn.Linear(6, 9)
    with torch.no_grad(), fast_products(layer):
        out = layer(torch.randn(3, 6))
    assert calls == [(3, 6)]
    assert not out.requires_grad


def test_autocast_is_left_alone(calls: list[tuple[int, ...]]) -> None:
    layer = frozen("linear")
    with torch.autocast("cpu", torch.bfloat16), fast_products(layer):
        assert layer(torch.randn(3, 6)).dtype == torch.bfloat16
    assert calls == []


def test_tensors_of_other_kinds_are_left_alone(calls: list[tuple[int, ...]]) -> None:
    class Other(Tensor):
        pass

    layer = frozen("linear")
    with fast_products(layer):
        layer(torch.randn(3, 6).as_subclass(Other))
        layer(torch.randn(0, 6))
    assert calls == []


@pytest.mark.parametrize("shape", [(1,), (3, 9), (1, 9)])
def test_biases_of_other_shapes_are_left_alone(shape: tuple[int, ...], calls: list[tuple[int, ...]]) -> None:
    weight, bias, x = torch.randn(6, 9), torch.randn(shape), torch.randn(3, 6)
    with fast_products(frozen("linear")):
        assert torch.allclose(torch.addmm(bias, x, weight), x @ weight + bias, atol=1e-5)
    assert calls == []


def test_small_models_are_not_slowed_down(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = frozen("linear")
    assert isinstance(fast_products(layer), TorchFunctionMode)
    monkeypatch.setattr(linear, "SMALLEST", 6 * 9 + 1)
    assert not isinstance(fast_products(layer), TorchFunctionMode)

"""Slopes between two passes: every rule carries the whole difference, and falls back to derivatives without one."""

from __future__ import annotations

import warnings

import captum.attr
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from attriflow.errors import UnsupportedModelError
from attriflow.kernels.slopes import activations
from attriflow.methods._deeplift.paired import Paired
from attriflow.methods._deeplift.rules import RULES, secant

X = torch.tensor([[0.3, -1.2, 2.0, 0.7], [1.5, 0.1, -0.4, -2.2]], dtype=torch.float64)
B = torch.tensor([[-0.5, 0.8, 1.1, 0.7], [0.2, -0.1, 1.9, 0.6]], dtype=torch.float64)
C = torch.tensor([[1.3, -0.2], [0.4, 0.9], [-1.1, 0.5], [0.2, 0.3]], dtype=torch.float64)
POSITIVE = ["sqrt", "rsqrt", "log", "log2", "log10", "log1p", "reciprocal"]


class Wrapped(nn.Module):
    """A function of one tensor as a model."""

    def __init__(self, f):
        super().__init__()
        self.f = f

    def forward(self, x):
        return self.f(x)


def multipliers(model, x, baseline, out=None):
    """d out / d x of the replayed pass, its value, and the value at the baseline."""
    pair = Paired(model, activations())
    with torch.no_grad(), pair.record():
        before = model(baseline.clone())
    leaf = x.clone().requires_grad_(True)
    with pair.replay():
        value = model(leaf * 1.0)  # not a leaf, so that in-place functions may change it
    (grad,) = torch.autograd.grad(value.sum() if out is None else value.flatten()[out], leaf)
    return grad, value.detach(), before


def masked(x):
    scores = x @ x.T
    return (scores + torch.tensor([[0.0, float("-inf")], [0.0, 0.0]], dtype=x.dtype)).softmax(-1) @ x


def masked_with_a_large_number(x):
    scores = x @ x.T
    mask = torch.tensor([[0.0, torch.finfo(x.dtype).min], [0.0, 0.0]], dtype=x.dtype)
    return F.softmax(scores + mask, dim=-1) @ x


def in_place(x):
    h = x * 2
    square = h * h  # the operands must be kept as they are here
    h += 1
    h.mul_(square).tanh_()
    h /= 2 + square
    h **= 2
    h[0] = h[1] * square[0]
    return F.relu(h, inplace=True) + F.silu(square * 1.0, inplace=True)


def attention(x, **options):
    q, k, v = x.view(1, 2, 2, 2), (x * 0.7).view(1, 2, 2, 2), x.sin().view(1, 2, 2, 2)
    return F.scaled_dot_product_attention(q, k, v, **options)


COMPOSED = {
    "mul": lambda x: x * x.flip(0),
    "amax": lambda x: (x * 1.5).amax(-1),
    "amin, kept": lambda x: (x * 1.5).amin(0, keepdim=True) * x,
    "mul constant": lambda x: 2 * x * B,
    "matmul": lambda x: x @ x.T,
    "rmatmul": lambda x: x.T.__rmatmul__(x),
    "bmm": lambda x: torch.bmm(x.unsqueeze(0), x.T.unsqueeze(0)),
    "einsum": lambda x: torch.einsum("ij,kj->ik", x, x.exp()),
    "baddbmm": lambda x: torch.baddbmm((x @ x.T).unsqueeze(0), x[None], x.T[None], alpha=0.3),
    "addcmul": lambda x: torch.addcmul(x, x, x.exp(), value=0.5),
    "linear in both": lambda x: F.linear(x, x.exp()),
    "div": lambda x: x / (3 + x.exp()),
    "div by x": lambda x: 2 / (3 + x.exp()),
    "div tensors": lambda x: torch.true_divide(B, 3 + x.exp()),
    "div, signs change": lambda x: B / (x + 0.05),
    "div both, signs change": lambda x: x / (x + 0.05),
    "div constant": lambda x: x / 3,
    "pow 2": lambda x: x**2,
    "pow 3": lambda x: torch.pow(x, 3.0),
    "pow -0.5": lambda x: x.exp().pow(-0.5),
    "base": lambda x: 2**x,
    "square": torch.square,
    "var": lambda x: x.var(-1, unbiased=False),
    "softmax": lambda x: x.softmax(-1),
    "softmax other axis": lambda x: torch.softmax(x, 0),
    "log_softmax": lambda x: F.log_softmax(x, dim=-1),
    "logsumexp": lambda x: torch.logsumexp(x, -1),
    "logsumexp axes": lambda x: x.view(2, 2, 2).logsumexp((0, 1), keepdim=True),
    "masked softmax": masked,
    "masked softmax, large": masked_with_a_large_number,
    "entropy with excluded tokens": lambda x: (
        -((p := F.log_softmax(torch.cat([x, x[:, :1] - torch.inf], -1), -1)).exp() * p.clamp(min=-1e30)).sum(-1)
    ),
    "layer_norm": lambda x: F.layer_norm(x, (4,), C[:, 0], C[:, 1]),
    "layer_norm, two axes": lambda x: F.layer_norm(x, (2, 4)),
    "rms_norm": lambda x: F.rms_norm(x, (4,), C[:, 0], 1e-6),
    "rms_norm by hand": lambda x: C[:, 0] * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)),
    "glu": lambda x: F.glu(x, -1),
    "swiglu": lambda x: F.silu(x @ C) * (x.flip(1) @ C),
    "attention": attention,
    "causal attention": lambda x: attention(x, is_causal=True, scale=0.3),
    "masked attention": lambda x: attention(x, attn_mask=torch.tensor([[True, False], [True, True]])),
    "grouped attention": lambda x: F.scaled_dot_product_attention(
        x.view(1, 2, 2, 2), x[:1].view(1, 1, 2, 2), x[1:].view(1, 1, 2, 2), enable_gqa=True
    ),
    "in place": in_place,
    "results changed in place": lambda x: (
        (x @ x.T).add_(0.5).sum() + F.gelu(x).mul_(C[0, 0]) + F.layer_norm(x, (4,)).sub_(0.3)
    ),
    "leaky_relu": lambda x: F.leaky_relu(x, 0.2),
    "hardtanh": lambda x: F.hardtanh(x, -0.5, 1.0),
    "clamp": lambda x: x.clamp(min=-0.5, max=1.0),
    "maximum": lambda x: torch.maximum(x, B.flip(0)),
    "prelu": lambda x: F.prelu(x, torch.tensor([0.3], dtype=x.dtype)),
    "softplus": lambda x: F.softplus(x, beta=2),
    "sigmoid": torch.special.expit,
    **{n: (lambda x, n=n: getattr(torch, n)(x.exp() + 0.1)) for n in POSITIVE},
    **{n: (lambda x, n=n: getattr(torch, n)(x)) for n in ("exp", "expm1", "tanh", "erf", "sin", "cos", "abs", "relu")},
    **{n: (lambda x, n=n: getattr(F, n)(x)) for n in ("gelu", "silu", "mish", "elu", "selu", "hardswish", "relu6")},
}


@pytest.mark.parametrize("name", COMPOSED)
def test_the_whole_difference_is_carried(name):
    f = COMPOSED[name]
    model = Wrapped(f)
    plain, at_baseline = f(X.clone()), f(B.clone())
    for out in (None, 0, 1):
        grad, value, before = multipliers(model, X, B, out)
        assert torch.equal(value, plain)
        assert torch.equal(before, at_baseline)
        change = value - before
        wanted = change.sum() if out is None else change.flatten()[out]
        torch.testing.assert_close((grad * (X - B)).sum(), wanted, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("name", [n for n in COMPOSED if n != "in place"])
def test_without_a_difference_it_is_the_gradient(name):
    model = Wrapped(COMPOSED[name])
    grad, _, _ = multipliers(model, X, X)
    leaf = X.clone().requires_grad_(True)
    (wanted,) = torch.autograd.grad(model(leaf * 1.0).sum(), leaf)
    torch.testing.assert_close(grad, wanted, atol=1e-12, rtol=1e-10)


@pytest.mark.parametrize("name", ["masked softmax", "layer_norm", "gelu", "matmul", "in place", "attention"])
def test_batched_products_equal_single_ones(name):
    """`torch.vmap` has a batching rule for everything that the rules are made of."""
    model = Wrapped(COMPOSED[name])
    pair = Paired(model, activations())
    with torch.no_grad(), pair.record():
        model(B.clone())
    leaf = X.clone().requires_grad_(True)
    with pair.replay():
        value = model(leaf * 1.0)
    vectors = torch.eye(value.numel(), dtype=value.dtype).view(-1, *value.shape)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (batched,) = torch.vmap(lambda v: torch.autograd.grad(value, leaf, v, retain_graph=True))(vectors)
    single = [torch.autograd.grad(value, leaf, v, retain_graph=True)[0] for v in vectors]
    torch.testing.assert_close(batched, torch.stack(single), atol=1e-14, rtol=0)


@pytest.mark.parametrize("gap", [0.0, 1e-15, 1e-12, 1e-9, 1e-7, 1e-5, 1e-3])
@pytest.mark.parametrize("f", [torch.exp, torch.tanh, F.gelu, torch.log, lambda x: x**3])
def test_slopes_of_close_points_keep_their_digits(f, gap):
    x = torch.tensor([0.7, 1.3, 5.0], dtype=torch.float64)
    leaf = (x + gap / 2).requires_grad_(True)
    (derivative,) = torch.autograd.grad(f(leaf).sum(), leaf)  # at the midpoint: off by the gap squared
    torch.testing.assert_close(secant(f, x + gap, x), derivative, rtol=max(1e-9, gap**2), atol=1e-10)


def test_a_kink_between_close_points():
    x, b = torch.tensor([1e-7], dtype=torch.float64), torch.tensor([-3e-7], dtype=torch.float64)
    torch.testing.assert_close(secant(F.relu, x, b), torch.tensor([0.25], dtype=torch.float64))


class TestByHand:
    def test_two_layers(self):
        """Multipliers of W2 gelu(W1 x) are W1' diag(slope) W2'."""
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 5), nn.GELU(), nn.Linear(5, 3)).double().requires_grad_(False)
        z, zb = model[0](X[:1]), model[0](B[:1])
        slope = (F.gelu(z) - F.gelu(zb)) / (z - zb)
        wanted = (model[2].weight[1] * slope) @ model[0].weight
        grad, _, _ = multipliers(model, X[:1], B[:1], out=1)
        torch.testing.assert_close(grad, wanted, atol=1e-12, rtol=0)

    def test_a_product_has_the_midpoint_gradient(self):
        grad, _, _ = multipliers(Wrapped(lambda x: x[:, :2] * x[:, 2:]), X, B)
        middle = (X + B) / 2
        torch.testing.assert_close(grad, torch.cat([middle[:, 2:], middle[:, :2]], 1), atol=1e-15, rtol=0)

    @pytest.mark.parametrize("norm", ["rms_norm by hand", "rms_norm", "layer_norm, two axes", "by division"])
    def test_a_norm_of_almost_nothing(self, norm):
        """The slope at the baseline is a thousand; multipliers stay near those of the input."""
        division = Wrapped(lambda x: x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt())
        model = division if norm == "by division" else Wrapped(COMPOSED[norm])
        grad, value, before = multipliers(model, X, 1e-6 * B, out=0)
        assert grad.abs().max() < 5
        torch.testing.assert_close((grad * (X - 1e-6 * B)).sum(), (value - before)[0, 0], atol=1e-13, rtol=0)

    def test_softmax_of_two(self):
        """With two classes it is a sigmoid of the difference: one secant."""
        x, b = torch.tensor([[1.0, -0.5]], dtype=torch.float64), torch.tensor([[0.2, 2.0]], dtype=torch.float64)
        grad, _, _ = multipliers(Wrapped(lambda t: t.softmax(-1)), x, b, out=0)
        d, db = x[0, 0] - x[0, 1], b[0, 0] - b[0, 1]
        slope = (d.sigmoid() - db.sigmoid()) / (d - db)
        torch.testing.assert_close(grad, torch.stack([slope, -slope])[None], atol=1e-14, rtol=0)

    def test_an_activation_module_is_one_function(self):
        """Written out, GPT-2's GELU is a chain of products; as a module it has one secant."""
        from transformers.activations import NewGELUActivation

        model = nn.Sequential(NewGELUActivation())
        grad, value, before = multipliers(model, X, B)
        same = X == B
        torch.testing.assert_close(grad[~same], ((value - before) / (X - B))[~same], atol=1e-12, rtol=0)
        assert not model[0]._forward_hooks
        assert not model[0]._forward_pre_hooks

    @pytest.mark.parametrize("module", [nn.ReLU(), nn.ReLU(inplace=True), nn.SiLU(inplace=True), nn.Softplus()])
    def test_captum_agrees(self, module):
        """On networks that captum has rules for, both are DeepLIFT."""
        torch.manual_seed(1)
        model = nn.Sequential(nn.Linear(4, 6), module, nn.Linear(6, 2)).double().requires_grad_(False)
        grad, value, before = multipliers(model, X, B, out=0)
        torch.testing.assert_close((grad * (X - B)).sum(), (value - before)[0, 0], atol=1e-12, rtol=0)
        if not isinstance(module, nn.SiLU):
            plain = nn.Sequential(model[0], type(module)(), model[2])
            wanted = captum.attr.DeepLift(plain).attribute(X, B, target=0)
            torch.testing.assert_close((grad * (X - B))[0], wanted[0].detach(), atol=1e-10, rtol=0)


class TestOtherOperations:
    def replay(self, f, match):
        model = Wrapped(f)
        pair = Paired(model, activations())
        with torch.no_grad(), pair.record():
            model(B.clone())
        with pytest.raises(UnsupportedModelError, match=match), pair.replay():
            model(X.clone().requires_grad_(True))

    def test_another_function(self):
        self.replay(lambda x: x.tanh() if x[0, 0] > 0 else x.exp(), "found tanh .* where the baseline had exp")

    def test_other_shapes(self):
        self.replay(lambda x: x[x > 0].tanh(), "tanh")

    def test_fewer_functions(self):
        self.replay(lambda x: x if x[0, 0] > 0 else x.exp(), "1 operations more")

    def test_more_functions(self):
        self.replay(lambda x: x.exp() if x[0, 0] > 0 else x, "baseline had nothing")

    def test_another_route(self):
        experts = torch.arange(3 * 16, dtype=torch.float64).view(3, 4, 4)
        self.replay(lambda x: x @ experts[int(x.argmax()) % 3], "operand of matmul")

    def test_another_choice(self):
        self.replay(lambda x: x.topk(2).values, "topk chose other entries")

    def test_the_same_choice_is_fine(self):
        grad, value, before = multipliers(Wrapped(lambda x: x.tanh().topk(1).values), B + 1, B)
        torch.testing.assert_close(grad.sum(), (value - before).sum(), atol=1e-12, rtol=0)


def test_hooks_and_modes_are_gone_after_an_error():
    model = nn.Sequential(nn.ReLU(), Wrapped(lambda x: x.fail))
    pair = Paired(model, activations())
    with pytest.raises(AttributeError), pair.record():
        model(X)
    assert not model[0]._forward_hooks
    assert not model[0]._forward_pre_hooks
    assert torch.overrides._get_current_function_mode_stack() == []


def test_every_rule_is_tried():
    """The functions above reach all kinds of rules."""
    used = set()

    class Spy(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            used.add(getattr(func, "__name__", "").strip("_"))
            return func(*args, **(kwargs or {}))

    with Spy():
        for f in COMPOSED.values():
            f(X.clone())
    kinds = {id(RULES[name]) for name in used & set(RULES)}
    assert kinds == {id(rule) for rule in RULES.values()}

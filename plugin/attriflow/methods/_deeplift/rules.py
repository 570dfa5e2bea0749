"""Slopes between two points: the rules by which DeepLIFT's multipliers carry the whole difference of a function.

Each rule returns a value whose gradient is the slope between input and baseline (`value + slope * (x - x.detach())`),
so that ordinary autograd multiplies slopes. Functions without a rule are linear, or left to their gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._pytree import tree_unflatten

from attriflow.kernels.attention import Operands, for_heads, scores
from attriflow.kernels.slopes import with_slope

Slope = Callable[[Callable[[Tensor], Tensor], Tensor, Tensor], Tensor]
"""`(f, x, x')` -> slope of an elementwise function between two points, the shape of x."""

# -- slopes ---------------------------------------------------------------------------------------------------------


def secant(f: Callable[[Tensor], Tensor], x: Tensor, b: Tensor) -> Tensor:
    """`(f(x) - f(b)) / (x - b)`, elementwise; where the points nearly coincide, the mean of the two derivatives.

    The difference of close values loses digits. The mean of the derivatives (the trapezoid rule) is better where points
    are closer than the cube root of the machine precision, unless a kink lies between them.
    """
    (y, d), (yb, db) = _with_derivative(f, x), _with_derivative(f, b)
    near = torch.finfo(x.dtype).eps ** (1 / 3)
    smooth = (d - db).abs() <= near * (d.abs() + db.abs())
    close = (x - b).abs() <= near * x.abs().clamp(min=1)
    return torch.where(close & smooth, (d + db) / 2, (y - yb) / (x - b))


def rescale(f: Callable[[Tensor], Tensor], x: Tensor, b: Tensor, least: float = 1e-10) -> Tensor:
    """The same as captum computes it: the derivative at x where the inputs differ by less than `least`."""
    (y, d), (yb, _) = _with_derivative(f, x), _with_derivative(f, b)
    return torch.where((x - b).abs() < least, d, (y - yb) / (x - b))


def _with_derivative(f: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    leaf = x.detach().requires_grad_(True)
    with torch.enable_grad():
        y = f(leaf)
        if not y.requires_grad:
            return y, torch.zeros_like(x)
        (derivative,) = torch.autograd.grad(y.sum(), leaf)
    return y.detach(), derivative


def _exp_slope(x: Tensor, b: Tensor, y: Tensor, yb: Tensor) -> Tensor:
    return torch.maximum(y, yb) * _falling((x - b).abs())


def _log_slope(x: Tensor, b: Tensor, y: Tensor, yb: Tensor) -> Tensor:
    low = torch.minimum(x, b)
    t = (x - b).abs() / low
    return torch.where(t > 0, torch.log1p(t) / t, 1.0) / low


def _falling(t: Tensor) -> Tensor:
    """`(1 - exp(-t)) / t`, 1 at 0."""
    return torch.where(t > 0, -torch.expm1(-t) / t, 1.0)


# Slopes that need no difference of close values: (x, x', f(x), f(x')) -> slope.
CLOSED: dict[str, Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]] = {
    "sqrt": lambda x, b, y, yb: 1 / (y + yb),
    "rsqrt": lambda x, b, y, yb: -((y * yb) ** 2) / (y + yb),
    "reciprocal": lambda x, b, y, yb: -y * yb,
    "exp": _exp_slope,
    "log": _log_slope,
}
POWERS = {0.5: "sqrt", -0.5: "rsqrt", -1.0: "reciprocal"}

# -- values with another gradient -------------------------------------------------------------------------------------


def anchor(x: Tensor) -> Tensor:
    """Zero, with the gradient of x. Masked scores may be infinite, and must not turn zero into NaN."""
    finite = torch.where(x.detach().isfinite(), x, torch.zeros((), dtype=x.dtype, device=x.device))
    return finite - finite.detach()


def sloped(value: Tensor, x: Tensor, slope: Tensor) -> Tensor:
    """The value, with the given slope as derivative; infinite slopes and inputs belong to masked entries."""
    slope = torch.where(x.detach().isfinite(), slope.detach().nan_to_num(0.0, 0.0, 0.0), 0.0)
    return with_slope(x, value.detach(), slope)


class _Instead(torch.autograd.Function):
    """A value, with the gradient of another computation of the same shape."""

    @staticmethod
    def forward(ctx: Any, middle: Tensor, value: Tensor) -> Tensor:
        ctx.dtype = middle.dtype
        return value.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad.to(ctx.dtype), None


def product(f: Callable[..., Tensor], value: Tensor, pairs: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """The value, with the gradient of a bilinear or quadratic function at the midpoint of its operands.

    `f(x) - f(x')` of a quadratic function is its gradient at `(x + x') / 2` times `x - x'`, exactly.
    """
    middle = f(*[x + (0.5 * (b - x)).detach() if x.requires_grad else x for x, b in pairs])
    return _Instead.apply(middle, value.detach())  # type: ignore[no-untyped-call]


def quotient(r: Tensor, rb: Tensor, x: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Slopes of `x * r` with respect to x and r, for positive r = 1 / s: the midpoint rule for `y * s = x`.

    The midpoint rule for `x * r` is as exact, but near a singularity (a norm of almost nothing) it takes differences of
    huge numbers, and this does not.
    """
    return 2 * r * rb / (r + rb), (x * r + b * rb) / (r + rb)


def logarithmic_means(log_p: Tensor, log_b: Tensor, dim: Any) -> tuple[Tensor, Tensor]:
    """Logarithmic means of two distributions, and the same divided by their sum over `dim`.

    `p - p' = mean * (ln p - ln p')`; the normaliser moves by the weighted mean of what the inputs move by.
    """
    mean = torch.maximum(log_p, log_b).exp()
    mean = torch.where(mean > 0, mean * _falling((log_p - log_b).abs()), 0.0).nan_to_num(0.0)
    return mean, mean / mean.sum(dim, keepdim=True).clamp(min=torch.finfo(mean.dtype).tiny)


class _Softmax(torch.autograd.Function):
    """A value that moves with x by `mean * (dx - sum of weights * dx)`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, value: Tensor, mean: Tensor, weights: Tensor, dim: int) -> Tensor:
        ctx.save_for_backward(mean, weights)
        ctx.dim, ctx.dtype = dim, x.dtype
        return value.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None, None]:
        mean, weights = ctx.saved_tensors
        moved = grad * mean
        return (moved - weights * moved.sum(ctx.dim, keepdim=True)).to(ctx.dtype), None, None, None, None


def softmax(value: Tensor, x: Tensor, b: Tensor, dim: int, dtype: torch.dtype | None = None) -> Tensor:
    """Softmax whose gradient maps differences of scores exactly to differences of probabilities."""
    log_p, log_b = (F.log_softmax(t.detach(), dim, dtype=dtype) for t in (x, b))
    return _Softmax.apply(x, value.detach(), *logarithmic_means(log_p, log_b, dim), dim)  # type: ignore[no-untyped-call]


class _Norm(torch.autograd.Function):
    """A value that moves with x by `across * dc + along * sum(between * dc)`, c being x less its mean if centred."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, value: Tensor, across: Tensor, along: Tensor, between: Tensor, width: int, centre: bool
    ) -> Tensor:
        ctx.save_for_backward(across, along, between)
        ctx.dims, ctx.centre, ctx.dtype = tuple(range(-width, 0)), centre, x.dtype
        ctx.share = 1 / between.shape[-width:].numel()
        return value.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        across, along, between = ctx.saved_tensors
        out = grad * across + between * (grad * along).sum(ctx.dims, keepdim=True)
        if ctx.centre:
            out = out - out.sum(ctx.dims, keepdim=True) * ctx.share
        return (out.to(ctx.dtype), *[None] * 6)


def normalised(
    value: Tensor, x: Tensor, b: Tensor, width: int, scale: Tensor | None, eps: float, centre: bool
) -> Tensor:
    """Layer norm or RMS norm over the last `width` axes: square by midpoint, inverse root by secant, quotient."""
    dims = tuple(range(-width, 0))
    c, cb = x.detach(), b
    if centre:
        c, cb = (t - t.mean(dims, keepdim=True) for t in (c, cb))
    r, rb = ((t.square().mean(dims, keepdim=True) + eps).rsqrt() for t in (c, cb))
    slope_c, slope_r = quotient(r, rb, c, cb)
    scale = slope_c.new_ones(()) if scale is None else scale.detach()
    between = -((r * rb) ** 2) / (r + rb) * (c + cb) / c.shape[-width:].numel()
    out: Tensor = _Norm.apply(  # type: ignore[no-untyped-call]
        x, value.detach(), slope_c * scale, slope_r * scale, between, width, centre
    )
    return out


# -- calls and their rules ---------------------------------------------------------------------------------------------


@dataclass
class Call:
    """One call of a torch function with its operands in the baseline pass.

    Attributes:
        name: Plain name of the function.
        func: The function, out of place.
        leaves, spec: Flattened arguments.
        before: Place among the leaves -> operand in the baseline pass.
    """

    name: str
    func: Callable[..., Any]
    leaves: list[Any]
    spec: Any
    before: dict[int, Tensor]

    def __post_init__(self) -> None:
        """See which operands depend on the input."""
        self.tracked = [i for i in self.before if self.leaves[i].requires_grad]

    def at(self, replaced: dict[int, Tensor]) -> Tensor:
        """The function with some operands replaced."""
        args, kwargs = tree_unflatten([replaced.get(i, leaf) for i, leaf in enumerate(self.leaves)], self.spec)
        return self.func(*args, **kwargs)

    def option(self, place: int, name: str, default: Any = None) -> Any:
        """An argument by position or name."""
        args, kwargs = tree_unflatten(self.leaves, self.spec)
        return args[place] if len(args) > place else kwargs.get(name, default)

    @property
    def value(self) -> Tensor:
        """What the function returns."""
        with torch.no_grad():
            return self.at({})


ROOT = "_attriflow_inverse_root"
"""Attribute of tensors that are inverse square roots: what multiplies with them is normalised."""

Rule = Callable[[Call], Tensor | None]
"""The value with the gradient of the rule; None where the rule does not apply and autograd's gradient stays."""


def _elementwise(call: Call, closed: str | None = None) -> Tensor | None:
    if len(call.tracked) != 1:
        return None
    (place,) = call.tracked
    value = call.value
    x, b = (t.expand(value.shape) for t in (call.leaves[place], call.before[place]))
    kind = closed or call.name
    if kind in CLOSED:
        with torch.no_grad():
            slope = CLOSED[kind](x, b, value, call.at({place: b}))
    else:
        slope = secant(lambda t: call.at({place: t}), x.detach(), b)
    out = sloped(value, x, slope)
    setattr(out, ROOT, kind == "rsqrt")
    return out


def _quadratic(call: Call) -> Tensor | None:
    if call.name == "einsum" and len(call.tracked) > 2:
        return None
    places = call.tracked
    return product(
        lambda *operands: call.at(dict(zip(places, operands, strict=True))),
        call.value,
        [(call.leaves[i], call.before[i]) for i in places],
    )


def _bilinear(call: Call) -> Tensor | None:
    if call.name == "mul" and len(call.tracked) == 2:
        for i, k in ((0, 1), (1, 0)):
            if getattr(call.leaves[k], ROOT, False):  # a norm written out: x * rsqrt(mean of squares)
                (x, xb), (r, rb) = ((call.leaves[j].detach(), call.before[j]) for j in (i, k))
                slope_x, slope_r = quotient(r, rb, x, xb)
                return call.value + slope_x * anchor(call.leaves[i]) + slope_r * anchor(call.leaves[k])
    return _quadratic(call) if len(call.tracked) > 1 else None


def _power(call: Call) -> Tensor | None:
    exponent = call.option(1, "exponent")
    if call.name == "rpow" or not isinstance(exponent, (int, float)):
        return _elementwise(call)
    return _quadratic(call) if exponent == 2 else _elementwise(call, POWERS.get(float(exponent)))


def _divide(call: Call) -> Tensor | None:
    top, bottom = (1, 0) if call.name == "rdiv" else (0, 1)
    if bottom not in call.tracked or call.option(2, "rounding_mode") is not None:
        return None
    (x, xb), (y, yb) = ((call.leaves[i], call.before.get(i, call.leaves[i])) for i in (top, bottom))
    value = call.value
    with torch.no_grad():
        # the midpoint rule for quotient * y = x; where y changes its sign, the one for x * (1 / y)
        same, total = y * yb > 0, y + yb
        slope_x = torch.where(same, 2 / total, (1 / y + 1 / yb) / 2)
        slope_y = -torch.where(same, (value + xb / yb) / total, (x + xb) / 2 / (y * yb))
    out = value + slope_y * anchor(y)
    return out + slope_x * anchor(x) if top in call.tracked else out


def _softmax(call: Call) -> Tensor | None:
    if call.tracked != [0]:
        return None
    x, b, value = call.leaves[0], call.before[0], call.value
    dim = call.option(1, "dim")
    dim = (0 if x.ndim in (0, 1, 3) else 1) if dim is None else dim  # torch's old implicit choice
    dtype = value.dtype
    if call.name == "softmax":
        return softmax(value, x, b, dim, dtype)
    # differences of the inputs, less the weighted mean of them by which the normaliser moves
    log_p, log_b = (t.detach() - torch.logsumexp(t.detach(), dim, True) for t in (x.to(dtype), b.to(dtype)))
    _, weights = logarithmic_means(log_p, log_b, dim)
    a = anchor(x).to(dtype)
    if call.name == "logsumexp":
        return value + (weights * a).sum(dim, keepdim=bool(call.option(2, "keepdim", False)))
    return value + a - (weights * a).sum(dim, keepdim=True)


def _norm(call: Call) -> Tensor | None:
    if call.tracked != [0]:
        return None
    layer = call.name == "layer_norm"
    eps = call.option(4, "eps", 1e-5) if layer else call.option(3, "eps")
    x = call.leaves[0]
    eps = torch.finfo(x.dtype).eps if eps is None else eps
    width = len(call.option(1, "normalized_shape"))
    return normalised(call.value, x, call.before[0], width, call.option(2, "weight"), eps, layer)


def _extreme(call: Call) -> Tensor | None:
    """Largest (smallest) entry: of the two entries that are it at either point, the share that gives the difference."""
    dim = call.option(1, "dim")
    if call.tracked != [0] or not isinstance(dim, int):
        return None
    x, b, value = call.leaves[0], call.before[0], call.value
    pick = torch.argmax if call.name == "amax" else torch.argmin
    (i, j) = (pick(t.detach(), dim, keepdim=True) for t in (x, b))
    a = anchor(x)
    moved = [x.detach().gather(dim, k) - b.gather(dim, k) for k in (i, j)]
    change = x.detach().gather(dim, i) - b.gather(dim, j)
    apart = moved[0] - moved[1]
    share = torch.where(apart != 0, (change - moved[1]) / apart, 1.0).nan_to_num(1.0, 1.0, 1.0)
    out = share * a.gather(dim, i) + (1 - share) * a.gather(dim, j)
    return value.detach() + (out if call.option(2, "keepdim", False) else out.squeeze(dim))


def _gated(call: Call) -> Tensor | None:
    dim = call.option(1, "dim", -1)
    (a, gate), (ab, gate_b) = (t.chunk(2, dim) for t in (call.leaves[0], call.before[0]))
    opened = sloped(gate.sigmoid(), gate, secant(torch.sigmoid, gate.detach(), gate_b))
    return product(torch.mul, call.value, [(a, ab), (opened, gate_b.sigmoid())])


def _attention(call: Call) -> Tensor | None:
    args, kwargs = tree_unflatten(call.leaves, call.spec)
    given = Operands.of(args, kwargs)
    query, key, value = ((call.leaves[i], call.before[i]) for i in range(3))
    key, value = ((for_heads(t, given.query), for_heads(b, given.query)) for t, b in (key, value))
    scale = given.query.shape[-1] ** -0.5 if given.scale is None else given.scale
    bias = given.bias(float("-inf"))
    with torch.no_grad():
        before, now = (scores(query[i] * scale, key[i], bias) for i in (1, 0))
    # the middle of masked scores is as infinite as they are: only the product gets the midpoint gradient
    plain = product(lambda q, k: scores(q * scale, k), torch.zeros_like(now), [query, key])
    weights = softmax(now.softmax(-1), plain + now, before, -1)
    return product(torch.matmul, call.value, [(weights, before.softmax(-1)), value])


_ELEMENTWISE = """relu relu6 gelu silu mish elu selu celu leaky_relu prelu rrelu hardtanh hardswish hardsigmoid
hardshrink softshrink tanhshrink softsign softplus logsigmoid log_sigmoid threshold sigmoid tanh exp exp2 expm1 log log2
log10 log1p sqrt rsqrt reciprocal abs clamp clamp_min clamp_max erf erfc sin cos tan sinh cosh atan logit maximum
minimum"""
_BILINEAR = """mul matmul bmm mm mv dot einsum baddbmm addmm addbmm addmv addr addcmul outer inner tensordot linear
bilinear conv1d"""
RULES: dict[str, Rule] = {
    **dict.fromkeys(_ELEMENTWISE.split(), _elementwise),
    **dict.fromkeys(_BILINEAR.split(), _bilinear),
    **dict.fromkeys(("var", "square"), _quadratic),
    **dict.fromkeys(("pow", "rpow"), _power),
    **dict.fromkeys(("div", "rdiv"), _divide),
    **dict.fromkeys(("softmax", "log_softmax", "logsumexp"), _softmax),
    **dict.fromkeys(("layer_norm", "rms_norm"), _norm),
    **dict.fromkeys(("amax", "amin"), _extreme),
    "glu": _gated,
    "scaled_dot_product_attention": _attention,
}
ALIASES = {
    **dict.fromkeys(("__mul__", "__rmul__", "multiply"), "mul"),
    **dict.fromkeys(("__matmul__", "__rmatmul__"), "matmul"),
    **dict.fromkeys(("__truediv__", "true_divide", "divide"), "div"),
    **dict.fromkeys(("__rtruediv__", "__rdiv__"), "rdiv"),
    "__pow__": "pow",
    "__rpow__": "rpow",
    "__abs__": "abs",
    "absolute": "abs",
    "clip": "clamp",
    "expit": "sigmoid",
}
MANY = {n for n, rule in RULES.items() if rule is _bilinear}
"""Linear in each operand: of interest only where two of them are computed."""

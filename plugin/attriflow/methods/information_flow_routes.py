"""Contributions of tokens to the readout, through the residual stream."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from attriflow.engine import Engine, Scores
from attriflow.engine.memory import fits
from attriflow.errors import InputError, UnsupportedModelError
from attriflow.kernels.attention import for_heads
from attriflow.kernels.positions import at
from attriflow.methods._internals.mixing import Edges
from attriflow.methods._internals.recording import record_layers
from attriflow.methods._internals.residual import Attended, Node, Rest, Scaled, Stream, Sum, Unit
from attriflow.models.base import Rows
from attriflow.registry import methods


@methods.register(
    "information_flow_routes",
    family="internals",
    blind="Takes attention weights as given: a token that only steers attention gets no credit; first order in "
    "the readout.",
    cost="1 forward + T readouts",
    deterministic=True,
    signed=True,
    interface=True,
    spans=True,
    paper="Ferrando et al. 2023, arXiv:2305.12535; Ferrando and Voita 2024, arXiv:2403.00824",
    memory=lambda sizes, **_: sizes.routes(),
)
@dataclass(frozen=True)
class InformationFlowRoutes:
    r"""What each token brings to a step's value through the sums of the residual stream (ALTI-Logit, flow routes).

    The state that a step is read from is a sum: $h_t = x^0_t + \sum_l ( \sum_j a^l_{tj} + m^l_t )$ with the embedding
    $x^0_t$, attention updates $a^l_{tj} = \sum_h \alpha^h_{tj} v^h_j W^h_O$ from position j, MLP updates $m^l_t$ and
    biases. With the readout $c_t = \partial f_t / \partial h_t$ (for `attributed_fn="logits"` the unembedding row), the
    contribution of each part is its inner product with $c_t$, and each part goes to input tokens by how the layers
    below mixed them:

    $s_t(i) = c_t \cdot x^0_t \, [i = t] + \sum_l \sum_j (c_t \cdot a^l_{tj}) \, M^l_{ji}
    + \sum_l (c_t \cdot m^l_t) \, M^{l+1}_{ti}$

    $M^{l+1} = N^l M^l$, $M^0 = I$; row t of $N^l$ holds the shares of the position's own state and of each $a^l_{tj}$
    in their sum $y_t$: proximity $\max(0, \lVert y_t \rVert_1 - \lVert y_t - p \rVert_1)$ of each part p, over the sum
    of all. Norms on the path (the final one, post-norms, post-attention norms) are linear with their statistics frozen.
    Cross attention goes to source tokens through the encoder's own mixing. Nothing is differentiated through layers:
    for functions other than logits, $c_t$ is a first-order readout of the last state only.

    Scores sum to $c_t \cdot h_t$ less what belongs to no token (biases of norms and projections).

    Attributes:
        return_remainder: Add the step score `remainder`: the step's value minus the sum of scores. It holds the biases,
            for functions that are not linear in $h_t$ the linearisation, and without `attribute_target` what comes from
            the target tokens of encoder-decoders.
        threshold: Routes are followed no further from positions that less than this share of a step's flow comes by:
            what comes there counts for the token there. 0 follows all; 0.001 is faster on long texts.
    """

    return_remainder: bool = False
    threshold: float = 0.0

    def __post_init__(self) -> None:
        """Check the options before any model runs."""
        if not 0 <= self.threshold < 1:
            raise InputError(f"threshold must be from 0 to below 1, not {self.threshold}")

    def __call__(self, engine: Engine) -> Scores:
        """Scores of a batch."""
        flow = trace(engine)
        scores = {b: s for b, s in flow.routed(self.threshold).items() if b in engine.blocks}
        if not self.return_remainder:
            return Scores(scores)
        return Scores(scores, step_scores={"remainder": flow.values - sum(s.sum(-1) for s in scores.values())})


@dataclass(frozen=True)
class Flow:
    """A step's readout, split among the parts of its residual stream.

    Attributes:
        engine: The batch.
        stream: What the pass recorded.
        values: The explained values, `[batch, step]`.
        linear: Inner product of readout and state, `[batch, step]`.
        rests: Contributions of embeddings and MLPs where tokens are read, by the number of decoder attention layers
            before them, each `[batch, token]`.
        attended: Contributions of attended tokens by index of the decoder's attention layers, `[batch, step, token]`.
        constant: Contributions of biases, `[batch, step]`.

    A step is a token that is read, or a span of them: tokens' contributions are added up as soon as they are there.
    """

    engine: Engine
    stream: Stream
    values: Tensor
    linear: Tensor
    rests: dict[int, Tensor]
    attended: dict[int, Tensor]
    constant: Tensor

    def routed(self, threshold: float = 0.0) -> dict[str, Tensor]:
        """Contributions by input token, block -> `[batch, step, position]`: from the last layer down to the inputs."""
        query, width = self.engine.read.query, self.engine.batch.target_ids.shape[1]
        target = self.linear.new_zeros(*self.linear.shape, width)
        place = _owner(self.engine) * width + query
        source: Tensor | None = None
        for time in range(len(self.stream.decoder), -1, -1):
            if time in self.rests:
                target.flatten(1).scatter_add_(1, place, self.rests[time])
            if time == 0:
                break
            unit = self.stream.decoder[time - 1]
            target, moved = _edges(unit).back(target, threshold)
            moved += self.attended.get(unit.index, 0)
            if unit.role == "cross":
                source = moved if source is None else source + moved
            else:
                target += moved
        if source is None:
            return {"target": target}
        for unit in reversed(self.stream.encoder):
            own, moved = _edges(unit).back(source, threshold)
            source = own + moved
        return {"target": target, "source": source}


def _edges(unit: Unit) -> Edges:
    if unit.edges is None:
        raise UnsupportedModelError("the output of an attention layer is not added to the state that it belongs to")
    return unit.edges


def trace(engine: Engine, odd: frozenset[int] = frozenset()) -> Flow:
    """Record one pass and split the readout of every step among the parts of its state.

    Args:
        engine: The batch.
        odd: Calls of norms that are not what they are taken for; once more where that is found out.
    """
    hf, stream = engine.model.hf, Stream(engine, odd)
    head = hf.get_output_embeddings()
    if head is None:
        raise UnsupportedModelError(f"{type(hf).__name__} has no LM head (output embeddings) to read from")
    if engine.objective.passes:
        raise UnsupportedModelError(
            "information_flow_routes takes one pass apart, and this step function reads others; explain it with a "
            "gradient or perturbation method"
        )
    engine.run_foil()  # not to be taken for the pass that is recorded
    caught: list[tuple[Tensor, Node | None]] = []

    def catch(_module: Any, args: Any) -> Any:
        # from here on gradients are needed; the recording pass switches them off again at its end
        leaf = args[0].detach()
        caught.append((leaf, stream.get(args[0])))
        stream.stop()
        torch.set_grad_enabled(True)
        return (leaf.requires_grad_(True), *args[1:])

    with ExitStack() as stack:
        stack.callback(head.register_forward_pre_hook(catch).remove)
        forward = record_layers(engine, stream.attended, stream.watching())
    if strange := stream.strange():
        return trace(engine, odd | strange)
    hidden, top = caught[0] if len(caught) == 1 else (None, None)
    if hidden is None or top is None:
        raise UnsupportedModelError(f"the residual stream of {type(hf).__name__} cannot be followed to its LM head")
    with fits("in the readout through the LM head"):
        with torch.enable_grad():
            values = engine.objective(forward) * engine.read.step_mask
        readout, state = _readout(engine, values, hidden)
    with torch.no_grad():
        values = engine.of_steps(values.detach().to(engine.dtype))
        if engine.spans is not None:  # everything is linear in the readout from here on
            readout *= engine.spans.weight.to(readout).unsqueeze(-1)
        return _split(engine, stream, top, readout, values, state)


def _readout(engine: Engine, values: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
    """Gradient of each token's value at its own state, and that state, `[batch, token, hidden]`."""
    query = engine.read.query
    low, high = Rows.of(engine.read).span
    place = query - low if hidden.shape[1] == high - low + 1 else query

    def gradient(value: Tensor) -> Tensor:
        if not value.requires_grad:
            return torch.zeros_like(hidden)
        return torch.autograd.grad(value, hidden, retain_graph=True)[0]

    if engine.objective.stepwise:  # a step's value depends on its own state only, so one backward serves all
        readout = at(gradient(values.sum()), place, 1)
    else:
        steps = range(values.shape[1])
        readout = torch.cat([at(gradient(values[:, t].sum()), place[:, t : t + 1], 1) for t in steps], 1)
    engine.counter.backward_rows += values.shape[0] * (1 if engine.objective.stepwise else values.shape[1])
    readout = readout * engine.read.step_mask.unsqueeze(-1).to(readout.device)
    state = at(hidden.detach(), place, 1)
    return readout.to(query.device, engine.dtype), state.to(query.device, engine.dtype)


def _split(engine: Engine, stream: Stream, top: Node, readout: Tensor, values: Tensor, state: Tensor) -> Flow:
    """Pull the readout back through sums and frozen norms to the parts."""
    query = engine.read.query
    linear = _pooled(engine, (readout * state).sum(-1))
    flow = Flow(engine, stream, values, linear, {}, {}, torch.zeros_like(linear))
    nodes: set[Node] = {top}
    todo: list[Node] = [top]
    while todo:
        new = set(todo.pop().parts) - nodes
        nodes |= new
        todo += new
    pulled: dict[Node, Tensor] = {top: readout}
    for node in sorted(nodes, key=lambda n: -n.order):
        c = pulled.pop(node)
        if isinstance(node, Sum):
            for part, sign in zip(node.terms, (1, node.sign), strict=True):
                pulled[part] = pulled[part] + sign * c if part in pulled else sign * c
        elif isinstance(node, Scaled):
            affine = node.affine
            flow.constant.add_(_pooled(engine, (c * affine.bias.to(c)).sum(-1)))
            gained = c * affine.gain.to(c)
            c = gained if node.scale is None else gained * at(node.scale, query, 1).to(c)
            c = affine.less_mean(c)
            pulled[node.child] = pulled[node.child] + c if node.child in pulled else c
        elif isinstance(node, Attended):
            _attention(flow, node.unit, c)
        elif isinstance(node, Rest):
            if node.rows is None:
                raise UnsupportedModelError("the residual stream changes its length on its way to the LM head")
            _add(flow.rests, node.time, (c * node.rows).sum(-1))
    if not flow.attended:
        raise UnsupportedModelError(f"no attention layer of {engine.model.name} reaches the LM head through sums")
    return flow


def _attention(flow: Flow, unit: Unit, c: Tensor) -> None:
    """Contributions of an attention layer by attended token, of its bias, and of a gate on its heads' outputs."""
    assert unit.gap is not None  # noqa: S101
    edges, engine = _edges(unit), flow.engine
    query, owner = engine.read.query, _owner(engine)
    by_head = torch.einsum("bto,hdo->bhtd", c, edges.weight.to(c))
    values = for_heads(edges.call.value, by_head).to(c)
    found = c.new_zeros(*flow.linear.shape, edges.call.shape[3])
    places = engine.read.host.query
    read = set(places.flatten().tolist())
    for block, weights in edges.call.blocks([i in read for i in range(edges.call.shape[2])]):
        tokens: slice | Tensor = slice(None)
        if weights.shape[2] == edges.call.shape[2]:  # one block: nothing to tell the device
            rows = at(weights, query, 2).to(c)
        else:
            inside = (places >= block.rows.start) & (places < block.rows.stop)
            tokens = inside.any(0).nonzero()[:, 0].to(c.device)
            rows = (query[:, tokens] - block.rows.start).clamp(0, weights.shape[2] - 1)
            rows = at(weights, rows, 2).to(c) * inside.to(c)[:, None, tokens, None]
        rows = (rows * (by_head[:, :, tokens] @ values[:, :, : block.seen].mT)).sum(1)
        into = owner[:, tokens].unsqueeze(-1).expand_as(rows)
        found[..., : block.seen].scatter_add_(1, into, rows)
    _add(flow.attended, unit.index, found)
    _add(flow.rests, unit.index + 1, (unit.gap * by_head.transpose(1, 2).flatten(2)).sum(-1))
    if unit.bias is not None:
        flow.constant.add_(_pooled(engine, c @ unit.bias))


def _owner(engine: Engine) -> Tensor:
    """`[batch, token]`: the step of each token that is read; any for those of none, whose readout is zero."""
    if engine.spans is not None:
        return engine.spans.owner.clamp(min=0).to(engine.batch.query.device)
    return torch.arange(engine.read.n_steps, device=engine.read.query.device).expand_as(engine.read.query)


def _pooled(engine: Engine, values: Tensor) -> Tensor:
    """Sums over the tokens of each step: `[batch, token]` to `[batch, step]`."""
    return values.new_zeros(engine.batch.query.shape).scatter_add_(1, _owner(engine), values)


def _add(store: dict[int, Tensor], key: int, value: Tensor) -> None:
    store[key] = store[key] + value if key in store else value

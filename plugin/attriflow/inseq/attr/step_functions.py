"""Inseq's step functions: `(args, **options) -> [row]`, one step at a time, over attriflow's, which see all steps.

Its built-in ones are here under their names (`probability_fn`, ...), for functions of your own that call them.
"""

from __future__ import annotations

import functools
import inspect
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from attriflow.errors import UnknownNameError, unknown
from attriflow.inseq.face import ModelFace
from attriflow.registry import aggregation_functions, aggregators, methods, step_functions
from attriflow.types import Forward, Passes

ALIASES = {"logit": "logits"}
"""Inseq's names that are others here."""


class ForwardOutput:
    """What a model gave for one step: `logits` `[row, 1, vocab]`, `hidden_states` `[row, 1, width]` per layer."""

    def __init__(self, logits: Tensor, states: Callable[[], tuple[Tensor, ...]]) -> None:
        """Hold logits, and how states are found."""
        self.logits, self._states = logits, states

    @functools.cached_property
    def hidden_states(self) -> tuple[Tensor, ...]:
        """States before the first decoder layer and after each, at the step."""
        return self._states()

    @property
    def decoder_hidden_states(self) -> tuple[Tensor, ...]:
        """The same, under the name of encoder-decoders."""
        return self.hidden_states


class StepFunctionArgs:
    """What Inseq's step functions are given: one step of some rows, inputs cut to its prefix.

    Attributes:
        attribution_model: The model.
        forward_output: Its output; `attribution_model.output2logits` gives `[row, vocab]`.
        target_ids: The token of the step, `[row]`.
        is_attributed_fn: Whether the function is explained, not recorded.
        decoder_input_ids, decoder_input_embeds, decoder_attention_mask, encoder_...: Inputs `[row, token(, width)]`.
    """

    def __init__(self, forward: Forward, rows: Tensor, step: int, position: int, model: Any) -> None:
        """Cut a forward to a step."""
        self._forward, self._rows, self._step, self._stop = forward, rows, step, position + 1
        self.attribution_model = model
        self.forward_output: Any = ForwardOutput(forward.logits[rows, step].unsqueeze(1), self._states)
        self.target_ids = forward.target_ids[rows, step]
        self.is_attributed_fn = forward.logits.requires_grad

    @property
    def _passes(self) -> Passes:
        assert self._forward.passes is not None  # noqa: S101
        return self._forward.passes

    def _states(self) -> tuple[Tensor, ...]:
        return tuple(s[self._rows, self._step].unsqueeze(1) for s in self._passes.hidden_states())

    @functools.cached_property
    def decoder_input_ids(self) -> Tensor:
        """Ids of the prefix."""
        return self._passes.ids("target")[self._rows, : self._stop]

    @functools.cached_property
    def decoder_input_embeds(self) -> Tensor:
        """Embeddings of the prefix."""
        return self._passes.embeddings("target")[self._rows, : self._stop]

    @functools.cached_property
    def decoder_attention_mask(self) -> Tensor:
        """Ones: a prefix has no padding."""
        return torch.ones_like(self.decoder_input_ids)

    @functools.cached_property
    def encoder_input_ids(self) -> Tensor:
        """Ids of the source."""
        return self._passes.ids("source")[self._rows]

    @functools.cached_property
    def encoder_input_embeds(self) -> Tensor:
        """Embeddings of the source."""
        return self._passes.embeddings("source")[self._rows]

    @functools.cached_property
    def encoder_attention_mask(self) -> Tensor:
        """Zero where a shorter source is padded."""
        mask = self._passes.mask("source")
        return torch.ones_like(self.encoder_input_ids) if mask is None else mask[self._rows]


StepFunctionBaseArgs = StepFunctionDecoderOnlyArgs = StepFunctionEncoderDecoderArgs = StepFunctionArgs


def translated(fn: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A function of Inseq's kind as one of attriflow's, its parameters beside `args` as options."""
    parameters = list(inspect.signature(fn).parameters.values())
    own = [p for p in parameters[1:] if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]

    @functools.wraps(fn)
    def call(forward: Forward, **options: Any) -> Tensor:
        out = forward.logits.new_zeros(forward.target_ids.shape)
        parts = []
        model = ModelFace.of(forward.model)
        for rows, step, position in _groups(forward):
            value = fn(StepFunctionArgs(forward, rows, step, position, model), **options)
            parts.append((rows, step, torch.as_tensor(value).to(out).reshape(-1).expand(len(rows))))
        for rows, step, value in parts:
            out = out.index_put((rows, torch.full_like(rows, step)), value)
        return out

    first = inspect.Parameter("forward", inspect.Parameter.POSITIONAL_ONLY)
    options = [p.replace(kind=p.KEYWORD_ONLY, annotation=inspect.Parameter.empty) for p in own]
    call.__signature__ = inspect.Signature([first, *options])  # type: ignore[attr-defined]
    call.__annotations__ = {}
    call.passes = True  # type: ignore[attr-defined]
    del call.__wrapped__  # type: ignore[attr-defined]
    return call


def _groups(forward: Forward) -> Iterator[tuple[Tensor, int, int]]:
    """Rows that are read at the same position, step by step."""
    positions = forward.passes.positions() if forward.passes is not None else torch.zeros_like(forward.target_ids)
    there = torch.ones_like(forward.target_ids, dtype=torch.bool) if forward.mask is None else forward.mask
    for step in range(forward.target_ids.shape[1]):
        for position in positions[there[:, step], step].unique().tolist():
            rows = ((positions[:, step] == position) & there[:, step]).nonzero().flatten()
            yield rows, step, int(position)


def register_step_function(
    fn: Callable[..., Tensor], identifier: str, aggregate_map: Mapping[str, Any] | None = None, overwrite: bool = False
) -> None:
    """Register a function of Inseq's kind, `(args, **options) -> [row]`, under a name.

    Names in `aggregate_map` that are no aggregators do nothing in Inseq; here they do nothing with a warning.
    """
    known = {}
    for aggregator, function in dict(aggregate_map or {}).items():
        if aggregator in aggregators:
            known[aggregator] = _last_axis(function) if callable(function) else function
        else:
            warnings.warn(unknown("aggregator", aggregator, aggregators.names()) + ": ignored", stacklevel=2)
    more: dict[str, Any] = {"aggregate_map": known} if known else {}
    step_functions.register(identifier, overwrite=overwrite, passes=True, stepwise=False, **more)(translated(fn))


def _last_axis(function: Callable[..., Any]) -> Callable[[Tensor], Any]:
    """A function of `[1, token]` values, as Inseq calls it, for values of any shape."""

    def call(values: Tensor) -> Any:
        out = function(values.reshape(-1, values.shape[-1]))
        return out.reshape(values.shape[:-1]) if isinstance(out, Tensor) else out

    return call


def list_feature_attribution_methods() -> list[str]:
    """Names of all methods."""
    return methods.names()


def list_aggregators() -> list[str]:
    """Names of all aggregators."""
    return aggregators.names()


def list_aggregation_functions() -> list[str]:
    """Names of all aggregation functions."""
    return aggregation_functions.names()


def list_step_functions() -> list[str]:
    """Names of all step functions, Inseq's other names among them."""
    return sorted([*step_functions.names(), *ALIASES])


def explain(id: str) -> None:
    """Print what a method, aggregator, aggregation function or step function is."""
    name = ALIASES.get(id, id)
    for registry in (methods, aggregators, aggregation_functions, step_functions):
        if name in registry:
            print(inspect.getdoc(registry.info(name).obj))
            return
    raise UnknownNameError(unknown("identifier", id, [*methods.names(), *aggregators.names(), *list_step_functions()]))


def _built_in(name: str) -> Callable[..., Tensor]:
    """A step function of attriflow as Inseq calls it."""

    def call(args: Any, **options: Any) -> Tensor:
        logits = args.attribution_model.output2logits(args.forward_output)
        ids = args.target_ids.reshape(-1, 1).to(logits.device)
        found: Tensor = step_functions.build(name, **options)(Forward(logits=logits.unsqueeze(1), target_ids=ids))
        return found[:, 0]

    call.__name__, call.__doc__ = f"{name}_fn", step_functions.info(name).summary
    return call


logit_fn = _built_in("logits")
probability_fn = _built_in("probability")
entropy_fn = _built_in("entropy")
crossentropy_fn = _built_in("crossentropy")
perplexity_fn = _built_in("perplexity")
top_p_size_fn = _built_in("top_p_size")


class _Map(Mapping[str, Callable[..., Any]]):
    """Every registered step function by name."""

    def __getitem__(self, name: str) -> Callable[..., Any]:
        name = ALIASES.get(name, name)
        if name not in step_functions:
            raise KeyError(name)
        return step_functions.info(name).obj  # type: ignore[no-any-return]

    def __iter__(self) -> Iterator[str]:
        return iter(list_step_functions())

    def __len__(self) -> int:
        return len(list_step_functions())


STEP_SCORES_MAP: Mapping[str, Callable[..., Any]] = _Map()

"""What attriflow makes of a model: facts, what the model check found, and every method tried on one short text.

A method is *exact* where one call with all shortcuts gives the scores that each step has alone: run on its own prefix,
nothing after it, all shortcuts off. Methods that draw random numbers are held against the same draws without shortcuts,
occlusion against forwards of the model on ids of which one is exchanged. That a forward on embeddings is one on ids and
that gradients are those of the logits is what the model check looks at.
"""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from attriflow.doors import opened
from attriflow.engine import plain
from attriflow.engine.baselines import baseline_id
from attriflow.errors import AttriflowError, reason_of
from attriflow.models.checking import ordinary_ids
from attriflow.models.findings import Finding
from attriflow.models.offload import places_of
from attriflow.registry import PartInfo, methods
from attriflow.types import Example
from attriflow.versions import versions

if TYPE_CHECKING:
    from attriflow.model import AttributionModel

MethodState = Literal["exact", "refused", "differs", "error"]
N_INPUT, N_STEPS = 6, 3
CLOSE = {torch.float64: 1e-5, torch.float32: 1e-3}
ROUGH = 5e-2
"""How far scores may lie apart, relative to the largest: what rounding does; in half precision, the second."""

COMPARED = {
    "steps alone": "each step in a call of its own on its own prefix, all shortcuts off",
    "same draws": "the same random numbers, all shortcuts off",
    "plain forwards": "forwards of the model on each step's prefix with one id exchanged",
}
"""What one call with all shortcuts is held against."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizerReport:
    """Facts about a tokenizer.

    Attributes:
        name: Its class.
        kind: The algorithm ("BPE, byte-level", "Unigram", ...), where it tells.
        special: "bos", "eos", ... -> token and id, those that it has.
        adds: Special tokens that it puts before ("bos") and after ("eos") a text by itself, as it calls them.
        size: Tokens in its vocabulary.
        embeddings: Rows of the model's input embeddings.
        absent: The token that stands for an absent one when a method's baseline is "unk" (see `Occlusion.baseline`).
        chat_template: Whether it can render chats.
    """

    name: str
    kind: str
    special: dict[str, tuple[str, int]]
    adds: dict[str, tuple[str, ...]]
    size: int
    embeddings: int
    absent: tuple[str, int] | None
    chat_template: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class MethodReport:
    """A method, tried.

    Attributes:
        name, family: Of the method.
        state: "exact"; "refused" (one line says why); "differs" or "error": faults of attriflow.
        detail: The reason, or what it was held against (see `COMPARED`).
        difference: The largest difference between scores, relative to the largest score; None where one of the two has
            no score at a place where the other has one.
        seconds: Of the one call.
    """

    name: str
    family: str
    state: MethodState
    detail: str
    difference: float | None = None
    seconds: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelReport:
    """What attriflow makes of a model.

    Attributes:
        name: Where it came from.
        architecture: Its class, with what it is wrapped in.
        kind: "decoder-only" or "encoder-decoder".
        model_type: Of its configuration.
        precision: Type of its parameters -> how many there are of it.
        devices: Where it computes, then where weights are kept in between.
        tokenizer: Facts about its tokenizer.
        check: What the model check found.
        shortcuts: Ways to the same numbers with less work -> on, off, or None: not tried on a text this short.
        methods: Every method, tried.
        tokens: What they were tried on.
        compared: What methods were held against, in words.
        versions: Of attriflow and the packages that compute.
        seconds: For all of this.
    """

    name: str
    architecture: str
    kind: str
    model_type: str
    precision: dict[str, int]
    devices: tuple[str, ...]
    tokenizer: TokenizerReport
    check: tuple[Finding, ...]
    shortcuts: dict[str, bool | None]
    methods: tuple[MethodReport, ...]
    tokens: tuple[str, ...]
    compared: dict[str, str]
    versions: dict[str, str]
    seconds: float

    @property
    def counts(self) -> dict[str, int]:
        """How many methods are in which state."""
        return dict(Counter(m.state for m in self.methods))

    def show(self) -> None:
        """Print it."""
        opened("report.show")(self)

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON has it."""
        found: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(self)))
        return found


def inspect_model(model: AttributionModel) -> ModelReport:
    """Look at a model, and try every method on it: some seconds for a small one."""
    begin = time.perf_counter()
    wrapped, hf = model.wrapped, model.model
    check = wrapped.checked.findings
    example = _example(model)
    tried = tuple(_tried(model, example, info) for info in methods)
    config = hf.config
    return ModelReport(
        name=model.name,
        architecture=" in ".join(_layers(hf)),
        kind="encoder-decoder" if model.is_encoder_decoder else "decoder-only",
        model_type=str(getattr(config, "model_type", "")),
        precision=_precision(hf),
        devices=places_of(hf, wrapped.devices),
        tokenizer=_tokenizer(model),
        check=tuple(check),
        shortcuts={
            "perturbation: keys and values of prefixes": wrapped.reuses_prefix,
            "gradients: work shared between steps": wrapped.shares_gradients,
            "gradients: all steps through the last block": wrapped.last_block_separable,
            "generation: padded prompts together": wrapped.generates_padded,
        },
        methods=tried,
        tokens=tuple(t.text for t in (*example.source, *example.target)),
        compared=COMPARED,
        versions=versions(),
        seconds=time.perf_counter() - begin,
    )


# -- facts ------------------------------------------------------------------------------------------------------------


def _layers(hf: Any) -> list[str]:
    """The class of a model, from the inside to the outside of what it is wrapped in."""
    out = [type(hf).__name__]
    adapters = getattr(hf, "peft_config", None)
    if isinstance(adapters, dict) and hasattr(hf, "get_base_model"):
        kinds = {str(getattr(c.peft_type, "value", c.peft_type)) for c in adapters.values()}
        out = [type(hf.get_base_model()).__name__, f"{out[0]} ({', '.join(sorted(kinds))})"]
    inner = getattr(hf, "_orig_mod", None)
    if inner is not None:
        out = [*_layers(inner), "torch.compile"]
    elif getattr(hf, "_compiled_call_impl", None) is not None:
        out.append("torch.compile")
    method = getattr(getattr(hf, "hf_quantizer", None), "quantization_config", None)
    if method is not None:
        out.append(f"quantised ({getattr(method.quant_method, 'value', method.quant_method)})")
    return out


def _precision(hf: Any) -> dict[str, int]:
    counts: Counter[str] = Counter()
    for parameter in hf.parameters():
        counts[str(parameter.dtype).removeprefix("torch.")] += parameter.numel()
    return dict(counts.most_common())


def _tokenizer(model: AttributionModel) -> TokenizerReport:
    tokenizer, wrapped = model.tokenizer, model.wrapped
    special = {}
    for name in ("bos", "eos", "pad", "unk", "mask", "sep", "cls"):
        token, value = getattr(tokenizer, f"{name}_token", None), getattr(tokenizer, f"{name}_token_id", None)
        if token is not None and isinstance(value, int):
            special[name] = (str(token), value)
    try:
        stands = baseline_id(wrapped, "unk")
        absent = (str(tokenizer.convert_ids_to_tokens(stands)), stands)
    except AttriflowError:
        absent = None
    return TokenizerReport(
        name=type(tokenizer).__name__,
        kind=_algorithm(tokenizer),
        special=special,
        adds=_added(tokenizer),
        size=len(tokenizer),
        embeddings=wrapped.vocab_size,
        absent=absent,
        chat_template=bool(getattr(tokenizer, "chat_template", None)),
    )


def _algorithm(tokenizer: Any) -> str:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return "in Python"
    content = json.loads(backend.to_str())
    kind = str(content["model"].get("type") or type(backend.model).__name__)
    if '"ByteLevel"' in json.dumps([content.get("pre_tokenizer"), content.get("decoder")]):
        return f"{kind}, byte-level"
    return f"{kind}, byte fallback" if content["model"].get("byte_fallback") else kind


def _added(tokenizer: Any) -> dict[str, tuple[str, ...]]:
    """Special tokens that a tokenizer puts around a text by itself."""
    text = "a"
    bare = list(tokenizer(text, add_special_tokens=False)["input_ids"])
    full = list(tokenizer(text)["input_ids"])
    at = next((i for i in range(len(full)) if full[i : i + len(bare)] == bare), 0)
    sides = {"before": full[:at], "after": full[at + len(bare) :]}
    return {side: tuple(map(str, tokenizer.convert_ids_to_tokens(ids))) for side, ids in sides.items() if ids}


# -- methods ----------------------------------------------------------------------------------------------------------


def _example(model: AttributionModel) -> Example:
    """Ordinary tokens and a target of ordinary tokens: any model has them, and no two are alike."""
    wrapped = model.wrapped
    ids = ordinary_ids(wrapped, N_INPUT + N_STEPS)
    given, new = ids[:N_INPUT], ids[N_INPUT:]
    if not model.is_encoder_decoder:
        target = (*wrapped.tokens(given, segment="prompt"), *wrapped.tokens(new, segment="generated"))
        return Example(target=target, start=len(given), stop=len(target))
    start = wrapped.start_id  # type: ignore[attr-defined]
    target = tuple(wrapped.tokens([start, *new], segment="generated"))
    return Example(source=tuple(wrapped.tokens(given, segment="source")), target=target, start=1, stop=len(target))


def _tried(model: AttributionModel, example: Example, info: PartInfo) -> MethodReport:
    """One method on one text, held against the same without shortcuts."""
    family = str(info.meta.get("family", ""))
    try:
        begin = time.perf_counter()
        found = _scores(model, example, info)
        seconds = time.perf_counter() - begin
        with plain():
            against, wanted = _wanted(model, example, info)
    except AttriflowError as error:
        return MethodReport(name=info.name, family=family, state="refused", detail=reason_of(error))
    except Exception as error:
        return MethodReport(name=info.name, family=family, state="error", detail=reason_of(error))
    difference = _difference(found, wanted)
    close = difference is not None and difference <= CLOSE.get(model.dtype, ROUGH)
    return MethodReport(
        name=info.name,
        family=family,
        state="exact" if close else "differs",
        detail=against,
        difference=difference,
        seconds=seconds,
    )


def _wanted(model: AttributionModel, example: Example, info: PartInfo) -> tuple[str, Tensor]:
    """What a method is held against, and the scores of that."""
    if info.name == "occlusion":
        return "plain forwards", _occluded(model, example)
    if info.meta.get("deterministic"):
        return "steps alone", _alone(model, example, info)
    return "same draws", _scores(model, example, info)


def _scores(model: AttributionModel, example: Example, info: PartInfo) -> Tensor:
    """`[step, input, ...]`, of all steps in one call."""
    (found,) = model.attribute_examples(
        [example],
        info.name,
        attribute_target=model.is_encoder_decoder,
        **dict(info.meta.get("trial", {})),
    )
    return found.scores


def _alone(model: AttributionModel, example: Example, info: PartInfo) -> Tensor:
    """`[step, input, ...]`, of each step in a call of its own that ends with it; NaN where it sees nothing."""
    rows = []
    for step in range(example.start, example.stop):
        cut = dataclasses.replace(example, target=example.target[: step + 1], start=step, stop=step + 1)
        row = _scores(model, cut, info)
        missing = len(example.source) + len(example.target) - row.shape[1]
        rows.append(torch.cat([row, row.new_full((1, missing, *row.shape[2:]), math.nan)], 1))
    return torch.cat(rows)


@torch.no_grad()
def _occluded(model: AttributionModel, example: Example) -> Tensor:
    """`[step, input]`: what the target's probability loses when one id is exchanged, by forwards on ids alone."""
    wrapped, n = model.wrapped, len(example.source)
    absent = baseline_id(wrapped, "unk")

    def probability(ids: list[int], token: int) -> Tensor:
        given = [torch.tensor([part], device=wrapped.device) for part in (ids[:n], ids[n:])]
        named = {"input_ids": given[0], "decoder_input_ids": given[1]} if n else {"input_ids": given[1]}
        logits = wrapped.logits(**named)[0, -1]
        return logits.to(torch.promote_types(logits.dtype, torch.float32)).softmax(-1)[token]

    out = torch.full((example.n_steps, n + len(example.target)), math.nan, dtype=torch.float64)
    with wrapped.frozen():
        for step, end in enumerate(range(example.start, example.stop)):
            ids, token = [*example.source_ids, *example.target_ids[:end]], example.target[end].id
            whole = probability(ids, token)
            for i in range(len(ids)):
                kept = n and i == n  # the decoder's start
                exchanged = ids if kept else [*ids[:i], absent, *ids[i + 1 :]]
                out[step, i] = whole - probability(exchanged, token)
    return out


def _difference(found: Tensor, wanted: Tensor) -> float | None:
    """The largest difference relative to the largest score; None where one has a score and the other none."""
    if found.shape != wanted.shape or not torch.equal(found.isnan(), wanted.isnan()):
        return None
    largest = max(float(wanted.nan_to_num().abs().max()), 1e-30)
    return float((found.double() - wanted.double()).nan_to_num().abs().max()) / largest

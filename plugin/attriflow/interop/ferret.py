"""ferret both ways: attributions as ferret's `Explanation`s, and ferret's explainers as attribution methods.

ferret explains text classifiers. One generation step is one, too: given the text so far, the classes are "the token
that was generated" and "any other". `FerretExplainer` shows each step to an explainer in this form, one step at a time,
so it costs what the explainer costs times the number of steps. The tokens are shown as their numbers, "0 1 2 3", so
that ferret's way through text (decode, tokenise again) returns exactly the tokens it started from.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from attriflow.engine import Engine, Scores
from attriflow.engine.baselines import Baseline
from attriflow.errors import InputError, MissingExtraError, UnknownNameError, unknown
from attriflow.methods._draws import generator
from attriflow.models.base import Rows
from attriflow.registry import methods
from attriflow.types import Attribution, Forward

if TYPE_CHECKING:
    import pandas as pd

Reads = Literal["probability", "score"]

EXPLAINERS: Mapping[str, tuple[str, str, Mapping[str, Any], Reads]] = {
    "lime": ("lime", "LIMEExplainer", {}, "probability"),
    "shap": ("shap", "SHAPExplainer", {}, "probability"),
    "gradient": ("gradient", "GradientExplainer", {"multiply_by_inputs": False}, "score"),
    "gradient_x_input": ("gradient", "GradientExplainer", {}, "score"),
    "integrated_gradient": ("gradient", "IntegratedGradientExplainer", {"multiply_by_inputs": False}, "score"),
    "integrated_gradient_x_input": ("gradient", "IntegratedGradientExplainer", {}, "score"),
}
"""Name -> module and class in `ferret.explainers`, options, and what the explainer reads of the model's logits."""


# -- attriflow to ferret ----------------------------------------------------------------------------------------------


def explanations(
    attributions: Mapping[str, Attribution] | Attribution, step: int = -1, *, normalise: bool = True
) -> list[Any]:
    """Attributions of one step as ferret's `Explanation`s, for its table views and evaluators.

    Args:
        attributions: Label -> attribution of the same text; or one attribution, labelled with its method.
        step: The explained token; negative from the end.
        normalise: Divide the scores by the sum of their magnitudes, as `ferret.Benchmark.explain` does.

    Returns:
        One explanation per attribution, over the tokens that the step sees: `scores` (float64), `target` (id of the
        explained token), `explainer` (label). A token that occurs again gets a number behind it ("the.1"), because
        ferret's tables have one column per token.

    Raises:
        InputError: There is no such step, or the attributions are not of the same tokens.
        MissingExtraError: ferret is not installed.
    """
    found = {attributions.provenance.method: attributions} if isinstance(attributions, Attribution) else attributions
    if len({(a.inputs, a.targets) for a in found.values()}) > 1:
        raise InputError("the attributions give scores to different tokens; show those of the same ones")
    kind = _ferret("explainers.explanation").Explanation
    out = []
    for label, attribution in found.items():
        steps = len(attribution.targets)
        if not -steps <= step < steps:
            raise InputError(f"there is no step {step}: there are {steps}")
        scores = attribution.token_scores()[step].double().cpu()
        seen = [i for i, value in enumerate(scores.tolist()) if not math.isnan(value)]
        values = scores[seen].numpy()
        total = float(abs(values).sum())
        words = [attribution.inputs[i].text for i in seen]
        out.append(
            kind(
                text=" ".join(words),
                tokens=_distinct(words),
                scores=values / total if normalise and total else values,
                explainer=label,
                target=attribution.targets[step].id,
            )
        )
    return out


def show_table(explained: Sequence[Any], *, apply_style: bool = True, remove_first_last: bool = False) -> Any:
    """Ferret's own table of explanations, without a model: `ferret.Benchmark.show_table`.

    Args:
        explained: What `explanations` returns.
        apply_style: Colour the cells.
        remove_first_last: Leave out the first and the last token, which ferret takes to be special tokens.
    """
    benchmark = _ferret("benchmark").Benchmark
    # the view reads nothing of a benchmark, whose constructor wants a model and builds every explainer
    return benchmark.show_table(benchmark.__new__(benchmark), list(explained), apply_style, remove_first_last)


def to_frame(explained: Sequence[Any]) -> pd.DataFrame:
    """Ferret's data frame of explanations: one row per explainer, one column per token."""
    benchmark = _ferret("benchmark").Benchmark
    return benchmark.get_dataframe(benchmark.__new__(benchmark), list(explained))


def _distinct(words: Sequence[str]) -> list[str]:
    counts: dict[str, int] = {}
    out: list[str] = []
    for word in words:
        name = word
        while name in out:
            counts[word] = counts.get(word, 0) + 1
            name = f"{word}.{counts[word]}"
        out.append(name)
    return out


# -- ferret to attriflow ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FerretExplainer:
    """Scores of one of ferret's explainers, one generation step at a time.

    Works for decoder-only models (the explained text is the prefix of the step) and for the source of encoder-decoders;
    not together with `attribute_target`, contrast, or functions that run the model again. Explainers that read
    probabilities (LIME, SHAP) explain the probability of the token; those that read gradients explain any attributed
    function.

    Attributes:
        explainer: A name (see `EXPLAINERS`) or a class that is built with `(model, tokenizer)` and called with
            `(text, target, init_args=..., call_args=...)`, as ferret's are.
        init_args: Options for what the explainer wraps (LIME's `LimeTextExplainer`, captum's class, `shap.Explainer`).
        call_args: Options of the call, such as `num_samples` of LIME or `n_steps` of integrated gradients.
        reads: What a class of your own reads: "probability" (softmax of the logits) or "score" (the logit).
        baseline: What an absent token looks like: "unk", "pad", "mask", "eos", "bos", "zero", "mean" or a token id.
    """

    explainer: Any
    init_args: Mapping[str, Any] = field(default_factory=dict)
    call_args: Mapping[str, Any] = field(default_factory=dict)
    reads: Reads = "probability"
    baseline: Baseline = "unk"

    def __post_init__(self) -> None:
        """Check the options before any model runs."""
        if isinstance(self.explainer, str) and self.explainer not in EXPLAINERS:
            raise UnknownNameError(unknown("explainer of ferret", self.explainer, EXPLAINERS))
        if not isinstance(self.explainer, str) and not callable(self.explainer):
            raise InputError(f"explainer must be a name or a class, not {self.explainer!r}")

    def __call__(self, engine: Engine) -> Scores:
        """Scores of a batch."""
        make, options, reads = self._parts()
        self._check(engine, reads)
        (block,) = engine.blocks
        shape = (engine.batch.size, engine.batch.n_steps, engine.ids(block).shape[1])
        scores = torch.zeros(shape, dtype=engine.dtype)
        for row, step in engine.batch.step_mask.nonzero().tolist():
            shown = _Step(engine, block, row, step, reads, self.baseline)
            init = {**self._seeded(engine, row), **self.init_args}
            explanation = make(shown, shown.tokenizer(), **options)(
                shown.text, 0, init_args=init, call_args=dict(self.call_args)
            )
            values = torch.as_tensor(explanation.scores).flatten()
            if len(values) != shown.size:
                raise InputError(f"{make.__name__} gave {len(values)} scores for {shown.size} tokens")
            scores[row, step, : shown.size] = values.to(engine.dtype)
        return Scores({block: scores.to(engine.model.device)})

    def _parts(self) -> tuple[Any, Mapping[str, Any], Reads]:
        if not isinstance(self.explainer, str):
            return self.explainer, {}, self.reads
        module, name, options, reads = EXPLAINERS[self.explainer]
        return getattr(_ferret(f"explainers.{module}"), name), options, reads

    def _seeded(self, engine: Engine, row: int) -> dict[str, Any]:
        """LIME draws from a generator of its own, which is seeded like every other one."""
        if self.explainer != "lime":
            return {}
        rng = generator(engine.seed, engine.examples[row], "ferret/lime")
        return {"random_state": int(rng.integers(2**31))}

    def _check(self, engine: Engine, reads: Reads) -> None:
        if len(engine.blocks) > 1:
            raise InputError("ferret's explainers score one text: use them without attribute_target")
        if engine.contrasted or engine.objective.passes:
            raise InputError("ferret's explainers know no contrast and no functions that run the model again")
        if reads == "score":
            return
        base = engine.base()
        wanted = base.of_target(base.log_probs()).exp()
        same = torch.isclose(engine.values(), wanted, rtol=1e-4, atol=1e-7) | ~engine.batch.step_mask
        if not bool(same.all()):
            raise InputError(
                f"ferret's {self.explainer if isinstance(self.explainer, str) else self.explainer.__name__} explains "
                "the probability of the token: use attributed_fn='probability', or an explainer that reads gradients"
            )


class _Step:
    """One step as the text classifier that ferret's explainers expect: two classes, the token and any other.

    With `reads` "score" there is one class, whose logit is the attributed function.
    """

    def __init__(self, engine: Engine, block: str, row: int, step: int, reads: Reads, baseline: Baseline) -> None:
        self.engine, self.block, self.reads = engine, block, reads
        self.query = int(engine.batch.query[row, step])
        self.target_id = engine.batch.step_ids[row, step]
        present = engine.present(block)[row]
        self.size = int(present.sum()) if block == "source" else self.query + 1
        absent = engine.baseline_embeddings(block, baseline)[row]
        # what every token is embedded as, then an absent one: where all baselines are alike, any of them
        own = engine.embeddings(block)[row]
        moved = (absent[: self.size] != own[: self.size]).any(-1).nonzero().flatten()
        filler = absent[int(moved[0]) if len(moved) else 0]
        self.table = torch.cat([own[: self.size], filler.unsqueeze(0), filler.unsqueeze(0)]).detach()
        self.ids = engine.ids(block)[row, : self.size]
        self.prefix = engine.ids("target")[row, : self.query + 1]
        self.text = " ".join(map(str, range(self.size)))
        self.config = SimpleNamespace(id2label={0: "token", 1: "other"}, max_position_embeddings=None)

    @property
    def device(self) -> torch.device:
        return self.engine.model.device

    def tokenizer(self) -> Any:
        """A tokenizer whose tokens are the numbers of the inputs, and one each for absent and for padding."""
        from tokenizers import Tokenizer, models, pre_tokenizers
        from transformers import PreTrainedTokenizerFast

        vocabulary = {**{str(i): i for i in range(self.size)}, "[MASK]": self.size, "[PAD]": self.size + 1}
        tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[MASK]"))
        tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        named = {"mask_token": "[MASK]", "unk_token": "[MASK]"}
        return PreTrainedTokenizerFast(
            tokenizer_object=tokenizer, **named, **dict.fromkeys(("pad_token", "cls_token", "sep_token"), "[PAD]")
        )

    def get_input_embeddings(self) -> Any:
        return lambda ids: self.table[ids]

    def __call__(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        **_: Any,
    ) -> SimpleNamespace:
        """Logits `[text, class]`."""
        if inputs_embeds is None:
            if input_ids is None:
                raise InputError("an explainer called the model without a text")
            inputs_embeds = self.table[input_ids.long()]
        if inputs_embeds.shape[1] == 0:  # everything was removed
            inputs_embeds = self.table[-1:].expand(len(inputs_embeds), 1, -1)
            attention_mask = None
        rows, length = inputs_embeds.shape[:2]
        mask = torch.ones((rows, length), dtype=torch.long, device=self.device)
        if attention_mask is not None:
            mask = attention_mask.to(self.device).long().expand(rows, -1).clone()
            mask[:, 0] = 1
        # an absent token has the first one's id: ids are for models that count them
        place = torch.arange(length).expand(rows, -1) if input_ids is None or not input_ids.shape[1] else input_ids
        ids = self.ids[torch.where(place < self.size, place, 0).to(self.device).long()]
        logits = self.engine.model.run(self._rows(ids, inputs_embeds.to(self.table.dtype), mask))
        self.engine.counter.forward_rows += rows
        self.engine.counter.forward_calls += 1
        if logits.requires_grad:
            self.engine.counter.backward_rows += rows
        forward = Forward(
            logits=logits,
            target_ids=self.target_id.expand(rows, 1),
            mask=torch.ones((rows, 1), dtype=torch.bool, device=logits.device),
            model=self.engine.model,
        )
        if self.reads == "score":
            return SimpleNamespace(logits=self.engine.objective(forward))
        log_probability = forward.of_target(forward.log_probs())
        other = torch.log(-torch.expm1(log_probability.clamp(max=-torch.finfo(log_probability.dtype).tiny)))
        return SimpleNamespace(logits=torch.cat([log_probability, other], 1))

    def _rows(self, ids: Tensor, embeds: Tensor, mask: Tensor) -> Rows:
        rows = len(embeds)
        if self.block == "target":  # padding comes after what is read
            return Rows(target_ids=ids, target_embeds=embeds, query=mask.sum(1, keepdim=True) - 1)
        return Rows(
            source_ids=ids,
            source_embeds=embeds,
            source_mask=mask,
            target_ids=self.prefix.expand(rows, -1),
            query=torch.full((rows, 1), self.query, device=embeds.device),
        )


def register() -> list[str]:
    """Make ferret's explainers known as methods: "ferret_lime", "ferret_shap", "ferret_gradient", ...

    They are not registered by themselves, as "all" methods would then take hours.

    Returns:
        The names.
    """
    return [_registered(name) for name in EXPLAINERS]


def _registered(name: str) -> str:
    @dataclass(frozen=True)
    class Registered(FerretExplainer):
        explainer: Any = name

        def __post_init__(self) -> None:
            super().__post_init__()
            if self.explainer != name:
                raise InputError(f"'ferret_{name}' has one explainer; use FerretExplainer for others")

    Registered.__doc__ = f"ferret's explainer {EXPLAINERS[name][1]}, one generation step at a time."
    family = "gradient" if EXPLAINERS[name][3] == "score" else "perturbation"
    deterministic = name != "lime"
    decorate = methods.register(
        f"ferret_{name}", overwrite=True, family=family, cost="T times the explainer's", axes="step, input",
        deterministic=deterministic, signed=True, paper="Attanasio et al. 2023, arXiv:2208.01575",
    )  # fmt: skip
    decorate(Registered)
    return f"ferret_{name}"


def _ferret(module: str) -> Any:
    try:
        return importlib.import_module(f"ferret.{module}")
    except ModuleNotFoundError as error:
        raise MissingExtraError("working with ferret", error.name or "ferret-xai", "ferret") from error

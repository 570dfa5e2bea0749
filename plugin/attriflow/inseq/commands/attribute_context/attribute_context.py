"""Context attribution with Inseq's arguments, results and JSON, by attriflow's `attribute_context`."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from attriflow.context.attribute import attribute_context as run
from attriflow.context.result import ContextAttribution, parsed
from attriflow.inseq.attr.step_functions import ALIASES
from attriflow.inseq.models import AttributionModel, load_model
from attriflow.io import write_content
from attriflow.registry import methods, step_functions


@dataclass(kw_only=True)
class AttributeContextArgs:
    """Arguments of Inseq's `attribute-context`; `info` of a result."""

    model_name_or_path: Any = None
    attribution_method: str = "saliency"
    device: Any = None
    attributed_fn: str | None = None
    attribution_selectors: list[int] | None = None
    attribution_aggregators: list[str] | None = None
    normalize_attributions: bool = False
    rescale_attributions: bool = False
    model_kwargs: dict[str, Any] = field(default_factory=dict)
    tokenizer_kwargs: dict[str, Any] = field(default_factory=dict)
    generation_kwargs: dict[str, Any] = field(default_factory=dict)
    attribution_kwargs: dict[str, Any] = field(default_factory=dict)
    input_current_text: str = ""
    input_context_text: str | None = None
    input_template: str | None = None
    output_context_text: str | None = None
    output_current_text: str | None = None
    output_template: str | None = None
    contextless_input_current_text: str | None = None
    contextless_output_current_text: str | None = None
    context_sensitivity_metric: str = "kl_divergence"
    handle_output_context_strategy: str = "manual"
    contextless_output_next_tokens: list[str] = field(default_factory=list)
    prompt_user_for_contextless_output_next_tokens: bool = False
    special_tokens_to_keep: list[str] = field(default_factory=list)
    decoder_input_output_separator: str = " "
    context_sensitivity_std_threshold: float | None = 1.0
    context_sensitivity_topk: int | None = None
    attribution_std_threshold: float | None = 1.0
    attribution_topk: int | None = None
    show_intermediate_outputs: bool = False
    save_path: str | None = None
    add_output_info: bool = True
    viz_path: str | None = None
    show_viz: bool = True

    def __post_init__(self) -> None:
        """Templates that were not given follow from the contexts."""
        for side, context in (("input", self.input_context_text), ("output", self.output_context_text)):
            name, other = f"{side}_template", f"contextless_{side}_current_text"
            if getattr(self, name) is None:
                setattr(self, name, "{current}" if context is None else "{context} {current}")
            if getattr(self, other) is None:
                setattr(self, other, "{current}")
        if not self.input_current_text:
            raise ValueError("input_current_text must not be empty")

    @property
    def has_input_context(self) -> bool:
        """Whether the input has a place for a context."""
        return "{context}" in str(self.input_template)

    @property
    def has_output_context(self) -> bool:
        """Whether the output has a place for a context."""
        return "{context}" in str(self.output_template)

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        own = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        own |= {name: getattr(self, name) for name in ("has_input_context", "has_output_context")}
        return {k: v if v is None or isinstance(v, (str, int, float, list, dict)) else str(v) for k, v in own.items()}


@dataclass(kw_only=True)
class CCIOutput:
    """Scores of the context of one sensitive token."""

    cti_idx: int
    cti_token: str
    cti_score: float
    contextual_output: str
    contrast_token: str | None = None
    contextless_output: str | None = None
    input_context_scores: list[float] | None = None
    output_context_scores: list[float] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return dataclasses.asdict(self)


@dataclass(kw_only=True)
class AttributeContextOutput:
    """Context reliance of one text in Inseq's layout."""

    input_context: str | None = None
    input_context_tokens: list[str] | None = None
    output_context: str | None = None
    output_context_tokens: list[str] | None = None
    output_current: str | None = None
    output_current_tokens: list[str] | None = None
    cti_scores: list[float] | None = None
    cci_scores: list[CCIOutput] = field(default_factory=list)
    info: AttributeContextArgs | None = None

    @classmethod
    def of(cls, found: ContextAttribution, args: AttributeContextArgs | None) -> AttributeContextOutput:
        """A result of attriflow."""
        same = [f.name for f in dataclasses.fields(cls) if f.name not in ("cci_scores", "info")]
        scores = [f.name for f in dataclasses.fields(CCIOutput)]
        cues = [CCIOutput(**{name: getattr(one, name) for name in scores}) for one in found.cci_scores]
        return cls(**{name: getattr(found, name) for name in same}, cci_scores=cues, info=args)

    def to_dict(self) -> dict[str, Any]:
        """Inseq's JSON."""
        out = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name not in ("cci_scores", "info")}
        out["cci_scores"] = [one.to_dict() for one in self.cci_scores]
        return out if self.info is None else {**out, "info": self.info.to_dict()}

    @classmethod
    def from_dict(cls, out_dict: dict[str, Any]) -> AttributeContextOutput:
        """A result of its JSON."""
        known = {f.name for f in dataclasses.fields(cls)} - {"cci_scores", "info"}
        args = {f.name for f in dataclasses.fields(AttributeContextArgs)}
        info = out_dict.get("info")
        return cls(
            **{k: v for k, v in out_dict.items() if k in known},
            cci_scores=[CCIOutput(**one) for one in out_dict["cci_scores"]],
            info=None if info is None else AttributeContextArgs(**{k: v for k, v in info.items() if k in args}),
        )


def attribute_context(args: AttributeContextArgs) -> AttributeContextOutput:
    """Load the model that the arguments name, and attribute context with it."""
    model = load_model(
        args.model_name_or_path,
        device=args.device,
        model_kwargs=args.model_kwargs,
        tokenizer_kwargs=args.tokenizer_kwargs,
    )
    return attribute_context_with_model(args, model)


def attribute_context_with_model(args: AttributeContextArgs, model: AttributionModel) -> AttributeContextOutput:
    """Which tokens of the output depend on context, and on what in it; shows and saves what the arguments ask for.

    Nobody is asked where `handle_output_context_strategy` is "manual": then it is "auto".
    """
    function = args.attributed_fn or model.default_attributed_fn_id
    options = dict(args.attribution_kwargs)
    known = {
        *methods.info(args.attribution_method).options,
        *step_functions.info(ALIASES.get(function, function)).options,
    }
    same = (
        "input_template", "output_template", "contextless_input_current_text", "contextless_output_current_text",
        "attribution_method", "context_sensitivity_metric", "context_sensitivity_std_threshold",
        "context_sensitivity_topk", "attribution_std_threshold", "attribution_topk", "contextless_output_next_tokens",
        "special_tokens_to_keep", "decoder_input_output_separator", "generation_kwargs",
    )  # fmt: skip
    wanted = {"normalize": args.normalize_attributions, "rescale": args.rescale_attributions}
    chosen = args.attribution_selectors or ()
    names: list[Any] = list(args.attribution_aggregators or ["scores"])
    out = run(
        model.native,
        args.input_current_text,
        args.input_context_text,
        output_context_text=args.output_context_text,
        output_current_text=args.output_current_text,
        attributed_fn=ALIASES.get(function, function),
        attribution_kwargs={k: v for k, v in options.items() if k in known},
        handle_output_context_strategy=args.handle_output_context_strategy.replace("manual", "auto"),
        aggregators=[(n, {"select_idx": chosen[i]}) if i < len(chosen) else n for i, n in enumerate(names)],
        aggregator_options={name: True for name, asked in wanted.items() if asked},
        show_progress=False,
        **{name: getattr(args, name) for name in same},
    )
    made = AttributeContextOutput.of(out[0], args if args.add_output_info else None)
    if args.show_viz:
        out.show()
    if args.viz_path:
        out.to_html(args.viz_path, overwrite=True)
    if args.save_path:
        write_content(json.dumps(made.to_dict(), indent=4), Path(args.save_path), overwrite=True)
    return made


def visualize_attribute_context(
    output: AttributeContextOutput,
    model: Any = None,
    cti_threshold: float | None = None,
    show_viz: bool = True,
    viz_path: str | None = None,
    return_html: bool = False,
) -> str | None:
    """Show a result, write its page to `viz_path`, return it with `return_html`; thresholds are those of `info`."""
    del model, cti_threshold
    found = parsed(output.to_dict(), "the result")
    if show_viz:
        found.show()
    if viz_path:
        found.to_html(viz_path, overwrite=True)
    return found.to_html() if return_html else None

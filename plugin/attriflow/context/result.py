"""What context attribution finds, to be shown, tabulated and saved as JSON (fields as in Inseq's command)."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from attriflow.context.selection import select, threshold
from attriflow.datasets.limits import whole_json
from attriflow.doors import ShownContext
from attriflow.errors import InputError, changed_by, reason_of
from attriflow.io import write_content
from attriflow.io.inseqfiles import readable
from attriflow.kernels.annotations import check_value, hints_of

if TYPE_CHECKING:
    import pandas as pd

FORMAT = "attriflow.context/1"


@changed_by("dataclasses.replace(cues, {name}=...)")
@dataclass(frozen=True, kw_only=True)
class ContextCues:
    """Scores of the context of one sensitive token (contextual cues imputation, CCI).

    Attributes:
        cti_idx, cti_token, cti_score: The sensitive token among the tokens of the current output.
        contextual_output: Text up to and with it.
        contrast_token, contextless_output: What it is compared with, and the text that ends with that; None where the
            attributed function is not contrastive.
        input_context_scores, output_context_scores: One score per token of the contexts; None where there is none.
        input_cues, output_cues: Places of the cues among them.
    """

    cti_idx: int
    cti_token: str
    cti_score: float
    contextual_output: str
    contrast_token: str | None = None
    contextless_output: str | None = None
    input_context_scores: list[float] | None = None
    output_context_scores: list[float] | None = None
    input_cues: list[int] = field(default_factory=list)
    output_cues: list[int] = field(default_factory=list)


@changed_by("dataclasses.replace(attribution, {name}=...)")
@dataclass(frozen=True, kw_only=True)
class ContextAttribution(ShownContext):
    """Context reliance of one text.

    Attributes:
        input_context, input_context_tokens, output_context, output_context_tokens: Contexts; None where there is none.
        input_current: The input without context.
        output_current, output_current_tokens: The output whose tokens are tested.
        cti_scores: One score per token of the current output (context-sensitive token identification, CTI).
        cti_threshold: Magnitude from which on a token is sensitive.
        cci_scores: One entry per sensitive token, most sensitive first.
        token_spans: Character spans `[start, end)` of the tokens in their texts, by the name of the text; None for
            tokens that stand for no characters.
        info: Settings, model and versions.
    """

    input_current: str
    output_current: str
    output_current_tokens: list[str]
    cti_scores: list[float]
    cti_threshold: float
    cci_scores: list[ContextCues]
    input_context: str | None = None
    input_context_tokens: list[str] | None = None
    output_context: str | None = None
    output_context_tokens: list[str] | None = None
    token_spans: Mapping[str, list[tuple[int, int] | None]] = field(default_factory=dict)
    info: Mapping[str, Any] | None = None

    @property
    def sensitive(self) -> list[int]:
        """Places of the sensitive tokens in the current output, most sensitive first."""
        return [c.cti_idx for c in self.cci_scores]

    def pairs(self) -> list[tuple[int, str, int]]:
        """(sensitive token, "input" or "output", context token) for every cue found."""
        return [
            (c.cti_idx, side, place)
            for c in self.cci_scores
            for side, places in (("input", c.input_cues), ("output", c.output_cues))
            for place in places
        ]

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return dataclasses.asdict(self)


class ContextOutput(ShownContext, Sequence[ContextAttribution]):
    """Context attributions of one or several texts, in the order they were given."""

    def __init__(self, items: Iterable[ContextAttribution]) -> None:
        """Hold results."""
        self.items = tuple(items)

    def __len__(self) -> int:
        """Number of texts."""
        return len(self.items)

    @overload
    def __getitem__(self, index: int) -> ContextAttribution: ...
    @overload
    def __getitem__(self, index: slice) -> ContextOutput: ...
    def __getitem__(self, index: int | slice) -> ContextAttribution | ContextOutput:
        """One result, or several as a new output."""
        return ContextOutput(self.items[index]) if isinstance(index, slice) else self.items[index]

    def __iter__(self) -> Iterator[ContextAttribution]:
        """Results in order."""
        return iter(self.items)

    def __eq__(self, other: object) -> bool:
        """Whether the results are equal."""
        return self.items == other.items if isinstance(other, ContextOutput) else NotImplemented

    def __hash__(self) -> int:
        """Of the texts."""
        return hash(tuple((item.input_current, item.output_current) for item in self))

    def __repr__(self) -> str:
        """How many tokens are sensitive."""
        found = sum(len(item.cci_scores) for item in self)
        tokens = sum(len(item.cti_scores) for item in self)
        return f"ContextOutput(n={len(self)}, sensitive={found} of {tokens} tokens)"

    def to_dataframe(self) -> pd.DataFrame:
        """One row per output token and context token: scores, whether the token is sensitive, whether it is a cue.

        Tokens that are not sensitive have one row without a context token.
        """
        import pandas as pd

        rows: list[tuple[Any, ...]] = []
        for number, item in enumerate(self):
            cues = {c.cti_idx: c for c in item.cci_scores}
            for i, (token, score) in enumerate(zip(item.output_current_tokens, item.cti_scores, strict=True)):
                start = (number, i, token, score, i in cues)
                rows += [(*start, *row) for row in (_rows(item, cues[i]) if i in cues else [(None,) * 5])]
        columns = [
            "example", "cti_idx", "token", "cti_score", "sensitive",
            "side", "context_idx", "context_token", "cci_score", "cue",
        ]  # fmt: skip
        frame = pd.DataFrame(rows, columns=columns)
        return frame.astype({"example": "int64", "cti_idx": "int64", "context_idx": "Int64", "cue": "boolean"})

    def save(self, path: str | Path, *, overwrite: bool = False, info: bool = True) -> Path:
        """Write JSON; `attriflow.context.load` reads it back. Without `info`, settings and versions are left out."""
        results = [item if info else dataclasses.replace(item, info=None) for item in self]
        document = {"format": FORMAT, "results": [item.to_dict() for item in results]}
        text = json.dumps(document, ensure_ascii=False, indent=1, default=str) + "\n"
        return write_content(text, path, overwrite=overwrite)


def _rows(item: ContextAttribution, cues: ContextCues) -> list[tuple[Any, ...]]:
    out: list[tuple[Any, ...]] = []
    sides = (
        ("input", item.input_context_tokens, cues.input_context_scores, cues.input_cues),
        ("output", item.output_context_tokens, cues.output_context_scores, cues.output_cues),
    )
    for side, tokens, scores, chosen in sides:
        if tokens is not None and scores is not None:
            pairs = enumerate(zip(tokens, scores, strict=True))
            out += [(side, j, token, score, j in chosen) for j, (token, score) in pairs]
    return out


def cues_of(
    inputs: Sequence[float] | None, outputs: Sequence[float] | None, stds: float | None, topk: int | None
) -> tuple[list[int], list[int]]:
    """Places of the cues in the input and the output context, from one threshold over both."""
    together = [*(inputs or ()), *(outputs or ())]
    chosen = select(together, threshold(together, stds), topk)
    border = len(inputs or ())
    return [i for i in chosen if i < border], [i - border for i in chosen if i >= border]


def load(path: str | Path) -> ContextOutput:
    """Read results that were saved with `ContextOutput.save`, or by Inseq's `attribute-context`.

    Raises:
        InputError: The file is missing, no JSON, or holds something else.
    """
    path = Path(path)
    try:
        document = json.loads(whole_json(path))
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    except InputError:
        raise
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not JSON: {error}") from error
    return parsed(document, str(path))


def parsed(document: Any, path: str) -> ContextOutput:
    """Results of parsed JSON, ours or Inseq's; `path` is named in errors."""
    if isinstance(document, dict) and {"cti_scores", "cci_scores", "output_current_tokens"} <= document.keys():
        document = {"format": FORMAT, "results": [_of_inseq(document)]}
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise InputError(f"{path} holds no context attributions (format {FORMAT!r})")
    try:
        return ContextOutput(_read(item) for item in document["results"])
    except Exception as error:  # whatever is in the place of results
        raise InputError(f"{path} is damaged: {reason_of(error)}") from error


def _read(item: Mapping[str, Any]) -> ContextAttribution:
    spans = {
        name: [None if s is None else (int(s[0]), int(s[1])) for s in values]
        for name, values in item["token_spans"].items()
    }
    cues = [ContextCues(**_checked(c, ContextCues)) for c in item["cci_scores"]]
    return ContextAttribution(**_checked({**item, "cci_scores": cues, "token_spans": spans}, ContextAttribution))


def _of_inseq(document: Mapping[str, Any]) -> dict[str, Any]:
    """A result of Inseq's, with what it leaves to whoever draws it: threshold and cues, by its settings or defaults."""
    info = document.get("info") or {}
    stds = info.get("attribution_std_threshold", 1.0)
    cues = []
    for one in document["cci_scores"]:
        found = cues_of(one["input_context_scores"], one["output_context_scores"], stds, info.get("attribution_topk"))
        cues.append({**one, "input_cues": found[0], "output_cues": found[1]})
    tokens = ("input_context_tokens", "output_context_tokens", "output_current_tokens")
    return {
        "input_context": document.get("input_context"),
        "output_context": document.get("output_context"),
        "input_current": info.get("input_current_text", ""),
        "output_current": document["output_current"],
        **{name: _readable(document.get(name)) for name in tokens},
        "cti_scores": document["cti_scores"],
        "cti_threshold": threshold(document["cti_scores"], info.get("context_sensitivity_std_threshold", 1.0)),
        "cci_scores": cues,
        "token_spans": {},
        "info": info or None,
    }


def _readable(raw: Sequence[str] | None) -> list[str] | None:
    return None if raw is None else [token.strip() or token for token in readable(raw)]


def _checked(values: Mapping[str, Any], kind: type) -> dict[str, Any]:
    """Values of a file in the types of the fields that they are for."""
    hints = hints_of(kind)
    return {name: check_value(name, value, hints[name]) for name, value in values.items()}

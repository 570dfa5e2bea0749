"""What stands for an absent token: the ids and embeddings of baselines."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args
from weakref import WeakSet

import torch
from torch import Tensor

from attriflow.engine.bound import Bound
from attriflow.engine.infill import DRAWS, INFILLS, Fills
from attriflow.engine.masked import NONE
from attriflow.errors import InputError, UnknownNameError, unknown
from attriflow.models.base import LanguageModel
from attriflow.models.batch import pad
from attriflow.types import Infill

One = Literal["unk", "pad", "mask", "eos", "bos", "zero", "mean", Infill] | int
OneToken = Literal["unk", "pad", "mask", "eos", "bos", Infill] | int
Baseline = One | Sequence[One]
"""What stands for an absent token: its name, no embedding or the mean one, a token id, or tokens that are drawn (see
`infill`): from the text itself ("infill"), from what the model expects there ("infill_model") or from what a masked
language model does ("masked_lm"). Of several, and of draws, the mean score."""
TokenBaseline = OneToken | Sequence[OneToken]
"""A `Baseline` of tokens."""
NAMES: tuple[str, ...] = get_args(get_args(One)[0])
_told = WeakSet[LanguageModel]()


@dataclass(frozen=True)
class Draw:
    """One of the draws of a baseline that is drawn (see `infill`)."""

    how: str
    number: int

    def __repr__(self) -> str:
        """Its name and number."""
        return f"{self.how} {self.number}"


def every(baseline: Baseline) -> list[One | Draw]:
    """The baselines that a score is the mean over: those of a list, and the draws of one that is drawn."""
    several = list(baseline) if isinstance(baseline, (list, tuple)) else [baseline]
    return [each for one in several for each in ([Draw(one, k) for k in range(DRAWS)] if one in INFILLS else [one])]  # type: ignore[misc]


def baseline_id(model: LanguageModel, baseline: object) -> int:
    """The id whose embedding replaces a token (see `stand_in`)."""
    size = model.vocab_size
    if isinstance(baseline, int) and not isinstance(baseline, bool):
        if not 0 <= baseline < size:
            raise InputError(f"baseline id {baseline} is outside the vocabulary (0 to {size - 1})")
        return baseline
    if not isinstance(baseline, str) or baseline not in NAMES:
        raise UnknownNameError(unknown("baseline", baseline, [*NAMES, "a token id"]))
    name = stand_in(model, baseline)
    value = model.special_id(name)
    if value is None:
        raise InputError(f"the tokenizer of {model.name} has no {baseline} token to use as baseline")
    if name != baseline and model not in _told:
        _told.add(model)
        warnings.warn(
            f"the tokenizer of {model.name} has no {baseline} token: baseline '{baseline}' is its {name} token "
            f"{model.tokens([value])[0].text!r} (id {value})",
            stacklevel=2,
        )
    return value


def stand_in(model: LanguageModel, name: str) -> str:
    """The name of the token that a named baseline is.

    "unk" falls back to the pad token, then to EOS, for tokenizers that have none (byte-level BPE), so that every
    tokenizer has a default baseline. It is warned about once per model, and attributions say what was used.
    """
    names = ("unk", "pad", "eos") if name == "unk" else ()
    return next((n for n in names if model.special_id(n) is not None), name)


def named(model: LanguageModel, baseline: Any) -> Any:
    """The option `baseline` of a method with the names of what was really used."""
    if isinstance(baseline, (list, tuple)):
        return type(baseline)(named(model, one) for one in baseline)
    return stand_in(model, baseline) if isinstance(baseline, str) else baseline


def _used(bound: Bound, baseline: Baseline) -> int:
    """The id of a baseline; the engine remembers which it has been."""
    value = baseline_id(bound.model, baseline)
    bound.absent_ids.add(value)
    return value


def baseline_ids(bound: Bound, block: str, baseline: Baseline | Draw) -> Tensor:
    """Token ids that stand for absent tokens, `[batch, position]` on the host; see `baseline_embeddings`."""
    ids = bound.planned_ids(block)
    keep = _kept(bound, block, ids)
    if not isinstance(baseline, Draw):
        return torch.where(keep, ids, _used(bound, baseline))
    drawn = _drawn(bound, block, baseline)
    if bool(((drawn == NONE) & ~keep).any()):
        drawn = torch.where(drawn == NONE, _used(bound, "unk"), drawn)
    return torch.where(keep, ids, drawn)


def _drawn(bound: Bound, block: str, draw: Draw) -> Tensor:
    """Ids of a draw, `[batch, position]` on the host: of an example, the same in any batch."""
    if (draw.how, block) not in bound.infilled:
        made = [Fills(bound.model, [example], bound.counter, own=True)(0, draw.how) for example in bound.examples]
        for side, name in enumerate(("source", "target")):
            rows = [[fills[k][side] for fills in made] for k in range(DRAWS)]
            bound.infilled[draw.how, name] = torch.stack([pad(row, 0)[0] for row in rows])
    ids = bound.infilled[draw.how, block][draw.number]
    return ids[:, : bound.planned_ids(block).shape[1]]  # the last decoder token is never read


def _kept(bound: Bound, block: str, ids: Tensor) -> Tensor:
    """Which of the ids `[batch, position]` of a block are their own baseline."""
    keep = torch.zeros_like(ids, dtype=torch.bool)
    if not bound.include_eos_baseline and bound.model.tokenizer.eos_token_id is not None:
        keep = ids == bound.model.tokenizer.eos_token_id
    if bound.model.is_encoder_decoder and block == "target":
        keep[:, 0] = True
    return keep


def baseline_embeddings(bound: Bound, block: str, baseline: Baseline | Draw) -> Tensor:
    """Baseline embeddings of a block, `[batch, position, hidden]`.

    Every token is replaced but two: EOS (unless `include_eos_baseline`), which carries the end of the text rather than
    content, and the decoder start token of encoder-decoders. They are their own baseline and get no credit.
    """
    ids = bound.ids(block)
    keep = _kept(bound, block, ids)
    original = bound.embeddings(block)
    if baseline == "zero":
        replaced = torch.zeros_like(original)
    elif baseline == "mean":
        mean = bound.model.embedding_table(block).mean(0)
        replaced = mean.to(original.dtype).expand_as(original)
    elif isinstance(baseline, Draw):
        return bound.model.embed(baseline_ids(bound, block, baseline).to(ids.device), block).detach()
    else:
        replaced = bound.model.embed(torch.full_like(ids, _used(bound, baseline)), block)
    return torch.where(keep.unsqueeze(-1), original, replaced).detach()

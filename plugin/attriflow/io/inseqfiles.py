"""What Inseq saved: JSON in which objects name their class and scores are safetensors in base64.

Names of classes are read as words only; nothing of another package is imported. Inseq 0.4 to 0.7 write four forms: one
safetensors string per tensor, numpy arrays as bytes or lists, plain values (`use_primitives`), each also compressed.
"""

from __future__ import annotations

import base64
import dataclasses
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from attriflow.datasets.limits import most, too_large
from attriflow.errors import InputError
from attriflow.types import Attribution, Provenance, Segment, Token

Named = tuple[str, int]
"""A raw token and its id (-1: of several)."""
KIND = "__instance_type__"

_BYTES = [*range(33, 127), *range(161, 173), *range(174, 256)]
_BYTE_OF = {chr(b): b for b in _BYTES} | {
    chr(256 + n): b for n, b in enumerate(b for b in range(256) if b not in _BYTES)
}
"""Byte-level vocabularies write bytes as printable characters: "Ġ" is a space (Radford et al. 2019)."""
_SPECIAL = re.compile(r"<[^<>\s]*>|\[[A-Z]+\d*\]|__\w+__|[a-z]{2,3}_[A-Z][A-Za-z]+")


@dataclass(kw_only=True)
class StoredSequence:
    """One sequence of such a file: Inseq's fields; scores are `[attributed token, step, ...]`, tokens raw."""

    source: list[Named]
    target: list[Named]
    source_attributions: Tensor | None = None
    target_attributions: Tensor | None = None
    step_scores: dict[str, Tensor] = field(default_factory=dict)
    sequence_scores: dict[str, Tensor] = field(default_factory=dict)
    attr_pos_start: int = 0
    attr_pos_end: int | None = None
    granular: bool = True

    @property
    def scored(self) -> list[Tensor]:
        """The sides that have scores, source first."""
        return [s for s in (self.source_attributions, self.target_attributions) if s is not None]

    @property
    def steps(self) -> int:
        """How many tokens are explained."""
        if self.scored:
            return self.scored[0].shape[1]
        lengths = [len(v) for v in self.step_scores.values()]
        return lengths[0] if lengths else (self.attr_pos_end or len(self.target)) - self.attr_pos_start

    @property
    def encoder_decoder(self) -> bool:
        """Whether the source is another text than the beginning of the target."""
        if self.scored:
            return self.source_attributions is not None
        return self.source != self.target[: self.attr_pos_start]


def is_document(content: Any) -> bool:
    """Whether parsed JSON is an output that Inseq saved."""
    return isinstance(content, Mapping) and "sequence_attributions" in (_attributes(content) or ())


def attributions(content: Mapping[str, Any]) -> Iterator[Attribution]:
    """The attributions of a document."""
    info, sequences = parsed(content)
    for number, sequence in enumerate(sequences):
        yield attribution_of(sequence, info, number)


def parsed(content: Mapping[str, Any]) -> tuple[dict[str, Any], list[StoredSequence]]:
    """The `info` of a document, and its sequences."""
    fields = _attributes(content)
    return dict(fields.get("info") or {}), [_sequence(one) for one in fields["sequence_attributions"]]


def steps_of(content: Mapping[str, Any]) -> list[dict[str, Any]] | None:
    """Fields of the step attributions of a document, where it has some; tokens as lists of `Named`."""
    steps = _attributes(content).get("step_attributions")
    return None if steps is None else [{k: _value(v) for k, v in _attributes(step).items()} for step in steps]


def _attributes(value: Mapping[str, Any]) -> Mapping[str, Any]:
    """Fields of an object that names its class, or of one that does not."""
    fields = value.get("attributes") if KIND in value else value
    return fields if isinstance(fields, Mapping) else {}


def _sequence(value: Mapping[str, Any]) -> StoredSequence:
    fields, kind = _attributes(value), value.get(KIND) or ("", "Granular")
    given = {f.name: fields[f.name] for f in dataclasses.fields(StoredSequence) if fields.get(f.name) is not None}
    for side in ("source", "target"):
        given[side] = [_named(token) for token in fields[side]]
        name = f"{side}_attributions"
        if name in given:
            given[name] = _tensor(given[name])
    for name in ("step_scores", "sequence_scores"):
        given[name] = {str(key): _tensor(one) for key, one in (given.get(name) or {}).items()}
    return StoredSequence(**given, granular="Granular" in str(kind[1]))


def _named(token: Mapping[str, Any]) -> Named:
    fields = _attributes(token)
    return str(fields["token"]), int(fields["id"])


def _value(value: Any) -> Any:
    """Tokens and tensors in what a step holds."""
    if isinstance(value, list):
        return [_value(one) for one in value]
    if not isinstance(value, Mapping):
        return value
    if "token" in _attributes(value):
        return _named(value)
    return _tensor(value) if "__ndarray__" in value else {key: _value(one) for key, one in value.items()}


def _tensor(value: Any) -> Tensor:
    """Scores in single precision, as Inseq reads them, from any of its forms."""
    if isinstance(value, str):
        from safetensors.torch import load

        return next(iter(load(base64.b64decode(value)).values())).float()
    if isinstance(value, Mapping) and "__ndarray__" in value:
        return _array(value)
    return torch.tensor(value, dtype=torch.float32)


def _array(value: Mapping[str, Any]) -> Tensor:
    data, shape, dtype = value["__ndarray__"], [int(n) for n in value["shape"]], np.dtype(str(value["dtype"]))
    if dtype.kind not in "fiub":
        raise InputError(f"scores of type {dtype} are no numbers")
    if isinstance(data, str):
        kind, _, text = data.partition(":")
        raw = base64.b64decode(text)
        if kind == "b64.gz":
            raw = zlib.decompressobj(31).decompress(raw, most() + 1)
            if len(raw) > most():
                raise too_large(Path("an array"), f"unpacks to more than {most():,} bytes")
        array = np.frombuffer(raw, dtype=dtype).copy()
    else:
        array = np.array(data, dtype=dtype).ravel()
    return torch.from_numpy(array.reshape(shape, order="F" if value.get("Corder") is False else "C")).float()


# -- as attributions -----------------------------------------------------------------------------------------------


def attribution_of(sequence: StoredSequence, info: Mapping[str, Any], number: int) -> Attribution:
    """A stored sequence as an attribution; tokens are readable, with their places in the texts of `info`."""
    s, seq2seq = sequence, sequence.encoder_decoder
    texts = {name: _text(info, name, number) for name in ("input_texts", "generated_texts")}
    decoder = _tokens(s.target, texts["generated_texts"], "generated")
    if not seq2seq:  # the prompt, which ends where the first explained text begins
        border = _border(decoder, texts["input_texts"], s.attr_pos_start)
        decoder = [t if i >= border else dataclasses.replace(t, segment="prompt") for i, t in enumerate(decoder)]
    source = _tokens(s.source, texts["input_texts"], "source") if seq2seq else []
    start, n = s.attr_pos_start, s.steps
    read = len(decoder) if s.target_attributions is None else s.target_attributions.shape[0]
    inputs = (*source, *decoder[: read if s.target_attributions is not None or not source else 0])
    axes = _axes(s)
    if s.scored:
        scores = torch.cat(s.scored, 0).transpose(0, 1)
    else:
        place = torch.arange(len(inputs)) < torch.arange(start, start + n).unsqueeze(1)
        scores = torch.where(place, 0.0, torch.nan)
    return Attribution(
        scores=scores,
        axes=axes,
        inputs=inputs,
        targets=tuple(decoder[start : start + n]),
        start=start,
        step_scores=s.step_scores,
        sequence_scores={
            name.removesuffix("_attentions"): v
            for name, v in s.sequence_scores.items()
            if v.ndim == len(axes) and v.shape[0] == v.shape[1]
        },
        provenance=_provenance(info),
        input_text=texts["input_texts"],
        target_text=texts["generated_texts"],
    )


def _axes(s: StoredSequence) -> tuple[str, ...]:
    extra = s.scored[0].ndim - 2 if s.scored else 0
    if extra == 1 and s.granular:
        return ("step", "input", "embedding")
    if not 0 <= extra <= 2:
        raise InputError(f"scores have {extra} axes beside tokens and steps, of which at most two are known")
    return ("step", "input", *("layer", "head")[:extra])


def _text(info: Mapping[str, Any], name: str, number: int) -> str:
    texts = info.get(name) or ()
    return str(texts[number]) if isinstance(texts, Sequence) and number < len(texts) else ""


def _border(tokens: Sequence[Token], prompt: str, start: int) -> int:
    """How many tokens stand in the prompt: those that end in it, or, where places are not known, before the start."""
    inside = [i for i, t in enumerate(tokens[:start]) if t.end is not None and t.end > len(prompt)]
    return inside[0] if prompt and inside else start


def _tokens(tokens: Sequence[Named], text: str, segment: Segment) -> list[Token]:
    """Readable tokens, and where each of them stands in the text."""
    shown = readable([token for token, _ in tokens])
    out, at, lost = [], 0, False  # lost: the token before has no place, so that this one need not follow at once
    for (raw, number), piece in zip(tokens, shown, strict=True):
        word = piece.strip()
        special = bool(_SPECIAL.fullmatch(raw))
        place = -1 if special or not word else text.find(word, at)
        span: tuple[int | None, int | None] = (None, None)
        if place >= 0 and (lost or not text[at:place].strip()):
            span, at = (place, place + len(word)), place + len(word)
        lost = span == (None, None) and not special
        out.append(
            Token(text=word or piece or raw, id=number, start=span[0], end=span[1], segment=segment, special=special)
        )
    return out


def readable(raw: Sequence[str]) -> list[str]:
    """Vocabulary entries as text: markers of byte-level, SentencePiece and WordPiece vocabularies read."""
    byte_level = any(c in token for token in raw for c in "ĠĊ")
    return [_readable(token, byte_level) for token in raw]


def _readable(token: str, byte_level: bool) -> str:
    if " → " in token:
        return " → ".join(_readable(one, byte_level).strip() for one in token.split(" → "))
    if byte_level and all(c in _BYTE_OF for c in token):
        text = bytes(_BYTE_OF[c] for c in token).decode("utf-8", errors="replace")
        return token if "\ufffd" in text else text
    return token.removesuffix("</w>").removeprefix("##").replace("▁", " ") or token


def _provenance(info: Mapping[str, Any]) -> Provenance:
    """What `info` tells of how the scores were made."""
    function = str(info.get("attributed_fn") or "probability").removesuffix("_fn")

    def of(name: str) -> dict[str, Any]:
        return dict(info.get(name) or {})

    return Provenance(
        method=str(info.get("attribution_method") or "unknown"),
        options=of("attribution_args"),
        attributed_fn="logits" if function == "logit" else function,
        attributed_fn_args=of("attributed_fn_args"),
        step_scores_args=of("step_scores_args"),
        model=str(info.get("model_name") or ""),
        seconds=float(info.get("exec_time") or 0.0),
        generated=not info.get("constrained_decoding", True),
        attribute_target=bool(info.get("attribute_target")),
        include_eos_baseline=bool(info.get("include_eos_baseline")),
    )

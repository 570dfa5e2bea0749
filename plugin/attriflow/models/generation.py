"""`model.generate` with the caller's arguments: ids in, and out the ids that it chose, neither more nor fewer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from attriflow.errors import AttriflowError, InputError, OutOfMemoryError, out_of_memory
from attriflow.kernels.stopping import check_stop
from attriflow.models.batch import pad

if TYPE_CHECKING:
    from attriflow.models.base import LanguageModel

DEFAULT_NEW_TOKENS = 20

_ANY = "max_new_tokens min_new_tokens num_beams num_return_sequences length_penalty early_stopping do_sample use_cache"
_IDS = "bos_token_id eos_token_id pad_token_id decoder_start_token_id forced_bos_token_id forced_eos_token_id"
_SAMPLING = "temperature top_k top_p min_p typical_p transformers_version return_dict_in_generate is_encoder_decoder"
_DECODER = "max_length min_length repetition_penalty no_repeat_ngram_size bad_words_ids suppress_tokens"
SHARED = frozenset(f"{_ANY} {_IDS} {_SAMPLING}".split())
"""Options with which a text's generation is the same in a padded batch as alone. All others (the caller's functions,
what looks at the prompt or counts it, the clock) run a text at a time."""
SHARED_BY_TARGETS = SHARED | set(_DECODER.split())
"""The same where prompt and target are apart, so that targets begin without padding."""


def generated_ids(
    model: LanguageModel, prompts: Sequence[Sequence[int]], arguments: Mapping[str, Any], seeds: Sequence[int]
) -> list[list[list[int]]]:
    """Ids of every sequence that `generate` gives for each prompt.

    They end where `generate` ended them: an only row is taken as it is, and of several rows in one call each is noted
    to be done by the criteria that make it so, whatever pads it afterwards. Texts share calls only where that changes
    nothing, so that their ids, and the seed's draws, are those that each of them gets alone.

    Args:
        model: The wrapped model.
        prompts: Source ids, or prompt ids of a decoder-only model.
        arguments: Of `generate`; without a length there or in the model's generation config, at most 20 new tokens.
        seeds: For sampling, one per prompt.

    Returns:
        Per prompt its sequences: what follows the prompt, or, of encoder-decoders, the whole target with its start.
    """
    found: dict[int, list[list[int]]] = {}
    groups = list(reversed(_groups(model, prompts, arguments)))
    while groups:
        group = groups.pop()
        torch.default_generator.manual_seed(seeds[group[0]])  # see `devices.same_draws`
        own = {name: _rows_of(value, group, len(prompts)) for name, value in arguments.items()}
        try:
            rows = _call(model, [prompts[i] for i in group], own)
        except (MemoryError, RuntimeError) as error:
            if not out_of_memory(error):
                raise
            if len(group) == 1:
                raise OutOfMemoryError(f"out of memory in generation after {len(prompts[group[0]])} tokens") from None
            half = len(group) // 2
            groups += [group[half:], group[:half]]
            continue
        copies = len(rows) // len(group)
        found.update({i: rows[k * copies : (k + 1) * copies] for k, i in enumerate(group)})
    return [found[i] for i in range(len(prompts))]


def _rows_of(value: Any, group: Sequence[int], n: int) -> Any:
    """The part of an argument that has a row for each of `n` prompts (such as `decoder_input_ids`)."""
    return value[list(group)] if isinstance(value, Tensor) and value.ndim > 1 and 1 < n == len(value) else value


def _groups(
    model: LanguageModel, prompts: Sequence[Sequence[int]], arguments: Mapping[str, Any]
) -> Sequence[Sequence[int]]:
    """Indices of the prompts that share a call."""
    every = range(len(prompts))
    longest = max(map(len, prompts))
    if len(prompts) == 1 or not _shares(model, arguments) or _room(model, longest) < DEFAULT_NEW_TOKENS:
        return [[i] for i in every]
    more = arguments.get("max_new_tokens") or DEFAULT_NEW_TOKENS
    if model.rope is not None and longest + more > model.rope.length:  # the longest text sets the frequencies of all
        return [[i] for i in every]
    by_length: dict[int, list[int]] = {}
    for i in every:
        by_length.setdefault(len(prompts[i]), []).append(i)
    return [every] if len(by_length) == 1 or _padding_is_exact(model, prompts) else list(by_length.values())


def _room(model: LanguageModel, given: int) -> int:
    """New tokens by default: twenty, or as many as a prompt leaves of the length that a model was trained on."""
    limit, trained = (None, None) if model.is_encoder_decoder else model.reach["target"]
    if trained is None or (limit is None and given >= trained):
        return DEFAULT_NEW_TOKENS
    return max(1, min(DEFAULT_NEW_TOKENS, (limit or trained) - given))


def _shares(model: LanguageModel, arguments: Mapping[str, Any]) -> bool:
    given = dict(arguments)
    configs = [getattr(model.hf, "generation_config", None), given.pop("generation_config", None)]
    settings: dict[str, Any] = {}
    for config in configs:
        settings |= {} if config is None else config.to_diff_dict()
    settings |= given
    allowed = SHARED_BY_TARGETS if model.is_encoder_decoder else SHARED
    unset = (None, False)
    asked = {k for k, v in settings.items() if not any(v is u for u in unset) and not k.startswith("_")}
    return asked <= allowed and not settings.get("do_sample")


@torch.no_grad()
def _padding_is_exact(model: LanguageModel, prompts: Sequence[Sequence[int]]) -> bool:
    """Whether the model predicts the same after a padded prompt as after the prompt alone; found out once."""
    if model.generates_padded is None:
        long = max(([*p] for p in prompts), key=len)[:8]
        short = long[: len(long) // 2]
        options: dict[str, Any] = {"max_new_tokens": 2, "do_sample": False, "num_beams": 1, "num_return_sequences": 1}
        options |= {"eos_token_id": None, "output_logits": True, "return_dict_in_generate": True}
        options["pad_token_id"] = model.pad_id
        try:
            padded, alone = (
                torch.stack(model.hf.generate(input_ids=ids, attention_mask=mask, **options).logits, 1)[-1].float()
                for ids, mask in (_padded(model, rows) for rows in ([long, short], [short]))
            )
        except (AttributeError, IndexError, RuntimeError, TypeError, ValueError):
            model.generates_padded = False
        else:
            tolerance = (1e-4 if model.dtype in (torch.float32, torch.float64) else 5e-2) * float(alone.abs().max())
            model.generates_padded = torch.allclose(padded, alone, atol=tolerance, rtol=0)
    return model.generates_padded


def _padded(model: LanguageModel, prompts: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Ids and mask `[row, position]`: prompts end together, sources begin together."""
    if model.is_encoder_decoder:
        return pad(prompts, model.pad_id, model.device)
    ids, mask = pad([row[::-1] for row in prompts], model.pad_id, model.device)
    return ids.flip(1), mask.flip(1)


def _call(model: LanguageModel, prompts: Sequence[Sequence[int]], arguments: Mapping[str, Any]) -> list[list[int]]:
    """New ids (encoder-decoders: whole targets) of the rows of one `generate` call."""
    ids, mask = _padded(model, prompts)
    given = 0 if model.is_encoder_decoder else ids.shape[1]
    if model.rope is not None:
        model.rope.forget()
    try:
        options, ends = _options(model, arguments, given)
        out = model.hf.generate(input_ids=ids, attention_mask=mask, **options)
    except (ArithmeticError, AttributeError, IndexError, RuntimeError, TypeError, ValueError) as error:
        if isinstance(error, AttriflowError) or out_of_memory(error):
            raise
        first = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise InputError(f"{type(model.hf).__name__}.generate fails: {first[:300]}") from error
    sequences = getattr(out, "sequences", out)
    rows: list[list[int]] = sequences.tolist()
    stops = [sequences.shape[1]] * len(rows)
    beams = getattr(out, "beam_indices", None)
    if beams is not None:  # -1 where a sequence has no token
        stops = (sequences.shape[1] - beams.shape[1] + (beams >= 0).sum(1)).tolist()
    elif len(rows) > 1 and ends.lengths is not None and len(ends.lengths) == len(rows):
        stops = [n or stop for n, stop in zip(ends.lengths.tolist(), stops, strict=True)]
    return [row[given:stop] for row, stop in zip(rows, stops, strict=True)]


class _Ends:
    """A stopping criterion: the caller's own ones, and a note of the length at which each row was done."""

    def __init__(self, own: Sequence[Any], others: Sequence[Any]) -> None:
        self.own, self.others = own, others
        self.lengths: Tensor | None = None

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        """Which rows are done, `[row]`."""
        check_stop()
        rows, device = len(input_ids), input_ids.device

        def ended(criteria: Sequence[Any]) -> Tensor:
            found = [torch.as_tensor(c(input_ids, scores, **kwargs), device=device).expand(rows) for c in criteria]
            return torch.stack(found).any(0) if found else torch.zeros(rows, dtype=torch.bool, device=device)

        done = ended(self.own)
        if self.lengths is None or len(self.lengths) != rows:
            self.lengths = torch.zeros(rows, dtype=torch.long, device=device)
        self.lengths[(self.lengths == 0) & (done | ended(self.others))] = input_ids.shape[1]
        return done


def _options(model: LanguageModel, arguments: Mapping[str, Any], given: int) -> tuple[dict[str, Any], _Ends]:
    """Arguments of `generate`, and what notes the ends."""
    from transformers.generation import stopping_criteria as kinds

    options = {**arguments, "return_dict_in_generate": True}
    config = getattr(model.hf, "generation_config", None)
    has_length = getattr(config, "max_new_tokens", None) is not None or (
        getattr(config, "max_length", None) not in (None, DEFAULT_NEW_TOKENS)
    )
    if not {"max_new_tokens", "max_length", "generation_config"} & set(options) and not has_length:
        options["max_new_tokens"] = _room(model, given)
    pad_id = _setting(model, options, "pad_token_id")
    if pad_id is None or not 0 <= int(pad_id) < model.vocab_size:
        options["pad_token_id"] = model.pad_id  # transformers warns without, and embeds the pads of rows that are done
    stop = _setting(model, options, "stop_strings")
    if stop is not None:
        options.setdefault("tokenizer", model.tokenizer)
    eos = _setting(model, options, "eos_token_id")
    criteria = list(options.pop("stopping_criteria", None) or ())
    # those of transformers' own kinds take the place of what `generate` would make, so they stay in sight
    lengths = (kinds.MaxLengthCriteria, kinds.MaxTimeCriteria)
    known = [c for c in criteria if isinstance(c, (*lengths, kinds.EosTokenCriteria, kinds.StopStringCriteria))]
    others = [c for c in known if not isinstance(c, lengths)]
    if eos is not None and not any(type(c) is kinds.EosTokenCriteria for c in known):
        others.append(kinds.EosTokenCriteria(eos))
    if stop is not None and not any(type(c) is kinds.StopStringCriteria for c in known):
        others.append(kinds.StopStringCriteria(options["tokenizer"], stop))
    ends = _Ends([c for c in criteria if c not in known], others)
    options["stopping_criteria"] = kinds.StoppingCriteriaList([*known, ends])
    return options, ends


def _setting(model: LanguageModel, options: Mapping[str, Any], name: str) -> Any:
    """What `generate` will use: an argument, also None, before the given and the model's own generation config."""
    if name in options:
        return options[name]
    configs = (options.get("generation_config"), getattr(model.hf, "generation_config", None))
    return next((v for c in configs if (v := getattr(c, name, None)) is not None), None)


def beginning_with(model: LanguageModel, prefix: str) -> dict[str, Tensor]:
    """Arguments of `generate` with which an encoder-decoder goes on after the beginning of a target."""
    ids = without_end(model.target_ids(prefix), model.eos_ids)
    return {"decoder_input_ids": torch.tensor([ids], device=model.device)}


def without_end(ids: Sequence[int], eos: Set[int]) -> list[int]:
    """Ids without EOS tokens at their end; the first one stays."""
    ids = list(ids)
    while len(ids) > 1 and ids[-1] in eos:
        ids.pop()
    return ids

"""One architecture against the loop by hand: every family of methods, two step functions, alone and in a batch.

`examine` runs it in a process of its own, so that a crash or a hang is one architecture's.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
import warnings
from typing import Any

import architectures
import torch
from by_hand import FUNCTIONS, ByHand, Text

import attriflow
from attriflow.errors import AttriflowError, reason_of

METHODS = ("input_x_gradient", "integrated_gradients", "occlusion", "attention")
"""A gradient, a path, a perturbation, an internal."""

STATES = ("exact", "exact in parts", "refused", "not built", "raw error", "wrong")
"""From best to worst: all agrees; what is not refused does; one line says why not; it cannot be tried; two faults."""

N_STEPS = 3
OPTIONS: dict[str, dict[str, Any]] = {
    "input_x_gradient": {"reduction": "norm"},
    "integrated_gradients": {"n_steps": N_STEPS},
}
SECONDS = 60
TOLERANCE = {torch.float64: 1e-4, torch.float32: 2e-3}
"""Largest difference by the largest score: rounding only (norms of many architectures are in single precision)."""

CAUSAL = [("the red cat in the house and the old dog", "was in a house"), ("a blue dog", "was old .")]
SEQ2SEQ = [("the red house and the old man was in", "la casa roja ."), ("a cat", "el gato .")]


def examine(architecture: str, seconds: int = SECONDS) -> dict[str, Any]:
    """`_examine` in a process of its own; what it cannot survive is a raw error."""
    read, write = os.pipe()
    child = os.fork()
    if not child:
        signal.alarm(seconds)
        os.close(read)
        with os.fdopen(write, "w") as file:
            try:
                with open(os.devnull, "w") as nowhere:
                    os.dup2(nowhere.fileno(), 2)
                    os.dup2(nowhere.fileno(), 1)
                file.write(json.dumps(_examine(architecture)))
            except BaseException as error:
                file.write(json.dumps({"state": "raw error", "reason": f"the test itself: {_place(error)}"}))
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as file:
        text = file.read()
    _, status = os.waitpid(child, 0)
    if not text:
        code = os.WTERMSIG(status) if os.WIFSIGNALED(status) else status
        late = f"longer than {seconds} s" if code == signal.SIGALRM else f"ended by signal {code}"
        return {"state": "raw error", "reason": late}
    return json.loads(text)


def _examine(architecture: str) -> dict[str, Any]:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    try:
        tiny = architectures.build(architecture)
    except architectures.NotBuiltError as error:
        return {"state": "not built", "reason": str(error)}
    except Exception as error:
        return {"state": "not built", "reason": _one_line(error)}
    hf, facts = tiny.model, {"class": type(tiny.model).__name__, "dtype": str(tiny.model.dtype).removeprefix("torch.")}
    try:
        model = attriflow.load_model(hf, tokenizer=tiny.tokenizer, device="cpu")
    except AttriflowError as error:
        return facts | {"state": "refused", "reason": reason_of(error)}
    except Exception as error:
        return facts | {"state": "raw error", "reason": f"load_model: {_place(error)}"}
    texts = SEQ2SEQ if model.is_encoder_decoder else CAUSAL
    truth = [_truth(architecture, tiny, *pair) for pair in texts]
    checks: dict[str, str] = {}
    _always_reuse_prefixes()
    for method in METHODS:
        for function in FUNCTIONS if method != "attention" else ("probability",):
            for place, n in (("alone", 1), ("batch", 2)):
                name = f"{method} {function} {place}"
                checks[name] = _check(model, truth, texts[:n], method, function)
    for place, n in (("alone", 1), ("batch", 2)):
        checks[f"generation greedy {place}"] = _generation(model, [given for given, _ in texts[:n]])
    return facts | _summary(checks)


def _always_reuse_prefixes() -> None:
    """Toys are too small for the engine to bother; larger models are not."""
    from attriflow.engine import engine

    engine.worthwhile = lambda *_: True


def _truth(architecture: str, tiny: Any, given: str, target: str) -> dict[str, Any]:
    """(method, step function) -> scores of one text, by hand."""
    hf, tokenizer = tiny.model, tiny.tokenizer
    before, after = tokenizer(given)["input_ids"], tokenizer(target)["input_ids"]
    if hf.config.is_encoder_decoder:
        start = hf.generation_config.decoder_start_token_id
        start = hf.config.decoder_start_token_id if start is None else start
        text = Text(source=before, target=[start, *after], start=1)
    else:
        text = Text(target=before + after, start=len(before))
    by_hand = ByHand(hf, tokenizer.unk_token_id, (tokenizer.eos_token_id,))
    other = ByHand(architectures.build(architecture, attn_implementation="eager").model, by_hand.absent)
    out: dict[str, Any] = {}
    for method, scores in (
        ("input_x_gradient", lambda: by_hand.input_x_gradient(text)),
        ("integrated_gradients", lambda: by_hand.integrated_gradients(text, N_STEPS)),
        ("occlusion", lambda: by_hand.occlusion(text)),
        ("values", lambda: by_hand.values(text)),
        ("attention", lambda: {"probability": other.attention(text)}),
    ):
        try:
            out |= {f"{method} {function}": value for function, value in scores().items()}
        except Exception as error:
            out |= {f"{method} {function}": _place(error) for function in FUNCTIONS}
    return out


def _check(model: Any, truth: Any, texts: list[tuple[str, str]], method: str, function: str) -> str:
    """ "exact", or what is wrong."""
    inputs = [given for given, _ in texts]
    targets = [target if model.is_encoder_decoder else f"{given} {target}" for given, target in texts]
    try:
        found = model.attribute(
            inputs,
            targets,
            method=method,
            attributed_fn=function,
            step_scores=[function],
            attribute_target=model.is_encoder_decoder,
            show_progress=False,
            **OPTIONS.get(method, {}),
        )
    except AttriflowError as error:
        return f"refused: {reason_of(error)}"
    except Exception as error:
        return f"raw error: {_place(error)}"
    tolerance = TOLERANCE[model.dtype]
    worst = 0.0
    for true, attribution in zip(truth, found, strict=False):
        wanted = true[f"{method} {function}"]
        if method == "attention" and wanted is None:  # transformers gives no weights itself
            sums = attribution.scores.nansum(1)  # less than 1 with attention sinks
            if float(sums.max()) > 2 + 1e-4 or float(attribution.scores.nan_to_num().min()) < 0:
                return "wrong: attention weights that are none"
            wanted = attribution.scores
        if isinstance(wanted, str):
            return f"wrong: numbers, where the loop by hand ends with {wanted}"
        if not len(attribution.scores) and wanted[:, 0].isnan().all():
            continue  # transformers itself has no numbers (LED's gradients of texts shorter than half its window)
        if wanted.shape != attribution.scores.shape:
            return f"wrong: shape {list(attribution.scores.shape)} for {list(wanted.shape)}"
        worst = max(worst, _difference(attribution.scores, wanted))
        worst = max(worst, _difference(attribution.step_scores[function], true[f"values {function}"]))
    return "exact" if worst <= tolerance else f"wrong: off by {worst:.1e} of the largest score"


def _generation(model: Any, inputs: list[str]) -> str:
    """ "exact" where the targets are what `generate` of transformers returns for each text alone."""
    settings = {"max_new_tokens": 3, "do_sample": False, "num_beams": 1}
    try:
        wanted = [_generated_alone(model, text, settings) for text in inputs]
    except Exception:
        return "exact"  # transformers itself does not generate with it: forced targets only
    try:
        found = model.encode(inputs, generation_args=settings)
    except AttriflowError as error:
        return f"refused: {reason_of(error)}"
    except Exception as error:
        return f"raw error: {_place(error)}"
    for one, ids in zip(found, wanted, strict=True):
        if one.target_ids != ids:
            return f"wrong: generated {one.target_ids} where transformers gives {ids}"
    return "exact"


@torch.no_grad()
def _generated_alone(model: Any, text: str, settings: dict[str, Any]) -> list[int]:
    return model.model.generate(torch.tensor([model.tokenizer(text)["input_ids"]]), **settings)[0].tolist()


def _difference(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """The largest difference by the largest score; NaN belongs where it is wanted."""
    found, wanted = found.double(), wanted.detach().double()
    if not torch.equal(found.isnan(), wanted.isnan()):
        return float("inf")
    largest = max(float(wanted.nan_to_num().abs().max()), 1e-12)
    return float((found - wanted).nan_to_num().abs().max()) / largest


def _summary(checks: dict[str, str]) -> dict[str, Any]:
    """State and reasons of all checks."""
    kinds = [result.partition(":")[0] for name, result in checks.items() if "generation" not in name]
    reasons: dict[str, str] = {}
    for name, result in sorted(checks.items(), key=lambda pair: STATES.index(pair[1].partition(":")[0]), reverse=True):
        if result != "exact":
            method, _, rest = name.partition(" ")
            reasons.setdefault(method, result if result.startswith("refused") else f"{result} [{rest}]")
    worst = max((result.partition(":")[0] for result in checks.values()), key=STATES.index)
    if worst in ("wrong", "raw error"):
        return {"state": worst, "reasons": reasons}
    if worst == "exact":
        return {"state": "exact"}
    reasons = {method: text.partition(": ")[2] for method, text in reasons.items()}
    if "exact" in kinds or len(set(reasons.values())) > 1:
        return {"state": "exact in parts" if "exact" in kinds else "refused", "reasons": reasons}
    return {"state": "refused", "reason": next(iter(reasons.values()))}


def _one_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {' '.join(lines)[:200]}"


def _place(error: BaseException) -> str:
    """An error and where it was raised."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [f for f in frames if "attriflow" in f.filename or "oracles" in f.filename][-1:]
    places = [f"{os.path.basename(f.filename)}:{f.lineno}" for f in [*ours, *frames[-1:]]]
    return f"{_one_line(error)} ({' > '.join(places)})"


def imported_once() -> None:
    """What every architecture needs, so that no child imports it again."""
    from transformers import BartForConditionalGeneration, LlamaForCausalLM  # noqa: F401

    from attriflow.engine.engine import Engine  # noqa: F401
    from attriflow.registry import methods

    for method in METHODS:
        methods.info(method)


if __name__ == "__main__":
    imported_once()
    for name in sys.argv[1:] or architectures.ARCHITECTURES:
        print(json.dumps({name: examine(name)}), flush=True)

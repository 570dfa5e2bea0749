"""NaN and infinity are no scores: where they are, and whose they are.

A NaN in an `Attribution` means that a step does not see an input, so one that a model or a method computes must not
get there, and an infinite score ranks nothing.
"""

from __future__ import annotations

import torch
from torch import Tensor

from attriflow.engine.engine import Engine
from attriflow.engine.scores import Scores
from attriflow.errors import NotFiniteError
from attriflow.kernels.transfer import home


def not_finite(engine: Engine, scores: Scores) -> tuple[bool, bool]:
    """Whether there are scores that are not finite, and logits of which that is known; one look at the device."""
    logits = [_bad_logits(engine)] if engine.has_run else []
    found = [bool(t) for t in home([t.any() for t in (*_bad_scores(engine, scores), *logits)])]
    return any(found[: len(found) - len(logits)]), any(found[len(found) - len(logits) :])


def _bad_logits(engine: Engine) -> Tensor:
    """Bool `[batch, step]`: the logits of the unchanged input have NaN or infinity (-inf, a token ruled out, may be).

    Reads the largest logit, which is NaN or infinite exactly where no distribution follows from the logits.
    """
    mask = engine.read.step_mask
    return ~engine.base().logits.amax(-1).isfinite().to(mask.device) & mask


def _bad_scores(engine: Engine, scores: Scores) -> list[Tensor]:
    """Bool `[batch, step]`, where the scores and the norms of each block are: a visible one that is not finite."""
    found = []
    for block, values in _numbers(engine, scores):
        bad = ~values.isfinite()
        bad = bad.flatten(3).any(-1) if bad.ndim > 3 else bad
        found.append((bad & _visible(engine, block, bad)).any(-1))
    return found


def _visible(engine: Engine, block: str, like: Tensor) -> Tensor:
    """Which tokens a step sees, `[batch, step, position]`, where other numbers are."""
    if like.device.type == "cpu":
        return engine.batch.host.visible(block)
    return engine.visible(block).to(like.device)


def _numbers(engine: Engine, scores: Scores) -> list[tuple[str, Tensor]]:
    """Scores and norms with their blocks, `[batch, step, position, ...]`."""
    stores = scores.blocks, scores.norms or {}
    return [(block, found[block]) for found in stores for block in engine.blocks if block in found]


@torch.no_grad()
def reasons(engine: Engine, scores: Scores | None = None, name: str = "") -> list[NotFiniteError | None]:
    """Per example of the batch, what is wrong with its logits, or else with a method's scores, at the first such step.

    None where nothing is.
    """
    wrong = home([_bad_logits(engine)] if scores is None else _bad_scores(engine, scores))
    return [
        NotFiniteError(_reason(engine, row, steps.index(True), scores, name)) if any(steps) else None
        for row, steps in enumerate(torch.stack(wrong).any(0).tolist())
    ]


def _reason(engine: Engine, row: int, step: int, scores: Scores | None, name: str) -> str:
    example = engine.examples[row]
    at = example.start + step
    if scores is not None and engine.spans is not None and example.spans is not None:
        at = example.spans[step][1] - 1
    where = f"step {step} ({example.target[at].text!r}) of {example.input_text[:60]!r}"
    dtype = str(engine.model.dtype).removeprefix("torch.")
    hint = f": {dtype} may overflow, try dtype='float32'" if dtype in ("float16", "bfloat16") else ""
    logits = engine.base().logits[row, step]
    if scores is None:
        hint = hint or ": look for NaN or overflow in its weights"
        return f"the model's logits are {_kind(logits)} at {where}, so there is nothing to explain{hint}"
    value = engine.values()[row, step]
    if not bool(value.isfinite()):
        return f"the attributed function is {_kind(value)} at {where}, so there is nothing to explain{hint}"
    found, token = _first(engine, row, step, scores)
    return f"method '{name}' gave a score that is {found}, for the token {token!r} at {where}{hint}"


def _first(engine: Engine, row: int, step: int, scores: Scores) -> tuple[str, str]:
    """What kind of number the first wrong score of a step is, and its token."""
    for block, numbers in _numbers(engine, scores):
        values = numbers[row, step].detach()
        bad = ~values.isfinite().flatten(1).all(-1) if values.ndim > 1 else ~values.isfinite()
        bad = bad & _visible(engine, block, bad)[row, step]
        if bool(bad.any()):
            place = int(bad.long().argmax())
            tokens = engine.examples[row].source if block == "source" else engine.examples[row].target
            return _kind(values[place]), tokens[place].text
    raise AssertionError("no wrong score at a wrong step")


def _kind(values: Tensor) -> str:
    """What is not finite among numbers."""
    return "NaN" if bool(values.isnan().any()) else "infinite"

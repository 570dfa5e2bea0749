"""What makes two evaluations the same: digests of weights and rows; examples are paired only where these agree."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import nn

    from attriflow.evaluation.data import EvaluationData
    from attriflow.types import Example

SAMPLE = 2**16
"""Values of a parameter tensor that are looked at, evenly apart; smaller ones are read as a whole."""
GENERATED = "generated "
"""Opens the digest of targets that the model wrote itself."""


def weights_digest(hf: nn.Module) -> str:
    """Tells models apart whose weights differ, whatever they are called.

    Names, shapes and values of all parameters; of large tensors `SAMPLE` values. Those not in memory have no values.
    """
    found = hashlib.sha256()
    for name, parameter in sorted(hf.named_parameters()):
        found.update(f"{name}{tuple(parameter.shape)}".encode())
        if parameter.device.type != "meta":
            values = parameter.detach().reshape(-1)
            sample = values[:: max(1, -(-values.numel() // SAMPLE))].float().cpu().numpy()
            found.update(np.ascontiguousarray(sample).tobytes())
    return found.hexdigest()[:16]


def data_digests(data: EvaluationData, examples: Sequence[Example]) -> dict[str, str]:
    """Digests of "inputs", "targets", "evidence" and "foils", in their order; what no row has is left out.

    Args:
        data: The rows.
        examples: The same as they were tokenised, which have the targets where they were generated.
    """
    if data.targets is None:
        targets = GENERATED + _digest([[t.id for t in e.target[e.start :]] for e in examples])
    else:
        targets = _digest(data.targets)
    found = {"inputs": data.digest, "targets": targets}
    if data.rationales is not None:
        found["evidence"] = _digest(data.rationales)
    if data.foils is not None:
        found["foils"] = _digest([None if foil is None else asdict(foil) for foil in data.foils])
    return found


def examples_digest(examples: Sequence[Example]) -> str:
    """Digest of the examples as the model reads them: tokens, and which are explained."""
    return _digest([[e.source_ids, e.target_ids, e.start, e.stop] for e in examples])


def same_rows(digests: Mapping[str, str]) -> str:
    """One key of the digests, for rows that may be compared between models: each writes its own generated targets."""
    generated = digests.get("targets", "").startswith(GENERATED)
    shown = {**digests, "targets": GENERATED} if generated else digests
    return "/".join(f"{what}:{digest}" for what, digest in sorted(shown.items()))


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, default=repr).encode()).hexdigest()[:16]

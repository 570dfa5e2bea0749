"""Inseq's JSON, read and written."""

from __future__ import annotations

import base64
import gzip
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from attriflow.datasets.limits import whole_json
from attriflow.errors import InputError, check_choice
from attriflow.io import write_content
from attriflow.io.inseqfiles import KIND, StoredSequence, is_document, parsed, steps_of
from attriflow.io.records import plain

PRECISIONS = {"float32": torch.float32, "float16": torch.float16, "float8": torch.float8_e4m3fn}


def read(path: Path) -> tuple[dict[str, Any], list[StoredSequence], list[dict[str, Any]] | None] | None:
    """`info`, sequences and steps of a file; None where it is not of Inseq's form."""
    try:
        content = json.loads(whole_json(path))
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read: {error}") from error
    if not is_document(content):
        return None
    return (*parsed(content), steps_of(content))


def write(out: Any, path: Path, overwrite: bool, compress: bool, primitives: bool, precision: str) -> None:
    """Write one output as Inseq does."""
    check_choice("scores_precision", precision, PRECISIONS)
    if path.exists() and not overwrite:
        raise ValueError(f"{path} already exists: overwrite=True replaces it")
    sequences = [_sequence(s, precision) for s in out]
    fields = {"info": plain(out.info), "sequence_attributions": sequences, "step_attributions": None}
    document = _object("inseq.data.attribution", "FeatureAttributionOutput", fields)
    text = json.dumps(_bare(document) if primitives else document, indent=4, sort_keys=True)
    if compress:
        path.write_bytes(gzip.compress(text.encode()))
    else:
        write_content(text, path, overwrite=overwrite)


def _sequence(sequence: Any, precision: str) -> dict[str, Any]:
    fields = sequence.to_dict()
    scored = [t for t in (sequence.source_attributions, sequence.target_attributions) if t is not None]
    kind = "MultiDimensional" if scored and scored[0].ndim > 2 else "Coarse" if scored else ""
    kind = "Granular" if sequence.granular else kind
    for side in ("source", "target"):
        fields[side] = [
            _object("inseq.utils.typing", "TokenWithId", {"token": t.token, "id": t.id}) for t in fields[side]
        ]
        fields[f"{side}_attributions"] = _packed(fields[f"{side}_attributions"], precision)
    for name in ("step_scores", "sequence_scores"):
        fields[name] = {key: _packed(values, precision) for key, values in fields[name].items()}
    return _object("inseq.data.attribution", f"{kind}FeatureAttributionSequenceOutput", fields)


def _object(module: str, name: str, fields: dict[str, Any]) -> dict[str, Any]:
    return {KIND: [module, name], "attributes": fields}


def _bare(value: Any) -> Any:
    """Without the names of classes."""
    if isinstance(value, list):
        return [_bare(one) for one in value]
    if not isinstance(value, dict):
        return value
    return _bare(value["attributes"]) if KIND in value else {key: _bare(one) for key, one in value.items()}


def _packed(tensor: Tensor | None, precision: str) -> str | None:
    from safetensors.torch import save

    if tensor is None:
        return None
    return base64.b64encode(save({"attribution": tensor.to(PRECISIONS[precision]).contiguous()})).decode()

"""Attributions as files (safetensors with a JSON header) and as data frames."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from attriflow.errors import InputError
from attriflow.types import Attribution, Provenance, Token

if TYPE_CHECKING:
    import pandas as pd

FORMAT = 1


def save(attributions: Iterable[Attribution], path: str | Path, *, overwrite: bool = False) -> Path:
    """Write attributions into one safetensors file.

    The file is written beside its final place and then moved, so an interrupted save leaves no broken file.

    Args:
        attributions: What to save.
        path: File to write.
        overwrite: Replace an existing file; otherwise that is an error.
    """
    from safetensors.torch import save_file

    path = Path(path)
    if path.exists() and not overwrite:
        raise InputError(f"{path} exists already; pass overwrite=True to replace it")
    tensors: dict[str, Tensor] = {}
    header: list[dict[str, Any]] = []
    for i, a in enumerate(attributions):
        tensors[f"{i}/scores"] = a.scores.detach().cpu().contiguous()
        if a.norms is not None:
            tensors[f"{i}/norms"] = a.norms.detach().cpu().contiguous()
        for name, values in a.step_scores.items():
            tensors[f"{i}/step_scores/{name}"] = values.detach().cpu().contiguous()
        for name, values in a.sequence_scores.items():
            tensors[f"{i}/sequence_scores/{name}"] = values.detach().cpu().contiguous()
        header.append(
            {
                "axes": a.axes,
                "inputs": [dataclasses.asdict(t) for t in a.inputs],
                "targets": [dataclasses.asdict(t) for t in a.targets],
                "start": a.start,
                "step_scores": list(a.step_scores),
                "sequence_scores": list(a.sequence_scores),
                "provenance": _plain(dataclasses.asdict(a.provenance)),
                "input_text": a.input_text,
                "target_text": a.target_text,
            }
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".part")
    save_file(tensors, temporary, metadata={"attriflow": json.dumps({"format": FORMAT, "attributions": header})})
    temporary.replace(path)
    return path


def load(path: str | Path) -> list[Attribution]:
    """Read what `save` wrote; `InputError` for a missing, foreign or corrupt file."""
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    if not path.is_file():
        raise InputError(f"no such file: {path}")
    try:
        with safe_open(path, framework="pt") as f:  # type: ignore[no-untyped-call]
            metadata = f.metadata() or {}
            if "attriflow" not in metadata:
                raise InputError(f"{path} is a safetensors file, but not one that attriflow wrote")
            header = json.loads(metadata["attriflow"])
            if header["format"] != FORMAT:
                raise InputError(f"{path} has format {header['format']}; this version reads format {FORMAT}")
            tensors = {name: f.get_tensor(name) for name in f.keys()}  # noqa: SIM118  (not a dict)
        return [_read(i, entry, tensors) for i, entry in enumerate(header["attributions"])]
    except (SafetensorError, json.JSONDecodeError, KeyError, TypeError, OSError) as error:
        raise InputError(f"{path} is not a readable attriflow file: {error}") from error


def _read(i: int, entry: dict[str, Any], tensors: dict[str, Tensor]) -> Attribution:
    return Attribution(
        scores=tensors[f"{i}/scores"],
        axes=tuple(entry["axes"]),
        inputs=tuple(Token(**t) for t in entry["inputs"]),
        targets=tuple(Token(**t) for t in entry["targets"]),
        start=entry["start"],
        norms=tensors.get(f"{i}/norms"),
        step_scores={name: tensors[f"{i}/step_scores/{name}"] for name in entry["step_scores"]},
        sequence_scores={name: tensors[f"{i}/sequence_scores/{name}"] for name in entry.get("sequence_scores", ())},
        provenance=Provenance(**entry["provenance"]),
        input_text=entry["input_text"],
        target_text=entry["target_text"],
    )


def _plain(value: Any) -> Any:
    """JSON form of an option value; what JSON cannot hold is kept as its repr."""
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return value if isinstance(value, (str, int, float, bool, type(None))) else repr(value)


def to_dataframe(attributions: Sequence[Attribution]) -> pd.DataFrame:
    """Tidy table: one row per example, step and visible input.

    Columns: example, method, step, input, attributed_token, segment, generated_token, score (extra axes reduced as in
    `Attribution.token_scores`).
    """
    import pandas as pd

    rows = []
    for example, a in enumerate(attributions):
        scores, visible = a.token_scores().detach().cpu().tolist(), a.visible.cpu().tolist()
        for step, target in enumerate(a.targets):
            for i, token in enumerate(a.inputs):
                if visible[step][i]:
                    head = (example, a.provenance.method, step, i)
                    rows.append((*head, token.text, token.segment, target.text, scores[step][i]))
    columns = ["example", "method", "step", "input", "attributed_token", "segment", "generated_token", "score"]
    return pd.DataFrame(rows, columns=columns)

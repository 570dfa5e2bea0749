"""Cards of methods as the report shows them: from values to words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attriflow.views.common import as_float, as_text, compact, number, token_text

_MARKS = {True: ("passed", "✓"), False: ("missed", "✗"), None: ("untested", "–")}
_TONES = {"ok": "passed", "gated": "missed", "failed": "missed"}


def card(found: Mapping[str, Any]) -> dict[str, Any]:
    """What the template shows of a card (see `attriflow.evaluation.cards`): texts, and gates with their marks."""
    status = as_text(found["status"])
    rank = f"rank {compact(found['rank'])}" if as_float(found["rank"]) is not None else "not ranked"
    facts = [
        ("family", found["family"]),
        ("explains", _objective(found["objective"])),
        ("baseline", _baseline(found)),
        ("per token", found["reduction"]),
        ("samples", ", ".join(f"{name.replace('_', ' ')}: {compact_or(v)}" for name, v in found["samples"].items())),
        ("residual", _residual(found)),
        ("cost", _cost(found["cost"])),
        ("same as", found["same_as"]),
        ("reason", "" if status == "ok" else found["reason"]),
        ("source", found["source"] if found["source"] != "-" else ""),
    ]
    return {
        "name": found["method"],
        "status": rank if status == "ok" else f"{status}, {rank}",
        "tone": _TONES.get(status, "untested"),
        "definition": found["definition"],
        "facts": [(name, value) for name, value in facts if value],
        "gates": [_gate(gate) for gate in found["gates"] if gate["gate"] != "completeness" or _adds_up(found)],
        "blind": found["blind_spots"],
    }


def _adds_up(found: Mapping[str, Any]) -> bool:
    """Whether the scores are promised to add up, or were measured to."""
    return found["promises_to_add_up"] or any(value is not None for value in found["residual"].values())


def compact_or(value: Any) -> str:
    """A number in few digits, anything else as it is."""
    return compact(value) if as_float(value) is not None else str(value)


def _objective(objective: Mapping[str, Any]) -> str:
    options = ", ".join(f"{name}={value}" for name, value in objective["options"].items())
    return f"{objective['step_function']}({options})" if options else str(objective["step_function"])


def _baseline(found: Mapping[str, Any]) -> str:
    """The tokens that stood for absent ones; where there were none, what was asked for."""
    tokens = [
        f"{token_text(b['text'])} (id {b['id']}; norm above {compact(b['norm_percentile'])}% of the vocabulary)"
        for b in found["baselines"]
    ]
    asked = found["baseline_name"]
    names = asked if isinstance(asked, list) else [] if asked is None else [asked]
    return ", ".join(tokens or map(str, names))


def _residual(found: Mapping[str, Any]) -> str:
    error, own = found["residual"]["completeness_error"], found["residual"]["own"]
    parts = [f"{number(error)} of the sum (median over examples)"] if error is not None else []
    parts += [f"{number(own)} by its own count (median over steps)"] if own is not None else []
    if not _adds_up(found):
        return "scores are not promised to add up"
    return "; ".join(parts) or "not measured"


def _cost(cost: Mapping[str, Any]) -> str:
    parts = [cost["declared"]]
    if cost["forward_passes"] is not None:
        passes = [(cost["forward_passes"], "forward"), (cost["backward_passes"], "backward")]
        parts.append(f"per example {' + '.join(f'{compact(n)} {what}' for n, what in passes if n) or 'no'} passes")
    if cost["seconds"] is not None:
        parts.append(f"{compact(cost['seconds'])} s in all")
    return "; ".join(parts)


def _gate(gate: Mapping[str, Any]) -> tuple[str, str, str]:
    """Tone, mark and what it was held against."""
    tone, mark = _MARKS[gate["passed"]]
    if gate["passed"] is None:
        return tone, mark, f"{gate['gate']}: not tested ({gate['why']})"
    side = "above" if gate["gate"] == "control" else "below"
    p = "" if gate["p_holm"] is None else f", p {number(gate['p_holm'])}"
    held = f"{number(gate['value'])}, must be {side} {compact(gate['limit'])}{p}, n={gate['n']}"
    return tone, mark, f"{gate['gate']} {tone}: {held}"

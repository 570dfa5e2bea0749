"""What counts as a regression, from YAML."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from attriflow.errors import InputError, check_choice, check_keywords

_SPEED, _QUALITY = ("max_slowdown", "slack"), ("max_drop", "min_value", "max_value")
_KEYS = (*_SPEED, "max_drop", "level", "missing", "coverage", "model", "metrics", "overrides")
MISSING, MODELS = ("fail", "ignore"), ("same", "any")


@dataclass(frozen=True, kw_only=True)
class Rules:
    """Limits; None is no limit (and no slack).

    Attributes:
        max_slowdown: Cost may be this many times that of the baseline, in forward-pass equivalents.
        slack: Forward-pass equivalents by which a cost may grow in any case: tiny ones are mostly noise.
        max_drop: A quality metric may become worse by this much, in its own units.
        level: Share of false alarms that is accepted over all tests of quality together (Holm).
        missing: What becomes of something that the baseline has and the current result lacks: "fail" or "ignore".
        coverage: Share of the baseline's examples that must still have a value; with fewer, a metric is missing.
        model: "same": two evaluations must be of the same weights; "any": one model may be judged by another.
        metrics: Metric -> `max_drop`, and `min_value` (where higher is better) or `max_value` (where lower is).
        overrides: Each a `match` (patterns such as "*lime*", of a benchmark, a method or method/metric) and other
            limits for what it matches; of several the last one wins.
    """

    max_slowdown: float | None = 1.5
    slack: float | None = 0.5
    max_drop: float | None = 0.01
    level: float = 0.05
    missing: str = "fail"
    coverage: float = 0.9
    model: str = "same"
    metrics: Mapping[str, Mapping[str, float | None]] = field(default_factory=dict)
    overrides: Sequence[Mapping[str, Any]] = ()

    def __post_init__(self) -> None:
        """Everything has a type and a range that makes sense."""
        _check_limits("the rules", {k: getattr(self, k) for k in (*_SPEED, "max_drop")})
        if self.slack is None or not _real(self.level) or not 0 < self.level < 1:
            raise InputError(
                f"'level' must lie between 0 and 1 and 'slack' be a number, not {self.level!r}, {self.slack}"
            )
        if not _real(self.coverage) or not 0 < self.coverage <= 1:
            raise InputError(f"'coverage' must lie above 0 and up to 1, not {self.coverage!r}")
        check_choice("setting of 'missing'", self.missing, MISSING)
        check_choice("setting of 'model'", self.model, MODELS)
        for name, limits in _mapping("metrics", self.metrics).items():
            check_keywords(f"metric '{name}' in the rules", _mapping(f"metrics: {name}", limits), _QUALITY)
            _check_limits(f"metric '{name}'", limits)
        if not isinstance(self.overrides, Sequence) or isinstance(self.overrides, str):
            raise InputError("'overrides' must be a list of mappings with a 'match'")
        for entry in self.overrides:
            check_keywords("an entry of 'overrides'", _mapping("overrides", entry), ("match", *_SPEED, *_QUALITY))
            if not _patterns(entry):
                raise InputError("an entry of 'overrides' needs a 'match': a pattern, or a list of them")
            _check_limits(f"'overrides' for {entry['match']}", {k: v for k, v in entry.items() if k != "match"})

    @classmethod
    def read(cls, path: str | Path | None) -> Rules:
        """From a YAML file; the defaults without one.

        Raises:
            InputError: The file is not there, or not YAML, or says something that is no rule.
        """
        if path is None:
            return cls()
        import yaml

        try:
            content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"cannot read {path}: {error}") from error
        except yaml.YAMLError as error:
            raise InputError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
        given = _mapping(str(path), content or {})
        check_keywords(f"the rules in {path}", map(str, given), _KEYS)
        return cls(**{str(key): value for key, value in given.items()})

    def speed(self, *names: str) -> tuple[float | None, float]:
        """`max_slowdown` and `slack` of what goes by these names."""
        found = self._overridden({"max_slowdown": self.max_slowdown, "slack": self.slack}, names)
        return found["max_slowdown"], found["slack"] or 0.0

    def quality(self, method: str, metric: str, higher_is_better: bool) -> tuple[float | None, float | None]:
        """`max_drop`, and the worst mean that is accepted, of a metric of a method."""
        given = {"max_drop": self.max_drop, "min_value": None, "max_value": None, **self.metrics.get(metric, {})}
        found = self._overridden(given, (method, f"{method}/{metric}"))
        wrong, right = ("max_value", "min_value") if higher_is_better else ("min_value", "max_value")
        if found[wrong] is not None:
            better = "higher" if higher_is_better else "lower"
            raise InputError(f"'{metric}' has a '{wrong}' in the rules, but {better} is better: use '{right}'")
        return found["max_drop"], found[right]

    def _overridden(self, given: Mapping[str, float | None], names: Sequence[str]) -> dict[str, float | None]:
        out = dict(given)
        for entry in self.overrides:
            if any(fnmatchcase(name, pattern) for name in names for pattern in _patterns(entry)):
                out |= {k: v for k, v in entry.items() if k in out}
        return out


def _patterns(entry: Mapping[str, Any]) -> list[str]:
    match = entry.get("match")
    found = [match] if isinstance(match, str) else match
    return found if isinstance(found, list) and all(isinstance(p, str) for p in found) else []


def _mapping(where: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise InputError(f"{where} must hold settings by name, not {value!r}")
    return value


def _real(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e300


def _check_limits(owner: str, limits: Mapping[str, Any]) -> None:
    least = {"max_slowdown": 1.0, "slack": 0.0, "max_drop": 0.0}
    for name, value in limits.items():
        if value is not None and not (_real(value) and value >= least.get(name, -math.inf)):
            bound = f", {least[name]:g} or more" if name in least else ""
            raise InputError(f"'{name}' of {owner} must be a number{bound}, or null for no limit, not {value!r}")

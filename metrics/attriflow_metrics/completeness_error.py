"""Completeness error."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

from torch import Tensor

from attriflow.registry import methods, metrics
from attriflow.statistics.ranking import NOT_APPLICABLE
from attriflow.types import Attribution, MetricValues, Provenance, Rescore, Variant
from attriflow_metrics._changes import Answers, Ask, How, Measured, Removal
from attriflow_metrics._steps import Step, prefix

FUNCTIONS: Mapping[str, Callable[[float], float]] = {
    "probability": math.exp,
    "crossentropy": lambda lp: -lp,
    "surprisal": lambda lp: -lp / math.log(2),
    "perplexity": lambda lp: math.exp(-lp),
}
ADDITIVE = ("probability", "crossentropy", "surprisal")
"""Those that add up over a span; probabilities as their logarithms."""
TOKENS: Mapping[str, How] = {
    "unk": "baseline", "pad": "pad", "eos": "eos", "bos": "bos", "mask": "mask_token",
}  # fmt: skip
"""Baselines of methods that are tokens, as metrics call them."""
TRACE = 1e-4
"""Share of the credit that is as good as none."""


@metrics.register(
    "completeness_error",
    family="sanity",
    higher_is_better=False,
    range=(0.0, 1.0),
    cost="2 forward rows per step, the same for every method",
    source="Sundararajan et al. 2017 (arXiv 1703.01365), completeness; Bach et al. 2015, conservation",
    shared=True,
)
@dataclass(frozen=True, kw_only=True)
class CompletenessError(Removal):
    r"""How far the scores are from adding up to what all tokens together do to the explained value; lower is better.

    $$\frac{|\Sigma - \Delta|}{|\Sigma| + |\Delta|}, \quad \Sigma = \sum_i s_i, \quad
    \Delta = f(x) - f(\tilde x)$$

    over the removable tokens, with $f$ what was attributed and $\tilde x$ the input in which all of them are baseline
    tokens. In [0, 1]: 0 when complete, 1/3 when twice or half the right size, 1 when of the wrong sign or size. Source:
    the axiom of Sundararajan et al. 2017, "Axiomatic Attribution for Deep Networks", as a relative error. It is
    measured for methods that promise completeness (integrated gradients, DeepLIFT, Shapley values; signed sums) and for
    those that attriflow does not know: attention weights, say, add up to about 1 whatever the model does, and would be
    right by accident. Tokens that metrics leave in place (special ones, the target prefix of an encoder-decoder) are no
    part of either sum: where a method gives them credit, as its baseline replaces them, too, nothing can be said.

    Skipped: "not applicable: ... does not promise completeness", "not applicable: the method's baseline is no single
    token", "not applicable: the method gives credit to tokens that metrics leave in place", "not applicable:
    completeness is checked for probability, crossentropy, surprisal, perplexity" (another function was attributed),
    "not applicable: of spans, completeness is checked for the logarithm of probability, crossentropy, surprisal" (other
    functions are not told by the probability of a span), "no input to remove", "scores are not finite", "the model's
    score is NaN".

    Attributes:
        perturbation: What stands for the tokens, see `Rescore`; for "baseline" the token that the method was given as
            its baseline. One that is no token, or several, are not measured.
    """

    perturbation: How = "baseline"
    in_nats: ClassVar[bool] = True

    def steps(self, attribution: Attribution) -> tuple[list[Step], dict[int, str]]:
        """All steps, where the explained function can be told from a log-probability."""
        reason = ""
        if not _promised(attribution.provenance):
            reason = f"{NOT_APPLICABLE}{attribution.provenance.method} does not promise completeness"
        elif self.perturbation == "baseline" and _baseline(attribution.provenance) is None:
            reason = f"{NOT_APPLICABLE}the method's baseline is no single token"
        elif _function(attribution.provenance) is None and attribution.provenance.span_value:
            reason = f"{NOT_APPLICABLE}of spans, completeness is checked for the logarithm of {', '.join(ADDITIVE)}"
        elif _function(attribution.provenance) is None:
            reason = f"{NOT_APPLICABLE}completeness is checked for {', '.join(FUNCTIONS)}"
        if reason:
            return [], dict.fromkeys(range(len(attribution.targets)), reason)
        steps, skipped = super().steps(attribution)
        elsewhere = {step.index for step in steps if _elsewhere(attribution, step)}
        reason = f"{NOT_APPLICABLE}the method gives credit to tokens that metrics leave in place"
        skipped |= dict.fromkeys(elsewhere, reason)
        return [step for step in steps if step.index not in elsewhere], skipped

    def plan(self, attribution: Attribution) -> list[Variant]:
        """The changed inputs that a call will score."""
        return super(CompletenessError, self._with_baseline(attribution)).plan(attribution)

    def __call__(
        self, attribution: Attribution, rescore: Rescore | None, rationale: Tensor | None = None
    ) -> MetricValues:
        """Evaluate every step (see `FromChanges`)."""
        return super(CompletenessError, self._with_baseline(attribution)).__call__(attribution, rescore, rationale)

    def _with_baseline(self, attribution: Attribution) -> CompletenessError:
        """The same with the token that stood for absent ones."""
        own = _baseline(attribution.provenance)
        return self if self.perturbation != "baseline" or own is None else replace(self, perturbation=own)

    def asked(self, step: Step) -> Iterator[Ask]:
        """The unchanged input and the baseline."""
        yield self.whole(step)
        yield Ask((), how=self.how)

    def measure(self, step: Step, answers: Answers) -> Measured:
        """The relative error of the sum."""
        function = _function(answers.attribution.provenance) or FUNCTIONS["probability"]
        given = math.fsum(step.scores.tolist())
        wanted = function(answers[self.whole(step)]) - function(answers[Ask((), how=self.how)])
        size = abs(given) + abs(wanted)
        return Measured(abs(given - wanted) / size if size else 0.0)


def _elsewhere(attribution: Attribution, step: Step) -> bool:
    """Whether more than a trace of a step's credit is on tokens that it sees and that stay."""
    scores = attribution.token_scores()[step.index].abs().double()
    seen = scores[prefix(attribution, step.index)].nan_to_num()
    total = math.fsum(seen.tolist())
    return total - math.fsum(abs(step.scores).tolist()) > TRACE * total


def _promised(provenance: Provenance) -> bool:
    """Whether the method says that its scores add up, or is not known to say anything."""
    method = methods.known(provenance.method)
    if method is None:
        return True
    return bool(method.meta.get("complete")) and provenance.options.get("reduction", "sum") == "sum"


def _baseline(provenance: Provenance) -> How | None:
    """The token that a method replaced tokens by, as metrics call it; None where that is something else."""
    given = provenance.options.get("baseline", "unk")
    if isinstance(given, int):
        return given
    return TOKENS.get(given) if isinstance(given, str) else None


def _function(provenance: Provenance) -> Callable[[float], float] | None:
    """What was attributed, as a function of the target's log-probability."""
    if provenance.attributed_fn == "probability" and provenance.attributed_fn_args.get("logprob"):
        return lambda lp: lp
    if provenance.span_value and provenance.attributed_fn not in ADDITIVE[1:]:
        return None
    return FUNCTIONS.get(provenance.attributed_fn)

"""What is measured at which scale: models, sizes, methods, options, and how long."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

STEPS, SAMPLES = {"n_steps": 8}, {"n_samples": 8}
OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "integrated_gradients": STEPS,
    "layer_integrated_gradients": STEPS,
    "discretized_integrated_gradients": STEPS,
    "sequential_integrated_gradients": {"n_steps": 2},
    "gradient_shap": SAMPLES,
    "smooth_grad": SAMPLES,
    "var_grad": SAMPLES,
    "lime": {"n_samples": 32},
    "kernel_shap": {"n_samples": 32},
    "context_cite": {"n_samples": 32, "unit": "token"},
    "shapley_sampling": {"n_samples": 2},
    "reagent": {"max_probe_steps": 8, "num_probes": 2},
}
"""Options of methods, the same at all scales, that recorded baselines were measured with: few points and samples, so
that a round is short. Other methods are measured with the options that they give for trials."""

FEW = ("attention", "saliency", "integrated_gradients", "occlusion", "lime", "value_zeroing")
"""One method of each kind, for models where all of them would take too long."""


@dataclass(frozen=True)
class Case:
    """A model and sizes.

    Attributes:
        model: A shape of `random_models`, or demo/<name>.
        prompt, target: Input and explained tokens per example; the demo models have texts of their own.
        batch: Examples.
        methods: Names; all that are registered when None.
    """

    model: str
    prompt: int = 0
    target: int = 0
    batch: int = 4
    methods: tuple[str, ...] | None = None

    def __str__(self) -> str:
        sizes = f"{self.prompt}+{self.target}" if self.prompt else "texts"
        return f"{self.model.replace('/', '-')}-{sizes}x{self.batch}"


@dataclass(frozen=True, kw_only=True)
class Scale:
    """A choice of cases.

    Attributes:
        cases: Everywhere.
        accelerated: Only on a GPU.
        step_functions: Cases on which step functions and scoring are measured.
        surroundings: Also measure loading, imports and whole evaluations.
        seconds: Time for the rounds of a benchmark.
        rounds: Least and most rounds; a single one when it takes longer than `seconds`.
        threads: Threads on a CPU; torch's own choice when None.
    """

    cases: tuple[Case, ...]
    accelerated: tuple[Case, ...] = ()
    step_functions: tuple[Case, ...] = ()
    surroundings: bool = False
    seconds: float = 1.0
    rounds: tuple[int, int] = (3, 9)
    threads: int | None = None


TOY = (Case("toy", 12, 8, 2), Case("toy-bart", 12, 8, 2))
LLAMAS = (Case("llama-1b", 128, 32, 4), Case("llama-1b", 1024, 64, 1), Case("llama-8b", 128, 32, 1, FEW))
SCALES = {
    # one thread: models as small as these get nothing from a second one, but wait for it on a busy machine
    "toy": Scale(cases=TOY, step_functions=TOY[:1], seconds=0.6, rounds=(3, 7), threads=1),
    "default": Scale(
        cases=(
            *TOY,
            Case("toy", 96, 32, 2),
            Case("toy-bart", 96, 32, 2),
            Case("demo/recall"),
            Case("demo/translate"),
            Case("gpt2-small", 20, 20, 1, FEW),
            Case("bart-base", 20, 20, 1, FEW),
        ),
        step_functions=TOY,
        surroundings=True,
        seconds=0.8,
    ),
    "small": Scale(
        cases=tuple(
            Case(model, prompt, target, batch)
            for model in ("gpt2-small", "bart-base")
            for prompt, target, batch in ((20, 20, 4), (256, 64, 1))
        ),
        accelerated=LLAMAS,
        step_functions=(Case("gpt2-small", 20, 20, 4), Case("bart-base", 20, 20, 4)),
        surroundings=True,
        seconds=3.0,
    ),
}

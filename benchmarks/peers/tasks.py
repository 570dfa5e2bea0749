"""Which methods are compared, with which options on each side, how scores compare, and the bars that are set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

DIFFERENT = "by definition different"
STOCHASTIC = "stochastic"
ZEROS = "all zeros in Inseq"


@dataclass(frozen=True)
class Peer:
    """How a peer does the same.

    Attributes:
        method: Its name there.
        options: Given to the call that is timed.
        load: Given when the method is set up, outside of what is timed.
        compare: Arrays that are compared, ours -> theirs ("scores", "norms"); or why they are not, in words.
        absolute: Signs are lost there.
        check: Options of ours under which the two definitions agree, for one untimed run.
        prompt_only: Credit goes to prompt tokens only.
        shapes: Kinds of models it can do: "causal", "encoder-decoder".
    """

    method: str
    options: Mapping[str, Any] = field(default_factory=dict)
    load: Mapping[str, Any] = field(default_factory=dict)
    compare: Mapping[str, str] | str = DIFFERENT
    absolute: bool = False
    check: Mapping[str, Any] | None = None
    prompt_only: bool = False
    shapes: tuple[str, ...] = ("causal", "encoder-decoder")


@dataclass(frozen=True)
class Task:
    """A method of ours, in one or several variants, and what it is measured against.

    Attributes:
        method: Name of the method in attriflow.
        family: The bar it counts for.
        variants: Label -> options of ours; the first is the one that bars and means are about.
        peers: Package -> how it does the same.
    """

    method: str
    family: str
    variants: Mapping[str, Mapping[str, Any]]
    peers: Mapping[str, Peer]


@dataclass(frozen=True)
class Sizes:
    """How much work the methods are given."""

    n_steps: int = 10
    sequential_steps: int = 4
    n_samples: int = 50
    shap_samples: int = 5
    permutations: int = 4
    probe_steps: int = 30
    num_probes: int = 8


# family -> median of Inseq's seconds over ours, by shape
BARS = {
    "attention": {"gpt2-small": 1.0, "toy": 1.0},
    "single gradient": {"gpt2-small": 2.5, "toy": 4.0},
    "path": {"gpt2-small": 2.0, "toy": 3.0},
    "sequential": {"gpt2-small": 8.0, "toy": 8.0},
    "occlusion": {"gpt2-small": 20.0, "toy": 40.0},
    "lime": {"gpt2-small": 20.0, "toy": 50.0},
    "value zeroing": {"gpt2-small": 2.0, "toy": 3.0},
    "reagent": {"gpt2-small": 5.0, "toy": 5.0},
}
MEAN_BAR = {"gpt2-small": 5.0, "toy": 8.0}

SCORES = {"scores": "scores"}
BOTH = {"scores": "scores", "norms": "norms"}
CAUSAL = ("causal",)
# captum's fastest way, one forward per changed prompt; its default (token by token, with a cache) is slower, and under
# transformers 5 the cache makes its scores differ by several percent
IN_ONE = {"forward_in_tokens": False}
LOGPROB = {"attributed_fn": "probability", "attributed_fn_args": {"logprob": True}}


def tasks(s: Sizes) -> list[Task]:
    """All comparisons; the harness skips what attriflow has not registered."""
    steps, samples = {"n_steps": s.n_steps}, {"n_samples": s.n_samples}
    rows = {"batch_size": 32}
    path = {**rows, "n_perturbations": s.n_steps}
    many = {**rows, "n_perturbations": s.n_samples}

    def captum(method: str, options: Mapping[str, Any] | None = None, **more: Any) -> Peer:
        return Peer(method, options or {}, prompt_only=True, shapes=CAUSAL, **more)

    def interpreto(method: str, load: Mapping[str, Any]) -> Peer:
        return Peer(method, load=load, shapes=CAUSAL)

    def inseq(method: str, options: Mapping[str, Any] | None = None, **more: Any) -> Peer:
        return Peer(method, options or {}, **more)

    probing = {"max_probe_steps": s.probe_steps, "num_probes": s.num_probes}
    return [
        Task("attention", "attention", {"": {}}, {"inseq": inseq("attention", compare=SCORES)}),
        Task(
            "saliency",
            "single gradient",
            {"": {}},
            {
                "inseq": inseq("saliency", compare={"norms": "norms"}),
                "interpreto": interpreto("Saliency", {**rows, "input_x_gradient": False}),
            },
        ),
        Task(
            "input_x_gradient",
            "single gradient",
            {"": {}},
            {
                "inseq": inseq("input_x_gradient", compare=BOTH),
                "captum": captum("LayerGradientXActivation", compare=SCORES, check=LOGPROB),
                "interpreto": interpreto("Saliency", {**rows, "input_x_gradient": True}),
            },
        ),
        Task(
            "deeplift",
            "single gradient",
            {"": {"captum_compatible": True}, "complete": {}},
            {"inseq": inseq("deeplift", compare=BOTH)},
        ),
        Task(
            "layer_gradient_x_activation",
            "single gradient",
            {"": {}},
            {"inseq": inseq("layer_gradient_x_activation", compare=BOTH, shapes=CAUSAL)},
        ),
        Task(
            "layer_deeplift",
            "single gradient",
            {"": {}},
            {"inseq": inseq("layer_deeplift", compare=ZEROS, shapes=CAUSAL)},
        ),
        Task(
            "integrated_gradients",
            "path",
            {"": steps},
            {
                "inseq": inseq("integrated_gradients", steps, compare=BOTH),
                "captum": captum("LayerIntegratedGradients", steps),
                "interpreto": interpreto("IntegratedGradients", path),
            },
        ),
        Task(
            "gradient_shap",
            "path",
            {"": {"n_samples": s.shap_samples}},
            {
                "inseq": inseq("gradient_shap", {"n_samples": s.shap_samples}, compare=STOCHASTIC),
                "captum": captum("LayerGradientShap", {"n_samples": s.shap_samples}, compare=STOCHASTIC),
                "interpreto": interpreto("GradientShap", {**rows, "n_perturbations": s.shap_samples}),
            },
        ),
        Task(
            "discretized_integrated_gradients",
            "path",
            {"": steps},
            {"inseq": inseq("discretized_integrated_gradients", steps, compare=BOTH)},
        ),
        Task(
            "layer_integrated_gradients",
            "path",
            {"": steps},
            {"inseq": inseq("layer_integrated_gradients", steps, compare=ZEROS, shapes=CAUSAL)},
        ),
        Task(
            "sequential_integrated_gradients",
            "sequential",
            {
                "": {"n_steps": s.sequential_steps},
                "signed sum": {"n_steps": s.sequential_steps, "norms": False},
            },
            {"inseq": inseq("sequential_integrated_gradients", {"n_steps": s.sequential_steps}, compare=BOTH)},
        ),
        Task(
            "occlusion",
            "occlusion",
            {"": {}},
            {
                "inseq": inseq("occlusion", compare=SCORES, absolute=True),
                "captum": captum("FeatureAblation", IN_ONE, compare=SCORES),
                "interpreto": interpreto("Occlusion", rows),
            },
        ),
        Task(
            "lime",
            "lime",
            {"": samples},
            {
                "inseq": inseq("lime", samples),
                "captum": captum("Lime", {**samples, **IN_ONE}),
                "interpreto": interpreto("Lime", many),
            },
        ),
        Task("value_zeroing", "value zeroing", {"": {}}, {"inseq": inseq("value_zeroing", compare=SCORES)}),
        Task(
            "reagent",
            "reagent",
            {"": probing},
            {"inseq": inseq("reagent", load=probing, compare=STOCHASTIC, shapes=CAUSAL)},
        ),
        Task(
            "feature_ablation",
            "other",
            {"": {"unit": "token"}},
            {"captum": captum("FeatureAblation", IN_ONE, compare=SCORES)},
        ),
        Task(
            "kernel_shap",
            "other",
            {"": samples},
            {"captum": captum("KernelShap", {**samples, **IN_ONE}), "interpreto": interpreto("KernelShap", many)},
        ),
        Task(
            "shapley_sampling",
            "other",
            {"": {"n_samples": s.permutations}},
            {"captum": captum("ShapleyValueSampling", {"n_samples": s.permutations, **IN_ONE})},
        ),
        Task(
            "smooth_grad",
            "other",
            {"": {"n_samples": s.shap_samples}},
            {"interpreto": interpreto("SmoothGrad", {**rows, "n_perturbations": s.shap_samples})},
        ),
        Task(
            "var_grad",
            "other",
            {"": {"n_samples": s.shap_samples}},
            {"interpreto": interpreto("VarGrad", {**rows, "n_perturbations": s.shap_samples})},
        ),
    ]

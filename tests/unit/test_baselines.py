"""Several baselines: the scores are the mean over them."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch

import attriflow
from attriflow.engine import Engine, Scores
from attriflow.errors import AttriflowError

TEXT = "anna has a red hat . what color is the hat ?"
FEW = {
    "integrated_gradients": {"n_steps": 4, "return_convergence_delta": True},
    "discretized_integrated_gradients": {"n_steps": 4},
    "occlusion": {},
    "deeplift": {},
    "kernel_shap": {"n_samples": 16},
    "layer_integrated_gradients": {"n_steps": 4},
}


@pytest.fixture(scope="module")
def model():
    return attriflow.load_model("demo/recall")


@pytest.mark.parametrize("method", FEW)
def test_scores_are_the_mean_over_the_baselines(model, method):
    names = ["eos", 5, "pad"] if method == "discretized_integrated_gradients" else ["eos", 5, "zero"]
    (found,) = model.attribute(TEXT, f"{TEXT} red", method=method, baseline=names, **FEW[method])
    each = [model.attribute(TEXT, f"{TEXT} red", method=method, baseline=one, **FEW[method])[0] for one in names]
    assert not torch.allclose(each[0].scores.nan_to_num(), each[1].scores.nan_to_num(), atol=1e-4)
    wanted = torch.stack([a.scores for a in each]).mean(0)
    torch.testing.assert_close(found.scores, wanted, atol=1e-6, rtol=1e-5, equal_nan=True)
    close = {"atol": 1e-6, "rtol": 1e-5, "equal_nan": True}
    for name, value in found.step_scores.items():
        torch.testing.assert_close(value, torch.stack([a.step_scores[name] for a in each]).mean(0), **close)
    if found.norms is not None:
        torch.testing.assert_close(found.norms, torch.stack([a.norms for a in each]).mean(0), **close)
    assert list(found.provenance.options["baseline"]) == names
    assert set(found.provenance.baseline_ids) == {i for a in each for i in a.provenance.baseline_ids}


def test_what_is_no_list_of_baselines(model):
    for baseline in ([], ["unc"], [["unk"]], [True]):
        with pytest.raises(AttriflowError, match="baseline"):
            model.attribute(TEXT, f"{TEXT} red", method="occlusion", baseline=baseline)


def test_a_list_means_what_a_strangers_method_says(model):
    @dataclass(frozen=True)
    class Strange:
        """Scores as many as there are names."""

        baseline: list[str]

        def __call__(self, engine: Engine) -> Scores:
            return Scores({b: engine.visible(b).to(engine.dtype) * len(self.baseline) for b in engine.blocks})

    attriflow.register_method(Strange, "strange")
    (found,) = model.attribute(TEXT, f"{TEXT} red", method="strange", baseline=["a", "b"])
    assert float(found.scores.nan_to_num().max()) == 2

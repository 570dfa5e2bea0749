"""The entry point of MLflow's evaluator plugins.

MLflow imports this module on anyone's first `evaluate()`, whatever is evaluated, and asks every evaluator whether it
wants to take part when none is named. So it imports nothing that MLflow has not loaded already, and it declines.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from mlflow.models.evaluation.base import ModelEvaluator

if TYPE_CHECKING:
    from mlflow.models.evaluation.base import EvaluationResult

MODEL_TYPE = "text-attribution"


class AttributionEvaluator(ModelEvaluator):
    """Runs attribution methods over a logged model and says which explanation to believe."""

    @classmethod
    def can_evaluate(cls, *, model_type: str | None = None, evaluator_config: Any = None, **kwargs: Any) -> bool:
        """True for `model_type="text-attribution"`, and for any model type when `evaluators` names attriflow.

        MLflow asks twice: in `resolve_evaluators_and_configs`, where it collects volunteers because nobody was named,
        and in `_evaluate`, right before running evaluators that are already chosen. It passes no name either time, so
        only the place of the question tells that the user asked for attriflow.
        """
        if model_type == MODEL_TYPE:
            return True
        asking = sys._getframe(1)
        return asking.f_code.co_name == "_evaluate" and asking.f_globals.get("__name__") == ModelEvaluator.__module__

    def evaluate(
        self,
        *,
        model_type: str | None,
        dataset: Any,
        run_id: str,
        evaluator_config: dict[str, Any] | None,
        model: Any = None,
        extra_metrics: Any = None,
        custom_artifacts: Any = None,
        predictions: Any = None,
        model_id: str | None = None,
        **kwargs: Any,
    ) -> EvaluationResult:
        """Explain the data set with every method, score the explanations, log everything to the run."""
        from attriflow.tracking.evaluation_run import evaluate_model

        return evaluate_model(
            model=model,
            dataset=dataset,
            run_id=run_id,
            settings=evaluator_config or {},
            model_id=model_id,
            unsupported={
                "extra_metrics": extra_metrics,
                "custom_artifacts": custom_artifacts,
                "predictions": predictions,
            },
        )

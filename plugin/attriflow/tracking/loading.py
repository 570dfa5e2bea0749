"""The Hugging Face model and tokenizer inside a logged MLflow model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from attriflow.errors import UnsupportedModelError
from attriflow.tracking.quiet import quiet

if TYPE_CHECKING:
    from attriflow.model import AttributionModel

WANTED = (
    "attriflow needs a Hugging Face generation model and its tokenizer: log the model with attriflow.log_model, with "
    "mlflow.transformers.log_model (task text-generation), or as a PythonModel with the attributes 'model' and "
    "'tokenizer'"
)


def resolve_uri(uri: str) -> tuple[Any, Any]:
    """Load the Hugging Face model and tokenizer behind an MLflow URI ("models:/...", "runs:/...") or model folder."""
    import mlflow.pyfunc

    return hf_parts(mlflow.pyfunc.load_model(uri))


def load_elsewhere(uri: str, store: Mapping[str, str], **options: Any) -> AttributionModel:
    """Load a logged model in a process that knows nothing of its store. `options`: of `attriflow.load_model`.

    Args:
        uri: Of the model.
        store: Addresses that MLflow goes by: "tracking" and "registry".
    """
    import mlflow

    from attriflow.model import load_model

    with quiet():
        mlflow.set_tracking_uri(store["tracking"])
        mlflow.set_registry_uri(store["registry"])
        return load_model(uri, **options)


def hf_parts(pyfunc_model: Any) -> tuple[Any, Any]:
    """The Hugging Face model and tokenizer of a loaded pyfunc model; no weights are loaded a second time.

    Raises:
        UnsupportedModelError: There are none, or the model does not generate text.
    """
    if pyfunc_model is None:
        raise UnsupportedModelError(f"there is no model to explain: {WANTED}")
    for owner in _owners(pyfunc_model):
        model, tokenizer = getattr(owner, "model", None), getattr(owner, "tokenizer", None)
        if model is not None and tokenizer is not None:
            return _checked(model), tokenizer
    raise UnsupportedModelError(f"found no model and tokenizer in {_describe(pyfunc_model)}. {WANTED}")


def _owners(pyfunc_model: Any) -> list[Any]:
    """What may hold model and tokenizer: the PythonModel, or the raw model (a pipeline) of another flavor."""
    from mlflow.exceptions import MlflowException

    out = []
    for name in ("unwrap_python_model", "get_raw_model"):
        get = getattr(pyfunc_model, name, None)
        if get is None:
            continue
        try:
            out.append(get())
        except (MlflowException, NotImplementedError, AttributeError):
            continue  # not of this kind
    return out


def _checked(model: Any) -> Any:
    can_generate = getattr(model, "can_generate", None)
    if getattr(model, "config", None) is None or not callable(can_generate) or not can_generate():
        raise UnsupportedModelError(f"{type(model).__name__} is not a Hugging Face model that generates text. {WANTED}")
    return model


def _describe(pyfunc_model: Any) -> str:
    flavors = getattr(getattr(pyfunc_model, "metadata", None), "flavors", None) or {}
    loader = flavors.get("python_function", {}).get("loader_module")
    return f"an MLflow model of {loader}" if loader else f"a {type(pyfunc_model).__name__}"

"""`attriflow.log_model`: a causal model or encoder-decoder as an MLflow model, on any transformers version."""

from __future__ import annotations

import contextlib
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attriflow.errors import InputError
from attriflow.tracking.quiet import no_artifact_bars
from attriflow.versions import versions

if TYPE_CHECKING:
    from mlflow.models.model import ModelInfo

CODE = Path(__file__).with_name("generator_model.py")
REQUIRED = ("mlflow", "torch", "transformers", "tokenizers", "safetensors")


def log_model(
    model: Any, tokenizer: Any = None, name: str = "model", *, pip_requirements: list[str] | None = None, **options: Any
) -> ModelInfo:
    """Log a Hugging Face generation model with its tokenizer to MLflow.

    The logged model is an ordinary pyfunc (`predict` generates text) without pickled objects, which loads its weights
    when they are first needed and does not need attriflow.

    Args:
        model: A Hugging Face model, an attriflow model, or a folder written by `save_pretrained`.
        tokenizer: Its tokenizer; not needed for an attriflow model or a folder that has one.
        name: Name of the logged model.
        pip_requirements: What the model needs; by default the installed versions of mlflow, torch and transformers.
        **options: Passed on to `mlflow.pyfunc.log_model`.

    Returns:
        What MLflow says about the logged model; `model_uri` is what `mlflow.models.evaluate` takes.
    """
    import mlflow
    from mlflow.models import ModelSignature
    from mlflow.types.schema import ColSpec, ParamSchema, ParamSpec, Schema

    signature = ModelSignature(
        inputs=Schema([ColSpec("string")]),
        outputs=Schema([ColSpec("string")]),
        params=ParamSchema([ParamSpec("generation_args", "string", "{}"), ParamSpec("batch_size", "integer", 16)]),
    )
    with _saved(model, tokenizer) as folder, _no_advice():
        return mlflow.pyfunc.log_model(
            name=name,
            python_model=str(CODE),
            artifacts={"model": str(folder)},
            pip_requirements=_installed() if pip_requirements is None else pip_requirements,
            **{"signature": signature, **options},
        )


@contextlib.contextmanager
def _saved(model: Any, tokenizer: Any) -> Iterator[Path]:
    """A folder with model and tokenizer files."""
    if hasattr(model, "attribute") and hasattr(model, "tokenizer"):  # an attriflow model
        model, tokenizer = model.model, tokenizer or model.tokenizer
    if isinstance(model, (str, Path)):
        folder = Path(model)
        if not (folder / "config.json").is_file():
            raise InputError(f"{folder} is not a folder with a saved model (no config.json)")
        if tokenizer is None:
            yield folder
            return
        raise InputError("give a folder that holds model and tokenizer, or a model and a tokenizer, not a mixture")
    if not hasattr(model, "save_pretrained"):
        raise InputError(f"cannot log a {type(model).__name__}: expected a Hugging Face model or a saved folder")
    if tokenizer is None or not hasattr(tokenizer, "save_pretrained"):
        raise InputError("a tokenizer is needed: attriflow.log_model(model, tokenizer)")
    with tempfile.TemporaryDirectory() as temporary:
        model.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
        yield Path(temporary)


def _installed() -> list[str]:
    """Installed versions, without local parts ("+cpu") that no index knows."""
    return [f"{name}=={found.split('+')[0]}" for name, found in versions(REQUIRED).items() if name in REQUIRED]


@contextlib.contextmanager
def _no_advice() -> Iterator[None]:
    """No advice to add an input example, for which MLflow would load and run the model."""
    with no_artifact_bars(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*input example was not provided.*", category=UserWarning)
        yield

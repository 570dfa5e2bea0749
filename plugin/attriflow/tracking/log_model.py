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
    model: Any,
    tokenizer: Any = None,
    name: str = "model",
    *,
    reference: bool = False,
    pip_requirements: list[str] | None = None,
    extra_pip_requirements: list[str] | None = None,
    **options: Any,
) -> ModelInfo:
    """Log a Hugging Face generation model with its tokenizer to MLflow.

    The logged model is an ordinary pyfunc (`predict` generates text) without pickled objects, which loads its weights
    when they are first needed and does not need attriflow. It takes texts: the column `input` of a table, or a list.
    A PEFT model is logged as its base and its adapter.

    Args:
        model: A Hugging Face model, an attriflow model, or a folder written by `save_pretrained`; with `reference` a
            folder or a name on the hub.
        tokenizer: Its tokenizer; not needed for an attriflow model or a folder that has one.
        name: Name of the logged model.
        reference: Log where model and tokenizer are (a name with its commit, a folder) and no copy of them.
        pip_requirements: What the model needs; by default the installed versions of mlflow, torch and transformers.
        extra_pip_requirements: What it needs besides.
        **options: Passed on to `mlflow.pyfunc.log_model`, such as `conda_env`, `code_paths`, `registered_model_name`,
            `tags`, `metadata`, or a `signature` of its own.

    Returns:
        What MLflow says about the logged model; `model_uri` is what `mlflow.models.evaluate` takes.
    """
    import mlflow
    from mlflow.models import ModelSignature
    from mlflow.types.schema import ColSpec, ParamSchema, ParamSpec, Schema

    # MLflow would take the first column for an unnamed input, and refuse lists for a named one: the model looks itself
    signature = ModelSignature(
        outputs=Schema([ColSpec("string")]),
        params=ParamSchema([ParamSpec("generation_args", "string", "{}"), ParamSpec("batch_size", "integer", 16)]),
    )
    needs: dict[str, Any] = {}
    if "conda_env" not in options:
        own = _installed("peft") if hasattr(getattr(model, "model", model), "peft_config") else _installed()
        needs["pip_requirements"] = [*(own if pip_requirements is None else pip_requirements)]
        needs["pip_requirements"] += extra_pip_requirements or []
    elif pip_requirements or extra_pip_requirements:
        raise InputError("give the requirements in 'conda_env' or as pip requirements, not both")
    with _placed(model, tokenizer, reference) as place, _no_advice():
        return mlflow.pyfunc.log_model(
            name=name, python_model=str(CODE), **place, **needs, **{"signature": signature, **options}
        )


@contextlib.contextmanager
def _placed(model: Any, tokenizer: Any, reference: bool) -> Iterator[dict[str, Any]]:
    """Where the logged model finds its files, as MLflow's arguments."""
    if not reference:
        with _saved(model, tokenizer) as folder:
            yield {"artifacts": {"model": str(folder)}}
        return
    if not isinstance(model, (str, Path)) or tokenizer is not None:
        raise InputError("reference=True needs the folder or the name that model and tokenizer are loaded from")
    if Path(model).is_dir():
        with _saved(model, None) as folder:
            yield {"model_config": {"reference": str(folder.absolute())}}
        return
    from attriflow.streaming.deciding import model_facts

    commit = model_facts(str(model)).get("model commit", "unknown")
    if commit == "unknown":
        raise InputError(f"there is no folder {model}, and no model of that name on the hub can be reached")
    yield {"model_config": {"reference": str(model), "revision": commit}}


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
        if hasattr(model, "peft_config"):
            _save_adapted(model, Path(temporary))
        else:
            model.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
        yield Path(temporary)


def _save_adapted(model: Any, folder: Path) -> None:
    """A PEFT model as its base, and its adapter in a folder of its own."""
    if not hasattr(model, "get_base_model"):
        raise InputError("cannot log a model with adapters of its own: log the PEFT model, or one whose base is merged")
    active = list(getattr(model, "active_adapters", None) or [model.active_adapter])
    if len(active) != 1 or any(getattr(module, "merged", False) for module in model.modules()):
        raise InputError(
            f"a PEFT model is logged with one active adapter that is not merged, not {active}: call merge_and_unload() "
            "first, which gives an ordinary model"
        )
    base, prefix = model.get_base_model(), getattr(model.base_model, "prefix", None)
    weights = {
        key.replace(".base_layer.", ".").replace(".original_module.", "."): value
        for key, value in base.state_dict().items()
        if ".modules_to_save." not in key and not (prefix and f".{prefix}" in f".{key}")
    }
    base.save_pretrained(folder, state_dict=weights)
    model.save_pretrained(folder / "adapter", selected_adapters=active)
    inner = folder / "adapter" / active[0]
    if inner.is_dir():  # of every adapter but "default"
        inner.rename(folder / "adapter" / "default")
        for file in (folder / "adapter" / "default").iterdir():
            file.rename(folder / "adapter" / file.name)


def _installed(*more: str) -> list[str]:
    """Installed versions, without local parts ("+cpu") that no index knows."""
    wanted = (*REQUIRED, *more)
    return [f"{name}=={found.split('+')[0]}" for name, found in versions(wanted).items() if name in wanted]


@contextlib.contextmanager
def _no_advice() -> Iterator[None]:
    """No advice to add an input example, for which MLflow would load and run the model."""
    with no_artifact_bars(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*input example was not provided.*", category=UserWarning)
        yield

"""From a name, path, Hugging Face object or MLflow URI to a wrapped `LanguageModel`."""

from __future__ import annotations

import inspect
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from attriflow.doors import opened
from attriflow.errors import InputError, UnknownNameError, UnsupportedModelError, reason_of, unknown
from attriflow.kernels import devices
from attriflow.models.base import LanguageModel
from attriflow.models.causal import CausalLM
from attriflow.models.encoder_decoder import EncoderDecoder
from attriflow.models.laying import check_map, lay
from attriflow.models.offload import bring_each
from attriflow.texts.languages import check_languages

MLFLOW_SCHEMES = ("models:", "runs:", "mlflow-artifacts:", "s3:", "gs:", "dbfs:")
_WHERE = ("revision", "token", "trust_remote_code", "cache_dir", "local_files_only", "subfolder")
"""Options of `from_pretrained` that say which files are meant, the configuration among them."""
DTYPES = ("auto", "float64", "float32", "float16", "bfloat16")


def load(
    source: Any,
    tokenizer: Any = None,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    model_kwargs: Mapping[str, Any] | None = None,
    tokenizer_kwargs: Mapping[str, Any] | None = None,
    device_map: str | Mapping[str, Any] | None = None,
    max_memory: Mapping[int | str, int | str] | None = None,
) -> LanguageModel:
    """Load or wrap a model.

    Args:
        source: "demo/recall" or "demo/translate", a local folder, a Hugging Face name, an MLflow model URI or folder,
            or a loaded `PreTrainedModel`.
        tokenizer: A tokenizer, or the name or path of one; the model's own when None.
        device: "cpu", "cuda", "cuda:1", "xpu", "mps", ...: any that torch can make a tensor on; "auto" or None: an
            accelerator when there is one (a model object stays where it is).
        dtype: A torch type or its name; None keeps what the checkpoint says.
        model_kwargs, tokenizer_kwargs: Passed on to `from_pretrained`.
        device_map: How accelerate lays the model over several devices: "auto", ..., or module -> device.
        max_memory: Device -> how much of it that may take.
    """
    wanted_dtype, wanted_device = check_dtype(dtype), check_device(device)
    model_kwargs = dict(model_kwargs or {})
    model_kwargs |= {k: v for k, v in (("device_map", device_map), ("max_memory", max_memory)) if v is not None}
    device_map, max_memory = model_kwargs.get("device_map"), model_kwargs.get("max_memory")
    check_map(device_map, max_memory, wanted_device)
    name, hf, revision = str(source), None, None
    own = sorted(model_kwargs.keys() - {"device_map", "max_memory"})
    if own and (not isinstance(source, (str, os.PathLike)) or is_mlflow_uri(name)):
        raise InputError(
            f"model_kwargs ({', '.join(own)}) are for loading by name or from a folder: this one is loaded"
        )
    if not isinstance(source, (str, os.PathLike)):
        hf, name = source, str(getattr(getattr(source, "config", None), "_name_or_path", "") or type(source).__name__)
    elif is_mlflow_uri(name):
        hf, found = opened("resolve_uri")(name)
        tokenizer = found if tokenizer is None else tokenizer
    else:
        name, hf = _from_pretrained(name, wanted_dtype, dict(model_kwargs))
        revision, device_map = _revision(name, model_kwargs), None  # laid where it was loaded
    tokenizer = _tokenizer(tokenizer, name, dict(tokenizer_kwargs or {}))
    check_languages(tokenizer, tokenizer_kwargs or {})
    if model_kwargs.get("device_map") is None and (hf is not source or wanted_device is not None):
        hf = _move(hf, wanted_device)
    if wanted_dtype is not None and wanted_dtype != "auto" and hf.dtype != wanted_dtype:
        if _offloaded(hf):
            raise InputError(f"{name} is partly offloaded, as {hf.dtype}: pass dtype={dtype!r} where it is loaded")
        hf = hf.to(wanted_dtype)
    if device_map is not None:
        hf = lay(hf, device_map, max_memory)
    return wrap(hf, tokenizer, str(source) if isinstance(source, (str, os.PathLike)) else name, revision)


def is_mlflow_uri(name: str) -> bool:
    """Whether a name is an MLflow model URI or the folder of a logged model."""
    return name.startswith(MLFLOW_SCHEMES) or (Path(name) / "MLmodel").is_file()


def wrap(hf: Any, tokenizer: Any, name: str, revision: str | None = None) -> LanguageModel:
    """The wrapper that fits a Hugging Face model."""
    config = getattr(hf, "config", None)
    if config is None or not hasattr(hf, "generate"):
        raise UnsupportedModelError(
            f"{type(hf).__name__} is not a Hugging Face generation model (a causal LM or an encoder-decoder)"
        )
    if (why := _no_text(hf, bool(getattr(config, "is_encoder_decoder", False)))) is not None:
        raise UnsupportedModelError(f"{type(hf).__name__} does not read text alone: {why}")
    if tokenizer is None or not callable(tokenizer):
        raise UnsupportedModelError("a model object needs its tokenizer: load_model(model, tokenizer=...)")
    bring_each(hf)
    kind = EncoderDecoder if getattr(config, "is_encoder_decoder", False) else CausalLM
    return kind(hf, tokenizer, name, revision)


def _no_text(hf: Any, encoder: bool) -> str | None:
    """Why a model cannot be run on token ids alone; None where it can."""
    parameters = inspect.signature(hf.forward).parameters
    main = str(getattr(hf, "main_input_name", "input_ids"))
    wrapper = any(p.kind is p.VAR_KEYWORD for p in parameters.values())  # may pass them on
    if main != "input_ids" and (encoder or "input_ids" not in parameters):
        return f"its input is {main!r}"
    if "input_ids" not in parameters and not wrapper:
        return "its forward takes no 'input_ids'"
    further = (n for n, p in parameters.items() if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD)
    return next((f"it needs {name!r}, too" for name in further if name != "input_ids"), None)


def check_device(device: str | torch.device | None) -> torch.device | None:
    """A device that exists, or None for "auto"."""
    return None if device is None or device == "auto" else devices.named(device)


def check_dtype(dtype: str | torch.dtype | None) -> torch.dtype | str | None:
    """A floating point type, "auto" or None."""
    if dtype is None or dtype == "auto" or (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
        return dtype
    name = str(dtype).removeprefix("torch.")
    if name not in DTYPES:
        raise UnknownNameError(unknown("dtype", name, DTYPES))
    return getattr(torch, name)


def _from_pretrained(name: str, dtype: torch.dtype | str | None, options: dict[str, Any]) -> tuple[str, Any]:
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM

    if name.startswith("demo/"):
        from attriflow.demo import demo_path

        try:
            name = str(demo_path(name))
        except ValueError as error:
            raise UnknownNameError(str(error)) from error
    if dtype is not None:
        options.setdefault("dtype", dtype)
    try:
        config = AutoConfig.from_pretrained(name, **{k: options[k] for k in _WHERE if k in options})
        auto = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
        return name, auto.from_pretrained(name, **options)
    except Exception as error:
        if not isinstance(error, (OSError, ValueError)) and "device_map" not in options:
            raise
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(f"cannot load the model {name!r}: {first}") from error


def _revision(name: str, options: Mapping[str, Any]) -> str | None:
    """The commit of a model that was loaded from the hub: the folder in the cache where its files lie."""
    from huggingface_hub import try_to_load_from_cache

    if Path(name).exists():
        return None
    place = {k: options[k] for k in ("cache_dir", "revision") if k in options}
    found = try_to_load_from_cache(name, "config.json", **place)
    return Path(found).parent.name if isinstance(found, str) else None


def _tokenizer(tokenizer: Any, name: str, options: dict[str, Any]) -> Any:
    if tokenizer is not None and not isinstance(tokenizer, (str, os.PathLike)):
        return tokenizer
    from transformers import AutoTokenizer

    where = str(tokenizer or name)
    if where.startswith("demo/"):
        from attriflow.demo import demo_path

        where = str(demo_path(where))
    try:
        return AutoTokenizer.from_pretrained(where, **options)
    except Exception as error:  # of any kind: tokenizers take options as they are
        first = reason_of(error)
        raise InputError(f"cannot load a tokenizer for {where!r}: {first}; pass tokenizer=") from error


def _offloaded(hf: Any) -> bool:
    """Whether some weights are placeholders between forwards (see `offload`)."""
    return any(p.is_meta for p in hf.parameters())


def _move(hf: Any, device: torch.device | None) -> Any:
    if getattr(hf, "hf_device_map", None) or getattr(hf, "is_quantized", False) or _offloaded(hf):
        return hf  # placed by accelerate or by the quantiser: moving it would break it
    return hf.to(devices.best() if device is None else device)

"""A Hugging Face generation model as an MLflow model: logged as code, so nothing is pickled.

This file is copied into every logged model and run when it is loaded. It imports nothing of attriflow on purpose: who
serves or loads a logged model needs torch, transformers and mlflow only.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mlflow
import mlflow.models
import mlflow.pyfunc
import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE


class GenerationModel(mlflow.pyfunc.PythonModel):
    """Generates text; `.model` and `.tokenizer` are the Hugging Face objects, loaded when first asked for."""

    def __init__(self) -> None:
        self.folder: Path | str | None = None
        self._place: dict[str, Any] = {}
        self._model: Any = None
        self._tokenizer: Any = None

    def load_context(self, context: Any) -> None:
        """Remember where the files are; weights are read when they are needed."""
        given = context.model_config or {}
        if reference := given.get("reference"):  # logged without a copy: a folder, or a name with its commit
            self.folder = reference
            self._place = {"revision": given["revision"]} if "revision" in given else {"local_files_only": True}
            if "revision" not in given and not Path(reference).is_dir():
                raise _wrong(f"this model was logged by reference to {reference}, which is not there")
        else:
            self.folder, self._place = Path(context.artifacts["model"]), {"local_files_only": True}

    @property
    def model(self) -> Any:
        """The Hugging Face model, on the CPU in the precision it was saved in."""
        if self._model is None:
            from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM

            config = AutoConfig.from_pretrained(self.folder, **self._place)
            auto = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
            model = auto.from_pretrained(self.folder, **self._place, dtype="auto")
            adapter = Path(self.folder or "", "adapter")
            if (adapter / "adapter_config.json").is_file():
                from peft import PeftModel

                model = PeftModel.from_pretrained(model, adapter)
            self._model = model.eval()
        return self._model

    @property
    def tokenizer(self) -> Any:
        """The tokenizer."""
        if self._tokenizer is None:
            from transformers import AutoTokenizer

            self._tokenizer = AutoTokenizer.from_pretrained(self.folder, **self._place)
        return self._tokenizer

    # with this annotation MLflow leaves inputs to the signature; it reads others as schemas, and warns about none
    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> list[str]:
        """Generate a text for each input text.

        Args:
            context: Not used.
            model_input: Texts in the column "input" or the only one; a list of texts or one text will do, too.
            params: "generation_args" (JSON of arguments for `generate`) and "batch_size".
        """
        del context
        texts, given = _texts(model_input), params or {}
        arguments, size = _arguments(given.get("generation_args")), int(given.get("batch_size", 16))
        if size < 1:
            raise _wrong(f"batch_size must be at least 1, not {size}")
        rows = [self.tokenizer(t)["input_ids"] for t in texts]
        if [] in rows:
            raise _wrong(f"row {rows.index([])} has a text without a token: {texts[rows.index([])]!r}")
        # a prompt is never padded: what is generated after it must not depend on the others (positions, max_length)
        alike: dict[int, list[int]] = {}
        for i, row in enumerate(rows):
            alike.setdefault(0 if self.model.config.is_encoder_decoder else len(row), []).append(i)
        out = [""] * len(texts)
        for group in alike.values():
            for k in range(0, len(group), size):
                found = self._generate([rows[i] for i in group[k : k + size]], arguments)
                for i, text in zip(group[k : k + size], found, strict=True):
                    out[i] = text
        return out

    def _generate(self, rows: list[list[int]], arguments: dict[str, Any]) -> list[str]:
        import torch

        model, tokenizer = self.model, self.tokenizer
        width = max(len(r) for r in rows)
        fillers = (tokenizer.pad_token_id, tokenizer.eos_token_id, 0)
        pad = next(int(p) for p in fillers if p is not None)
        ids = [[*r, *[pad] * (width - len(r))] for r in rows]
        mask = [[*[1] * len(r), *[0] * (width - len(r))] for r in rows]
        device = model.get_input_embeddings().weight.device
        options = {"pad_token_id": pad, **arguments}
        config = model.generation_config
        if not {"max_new_tokens", "max_length"} & set(options) and config.max_new_tokens is None:
            options.setdefault("max_new_tokens", 20)
        try:
            with torch.no_grad():
                generated = model.generate(
                    torch.tensor(ids, device=device), attention_mask=torch.tensor(mask, device=device), **options
                )
        except (TypeError, ValueError) as error:
            if not arguments:
                raise
            raise _wrong(f"generate does not take {json.dumps(arguments)}: {' '.join(str(error).split())}") from error
        new = generated if model.config.is_encoder_decoder else generated[:, width:]
        return [t.strip() for t in tokenizer.batch_decode(new, skip_special_tokens=True)]


def _texts(model_input: Any) -> list[str]:
    """Texts of a table, of a mapping of columns, of a list of texts or of rows, or of one text."""
    if isinstance(model_input, dict):  # columns
        one = all(isinstance(v, str) or v is None or not hasattr(v, "__len__") for v in model_input.values())
        model_input = pd.DataFrame([model_input] if one else {k: list(v) for k, v in model_input.items()})
    elif isinstance(model_input, (list, tuple)) and model_input and all(isinstance(r, dict) for r in model_input):
        model_input = pd.DataFrame(list(model_input))
    if isinstance(model_input, pd.DataFrame):
        if "input" not in model_input.columns and len(model_input.columns) != 1:
            found = ", ".join(map(str, model_input.columns))
            raise _wrong(f"expected texts in the column 'input'; there are {found or 'no columns'}")
        model_input = model_input["input" if "input" in model_input.columns else model_input.columns[0]]
    one = isinstance(model_input, str) or not hasattr(model_input, "__len__") or getattr(model_input, "ndim", 1) == 0
    flat = [model_input] if one else model_input
    values = [v.item() if hasattr(v, "item") and getattr(v, "ndim", 0) == 0 else v for v in flat]
    for i, value in enumerate(values):
        if not isinstance(value, str):
            found = "no value" if value is None or value != value else repr(value)
            raise _wrong(f"expected texts, but row {i} has {found}")
    return [str(value) for value in values]


def _arguments(text: str | None) -> dict[str, Any]:
    """Arguments of `generate` from their JSON."""
    try:
        found = json.loads(text or "{}")
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise _wrong(f'generation_args must be a JSON object such as {{"max_new_tokens": 20}}, not {text}')
    return found


def _wrong(what: str) -> MlflowException:
    return MlflowException(what, error_code=INVALID_PARAMETER_VALUE)


mlflow.models.set_model(GenerationModel())

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


class GenerationModel(mlflow.pyfunc.PythonModel):
    """Generates text; `.model` and `.tokenizer` are the Hugging Face objects, loaded when first asked for."""

    def __init__(self) -> None:
        self.folder: Path | None = None
        self._model: Any = None
        self._tokenizer: Any = None

    def load_context(self, context: Any) -> None:
        """Remember where the files are; weights are read when they are needed."""
        self.folder = Path(context.artifacts["model"])

    @property
    def model(self) -> Any:
        """The Hugging Face model, on the CPU in the precision it was saved in."""
        if self._model is None:
            from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM

            config = AutoConfig.from_pretrained(self.folder, local_files_only=True)
            auto = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
            self._model = auto.from_pretrained(self.folder, local_files_only=True, dtype="auto").eval()
        return self._model

    @property
    def tokenizer(self) -> Any:
        """The tokenizer."""
        if self._tokenizer is None:
            from transformers import AutoTokenizer

            self._tokenizer = AutoTokenizer.from_pretrained(self.folder, local_files_only=True)
        return self._tokenizer

    # with this annotation MLflow leaves inputs to the signature; it reads others as schemas, and warns about none
    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> list[str]:
        """Generate a text for each input text.

        Args:
            context: Not used.
            model_input: Texts in the column "input", else in the first; a list of texts or one text will do, too.
            params: "generation_args" (JSON of arguments for `generate`) and "batch_size".
        """
        del context
        texts, given = _texts(model_input), params or {}
        arguments = json.loads(given.get("generation_args") or "{}")
        size = int(given.get("batch_size") or 16)
        rows = [self.tokenizer(t)["input_ids"] for t in texts]
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
        with torch.no_grad():
            generated = model.generate(
                torch.tensor(ids, device=device), attention_mask=torch.tensor(mask, device=device), **options
            )
        new = generated if model.config.is_encoder_decoder else generated[:, width:]
        return [t.strip() for t in tokenizer.batch_decode(new, skip_special_tokens=True)]


def _texts(model_input: Any) -> list[str]:
    if isinstance(model_input, str):
        return [model_input]
    if hasattr(model_input, "columns"):
        column = "input" if "input" in model_input.columns else model_input.columns[0]
        return [str(t) for t in model_input[column]]
    return [str(t) for t in model_input]


mlflow.models.set_model(GenerationModel())

"""Tiny models built on the spot, and MLflow's global state put in order, for the tests that use MLflow."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

WORDS = (
    "the a red blue green big small cat dog bird hat car sat ran flew on under over is was has and or not it "
    "il la rosso blu verde grande piccolo gatto cane uccello"
).split()
SPECIAL = {"pad_token": "<pad>", "unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
VOCABULARY = {word: i for i, word in enumerate([*SPECIAL.values(), *WORDS])}


def word_tokenizer(*, end: bool) -> Any:
    """A tokenizer with one token per whitespace-separated word, and </s> at the end if asked for."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.WordLevel(VOCABULARY, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if end:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="$A </s>", special_tokens=[("</s>", VOCABULARY["</s>"])]
        )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **SPECIAL)


def save(model: Any, tokenizer: Any, folder: Path) -> Path:
    """Make the predictions of a random model far from uniform, and save it."""
    for parameter in model.parameters():
        parameter.data.mul_(4)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def save_causal(folder: Path) -> Path:
    """A random two-layer GPT-2 over words."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=len(VOCABULARY), n_positions=64, n_embd=32, n_layer=2, n_head=2, bos_token_id=2, eos_token_id=3,
        pad_token_id=0,
    )  # fmt: skip
    return save(GPT2LMHeadModel(config), word_tokenizer(end=False), folder)


def save_seq2seq(folder: Path) -> Path:
    """A random BART with one layer per side over words."""
    import torch
    from transformers import BartConfig, BartForConditionalGeneration

    torch.manual_seed(0)
    config = BartConfig(
        vocab_size=len(VOCABULARY), max_position_embeddings=64, d_model=32, encoder_layers=1, decoder_layers=1,
        encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=64, decoder_ffn_dim=64, pad_token_id=0,
        bos_token_id=2, eos_token_id=3, decoder_start_token_id=3, forced_eos_token_id=None,
    )  # fmt: skip
    return save(BartForConditionalGeneration(config), word_tokenizer(end=True), folder)


def hide_mlflow_state() -> None:
    """End runs and forget the active model, which a test may have left behind."""
    import mlflow

    while mlflow.active_run() is not None:
        mlflow.end_run()
    if hasattr(mlflow, "clear_active_model"):
        mlflow.clear_active_model()


def register_evaluator() -> None:
    """Make MLflow know the evaluator where the package is on the path but not installed."""
    from mlflow.models.evaluation import evaluator_registry

    from attriflow.tracking.evaluator import AttributionEvaluator

    registry = evaluator_registry._model_evaluation_registry
    if not registry.is_registered("attriflow"):
        registry.register("attriflow", AttributionEvaluator)


@dataclass(frozen=True)
class LoggedEvaluation:
    """Where an evaluation lies, and what its methods were."""

    uri: str
    run_id: str
    model_uri: str
    methods: tuple[str, ...] = ("occlusion", "random", "saliency")
    examples: int = 2


def log_evaluation(empty_store: Path, model: Path, folder: Path) -> LoggedEvaluation:
    """Evaluate a few methods on a model's folder, in a fresh sqlite store."""
    import mlflow
    import pandas as pd

    import attriflow

    register_evaluator()
    shutil.copy(empty_store, folder / "mlflow.db")
    before, uri = mlflow.get_tracking_uri() if mlflow.is_tracking_uri_set() else "", f"sqlite:///{folder / 'mlflow.db'}"
    mlflow.set_tracking_uri(uri)
    hide_mlflow_state()
    try:
        experiment = mlflow.create_experiment("evaluations", artifact_location=(folder / "mlartifacts").as_uri())
        mlflow.create_experiment("nothing here", artifact_location=(folder / "mlartifacts").as_uri())
        mlflow.set_experiment("evaluations")
        info = attriflow.log_model(model, name="words")
        with mlflow.start_run(run_name="no evaluation", experiment_id=experiment):
            mlflow.log_param("x", 1)
        with mlflow.start_run(run_name="small", experiment_id=experiment) as run:
            mlflow.models.evaluate(
                info.model_uri,
                pd.DataFrame(
                    {
                        "input": ["the red cat", "a big dog"], "target": ["il gatto", "cane"],
                        "rationale": [[[4, 7]], [[2, 5]]],
                    }
                ),
                targets="target", model_type="text-attribution", evaluators="attriflow",
                evaluator_config={
                    "inputs": "input", "rationale": "rationale", "methods": list(LoggedEvaluation.methods),
                    "step_functions": ["probability"], "metrics": ["aopc_compr", "auprc_plau"],
                },
            )  # fmt: skip
    finally:
        hide_mlflow_state()
        mlflow.set_tracking_uri(before)
    return LoggedEvaluation(uri, run.info.run_id, info.model_uri)

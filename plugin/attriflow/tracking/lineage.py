"""Where a model and its data come from: what MLflow knows of them, whatever name they were opened by."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from mlflow.utils.mlflow_tags import MLFLOW_MODEL_VERSIONS

if TYPE_CHECKING:
    import pandas as pd
    from mlflow.data.dataset import Dataset

CONTENT = "attriflow.content"
"""Tag of a logged model: digest of the files it was made of."""


@dataclass(frozen=True)
class Origin:
    """A logged model.

    Attributes:
        model_id: Its id; None where the store does not know it.
        name: The name that it was logged under.
        registered: What it is registered as: "NAME/VERSION".
    """

    model_id: str | None = None
    name: str | None = None
    registered: tuple[str, ...] = ()


def origin_of(model: Any, model_id: str | None) -> Origin:
    """The logged model behind a pyfunc model.

    Args:
        model: The pyfunc model, which carries its id whether it was opened as models:/NAME/1, @ALIAS or runs:/.
        model_id: The id that MLflow derived from the URI, which it cannot for all of these.
    """
    wanted = model_id or getattr(model, "model_id", None)
    if wanted is None:
        return Origin()
    try:
        found = MlflowClient().get_logged_model(wanted)
    except MlflowException:
        if model_id is not None:
            raise
        return Origin()  # of another store
    return Origin(str(found.model_id), str(found.name), tuple(_versions(found.tags)))


def _versions(tags: Mapping[str, str]) -> list[str]:
    try:
        found = json.loads(tags.get(MLFLOW_MODEL_VERSIONS, "[]"))
        return sorted({f"{one['name']}/{one['version']}" for one in found})
    except (ValueError, TypeError, KeyError):
        return []


def dataset_of(
    frame: pd.DataFrame, source: str, split: str = "train", config: str | None = None, targets: str | None = None
) -> Dataset:
    """Rows as MLflow's data set, with the name, the place and the digest of what was read.

    Args:
        frame: The rows.
        source, split, config: See `attriflow.tracking.data.read_data`.
        targets: Column of targets.
    """
    import mlflow.data

    from attriflow.streaming.deciding import digest

    file = next((path for path in (Path(source), Path(source.partition(":")[2])) if path.is_file()), None)
    part = f" {split}" if split != "train" else ""
    name = f"{source if file is None else file.name}{f' {config}' if config else ''}{part}"
    if file is not None:
        from mlflow.data.sources import LocalArtifactDatasetSource

        place = LocalArtifactDatasetSource(str(file.absolute()))
        return mlflow.data.from_pandas(frame, source=place, targets=targets, name=name, digest=digest(file))
    if source.startswith("demo/"):
        return mlflow.data.from_pandas(frame, targets=targets, name=name)
    from mlflow.data.huggingface_dataset_source import HuggingFaceDatasetSource

    hub = HuggingFaceDatasetSource(source, config_name=config, split=split)
    return mlflow.data.from_pandas(frame, source=hub, targets=targets, name=name)


def content_of(model: str) -> str:
    """Digest of a model's files, of its name, and of the code that goes with it; empty where they are not known."""
    from attriflow.streaming.deciding import digest, model_facts
    from attriflow.tracking.log_model import CODE

    facts = model_facts(model)
    if "unknown" in facts.values():
        return ""
    text = json.dumps([model, facts, digest(CODE)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def logged_before(experiment: str, content: str) -> str | None:
    """URI of a model of an experiment that was logged from the same files."""
    try:
        found = MlflowClient().search_logged_models([experiment], f"tags.`{CONTENT}` = '{content}'", max_results=5)
    except MlflowException:  # a store without logged models
        return None
    ready = [model for model in found if str(getattr(model.status, "value", model.status)) == "READY"]
    return str(ready[0].model_uri) if ready else None

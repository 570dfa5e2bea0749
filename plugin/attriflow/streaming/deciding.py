"""What decides a row beside its texts: the model's files and the parts' source, by content.

A name stays the same when what it stands for changes: a folder that was trained again, an alias that was moved to
another version, a function that was edited.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from attriflow.models.loading import is_mlflow_uri
from attriflow.registry import Registry

BLOCK = 1 << 22


def model_facts(name: str, options: Mapping[str, Any] | None = None) -> dict[str, str]:
    """Fact -> value: digests of all files of a model (weights, tokenizer, chat template), or its commit on the hub.

    Args:
        name: What `load_model` takes.
        options: Its `model_kwargs`.
    """
    folder = _folder(name)
    if folder is None:
        return {"model commit": _commit(name, options or {})}
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {f"model file {path.relative_to(folder).as_posix()}": digest(path) for path in files if _counts(path)}


def part_facts(parts: Iterable[tuple[Registry, str]]) -> dict[str, str]:
    """Fact -> what a name stands for, and the digest of the file that it is written in."""
    out = {}
    for registry, name in parts:
        found = registry.info(name)
        source = inspect.getsourcefile(inspect.unwrap(found.obj)) or ""
        text = digest(Path(source)) if Path(source).is_file() else "no file"
        out[f"{registry.kind} {name}"] = f"{found.name}, source {text}"
    return out


def digest(path: Path) -> str:
    """Of a file's content."""
    found = hashlib.blake2b(digest_size=8)
    with path.open("rb") as f:
        while block := f.read(BLOCK):
            found.update(block)
    return found.hexdigest()


def without_secrets(options: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Options that may be written to a file: a token opens what is explained, and does not decide it."""
    return None if options is None else {k: v for k, v in options.items() if "token" not in k.lower().split("_")}


def _folder(name: str) -> Path | None:
    """Where a model's files lie; None for one of the hub."""
    if name.startswith("demo/") and not Path(name).exists():
        from attriflow.demo import demo_path

        return Path(demo_path(name))
    if is_mlflow_uri(name):
        import mlflow.artifacts

        return Path(mlflow.artifacts.download_artifacts(artifact_uri=name))
    return Path(name) if Path(name).is_dir() else None


def _counts(path: Path) -> bool:
    """MLflow writes down when and by whom a model was downloaded; caches are no part of it either."""
    return path.name not in ("registered_model_meta", "MLmodel") and "__pycache__" not in path.parts


def _commit(name: str, options: Mapping[str, Any]) -> str:
    """The commit that a name on the hub stands for now; asks for one small file."""
    from transformers.utils import cached_file

    place = {k: options[k] for k in ("cache_dir", "revision", "token", "local_files_only") if k in options}
    try:
        found = cached_file(name, "config.json", **place)
    except (OSError, ValueError):
        return "unknown"  # loading it will say what is wrong
    return Path(found).parent.name if found else "unknown"

"""Write the test files of tests/data/inseq, with Inseq itself, in an environment that has it.

    python recipes/inseq_files.py tests/data/golden/models tests/data/inseq

Each file is saved by Inseq; `expected.npz` holds the numbers that Inseq reads back from it, `expected.json` its tokens
and positions, and `scripts.json` what the scripts beside them leave. The environment is the one of the benchmarks of
peers (`benchmarks/peers/environments.py`).
"""

from __future__ import annotations

import json
import sys
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

import inseq
import numpy as np
from inseq.commands.attribute_context.attribute_context import AttributeContextArgs, attribute_context_with_model

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "data" / "inseq"))
from scripts import DOCUMENTED, WRITTEN

TEXTS = {"gpt2": ("ki nakol temo", "ki nakol temo pari mitemi"), "bart": ("ki nakol temo", "pari mitemi")}
OTHER = {"gpt2": "ki nakol temo pari kana", "bart": "pari kana"}
QUIET = {"show_progress": False}


def outputs(models: Path):
    """Name of a file -> output, keywords of `save`."""
    gpt2 = inseq.load_model(str(models / "gpt2"), "saliency", device="cpu")
    bart = inseq.load_model(str(models / "bart"), "saliency", device="cpu")
    plain = gpt2.attribute(*TEXTS["gpt2"], step_scores=["probability", "entropy"], **QUIET)
    both = bart.attribute(*TEXTS["bart"], attribute_target=True, step_scores=["probability"], **QUIET)
    yield "plain.json", plain, {}
    yield "aggregated.json", plain.aggregate(), {}
    yield "subwords.json", plain.aggregate().aggregate("subwords", special_chars=("Ġ", "Ċ")), {}
    yield "spans.json", both.aggregate().aggregate("spans", source_spans=(0, 2), target_spans=(1, 3)), {}
    yield "both.json", both, {}
    yield "source.json", bart.attribute(*TEXTS["bart"], **QUIET), {}
    yield "compressed.json.gz", plain, {"compress": True}
    yield "half.json", plain, {"scores_precision": "float16"}
    yield "eighth.json", plain, {"scores_precision": "float8"}
    yield "eighth.json.gz", both, {"scores_precision": "float8", "compress": True}
    yield "lists.json", plain, {"ndarray_compact": False}
    yield "primitives.json", both.aggregate(), {"use_primitives": True}
    yield "attention.json", bart.attribute(*TEXTS["bart"], method="attention", attribute_target=True, **QUIET), {}
    yield "occlusion.json", gpt2.attribute(*TEXTS["gpt2"], method="occlusion", **QUIET), {}
    contrast = {"attributed_fn": "contrast_prob_diff", "step_scores": ["contrast_prob_diff"], **QUIET}
    yield "contrast.json", gpt2.attribute(*TEXTS["gpt2"], contrast_targets=OTHER["gpt2"], **contrast), {}
    yield "steps.json", gpt2.attribute(*TEXTS["gpt2"], output_step_attributions=True, **QUIET), {}
    yield "start.json", bart.attribute(*TEXTS["bart"], attribute_target=True, attr_pos_start=3, **QUIET), {}
    yield "generated.json", gpt2.attribute(TEXTS["gpt2"][0], generation_args={"max_new_tokens": 2}, **QUIET), {}
    yield "step_scores.json", bart.attribute(*TEXTS["bart"], method="dummy", step_scores=["entropy"], **QUIET), {}
    two = [(s, t) for s, t in (TEXTS["bart"], ("nakol", "pari mitemi kana"))]
    pair = bart.attribute(*map(list, zip(*two, strict=True)), attribute_target=True, **QUIET)
    yield "two.json", pair, {}
    yield "split.json", pair, {"split_sequences": True}


def main(models: Path, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    arrays, facts = {}, {}
    for name, out, keywords in outputs(models):
        out.save(folder / name, overwrite=True, **keywords)
        split = keywords.get("split_sequences")
        written = [f"{Path(name).stem}_{i}.json" for i in range(len(out))] if split else [name]
        for file in written:
            if keywords.get("use_primitives") or out.step_attributions:  # which Inseq cannot read back
                read = out
            else:
                read = inseq.FeatureAttributionOutput.load(folder / file, decompress=bool(keywords.get("compress")))
            facts[file] = [of_sequence(f"{file}/{i}", a, arrays) for i, a in enumerate(read.sequence_attributions)]
    np.savez_compressed(folder / "expected.npz", **arrays)
    made = {"made_with": f"inseq {version('inseq')}, transformers {version('transformers')}", "files": facts}
    (folder / "expected.json").write_text(json.dumps(made, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    args = AttributeContextArgs(
        model_name_or_path=str(models / "gpt2"),
        input_context_text="ki nakol kana",
        input_current_text="pari mitemi",
        output_current_text="ki mitemi",
        attributed_fn="contrast_prob_diff",
        attribution_method="saliency",
        context_sensitivity_std_threshold=0.0,
        show_viz=False,
        save_path=str(folder / "context.json"),
    )
    attribute_context_with_model(args, inseq.load_model(str(models / "gpt2"), "saliency", device="cpu"))
    found = {name: left_by(code, models) for name, code in {**DOCUMENTED, **WRITTEN}.items()}
    text = json.dumps(found, separators=(",", ":"), ensure_ascii=False).replace("},", "},\n") + "\n"
    (folder / "scripts.json").write_text(text, encoding="utf-8")


def left_by(code, models):
    """What a script leaves in `result`, or the error that it ends with; tensors as lists, NaN as null."""
    with TemporaryDirectory() as folder:
        given = {"GPT2": str(models / "gpt2"), "BART": str(models / "bart"), "FOLDER": folder}
        try:
            exec(code, given)
        except Exception as error:
            return {"error": f"{type(error).__name__}: {error}".splitlines()[0][:100]}
    return {"result": plain(given["result"])}


def plain(value):
    """As JSON has it."""
    if isinstance(value, dict):
        return {key: plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(one) for one in value]
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    return (None if value != value else float(f"{value:.7g}")) if isinstance(value, float) else value


def of_sequence(name, sequence, arrays):
    """What Inseq says of one sequence; its numbers go into `arrays`."""
    for field in ("source_attributions", "target_attributions"):
        if getattr(sequence, field) is not None:
            arrays[f"{name}/{field}"] = getattr(sequence, field).numpy()
    for kind in ("step_scores", "sequence_scores"):
        for key, values in (getattr(sequence, kind) or {}).items():
            arrays[f"{name}/{kind}/{key}"] = values.numpy()
    return {
        "source": [[t.token, t.id] for t in sequence.source],
        "target": [[t.token, t.id] for t in sequence.target],
        "attr_pos_start": sequence.attr_pos_start,
        "attr_pos_end": sequence.attr_pos_end,
    }


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))

"""Whatever is malformed, a call works or says in one line what is wrong: no stranger's error, nothing left behind."""

from __future__ import annotations

import contextlib
import functools
import io
import json
import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from hypothesis import strategies as st
from odd import NEAR, OUTCOMES, TEXTS, VALUES, alone, changed, damaged, fuzzed, told

import attriflow
from attriflow.cli import main
from attriflow.registry import methods

FILES = [".json", ".jsonl", ".parquet", ".safetensors"]


@functools.cache
def recall() -> Any:
    return attriflow.load_model("demo/recall", device="cpu")


@functools.cache
def saved(suffix: str) -> bytes:
    """A file with two attributions."""
    out = recall().attribute(["the red hat", "a"], method="saliency", step_scores=["entropy"], show_progress=False)
    with tempfile.TemporaryDirectory() as folder:
        return out.save(Path(folder) / f"a{suffix}").read_bytes()


def written(content: bytes, name: str, work: Any) -> Any:
    """Work on a file, beside which nothing may be left."""
    with tempfile.TemporaryDirectory() as folder, alone(Path(folder)) as listing:
        path = Path(folder) / name
        path.write_bytes(content)
        found = told(lambda: work(path))
        assert listing() == {name}
        return found


def command(arguments: list[Any], files: dict[str, bytes]) -> int:
    """Exit code of a command in a folder with files: 0, or 1 or 2 with one line and nothing written."""
    out, err = io.StringIO(), io.StringIO()
    with tempfile.TemporaryDirectory() as folder, alone(Path(folder)) as listing:
        for name, content in files.items():
            Path(name).write_bytes(content)
        code: Any = 0
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                main([str(a).replace("\x00", "") for a in arguments])
            except SystemExit as stop:
                code = stop.code or 0
        text = err.getvalue()
        assert code in (0, 1, 2), text
        OUTCOMES[not code] += 1
        assert "Traceback" not in text and "--debug shows where" not in text, text
        if code:
            lines = [line for line in text.splitlines() if line.startswith("error: ")]
            assert len(lines) == 1 or (code == 1 and arguments[0] == "check"), text
            assert listing() == set(files), listing()
        return int(code)


# -- files with attributions ------------------------------------------------------------------------------------------


@fuzzed(12, 400, st.sampled_from(FILES).flatmap(lambda s: st.tuples(st.just(s), damaged(saved(s)))))
def test_damaged_files(file: tuple[str, bytes]) -> None:
    written(file[1], f"a{file[0]}", attriflow.load)


@fuzzed(12, 400, st.deferred(lambda: changed(json.loads(saved(".json")))))
def test_json_files_with_something_else_in_them(document: Any) -> None:
    text = json.dumps(document).encode()
    found = written(text, "a.json", attriflow.load)
    if found:
        told(lambda: found.aggregate("scores"))
    written(json.dumps(document.get("attributions") if isinstance(document, dict) else document).encode(), "a.jsonl",
            attriflow.load)  # fmt: skip


@fuzzed(6, 150, st.deferred(lambda: changed(json.loads(saved(".json"))["attributions"][0])), st.sampled_from(FILES[2:]))
def test_other_formats_with_something_else_in_them(record: Any, suffix: str) -> None:
    """What JSON's reader lets through, the writers of the other formats write or refuse."""

    def there_and_back(path: Path) -> None:
        found = attriflow.load(path)
        other = path.with_suffix(suffix)
        try:
            found.save(other)
            attriflow.load(other)
        finally:
            other.unlink(missing_ok=True)

    document = {"format": 2, "run": None, "attributions": [record]}
    written(json.dumps(document).encode(), "a.json", there_and_back)


@functools.cache
def context() -> Any:
    """A file with context reliance."""
    from attriflow.context import attribute_context

    texts = {"input_current_text": "the hat is", "input_context_text": "a red hat", "output_current_text": "red"}
    found = attribute_context(recall(), **texts, attribution_method="saliency", show_progress=False)
    with tempfile.TemporaryDirectory() as folder:
        return json.loads(found.save(Path(folder) / "c.json").read_bytes())


@fuzzed(6, 150, st.deferred(lambda: changed(context())))
def test_files_with_context_reliance(document: Any) -> None:
    from attriflow.context import load

    def use(path: Path) -> None:
        for item in load(path):
            item.pairs()

    written(json.dumps(document).encode(), "c.json", use)


@fuzzed(4, 40, st.deferred(lambda: changed(json.loads(saved(".json")))), st.sampled_from(["show", "convert"]))
def test_commands_on_files(document: Any, name: str) -> None:
    more = ["b.html"] if name == "convert" else []
    command([name, "a.json", *more], {"a.json": json.dumps(document).encode()})


# -- what users write -------------------------------------------------------------------------------------------------

RULES = {
    "max_slowdown": 1.5, "slack": 0.5, "max_drop": 0.01, "level": 0.05, "missing": "fail", "coverage": 0.9,
    "model": "same", "metrics": {"aopc_compr": {"max_drop": 0.1, "min_value": 0.0}},
    "overrides": [{"match": ["*lime*"], "max_slowdown": 2.0}],
}  # fmt: skip


@fuzzed(10, 300, changed(RULES), st.booleans())
def test_rules(rules: Any, as_json: bool) -> None:
    from attriflow.regression.rules import Rules

    text = json.dumps(rules) if as_json else yaml.safe_dump(rules, allow_unicode=True)

    def use(path: Path) -> None:
        found = Rules.read(path)
        found.speed("lime"), found.quality("lime", "aopc_compr", True)

    written(text.encode("utf-8", "replace"), "rules.yaml", use)


CONFIG = {
    "inputs": "input", "methods": ["saliency", "occlusion"], "method_options": {"occlusion": {"baseline": "pad"}},
    "metrics": ["aopc_compr"], "metric_options": {}, "step_functions": ["entropy"], "attributed_fn": "probability",
    "attributed_fn_args": {}, "generation_args": {"max_new_tokens": 3}, "batch_size": 2, "seed": 0, "device": "cpu",
    "report_examples": 2, "throughput": False, "rationale": None,
}  # fmt: skip


@fuzzed(10, 300, changed(CONFIG))
def test_settings_of_evaluations(config: Any) -> None:
    from attriflow.evaluation.config import EvaluationConfig

    told(
        lambda: EvaluationConfig.from_dict(
            config, columns=["input", "rationale"], text_columns=["input"], targets="target"
        )
    )


OPTIONS = {
    "method": "occlusion", "attributed_fn": "probability", "step_scores": ["entropy"], "attribute_target": False,
    "attr_pos_start": None, "attr_pos_end": 5, "generation_args": {"max_new_tokens": 2}, "batch_size": 1, "seed": 0,
    "attributed_fn_args": {}, "step_scores_args": {}, "contrast_targets": None, "granular": False, "baseline": "unk",
}  # fmt: skip


RIGHT = st.sampled_from(["the red hat", ["the red hat", "a blue"]])
WRONG = st.one_of(TEXTS, st.lists(TEXTS, max_size=2), VALUES)


@fuzzed(8, 200, st.one_of(RIGHT, RIGHT, WRONG), st.one_of(st.none(), st.none(), TEXTS), changed(OPTIONS))
def test_attribute(texts: Any, targets: Any, options: Any) -> None:
    keywords = options if isinstance(options, dict) else {"method": options}
    told(lambda: recall().attribute(texts, targets, **{**keywords, "show_progress": False}))


OWN = [(name, option) for name in methods.names() for option in methods.info(name).options]


@fuzzed(8, 200, st.sampled_from(OWN), st.one_of(NEAR, NEAR, VALUES))
def test_options_of_methods(option: tuple[str, str], value: Any) -> None:
    if isinstance(value, int) and value > 10:  # a number of samples, which takes long
        value = 10
    method, name = option
    texts = "the red hat", "the red hat is"
    told(lambda: recall().attribute(*texts, method=method, show_progress=False, **{name: value}))


@fuzzed(5, 60, st.sampled_from([
    ["-a", "occlusion"], ["-fn"], ["--step-scores"], ["--attribution-kwargs"], ["--method-option"], ["-s"], ["-e"],
    ["--generation-kwargs"], ["-bs"], ["--seed"], ["--attribution-aggregators"], ["--dtype"], ["--device"],
    ["--device-map"], ["--tokenizer-kwargs"], ["-g"], ["--contrast-targets"], ["--config"], ["-o"],
]), st.one_of(TEXTS, VALUES.map(lambda v: json.dumps(v))))  # fmt: skip
def test_options_of_commands(option: list[str], value: str) -> None:
    value = value.replace("/", "_") if option == ["-o"] else value
    given = ["attribute", "-m", "demo/recall", "-i", "the red hat", "--hide", *option, value]
    command(given, {"in.csv": b"input\nx\n"})


# -- data -------------------------------------------------------------------------------------------------------------

CSV = b'input,target\nthe red hat,blue\n"a, b","x\ny"\n'
JSONL = b'{"input": "the red hat", "target": "blue"}\n{"input": "a", "target": null}\n'


@functools.cache
def parquet() -> bytes:
    out = io.BytesIO()
    pq.write_table(pa.table({"input": ["the red hat", "a"], "target": ["blue", None]}), out)
    return out.getvalue()


SOURCES = [("d.csv", CSV), ("d.jsonl", JSONL), ("d.json", b"[" + JSONL.replace(b"\n{", b",{") + b"]")]
DAMAGED = st.sampled_from([*SOURCES, ("d.parquet", parquet())]).flatmap(
    lambda f: st.tuples(st.just(f[0]), damaged(f[1]))
)


@fuzzed(8, 250, DAMAGED, st.sampled_from(["train", "train[:1]", "test", "train[", ""]))
def test_data_files(file: tuple[str, bytes], split: str) -> None:
    from attriflow.datasets.opening import open_dataset

    written(file[1], file[0], lambda path: list(open_dataset(str(path), split=split).read()))


BENCHMARKS = {
    "machine_info": {"cpu": {"count": 2}, "node": "x"},
    "benchmarks": [
        {
            "name": "a", "fullname": "t::a",
            "extra_info": {"forward_equivalents": 2.0, "forward_equivalents_rounds": [2.0, 2.5]},
        }
    ],
}  # fmt: skip


@fuzzed(6, 60, changed(BENCHMARKS))
def test_benchmarks_to_check(document: Any) -> None:
    files = {"a.json": json.dumps(BENCHMARKS).encode(), "b.json": json.dumps(document).encode()}
    code = command(["check", "--baseline", "a.json", "--current", "b.json"], files)
    assert code in (0, 1, 2)


# -- the app ----------------------------------------------------------------------------------------------------------

ASKED = {
    "text": "the red hat", "methods": ["occlusion"], "attributed_fn": "probability", "step_scores": ["entropy"],
    "generated_text": "blue", "contrast_target": "", "contrast_source": "", "max_new_tokens": 2, "seed": 0,
    "options": "",
}  # fmt: skip


@fuzzed(5, 100, changed(ASKED))
def test_requests_of_the_app(asked: Any) -> None:
    from attriflow.app.explaining import Request, explain
    from attriflow.app.models import Models

    class Kept(Models):
        def get(self, name: str | None) -> Any:
            return recall()

    given = asked if isinstance(asked, dict) else {"text": asked}
    known = {k: v for k, v in {**ASKED, **given}.items() if k in ASKED}
    told(lambda: explain(Kept(), Request(model="demo/recall", **known)))

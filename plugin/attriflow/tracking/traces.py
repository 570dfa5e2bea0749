"""One MLflow trace per example of an evaluation: what was done for it, how long that took, and what it is worth.

Evaluations work on blocks of examples, so nobody knows how long one example took: a span lasts as long as the example's
equal share of its block, and says how long the block took and of how many examples it is a share. Spans are laid end to
end from the moment at which the evaluation began to read its rows, and a millisecond later for each row before the
example's: lists that are sorted by time are sorted by row.

A trace is a plain value first, which can be kept while a server is away, with ids made of the run and the example: what
is logged again replaces itself.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from attriflow.errors import InputError
from attriflow.evaluation.preparing import STEPS
from attriflow.evaluation.reexplaining import spread
from attriflow.evaluation.results import MethodResult
from attriflow.evaluation.scoring import CHANGED
from attriflow.evaluation.work import unit_of
from attriflow.texts.chats import text_of_chat
from attriflow.tracking.examples import written

if TYPE_CHECKING:
    from mlflow.entities import Span, TraceInfo

    from attriflow.evaluation.runner import Evaluation

AT_ONCE = 16
"""Traces whose spans are one request."""
PREVIEW, LONGEST_NAME = 1000, 250
TIMES = (
    "Shares: what ran for a block of examples at once counts for each of them with an equal part, and parts are laid "
    "end to end. A span says when its block began, how many seconds it took, and for how many examples."
)
Plain = dict[str, Any]


def batches(
    evaluation: Evaluation, found: Mapping[str, Sequence[str]], place: str
) -> Iterator[tuple[str, list[Plain]]]:
    """Traces of an evaluation that is done, some at a time, each with the name of a unit.

    Args:
        evaluation: All of it is known; its work has records.
        found: Method -> `evidence` of every example.
        place: What tells the evaluation from all others.
    """
    wanted, n = evaluation.config.traces, len(evaluation.examples)
    chosen = spread(n, None if wanted is True else int(wanted))
    tracer = _Tracer(evaluation, found, place)
    for number, begin in enumerate(range(0, len(chosen), AT_ONCE)):
        yield (
            unit_of("logged traces", str(len(chosen)), number),
            [tracer.trace(i) for i in chosen[begin : begin + AT_ONCE]],
        )


class _Tracer:
    """Describes traces; the records of one block are held."""

    def __init__(self, evaluation: Evaluation, found: Mapping[str, Sequence[str]], place: str) -> None:
        self.evaluation, self.found, self.place = evaluation, found, place
        again = {r.name: self._record(unit_of("again", r.name)).get("spent", {}) for r in evaluation.results}
        self.again = {name: spent for name, spent in again.items() if spent}
        self.sample = set(spread(len(evaluation.examples), evaluation.config.reexplain_examples))
        self._block = -1
        self._records: dict[str, tuple[Mapping[str, Any], Mapping[str, Any]]] = {}

    def _record(self, unit: str) -> Mapping[str, Any]:
        return self.evaluation.work.record(unit) if unit in self.evaluation.work else {}

    def _of_block(self, method: str, example: int) -> tuple[Mapping[str, Any], Mapping[str, Any], int]:
        """What a method's units of the example's block noted, and the block's size."""
        blocks = self.evaluation.blocks
        number = next(k for k, block in enumerate(blocks) if example in block)
        if number != self._block:
            self._block, self._records = number, {}
        if method not in self._records:
            explained = self._record(unit_of("explain", method, number))
            scored = self._record(unit_of("score", method, number))
            self._records[method] = explained, scored.get("spent", {})
        return *self._records[method], len(blocks[number])

    def trace(self, i: int) -> Plain:
        """The trace of an example."""
        evaluation = self.evaluation
        data, example, took = evaluation.data, evaluation.examples[i], evaluation.prepared
        number, given, n = data.numbers[i], data.inputs[i], len(evaluation.examples)
        request = {"input": given if isinstance(given, str) else text_of_chat(given)}
        wrote = {"generated": written(example)} if data.targets is None else {"target": data.targets[i]}
        spans = _Spans(_hash(f"{self.place}/{number}", 16), took["began"] + number / 1e3)
        root = spans.open(f"example {number}", "CHAIN", request, {"attriflow.times": TIMES, "attriflow.row": number})
        sizes = {"input tokens": len(example.inputs(evaluation.config.attribute_target)), "steps": example.n_steps}
        spans.add("encode", "PARSER", root, took["encode"], n, inputs=request, outputs={**wrote, **sizes})
        steps = {s.name: _mean(s.values[i]) for s in evaluation.step_scores if i < len(s.values)}
        spans.add("step functions", "TASK", root, took[STEPS], n, outputs=steps)
        for result in evaluation.results:
            self._add_method(spans, root, result, i)
        spans.close(root, wrote)
        # as the columns of the table of examples; MLflow's pages show what follows the last "/" of a name
        feedback = [
            {"name": f"{r.name}: {metric}"[:LONGEST_NAME], "value": mean, "rationale": _reasons(values[i].skipped)}
            for r in evaluation.results
            for metric, values in r.values.items()
            if i < len(values) and (mean := values[i].mean) is not None
        ]
        return {"id": spans.trace, "row": number, "spans": spans.spans, "feedback": feedback}

    def _add_method(self, spans: _Spans, root: Plain, result: MethodResult, i: int) -> None:
        method = spans.open(result.name, "TASK", None, {"attriflow.family": result.family}, root)
        if not result.ok:
            method["error"] = result.reason
            spans.close(method)
            return
        explained, spent, size = self._of_block(result.name, i)
        named = self.found.get(result.name, ())
        evidence = {"evidence": named[i]} if i < len(named) else {}
        seconds = explained.get("cost", {}).get("seconds", 0.0)
        spans.add("explain", "TASK", method, seconds, size, began=explained.get("began"), outputs=evidence)
        again = self.again.get(result.name, {}) if i in self.sample else {}
        if CHANGED in spent:
            spans.add(CHANGED, "LLM", method, spent[CHANGED], size)
        if CHANGED in again:
            spans.add(f"{CHANGED}, explained again", "LLM", method, again[CHANGED], len(self.sample))
        for metric, values in result.values.items():
            value = values[i]
            outputs = {"value": value.mean, **({"without a value": why} if (why := _reasons(value.skipped)) else {})}
            took, of = (again[metric], len(self.sample)) if metric in again else (spent.get(metric, 0.0), size)
            spans.add(metric, "EVALUATOR", method, took, of, outputs=outputs)
        spans.close(method, evidence)


class _Spans:
    """Spans of one trace, laid end to end."""

    def __init__(self, trace: str, began: float) -> None:
        self.trace, self.now, self.spans = trace, int(began * 1e9), list[Plain]()

    def open(self, name: str, kind: str, inputs: Any, about: Mapping[str, Any], parent: Plain | None = None) -> Plain:
        """A span around others."""
        span = {
            "id": _hash(f"{self.trace}/{len(self.spans)}", 8),
            "parent": None if parent is None else parent["id"],
            "name": name,
            "kind": kind,
            "start": self.now,
            "end": self.now,
            "inputs": inputs,
            "outputs": None,
            "about": dict(about),
            "error": "",
        }
        self.spans.append(span)
        return span

    def close(self, span: Plain, outputs: Any = None) -> None:
        """It ends where the last one did."""
        span["end"], span["outputs"] = self.now, outputs

    def add(
        self,
        name: str,
        kind: str,
        parent: Plain,
        seconds: float,
        examples: int,
        *,
        began: float | None = None,
        inputs: Any = None,
        outputs: Any = None,
    ) -> None:
        """The share of one of `examples` in what took so long."""
        about: Plain = {"attriflow.block.examples": examples, "attriflow.block.seconds": round(seconds, 6)}
        if began is not None:
            about["attriflow.block.began"] = datetime.fromtimestamp(began, timezone.utc).isoformat()
        span = self.open(name, kind, inputs, about, parent)
        self.now += int(seconds / max(1, examples) * 1e9)
        self.close(span, outputs)


def _hash(text: str, size: int) -> str:
    return hashlib.blake2b(text.encode(), digest_size=size).hexdigest()


def _mean(values: Sequence[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return sum(known) / len(known) if known else None


def _reasons(skipped: Mapping[int, str]) -> str:
    """Why steps have no value: "3 of them: reason"."""
    counts: dict[str, int] = {}
    for reason in skipped.values():
        counts[reason] = counts.get(reason, 0) + 1
    return "; ".join(f"{n} step{'s' * (n > 1)}: {reason}" for reason, n in counts.items())


# -- to a store -------------------------------------------------------------------------------------------------------


def log_traces(uri: str, traces: Sequence[Plain], experiment: str, run: str, model: str | None = None) -> None:
    """Log traces to a store: one request for each with its feedback, one for the spans of all.

    `mlflow.start_span` would take what the user has set for traces of his own: whether, where to and how many.

    Args:
        uri: The store.
        traces: As `batches` gives them.
        experiment, run, model: What they belong to, by id.
    """
    import mlflow
    from mlflow.tracing.client import TracingClient

    client = TracingClient(uri)
    if hasattr(client, "start_trace_v3"):  # the first stores of MLflow 3 take no whole traces
        raise InputError(f"MLflow {mlflow.__version__} takes no traces that are done: they need a later one")
    made, spans = list[Any](), dict[str, Any]()
    for trace in traces:
        info = _info(trace, experiment, run, model)
        spans[info.trace_id] = [_span(span, trace["id"], info.trace_id) for span in trace["spans"]]
        made.append(client.start_trace(info))
    try:
        client.log_spans(experiment, [span for found in spans.values() for span in found])
    except (NotImplementedError, AttributeError):  # stores in files, servers before 3.4
        for info in made:
            _upload(info, spans[info.trace_id])


def _info(trace: Plain, experiment: str, run: str, model: str | None) -> TraceInfo:
    from mlflow.entities import AssessmentSource, Feedback, TraceInfo, TraceLocation, TraceState
    from mlflow.tracing.constant import (
        TRACE_SCHEMA_VERSION,
        TRACE_SCHEMA_VERSION_KEY,
        AssessmentMetadataKey,
        TraceMetadataKey,
        TraceTagKey,
    )

    root, known = trace["spans"][0], f"tr-{trace['id']}"
    source, now = AssessmentSource("CODE", "attriflow"), root["end"] // 10**6
    feedback = [
        Feedback(
            name=one["name"],
            value=one["value"],
            rationale=one["rationale"] or None,
            source=source,
            trace_id=known,
            metadata={AssessmentMetadataKey.SOURCE_RUN_ID: run},
            create_time_ms=now,
            last_update_time_ms=now,
        )
        for one in trace["feedback"]
    ]
    for one in feedback:
        one.assessment_id = f"a-{_hash(f'{known}/{one.name}', 16)}"
    return TraceInfo(
        trace_id=known,
        trace_location=TraceLocation.from_experiment_id(experiment),
        request_time=root["start"] // 10**6,
        execution_duration=(root["end"] - root["start"]) // 10**6,
        state=TraceState.OK,
        request_preview=str(root["inputs"]["input"])[:PREVIEW],
        response_preview=str(next(iter(root["outputs"].values())))[:PREVIEW],
        trace_metadata={
            TraceMetadataKey.SOURCE_RUN: run,
            **({} if model is None else {TraceMetadataKey.MODEL_ID: model}),
            TRACE_SCHEMA_VERSION_KEY: str(TRACE_SCHEMA_VERSION),
        },
        tags={TraceTagKey.TRACE_NAME: root["name"], "attriflow.row": str(trace["row"])},
        assessments=feedback,
    )


def _span(span: Plain, trace: str, known: str) -> Span:
    from mlflow.entities import Span
    from mlflow.tracing.constant import SpanAttributeKey
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.trace import SpanContext, Status, StatusCode

    def context(span_id: str) -> SpanContext:
        return SpanContext(int(trace, 16), int(span_id, 16), is_remote=False)

    values = {
        SpanAttributeKey.REQUEST_ID: known,
        SpanAttributeKey.SPAN_TYPE: span["kind"],
        SpanAttributeKey.INPUTS: span["inputs"],
        SpanAttributeKey.OUTPUTS: span["outputs"],
        **span["about"],
    }
    return Span(
        ReadableSpan(
            name=span["name"],
            context=context(span["id"]),
            parent=context(span["parent"]) if span["parent"] else None,
            resource=Resource.get_empty(),
            attributes={key: _text(value) for key, value in values.items() if value is not None},
            status=Status(StatusCode.ERROR, span["error"]) if span["error"] else Status(StatusCode.OK),
            start_time=span["start"],
            end_time=span["end"],
        )
    )


def _upload(info: TraceInfo, spans: Sequence[Span]) -> None:
    """The spans of a trace as a file beside it."""
    from mlflow.entities import TraceData
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
    from mlflow.tracing.utils.artifact_utils import get_artifact_uri_for_trace

    text = json.dumps(TraceData(spans=list(spans)).to_dict(), ensure_ascii=False)
    get_artifact_repository(get_artifact_uri_for_trace(info)).upload_trace_data(text)


def _text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)

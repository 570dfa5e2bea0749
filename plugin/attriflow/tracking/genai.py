"""Scorers for `mlflow.genai.evaluate`: does the evidence that a method names for a generation matter to the model?

`evidence` explains every output with an attribution method and judges the explanation with attriflow's metrics, by the
same code as the evaluator plugin, so the numbers are the same. The rationale of each feedback names the strongest
tokens.
"""

from __future__ import annotations

import copy
import functools
import json
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from attriflow.errors import AttriflowError, InputError
from attriflow.evaluation.config import EvaluationConfig
from attriflow.evaluation.data import EvaluationData, evidence_in, reply_of
from attriflow.evaluation.planning import say, unsaid
from attriflow.evaluation.results import MethodResult
from attriflow.evaluation.runner import Evaluation
from attriflow.registry import metrics as registry
from attriflow.texts.chats import Chat, of_cell

if TYPE_CHECKING:
    from mlflow.genai.scorers import Scorer

    from attriflow.model import AttributionModel
    from attriflow.types import Attribution

Text = str | Callable[[Any], Any] | None
"""Where a text or chat is: a key, a function of the whole, or None for "messages" or the only text there."""


def evidence(
    model: AttributionModel | str,
    *,
    method: str = "integrated_gradients",
    metrics: str | Sequence[str] = ("aopc_compr", "aopc_suff"),
    name: str | None = None,
    prompt: Text = None,
    answer: Text = None,
    top: int = 3,
    attributed_fn: str = "probability",
    target_spans: Any = None,
    span_value: str = "sum",
    method_options: Mapping[str, Any] | None = None,
    metric_options: Mapping[str, Mapping[str, Any]] | None = None,
    batch_size: int | None = None,
    seed: int = 0,
) -> Scorer:
    """A scorer of the explanations of generations.

    Args:
        model: The model that wrote the outputs, as `attriflow.load_model` returns it; or its name, folder or address
            ("models:/NAME/1"), from which it is loaded when the first output is scored: such a scorer can be
            registered.
        method: Attribution method that names the evidence.
        metrics: Metrics that judge it. Those that compare with a rationale read `expectations["rationale"]` of a row
            (character spans in the prompt, see `attriflow.evaluation.rationale`; of a chat, in the contents of its
            messages with a line break after each).
        name: Name of the scorer; each metric's feedback is called "<name>/<metric>". The method's name by default.
        prompt, answer: The texts in a row's `inputs` and `outputs`: a key, a function, or None for the only text. The
            prompt may be a chat, by default `inputs["messages"]`; an output may be a message, or a response that has
            it.
        top: Tokens named in the rationale of a feedback for each generated token.
        attributed_fn: Step function whose value is explained.
        target_spans, span_value: Explain spans of the output ("all", "sentence", ...), see `EvaluationConfig`.
        method_options: Options of the method.
        metric_options: Metric -> options.
        batch_size: Sequences per forward pass; None lets the engine choose.
        seed: For methods that draw random numbers.

    Returns:
        A scorer that gives one feedback per metric: the mean over the generated tokens, with the number of tokens
        behind it and the skipped ones as metadata.

    Raises:
        AttriflowError: A name or option is wrong; nothing has been computed then.
    """
    given = {**locals(), "metrics": metrics if isinstance(metrics, str) else list(metrics)}
    make, feedback = _mlflow()
    told = threading.Lock()
    settings = {
        "methods": [method],
        "metrics": [metrics] if isinstance(metrics, str) else list(metrics),
        "step_functions": [],
        "attributed_fn": attributed_fn,
        "target_spans": target_spans,
        "span_value": span_value,
        "method_options": {method: dict(method_options)} if method_options else {},
        "metric_options": metric_options or {},
        "batch_size": batch_size or "auto",
        "rationale": "rationale",
        "throughput": False,
        "fail_fast": True,
        "seed": seed,
    }
    config = EvaluationConfig.from_dict(settings, columns=["input", "rationale"], targets="answer")
    if top < 0:
        raise InputError(f"top must be at least 0, not {top}")
    label = name or config.methods[0]
    own = _opened(model, config)

    def score(inputs: Any, outputs: Any, expectations: Any) -> list[Any]:
        text, generated = _given(inputs, prompt), _reply(outputs, answer)
        found = expectations.get("rationale") if isinstance(expectations, Mapping) else None
        rationale = evidence_in(text, found, "expectations['rationale']")
        data = EvaluationData(inputs=(text,), targets=(generated,), rationales=(rationale,))
        if told.acquire(blocking=False):  # never released: one line per scorer, not per row
            say(f"{label}: {config.methods[0]} explains every output, judged by {', '.join(config.metrics)}")
        result = _evaluated(own(), data, config)
        why = _strongest(result.attributions[0], top)
        return [_feedback(feedback, label, metric, result, why) for metric in config.metrics]

    return make(label, score, given)


_building = threading.Lock()


def registered(settings: str) -> Scorer:
    """The scorer of a registration: one for each `settings`, the arguments of `evidence` as JSON."""
    with _building:  # MLflow calls scorers in threads; one model is enough
        return _built(settings)


@functools.lru_cache(maxsize=4)
def _built(settings: str) -> Scorer:
    return evidence(**json.loads(settings))


def generator(model: AttributionModel, *, prompt: Text = None, **generation_args: Any) -> Callable[..., str]:
    """A `predict_fn` for `mlflow.genai.evaluate` that generates with a model.

    Args:
        model: As `attriflow.load_model` returns it.
        prompt: The text or chat in a row's inputs: a key, a function, or None for "messages" or the only text.
        **generation_args: Arguments of `generate`, such as `max_new_tokens`.
    """

    def predict(**inputs: Any) -> str:
        (example,) = model.encode([_given(inputs, prompt)], generation_args=generation_args)
        spans = [(t.start, t.end) for t in example.target[example.start :] if not t.special and t.start is not None]
        return example.target_text[spans[0][0] : spans[-1][1]].strip() if spans else ""

    return predict


def _mlflow() -> tuple[Any, Any]:
    try:
        from mlflow.entities import Feedback

        from attriflow.tracking.scorer import Evidence
    except ImportError as error:
        raise AttriflowError(f"this version of MLflow has no scorers for mlflow.genai: {error}") from error
    return Evidence.of, Feedback


def _opened(model: AttributionModel | str, config: EvaluationConfig) -> Callable[[], AttributionModel]:
    """Gives the scorer's own model; one that has a name only is loaded when it is first asked for."""
    if not isinstance(model, str):
        apart = _apart(model, config)
        return lambda: apart
    name, lock = model, threading.Lock()

    @functools.cache
    def load() -> AttributionModel:
        from attriflow.model import load_model

        return load_model(name)

    def locked() -> AttributionModel:
        with lock:
            return load()

    return locked


def _apart(model: AttributionModel, config: EvaluationConfig) -> AttributionModel:
    """The model with modules of its own, which share the weights.

    Methods change modules while they run (hooks, attention, mode); a `predict_fn` that generates with the same model in
    another thread knows of no lock. Metrics that explain again change weights, too: with them, the model is the same.
    """
    from attriflow.model import load_model

    if any("reexplain" in registry.info(name).meta["needs"] for name in config.metrics):
        return model
    hf = model.model
    shared = {id(tensor): tensor for tensor in (*hf.parameters(), *hf.buffers())}
    try:
        own = load_model(copy.deepcopy(hf, shared), tokenizer=model.tokenizer)
    except Exception:  # modules that cannot be copied
        return model
    own.wrapped.name, own.wrapped.revision = model.wrapped.name, model.wrapped.revision
    return own


def _given(inputs: Any, where: Text) -> str | Chat:
    """The text or chat of a row's inputs."""
    whole = where is None and isinstance(inputs, Mapping) and "messages" in inputs
    return of_cell("the prompt in inputs", inputs if whole else _found(inputs, where, "inputs"))


def _reply(outputs: Any, where: Text) -> str:
    """The text of a row's outputs."""
    if where is None and isinstance(outputs, Mapping):
        choices = outputs.get("choices")  # as chat models answer
        outputs = choices[0].get("message") if choices and isinstance(choices[0], Mapping) else outputs
    message = where is None and isinstance(outputs, Mapping) and not {"role", "messages"}.isdisjoint(outputs)
    return reply_of("the answer in outputs", outputs if message else _found(outputs, where, "outputs"))


def _found(value: Any, where: Text, what: str) -> Any:
    """What is meant of a row's inputs or outputs."""
    if callable(where):
        return where(value)
    if not isinstance(value, Mapping):
        return value
    if where is None:
        texts = [v for v in value.values() if isinstance(v, str)]
        if len(texts) != 1:
            raise InputError(f"{what} has {len(texts)} texts; name the one that is meant: {', '.join(value)}")
        return texts[0]
    if where not in value:
        raise InputError(f"no '{where}' in {what}; there are {', '.join(map(str, value))}")
    return value[where]


def _evaluated(model: AttributionModel, data: EvaluationData, config: EvaluationConfig) -> MethodResult:
    evaluation = Evaluation(model, data, config)
    with unsaid():
        for _ in evaluation.run():
            pass
    (result,) = evaluation.results
    if not result.ok:
        raise AttriflowError(result.reason)
    return result


def _feedback(make: Any, label: str, metric: str, result: MethodResult, why: str) -> Any:
    """MLflow's feedback on one metric; an error where no token has a value."""
    values = result.values[metric][0]
    known = sum(v is not None for v in values.values)
    facts = {"method": result.name, "metric": metric, "n_tokens": str(known), "skipped": str(len(values.skipped))}
    if values.mean is None:
        reasons = "; ".join(sorted(set(values.skipped.values())))
        return make(name=f"{label}/{metric}", error=InputError(f"no value for any token: {reasons}"), metadata=facts)
    return make(name=f"{label}/{metric}", value=values.mean, rationale=why, metadata=facts)


def _strongest(attribution: Attribution, top: int) -> str:
    """The strongest tokens for every generated one, one line each."""
    lines = []
    for token, row in zip(attribution.targets, attribution.token_scores(), strict=True):
        if token.special or not top:
            continue
        order = row.nan_to_num(nan=-float("inf")).argsort(descending=True).tolist()[:top]
        named = [f"{attribution.inputs[i].text} {float(row[i]):.3g}" for i in order if row[i] == row[i]]
        lines.append(f"{token.text}: {', '.join(named)}")
    return "\n".join(lines)

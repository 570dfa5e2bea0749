"""Tab: evaluations in an MLflow store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import gradio as gr

from attriflow.app.widgets import PRIVATE, download, fresh_folder, page_frame, ready, told
from attriflow.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

    from attriflow.tracking.stored import EvaluationStore, StoredEvaluation

_NO_REPORT = '<p class="hint">This run has no report.</p>'
_SHOWN = 3  # methods at first


def add(blocks: gr.Blocks, store: EvaluationStore | None, uri: str, evaluation: StoredEvaluation | None) -> None:
    """Build the tab.

    Args:
        blocks: The whole app.
        store: The store to begin with, None where there is none.
        uri: What stands in the field.
        evaluation: The run to begin with.
    """
    first = _first(store, evaluation)
    opened = gr.State(None)
    with gr.Row(equal_height=True):
        address = gr.Textbox(uri, label="MLflow tracking URI", scale=3, min_width=280)
        look = gr.Button("Find runs", scale=0, min_width=110)
    with gr.Row():
        experiment = gr.Dropdown(**first["experiment"], label="Experiment", min_width=220)
        run = gr.Dropdown(**first["run"], label="Evaluation", min_width=220)
    title = gr.Markdown(first["hint"], elem_id="run-title")
    with gr.Column(visible=False, elem_id="run-parts") as parts, gr.Tabs():
        with gr.Tab("Leaderboard"):
            board = gr.Dataframe(interactive=False, show_label=False, elem_id="leaderboard", max_height=900)
        with gr.Tab("Report"):
            report = gr.HTML(elem_id="report", padding=False)
        with gr.Tab("Plots"):
            plots = gr.Gallery(show_label=False, columns=2, object_fit="contain", height="auto", elem_id="plots")
        with gr.Tab("Attributions"):
            with gr.Row(equal_height=True):
                methods = gr.Dropdown([], multiselect=True, label="Methods", scale=3, min_width=220)
                number = gr.Number(0, label="Example", precision=0, minimum=0, scale=1, min_width=100)
                show = gr.Button("Show", scale=0, min_width=90)
            shown = gr.HTML(elem_id="stored", padding=False)
            with gr.Row(elem_classes="downloads"):
                page = download("Save the page")

    def find(uri: str) -> tuple[Any, ...]:
        from attriflow.tracking.stored import EvaluationStore

        found = EvaluationStore(uri)
        known = found.experiments()
        if not known:
            raise InputError(f"{found.uri} has no experiments")
        chosen = next((i for i in known.values() if found.runs(i)), next(iter(known.values())))
        return _choice(known, chosen), *list_runs(uri, chosen)

    def list_runs(uri: str, experiment_id: str | None) -> tuple[Any, ...]:
        from attriflow.tracking.stored import EvaluationStore

        known = EvaluationStore(uri).runs(experiment_id) if experiment_id else {}
        hint = "" if known else "This experiment has no evaluations by attriflow (`attriflow evaluate` makes some)."
        return _choice(known, next(iter(known.values()), None)), hint

    def open_run(uri: str, run_id: str | None) -> tuple[Any, ...]:
        from attriflow.tracking.stored import EvaluationStore

        if not run_id:
            return None, gr.skip(), gr.update(visible=False), *[gr.skip()] * 7
        found = EvaluationStore(uri).run(run_id)
        names = _ranked(found)
        pictures = [(str(path), name.replace("_", " ")) for name, path in found.plots.items()]
        frame = page_frame(found.report, "Report") if found.report else _NO_REPORT
        return (
            found,
            _headline(found),
            gr.update(visible=True),
            _table(found.leaderboard),
            frame,
            pictures,
            gr.update(choices=names, value=names[:_SHOWN]),
            0,
            "",
            gr.update(visible=False),
        )

    def show_attributions(
        opened: StoredEvaluation | None, names: Sequence[str], number: float | None
    ) -> tuple[Any, Any]:
        from attriflow.views.html import to_html

        if opened is None:
            raise InputError("choose an evaluation first")
        if not names:
            raise InputError("choose at least one method")
        index = int(number or 0)
        items = []
        for name in names:
            found = opened.attributions(name)
            if not 0 <= index < len(found):
                raise InputError(f"there is no example {index}: '{name}' has {len(found)}, counted from 0")
            items.append(found[index])
        path = fresh_folder() / f"example-{index}.html"
        return page_frame(to_html(items, path), f"Example {index}"), ready(path)

    results = [opened, title, parts, board, report, plots, methods, number, shown, page]
    gr.on([look.click, address.submit], told(find), address, [experiment, run, title], **PRIVATE)
    experiment.input(told(list_runs), [address, experiment], [run, title], **PRIVATE)
    run.change(told(open_run), [address, run], results, show_progress_on=title, **PRIVATE)
    gr.on(
        [show.click, number.submit], told(show_attributions), [opened, methods, number], [shown, page],
        show_progress_on=shown, **PRIVATE,
    )  # fmt: skip
    if evaluation is not None:
        blocks.load(told(open_run), [address, run], results, show_progress_on=title, **PRIVATE)


def _first(store: EvaluationStore | None, evaluation: StoredEvaluation | None) -> dict[str, Any]:
    """Choices to begin with, and what to say where there are none."""
    known = store.experiments() if store is not None else {}
    none: dict[str, Any] = {"choices": [], "value": None}
    if store is None or not known:
        return {"experiment": none, "run": none, "hint": "Type the tracking URI of an MLflow store, and find its runs."}
    chosen = evaluation.experiment_id if evaluation is not None else next(iter(known.values()))
    runs = store.runs(chosen)
    if evaluation is not None and evaluation.run_id not in runs.values():
        runs[evaluation.name] = evaluation.run_id
    return {
        "experiment": {"choices": list(known.items()), "value": chosen},
        "run": {"choices": list(runs.items()), "value": evaluation.run_id if evaluation is not None else None},
        "hint": "" if evaluation is not None else "Choose an evaluation.",
    }


def _choice(known: Mapping[str, str], chosen: str | None) -> Any:
    return gr.update(choices=list(known.items()), value=chosen)


def _ranked(found: StoredEvaluation) -> list[str]:
    """Methods that have attributions, the best first."""
    from attriflow.tracking.run_logger import key_of
    from attriflow.views.evaluations.leaderboard import records

    order = [key_of(str(row["method"])).replace("/", "_") for row in records(found.leaderboard, alike=True)]
    return sorted(found.methods, key=lambda name: order.index(name) if name in order else len(order))


def _headline(found: StoredEvaluation) -> str:
    facts = {"explains": found.params.get("attributed_fn"), "run": found.run_id}
    return f"**{found.name}** · " + " · ".join(f"{label} `{value}`" for label, value in facts.items() if value)


def _table(leaderboard: pd.DataFrame) -> Any:
    """Heads and cells of the leaderboard, numbers as numbers so that they sort."""
    from attriflow.evaluation.tables import directions
    from attriflow.registry import metrics as registry
    from attriflow.views.common import as_text
    from attriflow.views.evaluations.leaderboard import arrow, metric_names, records

    rows = records(leaderboard)
    pointing = directions([name for name in registry.names() if name in leaderboard.columns])
    scores = metric_names(leaderboard, pointing)
    costs = [name for name in ("forward_equivalents", "seconds") if name in leaderboard.columns]
    reasons = ["reason"] if any(row["failed"] or row["unranked"] for row in rows) else []
    heads = ["rank", "method", *(f"{name} {arrow(pointing[name])}" for name in scores), *costs, *reasons]
    cells = [
        [
            _digits(row.get("rank")),
            row["name"],
            *(_digits(row.get(name)) for name in (*scores, *costs)),
            *(row["unranked"] or as_text(row.get(name)) for name in reasons),
        ]
        for row in rows
    ]
    kinds = ["number", "str", *["number"] * len((*scores, *costs)), *["str"] * len(reasons)]
    return gr.update(value={"headers": heads, "data": cells}, datatype=kinds)


def _digits(value: Any) -> float | None:
    from attriflow.views.common import as_float

    real = as_float(value)
    return None if real is None else float(f"{real:.3g}")

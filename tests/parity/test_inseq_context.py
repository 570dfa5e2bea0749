"""Context attribution against recorded runs of Inseq's `attribute-context` on the golden models.

Inseq counts tokens of separately tokenised texts. Where the current output alone has another number of tokens than in
its place ("kana": one token after a space, two at the start of a text), it explains the token before the sensitive one.
So its scores are matched by the text up to the explained token. Its contextless output is decoded and tokenised again,
too; where that changes the foil, there is nothing to compare.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from attriflow.context import attribute_context

DATA = Path(__file__).resolve().parents[1] / "data" / "inseq_context.json"
RUNS = json.loads(DATA.read_text(encoding="utf-8"))["runs"]


@pytest.mark.parametrize(
    "run", RUNS, ids=[f"{r['case']}-{r['metric']}-{r['method']}-{r['attributed_fn']}" for r in RUNS]
)
def test_recorded(golden_model, run):
    wanted = run["result"]
    (found,) = attribute_context(
        golden_model(run["case"].split("-")[0]),
        attribution_method=run["method"],
        attributed_fn=run["attributed_fn"],
        context_sensitivity_metric=run["metric"],
        context_sensitivity_std_threshold=None,
        aggregator_options={"normalize": True},
        show_progress=False,
        **run["texts"],
    )
    # a special token at the start of the target counts as a token of the output in Inseq
    extra = 1 if wanted["output_current_tokens"][0] == "<s>" else 0
    torch.testing.assert_close(
        torch.tensor(found.cti_scores), torch.tensor(wanted["cti_scores"][extra:]), atol=2e-6, rtol=1e-5
    )
    mine = {c.contextual_output: c for c in found.cci_scores}
    compared = 0
    for cues in wanted.get("cci_scores", []):
        other = mine[cues["contextual_output"]]
        foil = cues["contextless_output"]
        if foil is not None and foil != other.contextless_output:
            assert (run["case"], cues["cti_idx"]) == ("gpt2-out", 1)
            continue
        for field in ("input_context_scores", "output_context_scores"):
            if cues[field] is not None:
                torch.testing.assert_close(
                    torch.tensor(getattr(other, field)), torch.tensor(cues[field]), atol=2e-6, rtol=1e-5
                )
                compared += 1
    assert compared or run["case"] == "bart"

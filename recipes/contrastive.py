"""Why "rossa" and not "rosso": contrastive attribution with several methods, one page.

Usage: ``python recipes/contrastive.py [--out DIR]``
"""

from __future__ import annotations

import argparse
from pathlib import Path

import attriflow

METHODS = {"input_x_gradient": {}, "integrated_gradients": {"n_steps": 30}, "occlusion": {}}


def main() -> None:
    """Run the recipe."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--out", type=Path, default=Path("contrastive-output"))
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)

    model = attriflow.load_model("demo/translate")
    every = []
    for method, options in METHODS.items():
        (found,) = model.attribute(
            "the red house",
            "la casa rossa",
            method=method,
            attributed_fn="contrast_prob_diff",
            contrast_targets="la casa rosso",
            contrast_targets_alignments="auto",
            step_scores=["contrast_prob_diff"],
            show_progress=False,
            **options,
        )
        every.append(found)
        step = [t.text for t in found.targets].index("rossa")
        scores = found.scores[step].nan_to_num()
        print(f"{method}: {found.inputs[int(scores.argmax())].text!r} speaks most for 'rossa' against 'rosso'")
    attriflow.AttributionOutput(every).to_html(out / "contrast.html", overwrite=True)
    print(f"wrote {out / 'contrast.html'}")


if __name__ == "__main__":
    main()

"""Explain a translation: scores in the terminal, a page, a file.

Usage: ``python recipes/quickstart.py [--out DIR]``
"""

from __future__ import annotations

import argparse
from pathlib import Path

import attriflow


def main() -> None:
    """Run the recipe."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--out", type=Path, default=Path("quickstart-output"))
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)

    model = attriflow.load_model("demo/translate", "integrated_gradients")
    found = model.attribute("the house of the old man is red", n_steps=30, step_scores=["probability", "entropy"])
    found.show(view="console")
    found.to_html(out / "attributions.html", overwrite=True)
    found.save(out / "attributions.safetensors", overwrite=True)

    again = attriflow.load(out / "attributions.safetensors")
    word = again[0].targets[-2].text
    scores = dict(zip((t.text for t in again[0].inputs), again[0].scores[-2].tolist(), strict=True))
    print(f"{word!r} depends most on {max(scores, key=scores.get)!r}")


if __name__ == "__main__":
    main()

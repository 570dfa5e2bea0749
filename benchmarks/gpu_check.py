"""What a GPU has to show, in one command: equal numbers, out-of-memory survived, what every method costs, peers.

Usage: ``python benchmarks/gpu_check.py [--device auto] [--scale gpu] [--out gpu-check] [--minutes 8] [--most 20]``.
Random weights, nothing is downloaded. Each part's result is a JSON file in the output folder; a part that is there is
not run again, so that a run that was cut short goes on. Parts that there was no time for are named. ``--device cpu
--scale toy`` tries the script. Prints the tables of ``report.md`` in that folder.
"""

from __future__ import annotations

import argparse
import copy
import gc
import importlib.util
import json
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import half_precision
import torch
from random_models import SHAPES, random_examples, random_model, with_foil
from scales import OPTIONS

import attriflow
from attriflow.errors import reason_of
from attriflow.kernels import devices
from attriflow.measuring.benchmark import record, surroundings
from attriflow.measuring.cost import PeakMemory, timed
from attriflow.measuring.floors import Work
from attriflow.measuring.throughput import measure_method
from attriflow.model import AttributionModel
from attriflow.models.loading import check_device
from attriflow.registry import methods, step_functions

HERE = Path(__file__).resolve().parent
CLOSE = 1e-4
"""Largest difference from the CPU in float32, of the largest score."""
SLACK = 0.05
"""How far a rank correlation may fall below docs/half-precision.csv."""
SCALES: Mapping[str, tuple[tuple[str, ...], tuple[tuple[int, int], ...], tuple[int, int]]] = {
    "gpu": (("gpt2-small", "llama-1b", "llama-8b"), ((128, 128), (1024, 256)), (10, 1000)),
    "toy": (("toy",), ((12, 4),), (4, 12)),
}
"""Shapes; prompt and answer tokens; those of the table of spans, on the last shape."""
SPANS = {
    "leave-one-out": ("occlusion", {}, True),
    "integrated gradients, 20 points": ("integrated_gradients", {"n_steps": 20}, True),
    "flow, token by token": ("information_flow_routes", {}, False),
    "flow, one span": ("information_flow_routes", {}, True),
}

Result = dict[str, Any]


class TooLongError(BaseException):
    """The time of a part is up; nothing in between may take it for a failure of a method."""


class Check:
    """The parts, on a device; the last model is kept, since large ones do not fit side by side."""

    def __init__(self, device: torch.device, scale: str) -> None:
        self.device = device
        self.shapes, self.sizes, self.spans = SCALES[scale]
        self.dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
        self._name, self._model = "", None
        self._pair: tuple[AttributionModel, AttributionModel] | None = None

    def parts(self) -> Iterator[tuple[str, Callable[[], Result]]]:
        """Names, and what measures them: what is short first."""
        yield "b-memory", self.memory  # before any gradient: autograd learns only once what devices there are
        for name in methods.names():
            yield f"a-equal-{name}", partial(self.equal, name, {"method": name, **half_precision.OPTIONS.get(name, {})})
        for name in step_functions.names():
            yield f"a-step-{name}", partial(self.equal, name, {"method": smooth(name), "attributed_fn": name})
        for row in half_precision.read(HERE.parent / "docs" / "half-precision.csv"):
            if (row["model"], row["dtype"]) == ("demo/recall", "bfloat16"):
                yield f"a-half-{row['method']}", partial(self.half, row["method"], row["spearman"])
        yield "d-captum", self.captum
        for shape in self.shapes:
            if shape == self.shapes[-1]:
                for name in SPANS:
                    yield f"e-{name}", partial(self.span, shape, name)
            for size in self.sizes:
                for method in methods.names():
                    yield f"c-{shape}-{size[0]}+{size[1]}-{method}", partial(self.cost, shape, size, method)

    def equal(self, name: str, options: Result) -> Result:
        """Scores on the device beside those on the CPU, both in float32."""
        if self._pair is None:
            here, there = (attriflow.load_model("demo/recall", device=d) for d in ("cpu", str(self.device)))
            self._pair = here, there
        text, foil = (f"anna has a red hat . what color is the hat ? {color} ." for color in ("red", "blue"))
        (example,), (other,) = (self._pair[0].encode([text[:-6]], [t]) for t in (text, foil))
        ask = {"show_progress": False, **options}
        if "attributed_fn" in options:
            example = with_foil(example, other)
        one, two = (m.attribute_examples([example], **ask)[0].scores.cpu() for m in self._pair)
        seen, scale = ~one.isnan(), float(one.nan_to_num().abs().max())
        apart = float((two - one)[seen].abs().max()) / max(scale, 1e-30)
        return {"name": name, "difference": apart, "passed": apart <= CLOSE and torch.equal(seen, ~two.isnan())}

    def half(self, method: str, known: float) -> Result:
        """Rank correlation of bfloat16 with float32 on the device."""
        (row,) = half_precision.compare("demo/recall", "bfloat16", [method], device=str(self.device))
        return {"name": method, "spearman": row["spearman"], "known": known, "passed": row["spearman"] >= known - SLACK}

    def memory(self) -> Result:
        """Too little memory for a batch: it runs in parts, and the numbers stay."""
        if self.device.type != "cpu":
            return self._squeezed(self.device, self._filled)
        sys.path.insert(0, str(HERE.parent / "tests" / "toys"))
        import second_device

        try:
            with second_device.present() as simulated:
                return self._squeezed(torch.device("sim:0"), partial(_limited, simulated))
        except second_device.UnavailableError as error:
            return {"reason": str(error)}

    def _squeezed(self, device: torch.device, short: Callable[[int, int], Any]) -> Result:
        shape = SHAPES[self.shapes[0]]
        on_device = copy.deepcopy(random_model(shape).model).to(device)
        model = AttributionModel(type(random_model(shape).wrapped)(on_device, random_model(shape).tokenizer, "random"))
        examples = next(random_examples(shape, 32, 8, 8))
        run = partial(model.attribute_examples, examples, "integrated_gradients", n_steps=16, show_progress=False)
        before = run()
        with PeakMemory(device) as needed:
            run()
        held = devices.reset_peak(device)
        with short(held, int(0.4 * needed.megabytes * 2**20)):
            after = run()
        pairs = [(a.scores.cpu().nan_to_num(), b.scores.cpu().nan_to_num()) for a, b in zip(before, after, strict=True)]
        apart = max(float((a - b).abs().max() / a.abs().max()) for a, b in pairs)
        calls = [one[0].provenance.forward_calls for one in (before, after)]
        passed = apart <= CLOSE and calls[1] > calls[0]
        return {"device": str(device), "difference": apart, "calls": calls, "passed": passed}

    @contextmanager
    def _filled(self, held: int, room: int) -> Iterator[None]:
        """The card, full but for so many bytes."""
        devices.empty_cache()
        free = (devices.memory(self.device) or (0, 0))[0]
        ballast = torch.empty(max(0, free - room), dtype=torch.uint8, device=self.device)
        yield
        del ballast
        devices.empty_cache()

    def model(self, name: str) -> AttributionModel:
        """A shape's model."""
        if self._model is None or name != self._name:
            self._model = None
            gc.collect()
            devices.empty_cache()
            self._name, self._model = name, random_model(SHAPES[name], name, str(self.device), self.dtype)
        return self._model

    def cost(self, shape: str, size: tuple[int, int], method: str) -> Result:
        """Forward-pass equivalents, tokens per second, peak memory, utilisation."""
        model, options = self.model(shape), OPTIONS.get(method, methods.info(method).meta["trial"])
        texts = random_examples(SHAPES[shape], *size, 1)
        found = measure_method(model, method, options, texts, work=Work.of_model(model), budget=0.2, rounds=(1, 3))
        return {"shape": shape, "size": size, "method": method, "options": dict(options), **record(found)}

    def span(self, shape: str, name: str) -> Result:
        """A long answer after a short prompt."""
        method, options, whole = SPANS[name]
        model, (text,) = self.model(shape), next(random_examples(SHAPES[shape], *self.spans, 1))
        text = replace(text, spans=((text.start, text.stop),)) if whole else text
        ask = {"attributed_fn_args": {"logprob": True}, "show_progress": False, **options}
        with PeakMemory(self.device) as memory:
            found, seconds = timed(lambda: model.attribute_examples([text], method, **ask), self.device)
        steps = len(found[0].targets)
        return {"name": name, "steps": steps, "seconds": seconds, "peak_memory_mb": memory.megabytes}

    def captum(self) -> Result:
        """Integrated gradients beside captum's, a step at a time as captum does it."""
        if importlib.util.find_spec("captum") is None:
            return {"reason": "captum is not installed"}
        from captum.attr import LayerIntegratedGradients

        model = self.model(self.shapes[0])
        (text,) = next(random_examples(SHAPES[self.shapes[0]], *self.sizes[0], 1))
        ids = torch.tensor([[t.id for t in text.target]], device=self.device)

        def read(given: torch.Tensor, token: torch.Tensor) -> torch.Tensor:
            return model.model(given).logits[:, -1].float().softmax(-1)[:, token]

        def theirs() -> None:
            embeddings = model.model.get_input_embeddings()
            embeddings.weight.requires_grad_(True)  # captum differentiates the layer's output
            try:
                peer = LayerIntegratedGradients(read, embeddings)
                for stop in range(text.start, text.stop):
                    given = ids[:, :stop]
                    peer.attribute(given, torch.zeros_like(given), additional_forward_args=(ids[0, stop],), n_steps=8)
            finally:
                embeddings.weight.requires_grad_(False)

        def ours() -> None:
            model.attribute_examples([text], "integrated_gradients", n_steps=8, show_progress=False)

        ours()
        (_, mine), (_, other) = timed(ours, self.device), timed(theirs, self.device)
        return {"shape": self.shapes[0], "seconds": mine, "captum_seconds": other, "ratio": other / mine}


def smooth(step_function: str) -> str:
    """A method for a step function: counts have no gradient."""
    return "saliency" if step_functions.info(step_function).meta.get("differentiable", True) else "occlusion"


@contextmanager
def _limited(simulated: Any, held: int, room: int) -> Iterator[None]:
    simulated.limit(held + room)
    yield
    simulated.limit(16 << 30)


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """End what takes longer."""

    def end(*_: object) -> None:
        raise TooLongError

    before = signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def run(check: Check, out: Path, minutes: float, most: float, parts: str) -> list[str]:
    """Run the parts that are not there; returns those that there was no time for."""
    until, left = time.monotonic() + 60 * minutes, []
    for name, work in check.parts():
        path = out / f"{name.replace(' ', '-').replace(',', '')}.json"
        if path.exists() or name[0] not in parts:
            continue
        if (rest := until - time.monotonic()) <= 0:
            left.append(name)
            continue
        try:
            with within(min(most, rest)):
                found = work()
        except TooLongError:
            if rest < most:
                left.append(name)
                continue
            found = {"name": name, "reason": f"longer than {most:g} s"}
        except Exception as error:
            found = {"name": name, "reason": reason_of(error), **({"passed": False} if name[0] in "ab" else {})}
        fresh = path.with_suffix(".new")
        fresh.write_text(json.dumps(found, indent=1), encoding="utf-8")
        fresh.replace(path)
    return left


def report(out: Path, where: Mapping[str, Any], left: list[str]) -> str:
    """Tables of what was measured."""
    found = {p.stem: json.loads(p.read_text(encoding="utf-8")) for p in sorted(out.glob("[a-e]-*.json"))}
    lines = [f"{where['device_name']} ({where['device']}), {where['dtype']}, torch {where['torch']}", ""]
    judged = {n: r for n, r in found.items() if "passed" in r}
    wrong = [n for n, r in judged.items() if not r["passed"]]
    lines += [f"{len(judged) - len(wrong)} of {len(judged)} checks passed.", ""]
    lines += [f"- failed: `{n}` {json.dumps(judged[n])}" for n in wrong]
    lines += [f"- not measured: `{n}`, {r['reason']}" for n, r in found.items() if "reason" in r]
    lines += [f"- no time: `{n}`" for n in left]
    lines += ["- FlashTrace and Inseq were not run: see benchmarks/flow_peer.py and benchmarks/peers", ""]
    costs = [r for n, r in found.items() if n[0] == "c" and "reason" not in r]
    lines += ["| shape | tokens | method | forward equiv. | tokens/s | peak MB | of matmul |", "|" + " --- |" * 7]
    for r in costs:
        used = f"{r['model_flops_utilisation']:.0%}" if "model_flops_utilisation" in r else ""
        lines.append(
            f"| {r['shape']} | {r['size'][0]} + {r['size'][1]} | `{r['method']}` | {r['forward_pass_equivalents']:.1f} "
            f"| {r['target_tokens_per_second']:.0f} | {r['peak_memory_mb']:.0f} | {used} |"
        )
    lines += ["", "| long answer | steps | seconds | peak MB |", "|" + " --- |" * 4]
    for r in (r for n, r in found.items() if n[0] == "e" and "reason" not in r):
        lines.append(f"| {r['name']} | {r['steps']} | {r['seconds']:.3g} | {r['peak_memory_mb']:.0f} |")
    if "ratio" in (peer := found.get("d-captum", {})):
        lines += ["", f"captum takes {peer['ratio']:.1f} times as long for integrated gradients ({peer['shape']})."]
    return "\n".join(lines) + "\n"


def main() -> int:
    """Run and report; 1 where a check failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--scale", default="gpu", choices=list(SCALES))
    parser.add_argument("--out", type=Path, default=Path("gpu-check"))
    parser.add_argument("--minutes", type=float, default=8.0, help="for all parts; what is left is run the next time")
    parser.add_argument("--parts", default="abcde", help="letters of those that are run")
    parser.add_argument("--most", type=float, default=20.0, help="seconds for a part")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    device = check_device(given.device) or devices.best()
    given.out.mkdir(parents=True, exist_ok=True)
    check = Check(device, given.scale)
    left = run(check, given.out, given.minutes, given.most, given.parts)
    text = report(given.out, surroundings(device, check.dtype), left)
    (given.out / "report.md").write_text(text, encoding="utf-8")
    print(text)
    return int("- failed:" in text)


if __name__ == "__main__":
    sys.exit(main())

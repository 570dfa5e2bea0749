"""Where models of the device tests are laid: real accelerators, or two that stand in for them (see `second_device`).

SECOND_DEVICE=1 takes the second, which have to be there before the first gradient of a process.
"""

from __future__ import annotations

import functools
import os
import tempfile
from contextlib import contextmanager

import pytest
import second_device
import torch
from models import ENCODER_DECODERS, build
from words import PROMPT, SOURCE, TARGET, TEXT, word_tokenizer

import attriflow
from attriflow.kernels import devices

SIMULATED = os.environ.get("SECOND_DEVICE") == "1"
KIND = None if SIMULATED else devices.accelerator()
NAMES = ["sim:0", "sim:1"] if SIMULATED else [name for name in devices.known() if ":" in name]
FIRST, SECOND = (NAMES or [str(KIND), ""]) if len(NAMES) < 2 else NAMES[:2]
DOUBLE = KIND is None or KIND.type != "mps"
CLOSE = 1e-9 if SIMULATED else 1e-6 if DOUBLE else 2e-3
"""Differences of scores and values; the second device computes on the CPU, real ones in another order."""

needed = pytest.mark.skipif(
    not SIMULATED and KIND is None, reason="no accelerator here; test_second_device.py runs this on one that stands in"
)
simulated = pytest.mark.skipif(not SIMULATED, reason="on the second device only")
LONG = "the old man and the cat in a blue house on a red dog was in the house and old . the cat"


def _laid(first: str, last: str):
    def lay(hf):
        return second_device.laid_over(hf, first, last, offload_dir=tempfile.mkdtemp() if last == "disk" else None)

    return lay


def _all_kept(hf):
    from accelerate import cpu_offload

    return cpu_offload(hf, torch.device(FIRST))


LAYOUTS = {
    "one": lambda hf: hf.to(SECOND or FIRST),
    "half": _laid(FIRST, "cpu"),
    "disk": _laid(FIRST, "disk"),
    "kept": _all_kept,
    **({"two": _laid(FIRST, SECOND), "swapped": _laid(SECOND, FIRST)} if SECOND else {}),
}


@contextmanager
def present():
    """The devices; yields the extension of those that stand in, else None."""
    if not SIMULATED:
        yield None
        return
    try:
        second_device.registered()
    except second_device.UnavailableError as error:
        pytest.skip(str(error))
    with second_device.present() as extension:
        yield extension


def made(kind: str):
    """A tiny model, in double precision where the devices have it."""
    return build(kind) if DOUBLE else build(kind).float()


@functools.cache
def wrapped(kind: str, layout: str | None = None):
    """The model for attribution, on the CPU where no layout is named."""
    hf = made(kind) if layout is None else LAYOUTS[layout](made(kind))
    model = attriflow.load_model(hf, tokenizer=word_tokenizer())
    # what is found out once per model, by passes that count
    model.attribute(*texts(kind), method="sequential_integrated_gradients", n_steps=2, show_progress=False)
    return model


def texts(kind: str):
    """Inputs and targets; two, of different lengths."""
    if kind in ENCODER_DECODERS:
        return [SOURCE, PROMPT], [TARGET, "el gato"]
    return [PROMPT, "the old man and the cat in a blue house on a red dog was"], [TEXT, LONG]


def foils(kind: str):
    """Other targets of the same inputs."""
    return [t.replace("old", "red").replace("gato", "casa") for t in texts(kind)[1]]


def alike(found, expected, path="") -> None:
    """Assert that plain values, or what is nested of them, are the same but for rounding."""
    if isinstance(expected, torch.Tensor):
        found, expected = found.tolist(), expected.tolist()
    if isinstance(expected, dict):
        assert set(found) == set(expected), path
        for key, value in expected.items():
            alike(found[key], value, f"{path}/{key}")
    elif isinstance(expected, list | tuple):
        assert len(found) == len(expected), path
        for i, (one, other) in enumerate(zip(found, expected, strict=True)):
            alike(one, other, f"{path}/{i}")
    elif isinstance(expected, float):
        # metrics divide small differences of scores by others
        assert found == pytest.approx(expected, abs=1e3 * CLOSE, rel=1e3 * CLOSE, nan_ok=True), path
    else:
        assert found == expected, path

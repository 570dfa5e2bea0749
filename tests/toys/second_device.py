"""Two devices "sim:0" and "sim:1" in ordinary memory, to be used as any other: `model.to("sim:1")`.

Numbers are the CPU's, and what mixes devices raises, as on a GPU. Operations started, waits of the host for a value and
uploads are counted, memory is accounted and can be limited. Compiled once per version of torch (half a minute; g++).
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sysconfig
import tempfile
import types
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn

NAME, COUNT = "sim", 2
SOURCE = Path(__file__).with_suffix(".cpp")
LIBRARIES = ("c10", "torch_cpu", "torch", "torch_python")


class UnavailableError(Exception):
    """There is no such device here, and why."""


@functools.cache
def compiled():
    """The extension; kept for further runs where temporary files are."""
    from torch.utils.cpp_extension import include_paths, library_paths

    age = f"{torch.__version__}-{hashlib.sha256(SOURCE.read_bytes()).hexdigest()[:16]}"
    built = Path(tempfile.gettempdir()) / f"attriflow-second-device-{os.getuid()}" / age / "second_device.so"
    if not built.exists():
        compiler = shutil.which("c++") or shutil.which("g++")
        if compiler is None:
            raise UnavailableError("no C++ compiler to build the second device with")
        built.parent.mkdir(parents=True, exist_ok=True)
        fresh = built.with_name(f"{os.getpid()}.so")
        headers = [f"-isystem{path}" for path in (*include_paths(), sysconfig.get_paths()["include"])]
        linked = [f"-L{path}" for path in library_paths()] + [f"-l{name}" for name in LIBRARIES]
        options = ["-DTORCH_EXTENSION_NAME=second_device", "-std=c++20", "-O1", "-w", "-fPIC", "-shared"]
        done = subprocess.run(
            [compiler, *options, *headers, str(SOURCE), *linked, "-o", str(fresh)], capture_output=True, text=True
        )
        if done.returncode:
            reason = next((line for line in done.stderr.splitlines() if "error" in line), "")[-200:]
            raise UnavailableError(f"the second device does not compile against torch {torch.__version__}: {reason}")
        fresh.replace(built)
    return built


@functools.cache
def registered():
    """The device's module and its extension, known to torch from now on but not there (see `present`)."""
    place = compiled()
    torch.utils.rename_privateuse1_backend(NAME)
    module = types.ModuleType(f"torch.{NAME}")
    module.here = False
    module.is_available = lambda: module.here
    module.is_initialized = lambda: True
    module.device_count = lambda: COUNT
    module.current_device = torch.accelerator.current_device_index
    module._is_in_bad_fork = lambda: False
    module._lazy_init = lambda: None
    # other draws than the CPU's
    module.manual_seed_all = lambda seed: [one.manual_seed(seed + 1) for one in module.default_generators]
    module.get_rng_state = lambda device=NAME: _generator(module, device).get_state()
    module.set_rng_state = lambda state, device=NAME: _generator(module, device).set_state(state)
    module.get_amp_supported_dtype = lambda: [torch.bfloat16, torch.float16]
    module.synchronize = lambda device=None: None
    module.empty_cache = lambda: None
    for name in ("memory_allocated", "max_memory_allocated", "reset_peak_memory_stats"):
        setattr(module, name, getattr(torch.accelerator, name))
    module.mem_get_info = torch.accelerator.get_memory_info
    module.get_device_name = lambda device=NAME: "a device in ordinary memory"
    torch._register_device_module(NAME, module)
    torch.utils.generate_methods_for_privateuse1_backend()
    spec = importlib.util.spec_from_file_location("second_device", place)
    extension = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(extension)
    module.default_generators = tuple(extension.generator(i) for i in range(COUNT))
    return module, extension


def _generator(module, device):
    return module.default_generators[device if isinstance(device, int) else torch.device(device).index or 0]


@contextmanager
def present():
    """Have the two devices there, for whoever looks for an accelerator; yields the extension (`counts`, `limit`)."""
    module, extension = registered()
    swapped = torch.__future__.get_swap_module_params_on_conversion()
    torch.__future__.set_swap_module_params_on_conversion(True)  # else `to` makes new parameters and unties shared ones
    module.here = True
    try:
        yield extension
    finally:
        module.here = False
        extension.limit(16 << 30)
        torch.__future__.set_swap_module_params_on_conversion(swapped)


def laid_over(hf: nn.Module, first: str, last: str, **options) -> nn.Module:
    """The model with the last block of its stacks on another device than all else, as `device_map="auto"` lays it.

    "cpu" and "disk" are where weights of blocks that compute on the first device are kept.
    """
    from accelerate import dispatch_model

    from attriflow.models.blocks import find_blocks

    ends = {owner: block for block, owner in find_blocks(hf).items()}.values()
    names = {module: name for name, module in hf.named_modules()}
    places = {names[block]: last for block in ends}
    inside = {id(m) for block in ends for m in block.modules()}
    for name, module in hf.named_modules():
        held = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
        if id(module) in inside or not (held or not list(module.children())):
            continue
        if list(module.children()):  # its own tensors only
            places.update({f"{name}.{own}".lstrip("."): first for own, _ in held})
        else:
            places[name] = first
    return dispatch_model(hf, places, main_device=first, force_hooks=True, **options)

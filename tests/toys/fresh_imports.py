"""What every process of `fresh.run_fresh` has imported before it starts; imported once, by the server of forks."""

from __future__ import annotations

import contextlib
import importlib

from fresh import SLOW_IMPORTS

for name in SLOW_IMPORTS:
    with contextlib.suppress(ImportError):
        importlib.import_module(name)  # noqa: TID251 - a test

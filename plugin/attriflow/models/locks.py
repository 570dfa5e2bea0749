"""One caller at a time: methods change a model while they run (mode, hooks, attention, weights), and must not meet."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Concatenate, ParamSpec, Protocol, TypeVar
from weakref import WeakKeyDictionary

from torch import nn

P = ParamSpec("P")
R = TypeVar("R")

RANDOM = threading.RLock()
"""Held by whoever seeds torch's own generator, which all models of a process share; no other lock is taken within."""

_guard = threading.Lock()
_locks: WeakKeyDictionary[nn.Module, threading.RLock] = WeakKeyDictionary()


def lock_of(module: nn.Module) -> threading.RLock:
    """The lock of a module, made once; not kept on it, so that copies and pickles of a model know nothing of it."""
    with _guard:
        return _locks.setdefault(module, threading.RLock())


class Locked(Protocol):
    """Whatever runs a model."""

    @property
    def lock(self) -> threading.RLock:
        """The model's lock."""


M = TypeVar("M", bound=Locked)


def alone(function: Callable[Concatenate[M, P], R]) -> Callable[Concatenate[M, P], R]:
    """Have the model (the first argument) to oneself while a function runs."""

    @functools.wraps(function)
    def call(model: M, /, *args: P.args, **kwargs: P.kwargs) -> R:
        with model.lock:
            return function(model, *args, **kwargs)

    return call

"""A tracking server that does not answer: asked again, with a line now and then that says so."""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from mlflow.exceptions import MlflowException

from attriflow.errors import AttriflowError, InputError

T = TypeVar("T")
VARIABLE, DEFAULT = "ATTRIFLOW_PATIENCE", 90.0
"""Seconds for which a server that is away is asked again."""
AT_FIRST = 10.0
"""The most of them before anything was computed."""
EVERY, PAUSE = 5.0, 1.0
"""Seconds between two lines, and between two tries."""
QUICK = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "30"}
_AWAY = (429, 502, 503, 504)
_TOO_MANY = re.compile(r"too many (429|502|503|504) error responses")


class AwayError(AttriflowError, ConnectionError):
    """A tracking server did not answer for as long as was asked for."""


def patience() -> float:
    """Seconds for which a server is asked again, as the environment says."""
    text = os.environ.get(VARIABLE, "").strip()
    if not text:
        return DEFAULT
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < float("inf"):
        raise InputError(f"{VARIABLE} must be a number of seconds, not {text!r}")
    return seconds


@contextmanager
def quick() -> Iterator[None]:
    """MLflow's own retries take minutes in which nothing is said: within the block, it tries twice."""
    before = {name: os.environ.get(name) for name in QUICK}
    os.environ.update(QUICK)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def away(error: BaseException | None) -> str:
    """Why a store could not be reached, in a few words; empty for errors of other kinds."""
    while error is not None:
        if isinstance(error, ConnectionError) or _of_requests(error, "ConnectionError", "Timeout"):
            found = re.search(r"Connection refused|Connection reset|timed out|Name or service not known", str(error))
            return found[0].lower() if found else type(error).__name__
        if _of_requests(error, "RetryError") and (found := _TOO_MANY.search(str(error))):
            return f"HTTP {found[1]}"
        if isinstance(error, MlflowException) and error.get_http_status_code() in _AWAY:
            text = str(error)
            # a database's errors are all "temporarily unavailable" to MLflow; one that is locked is
            if "sqlite3" not in text or "locked" in text:
                return f"HTTP {error.get_http_status_code()}" if "locked" not in text else "the database is locked"
        error = error.__cause__ or error.__context__
    return ""


def _of_requests(error: BaseException, *names: str) -> bool:
    """Whether an error is one of requests', which MLflow brings along."""
    return any(c.__name__ in names and c.__module__ == "requests.exceptions" for c in type(error).__mro__)


def patiently(call: Callable[[], T], uri: str, seconds: float, then: str = "") -> T:
    """What a call gives, tried again while the store is away.

    Args:
        call: Asks the store; may be called several times.
        uri: The store, for messages.
        seconds: For how long.
        then: What happens after that, for messages.

    Raises:
        AwayError: It was away all the time.
    """
    began = told = None
    while True:
        try:
            with quick():
                found = call()
        except Exception as error:
            reason, now = away(error), time.monotonic()
            if not reason:
                raise
            began = now if began is None else began
            rest = seconds - (now - began)
            if rest <= 0:
                raise AwayError(f"the tracking server {uri} does not answer ({reason})") from error
            if told is None or now - told >= EVERY:
                told = now
                line(f"the tracking server {uri} does not answer ({reason}); asking again for {rest:.0f} s{then}")
            time.sleep(min(PAUSE, rest))
        else:
            if began is not None:
                line(f"the tracking server answers again after {time.monotonic() - began:.0f} s")
            return found


def line(text: str) -> None:
    """Tell the user at once."""
    print(text, file=sys.stderr, flush=True)

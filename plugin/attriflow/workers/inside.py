"""What runs in a worker process: units from a pipe, one after the other."""

from __future__ import annotations

import os
import pickle
import queue
import signal
import threading
from multiprocessing.connection import Connection
from typing import Any

from attriflow.errors import reason_of
from attriflow.workers.units import BrokenWorkerError, Factory, answer, sendable


def serve(pipe: Connection, factory: Factory) -> None:
    """Load, then do what comes, until the driver is gone. Whatever goes through the pipe is pickled bytes.

    The pipe is read by a thread of its own, so that a driver that was killed ends its workers in the middle of a unit.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the driver ends its workers
    coming = queue.SimpleQueue[Any]()
    threading.Thread(target=_read, args=(pipe, coming), daemon=True).start()
    try:
        work = factory()
    except Exception as error:
        pipe.send_bytes(pickle.dumps(("unable", (reason_of(error), sendable(error)))))
        return
    pipe.send_bytes(pickle.dumps(("ready", None)))
    while True:
        payload = pickle.loads(coming.get())
        try:
            pipe.send_bytes(answer(work, payload))
        except BrokenWorkerError as error:
            pipe.send_bytes(pickle.dumps(("broken", str(error))))
            return


def _read(pipe: Connection, coming: queue.SimpleQueue[Any]) -> None:
    try:
        while True:
            coming.put(pipe.recv_bytes())
    except (EOFError, OSError):
        os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))  # whatever the main thread does

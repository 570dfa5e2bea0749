"""Work for workers, some of which ends them. Light to import, as workers import it."""

from __future__ import annotations

import json
import os
import signal
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from attriflow.errors import InputError
from attriflow.workers import Unit, run_units


class Worker:
    def __init__(self, fail: bool = False) -> None:
        if fail:
            raise InputError("there is no such model")

    def __call__(self, task: tuple[str, Any]) -> Any:
        kind, value = task
        if kind == "square":
            return value**2
        if kind == "sleep":
            time.sleep(value)
        if kind == "pid":
            return os.getpid()
        if kind == "raise":
            raise InputError("no such text")
        if kind == "full":
            raise MemoryError("no room for this text")
        if kind == "lambda":
            return lambda: None
        if kind == "kill once" and Path(value).exists():
            return "the second time"
        if kind == "kill once":
            Path(value).touch()
        if kind in ("kill", "kill once"):
            os.kill(os.getpid(), signal.SIGKILL)
        return None


def units_of(tasks: Iterable[tuple[str, Any]]) -> list[Unit]:
    return [Unit(str(i), task) for i, task in enumerate(tasks)]


class Lines:
    """Explains the first texts of a demo data set: (model, method) -> lines as a data set's run writes them."""

    def __init__(self) -> None:
        import torch

        import attriflow

        torch.set_num_threads(1)
        self.models = {name: attriflow.load_model(f"demo/{name}", device="cpu") for name in ("recall", "translate")}

    def __call__(self, task: tuple[str, str]) -> list[str]:
        from attriflow.demo import demo_path
        from attriflow.io.records import dumps
        from attriflow.streaming.rows import records

        name, method = task
        with Path(demo_path(f"demo/{name}"), "data.jsonl").open(encoding="utf-8") as f:
            texts = [json.loads(next(f))["input"] for _ in range(3)]
        out = self.models[name].attribute(texts, method=method, show_progress=False)
        return [dumps(record) for record in records(0, [[a] for a in out])]


def wait_for_long(engine: str, address: str | None = None) -> None:
    from attriflow.workers import processes

    processes._accelerators = lambda: ("", [])  # torch takes seconds
    units = units_of([("pid", None), *[("sleep", 600)] * 4])
    for done in run_units(Worker, units, engine=engine, workers=2, address=address):
        print(done.result, flush=True)


def nodes_come_and_go() -> None:
    """Prints who did how many units on two nodes, of which the second is lost, and a third one, which comes then."""
    from attriflow.workers import on_ray

    os.environ.update(on_ray.QUIET)
    from ray.cluster_utils import Cluster

    on_ray.JOINED = 1.0
    node = {"num_cpus": 1, "object_store_memory": 80 * 2**20}
    cluster = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
    leaves = [cluster.add_node(**node)]
    by_worker, failed = Counter[str](), []

    def units() -> Iterator[Unit]:
        for i in range(5000):
            if by_worker["actor 3"] >= 3:
                return
            yield Unit(str(i), ("sleep", 0.1))

    for done in run_units(Worker, units(), engine="ray", address=cluster.address):
        by_worker[done.worker.partition(" on ")[0]] += 1
        failed += [done.error] if done.error else []
        if leaves and min(by_worker["actor 1"], by_worker["actor 2"]) >= 2:
            cluster.remove_node(leaves.pop(), allow_graceful=False)
            cluster.add_node(**node)
    print(json.dumps({"by worker": by_worker, "failed": failed}))
    cluster.shutdown()

"""Units on workers: in this process and in processes of this machine. Ray: tests/integration/test_workers_ray.py."""

from __future__ import annotations

import functools
import itertools
import os
import signal
import socket
import subprocess
import sys
import time

import psutil
import pytest
from working import Worker, units_of

from attriflow.errors import InputError, MissingExtraError, UnknownNameError
from attriflow.workers import Unit, processes, run_units
from attriflow.workers.dispatch import AHEAD, Answered, Dispatch, Lost, Ready
from attriflow.workers.processes import share
from attriflow.workers.units import Answer


def spawned() -> list[psutil.Process]:
    return [p for p in psutil.Process().children() if "spawn_main" in " ".join(p.cmdline())]


def test_processes_do_what_local_does_and_survive_what_kills_them(tmp_path):
    once = tmp_path / "once"
    tasks = [("square", i) for i in range(20)]
    tasks[3], tasks[5], tasks[8], tasks[9] = ("kill", ""), ("raise", ""), ("kill once", str(once)), ("lambda", "")
    made = list(run_units(Worker, units_of(tasks), engine="processes", workers=2, ordered=True))
    assert [done.unit.id for done in made] == [str(i) for i in range(20)]
    wrong = {int(done.unit.id): done for done in made if done.error}
    assert set(wrong) == {3, 5, 9}
    assert wrong[3].error.startswith("lost its worker 3 times: it was killed (SIGKILL)") and wrong[3].cause is None
    assert wrong[5].error == "no such text" and type(wrong[5].cause) is InputError
    assert "pickle" in wrong[9].error
    assert made[8].result == "the second time"
    good = [done for i, done in enumerate(made) if i not in (3, 5, 8, 9)]
    assert [done.result for done in good] == [int(done.unit.id) ** 2 for done in good]
    assert {done.worker for done in made} > {"process 1", "process 2"}  # and those in their place
    local = list(run_units(Worker, (u for u in units_of(tasks) if u.payload[0] in ("square", "raise"))))
    assert [(d.unit, d.result, d.error) for d in local if not d.error] == [(d.unit, d.result, d.error) for d in good]
    assert [d.error for d in local if d.error] == [wrong[5].error]
    assert not spawned()


def test_a_worker_that_cannot_load_says_so_before_the_work_starts():
    taken = []
    units = (taken.append(u) or u for u in units_of([("square", i) for i in range(9)]))
    with pytest.raises(InputError, match=r"^there is no such model$"):
        list(run_units(functools.partial(Worker, fail=True), units, engine="processes", workers=2))
    assert len(taken) == 1  # the one that showed that there is work


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])  # SIGTERM ends a driver as SIGKILL does
def test_workers_end_with_the_driver(number, tmp_path):
    path = ":".join([os.path.dirname(__file__) + "/../toys", os.environ.get("PYTHONPATH", "")])
    code = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # ignored in the background
    code += "from working import *; wait_for_long('processes')"
    driver = subprocess.Popen(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert driver.stdout.readline().strip().isdigit()
    workers = psutil.Process(driver.pid).children(recursive=True)
    assert len(workers) >= 2
    (os.killpg if number == signal.SIGINT else os.kill)(driver.pid, number)
    _, told = driver.communicate(timeout=30)
    assert told.count("KeyboardInterrupt") == (number == signal.SIGINT), told  # the driver's own
    _, alive = psutil.wait_procs(workers, timeout=10)
    assert not alive


def test_what_cannot_be():
    with pytest.raises(UnknownNameError, match="did you mean 'processes'"):
        run_units(Worker, [], engine="process")
    with pytest.raises(InputError, match="'local' is one worker, not 2"):
        run_units(Worker, [], workers=2)
    with pytest.raises(InputError, match="no use for the address"):
        run_units(Worker, [], engine="processes", address="here:1")
    with pytest.raises(InputError, match="workers must be an integer of at least 1"):
        run_units(Worker, [], engine="processes", workers=0)
    assert list(run_units(functools.partial(Worker, fail=True), [], engine="processes")) == []  # nothing is started


def test_an_extra_that_is_missing(monkeypatch):
    from attriflow.workers import on_ray

    monkeypatch.setattr(on_ray, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"attriflow\[ray\]"):
        run_units(Worker, [], engine="ray")


def test_devices_are_shared():
    assert [list(share(8, i, 4)) for i in range(4)] == [[0, 1], [2, 3], [4, 5], [6, 7]]
    assert [list(share(2, i, 4)) for i in range(4)] == [[0], [1], [0], [1]]
    assert list(share(4, 0, 1)) == [0, 1, 2, 3] and list(share(0, 0, 2)) == []
    assert [list(share(8, i, 3)) for i in range(3)] == [[0, 1], [2, 3], [4, 5]]


def test_what_a_process_sees(monkeypatch):
    monkeypatch.setattr(processes, "cores", lambda: 8)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    seen = dict.fromkeys(("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES"), "GPU-c,GPU-d")
    gpus = ["GPU-a", "GPU-b", "GPU-c", "GPU-d"]
    assert processes._settings("cuda", gpus, 1, 2) == {"OMP_NUM_THREADS": "4", **seen}
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert processes._settings("", [], 3, 2) == {"OMP_NUM_THREADS": "2"}
    monkeypatch.setattr(processes, "_accelerators", lambda: ("cuda", gpus))
    assert processes.Processes(Worker, None).n == 4
    before = dict(os.environ)
    with processes._environment({"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "3"}):
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "3"
    assert dict(os.environ) == before


def test_parts_of_a_cluster():
    from attriflow.workers.on_ray import _share

    assert _share(8, 8, 4) == 2 and _share(16, 4, 2) == 4  # no node has eight
    assert _share(8, 8, 3) == 2 and _share(2, 2, 2) == 1
    assert _share(2, 2, 64) == 0.031 and 64 * _share(2, 2, 64) <= 2


class Simulated:
    """Workers without processes: each needs as many rounds of `wait` for a unit as its payload says."""

    def __init__(self, n: int, seconds: float = 0.1) -> None:
        self.n, self.seconds = n, seconds
        self.left, self.count, self.most, self.closed = {}, 0, 0, False

    def hire(self):
        self.count += 1
        self.left[str(self.count)] = None
        return str(self.count)

    def give(self, worker, payload):
        self.left[worker].append(payload)
        self.most = max(self.most, sum(len(q) for q in self.left.values() if q))

    def wait(self):
        out = []
        for worker, queue in list(self.left.items()):
            if queue is None:
                self.left[worker] = []
                out.append(Ready(worker, worker))
            elif queue:
                queue[0] -= 1
                if queue[0] < -90:
                    del self.left[worker]
                    out.append(Lost(worker, "gone"))
                elif queue[0] == 0:
                    queue.pop(0)
                    out.append(Answered(worker, Answer("done", None, self.seconds)))
        return out

    def wanted(self):
        return self.n

    def waits_for_all(self):
        return True

    def close(self):
        self.closed = True


def test_few_units_are_under_way_and_order_is_kept():
    read = itertools.count()
    crew = Simulated(4)
    rounds = [50, *[1] * 399]
    units = (Unit(str(next(read)), n) for n in rounds)
    out = Dispatch(crew, units, 3, True).run()
    first = next(out)
    assert first.unit.id == "0"
    assert next(read) <= AHEAD * 4 + 2 and crew.most <= 2 * 4  # a slow one holds the others up, memory stays
    assert [int(d.unit.id) for d in out][:5] == [1, 2, 3, 4, 5]
    assert crew.closed
    crew = Simulated(4, seconds=60.0)
    assert len(list(Dispatch(crew, (Unit(str(i), 1) for i in range(40)), 3, False).run())) == 40
    assert crew.most == 4  # long units wait with the driver, where any worker may have them


def test_a_lost_worker_costs_its_unit_only():
    crew = Simulated(3)
    out = list(Dispatch(crew, (Unit(str(i), -90 if i == 4 else 1) for i in range(30)), 3, False).run())
    assert len(out) == 30 and [d.unit.id for d in out if d.error] == ["4"]
    assert next(d for d in out if d.error).error == "lost its worker 3 times: gone"
    assert crew.count == 3 + 3


def test_an_answer_that_went_down_with_its_worker_is_not_blamed_on_its_unit():
    """The worker was lost by the unit behind it: whoever was there is tried again by himself."""

    class Unheard(Simulated):
        def wait(self):
            for worker, queue in list(self.left.items()):
                if queue and queue[0] == 1 and queue[-1] < 0:  # it answers, begins the next, and nobody has heard
                    del self.left[worker]
                    return [Lost(worker, "gone")]
            return super().wait()

    crew = Unheard(1)
    out = list(Dispatch(crew, (Unit(str(i), -90 if i == 3 else 1) for i in range(8)), 3, True).run())
    assert [d.unit.id for d in out if d.error] == ["3"] and len(out) == 8
    assert next(d for d in out if d.error).error == "lost its worker 3 times: gone"


def test_memory_that_ran_out_is_tried_elsewhere():
    class Full(Simulated):
        def wait(self):
            found = super().wait()
            full = [Answered(e.worker, Answer(None, "full", 0.1, MemoryError("full"), True)) for e in found
                    if isinstance(e, Answered) and e.worker == "1"]  # fmt: skip
            return [e for e in found if not (isinstance(e, Answered) and e.worker == "1")] + full

    out = list(Dispatch(Full(2), (Unit(str(i), 1) for i in range(10)), 3, False).run())
    assert sorted(int(d.unit.id) for d in out) == list(range(10)) and not [d for d in out if d.error]
    out = list(Dispatch(Full(1), (Unit(str(i), 1) for i in range(2)), 3, False).run())
    assert [(d.error, type(d.cause)) for d in out] == [("full", MemoryError)] * 2


def test_an_iterator_that_is_left_ends_its_workers():
    out = run_units(Worker, units_of([("square", i) for i in range(9)]), engine="processes", workers=1)
    next(out)
    (child,) = spawned()
    begin = time.monotonic()
    out.close()
    assert not child.is_running() and time.monotonic() - begin < 10


def test_a_cluster_that_is_not_there():
    pytest.importorskip("ray")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    begin = time.monotonic()
    with pytest.raises(InputError, match=f"^no Ray cluster at {address}: Connection refused$"):
        list(run_units(Worker, units_of([("square", 1)]), engine="ray", address=address))
    with pytest.raises(InputError, match="'here' is no address of a Ray cluster: give HOST:PORT"):
        list(run_units(Worker, units_of([("square", 1)]), engine="ray", address="here"))
    assert time.monotonic() - begin < 20

"""What the driver's meter counts, and that what processes set is what Ray exports."""

import asyncio
import re
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from actors.status import MeteredProgress, keep_utilisation
from actors.team import Gate, PooledRole
from actors.telemetry import METRICS, RoleSize, RunMeter
from itercomp_rl.loop.worker_pool import WorkerPool
from itercomp_rl.observability.metrics import MetricsLog
from itercomp_rl.observability.trackers import TrackedRun, Trackers

GPU = RoleSize(members=2, devices=1.0, device="gpu")


def test_a_role_is_as_busy_as_it_has_members_and_the_rest_waits() -> None:
    meter = RunMeter({"roller": GPU})
    with meter.order("roller"), meter.order("roller"), meter.order("roller"):
        assert (meter.busy("roller"), meter.waiting("roller")) == (2, 1)
    assert (meter.busy("roller"), meter.waiting("roller")) == (0, 0)


class Clock:
    """Seconds, moved by hand."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_utilisation_counts_the_devices_of_idle_roles_too() -> None:
    clock = Clock()
    meter = RunMeter({"roller": GPU, "sampler": RoleSize(members=6, devices=1.0, device="gpu")}, clock=clock)
    with meter.order("roller"), meter.order("roller"):
        clock.now += 20
        assert meter.utilisation() == {"gpu": pytest.approx(2 / 8)}


def test_half_the_time_is_half_the_utilisation_and_a_member_counts_by_its_devices() -> None:
    clock = Clock()
    roles = {
        "judge": RoleSize(members=1, devices=3.0, device="gpu"),
        "roller": RoleSize(members=1, devices=1.0, device="gpu"),
    }
    meter = RunMeter(roles, clock=clock)
    with meter.order("judge"):
        clock.now += 10
    clock.now += 10
    assert meter.utilisation() == {"gpu": pytest.approx(0.5 * 3 / 4)}


def test_a_window_forgets_what_was_before_it() -> None:
    clock = Clock()
    meter = RunMeter({"judge": GPU}, clock=clock)
    with meter.order("judge"), meter.order("judge"):
        clock.now += 100
    clock.now += 45
    assert meter.utilisation() == {"gpu": pytest.approx(0.25)}  # 15 of the last 60 seconds
    clock.now += 60
    assert meter.utilisation() == {"gpu": 0.0}


def test_shared_processes_are_counted_once_whatever_roles_they_hold() -> None:
    clock = Clock()
    meter = RunMeter(
        {"roller": GPU, "sampler": GPU},
        shared={("roller", "sampler"): RoleSize(members=2, devices=1.0, device="cpu")},
        clock=clock,
    )
    with meter.order("roller"), meter.order("sampler"), meter.order("sampler"):
        clock.now += 5
        assert meter.utilisation() == {"cpu": pytest.approx(1.0)}


def test_roles_that_share_processes_stand_beside_those_that_do_not() -> None:
    clock = Clock()
    roles = {"roller": GPU, "sampler": GPU, "judge": RoleSize(members=2, devices=1.0, device="gpu")}
    meter = RunMeter(roles, shared={("roller", "sampler"): RoleSize(members=2, devices=1.0, device="gpu")}, clock=clock)
    with meter.order("roller"), meter.order("sampler"), meter.order("sampler"), meter.order("judge"):
        clock.now += 5
        assert meter.utilisation() == {"gpu": pytest.approx(3 / 4)}


class Member:
    """Behaves as RemoteRole does: rolls for ten seconds of its clock, and finds no image to rank."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    async def call(self, method: str, order: int) -> int:
        if method == "rank":
            raise ValueError("no such image")
        await asyncio.sleep(0.01)
        self.clock.now += 10
        return order + 1


def pool(kind: str, members: int, gate: Gate, clock: Clock) -> PooledRole:
    free: Any = WorkerPool({kind: 0}, [{kind: Member(clock)} for _ in range(members)])
    return PooledRole(free, kind, 0, gate)


def test_orders_are_counted_as_long_as_they_take_and_shares_are_reported_at_the_end() -> None:
    told: list[dict[str, float]] = []
    one, clock = RoleSize(members=1, devices=1.0, device="cpu"), Clock()
    meter = RunMeter({"roller": RoleSize(members=2, devices=1.0, device="cpu"), "judge": one}, clock=clock)
    gate = Gate(meter)

    async def run() -> None:
        keeper = asyncio.create_task(keep_utilisation(meter, lambda metrics: told.append(dict(metrics)), 600.0))
        assert await pool("roller", 2, gate, clock).call("roll", 1) == 2
        with pytest.raises(ValueError, match="no such image"):
            await pool("judge", 1, gate, clock).call("rank", 1)
        keeper.cancel()
        await asyncio.wait([keeper])

    asyncio.run(run())
    assert (meter.busy("roller"), meter.busy("judge")) == (0, 0), "an order that failed is over too"
    assert told == [{"utilisation/roller": 0.5, "utilisation/judge": 0.0}]  # one of two rolled all the time


def test_shares_are_reported_again_and_again() -> None:
    told: list[dict[str, float]] = []

    async def run() -> None:
        meter = RunMeter({"roller": GPU})
        keeper = asyncio.create_task(keep_utilisation(meter, lambda metrics: told.append(dict(metrics)), 0.001))
        while len(told) < 3:
            await asyncio.sleep(0.001)
        keeper.cancel()
        await asyncio.wait([keeper])

    asyncio.run(run())
    assert all(metrics == {"utilisation/roller": 0.0} for metrics in told)


def test_an_order_that_waits_for_a_member_is_counted_as_waiting() -> None:
    meter = RunMeter({"roller": RoleSize(members=1, devices=1.0, device="cpu")})

    async def run() -> None:
        rollers = pool("roller", 1, Gate(meter), Clock())
        orders = [asyncio.create_task(rollers.call("roll", number)) for number in range(3)]
        await asyncio.sleep(0)
        assert (meter.busy("roller"), meter.waiting("roller")) == (1, 2)
        await asyncio.gather(*orders)
        assert (meter.busy("roller"), meter.waiting("roller")) == (0, 0)

    asyncio.run(run())


def test_progress_passes_through_and_is_remembered(tmp_path: Path) -> None:
    meter = RunMeter({"roller": GPU})
    log = MetricsLog(tmp_path, Trackers([], TrackedRun(project="tests", name="one", folder=tmp_path, settings={})))
    with MeteredProgress(log, meter).phase("policy", 4, 2) as advance:
        advance(1, {"policy/lag_updates": 1.0, "policy/reward_spatial": 0.5})
        advance(2, {})
    log.close()
    tree = meter.tree()
    assert (tree["round"], tree["phase"], tree["done"], tree["total"]) == (2, "policy", 3, 4)
    assert tree["values"]["policy/reward_spatial"] == 0.5
    assert "policy/lag_updates" in (tmp_path / "metrics.jsonl").read_text()


SCRAPED = """
import os, sys, time, urllib.request
os.environ["RAY_metrics_report_interval_ms"] = "500"
import ray
from actors.telemetry import METRICS, ProcessMeter, RoleSize, RunMeter, put_again
import numpy as np

class Work:
    def __init__(self):
        from itercomp_rl.store.store import open_store
        self.meter, self.store = ProcessMeter("roller-0"), open_store("memory://", create=True)
    def roll(self, order):
        with self.meter.call("roller-0", "roll", (order,)):
            self.store.put("k", "a", {"x": np.arange(3)}, {})
            self.store.get("k", "a")
    def fail(self):
        with self.meter.call("roller-0", "fail", ()):
            raise ValueError("no")

class Order:
    prompts = (1, 2, 3)

port = int(sys.argv[1])
ray.init(address="local", num_cpus=1, include_dashboard=False, _metrics_export_port=port, _temp_dir=sys.argv[2])
worker = ray.remote(Work).remote()
meter = RunMeter({"roller": RoleSize(members=1, devices=1.0, device="gpu")})
values = {"policy/lag_updates": 1, "policy/reward_spatial": 0.5, "policy/refl_loss": 0.1, "reward/spatial_loss": 0.2,
          "reward/spatial_held_out_accuracy": 0.8, "time/policy_s": 3}
meter.advanced("policy", 1, 4, 0, values)
meter.utilisation()
ray.get(worker.roll.remote(Order()))
try:
    ray.get(worker.fail.remote())
except ValueError:
    pass
text = ""
for _ in range(60):
    time.sleep(0.5)
    put_again()
    try:
        text = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5).read().decode()
    except OSError:
        continue
    if all(f"ray_itercomp_{name}" in text for name in METRICS):
        break
print(text)
ray.shutdown()
"""


@pytest.mark.slow
def test_ray_exports_every_metric_under_its_name(tmp_path_factory: pytest.TempPathFactory) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    folder = tmp_path_factory.mktemp("r")
    found = subprocess.run(
        [sys.executable, "-c", SCRAPED, str(port), str(folder)],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    exported = set(re.findall(r"^ray_(itercomp_\w+)", found.stdout, flags=re.MULTILINE))
    for spec in METRICS.values():
        assert f"{spec.name}{'_bucket' if spec.kind == 'histogram' else ''}" in exported
    assert re.search(r'ray_itercomp_items_total\{.*role="roller".*\} 3.0', found.stdout)

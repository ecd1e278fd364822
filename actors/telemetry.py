"""Every metric of a run, in one table, and the two places that set them: each worker process, and the driver's loop.

Ray exports them on every node, for Prometheus; cluster/manifests/grafana.json shows them. A metric `itercomp_x` is
called `ray_itercomp_x` there.
"""

import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

from ray.util import metrics as ray_metrics

from itercomp_rl.observability.utilisation import Meter
from itercomp_rl.store.traffic import TRAFFIC

SECONDS = [0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0]  # histogram boundaries


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricSpec:
    """MetricSpec(name="itercomp_round", kind="gauge", tags=(), what="The round under way, 0 is the first.")."""

    name: str
    kind: str  # counter | gauge | histogram
    tags: tuple[str, ...]
    what: str


def _spec(name: str, kind: str, what: str, *tags: str) -> MetricSpec:
    return MetricSpec(name=f"itercomp_{name}", kind=kind, tags=tags, what=what)


METRICS = {
    spec.name.removeprefix("itercomp_"): spec
    for spec in (
        # set in every worker process
        _spec("call_seconds", "histogram", "Seconds that a role's method took.", "role", "method", "process"),
        _spec("busy_seconds_total", "counter", "Seconds in which a process worked for a role.", "role", "process"),
        _spec("items_total", "counter", "Prompts drawn, ranked, rolled out; updates learned.", "role", "process"),
        _spec("failures_total", "counter", "Calls that ended in an error.", "role", "method", "error"),
        _spec("store_bytes_total", "counter", "Bytes moved to and from the store.", "direction", "process"),
        _spec("store_seconds_total", "counter", "Seconds spent on that.", "direction", "process"),
        # set in the driver
        _spec("devices", "gauge", "Devices that a role holds: GPUs, or CPU cores.", "role", "device"),
        _spec("queue_depth", "gauge", "Orders given to a role that no member works on yet.", "role"),
        _spec("members_busy", "gauge", "Members of a role that work.", "role"),
        _spec("members", "gauge", "Members of a role.", "role"),
        _spec("device_utilisation", "gauge", "Share of all devices that work, over the last minute.", "device"),
        _spec("round", "gauge", "The round under way, 0 is the first."),
        _spec("phase_done", "gauge", "Steps done of a phase.", "phase"),
        _spec("phase_total", "gauge", "Steps of a phase.", "phase"),
        _spec("policy_lag_updates", "gauge", "Updates by which the oldest rollout of the last batch was stale."),
        _spec("policy_loss", "gauge", "Losses and norms of the policy learner.", "what"),
        _spec("policy_reward", "gauge", "Mean standardised reward of the last batch.", "aspect"),
        _spec("reward_loss", "gauge", "Pair loss in nats.", "aspect"),
        _spec("reward_accuracy", "gauge", "Held-out pair accuracy.", "aspect"),
        _spec("phase_seconds", "gauge", "Seconds that a phase of a round took.", "phase"),
    )
}


@cache
def _metric(name: str) -> Any:  # Any: a Counter, Gauge or Histogram of Ray
    spec = METRICS[name]
    if spec.kind == "histogram":
        return ray_metrics.Histogram(spec.name, spec.what, boundaries=SECONDS, tag_keys=spec.tags)
    made = {"counter": ray_metrics.Counter, "gauge": ray_metrics.Gauge}[spec.kind]
    return made(spec.name, spec.what, tag_keys=spec.tags)


def add(name: str, amount: float, **tags: str) -> None:
    """Raise a counter; nothing happens for 0, which Ray refuses."""
    if amount > 0:
        _metric(name).inc(amount, tags)


def put(name: str, value: float, **tags: str) -> None:
    """Set a gauge."""
    _GAUGES[name, tuple(sorted(tags.items()))] = value
    _metric(name).set(value, tags)


def put_again() -> None:
    """Set every gauge of this process to what it is: Ray exports a gauge only for a moment after it was set."""
    for (name, tags), value in list(_GAUGES.items()):
        _metric(name).set(value, dict(tags))


_GAUGES: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}


class ProcessMeter:
    """What one worker process reports of itself."""

    def __init__(self, process: str) -> None:
        self._process = process
        self._moved: defaultdict[str, float] = defaultdict(float)

    @contextmanager
    def call(self, role: str, method: str, arguments: tuple[Any, ...]) -> Iterator[None]:
        """Around one call of a role's method. Any: as the role's Protocol says."""
        kind = role.rsplit("-", 1)[0]
        began = time.monotonic()
        try:
            yield
        except BaseException as error:
            add("failures_total", 1, role=kind, method=method, error=type(error).__name__)
            raise
        finally:
            spent = time.monotonic() - began
            _metric("call_seconds").observe(spent, {"role": kind, "method": method, "process": self._process})
            add("busy_seconds_total", spent, role=kind, process=self._process)
            self._report_traffic()
        add("items_total", _items(method, arguments), role=kind, process=self._process)

    def _report_traffic(self) -> None:
        for direction in ("read", "write"):
            for what, total in (("bytes", TRAFFIC.bytes[direction]), ("seconds", TRAFFIC.seconds[direction])):
                key = f"{direction} {what}"
                add(f"store_{what}_total", total - self._moved[key], direction=direction, process=self._process)
                self._moved[key] = total


def _items(method: str, arguments: tuple[Any, ...]) -> int:
    if method == "update":
        return 1
    if method == "advance":
        return arguments[0]
    return len(getattr(arguments[0], "prompts", ())) if arguments else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class RoleSize:
    """RoleSize(members=12, devices=1.0, device="gpu"): twelve members of one GPU each."""

    members: int
    devices: float
    device: str


class RunMeter:
    """What the driver knows: orders given and done, the phase, training values. Also what `itercomp status` shows."""

    def __init__(
        self,
        roles: Mapping[str, RoleSize],
        shared: Mapping[tuple[str, ...], RoleSize] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """shared: processes that host several roles each; the devices of these roles are then counted by them."""
        self.roles, self._shared, self._clock = dict(roles), dict(shared or {}), clock
        self._work = Meter({role: size.members for role, size in roles.items()}, clock)
        self.round, self.phase, self.done, self.total = 0, "", 0, 0
        self.values: dict[str, float] = {}
        self._busy: deque[tuple[float, dict[str, int]]] = deque()
        for role, size in self.roles.items():
            put("members", size.members, role=role)
            put("devices", size.members * size.devices, role=role, device=size.device)
        self._note()

    @contextmanager
    def order(self, role: str, members: int = 1) -> Iterator[None]:
        """Around one order, from when the loop gives it until it is done; so many members work on it together."""
        self._work.begin(role, members)
        self._note()
        try:
            yield
        finally:
            self._work.end(role, members)
            self._note()

    def busy(self, role: str) -> int:
        """Members of a role that work now: an idle member takes an order at once."""
        return min(self._work.under_way[role], self.roles[role].members)

    def waiting(self, role: str) -> int:
        """Orders of a role that no member works on yet."""
        return self._work.under_way[role] - self.busy(role)

    def advanced(self, phase: str, done: int, total: int, round_: int, values: Mapping[str, float]) -> None:
        """A phase moved on and reported values."""
        self.round, self.phase, self.done, self.total = round_, phase, done, total
        put("round", round_)
        put("phase_done", done, phase=phase)
        put("phase_total", total, phase=phase)
        for name, value in values.items():
            self.values[name] = value
            _put_value(name, value)

    def shares(self) -> dict[str, float]:
        """Busy share of each role's members since the last call, 0..1."""
        return self._work.shares()

    def utilisation(self, window_s: float = 60.0) -> dict[str, float]:
        """Share of all devices of each sort that worked in the last seconds, counted by device, idle roles too."""
        now = self._clock()
        self._note()
        begin = now - window_s
        worked: defaultdict[str, float] = defaultdict(float)
        spans = list(self._busy)
        ends = [began for began, _ in spans[1:]] + [now]
        for (began, busy), end in zip(spans, ends, strict=True):
            for size, count in self._holders(busy):
                worked[size.device] += max(0.0, end - max(began, begin)) * count * size.devices
        length = max(1e-9, now - max(begin, spans[0][0]))
        there: defaultdict[str, float] = defaultdict(float)
        for size, _ in self._holders({}):
            there[size.device] += size.members * size.devices
        found = {device: worked[device] / length / amount for device, amount in there.items() if amount}
        for device, share in found.items():
            put("device_utilisation", share, device=device)
        while len(self._busy) > 1 and self._busy[1][0] < begin:
            self._busy.popleft()
        return found

    def _holders(self, busy: Mapping[str, int]) -> list[tuple[RoleSize, int]]:
        """Who holds devices, and how many of them work: roles, or the processes that they share."""
        found = [
            (size, min(size.members, sum(busy.get(role, 0) for role in roles))) for roles, size in self._shared.items()
        ]
        sharing = {role for roles in self._shared for role in roles}
        return found + [(size, busy.get(role, 0)) for role, size in self.roles.items() if role not in sharing]

    def tree(self) -> dict[str, Any]:
        """Everything as plain JSON, for status.json."""
        return {
            "time": time.time(),
            "round": self.round,
            "phase": self.phase,
            "done": self.done,
            "total": self.total,
            "utilisation": self.utilisation(),
            "roles": {
                role: {
                    "members": size.members,
                    "devices": f"{size.devices:g} {size.device}",
                    "busy": self.busy(role),
                    "waiting": self.waiting(role),
                }
                for role, size in self.roles.items()
            },
            "values": self.values,
        }

    def _note(self) -> None:
        self._busy.append((self._clock(), {role: self.busy(role) for role in self.roles}))
        for role in self.roles:
            put("queue_depth", self.waiting(role), role=role)
            put("members_busy", self.busy(role), role=role)


def _put_value(name: str, value: float) -> None:
    """The gauge of one training value, by the name it has in metrics.jsonl."""
    who, _, what = name.partition("/")
    if name == "policy/lag_updates":
        put("policy_lag_updates", value)
    elif who == "policy" and what.startswith("reward_"):
        put("policy_reward", value, aspect=what.removeprefix("reward_"))
    elif who == "policy":
        put("policy_loss", value, what=what)
    elif who == "reward" and what.endswith("_held_out_accuracy"):
        put("reward_accuracy", value, aspect=what.removesuffix("_held_out_accuracy"))
    elif who == "reward" and what.endswith("_loss"):
        put("reward_loss", value, aspect=what.removesuffix("_loss"))
    elif who == "time":
        put("phase_seconds", value, phase=what.removesuffix("_s"))

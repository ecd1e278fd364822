"""What the loop reads from the store to know what is done, and how good it is."""

from collections.abc import Mapping
from dataclasses import replace

from itercomp_rl.evaluation.probes import load_probe, probe_values
from itercomp_rl.evaluation.scores import mean_gain
from itercomp_rl.items import RewardReport
from itercomp_rl.plan import Plan
from itercomp_rl.store import weights
from itercomp_rl.store.kinds import POLICY, reward_role
from itercomp_rl.store.retention import Lease, lease, release
from itercomp_rl.store.store import Store

HELD_S = 7 * 86400.0  # longer than a round


class StoreLedger:
    """Satisfies loop.Ledger."""

    def __init__(self, store: Store, plan: Plan) -> None:
        self._store, self._plan = store, plan

    def has(self, kind: str, id_: str) -> bool:
        return self._store.has(kind, id_)

    def reward_report(self, aspect: str, version: int) -> RewardReport | None:
        published = weights.find(self._store, reward_role(aspect), version)
        if published is None:
            return None
        report = RewardReport(**published.attrs["report"])
        weight = self._plan.config.reward.weights[aspect]  # a reused report may state another run's
        return replace(report, weight=weight)

    def has_policy(self, version: int) -> bool:
        return weights.find(self._store, POLICY, version) is not None

    def hold(self, use: str, reports: Mapping[str, RewardReport]) -> None:
        for aspect, report in reports.items():
            reader = f"driver-{use}-{aspect}"
            if report.live_role is None:  # published for good: it stays anyway
                release(self._store, reader)
                continue
            expires_s = self._store.clock() + HELD_S
            lease(
                self._store,
                Lease(reader=reader, role=report.live_role, version=report.version, expires_s=expires_s),
            )

    def reference_rewards(self, round_: int) -> Mapping[str, RewardReport]:
        found = {}
        for aspect in self._plan.config.prompts.aspects:
            versions = sorted({self._plan.reward_version(earlier) for earlier in range(round_ + 1)})
            reports = (self.reward_report(aspect, version) for version in versions)
            least = self._plan.config.reward.min_accuracy
            if first := next((report for report in reports if report and report.accuracy >= least), None):
                found[aspect] = first
        return found

    def probe_values(self, round_: int, update: int) -> Mapping[str, float]:
        first = load_probe(self._store, self._plan, round_, self._plan.probe_updates[0])
        probe = load_probe(self._store, self._plan, round_, update)
        return probe_values(first, probe, self._plan)

    def gain_over_base(self, version: int) -> tuple[float, float]:
        return mean_gain(self._store, self._plan, version)

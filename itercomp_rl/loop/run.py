"""What every part of the loop works with."""

from dataclasses import dataclass

from itercomp_rl.loop.crashing_prompts import Drawing
from itercomp_rl.loop.dispatch import Orders
from itercomp_rl.loop.roles import Ledger, Progress, Team
from itercomp_rl.plan import Plan


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run: its plan, who does the work, and what is known of it so far."""

    plan: Plan
    team: Team
    ledger: Ledger
    progress: Progress
    orders: Orders
    drawing: Drawing


def begin(plan: Plan, team: Team, ledger: Ledger, progress: Progress) -> Run:
    """A run of which nothing is under way."""
    drawing = Drawing(team.sampler, plan.config.actors.max_skipped_prompts)
    return Run(plan=plan, team=team, ledger=ledger, progress=progress, orders=Orders(ledger.has), drawing=drawing)

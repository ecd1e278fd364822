"""SIGTERM to the driver: work under way ends, learners keep what they learned, and the run goes on with --resume."""

import asyncio
import logging
import signal
from typing import NoReturn

from actors.team import Gate
from itercomp_rl.errors import StoppedError, WorkerDiedError
from itercomp_rl.loop.dispatch import together
from itercomp_rl.loop.roles import Team

log = logging.getLogger(__name__)


async def stop_on_sigterm(team: Team, gate: Gate, grace_s: float) -> NoReturn:
    """Wait for SIGTERM, then end the run in order, within `grace_s`. Raises: StoppedError."""
    asked, loop = asyncio.Event(), asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, asked.set)
    try:
        await asked.wait()
        log.warning("SIGTERM came: nothing new begins, what is under way has %g s to end", grace_s)
        kept = await _keep(team, gate, grace_s)
        raise StoppedError(f"stopped by SIGTERM; {kept}. Go on with --resume")
    finally:
        loop.remove_signal_handler(signal.SIGTERM)


async def _keep(team: Team, gate: Gate, grace_s: float) -> str:
    async def keep_learned() -> None:
        await gate.quiet(of_learners=True)
        await together(learner.checkpoint() for learner in [team.policy_learner, *team.reward_learners.values()])

    gate.close()
    try:
        async with asyncio.timeout(grace_s):
            # Learners do not wait for others: a segment of images may take longer than there is time.
            await together([gate.quiet(of_learners=False), keep_learned()])
    except TimeoutError:
        return (
            f"what was under way did not end within actors.grace_s ({grace_s:g} s) and is done again from its last "
            "checkpoint or commit"
        )
    except WorkerDiedError as error:
        return f"{error}, so that its work is done again from its last checkpoint or commit"
    return "all that was under way is committed or in a checkpoint"

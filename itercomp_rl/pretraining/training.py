"""One training loop for every tiny model: seeded, logged, with averaged weights, resumable after a kill."""

import logging
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from itercomp_rl.files.whole import replacing

log = logging.getLogger(__name__)

CHECKPOINT_EVERY_S = 60.0


def train(
    name: str,
    module: nn.Module,
    loss_of: Callable[[int, torch.Generator], tuple[Tensor, dict[str, float]]],
    *,
    num_steps: int,
    lr: float,
    folder: Path,
    ema: float = 0.0,
    seed: int = 0,
    weight_decay: float = 0.01,
) -> None:
    """Minimise `loss_of(step, generator)` over the module's trainable parameters; AdamW, 2 % warm-up, cosine to 0.

    Step i always sees the generator seeded by (seed, i), so a resumed run makes the same draws as one never stopped.
    With `ema` > 0 the module ends with its averaged weights. Writes `folder`/NAME.pt while it runs, removes it after.
    Raises: FloatingPointError if the loss is not finite.
    """
    parameters = [p for p in module.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=lr, weight_decay=weight_decay, betas=(0.9, 0.99))
    warm_up = max(1, num_steps // 50)

    def rate(step: int) -> float:
        ramp = min(1.0, (step + 1) / warm_up)
        return ramp * 0.5 * (1 + float(torch.cos(torch.tensor(torch.pi * step / num_steps))))

    averaged = [p.detach().clone() for p in parameters]
    checkpoint = folder / f"{name}.pt"
    start = 0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        start = state["step"]
        optimizer.load_state_dict(state["optimizer"])
        for parameter, saved in zip(parameters, state["parameters"], strict=True):
            parameter.data.copy_(saved)
        averaged = state["averaged"]
        log.info("%s: resumed at step %d of %d", name, start, num_steps)
    folder.mkdir(parents=True, exist_ok=True)
    module.train()
    began = saved_at = logged_at = time.monotonic()
    for step in range(start, num_steps):
        generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
        torch.manual_seed(seed * 1_000_003 + step)  # dropout
        loss, metrics = loss_of(step, generator)
        if not torch.isfinite(loss):
            raise FloatingPointError(f"{name}: loss is {loss.item()} at step {step}; lower lr ({lr:g})")
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        metrics["grad_norm"] = float(nn.utils.clip_grad_norm_(parameters, 1.0))
        for group in optimizer.param_groups:
            group["lr"] = lr * rate(step)
        optimizer.step()
        if ema:
            decay = min(ema, (1 + step) / (10 + step))
            torch._foreach_lerp_(averaged, [p.detach() for p in parameters], 1 - decay)
        now = time.monotonic()
        if now - logged_at > 10 or step + 1 == num_steps:
            logged_at = now
            shown = " ".join(f"{key} {value:.4g}" for key, value in metrics.items())
            pace = (now - began) / (step + 1 - start)
            log.info(
                "%s: step %d of %d, %.0f ms each, loss %.4f %s",
                name,
                step + 1,
                num_steps,
                1000 * pace,
                loss.item(),
                shown,
            )
        if now - saved_at > CHECKPOINT_EVERY_S:
            saved_at = now
            state = {
                "step": step + 1,
                "optimizer": optimizer.state_dict(),
                "parameters": [p.detach() for p in parameters],
                "averaged": averaged,
            }
            with replacing(checkpoint) as new:
                torch.save(state, new)
    if ema:
        for parameter, average in zip(parameters, averaged, strict=True):
            parameter.data.copy_(average)
    module.eval()
    checkpoint.unlink(missing_ok=True)

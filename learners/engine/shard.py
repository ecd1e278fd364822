"""The training state one rank owns (master weights, Adam's moments, moving average); how it is kept and resumed."""

import hashlib
import json
import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from itercomp_rl.errors import CheckpointError
from itercomp_rl.files.flush import flush
from itercomp_rl.files.whole import replacing, write_whole
from learners.engine.spec import EngineSpec, Group

COMMIT_NAME = "engine.json"


def learning_rate(spec: EngineSpec, step: int) -> float:
    """The rate of step number `step` of the optimiser, counted from 0.

    It rises in equal parts over the first `lr_warmup` steps, the last of which has the full rate. By the cosine
    schedule it then falls to 0 at `total_steps`.
    """
    if step < spec.lr_warmup:
        return spec.lr * (step + 1) / spec.lr_warmup
    if spec.lr_schedule == "constant" or spec.total_steps is None:
        return spec.lr
    done = min((step - spec.lr_warmup) / max(spec.total_steps - spec.lr_warmup, 1), 1.0)
    return spec.lr * 0.5 * (1.0 + math.cos(math.pi * done))


def average_decay(spec: EngineSpec, step: int) -> float:
    """Weight of the past in the moving average after step number `step` (1 = the first).

    It starts low, so that a short training does not end with an average that is mostly its first weights.
    Source: the warm-up of TensorFlow's ExponentialMovingAverage, min(decay, (1 + step) / (10 + step)).
    """
    return min(spec.ema_decay, (1 + step) / (10 + step))


def fingerprint(module: nn.Module) -> str:
    """Tells two sets of trained parameters apart by name, order and shape."""
    shapes = [(name, list(p.shape)) for name, p in module.named_parameters() if p.requires_grad]
    return hashlib.sha256(json.dumps(shapes).encode()).hexdigest()


def _read_mark(path: Path) -> dict[str, Any]:
    """What a checkpoint says of itself. Raises: CheckpointError if that cannot be read."""
    try:
        saved = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(saved, dict) and isinstance(saved.get("updates"), int):
            return saved
        damage = "it names no number of updates"
    except (OSError, ValueError) as error:
        damage = str(error)
    raise CheckpointError(
        f"{path} cannot be read ({damage}): delete {path.parent} and resume again, from the checkpoint before it"
    )


class Shard:
    """Master weights by name (whole parameters, or flat pieces of them under ZeRO 1-3) and all that follows them.

    Args:
        masters: fp32 tensors that Adam updates in place.
        place: (index, count): which of how many equal parts of the whole state this is; (0, 1) is the whole.
        refresh: carries the masters over to the module's weights; collective where ranks share them out.
        parameters: the module's fingerprint, taken while its parameters were whole.
    """

    def __init__(
        self,
        spec: EngineSpec,
        group: Group | None,
        masters: dict[str, Tensor],
        adam: Any,  # Any: torch's AdamW, or bitsandbytes' that is shaped like it
        *,
        place: tuple[int, int],
        refresh: Callable[[], None],
        parameters: str,
    ) -> None:
        self.spec, self.group, self.masters, self.adam = spec, group, masters, adam
        self.index, self.count = place
        self.refresh = refresh
        self.parameters = parameters
        self.updates = 0  # since the weights were last begun with
        self.steps = 0  # of the optimiser in its whole life, which its moments and the average are of
        self.ema = {name: m.detach().clone() for name, m in masters.items()} if spec.ema_decay else {}
        self.is_swapped = False

    def set_lr(self) -> float:
        """Sets the rate of the update that is about to be made."""
        assert not self.is_swapped, "step() inside ema_swapped(): the module holds the moving average"
        lr = learning_rate(self.spec, self.steps)
        for param_group in self.adam.param_groups:
            param_group["lr"] = lr
        return lr

    @torch.no_grad()
    def count_update(self) -> None:
        """Counts an update that was made, and lets the moving average follow it."""
        self.updates += 1
        self.steps += 1
        for name, average in self.ema.items():
            average.lerp_(self.masters[name], 1.0 - average_decay(self.spec, self.steps))

    def restart_count(self) -> None:
        """Count updates from 0 again; weights, moments and moving average go on as they are."""
        self.updates = 0

    @torch.no_grad()
    def restart_average(self) -> None:
        """Let the moving average begin at the masters as they are now."""
        for name, average in self.ema.items():
            average.copy_(self.masters[name])

    @contextmanager
    def ema_swapped(self) -> Iterator[None]:
        """Exchanges masters and moving average, and back on the way out."""
        assert not self.is_swapped, "ema_swapped() is already open"
        if not self.ema:
            yield
            return
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def holding(self, ema: bool) -> AbstractContextManager[None]:
        """While open, the module holds the moving average, or else the weights that are being trained."""
        assert not self.is_swapped, "weights() inside ema_swapped(): read the module itself"
        return self.ema_swapped() if ema else nullcontext()

    @torch.no_grad()
    def _swap(self) -> None:
        for name, average in self.ema.items():
            kept = average.clone()
            average.copy_(self.masters[name])
            self.masters[name].copy_(kept)
        self.is_swapped = not self.is_swapped
        self.refresh()

    def save(self, folder: Path) -> None:
        """Every owner writes its part, then rank 0 the commit mark; a folder without the mark is no checkpoint.

        What the mark stands for is on the disk before it: after a power cut too it is all there, or no checkpoint.
        """
        assert not self.is_swapped, "save() inside ema_swapped() would swap the weights for good"
        folder.mkdir(parents=True, exist_ok=True)
        if (folder / COMMIT_NAME).exists():
            raise CheckpointError(f"{folder} already holds a checkpoint: save to a new folder")
        rank = self.group.rank if self.group else 0
        if rank == self.index:  # where nothing is shared out, rank 0 writes for all
            state = {name: tensor.contiguous() for name, tensor in self._state().items()}
            with replacing(folder / self._part_name(), durable=True) as part:
                save_file(state, part, metadata={"updates": str(self.updates), "steps": str(self.steps)})
        self._wait_for_all()
        if rank == 0:
            mark = json.dumps(self._facts() | {"updates": self.updates, "steps": self.steps}, indent=1) + "\n"
            write_whole(folder / COMMIT_NAME, mark, durable=True)
            flush(folder.parent)
        self._wait_for_all()

    def load(self, folder: Path) -> None:
        """Checks that the checkpoint is of this very training, then takes over every tensor of it."""
        assert not self.is_swapped, "load() inside ema_swapped()"
        saved = self.check(folder)
        path = folder / self._part_name()
        if not path.exists():
            raise CheckpointError(f"{path} is missing: every rank must see the folder it was saved to")
        try:
            self._load_part(path, saved["updates"], saved.get("steps", saved["updates"]))
        except SafetensorError as damage:
            raise CheckpointError(f"{path} is damaged: {damage}; delete {folder} and resume again") from damage
        self.updates, self.steps = saved["updates"], saved.get("steps", saved["updates"])
        self.refresh()

    def check(self, folder: Path) -> dict[str, Any]:
        """What a checkpoint says of itself. Raises: CheckpointError if it is incomplete or of another training."""
        if not (folder / COMMIT_NAME).exists():
            raise CheckpointError(f"{folder} holds no complete checkpoint: {COMMIT_NAME} is missing")
        saved = _read_mark(folder / COMMIT_NAME)
        self._check_facts(saved, folder)
        return saved

    @torch.no_grad()
    def _load_part(self, path: Path, updates: int, steps: int) -> None:
        with safe_open(path, framework="pt") as part:
            found = int((part.metadata() or {}).get("updates", -1))
            if found != updates:
                raise CheckpointError(f"{path} is of update {found}, its {COMMIT_NAME} of {updates}: saves are mixed")
            names = part.keys()
            self._check_shapes({name: part.get_slice(name).get_shape() for name in names}, path)
            self._make_moments(steps)
            for name, tensor in self._state().items():
                tensor.copy_(part.get_tensor(name))

    def _part_name(self) -> str:
        return f"part-{self.index:05d}-of-{self.count:05d}.safetensors"

    def _facts(self) -> dict[str, object]:
        spec = self.spec
        facts = {"kind": spec.kind, "zero_stage": spec.zero_stage, "dtype": spec.dtype, "has_ema": bool(self.ema)}
        if spec.optimizer != "adamw":
            facts |= {"optimizer": spec.optimizer}
        return facts | {"ranks": self.count, "parameters": self.parameters}

    def _check_facts(self, saved: dict[str, object], folder: Path) -> None:
        if saved.get("ranks") != self.count and saved.get("zero_stage") == self.spec.zero_stage:
            raise CheckpointError(
                f"{folder} was saved by {saved.get('ranks')} ranks and this group has {self.count}: Adam's moments are "
                "cut by rank. Use as many ranks, or start anew from the weights alone"
            )
        for name, mine in self._facts().items():
            if saved.get(name) != mine:
                raise CheckpointError(f"{folder} was saved with {name} {saved.get(name)}, this engine has {mine}")

    def _check_shapes(self, found: dict[str, list[int]], path: Path) -> None:
        wanted = {name: list(t.shape) for name, t in self._state().items()}
        if found != wanted:
            odd = sorted(name for name in found.keys() | wanted.keys() if found.get(name) != wanted.get(name))
            raise CheckpointError(f"{path} does not fit this module: {len(odd)} tensors differ, {odd[0]} the first")

    def _make_moments(self, steps: int) -> None:
        if self.spec.optimizer == "adamw_8bit":
            self.adam.make_moments(steps)
            return
        for master in self.masters.values():
            state = self.adam.state[master]
            for name in ("exp_avg", "exp_avg_sq"):
                state.setdefault(name, torch.zeros_like(master))
            # a fused AdamW counts where its weights are, any other on the CPU
            place = master.device if self.adam.defaults.get("fused") else "cpu"
            state["step"] = torch.tensor(float(steps), device=place)

    def _state(self) -> dict[str, Tensor]:
        state = {f"master/{name}": m.detach() for name, m in self.masters.items()}
        state |= {f"ema/{name}": average for name, average in self.ema.items()}
        if self.spec.optimizer == "adamw_8bit":
            self.adam.make_moments()
            for name, master in self.masters.items():
                moments = self.adam.state[master]
                state |= {f"{moment}/{name}": moments[moment] for moment in self.adam.MOMENTS if moment in moments}
            return state
        for name, master in self.masters.items():
            moments = self.adam.state.get(master, {})  # empty before the first update
            for moment in ("exp_avg", "exp_avg_sq"):
                state[f"{moment}/{name}"] = moments.get(moment, torch.zeros_like(master))
        return state

    def _wait_for_all(self) -> None:
        if self.group is not None and self.group.world_size > 1:
            token = torch.zeros(1, device=next(iter(self.masters.values())).device)
            dist.all_reduce(token)
            token.item()  # nccl returns before it is done

"""The ranks of a learner as writers of one version: what they exchange beside gradients is JSON, never pickled."""

import json

import torch
import torch.distributed as dist

from itercomp_rl.store.layout import JSON
from itercomp_rl.store.writers import ALONE, Writers
from learners.engine.spec import Group


class GroupWriters:
    """Satisfies store.ranks.Writers, over the process group that the ranks train in."""

    def __init__(self, group: Group, device: torch.device) -> None:
        """device: where the group's tensors lie."""
        self.rank, self.num = group.rank, group.world_size
        self._device = device if group.backend == "nccl" else torch.device("cpu")

    def exchange(self, value: JSON) -> list[JSON]:
        said = torch.tensor(list(json.dumps(value).encode()), dtype=torch.uint8, device=self._device)
        lengths = self._all(torch.tensor([len(said)], device=self._device))
        longest = max(int(length) for length in lengths)
        padded = self._all(torch.nn.functional.pad(said, (0, longest - len(said))))
        return [json.loads(bytes(text[: int(length)].tolist())) for text, length in zip(padded, lengths, strict=True)]

    def _all(self, tensor: torch.Tensor) -> list[torch.Tensor]:
        found = [torch.empty_like(tensor) for _ in range(self.num)]
        dist.all_gather(found, tensor)
        return [one.cpu() for one in found]


def writers_of(group: Group, device: torch.device) -> Writers:
    """The group's ranks; one alone needs no process group."""
    return ALONE if group.world_size == 1 else GroupWriters(group, device)

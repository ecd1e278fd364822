"""A module so small that what an engine does to it can be worked out by hand."""

from typing import Any

import torch
from torch import Tensor, nn

from learners.engine.engine import Engine
from learners.engine.open import open_engine
from learners.engine.spec import EngineSpec


class Scale(nn.Module):
    """y = weight * x, so that the gradient of a sum over y is x."""

    def __init__(self, start: list[float]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(start))
        self.unused = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * x


def scale_engine(start: list[float], **settings: Any) -> Engine:
    defaults: dict[str, Any] = {"lr": 0.1, "weight_decay": 0.0, "grad_clip": 0.0}
    spec = EngineSpec(kind="plain", **(defaults | settings))
    return open_engine(Scale(start), spec, None, torch.device("cpu"))


def update(engine: Engine, x: list[float]) -> dict[str, float]:
    engine.backward(engine.module(torch.tensor(x)).float().sum())
    return engine.step()


def weight(engine: Engine, ema: bool = False) -> list[float]:
    return engine.weights(ema)["weight"].tolist()

"""What the routers do, in figures: averages over layers in metrics.jsonl, each layer in routing/layers.jsonl.

On logging steps a hook on every module called ``router`` keeps the figures of what it returns, ``Routing.stats()``: of
the step's last micro-batch, on this rank. They stay on the device until the step is over and cross in one copy.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from moe_bench.monitor.rows import encode

LAYERS = "layers.jsonl"


class RoutingTelemetry(Callback):
    """Logs ``routing/<stat>`` every ``log_every`` steps; after each validation appends a row a layer to ``folder``."""

    def __init__(self, folder: Path, log_every: int, batch: int) -> None:
        self._path = folder / LAYERS
        self._log_every = max(1, log_every)
        self._batch = batch
        self._hooks: list[RemovableHandle] = []
        self._pending: dict[str, dict[str, Tensor]] = {}
        self._latest: dict[str, dict[str, float]] = {}

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        if not self._hooks and (trainer.global_step + 1) % self._log_every == 0:
            self._hooks = [router.register_forward_hook(self._keep(name)) for name, router in routers(pl_module)]

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        if not self._hooks or trainer.global_step % self._log_every:  # some of its micro-batches are still to come
            return
        self._unhook()
        self._latest, self._pending = to_host(self._pending), {}
        figures = {f"routing/{name}": value for name, value in over_layers(self._latest).items()}
        pl_module.log_dict(figures, on_step=True, on_epoch=False)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.is_global_zero or not self._latest:
            return
        step = trainer.global_step
        common = {"step": step, "samples_seen": step * self._batch, "time": round(time.time(), 3)}
        with self._path.open("a", encoding="utf-8") as file:
            for layer, stats in self._latest.items():
                file.write(encode({**common, "layer": layer, **stats}))

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._unhook()

    def _keep(self, layer: str) -> Any:
        def hook(module: nn.Module, inputs: Any, routing: Any) -> None:
            self._pending[layer] = routing.stats()

        return hook

    def _unhook(self) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks = []


def routers(module: nn.Module) -> list[tuple[str, nn.Module]]:
    """(name of its block, router) for each module called ``router``: "blocks.1" for "model.blocks.1.mlp.router"."""
    found = [(name, child) for name, child in module.named_modules() if name.endswith(".router")]
    return [(name.removeprefix("model.").removesuffix(".router").removesuffix(".mlp"), child) for name, child in found]


def to_host(stats: dict[str, dict[str, Tensor]]) -> dict[str, dict[str, float]]:
    """{layer: {stat: value}} as numbers, in one copy from the device."""
    scalars = [value.detach().float() for values in stats.values() for value in values.values()]
    if not scalars:
        return {}
    numbers = iter(torch.stack(scalars).tolist())
    return {layer: {name: next(numbers) for name in values} for layer, values in stats.items()}


def over_layers(stats: dict[str, dict[str, float]]) -> dict[str, float]:
    """The mean of each stat over the layers that report it."""
    names = {name: None for values in stats.values() for name in values}
    having = {name: [values[name] for values in stats.values() if name in values] for name in names}
    return {name: sum(values) / len(values) for name, values in having.items()}

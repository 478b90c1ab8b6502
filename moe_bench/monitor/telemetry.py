"""What the routers do, in figures: averages over layers in metrics.jsonl, each layer in routing/layers.jsonl.

Reads ``pl_module.last_routing``, a dict from layer name to Routing that the module fills on logging steps only. The
figures are ``Routing.stats()``: of one batch on rank 0's share of it. All scalars cross from the device in one copy.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from moe_bench.monitor.rows import encode

LAYERS = "layers.jsonl"


class RoutingTelemetry(Callback):
    """Logs ``routing/<stat>`` every ``log_every`` steps; after each validation appends a row a layer to ``folder``."""

    def __init__(self, folder: Path, log_every: int, batch: int) -> None:
        self._path = folder / LAYERS
        self._log_every = max(1, log_every)
        self._batch = batch
        self._latest: dict[str, dict[str, float]] = {}
        self._logged = -1

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        step = trainer.global_step
        if step % self._log_every or step == self._logged:
            return
        self._logged = step
        self._latest = layer_stats(getattr(pl_module, "last_routing", None) or {})
        if self._latest:
            means = over_layers(self._latest)
            pl_module.log_dict(
                {f"routing/{name}": value for name, value in means.items()}, on_step=True, on_epoch=False
            )

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.is_global_zero or trainer.sanity_checking or not self._latest:
            return
        common = {"step": trainer.global_step, "samples_seen": trainer.global_step * self._batch}
        with self._path.open("a", encoding="utf-8") as file:
            for layer, stats in self._latest.items():
                file.write(encode({**common, "time": round(time.time(), 3), "layer": layer, **stats}))


def layer_stats(routing: dict[str, Any]) -> dict[str, dict[str, float]]:
    """{layer: {stat: value}} of {layer: Routing}, in one copy from the device."""
    stats = {layer: layer_routing.stats() for layer, layer_routing in routing.items()}
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

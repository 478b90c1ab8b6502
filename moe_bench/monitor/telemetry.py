"""What the routers do, in figures: over layers in metrics.jsonl, layer by layer in routing/layers.jsonl.

Training steps that are logged give ``routing/<figure>``: of all micro-batches on all ranks, each token counting the
same. Validation gives a row a layer, of the whole validation set. A hook on the model keeps what its routings counted;
that stays on the device, and ranks and host meet once a logging step. It looks at what the model returned, so a layer
that is computed again in the backward pass (activation checkpointing) counts once.
"""

from __future__ import annotations

import operator
import time
from collections.abc import Callable, Mapping
from functools import reduce
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import Strategy
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from moe_bench.model.vit import ViTOutput
from moe_bench.monitor.collapse import CollapseWatch
from moe_bench.monitor.rows import encode
from moe_bench.monitor.wandb_logger import BARS, WandbLogger
from moe_bench.routing.stats import PEAKS, Tally

LAYERS = "layers.jsonl"

WORST = ("load/max", "load/dead", "dropped_tokens", "uncovered")
"""Figures whose largest value over the layers is told beside their mean."""

WANDB_KEYS = 240
"""As many keys at most go to W&B for single layers; its pages grow slow with thousands."""

Figures = dict[str, Any]  # floats, and lists of them


class RoutingTelemetry(Callback):
    """Logs ``routing/<figure>`` every ``log_every`` steps; after each validation appends a row a layer to ``folder``.

    ``detailed`` adds vectors (the load of each expert, experts per token) and Soft MoE's similarities to the rows, and
    sends the rows to W&B. ``say`` gets a line about a router that has collapsed. ``batch`` is pictures a step.
    """

    def __init__(
        self, folder: Path, log_every: int, batch: int, *, detailed: bool = False, say: Callable[[str], None] = print
    ) -> None:
        self._path = folder / LAYERS
        self._log_every = max(1, log_every)
        self._batch = batch
        self._detailed = detailed
        self._say = say
        self._watch = CollapseWatch(say)
        self._hook: RemovableHandle | None = None
        self._counting = self._detail = False
        self._tallies: dict[str, Tally] = {}
        self._step = 0
        self._told = ""

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module.model, nn.Module)
        self._hook = pl_module.model.register_forward_hook(self._count)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if self._hook is not None:
            self._hook.remove()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        self._step = trainer.global_step
        self._counting, self._detail = (self._step + 1) % self._log_every == 0, False

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        if not self._counting or trainer.global_step == self._step:  # micro-batches of the step are still to come
            return
        layers = self._collect(trainer.strategy)
        if not layers:
            return
        figures = over_layers({name: to_numbers(tally) for name, tally in layers.items()})
        pl_module.log_dict({f"routing/{name}": value for name, value in figures.items()}, on_step=True, on_epoch=False)
        if trainer.is_global_zero:
            self._watch.look(layers)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._counting, self._detail = True, self._detailed

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        tallies = self._collect(trainer.strategy)
        if not tallies or not trainer.is_global_zero:
            return
        layers = {name: to_numbers(tally, self._detailed) for name, tally in tallies.items()}
        step = trainer.global_step
        common = {"step": step, "samples_seen": step * self._batch, "time": round(time.time(), 3)}
        with self._path.open("a", encoding="utf-8") as file:
            for name, figures in layers.items():
                file.write(encode({**common, "layer": name, **figures}))
        if self._detailed:
            for logger in trainer.loggers:
                if isinstance(logger, WandbLogger):
                    self._show(logger, layers, step)

    def _count(self, module: nn.Module, inputs: Any, output: Any) -> None:
        if not self._counting or not isinstance(output, ViTOutput):
            return
        for name, routing in output.routing.items():
            tally = routing.tally(self._detail)
            self._tallies[name] = self._tallies[name] + tally if name in self._tallies else tally

    def _collect(self, strategy: Strategy) -> dict[str, Tally]:
        """What was counted since the last time, by all ranks, on the host."""
        tallies, self._tallies, self._counting = self._tallies, {}, False
        return gather(tallies, strategy.all_gather)

    def _show(self, logger: WandbLogger, layers: Mapping[str, Figures], step: int) -> None:
        """The layers in W&B, as far as it takes them; what is left out is told once."""
        numbers, bars, left_out = for_wandb(layers)
        if left_out and left_out != self._told:
            self._told = left_out
            self._say(f"W&B does not get {left_out}; routing/{LAYERS} has everything.")
        logger.log_metrics(numbers, step)
        logger.log_bars(bars, step)


def gather(tallies: Mapping[str, Tally], all_gather: Callable[[Tensor], Tensor]) -> dict[str, Tally]:
    """The tallies of all ranks added up, on the host: one exchange, one copy. ``all_gather`` (N,) → (ranks, N)."""
    if not tallies:
        return {}
    mine = [tally.flat() for tally in tallies.values()]
    sizes = [len(numbers) for numbers in mine]
    ranks = all_gather(torch.cat(mine)).view(-1, sum(sizes)).cpu()
    by_layer = zip(tallies.items(), ranks.split(sizes, dim=1), strict=True)
    return {name: reduce(operator.add, map(tally.filled_from, rows)) for (name, tally), rows in by_layer}


def to_numbers(tally: Tally, detail: bool = False) -> Figures:
    """The figures of a tally on the host as floats and lists of floats."""
    return {name: value.tolist() for name, value in tally.figures(detail).items()}


def for_wandb(layers: Mapping[str, Figures]) -> tuple[dict[str, float], dict[str, list[float]], str]:
    """Numbers and vectors by key, ``routing/<layer>/<figure>``, and in words what is left out.

    Of layers with more than WANDB_KEYS figures in all, evenly spaced ones are taken.
    """
    every = -(-len(layers) * max(map(len, layers.values())) // WANDB_KEYS)
    shown = list(layers.items())[::every]
    rows = {f"routing/{layer}/{name}": value for layer, figures in shown for name, value in figures.items()}
    vectors = {name: value for name, value in rows.items() if isinstance(value, list)}
    bars = {name: value for name, value in vectors.items() if len(value) <= BARS}
    words = [f"{len(layers) - len(shown)} of {len(layers)} layers"] * (every > 1)
    words += [f"{len(vectors) - len(bars)} histograms of more than {BARS} bars"] * (len(bars) < len(vectors))
    return {name: value for name, value in rows.items() if name not in vectors}, bars, " and ".join(words)


def over_layers(layers: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """The mean of each figure over the layers that have it, the largest of ``PEAKS``, and ``worst/`` for WORST."""
    names = {name: None for figures in layers.values() for name in figures}
    having = {name: [figures[name] for figures in layers.values() if name in figures] for name in names}
    means = {name: max(values) if name in PEAKS else sum(values) / len(values) for name, values in having.items()}
    return means | {f"worst/{name}": max(having[name]) for name in WORST if name in having}

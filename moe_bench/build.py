"""The one place where settings become objects. Every part below takes plain values."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer
from rich.console import Console

from moe_bench.config import Config, run_id, to_dict
from moe_bench.config.here import DIGITS
from moe_bench.config.identity import data_name
from moe_bench.config.schema import DataConfig, InitConfig
from moe_bench.data.bad import Tolerance
from moe_bench.data.datamodule import ImageData
from moe_bench.data.decode import Augmentation
from moe_bench.data.digits import ensure_upstream
from moe_bench.data.index import ShardIndex, open_split
from moe_bench.data.sources import split_of
from moe_bench.model import from_config
from moe_bench.model.cost import Cost, cost
from moe_bench.model.transfer import transfer
from moe_bench.monitor.folder import RunFolder
from moe_bench.monitor.heartbeat import Heartbeat
from moe_bench.monitor.jsonl import JsonlLogger
from moe_bench.monitor.peak import peak
from moe_bench.monitor.progress import RunProgress
from moe_bench.monitor.telemetry import RoutingTelemetry
from moe_bench.monitor.throughput import StepClock, Throughput
from moe_bench.monitor.wandb_logger import WandbLogger
from moe_bench.probe.callback import ProbeCallback
from moe_bench.probe.score import Protocol, open_sets
from moe_bench.ranks import Alone
from moe_bench.room import workers
from moe_bench.training.accounting import Accounting
from moe_bench.training.checkpoint import Checkpointer
from moe_bench.training.fault import fault
from moe_bench.training.module import LitViT, Optimization
from moe_bench.training.optim import Schedule
from moe_bench.training.parallel import spread
from moe_bench.training.place import Place, accumulation, resolve
from moe_bench.training.rehearse import Rehearsal, rehearse
from moe_bench.training.stop import StopAtBoundary, StopSignals
from moe_bench.training.trained import final_weights
from moe_bench.training.trainer import make_trainer
from moe_bench.training.validation import Validation
from moe_bench.training.whereabouts import whereabouts


@dataclass(frozen=True)
class Pictures:
    """What is learned from and judged on."""

    train: ShardIndex
    val: ShardIndex
    num_classes: int
    name: str


def pictures(data: DataConfig, progress: bool = True) -> Pictures:
    """The indexes of both splits, made on first use. Raises DataError."""
    path = str(ensure_upstream(data.cache_dir, progress)) if data.path == DIGITS else data.path
    train, val = (
        open_split(
            source if source is not None else split_of(str(path), split),
            labels=data.labels,
            label_key=data.label_key,
            cache_dir=data.cache_dir,
            progress=progress,
        )
        for split, source in (("train", data.train), ("val", data.val))
    )
    classes = data.num_classes or max(train.num_classes, val.num_classes)
    return Pictures(train, val, classes, data_name(data))


def place(cfg: Config) -> Place:
    """Where the run computes."""
    r = cfg.runtime
    return resolve(r.accelerator, r.devices, r.nodes, r.strategy, cfg.recipe.precision, r.expert_parallel)


def price(cfg: Config, num_classes: int) -> Cost:
    """What the model costs, before it is built."""
    return cost(cfg.model, cfg.router, cfg.capacity, num_classes)


def image_data(cfg: Config, found: Pictures, pieces: int, workers: int | None) -> ImageData:
    """The pictures in batches, ``pieces`` images at once."""
    r = cfg.recipe
    return ImageData(
        found.train,
        found.val,
        image_size=cfg.model.image_size,
        steps=r.steps,
        batch=r.batch,
        device_batch=pieces,
        seed=cfg.seed,
        augmentation=Augmentation(r.crop_area, r.flip, r.randaugment, r.randaugment_magnitude),
        resize=cfg.data.resize,
        crop=cfg.data.crop,
        shuffle_window=cfg.data.shuffle_window,
        workers=workers,
        max_pixels=cfg.data.max_pixels,
        num_classes=found.num_classes,
        tolerance=tolerance(cfg.data),
        timeout_s=cfg.runtime.timeout_s,
    )


def tolerance(data: DataConfig) -> Tolerance:
    """Of pictures that cannot be decoded."""
    return Tolerance(skip=data.on_error == "skip", limit=data.skip_limit)


def module(cfg: Config, at: Place, num_classes: int) -> LitViT:
    """The model with its loss and optimiser; its weights follow from the seed. Training lays it out over devices."""
    r = cfg.recipe
    torch.manual_seed(cfg.seed)
    # Sigmoid losses start at the share of one class among all, as the reference's heads do.
    head_bias = -math.log(num_classes) if r.loss == "sigmoid" else 0.0
    lit = LitViT(
        from_config(cfg.model, cfg.router, cfg.capacity, num_classes, head_bias),
        Optimization(
            Schedule(r.schedule, r.lr, r.steps, r.warmup or 0, r.end_lr, r.timescale, r.cooldown),
            r.optimizer,
            (r.betas[0], r.betas[1]),
            r.momentum,
            r.weight_decay,
            r.decay,
            r.head_decay,
            r.clip,
            r.skip,
            r.spike,
        ),
        num_classes=num_classes,
        loss=r.loss,
        mixup_alpha=r.mixup,
        seed=cfg.seed,
        name=f"router={cfg.router.name}",
    )
    lit.spread = partial(spread, at=at)
    return lit


def begin(init: InitConfig, lit: LitViT) -> str:
    """Give the model the weights that ``init`` names, whole, before they are laid out; says what became of them.

    Raises CheckpointError where they do not fit, and SecurityError. Empty where the model keeps what it drew.
    """
    path = init.run or init.upcycle
    if path is None:
        return ""
    told = transfer(
        lit.model, final_weights(Path(path)), upcycle=init.upcycle is not None, keep_head=init.head == "keep"
    )
    return f"of {path}: {told}"


def rehearsal(cfg: Config, at: Place, lit: LitViT, pieces: int) -> Rehearsal | None:
    """What a few pieces of ``pieces`` images take on one device.

    None where a device holds a part of the model only: it is not cut up yet, and whole it may not fit.
    """
    if not at.whole:
        return None
    device = "cuda" if at.accelerator == "gpu" else "cpu"
    small = min(pieces, cfg.capacity.group_images)
    return rehearse(lit.model, cfg.model.image_size, (small, pieces), device, at.precision)


def expected_seconds(cfg: Config, at: Place, rehearsed: Rehearsal | None, step: int) -> float | None:
    """About how long the training after ``step`` takes; None where nothing was rehearsed."""
    if rehearsed is None:
        return None
    return (cfg.recipe.steps - step) * cfg.recipe.batch / at.world * rehearsed.image_s


@dataclass(frozen=True)
class Measures:
    """What is measured on the way, and read again for the summary."""

    throughput: Throughput
    accounting: Accounting
    validation: Validation
    probe: ProbeCallback


@dataclass(frozen=True)
class Fit:
    """A trainer ready to go, and what it leaves behind."""

    trainer: Trainer
    measures: Measures
    wandb: WandbLogger | None

    def close(self, exit_code: int = 0, summary: dict[str, Any] | None = None) -> None:
        """End W&B's view of the run: finished with ``summary``, or failed."""
        if self.wandb is not None:
            self.wandb.close(exit_code, summary)


def fit(
    cfg: Config, at: Place, data: ImageData, folder: RunFolder, signals: StopSignals, console: Console, group: Alone
) -> Fit:
    """The trainer with its callbacks in the order that they rely on: measure, evaluate, write, save, stop."""
    r, run = cfg.recipe, cfg.runtime
    clock = StepClock()
    throughput = Throughput(
        clock,
        r.batch,
        at.world,
        run.log_every,
        flops_per_image=price(cfg, data.num_classes).flops_per_image_training,
        peak=peak(at.accelerator, at.name, at.precision),
    )
    progress = RunProgress(console, throughput, validation_batches=-(-data.val_size // (data.device_batch * at.world)))
    warn = partial(console.print, style="yellow", soft_wrap=True)
    accounting = Accounting(data, warn)
    measures = Measures(
        throughput,
        accounting,
        Validation(data.val_dataloader, data.val_size, every=r.eval_every, check=signals.check, judge=accounting.judge),
        probe(cfg, at, data.device_batch, signals, progress, group),
    )
    checkpointer = Checkpointer(
        folder.checkpoints,
        every=r.checkpoint_every,
        keep=run.keep_checkpoints,
        batch=r.batch,
        about=lambda: {"run_id": run_id(cfg), "lengths": folder.lengths()},
    )
    wandb = wandb_logger(cfg, folder.path, console)
    trainer = make_trainer(
        at,
        steps=r.steps,
        accumulation=accumulation(r.batch, at.world, data.device_batch),
        callbacks=[
            throughput,
            *fault(),
            *whereabouts(),
            RoutingTelemetry(folder.routing, run.log_every, r.batch, detailed=run.telemetry == "detailed", say=warn),
            progress,
            accounting,
            Heartbeat(folder),
            measures.validation,
            measures.probe,
            checkpointer,
            StopAtBoundary(signals, checkpointer.save),
        ],
        loggers=[JsonlLogger(folder.metrics_jsonl, r.batch), *([wandb] if wandb else [])],
        log_every=run.log_every,
        deterministic=run.deterministic,
        folder=folder.path,
        profiler=clock,
        timeout_s=run.timeout_s,
    )
    return Fit(trainer, measures, wandb)


def probe(
    cfg: Config, at: Place, batch: int, signals: StopSignals, progress: RunProgress, group: Alone
) -> ProbeCallback:
    """The few-shot probe on the sets of the run; encoded in batches of ``batch`` pictures."""
    p = cfg.probe
    return ProbeCallback(
        group.in_turn(lambda: open_sets(p.sets, cfg.data.cache_dir, progress=group.rank.rank == 0)),
        Protocol(tuple(p.shots), p.draws, p.policy, p.l2, p.crop),
        image_size=cfg.model.image_size,
        batch=batch,
        workers=workers(cfg, at),
        every=p.every,
        check=signals.check,
        phase=progress.phase,
        tolerance=tolerance(cfg.data),
        timeout_s=cfg.runtime.timeout_s,
    )


def wandb_logger(cfg: Config, folder: Path, console: Console) -> WandbLogger | None:
    """W&B beside metrics.jsonl, or None where it is not wanted. Runs that compare are in one group there."""
    if cfg.logger.name == "none":
        return None
    return WandbLogger(
        folder,
        project=cfg.logger.project,
        config={**to_dict(cfg), "cell": f"{cfg.router.name} c={cfg.capacity.factor:g}"},  # to group bars by, in one key
        batch=cfg.recipe.batch,
        mode=cfg.logger.mode,
        entity=cfg.logger.entity,
        group=cfg.logger.group or f"{cfg.model.name}-{data_name(cfg.data)}",
        tags=[cfg.router.name, cfg.model.name, f"c{cfg.capacity.factor:g}", f"s{cfg.seed}", *cfg.logger.tags],
        started_over=RunFolder(folder, writer=False).started_over,
        say=partial(console.print, style="dim", soft_wrap=True),
    )

"""A real run, as small as can be: our module and trainer, a vision transformer of one MoE layer, pictures of noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.profilers import Profiler
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, Dataset, Subset, default_collate

from moe_bench.config.schema import CapacityConfig, ModelConfig, RouterConfig, SparseRouterConfig
from moe_bench.model import from_config
from moe_bench.training.module import LitViT, Optimization
from moe_bench.training.optim import Schedule
from moe_bench.training.place import resolve
from moe_bench.training.trainer import make_trainer
from moe_bench.training.validation import Validation

SIZE, CLASSES, BATCH, VAL = 8, 4, 8, 12
SIZES = ModelConfig(image_size=SIZE, patch=4, width=16, depth=2, heads=2, mlp=16, experts=4, moe_blocks=[0, 1])


class Noise(Dataset[dict[str, Tensor]]):
    def __init__(self, size: int) -> None:
        generator = torch.Generator().manual_seed(0)
        self.images = torch.randn(size, 3, SIZE, SIZE, generator=generator)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> dict[str, Tensor]:
        return {
            "image": self.images[i],
            "label": torch.tensor([i % CLASSES]),
            "valid": torch.tensor(True),
            "index": torch.tensor(i),
        }


def fit(
    folder: Path,
    steps: int = 6,
    *,
    callbacks: Sequence[Callback] = (),
    loggers: Sequence[Logger] = (),
    profiler: Profiler | None = None,
    log_every: int = 2,
    pieces: int = 1,
    eval_every: int = 0,
    router: RouterConfig | None = None,
    checkpointed: bool = False,
    ranks: int = 1,
) -> Trainer:
    """Train for ``steps`` and validate at the end.

    ``checkpointed`` blocks are computed again in the backward pass. With ``ranks`` each has its part of every batch and
    of the validation set; Lightning starts the other processes by the same command line.
    """
    torch.manual_seed(0)
    model = from_config(SIZES, router or SparseRouterConfig(), CapacityConfig(group_images=4), CLASSES)
    schedule = Schedule("cosine", 1e-3, steps, warmup=2)
    module = LitViT(model, Optimization(schedule), num_classes=CLASSES)
    if checkpointed:
        for block in model.blocks:
            block.forward = partial(checkpoint, block.forward, use_reentrant=False)  # type: ignore[method-assign]
    trainer = make_trainer(
        replace(resolve("cpu"), devices=ranks, strategy="ddp" if ranks > 1 else "auto"),
        steps=steps,
        accumulation=pieces,
        callbacks=[
            *callbacks,
            Validation(lambda: part(Noise(VAL), 4, trainer.global_rank, ranks), VAL, every=eval_every),
        ],
        loggers=loggers,
        log_every=log_every,
        folder=folder,
        profiler=profiler,
    )
    trainer.fit(module, part(Noise(steps * BATCH), BATCH // pieces // ranks, trainer.global_rank, ranks))
    return trainer


def part(data: Noise, batch: int, rank: int, ranks: int) -> DataLoader[dict[str, Tensor]]:
    """Of the batches of ``data``, those of a rank."""
    mine = [i for i in range(len(data)) if i // batch % ranks == rank]
    return DataLoader(Subset(data, mine), batch, collate_fn=_with_no_bad_pictures)


def _with_no_bad_pictures(pictures: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {**default_collate(pictures), "bad": torch.empty(0, 3, dtype=torch.int64)}

"""A real run in miniature: real shards, the real data module, a vision transformer of 3,000 parameters."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback
from PIL import Image

from moe_bench.config.schema import CapacityConfig, ModelConfig, RouterConfig, SparseRouterConfig
from moe_bench.data.datamodule import ImageData
from moe_bench.data.index import ShardIndex, open_split
from moe_bench.data.make import Origin, Sample, write_dataset
from moe_bench.data.sources import split_of
from moe_bench.guard import naming_lost_workers
from moe_bench.model import from_config
from moe_bench.monitor.folder import RunFolder
from moe_bench.monitor.jsonl import JsonlLogger
from moe_bench.ranks import Alone
from moe_bench.training.checkpoint import Checkpointer, latest
from moe_bench.training.module import LitViT, Optimization
from moe_bench.training.optim import Schedule
from moe_bench.training.parallel import spread
from moe_bench.training.place import resolve
from moe_bench.training.stop import StopAtBoundary, StopSignals
from moe_bench.training.trainer import make_trainer
from moe_bench.training.validation import Validation

SIZE, CLASSES, BATCH = 8, 4, 8
VAL = 21  # not a multiple of any batch
SIGMOID_TC = SparseRouterConfig(
    name="sigmoid_tc", affinity="sigmoid", choice="token", combine="plan", k=2, noise=0.0, bias_rate=0.01
)
SOFTMAX_TC = SparseRouterConfig(name="softmax_tc", choice="token", importance=0.005, load=0.005)


def samples(count: int, seed: int) -> list[Sample]:
    """Noise in which one colour is bright, or none: the class, however a picture is cropped or flipped."""
    rng = np.random.default_rng(seed)
    made = []
    for number in range(count):
        label = number % CLASSES
        pixels = rng.integers(0, 100, (SIZE, SIZE, 3), dtype=np.uint8)
        if label < 3:
            pixels[:, :, label] += 120
        out = io.BytesIO()
        Image.fromarray(pixels).save(out, format="PNG")
        made.append(Sample(f"{number:05d}", "png", out.getvalue(), label))
    return made


@dataclass
class Ran:
    """A run that was fitted, or its error."""

    module: LitViT
    trainer: Any
    validation: Validation
    error: BaseException | None = None

    def state(self) -> dict[str, Any]:
        """All that must be equal for two runs to be equal."""
        (optimizer,) = self.trainer.optimizers
        return {"weights": self.module.state_dict(), "optimizer": optimizer.state_dict()}


Run = Callable[..., Ran]
Splits = tuple[ShardIndex, ShardIndex]


def train(
    splits: Splits,
    folder: Path,
    *,
    steps: int = 8,
    pieces: int = 1,
    workers: int = 0,
    router: RouterConfig = SOFTMAX_TC,
    eval_every: int = 0,
    checkpoint_every: int = 0,
    lr: float = 1e-2,
    clip: float | None = 1.0,
    skip: int = 0,
    spike: float | None = None,
    loss: str = "softmax",
    mixup_alpha: float = 0.2,
    extra: Sequence[Callback] = (),
    last: Sequence[Callback] = (),
    dropout: float = 0.1,
    devices: int = 1,
    strategy: str = "auto",
    expert_parallel: int = 1,
    precision: str = "32",
    experts: int = 4,
    group: Alone = Alone(),  # noqa: B008 (it has no state)
) -> Ran:
    """Train in ``folder``, resuming what is there. ``extra`` and ``last``: callbacks before and after our own.

    A step is cut into ``pieces`` over all ``devices``.
    """
    train, val = splits
    data = ImageData(
        train, val, image_size=SIZE, steps=steps, batch=BATCH, device_batch=BATCH // pieces, workers=workers
    )
    torch.manual_seed(1)
    # Dropout and routing noise on: what is random in a step must be resumed as well.
    sizes = ModelConfig(
        image_size=SIZE, patch=4, width=16, depth=2, heads=2, mlp=16, experts=experts, moe_blocks=[1], dropout=dropout
    )
    model = from_config(sizes, router, CapacityConfig(group_images=4), data.num_classes)
    optimization = Optimization(Schedule("cosine", lr, steps, warmup=2), clip=clip, skip=skip, spike=spike)
    module = LitViT(
        model, optimization, num_classes=CLASSES, loss=loss, mixup_alpha=mixup_alpha, name=f"router={router.name}"
    )
    validation = Validation(data.val_dataloader, data.val_size, every=eval_every)
    with RunFolder(folder, writer=group.rank.rank == 0) as place, StopSignals() as signals:
        start = group.decided(lambda: place.open({}, find_checkpoint=latest))
        saver = Checkpointer(
            place.checkpoints, every=checkpoint_every, batch=BATCH, about=lambda: {"lengths": place.lengths()}
        )
        signals.agree = group.largest
        validation.check = signals.check
        at = resolve("cpu", devices, 1, strategy, precision, expert_parallel)
        module.spread = partial(spread, at=at)
        trainer = make_trainer(
            at,
            steps=steps,
            accumulation=pieces // devices,
            callbacks=[*extra, validation, saver, StopAtBoundary(signals, saver.save), *last],
            loggers=[JsonlLogger(place.metrics_jsonl, BATCH)],
            log_every=1,
            folder=folder,
        )
        ran = Ran(module, trainer, validation)
        try:
            with naming_lost_workers():
                trainer.fit(module, datamodule=data, ckpt_path=start.checkpoint)
        except BaseException as error:
            ran.error = error
        return ran


@pytest.fixture(scope="session")
def splits(tmp_path_factory: pytest.TempPathFactory) -> Splits:
    folder = tmp_path_factory.mktemp("shards")
    parts = {split: samples(count, seed=count) for split, count in (("train", 44), ("val", VAL))}
    write_dataset(folder, "colours", Origin([str(c) for c in range(CLASSES)], parts), per_shard=16)
    cache = tmp_path_factory.mktemp("cache")
    train, val = (open_split(split_of(folder, name), cache_dir=cache, progress=False) for name in ("train", "val"))
    return train, val


@pytest.fixture
def run(splits: Splits, tmp_path: Path) -> Run:
    """``run(name, ...)`` trains in a folder of that name under the test's own."""

    def fit(name: str = "run", **settings: Any) -> Ran:
        return train(splits, tmp_path / name, **settings)

    return fit

"""With Lightning's own trainer: what a run is fed, unbroken and resumed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint, OnExceptionCheckpoint

from moe_bench.data.bad import Tolerance
from moe_bench.data.datamodule import ImageData
from moe_bench.data.dataset import Batch
from moe_bench.data.decode import (
    Augmentation,
    Transform,
    decode,
    evaluation_transform,
    squeeze_transform,
    to_range,
)
from moe_bench.data.index import ShardIndex, open_split
from moe_bench.errors import ConfigError, DataError
from tests.data.shards import picture, sample, write_damaged, write_shards, write_tar

STEPS, BATCH = 9, 6

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture
def train(tmp_path: Path) -> ShardIndex:
    return open_split(write_shards(tmp_path / "set", [5, 4, 8]), progress=False)  # 17 pictures: 9 steps cross epochs


@pytest.fixture
def val(tmp_path: Path) -> ShardIndex:
    return open_split(write_shards(tmp_path / "set", [5, 2], split="val"), progress=False)


class Diary(LightningModule):
    """Learns a little and writes down what it is fed: (step, sum of the pixels, pictures)."""

    breaks_at: int | None = None  # micro-batches

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = torch.nn.Linear(3 * 64, 5)
        self.pages: list[tuple[int, float, list[int]]] = []
        self.seen: list[int] = []

    def training_step(self, batch: Batch, _: int) -> torch.Tensor:
        if len(self.pages) == self.breaks_at:
            raise InterruptedError
        self.pages.append((self.global_step, batch["image"].sum().item(), batch["index"].tolist()))
        logits = self.layer(batch["image"].flatten(1))
        return torch.nn.functional.cross_entropy(logits, batch["label"][:, 0])

    def validation_step(self, batch: Batch, _: int) -> None:
        self.seen += batch["index"][batch["valid"]].tolist()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.01)


def fit(
    folder: Path, train: ShardIndex, val: ShardIndex, *, device_batch: int = 6, until: int = STEPS, **options: Any
) -> tuple[Diary, Trainer]:
    """One process of a run of STEPS steps, stopped at ``until``."""
    workers, resume = options.get("workers", 0), options.get("resume")
    sizes: dict[str, Any] = {"image_size": 8, "steps": STEPS, "batch": BATCH, "device_batch": device_batch}
    data = ImageData(train, val, **sizes, workers=workers, tolerance=options.get("tolerance", Tolerance()))
    diary = Diary()
    trainer = Trainer(
        accelerator="cpu",
        devices=1,
        max_steps=until,
        max_epochs=-1,
        accumulate_grad_batches=BATCH // device_batch,
        use_distributed_sampler=False,
        limit_val_batches=0 if until < STEPS else 1.0,
        callbacks=[
            ModelCheckpoint(folder, filename="{step}", every_n_train_steps=1, save_top_k=-1),
            OnExceptionCheckpoint(folder, "exception"),
        ],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(diary, data, ckpt_path=resume, weights_only=True)
    return diary, trainer


@pytest.mark.parametrize(("workers", "device_batch"), [(0, 6), (2, 6), (0, 2)])
def test_a_resumed_run_is_fed_exactly_what_the_unbroken_one_is(
    tmp_path: Path, train: ShardIndex, val: ShardIndex, workers: int, device_batch: int
) -> None:
    unbroken, _ = fit(tmp_path / "a", train, val, device_batch=device_batch)
    first, _ = fit(tmp_path / "b", train, val, device_batch=device_batch, until=4, workers=workers)
    resume = str(tmp_path / "b/step=4.ckpt")
    second, trainer = fit(tmp_path / "c", train, val, device_batch=device_batch, workers=workers, resume=resume)
    assert trainer.global_step == STEPS
    assert first.pages + second.pages == unbroken.pages
    assert torch.equal(second.layer.weight, unbroken.layer.weight)


@pytest.mark.parametrize(("before", "after", "stop"), [(6, 3, 3), (6, 2, 4), (2, 6, 5), (3, 2, 3), (1, 6, 7)])
def test_a_run_resumed_with_other_micro_batches_takes_the_same_steps(
    tmp_path: Path, train: ShardIndex, val: ShardIndex, before: int, after: int, stop: int
) -> None:
    unbroken, _ = fit(tmp_path / "a", train, val)
    first, _ = fit(tmp_path / "b", train, val, device_batch=before, until=stop)
    resume = str(tmp_path / f"b/step={stop}.ckpt")
    second, _ = fit(tmp_path / "c", train, val, device_batch=after, resume=resume)
    assert by_step(first)[:stop] + by_step(second)[stop:] == by_step(unbroken)
    assert second.seen == list(range(7))
    assert torch.allclose(second.layer.weight, unbroken.layer.weight, atol=1e-6)


def test_a_run_that_broke_amid_a_step_repeats_that_step_whole(
    tmp_path: Path, train: ShardIndex, val: ShardIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    unbroken, _ = fit(tmp_path / "a", train, val, device_batch=2)
    monkeypatch.setattr(Diary, "breaks_at", 13)
    with pytest.raises(InterruptedError):
        fit(tmp_path / "b", train, val, device_batch=2)
    monkeypatch.setattr(Diary, "breaks_at", None)
    second, _ = fit(tmp_path / "c", train, val, device_batch=2, resume=str(tmp_path / "b/exception.ckpt"))
    assert by_step(second)[4:] == by_step(unbroken)[4:]
    assert torch.equal(second.layer.weight, unbroken.layer.weight)


def by_step(diary: Diary) -> list[list[int]]:
    """The pictures of every step."""
    return [[n for step, _, pictures in diary.pages if step == s for n in pictures] for s in range(STEPS)]


def test_steps_use_the_same_pictures_at_any_size_of_micro_batch(
    tmp_path: Path, train: ShardIndex, val: ShardIndex
) -> None:
    whole, pieces = (fit(tmp_path / str(size), train, val, device_batch=size)[0] for size in (6, 3))
    assert by_step(whole) == by_step(pieces)
    assert [len(step) for step in by_step(whole)] == [BATCH] * STEPS
    epoch = [n for step in by_step(whole) for n in step][:17]
    assert sorted(epoch) == list(range(17))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_with_bad_pictures_resumes_exactly_and_counts_on(tmp_path: Path, val: ShardIndex, workers: int) -> None:
    bad = {2: b"", 3: b"junk", 12: b"junk"}
    train = open_split(write_damaged(tmp_path / "bad", 17, bad), progress=False)
    settings: dict[str, Any] = {"tolerance": Tolerance(skip=True, limit=0.2), "workers": workers}
    unbroken, whole = fit(tmp_path / "a", train, val, **settings)
    first, _ = fit(tmp_path / "b", train, val, until=4, **settings)
    second, resumed = fit(tmp_path / "c", train, val, resume=str(tmp_path / "b/step=4.ckpt"), **settings)
    assert first.pages + second.pages == unbroken.pages
    places = STEPS * BATCH
    told = whole.datamodule.account.figures(places)  # type: ignore[attr-defined]
    due = whole.datamodule.plan.pictures(np.arange(places)).tolist()  # type: ignore[attr-defined]
    assert told["data/skipped"] == sum(due.count(one) for one in (2, 3, 12))
    assert (told["data/distinct"], told["data/skipped/empty"], told["data/bad"]) == (14, due.count(2), 3)
    assert resumed.datamodule.account.figures(places) == told  # type: ignore[attr-defined]


def test_validation_counts_every_picture_once(tmp_path: Path, train: ShardIndex, val: ShardIndex) -> None:
    diary, _ = fit(tmp_path / "a", train, val, device_batch=3)
    sanity = 6  # Lightning tries two batches before it trains
    assert diary.seen[sanity:] == list(range(7))


def test_the_state_is_the_step_the_identity_of_the_pictures_and_the_bad_ones(
    tmp_path: Path, train: ShardIndex, val: ShardIndex
) -> None:
    fit(tmp_path / "a", train, val, until=3)
    saved = torch.load(tmp_path / "a/step=2.ckpt", weights_only=True)
    assert saved["ImageData"] == {"step": 2, "pictures": train.fingerprint, "bad": []}


def test_a_run_does_not_go_on_with_other_pictures(tmp_path: Path, train: ShardIndex, val: ShardIndex) -> None:
    more = open_split(write_shards(tmp_path / "more", [5, 4, 9]), progress=False)
    sizes: dict[str, Any] = {"image_size": 8, "steps": STEPS, "batch": BATCH, "device_batch": BATCH}
    state = {**ImageData(train, val, **sizes).state_dict(), "step": 4}
    ImageData(train, val, **sizes).load_state_dict(state)
    with pytest.raises(ConfigError, match=r"18 training pictures are not those of the checkpoint of step 4"):
        ImageData(more, val, **sizes).load_state_dict(state)


def test_labels_are_checked_before_the_first_step(train: ShardIndex, val: ShardIndex) -> None:
    with pytest.raises(DataError, match="out of range for 4 classes"):
        ImageData(train, val, image_size=8, steps=1, batch=2, device_batch=2, num_classes=4)
    data = ImageData(train, val, image_size=8, steps=1, batch=2, device_batch=2)
    assert (data.num_classes, data.train_size, data.val_size) == (5, 17, 7)


def test_augmentation_is_that_of_the_recipe(train: ShardIndex, val: ShardIndex) -> None:
    plain = Augmentation(crop_area=1, flip=False)
    data = ImageData(train, val, image_size=8, steps=1, batch=17, device_batch=17, augmentation=plain, workers=0)
    [batch] = data.train_dataloader()
    whole = next(
        iter(ImageData(train, train, image_size=8, steps=1, batch=17, device_batch=17, workers=0).val_dataloader())
    )
    assert torch.equal(batch["image"], whole["image"][batch["index"]])


@pytest.mark.parametrize(("resize", "transform"), [("short_side", evaluation_transform), ("square", squeeze_transform)])
def test_validation_pictures_that_are_not_square_are_resized_as_asked(
    tmp_path: Path, train: ShardIndex, resize: str, transform: Callable[[int, float], Transform]
) -> None:
    wide = picture(size=(24, 12))
    val = open_split(str(write_tar(tmp_path / "wide.tar", sample("a", 0, wide))), progress=False)
    sizes: dict[str, Any] = {"image_size": 8, "steps": 1, "batch": 2, "device_batch": 2, "workers": 0}
    (batch,) = ImageData(train, val, **sizes, resize=resize, crop=0.8).val_dataloader()
    assert torch.equal(batch["image"][0], to_range(transform(8, 0.8)(decode(wide))))


class Scribe(Diary):
    """Writes its pages to a file of its rank: with two ranks it lives in other processes than the test."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder

    def on_fit_end(self) -> None:
        report = {"pages": [[step, pictures] for step, _, pictures in self.pages], "seen": self.seen}
        (self.folder / f"{self.global_rank}.json").write_text(json.dumps(report))


@pytest.mark.slow
def test_two_ranks_are_fed_the_two_halves_of_what_one_is_fed(
    tmp_path: Path, train: ShardIndex, val: ShardIndex
) -> None:
    alone, _ = fit(tmp_path / "a", train, val)
    data = ImageData(train, val, image_size=8, steps=STEPS, batch=BATCH, device_batch=3, workers=0)
    trainer = Trainer(
        accelerator="cpu",
        devices=2,
        strategy="ddp_fork",
        max_steps=STEPS,
        max_epochs=-1,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Scribe(tmp_path), data)
    reports = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    halves = zip(reports[0]["pages"], reports[1]["pages"], strict=True)
    assert [[step, first + second] for (step, first), (_, second) in halves] == [[s, p] for s, _, p in alone.pages]
    assert sorted(reports[0]["seen"] + reports[1]["seen"]) == list(range(7))

"""Checkpoints know nothing of how a model lay over ranks: they move between layouts, and a resumed run is exact."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from miniature import BATCH, Splits, train
from pair import RANKS, on_ranks
from test_resume import SignalAt, assert_same, rows
from test_two_ranks import LAYOUTS
from torch.distributed.tensor import DTensor

from moe_bench.errors import Interrupted
from moe_bench.training import store
from moe_bench.training.group import Group

STEPS = 6


class Keys(Callback):
    """The pictures of each micro-batch, and what part of the experts is here."""

    def __init__(self) -> None:
        self.seen: list[list[int]] = []
        self.parts: list[int] = []

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        w1 = pl_module.model.blocks[1].mlp.experts.w1
        self.parts = list(w1.to_local().shape if isinstance(w1, DTensor) else w1.shape)
        self.seen.append(batch["index"].tolist())


class SaveAndLeave(Callback):
    """Writes what was loaded as it lies now, and learns nothing."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        manifest = {"step": trainer.global_step}
        trainer.save_checkpoint(self.path, storage_options=lambda state, folder: store.write(state, folder, manifest))
        trainer.strategy.barrier()
        raise Interrupted("saved", 0)


def spread_out(group: Group, layout: str) -> dict[str, Any]:
    return {"devices": RANKS, "group": group, **LAYOUTS[layout]}


def copy_through(group: Group, folder: Path, splits: Splits, layouts: list[str]) -> None:
    """Load the checkpoint of each layout into the next and save it again."""
    for number, layout in enumerate(layouts, 1):
        source, here = folder / str(number - 1), folder / f"run-{number}"
        if group.rank.rank == 0:
            shutil.copytree(source, here / "checkpoints" / source_step(source))
        group.largest(0)
        extra = [SaveAndLeave(folder / str(number))]
        ran = train(splits, here, steps=STEPS, pieces=2, extra=extra, **spread_out(group, layout))
        assert isinstance(ran.error, Interrupted), ran.error


def source_step(folder: Path) -> str:
    return store.step_folder(folder, store.Saved(folder, store._manifest(folder)).step).name


def learn_broken(group: Group, folder: Path, splits: Splits, layout: str) -> dict[str, Any]:
    """An unbroken run, and one that one rank's signal stops in its fourth step and that is then resumed."""
    settings: dict[str, Any] = {"steps": STEPS, "pieces": 2, "eval_every": 2, **spread_out(group, layout)}
    keys = {name: Keys() for name in ("whole", "stopped", "resumed")}
    assert train(splits, folder / "whole", extra=[keys["whole"]], **settings).error is None
    signal = [SignalAt(3)] if group.rank.rank == 1 else []
    stopped = train(splits, folder / "broken", extra=[keys["stopped"], *signal], **settings)
    assert isinstance(stopped.error, Interrupted), stopped.error
    assert (stopped.error.exit_code, stopped.trainer.global_step) == (143, 4)
    assert train(splits, folder / "broken", extra=[keys["resumed"]], **settings).error is None
    return {"parts": keys["whole"].parts, **{name: key.seen for name, key in keys.items()}}


def saved(folder: Path, step: int = STEPS) -> dict[str, Any]:
    state = store.load(store.step_folder(folder / "checkpoints", step))
    return {**{name: state[name] for name in ("optimizer_states", "global_step")}, "weights": dict(state["state_dict"])}


@pytest.mark.slow
def test_a_checkpoint_goes_through_every_layout_bit_by_bit(splits: Splits, tmp_path: Path) -> None:
    train(splits, tmp_path / "start", steps=STEPS, pieces=2, extra=[SignalAt(7)])
    folder = tmp_path / "copies"
    folder.mkdir()
    shutil.copytree(store.step_folder(tmp_path / "start" / "checkpoints", 4), folder / "0")
    order = ["ddp", "fsdp", "ddp-experts", "fsdp-experts", "ddp"]
    on_ranks(copy_through, folder, splits, order)
    first = store.load(folder / "0")
    first["state_dict"] = dict(first["state_dict"])
    assert len(first["optimizer_states"][0]["state"]) == len(first["state_dict"])
    for number in range(1, len(order) + 1):
        copy = store.load(folder / str(number))
        for part in ("state_dict", "optimizer_states", "global_step"):
            assert_same(copy[part], first[part])
    last = tmp_path / "last"
    shutil.copytree(folder / str(len(order)), last / "checkpoints" / "step-00000004")
    assert train(splits, last, steps=STEPS, pieces=2).error is None
    train(splits, tmp_path / "start", steps=STEPS, pieces=2)
    assert_same(saved(last), saved(tmp_path / "start"))


PARTS = {"ddp": [4, 16, 16], "fsdp": [2, 16, 16], "ddp-experts": [2, 16, 16], "fsdp-experts": [2, 16, 16]}


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_run_resumed_on_ranks_is_the_unbroken_one_bit_by_bit(splits: Splits, tmp_path: Path, layout: str) -> None:
    told = on_ranks(learn_broken, tmp_path, splits, layout)
    assert_same(saved(tmp_path / "broken"), saved(tmp_path / "whole"))
    assert rows(tmp_path / "broken") == rows(tmp_path / "whole")
    for keys in told:
        assert keys["parts"] == PARTS[layout]
        assert keys["stopped"][:4] + keys["resumed"] == keys["whole"]  # stopped at the start of its fifth step
    assert not torch.tensor(told[0]["whole"]).equal(torch.tensor(told[1]["whole"]))

    alone = Keys()  # one process goes on from the fourth step of two
    shutil.copytree(
        store.step_folder(tmp_path / "broken" / "checkpoints", 4), tmp_path / "alone/checkpoints/step-00000004"
    )
    assert train(splits, tmp_path / "alone", steps=STEPS, pieces=2, extra=[alone]).error is None
    together = [part for step in zip(told[0]["whole"][4:], told[1]["whole"][4:]) for part in step]
    assert alone.seen == together
    assert sum(map(len, alone.seen)) == 2 * BATCH
    mine, theirs = saved(tmp_path / "alone")["weights"], saved(tmp_path / "whole")["weights"]
    for name, value in theirs.items():
        torch.testing.assert_close(mine[name], value, rtol=1e-4, atol=1e-5)

"""What a run says of the pictures it was given: when, and on every rank alike."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from miniature import BATCH, Run

from moe_bench.training.accounting import NAMED, Accounting


class Listening(Accounting):
    """With the data module of the run that it is in."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        super().__init__(trainer.datamodule, self.said.append)


def test_a_row_closes_every_epoch_of_pictures_and_the_run(run: Run, tmp_path: Path) -> None:
    assert run(steps=12, extra=[Listening()]).error is None
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    told = [row for row in rows if "data/seen" in row]
    assert [row["step"] for row in told] == [6, 11, 12]  # 44 pictures, 8 a step
    assert [row["data/seen"] for row in told] == [6 * BATCH, 11 * BATCH, 12 * BATCH]
    assert [row["data/distinct"] for row in told] == [44, 44, 44]
    assert [row["data/repeated"] for row in told] == [4, 44, 52]
    assert all(row["data/skipped"] == 0 for row in told)


def test_the_first_bad_pictures_are_named_and_the_others_counted(run: Run) -> None:
    listener = Listening()
    ran = run(steps=2, extra=[listener])
    account = ran.trainer.datamodule.account
    account.add([[picture, 1, picture + 10] for picture in range(NAMED + 2)])
    listener.said.clear()
    listener._name([0, 1, 2])
    listener._name([3, 4, 5, 6])
    assert [text.split(" ")[0] for text in listener.said] == ["skipped"] * NAMED + ["further"]

"""The few-shot probe during a run: every so many steps, and at its end."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from statistics import median
from typing import cast

from lightning.pytorch import LightningModule, Trainer
from torch import nn

from moe_bench.data.bad import Tolerance
from moe_bench.probe.features import FLOOR_SIZE, pixels, pre_logits
from moe_bench.probe.score import ProbeSet, Protocol, Reader, Score, batches, score
from moe_bench.training.group import all_rows
from moe_bench.training.periodic import Periodic, evaluating

Phase = Callable[[str, int], AbstractContextManager[Callable[[], None]]]


class ProbeCallback(Periodic):
    """Logs, for each set and number of shots, probe/<set>/<shots>shot, …/std, …/floor and …/l2; and probe/l2.

    Where a set has pictures that could not be decoded, probe/<set>/bad is how many (see score.py for what they count).

    The floor is the same regression, on the same draws, from raw pixels: what a score must beat to mean something. Both
    are seen through ``FLOOR_SIZE`` pixels a side at most, so that it is a regression of at most 3,072 numbers; it is
    computed once. ``probe/l2`` is the median λ of all scores.

    Args:
        sets: what to probe on; none: nothing happens.
        image_size: of the model. batch: pictures encoded at once, whole routing groups.
        check: called between batches and may raise to stop. phase: shows progress, (label, total) → advance.
        timeout_s: how long a data process may take for a batch; 0: as long as it likes.
    """

    def __init__(
        self,
        sets: Sequence[ProbeSet],
        protocol: Protocol,
        *,
        image_size: int,
        batch: int,
        workers: int | None = None,
        every: int = 0,
        check: Callable[[], None] | None = None,
        phase: Phase | None = None,
        tolerance: Tolerance | None = None,
        timeout_s: float = 0,
    ) -> None:
        super().__init__(every)
        self.sets = list(sets)
        self.protocol = protocol
        self.image_size = image_size
        self.batch = batch
        self.workers = workers
        self.check = check or (lambda: None)
        self.phase = phase or _silent
        self.tolerance, self.timeout_s = tolerance, timeout_s
        self.scores: list[Score] = []
        self.floors: list[Score] = []

    def measure(self, trainer: Trainer, module: LightningModule) -> dict[str, float]:
        if not self.sets:
            return {}
        together = (trainer.global_rank, trainer.world_size, all_rows)
        careful = (self.tolerance, self.timeout_s)
        reader = Reader(self.image_size, self.batch, self.workers, module.device, *together, *careful)
        if not self.floors:
            with self._advancing("raw-pixel floor", reader.world) as advance:
                self.floors = floor(self.sets, self.protocol, reader, advance)
        encode = pre_logits(cast(nn.Module, module.model), trainer.precision_plugin.val_step_context)
        with evaluating(module), self._advancing("probe", reader.world) as advance:
            self.scores = score(self.sets, self.protocol, encode, reader, advance)
        return figures(self.scores, self.floors)

    @contextmanager
    def _advancing(self, label: str, world: int) -> Iterator[Callable[[], None]]:
        with self.phase(label, batches(self.sets, self.protocol, self.batch * world)) as advance:

            def step() -> None:
                advance()
                self.check()

            yield step


def floor(
    sets: Sequence[ProbeSet], protocol: Protocol, reader: Reader, advance: Callable[[], None] = lambda: None
) -> list[Score]:
    """The scores of raw pixels under the same protocol, from pictures of at most ``FLOOR_SIZE`` pixels a side."""
    low = replace(reader, image_size=min(reader.image_size, FLOOR_SIZE), device="cpu")
    return score(sets, protocol, pixels, low, advance)


def figures(scores: Sequence[Score], floors: Sequence[Score]) -> dict[str, float]:
    """Scores as rows of metrics.jsonl and summary.json name them."""
    told: dict[str, float] = {}
    for one, low in zip(scores, floors, strict=True):
        name = f"probe/{one.dataset}/{one.shots}shot"
        told |= {name: one.accuracy, f"{name}/std": one.std, f"{name}/floor": low.accuracy, f"{name}/l2": one.l2}
        told |= {f"probe/{one.dataset}/bad": one.bad} if one.bad else {}
    return told | ({"probe/l2": median(one.l2 for one in scores)} if scores else {})


@contextmanager
def _silent(label: str, total: int) -> Iterator[Callable[[], None]]:
    yield lambda: None

"""How far a run is: a live bar on a terminal, plain lines now and then elsewhere, with the same facts.

    step 120/600 ━━━━━━━━───────── loss 3.912 · prec@1 12.3 % · 412 img/s · 1 min 20 s left · 4.1 % of tokens uncovered

Figures are read from the device only when they are about to be shown.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from moe_bench.monitor.heartbeat import Eta
from moe_bench.monitor.throughput import Throughput
from moe_bench.monitor.units import counted, duration, percent, rate

BAR_EVERY_S = 0.5
LINE_EVERY_S = 10.0
LINE_SLOWEST_S = 300.0
NARROW = 100  # columns; below it the routing figure gives way


class RunProgress(ProgressBar):
    """Reports on ``console``. ``throughput`` gives the speed; metrics come from what the module and callbacks log.

    ``validation_batches`` is how long a validation is, 0 if that is not known.
    """

    def __init__(self, console: Console, throughput: Throughput, validation_batches: int = 0) -> None:
        super().__init__()
        self._view: _Bar | _Lines = _Bar(console) if console.is_terminal else _Lines(console)
        self._console = console
        self._throughput = throughput
        self._validation_batches = validation_batches
        self._eta = Eta()
        self._enabled = True
        self._validation_from = 0.0

    def enable(self) -> None:
        self._enabled = True

    def disable(self) -> None:
        self._enabled = False

    def print(self, *words: Any, **_: Any) -> None:
        if self._enabled:
            self._console.print(*words)

    @contextmanager
    def phase(self, label: str, total: int, unit: str = "batches") -> Iterator[Callable[[], None]]:
        """Something that training waits for. Yields a function to call after each of ``total`` pieces of it."""
        if not self._enabled:
            yield lambda: None
            return
        self._view.phase_start(label, total, unit)
        try:
            yield self._view.phase_advance
        finally:
            self._view.phase_end()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._eta.start(trainer.global_step)
        if self._enabled:
            self._view.start(trainer.global_step, trainer.max_steps)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        step, steps = trainer.global_step, trainer.max_steps
        if self._enabled and self._view.due(step, steps):
            metrics = trainer.callback_metrics
            facts = figures(metrics, self._throughput.images_per_s, self._eta.seconds(step, steps))
            self._view.show(step, steps, facts, routing_figure(metrics))

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._validation_from = time.monotonic()
        if self._enabled:
            self._view.phase_start("validation", self._validation_batches, "batches")

    def on_validation_batch_end(self, trainer: Trainer, *args: Any) -> None:
        if self._enabled:
            self._view.phase_advance()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not self._enabled:
            return
        self._view.phase_end()
        took = duration(time.monotonic() - self._validation_from)
        result = validation_figures(trainer.callback_metrics)
        self._view.note(
            trainer.global_step, trainer.max_steps, " · ".join([f"validation: {result[0]}", *result[1:], took])
        )

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._view.stop()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._view.stop()


def figures(metrics: Mapping[str, Any], images_per_s: float | None, left_s: float | None) -> list[str]:
    """The facts of a progress line; what is not known is left out."""
    facts = []
    if (loss := _value(metrics, "train/loss")) is not None:
        facts.append(f"loss {loss:.3f}")
    if (prec1 := _value(metrics, "train/prec1")) is not None:
        facts.append(f"prec@1 {percent(prec1)}")
    elif (prec1 := _value(metrics, "val/prec1")) is not None:
        facts.append(f"val prec@1 {percent(prec1)}")
    if images_per_s is not None:
        facts.append(rate(images_per_s))
    if left_s:
        facts.append(f"{duration(max(1, round(left_s)))} left")
    return facts


def routing_figure(metrics: Mapping[str, Any]) -> list[str]:
    """The one fact about routing: whom token choice drops, whom experts leave out, how far Soft MoE mixes."""
    for name, words in (("dropped_tokens", "dropped"), ("uncovered", "uncovered")):
        if (share := _value(metrics, f"routing/{name}")) is not None:
            return [f"{percent(share)} of tokens {words}"]
    mixed = _value(metrics, "routing/tokens_per_slot")
    return [] if mixed is None else [f"a slot mixes {mixed:.1f} tokens"]


def validation_figures(metrics: Mapping[str, Any]) -> list[str]:
    """prec@1 and loss of the whole validation set."""
    prec1, loss = _value(metrics, "val/prec1"), _value(metrics, "val/loss")
    return [f"prec@1 {percent(prec1)}", *([] if loss is None else [f"loss {loss:.3f}"])]


def _value(metrics: Mapping[str, Any], name: str) -> float | None:
    return float(metrics[name]) if name in metrics else None


class _Bar:
    """A bar for the steps and, below it, one for what the steps wait for."""

    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[facts]}"),
            console=console,
            expand=True,
        )
        self._console = console
        self._steps: TaskID | None = None
        self._phase: TaskID | None = None
        self._shown = 0.0

    def start(self, step: int, steps: int) -> None:
        self._steps = self._progress.add_task(_position(step, steps), total=steps, completed=step, facts="starting …")
        self._progress.start()

    def due(self, step: int, steps: int) -> bool:
        if self._steps is not None:
            self._progress.update(self._steps, completed=step, description=_position(step, steps))
        return step == steps or time.monotonic() - self._shown >= BAR_EVERY_S

    def show(self, step: int, steps: int, facts: list[str], routing: list[str]) -> None:
        self._shown = time.monotonic()
        if self._steps is not None:
            wanted = [*facts, *routing] if self._console.width >= NARROW else facts
            self._progress.update(self._steps, facts=" · ".join(wanted))

    def phase_start(self, label: str, total: int, unit: str) -> None:
        self._phase = self._progress.add_task(label, total=total or None, facts=counted(total, unit) if total else "")
        self._progress.start()

    def phase_advance(self) -> None:
        if self._phase is not None:
            self._progress.advance(self._phase)

    def phase_end(self) -> None:
        if self._phase is not None:
            self._progress.remove_task(self._phase)
            self._phase = None

    def note(self, step: int, steps: int, text: str) -> None:
        self._progress.console.print(f"{_position(step, steps)} · {text}")

    def stop(self) -> None:
        self._progress.stop()


class _Lines:
    """A line at the first step, at each tenth of the way, and every ten seconds; rarer as a run grows long."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._started = self._shown = time.monotonic()
        self._shown_step = 0  # at first the step that training starts from
        self._silent = True

    def start(self, step: int, steps: int) -> None:
        self._started, self._shown_step = time.monotonic(), step

    def due(self, step: int, steps: int) -> bool:
        if step == self._shown_step:  # the other parts of an accumulated batch
            return False
        if self._silent or step == steps:
            return True
        now = time.monotonic()
        pause = min(max(LINE_EVERY_S, (now - self._started) / 50), LINE_SLOWEST_S)
        return now - self._shown >= pause or 10 * step // steps > 10 * self._shown_step // steps

    def show(self, step: int, steps: int, facts: list[str], routing: list[str]) -> None:
        self._shown, self._shown_step, self._silent = time.monotonic(), step, False
        self.note(step, steps, " · ".join([*facts, *routing]))

    def phase_start(self, label: str, total: int, unit: str) -> None:
        self._console.print(f"{label}: {counted(total, unit)} …" if total else f"{label} …")

    def phase_advance(self) -> None:
        pass

    def phase_end(self) -> None:
        pass

    def note(self, step: int, steps: int, text: str) -> None:
        self._console.print(f"{_position(step, steps)} · {text}", soft_wrap=True)

    def stop(self) -> None:
        pass


def _position(step: int, steps: int) -> str:
    return f"step {step:>{len(str(steps))}}/{steps}"

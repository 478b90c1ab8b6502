"""Weights & Biases beside metrics.jsonl: never asks, never waits long, and its troubles never reach the training.

Online if a key is configured and the server answers, else offline into the run folder, to be uploaded when one likes.
The run's id there is its id here, so attempts of one run join; one that was started over has a number behind it, and
joins none of before. Importing this module does not import wandb.
"""

from __future__ import annotations

import importlib
import shlex
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from moe_bench.monitor.atomic import plain
from moe_bench.monitor.wandb_offline import mark_unfinished
from moe_bench.monitor.wandb_server import choose_mode
from moe_bench.secrets import redact

INIT_S = 5.0
FINISH_S = 30.0
BARS = 512  # the most that W&B puts in a histogram


class WandbLogger(Logger):
    """Starts W&B when a fit begins; ``close`` ends it. ``say`` gets at most one line about each thing worth knowing.

    ``mode`` is "auto", "online" or "offline"; ``config`` is what W&B shows as the run's settings; ``started_over`` is
    how often a run of that name was put aside for this one.
    """

    def __init__(
        self,
        folder: Path,
        *,
        project: str,
        config: Mapping[str, Any],
        batch: int,
        mode: str = "auto",
        entity: str | None = None,
        group: str | None = None,
        tags: Sequence[str] = (),
        started_over: int = 0,
        say: Callable[[str], None] = print,
    ) -> None:
        super().__init__()
        self.failures = 0
        self._folder = folder
        self._id = f"{folder.name}-{started_over + 1}" if started_over else folder.name
        self._project = redact(project)
        self._config = redact(plain(dict(config)))
        self._batch = batch
        self._mode = mode
        self._init = redact({"entity": entity, "group": group, "tags": list(tags)})
        self._say = say
        self._run: Any = None
        self._files: Path | None = None
        self._over = False

    @property
    def name(self) -> str:
        return self._project

    @property
    def version(self) -> str:
        return self._id

    @property
    @rank_zero_only
    def experiment(self) -> Any:
        """The W&B run, None without one. Lightning asks for it before the first step, so that is when it starts."""
        self._safely(self._started)
        return self._run

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        row = {**metrics, "step": step, "samples_seen": (step or 0) * self._batch}
        self._safely(lambda: self._started().log(row))

    @rank_zero_only
    def log_bars(self, bars: Mapping[str, Sequence[float]], step: int) -> None:
        """Each name as a histogram whose nth bar is the nth of at most BARS numbers."""

        def act() -> None:
            histogram = importlib.import_module("wandb").Histogram
            drawn = {name: histogram(np_histogram=(v, list(range(len(v) + 1)))) for name, v in bars.items()}
            self._started().log({**drawn, "step": step, "samples_seen": step * self._batch})

        self._safely(act)

    @rank_zero_only
    def log_pictures(self, pictures: Mapping[str, Path], step: int) -> None:
        """Each name as the picture in that file."""

        def act() -> None:
            image = importlib.import_module("wandb").Image
            drawn = {name: image(str(path)) for name, path in pictures.items()}
            self._started().log({**drawn, "step": step, "samples_seen": step * self._batch})

        self._safely(act)

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """The settings are given to ``__init__``."""

    @rank_zero_only
    def close(self, exit_code: int = 0, summary: Mapping[str, Any] | None = None) -> None:
        """End the run there: ``summary`` becomes its summary, ``exit_code`` its state. Waits half a minute at most."""
        if summary is not None:
            self._safely(lambda: self._started().summary.update(redact(plain(dict(summary)))))
        run, self._run = self._run, None
        if run is not None and not _ends_in_time(lambda: self._safely(lambda: run.finish(exit_code))):
            self._say(f"W&B did not take the rest within {FINISH_S:.0f} s; upload it later: {self._upload_command()}")
            self._keep_for_later()
        self._over = True

    def _safely(self, act: Callable[[], Any]) -> None:
        """Whatever goes wrong with W&B is told once and ends it for this run."""
        if self._over:
            return
        try:
            act()
        except Exception as error:
            if self._over:  # ``close`` has stopped waiting for it, and told
                return
            self.failures += 1
            self._over = True
            nothing_lost = "Nothing is lost: metrics.jsonl has every row."
            self._say(f"W&B is off for the rest of this run ({_one_line(error)}). {nothing_lost}")
            self._keep_for_later()
            _ends_in_time(_tear_down)

    def _keep_for_later(self) -> None:
        if self._files is not None:
            with suppress(OSError):
                mark_unfinished(self._files)

    def _started(self) -> Any:
        if self._run is None:
            self._run = self._start()
        return self._run

    def _start(self) -> Any:
        wandb = importlib.import_module("wandb")
        wandb.setup(settings=wandb.Settings(silent=True))  # also of what it says while it logs in
        mode, why = choose_mode(self._mode)
        try:
            run = self._init_run(wandb, mode)
        except wandb.Error as error:  # refused, or no answer in time
            if mode != "online":
                raise
            _tear_down()  # its service still tries
            mode, why = "offline", _one_line(error)
            run = self._init_run(wandb, mode)
        self._files = Path(run.dir)
        run.define_metric("samples_seen", hidden=True)
        run.define_metric("*", step_metric="samples_seen")
        run.define_metric("val/prec1", step_metric="samples_seen", summary="max")
        run.define_metric("val/loss", step_metric="samples_seen", summary="min")
        upload = f"; to upload: {self._upload_command()}" if mode == "offline" else ""
        self._say(f"W&B: {run.url}" if mode == "online" else f"W&B: {mode} ({why}){upload}")
        return run

    def _init_run(self, wandb: Any, mode: str) -> Any:
        return wandb.init(
            project=self._project,
            id=self._id,
            name=self._id,
            dir=str(self._folder),
            config=self._config,
            mode=mode,
            resume="allow",  # kept in offline files too: without it the upload of an attempt replaces the one before
            reinit="create_new",
            job_type="train",
            settings=_settings(wandb),
            **self._init,
        )

    def _upload_command(self) -> str:
        return f"moe-bench sync {shlex.quote(str(self._folder))}"


def _one_line(error: Exception) -> str:
    return " ".join(str(redact(str(error))).split())[:200] or type(error).__name__


def _ends_in_time(act: Callable[[], Any]) -> bool:
    """Whether ``act`` ended within half a minute; it is left to itself if not."""
    thread = threading.Thread(target=act, daemon=True)
    thread.start()
    thread.join(FINISH_S)
    return not thread.is_alive()


def _tear_down() -> None:
    """End W&B's service, which would else be missed, loudly, when Python exits."""
    if (wandb := sys.modules.get("wandb")) is not None:
        with suppress(Exception):
            wandb.teardown()


def _settings(wandb: Any) -> Any:
    """Silent, and without the copy of the command line that could hold a password."""
    wanted = {
        "silent": True,
        "console": "off",
        "init_timeout": INIT_S,
        "finish_timeout": 2 * FINISH_S,  # ours comes first, and tells
        "save_code": False,
        "disable_git": True,
        "x_disable_meta": True,
    }
    known = getattr(wandb.Settings, "model_fields", wanted)
    return wandb.Settings(**{name: value for name, value in wanted.items() if name in known})

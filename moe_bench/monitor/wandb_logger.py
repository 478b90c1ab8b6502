"""Weights & Biases beside metrics.jsonl: never asks, never waits long, and its troubles never reach the training.

Online if a key is configured and the server answers, else offline into the run folder, to be uploaded when one likes.
The run's id there is its id here, so attempts of one run join. Importing this module does not import wandb.
"""

from __future__ import annotations

import importlib
import netrc
import os
import socket
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from moe_bench.monitor.atomic import plain
from moe_bench.monitor.secrets import redact

SERVER = "https://api.wandb.ai"
REACH_S = 2.0
INIT_S = 5.0
FINISH_S = 30.0
BARS = 512  # the most that W&B puts in a histogram


class WandbLogger(Logger):
    """Starts W&B when a fit begins; ``close`` ends it. ``say`` gets at most one line about each thing worth knowing.

    ``mode`` is "auto", "online" or "offline"; ``config`` is what W&B shows as the run's settings.
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
        say: Callable[[str], None] = print,
    ) -> None:
        super().__init__()
        self.failures = 0
        self._folder = folder
        self._project = project
        self._config = redact(plain(dict(config)))
        self._batch = batch
        self._mode = mode
        self._init = {"entity": entity, "group": group, "tags": list(tags)}
        self._say = say
        self._run: Any = None
        self._over = False

    @property
    def name(self) -> str:
        return self._project

    @property
    def version(self) -> str:
        return self._folder.name

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

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """The settings are given to ``__init__``."""

    @rank_zero_only
    def close(self, exit_code: int = 0, summary: Mapping[str, Any] | None = None) -> None:
        """End the run there: ``summary`` becomes its summary, ``exit_code`` its state. Waits half a minute at most."""
        if summary is not None:
            self._safely(lambda: self._started().summary.update(redact(plain(dict(summary)))))
        if self._run is not None:
            run, self._run = self._run, None
            if not _ends_in_time(lambda: self._safely(lambda: run.finish(exit_code))):
                self._say(f"W&B did not take the rest within {FINISH_S:.0f} s; upload it later: {self._sync_command()}")
        self._over = True

    def _safely(self, act: Callable[[], Any]) -> None:
        """Whatever goes wrong with W&B is told once and ends it for this run."""
        if self._over:
            return
        try:
            act()
        except Exception as error:
            self.failures += 1
            self._over = True
            reason = " ".join(str(redact(str(error))).split())[:200] or type(error).__name__
            self._say(f"W&B is off for the rest of this run ({reason}). Nothing is lost: metrics.jsonl has every row.")
            _ends_in_time(_tear_down)

    def _started(self) -> Any:
        if self._run is None:
            self._run = self._start()
        return self._run

    def _start(self) -> Any:
        if not self._folder.is_dir():
            raise FileNotFoundError(f"{self._folder} is gone")  # W&B would make it again
        wandb = importlib.import_module("wandb")
        mode, why = choose_mode(self._mode)
        run = wandb.init(
            project=self._project,
            id=self._folder.name,
            name=self._folder.name,
            dir=str(self._folder),
            config=self._config,
            mode=mode,
            resume="allow" if mode == "online" else None,
            reinit="create_new",
            job_type="train",
            settings=_settings(wandb),
            **self._init,
        )
        run.define_metric("samples_seen", hidden=True)
        run.define_metric("*", step_metric="samples_seen")
        run.define_metric("val/prec1", step_metric="samples_seen", summary="max")
        run.define_metric("val/loss", step_metric="samples_seen", summary="min")
        upload = f"; to upload: {self._sync_command()}" if mode == "offline" else ""
        self._say(f"W&B: {run.url}" if mode == "online" else f"W&B: {mode} ({why}){upload}")
        return run

    def _sync_command(self) -> str:
        return f"wandb sync --append {self._folder}/wandb/offline-run-*"


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


def choose_mode(mode: str, environ: Mapping[str, str] | None = None) -> tuple[str, str]:
    """("online", "offline" or "disabled", why). Asks nobody, and opens no connection unless a key is configured."""
    variables = os.environ if environ is None else environ
    server = variables.get("WANDB_BASE_URL") or SERVER
    wanted = variables.get("WANDB_MODE", "") if mode == "auto" else mode
    if wanted in ("offline", "disabled"):
        return wanted, "as asked"
    if not has_key(server, variables):
        return "offline", f"no key for {urlsplit(server).hostname}"
    if not _answers(server, variables):
        return "offline", f"{urlsplit(server).hostname} does not answer"
    return "online", ""


def has_key(server: str, variables: Mapping[str, str]) -> bool:
    """Whether a key is in the environment or in the user's netrc file."""
    if variables.get("WANDB_API_KEY") or variables.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    home = Path(variables.get("HOME") or Path.home())
    named = variables.get("NETRC")
    for path in [Path(named)] if named else [home / ".netrc", home / "_netrc"]:
        try:
            found = netrc.netrc(str(path)).authenticators(urlsplit(server).hostname or "")
        except (OSError, netrc.NetrcParseError):
            continue
        if found is not None:
            return True
    return False


def _answers(server: str, variables: Mapping[str, str]) -> bool:
    if any(variables.get(name) for name in ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy")):
        return True  # a proxy stands between; W&B's own time limit decides
    url = urlsplit(server)
    try:
        with socket.create_connection((url.hostname or "", url.port or (80 if url.scheme == "http" else 443)), REACH_S):
            return True
    except OSError:
        return False


def _settings(wandb: Any) -> Any:
    """Silent, and without the copy of the command line that could hold a password."""
    wanted = {
        "silent": True,
        "console": "off",
        "init_timeout": INIT_S,
        "finish_timeout": FINISH_S,
        "save_code": False,
        "disable_git": True,
        "x_disable_meta": True,
    }
    known = getattr(wandb.Settings, "model_fields", wanted)
    return wandb.Settings(**{name: value for name, value in wanted.items() if name in known})

"""The runs of a sweep, its cells: what each is called, how it is typed, where it lives, what is left of it to do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from moe_bench.config import Config, run_id, science
from moe_bench.config.argv import as_typed
from moe_bench.config.sweep import Plan
from moe_bench.errors import ConfigError
from moe_bench.launch.python import this_program
from moe_bench.monitor.atomic import read_json
from moe_bench.monitor.folder import RunFolder

SWEEP_FOLDER = ".sweep"
"""Beneath the folder of runs: what cells print, and what SLURM is given."""


@dataclass(frozen=True)
class Cell:
    """One run of a sweep, before it is started."""

    number: int  # from 1
    label: str  # the settings in which it differs from the others, as typed
    config: Config
    command: tuple[str, ...]  # the words that start it
    folder: Path
    finished: bool
    steps_done: int  # of an unfinished run, as its status.json says

    @property
    def name(self) -> str:
        return self.folder.name

    def beside(self, suffix: str) -> Path:
        """A file about this cell that outlives its run folder being put aside."""
        return self.folder.parent / SWEEP_FOLDER / f"{self.name}{suffix}"


def find_cells(plan: Plan, config_dir: str | None = None) -> list[Cell]:
    """The cells of a plan in order, compared with what there is in their run folders."""
    pairs = zip(plan.cells, plan.configs, strict=True)
    return [_cell(plan, number, words, cfg, config_dir) for number, (words, cfg) in enumerate(pairs, 1)]


def _cell(plan: Plan, number: int, words: Sequence[str], cfg: Config, config_dir: str | None) -> Cell:
    label = " ".join(as_typed(line) for line in words if _key(line) in plan.varying)
    folder = RunFolder(Path(cfg.runs_dir) / run_id(cfg), writer=False)
    status = (read_json(folder.status_json) or {}) if folder.path.is_dir() else {}
    step = status.get("step")
    return Cell(
        number=number,
        label=label or folder.path.name,
        config=cfg,
        command=tuple(command(plan, words, config_dir)),
        folder=folder.path,
        finished=not cfg.force and _is_finished(folder, cfg),
        steps_done=step if isinstance(step, int) and not cfg.force else 0,
    )


def _is_finished(folder: RunFolder, cfg: Config) -> bool:
    try:
        return folder.path.is_dir() and folder.finished(science(cfg)) is not None
    except ConfigError:  # another run is in its place; the cell itself will tell
        return False


def command(plan: Plan, words: Sequence[str], config_dir: str | None) -> list[str]:
    """The command line of one cell."""
    flags = ["--run"] if plan.by_preset else []
    flags += ["--config-dir", config_dir] if config_dir else []
    return [*this_program(), *flags, *words]


def _key(line: str) -> str:
    return line.partition("=")[0].lstrip("+~")

"""A run from its settings to its summary, in reading order: folder → place → pictures → model → fit → summary."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moe_bench.config import Config, run_id, science, to_dict
from moe_bench.config.here import refuse_what_is_missing
from moe_bench.config.plugins import blaming_own_code
from moe_bench.guard import naming_lost_workers
from moe_bench.monitor.atomic import read_json
from moe_bench.monitor.console import make_console
from moe_bench.monitor.folder import RunFolder, Start
from moe_bench.onward import next_commands
from moe_bench.ranks import Alone, Rank

if TYPE_CHECKING:
    from rich.console import Console

    from moe_bench.training.store import Saved


def run(cfg: Config, overrides: list[str], rank: Rank = Alone.rank) -> float | None:
    """Do what ``cfg`` asks for, or what is left of it; returns val/prec1, for whoever searches over settings.

    ``overrides`` are what the user typed, kept in run.json; ``rank`` is this process's place among those of the run. A
    finished run is skipped without importing torch. Raises MoeBenchError for all that can go wrong; status.json then
    says what did.
    """
    folder, console = run_folder(cfg, writer=rank.rank == 0), make_console(quiet=rank.rank > 0)
    if not folder.summary_json.exists():
        refuse_what_is_missing(cfg)
    with folder, _group(cfg, rank) as group:
        start = group.decided(lambda: _open(cfg, folder, overrides))
        if start.summary is None:
            with blaming_own_code(cfg.router):
                return _train(cfg, folder, start, console, group)
    console.print(start.note)
    return start.summary.get("val/prec1")


def skipped(cfg: Config) -> bool:
    """Whether there is nothing left to do; says so if it is."""
    finished = None if cfg.force else run_folder(cfg, writer=False).finished(science(cfg))
    if finished is not None:
        make_console().print(finished.note)
    return finished is not None


def prec1(cfg: Config) -> float | None:
    """val/prec1 of a run that is finished."""
    summary: dict[str, Any] = read_json(run_folder(cfg, writer=False).summary_json) or {}
    return summary.get("val/prec1")


def run_folder(cfg: Config, writer: bool) -> RunFolder:
    return RunFolder(Path(cfg.runs_dir) / run_id(cfg), writer)


def _open(cfg: Config, folder: RunFolder, overrides: list[str]) -> Start:
    record = {"run_id": run_id(cfg), "config": to_dict(cfg), "overrides": overrides, "science": science(cfg)}
    find = _newest if cfg.runtime.resume == "newest" else _newest_whole
    return folder.open(record, resume=cfg.runtime.resume, force=cfg.force, find_checkpoint=find)


def _group(cfg: Config, rank: Rank) -> AbstractContextManager[Alone]:
    if rank.world == 1:
        return nullcontext(Alone())  # without torch, for a run that is finished
    from moe_bench import build
    from moe_bench.training.group import joined

    return joined(rank, build.place(cfg), cfg.runtime.timeout_s)


def _train(cfg: Config, folder: RunFolder, start: Start, console: Console, group: Alone) -> float | None:
    with console.status("loading …"):  # only now, so that a finished run is skipped and mistakes are told before torch
        from moe_bench import build, result, room
        from moe_bench.monitor.header import header
        from moe_bench.monitor.summary import summary_view
        from moe_bench.training.stop import StopSignals

    with StopSignals() as signals:
        signals.agree = group.largest
        at = build.place(cfg)
        found = group.in_turn(lambda: build.pictures(cfg.data, progress=not console.quiet))
        costs = build.price(cfg, found.num_classes)
        pieces = room.device_batch(cfg, at, costs, group)
        module = build.module(cfg, at, found.num_classes)
        weights = "" if start.checkpoint else build.begin(cfg.init, module)
        data = build.image_data(cfg, found, pieces, room.training_workers(cfg, at, costs))
        fit = build.fit(cfg, at, data, folder, signals, console, group)
        folder.record(
            device=at.name, world_size=at.world, sharing=at.sharing, precision=at.precision, device_batch=pieces
        )
        with console.status("timing a few pieces of work …"):
            rehearsed = build.rehearsal(cfg, at, module, pieces)
            about_s = build.expected_seconds(cfg, at, rehearsed, start.step)
        signals.check()
        note, where = start.note, str(folder.path)
        facts = result.facts(cfg, at, found, costs, pieces, weights, note=note, folder=where, about_s=about_s)
        console.print(header(facts, console.width), soft_wrap=True)
        try:
            with room.explaining_shortage(cfg, costs, pieces), naming_lost_workers():
                fit.trainer.fit(module, datamodule=data, ckpt_path=start.checkpoint, weights_only=True)
            summary = result.summary(cfg, at, found, costs, fit.measures, rehearsed) | module.figures()
            folder.finish(summary)
        except BaseException:
            fit.close(exit_code=1)
            raise
        fit.close(summary=summary)
    if not console.quiet:
        following = next_commands(cfg, folder.path, sys.argv[1:])
        console.print(summary_view(summary, str(folder.path), following, console.width), soft_wrap=True)
    return summary["val/prec1"]


def _newest_whole(checkpoints: Path) -> Saved | None:
    from moe_bench.training.store import latest

    return latest(checkpoints)


def _newest(checkpoints: Path) -> Saved | None:
    from moe_bench.training.store import latest

    return latest(checkpoints, fallback=False)

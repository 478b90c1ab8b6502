"""``moe-bench estimate SETTINGS``: a run's size, work, memory, disk and time, before it burns a GPU-hour."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from moe_bench.arguments import Parser
from moe_bench.config import Config, load, run_id
from moe_bench.launch.evidence import finished_like
from moe_bench.launch.outlook import checkpoint_bytes
from moe_bench.launch.pace import price
from moe_bench.model.fit import fits
from moe_bench.monitor.console import make_console
from moe_bench.monitor.layout import block
from moe_bench.monitor.units import about, count, counted, flops, significant, size

EPILOG = """examples:
  moe-bench estimate router=soft model=b16 capacity=2
  moe-bench estimate model=b16 --measure              times a few pieces of work here
  moe-bench estimate experiment=paper data.path=DIR --json

All but --measure is arithmetic and answers at once. Memory is a bound, in float32, of a
device that holds the whole model.
"""


def run(argv: list[str]) -> int:
    """Prints the estimate. Raises ConfigError where the settings cannot be."""
    args = _parser().parse_intermixed_args(argv)
    cfg = load(args.settings, args.config_dir)
    found = estimate(cfg) | timing(cfg, args.measure)
    if args.json:
        print(json.dumps(found, indent=2))
    else:
        console = make_console()
        for line in block(found["run_id"], list(facts(cfg, found).items()), console.width):
            console.print(line, soft_wrap=True)
    return 0


def estimate(cfg: Config) -> dict[str, Any]:
    """What arithmetic alone tells; keys as in summary.json where it has them."""
    costs, r = price(cfg), cfg.recipe
    share = max(1, r.batch // (cfg.runtime.devices * cfg.runtime.nodes))
    at_once, least = (fits(costs, share, memory, optimizer=r.optimizer) for memory in (sys.maxsize, 0))
    step = costs.flops_per_image_training * r.batch
    return {
        "run_id": run_id(cfg),
        "params/total": costs.params_total,
        "params/active": costs.params_active,
        "flops/image": costs.flops_per_image,
        "flops/step": step,
        "flops/run": step * r.steps,
        "tokens_per_group": costs.tokens_per_group,
        "slots_per_expert": costs.slots_per_expert,
        "memory/bytes": at_once.needed_bytes,
        "memory/device_batch": share,
        "memory/least_bytes": least.needed_bytes,
        "memory/least_device_batch": least.smallest_batch,
        "disk/checkpoint_bytes": checkpoint_bytes(cfg),
    }


def timing(cfg: Config, measure: bool) -> dict[str, Any]:
    """Seconds a step and a run, and how they are known; None where they are not."""
    devices = cfg.runtime.devices * cfg.runtime.nodes
    (like,) = finished_like([(cfg, Path(cfg.runs_dir) / run_id(cfg))])
    step, source = (like.step_s, f"finished runs like this on {like.device}") if like else (None, "unknown")
    if measure:
        from moe_bench.estimate.speed import image_seconds, stand_in

        played = stand_in(cfg).model
        cut = "" if played == cfg.model else f", of {played.depth} blocks and {played.experts} experts, scaled by FLOPs"
        step = image_seconds(cfg) * cfg.recipe.batch / devices
        source = f"pieces of work timed here{cut}; without reading pictures and without the update"
    if step is None:
        return {"time/step_ms": None, "time/train_s": None, "cost/device_days": None, "time/source": source}
    whole = step * cfg.recipe.steps
    days = devices * whole / 86400
    return {"time/step_ms": 1000 * step, "time/train_s": whole, "cost/device_days": days, "time/source": source}


def facts(cfg: Config, found: dict[str, Any]) -> dict[str, str]:
    """The same for people."""
    total, active, r = found["params/total"], found["params/active"], cfg.recipe
    lines = {
        "model": f"{cfg.model.name}: {count(total)} parameters, {count(active)} active",
        "work": f"{flops(found['flops/image'])}/image forward · forward and backward {flops(found['flops/step'])}/step "
        f"of {r.batch:,} images, {flops(found['flops/run'])} in {counted(r.steps, 'steps')}",
    }
    if found["slots_per_expert"]:
        lines["routing"] = (
            f"{cfg.router.name}: groups of {found['tokens_per_group']:,} tokens, {cfg.model.experts} experts × "
            f"{found['slots_per_expert']} slots, in {len(cfg.model.moe_blocks)} layers"
        )
    least = f"{size(found['memory/least_bytes'])} with {found['memory/least_device_batch']}"
    lines["memory"] = f"{size(found['memory/bytes'])} with {found['memory/device_batch']:,} images at once · {least}"
    lines["disk"] = f"{size(found['disk/checkpoint_bytes'])} of checkpoints"
    if found["time/train_s"] is None:
        lines["time"] = "unknown, since no run like this is finished; --measure times a few pieces of work here"
    else:
        lines["time"] = (
            f"{significant(found['time/step_ms'])} ms/step · {about(found['time/train_s'])} of training · "
            f"{significant(found['cost/device_days'])} device-days (by {found['time/source']})"
        )
    return lines


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="moe-bench estimate",
        description="What a run of these settings will take: parameters, FLOPs, memory, disk, time.",
        epilog=EPILOG,
    )
    parser.add_argument("settings", nargs="*", metavar="SETTING", help="as for a run: group=option, key=value")
    parser.add_argument("--measure", action="store_true", help="time a few pieces of work on this machine")
    parser.add_argument("--json", action="store_true", help="for scripts")
    parser.add_argument("--config-dir", metavar="DIR", help="your own YAML")
    return parser

"""A sweep from its plan to its exit code: what lies ahead is told, then its launcher does it."""

from __future__ import annotations

from moe_bench.config.launchers import SlurmLauncher
from moe_bench.config.sweep import Plan
from moe_bench.errors import ConfigError
from moe_bench.launch import local, slurm
from moe_bench.launch.cells import find_cells
from moe_bench.launch.outlook import listing, outlook


def run(plan: Plan, config_dir: str | None = None, dry_run: bool = False) -> int:
    """Start all runs of a plan that are not finished, or with ``dry_run`` list them; returns the exit code.

    Raises:
        ConfigError: the launcher cannot.
        SweepError: if a run failed.
    """
    if plan.launcher is None:
        raise ConfigError("--dry-run lists the runs of hydra/sweeper=basic with moe-bench's own launchers only.")
    cells = find_cells(plan, config_dir)
    if plan.repeated:
        local.say(f"{plan.repeated} of {plan.repeated + len(cells)} runs would repeat another one, and are left out")
    if dry_run:
        local.say(listing(cells))
    local.say(outlook(cells, plan.launcher.jobs, elsewhere=isinstance(plan.launcher, SlurmLauncher)))
    if isinstance(plan.launcher, SlurmLauncher):
        return slurm.run(cells, plan.launcher, dry_run)
    return 0 if dry_run else local.run(cells, plan.launcher)

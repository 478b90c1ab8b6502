"""A grid is spread out, bounded and checked before its first run."""

from __future__ import annotations

from pathlib import Path

import pytest

from moe_bench.config.launchers import LocalLauncher, SlurmLauncher
from moe_bench.config.sweep import plan
from moe_bench.errors import ConfigError


def test_one_run_is_a_grid_of_one_and_no_sweep() -> None:
    asked = plan(["capacity=2"])
    assert (asked.cells, asked.is_sweep) == ((("capacity='2'",),), False)


def test_every_combination_is_a_run() -> None:
    asked = plan(["capacity=1,2", "router=soft,sinkhorn_ec", "seed=3"], multirun=True)
    assert len(asked.cells) == 4
    assert asked.cells[0] == ("capacity='1'", "router=soft", "seed=3")
    assert asked.varying == {"capacity", "router"}


def test_what_is_one_run_is_asked_for_once() -> None:
    asked = plan(["router=dense,softmax_tc", "capacity=1,2", "seed=0,1"], multirun=True)
    assert (len(asked.cells), asked.repeated) == (2 + 4, 2)
    assert [cell for cell in asked.cells if "router=dense" in cell] == [
        ("router=dense", "capacity='1'", "seed=0"),
        ("router=dense", "capacity='1'", "seed=1"),
    ]


@pytest.mark.parametrize("typed", ["capacity=1,1.5", "capacity=choice(1,1.5)"])
def test_numbers_with_and_without_a_file_go_together(typed: str) -> None:
    cells = plan([typed], multirun=True).cells
    assert len(cells) == 2
    assert plan(list(cells[1])).config.capacity.factor == 1.5


def test_a_preset_of_a_sweep_needs_no_flag_and_gives_way_to_what_is_typed() -> None:
    assert len(plan(["sweep=routers"]).cells) == 12
    narrowed = plan(["sweep=routers", "router=soft"])
    assert len(narrowed.cells) == 2
    assert narrowed.by_preset
    assert len(plan(["sweep=routers", "capacity=1.5"]).cells) == 6
    assert not plan(["sweep=routers"], single=True).is_sweep


def test_several_values_without_the_flag_are_a_mistake() -> None:
    with pytest.raises(ConfigError, match="add -m, or choose one: router=soft"):
        plan(["router=soft,dense"])


@pytest.mark.parametrize("more", [[], ["seed=range(0,100)"]])
def test_every_value_is_checked_before_the_first_run(more: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        plan(["router=softmax_ec,sinkorn_ec", "recipe.batch=8,12,16", *more], multirun=True)
    message = str(caught.value)
    assert "2 problems" in message
    assert "router=sinkhorn_ec" in message
    assert "recipe.batch=12" in message


def test_a_small_grid_is_checked_in_every_combination() -> None:
    """Neither model nor data is wrong; one of four combinations is."""
    with pytest.raises(ConfigError, match="patches of 4 pixels do not tile an image of 34"):
        plan(["model.patch=2,4", "model.image_size=32,34"], multirun=True)


def test_a_grid_of_absurd_size_is_refused_without_being_spread_out() -> None:
    with pytest.raises(ConfigError, match="more than 20,000 runs"):
        plan(["seed=range(0,1000000000)"], multirun=True)


def test_launchers_from_outside_are_left_to_hydra() -> None:
    assert plan(["seed=1,2", "hydra/launcher=basic"], multirun=True).external
    assert not plan(["seed=1,2"], multirun=True).external
    with pytest.raises(ConfigError, match="hydra/launcher=local"):
        plan(["seed=1,2", "hydra/launcher=basic", "runtime.devices=2"], multirun=True)


def test_of_a_large_grid_too_every_run_is_checked_and_none_is_done_twice() -> None:
    grid = ["seed=range(0,10)", "capacity=1,2", "router=soft,softmax_ec,dense"]
    asked = plan(grid, multirun=True)
    assert len(asked.cells) == len(asked.configs) == 50
    assert asked.repeated == 10
    assert (asked.configs[-1].seed, asked.configs[-1].capacity.factor) == (9, 2.0)
    with pytest.raises(ConfigError, match="router"):
        plan([*grid, "router.noise=0,1"], multirun=True)  # a dense model has none


def test_a_launcher_has_one_value_for_each_of_its_settings_and_no_run_has_any() -> None:
    asked = plan(["seed=1,2", "hydra.launcher.jobs=2", "hydra/launcher=local"], multirun=True)
    assert asked.launcher == LocalLauncher(jobs=2)
    assert asked.cells == (("seed=1",), ("seed=2",))
    cluster = ["hydra/launcher=submitit_slurm", "hydra.launcher.partition=gpu"]
    assert plan(["seed=1", *cluster], multirun=True).launcher == SlurmLauncher(partition="gpu")
    for mistake, told in {
        "hydra.launcher.jobs=0": "hydra.launcher.jobs must be at least 1",
        "hydra.launcher.jbs=2": "hydra.launcher.jobs=2",
        "hydra.launcher.jobs=1,2": "one launcher starts all runs",
        "hydra.launcher.timeout_min=soon": "soon is not a number",
    }.items():
        with pytest.raises(ConfigError, match=told):
            plan(["seed=1,2", mistake], multirun=True)


def test_a_launcher_that_is_not_there_is_the_one_problem_and_told_with_those_that_are() -> None:
    with pytest.raises(ConfigError, match="→ hydra/launcher=submitit_slurm") as refused:
        plan(["seed=1,2", "hydra/launcher=slurm"], multirun=True)
    assert "1 problem" in str(refused.value)


def test_the_settings_of_a_launcher_from_outside_are_left_to_hydra(tmp_path: Path) -> None:
    file = tmp_path / "hydra" / "launcher" / "theirs.yaml"
    file.parent.mkdir(parents=True)
    file.write_text("_target_: theirs.Launcher\nfolder: ${hydra.sweep.dir}/theirs\nminutes: 60\n")
    asked = plan(["seed=1,2", "hydra/launcher=theirs", "hydra.launcher.minutes=5"], str(tmp_path), multirun=True)
    assert asked.external
    assert asked.cells == (("seed=1",), ("seed=2",))


def test_a_launcher_without_a_sweep_is_no_silence() -> None:
    with pytest.raises(ConfigError, match="add -m"):
        plan(["seed=1", "hydra/launcher=submitit_slurm"])

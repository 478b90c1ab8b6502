"""Every file under conf/ composes, fits and explains itself."""

from __future__ import annotations

import re
from dataclasses import asdict
from pathlib import Path

import pytest
import yaml
from config.finished import finished_run

from moe_bench import config
from moe_bench.config.compose import compose_tree
from moe_bench.config.convert import OUR_ROUTERS
from moe_bench.config.groups import conf_dir, description, find_groups
from moe_bench.config.overrides import read
from moe_bench.config.security import problems_of_tree
from moe_bench.config.sweep import plan
from moe_bench.data.sources import resolve
from moe_bench.usage import NOT_CHOSEN

GROUPS = find_groups()
OPTIONS = [(group, option) for group in GROUPS for option in GROUPS[group] if not group.startswith(NOT_CHOSEN)]
NEEDS = {
    ("data", "shards"): ["data.path=/pictures"],
    ("data", "imagenet1k"): ["data.path=/pictures"],
    ("data", "imagenet21k"): ["data.path=/pictures"],
    ("data", "jft300m"): ["data.path=/pictures", "recipe=vmoe_jft"],
    ("experiment", "paper"): ["data.path=/pictures"],
    ("experiment", "paper_b32"): ["data.path=/pictures"],
    ("experiment", "imagenet21k"): ["data.path=/pictures"],
    ("experiment", "tiny_imagenet"): ["data.path=/pictures"],
    ("experiment", "mini"): ["data.path=/pictures"],
    ("sweep", "mini"): ["data.path=/pictures"],
    ("sweep", "paper"): ["data.path=/pictures"],
    ("sweep", "figure3"): ["data.path=/pictures"],
    ("experiment", "finetune"): ["init.run={run}"],
    ("recipe", "finetune"): ["init.run={run}"],
}
"""What a preset cannot know and its user types with it."""


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_every_preset_composes_and_fits(group: str, option: str, tmp_path: Path) -> None:
    needs = NEEDS.get((group, option), [])
    run = finished_run(tmp_path) if "init.run={run}" in needs else None
    asked = plan([f"{group}={option}", *(word.format(run=run) for word in needs)])
    assert asked.is_sweep == (group == "sweep")
    section = getattr(asked.config, group, None)
    if group not in ("capacity", "experiment", "sweep", "debug") and option != "shards":
        assert section is not None
        assert section.name == option


@pytest.mark.parametrize("tuned", GROUPS["recipe/tuned"])
def test_what_a_recipe_has_for_a_model_comes_with_the_two_and_gives_way_to_what_is_typed(tuned: str) -> None:
    recipe, model = tuned.split("-")
    rate = yaml.safe_load(GROUPS["recipe/tuned"][tuned].read_text())["lr"]
    assert config.load([f"recipe={recipe}", f"model={model}"]).recipe.lr == float(rate)
    assert config.load([f"recipe={recipe}", f"model={model}", "recipe.lr=1e-5"]).recipe.lr == 1e-5
    assert config.load([f"recipe={recipe}", "model=b16"]).recipe.lr == 8e-4


@pytest.mark.parametrize("option", ["imagenet1k", "imagenet21k"])
def test_what_a_data_set_says_to_type_for_a_public_copy_is_taken(option: str) -> None:
    comment = " ".join(line[1:] for line in GROUPS["data"][option].read_text().splitlines() if line.startswith("#"))
    patterns = re.findall(r"'(data\.\w+=DIR/[^']+)'", comment)
    assert len(patterns) >= 2
    for train, val in zip(patterns[::2], patterns[1::2]):
        asked = plan([f"data={option}", train, val]).config.data
        assert (f"data.train={asked.train}", f"data.val={asked.val}") == (train, val)
        shards = resolve(str(asked.train))
        assert len(shards) in (1024, 4096, 2016)
        assert len(set(shards)) == len(shards)


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_every_preset_says_in_one_line_what_it_is_for(group: str, option: str) -> None:
    line = description(GROUPS[group][option])
    assert 0 < len(line) <= 95


@pytest.mark.parametrize("router", OUR_ROUTERS)
def test_every_setting_is_written_in_yaml_with_its_value(router: str) -> None:
    """So that a reader of conf/ sees them all, and the shell can complete them."""
    composition = compose_tree(read([f"router={router}"], GROUPS, []).parsed, GROUPS, None, [])
    assert composition is not None
    known = asdict(config.load([f"router={router}"]))
    for group, settings in known.items():
        written = composition.tree[group]
        if isinstance(settings, dict):
            assert sorted(written) == sorted(settings), group


@pytest.mark.parametrize("model", GROUPS["model"])
def test_every_other_block_has_experts(model: str) -> None:
    shape = config.load([f"model={model}"]).model
    assert shape.moe_blocks == list(range(1, shape.depth, 2))


def test_the_papers_models_have_32_experts_and_its_image_size() -> None:
    for name in ("s32", "s16", "b32", "b16", "l16"):
        shape = config.load([f"model={name}"]).model
        assert (shape.experts, shape.image_size, shape.patch) == (32, 224, int(name[1:]))


def test_the_default_run_is_as_documented() -> None:
    run = config.load()
    names = [run.router.name, run.model.name, run.data.name, run.probe.name, run.recipe.name, run.runtime.name]
    assert names == ["softmax_ec", "tiny", "digits", "10shot", "quick", "auto"]
    assert (run.logger.name, run.seed, run.runs_dir, run.force) == ("wandb", 0, "runs", False)
    assert (run.capacity.factor, run.probe.sets, run.recipe.warmup) == (1.0, ["digits"], 50)


def test_files_hold_values_and_no_code() -> None:
    for file in conf_dir().rglob("*.yaml"):
        assert list(problems_of_tree(yaml.safe_load(file.read_text()))) == []

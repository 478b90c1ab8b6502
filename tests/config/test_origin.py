"""A run that begins with another's weights takes its model along, is named after their content, and refuses others."""

from __future__ import annotations

import json
import pickle
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from config.finished import finished_run, write
from safetensors.numpy import save_file

from moe_bench import config
from moe_bench.config import run_id
from moe_bench.config.sweep import plan
from moe_bench.errors import ConfigError, SecurityError

SMALL = ["model.width=32", "model.depth=4", "model.moe_blocks=[1,3]", "model.experts=4"]


@pytest.fixture
def routed(tmp_path: Path) -> Path:
    """A finished run with experts, told apart from the defaults wherever that shows."""
    return finished_run(tmp_path / "runs", "router=softmax_tc", "capacity=2", "capacity.group_images=4", *SMALL)


@pytest.fixture
def dense(tmp_path: Path) -> Path:
    return finished_run(tmp_path / "runs", "router=dense", *SMALL)


def timm_file(path: Path, **others: Any) -> Path:
    """The tensors of a ViT as timm names them, as far as its sizes show: patch 4, width 128, 2 blocks, hidden 256."""
    shapes = {
        "cls_token": (1, 1, 128),
        "pos_embed": (1, 17, 128),
        "patch_embed.proj.weight": (128, 3, 4, 4),
        "blocks.0.mlp.fc1.weight": (256, 128),
        "blocks.1.mlp.fc1.weight": (256, 128),
    }
    save_file({name: np.zeros(shape, np.float32) for name, shape in shapes.items()}, path, **others)
    return path


def test_a_run_brings_its_router_model_and_capacity_along(routed: Path) -> None:
    before, after = (
        config.from_dict(json.loads((routed / "run.json").read_text())["config"]),
        config.load([f"init.run={routed}"]),
    )
    assert (after.model, after.capacity) == (before.model, before.capacity)
    assert after.router == replace(before.router, k=2)
    assert after.init.source == f"{routed.name}@600"


@pytest.mark.parametrize(
    ("typed", "factor"),
    [([], 2.0), (["experiment=finetune"], 1.5), (["experiment=finetune", "capacity=1"], 1.0), (["capacity=3"], 3.0)],
)
def test_what_is_typed_stands_above_a_preset_and_a_preset_above_the_run(
    routed: Path, typed: list[str], factor: float
) -> None:
    after = config.load([f"init.run={routed}", "model.image_size=64", *typed])
    assert (after.capacity.factor, after.capacity.group_images) == (factor, 4)
    assert (after.model.image_size, after.model.width) == (64, 32)


def test_fine_tuning_squeezes_validation_pictures_whole_as_the_reference_does(routed: Path) -> None:
    typed = [f"init.run={routed}", "data=imagenet1k", "data.path=/pictures", "probe.sets=[]"]
    before, after = config.load(typed).data, config.load([*typed, "experiment=finetune"]).data
    assert (before.resize, before.crop) == ("short_side", 0.875)
    assert (after.resize, after.crop) == ("square", 1.0)


def test_a_token_chooses_as_many_experts_as_before_at_any_capacity(tmp_path: Path) -> None:
    run = finished_run(tmp_path, "router=softmax_tc", "capacity=1")
    assert config.load([f"init.run={run}", "capacity=1.5"]).router.k == 1


def test_upcycling_takes_the_dense_model_and_the_router_that_was_asked_for(dense: Path) -> None:
    after = config.load([f"init.upcycle={dense}", "router=sinkhorn_ec", "capacity=2", "model.experts=16"])
    assert (after.router.name, after.capacity.factor) == ("sinkhorn_ec", 2.0)
    assert (after.model.width, after.model.experts, after.model.moe_blocks) == (32, 16, [1, 3])


def test_each_run_of_a_grid_begins_with_the_same_weights(dense: Path) -> None:
    grid = plan([f"init.upcycle={dense}", "router=softmax_ec,soft", "capacity=1,2"], multirun=True)
    assert [cfg.router.name for cfg in grid.configs] == ["softmax_ec"] * 2 + ["soft"] * 2
    assert {cfg.model.width for cfg in grid.configs} == {32}
    assert {cfg.init.source for cfg in grid.configs} == {f"{dense.name}@600"}


def test_a_run_is_named_after_the_weights_it_begins_with_and_not_after_their_place(
    routed: Path, tmp_path: Path
) -> None:
    moved = shutil.copytree(routed, tmp_path / "elsewhere" / "copy")
    here = run_id(config.load([f"init.run={routed}"]))
    assert run_id(config.load([f"init.run={moved}"])) == here
    write(moved / "summary.json", {"run_id": routed.name, "steps": 1200})
    assert run_id(config.load([f"init.run={moved}"])) != here
    assert run_id(config.load([f"init.run={routed}", "init.head=keep"])) != here


def test_a_file_is_known_by_its_content(tmp_path: Path) -> None:
    sizes = [
        "model.patch=4",
        "model.width=128",
        "model.depth=2",
        "model.mlp=256",
        "model.head=token",
        "model.moe_blocks=[1]",
    ]
    one, same = timm_file(tmp_path / "a.safetensors"), timm_file(tmp_path / "b.safetensors")
    other = timm_file(tmp_path / "c.safetensors", metadata={"format": "pt"})
    ids = [run_id(config.load([f"init.upcycle={path}", *sizes])) for path in (one, same, other)]
    assert ids[0] == ids[1] != ids[2]


def test_what_was_saved_is_read_again_without_the_weights(routed: Path) -> None:
    cfg = config.load([f"init.run={routed}"])
    shutil.rmtree(routed)
    assert config.from_dict(config.to_dict(cfg)) == cfg


def test_a_file_without_settings_is_a_dense_model_of_the_sizes_that_the_error_says(tmp_path: Path) -> None:
    path = timm_file(tmp_path / "vit.safetensors")
    with pytest.raises(ConfigError) as told:
        config.load([f"init.run={path}"])
    line = next(line for line in str(told.value).splitlines() if "→" in line)
    typed = line.split("→ ")[1].partition(" (heads are a guess")[0].split()
    cfg = config.load([f"init.run={path}", *typed])
    assert cfg.router.name == "dense"
    assert (cfg.model.patch, cfg.model.depth, cfg.model.mlp, cfg.model.head) == (4, 2, 256, "token")


def test_soft_slots_are_weights_and_the_error_says_which_capacity_keeps_them(tmp_path: Path) -> None:
    run = finished_run(tmp_path, "router=soft", "capacity=1")
    typed = [f"init.run={run}", "model.image_size=64"]
    with pytest.raises(ConfigError, match=r"2 an expert in .*, 8 asked for\n +→ capacity=0.25"):
        config.load(typed)
    assert config.load([*typed, "capacity=0.25"]).capacity.factor == 0.25


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        (["init.run={dense}", "router=softmax_ec"], "init.upcycle="),
        (["init.run={routed}", "router=dense"], "has experts"),
        (["init.run={routed}", "router=soft"], "slots and a scale, and those of .*, router=softmax_tc, are a gate"),
        (["init.run={routed}", "router=sigmoid_tc"], "a gate and a balancing bias, and those of"),
        (["init.run={routed}", "router=hash"], "its weights are those of router=hash"),
        (["init.run={routed}", "model.width=64"], r"width 32 \(asked: 64\)"),
        (["init.run={routed}", "model.experts=8"], r"experts 4 \(asked: 8\)"),
        (["init.upcycle={routed}"], "its router is softmax_tc"),
        (["init.upcycle={dense}", "router=dense"], "no experts to begin as copies"),
        (["init.upcycle={dense}", "init.run={dense}"], "only one of them"),
        (["init.run={dense}/run.json"], "no safetensors file"),
        (["init.run={dense}/.."], "no run.json"),
        (["init.run=nowhere"], "no such file or folder"),
        (["init.run=https://example.org/model.safetensors"], "no such file or folder"),
        (["init.head=old"], "one of: new, keep"),
        (["recipe=finetune"], "nothing to fine-tune"),
    ],
)
def test_what_cannot_be_is_told_before_torch(routed: Path, dense: Path, typed: list[str], told: str) -> None:
    with pytest.raises((ConfigError, SecurityError), match=told):
        config.load([word.format(routed=routed, dense=dense) for word in typed])


@pytest.mark.parametrize("typed", ["router=sinkhorn_ec", "router=sparse_ec", "router=softmax_tc"])
def test_a_run_may_go_on_with_another_router_of_the_same_gate(routed: Path, typed: str) -> None:
    assert config.load([f"init.run={routed}", typed]).router.name == typed.partition("=")[2]


def test_an_unfinished_run_is_refused_with_how_far_it_is(routed: Path) -> None:
    (routed / "summary.json").unlink()
    write(routed / "status.json", {"state": "preempted", "step": 5, "steps": 600})
    with pytest.raises(ConfigError, match="preempted at step 5 of 600"):
        config.load([f"init.run={routed}"])


def test_a_file_that_could_run_code_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    path.write_bytes(pickle.dumps({"weight": 1}))
    with pytest.raises(SecurityError, match="Other formats can run code"):
        config.load([f"init.run={path}"])


@pytest.mark.parametrize(
    ("section", "value"), [("router", {"name": "${oc.env:HOME}"}), ("model", {"_target_": "os.system"})]
)
def test_settings_in_a_file_call_nothing(tmp_path: Path, section: str, value: dict[str, str]) -> None:
    told = {"router": {"name": "dense"}, "model": {}, "capacity": {}, section: value}
    path = timm_file(tmp_path / "theirs.safetensors", metadata={"config": json.dumps(told)})
    with pytest.raises(SecurityError):
        config.load([f"init.run={path}"])

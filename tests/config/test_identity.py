"""Two commands have one id exactly when they ask for the same result."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest

from moe_bench import config
from moe_bench.config.identity import difference, run_id, science
from moe_bench.config.schema import SparseRouterConfig
from moe_bench.config.sweep import plan

GOLDEN = Path(__file__).with_name("paper_grid_ids.txt")
GOLDEN_SWEEPS = Path(__file__).with_name("paper_sweep_ids.txt")


def test_the_ids_of_the_papers_grid_never_change() -> None:
    """A changed id orphans every finished run. If one must change, raise ID_VERSION and write the file anew."""
    base = config.load(["experiment=paper", "data.path=/jft", "probe.sets=[/data/imagenet1k]"])
    models = [config.load([f"model={name}"]).model for name in ("b32", "b16", "l16")]
    capacities = [config.load([f"capacity={number}"]).capacity for number in (1, 2)]
    names = ("softmax_tc", "sinkhorn_tc", "softmax_ec", "sinkhorn_ec", "sparse_ec", "soft")
    routers = [config.load([f"router={name}"]).router for name in names]
    grid = product(models, routers, capacities)
    ids = [run_id(replace(base, model=model, router=router, capacity=c)) for model, router, c in grid]
    assert "\n".join(ids) == GOLDEN.read_text().strip()


def test_the_ids_of_the_papers_sweeps_never_change_and_are_those_of_single_runs() -> None:
    """L/16 has a learning rate of its own, so its ids are others than those of the grid above."""
    where = ["data.path=/jft", "probe.sets=[/data/imagenet1k]"]
    paper, figure3 = (plan([f"sweep={name}", *where]) for name in ("paper", "figure3"))
    ids = [run_id(cfg) for asked in (paper, figure3) for cfg in asked.configs]
    assert ids == GOLDEN_SWEEPS.read_text().split()
    assert set(ids[:24]) < set(GOLDEN.read_text().split())
    l16 = ["experiment=paper", "model=l16", "router=soft", "capacity=2", *where]
    assert [run_id(cfg) for cfg in (config.load(l16), config.load([*l16, "recipe.lr=4e-4"]))] == [ids[35]] * 2
    plain, weighed = (
        ["experiment=paper", "model=b32", "router=sinkhorn_tc", f"router.combine={c}", *where]
        for c in ("softmax", "plan")
    )
    assert [run_id(config.load(words)) for words in (plain, weighed)] == ids[36:38]


@pytest.mark.parametrize("sweep", ["paper", "figure3"])
def test_a_sweep_of_the_paper_on_other_pictures_is_made_of_the_runs_that_one_would_type(sweep: str) -> None:
    other = ["experiment=mini", "model=mini", "data.path=/pictures", "recipe.steps=100"]
    asked = plan([f"sweep={sweep}", *other])
    assert {(cfg.model.name, cfg.recipe.steps) for cfg in asked.configs} == {("mini", 100)}
    for cfg in asked.configs[:4]:
        router = [f"router={cfg.router.name}", f"capacity={cfg.capacity.factor:g}"]
        router += [f"router.combine={cfg.router.combine}"] if isinstance(cfg.router, SparseRouterConfig) else []
        assert run_id(config.load([*other, *router])) == run_id(cfg)


@pytest.mark.parametrize(
    "typed",
    [
        "capacity.factor=1",
        "capacity=1.0",
        "runtime=cpu",
        "runtime.workers=7",
        "runtime.telemetry=detailed",
        "logger=none",
        "runs_dir=/elsewhere",
        "force=true",
        "data.cache_dir=/tmp",
        "data.on_error=skip",
        "data.skip_limit=0.01",
        "data.max_pixels=1000",
        "data.path=/elsewhere/digits",
        "probe.sets=[/elsewhere/digits]",
        "probe.every=50",
        "recipe.eval_every=10",
        "recipe.checkpoint_every=10",
        "recipe.warmup=50",
        "recipe.lr=0.002",
    ],
)
def test_where_and_how_it_runs_is_not_who_it_is(typed: str) -> None:
    assert run_id(config.load([typed])) == run_id(config.load())


@pytest.mark.parametrize(
    "typed",
    [
        "seed=1",
        "router=softmax_tc",
        "router.noise=0.5",
        "router.gshard=0.01",
        "router.bf16_dispatch=true",
        "router.z_loss=0.001",
        "capacity.eval_factor=4",
        "router=hash",
        "model.experts=16",
        "capacity=1.5",
        "capacity.group_images=16",
        "data.crop=0.9",
        "data.resize=square",
        "data.name=other",
        "probe=fewshot",
        "probe.sets=[/data/cifar10]",
        "recipe.steps=601",
        "recipe.batch=64",
        "recipe.precision=bf16",
    ],
)
def test_what_changes_the_result_changes_the_id(typed: str) -> None:
    assert run_id(config.load([typed])) != run_id(config.load())


def test_a_limit_of_pixels_is_part_of_a_run_that_skips_what_is_larger() -> None:
    assert run_id(config.load(["data.on_error=skip", "data.max_pixels=1000"])) != run_id(config.load())


@pytest.mark.parametrize("typed", ["capacity=2", "capacity.eval_factor=4", "capacity.group_images=4"])
def test_a_dense_model_is_one_run_at_any_capacity(typed: str) -> None:
    assert run_id(config.load(["router=dense", typed])) == run_id(config.load(["router=dense"]))
    assert run_id(config.load(["router=dense"])) == "dense-tiny-c1-digits-s0-4c12eafc"


def test_an_id_reads_and_is_safe_as_a_file_name() -> None:
    assert re.fullmatch(
        r"sinkhorn_ec-b16-c1.5-digits-s3-[0-9a-f]{8}",
        run_id(config.load(["router=sinkhorn_ec", "model=b16", "capacity=1.5", "seed=3"])),
    )
    odd = run_id(config.load(["data.name='../../x y\\n<é>'", "router.impl=a.b:C"]))
    assert re.fullmatch(r"C-tiny-c1-[A-Za-z0-9._]+-s0-[0-9a-f]{8}", odd)
    assert ".." not in odd


def test_data_without_a_name_are_called_after_their_folder() -> None:
    shards = ["data=shards", "data.path=/data/tiny-imagenet-200-s/"]
    assert "-tiny-imagenet-200-s-s0-" in run_id(config.load(shards))
    pattern = ["data=shards", "data.train=/data/cifar10/train-{0..9}.tar", "data.val=x"]
    assert "-cifar10-s0-" in run_id(config.load(pattern))


def test_other_shards_are_other_data_wherever_they_lie() -> None:
    def of(train: str) -> str:
        return run_id(config.load(["data=shards", f"data.train={train}", "data.val=/a/cifar10/val.tar"]))

    here = of("/a/cifar10/train-{0..9}.tar")
    assert of("/b/cifar10/train-{0..9}.tar") == here
    assert of("http://host/cifar10/train-{0..9}.tar?key=secret") == here
    assert of("/a/cifar10/train-{0..4}.tar") != here
    assert of("[/a/cifar10/train-0.tar,/a/cifar10/train-1.tar]") != here


def test_a_setting_at_its_default_is_no_part_of_the_id() -> None:
    """So that a setting added later leaves older runs where they are."""
    assert "recipe.mixup" not in science(config.load())
    assert science(config.load(["recipe.mixup=0.5"]))["recipe.mixup"] == 0.5


def test_what_changed_between_two_runs_is_told_setting_by_setting() -> None:
    old, new = science(config.load()), science(config.load(["recipe.lr=3e-4", "seed=1"]))
    assert difference(old, new) == ["recipe.lr: 0.002 → 0.0003", "seed: 0 → 1"]
    assert difference(old, {**old, "seed": 0.0}) == []

from __future__ import annotations

from pathlib import Path
from statistics import fmean, stdev

import pytest

from moe_bench.report.collect import collect
from moe_bench.report.groups import Row, Section, sections

from .runs import add_run


def grouped(root: Path) -> list[Section]:
    return sections(collect(root).runs)


def cells(section: Section) -> list[tuple[str, str, float | None, int]]:
    return [(row.router, row.model, row.capacity, row.seeds) for row in section.rows]


def test_a_row_is_the_mean_over_seeds_and_nothing_else(tmp_path: Path) -> None:
    scores = [0.7, 0.8, 0.84]
    for seed, prec1 in enumerate(scores):
        add_run(tmp_path, seed=seed, prec1=prec1)
    (section,) = grouped(tmp_path)
    mean = section.rows[0].mean("val/prec1")
    assert mean is not None
    assert (mean.mean, mean.std, mean.n) == (pytest.approx(fmean(scores)), pytest.approx(stdev(scores)), 3)


def test_one_seed_has_no_spread(tmp_path: Path) -> None:
    add_run(tmp_path)
    mean = grouped(tmp_path)[0].rows[0].mean("val/prec1")
    assert mean is not None
    assert (mean.std, mean.n) == (None, 1)


@pytest.mark.parametrize(
    "options", [{"data": "cifar10"}, {"science": {"recipe.lr": 0.3}}, {"science": {"probe.l2": 1.0}}]
)
def test_other_data_recipes_and_probes_are_never_in_one_table(tmp_path: Path, options: dict[str, object]) -> None:
    add_run(tmp_path)
    add_run(tmp_path, **options)
    found = grouped(tmp_path)
    assert [len(section.rows) for section in found] == [1, 1]
    assert found[0].title != found[1].title


def test_equal_names_are_told_apart_by_the_settings_that_differ(tmp_path: Path) -> None:
    add_run(tmp_path)
    add_run(tmp_path, science={"router.noise": 0.0})
    (section,) = grouped(tmp_path)
    assert sorted(row.variant for row in section.rows) == ["(router.noise=0)", "(router.noise=default)"]
    add_run(tmp_path, science={"recipe.lr": 0.3})
    titles = [section.title for section in grouped(tmp_path)]
    assert [title.partition(" (")[2] for title in titles] == ["recipe.lr=default)", "recipe.lr=0.3)"]


def titles(root: Path) -> list[str]:
    return sorted(section.title.partition(" (")[2] for section in grouped(root))


def test_a_setting_at_its_default_is_named_by_its_value(tmp_path: Path) -> None:
    add_run(tmp_path, config={"recipe": {"lr": 0.002}, "init": {"upcycle": None}})
    add_run(tmp_path, science={"recipe.lr": 0.3, "init.upcycle": "dense@60"})
    assert titles(tmp_path) == ["init.upcycle=dense@60, recipe.lr=0.3)", "init.upcycle=none, recipe.lr=0.002)"]


def test_a_run_without_a_probe_says_that_and_not_how_it_would_have_been_probed(tmp_path: Path) -> None:
    add_run(tmp_path, config={"probe": {"sets": [], "shots": [10]}})
    add_run(tmp_path, science={"probe.sets": ["digits"], "probe.shots": [5, 10]})
    assert titles(tmp_path) == ["probe.sets=[digits], probe.shots=[5,10])", "probe=none)"]


def test_one_step_is_no_plural(tmp_path: Path) -> None:
    add_run(tmp_path, config={"recipe": {"steps": 1, "batch": 1}})
    assert grouped(tmp_path)[0].title == "digits, 1 step of 1 picture"


def variants(root: Path) -> dict[str, str]:
    (section,) = grouped(root)
    return {row.router: row.variant for row in section.rows}


def test_a_row_names_what_is_unusual_in_its_router_even_where_no_other_has_its_name(tmp_path: Path) -> None:
    add_run(tmp_path, "softmax_tc", config={"router": {"importance": 0.0, "load": 0.005}})
    add_run(tmp_path, "soft", science={"router.bf16_dispatch": True}, config={"router": {"bf16_dispatch": True}})
    add_run(tmp_path, "softmax_ec", config={"router": {"importance": 0.0, "bf16_dispatch": False}})
    add_run(tmp_path, "mine", config={"router": {"importance": 0.7}}, science={"router.importance": 0.7})
    assert variants(tmp_path) == {
        "softmax_tc": "(router.importance=0)",
        "soft": "(router.bf16_dispatch=true)",
        "softmax_ec": "",
        "mine": "",  # what is usual for a router of one's own is not known
    }


def test_a_row_names_what_is_unusual_in_its_model_unless_it_has_no_experts(tmp_path: Path) -> None:
    for router in ("dense", "soft", "softmax_ec"):
        experts = 8 if router == "soft" else 16
        add_run(tmp_path, router, science={"model.experts": experts}, config={"model": {"experts": experts}})
    assert variants(tmp_path) == {"dense": "", "soft": "", "softmax_ec": "(model.experts=16)"}


def test_rows_of_a_model_of_ones_own_name_the_settings_in_which_they_differ(tmp_path: Path) -> None:
    add_run(tmp_path, "soft", "ours", science={"model.depth": 3})
    add_run(tmp_path, "softmax_ec", "ours", science={"model.depth": 3, "capacity.group_images": 4})
    add_run(tmp_path, "dense", "ours", science={"model.depth": 3, "model.experts": 9})
    assert variants(tmp_path) == {
        "soft": "(capacity.group_images=default)",
        "softmax_ec": "(capacity.group_images=4)",
        "dense": "",
    }


def test_what_did_not_finish_is_kept_out_of_means_and_in_sight(tmp_path: Path) -> None:
    add_run(tmp_path, seed=0, prec1=0.8)
    add_run(tmp_path, seed=1, state="diverged")
    add_run(tmp_path, "soft", state="running")
    (section,) = grouped(tmp_path)
    assert cells(section) == [("softmax_ec", "tiny", 1.0, 1), ("soft", "tiny", 1.0, 0)]
    assert sorted(run.state for run in section.others) == ["diverged", "running"]
    assert section.rows[1].mean("val/prec1") is None


def test_gaps_are_the_missing_cells_of_what_was_tried(tmp_path: Path) -> None:
    add_run(tmp_path, "softmax_ec", capacity=1.0)
    add_run(tmp_path, "soft", capacity=2.0)
    add_run(tmp_path, "dense")
    (section,) = grouped(tmp_path)
    assert cells(section) == [
        ("dense", "tiny", 1.0, 1),
        ("softmax_ec", "tiny", 1.0, 1),
        ("soft", "tiny", 1.0, 0),
        ("softmax_ec", "tiny", 2.0, 0),
        ("soft", "tiny", 2.0, 1),
    ]


def test_rows_stand_in_the_order_of_the_paper_and_small_models_first(tmp_path: Path) -> None:
    for model in ("b32", "tiny"):
        for router in ("soft", "softmax_tc", "mine", "sinkhorn_ec"):
            add_run(tmp_path, router, model)
    rows: list[Row] = grouped(tmp_path)[0].rows
    assert [row.model for row in rows] == ["tiny"] * 4 + ["b32"] * 4
    assert [row.router for row in rows[:4]] == ["softmax_tc", "sinkhorn_ec", "soft", "mine"]

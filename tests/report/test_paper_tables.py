from __future__ import annotations

import json
from pathlib import Path

import pytest

from moe_bench.report.collect import collect
from moe_bench.report.groups import sections
from moe_bench.report.paper import published
from moe_bench.report.paper_tables import paper_tables
from moe_bench.report.tables import Table

from .runs import add_run


def tables(root: Path, paper: bool = False) -> dict[str, Table]:
    (section,) = sections(collect(root).runs)
    return {table.name: table for table in paper_tables(section, published() if paper else None)}


def cell(table: Table, router: str, heading: str, capacity: str = "1") -> str:
    (row,) = [row for row in table.texts if row[:2] == [capacity, router]]
    return row[table.headings.index(heading)]


def test_the_published_table_is_complete() -> None:
    values = published().values
    assert len(values) == 36
    assert {key for key, row in values.items() if not row["jft_prec1"]} == {("l16", "sparse_ec", 1), ("l16", "soft", 2)}
    assert all(bool(row["jft_prec1"]) != bool(row["note"]) for row in values.values())


def test_tables_of_the_papers_models_have_the_papers_numbers(tmp_path: Path) -> None:
    for model in ("b32", "b16", "l16", "tiny"):
        add_run(tmp_path, "soft", model)
    assert list(tables(tmp_path)) == [
        *("tiny upstream", "Table 1 b32 upstream", "Table 2 b16 upstream", "Table 3 l16 upstream"),
        "tiny few-shot on digits",
        "Table 4 b32 few-shot on digits",
        "Tables 5 and 6 b16 few-shot on digits",
        "Tables 7 and 8 l16 few-shot on digits",
    ]


def test_published_values_stand_beside_ours_and_the_papers_other_routers_are_gaps(tmp_path: Path) -> None:
    add_run(tmp_path, "soft", "b32", prec1=0.5)
    found = tables(tmp_path, paper=True)
    upstream, few_shot = found["Table 1 b32 upstream"], found["Table 4 b32 few-shot on digits"]
    assert len(upstream.rows) == 12
    assert cell(upstream, "soft", "prec@1 %") == "50.0"
    assert cell(upstream, "soft", "paper %") == "45.23"
    assert cell(upstream, "soft", "paper TPUv3-days") == "36.95"
    assert cell(upstream, "sinkhorn_ec", "prec@1 %", "2") == "–"
    assert cell(upstream, "sinkhorn_ec", "paper %", "2") == "44.30"
    assert cell(few_shot, "soft", "paper %") == "67.37"
    assert few_shot.headings[3:] == ["10-shot %", "paper %"] + [
        f"{whose} Δ {router}" for router in ("softmax_tc", "softmax_ec") for whose in ("10-shot", "paper")
    ]
    assert cell(few_shot, "soft", "paper Δ softmax_tc") == "+4.60"


def test_gaps_are_paired_over_the_seeds_that_both_routers_have(tmp_path: Path) -> None:
    for seed, (ours, theirs) in enumerate([(0.72, 0.70), (0.84, 0.80), (0.10, None)]):
        add_run(tmp_path, "soft", seed=seed, prec1=ours)
        if theirs is not None:
            add_run(tmp_path, "softmax_tc", seed=seed, prec1=theirs)
    found = tables(tmp_path)["tiny upstream"]
    # +2 and +4 points: mean 3, standard error 1, 12.7 of them; the third seed has no partner
    assert cell(found, "soft", "prec@1 Δ softmax_tc ± 95 % CI") == "+3.0 ± 12.7 (2)"
    assert cell(found, "softmax_tc", "prec@1 Δ softmax_tc ± 95 % CI") == "–"
    assert "prec@1 Δ softmax_ec" not in found.headings  # that nobody ran


def test_a_gap_is_never_to_a_router_of_another_capacity(tmp_path: Path) -> None:
    add_run(tmp_path, "soft", capacity=2)
    add_run(tmp_path, "softmax_tc", capacity=1)
    assert "prec@1 Δ softmax_tc" not in tables(tmp_path)["tiny upstream"].headings
    add_run(tmp_path, "dense", capacity=1)
    assert cell(tables(tmp_path)["tiny upstream"], "soft", "prec@1 Δ softmax_tc", "2") == "–"


def test_a_gap_is_never_to_a_router_of_other_model_settings(tmp_path: Path) -> None:
    larger = {"science": {"model.experts": 16}, "config": {"model": {"experts": 16}}}
    add_run(tmp_path, "softmax_tc")
    add_run(tmp_path, "soft", prec1=0.7)
    add_run(tmp_path, "sparse_ec", **larger)
    add_run(tmp_path, "dense", prec1=0.6, **larger)  # which has no experts, so many or none
    found = tables(tmp_path)["tiny upstream"]
    assert cell(found, "soft", "prec@1 Δ softmax_tc") == "-10.0"
    assert cell(found, "sparse_ec (model.experts=16)", "prec@1 Δ softmax_tc") == "–"
    assert cell(found, "dense", "prec@1 Δ softmax_tc") == "-20.0"


def test_a_model_that_the_paper_has_not_stands_beside_the_gaps_of_all_three(tmp_path: Path) -> None:
    add_run(tmp_path, "soft")
    add_run(tmp_path, "sparse_ec", prec1=0.7)
    found = tables(tmp_path, paper=True)["tiny upstream"]
    assert cell(found, "soft", "paper Δ softmax_tc, b32 / b16 / l16") == "+4.00 / +3.65 / +2.44"
    assert cell(found, "sparse_ec", "paper Δ softmax_tc, b32 / b16 / l16") == "+2.20 / +2.32 / –"
    assert "paper %" not in found.headings


def test_a_router_in_two_settings_is_compared_with_its_own_settings(tmp_path: Path) -> None:
    for combine, gain in (("softmax", 0.0), ("plan", 0.1)):
        science = {"router.combine": combine}
        add_run(tmp_path, "softmax_tc", prec1=0.5 + gain, science=science)
        add_run(tmp_path, "sinkhorn_tc", prec1=0.6 + 2 * gain, science=science)
    found = tables(tmp_path)["tiny upstream"]
    assert cell(found, "sinkhorn_tc (router.combine=softmax)", "prec@1 Δ softmax_tc") == "+10.0"
    assert cell(found, "sinkhorn_tc (router.combine=plan)", "prec@1 Δ softmax_tc") == "+20.0"


def test_without_a_probe_there_is_no_few_shot_table(tmp_path: Path) -> None:
    summary = add_run(tmp_path, "soft") / "summary.json"
    rest = {name: value for name, value in json.loads(summary.read_text()).items() if not name.startswith("probe/")}
    summary.write_text(json.dumps(rest))
    assert list(tables(tmp_path)) == ["tiny upstream"]


@pytest.mark.parametrize("note", ["not levels", "l16, soft, capacity 2: training was unstable"])
def test_published_values_say_that_they_are_not_ours_and_what_is_missing(note: str) -> None:
    assert any(note in text for text in published().notes)


def test_gaps_to_a_router_that_is_not_there_and_that_the_paper_does_not_compare_take_no_column(tmp_path: Path) -> None:
    add_run(tmp_path, "random")
    add_run(tmp_path, "softmax_ec")
    for paper in (False, True):
        headings = tables(tmp_path, paper)["tiny few-shot on digits"].headings
        assert "10-shot Δ softmax_ec" in headings
        assert ("10-shot Δ softmax_tc" in headings) is paper  # where softmax_ec has a published gap to it


def test_the_papers_value_stands_only_beside_the_router_that_it_ran(tmp_path: Path) -> None:
    for combine in ("plan", "softmax"):
        add_run(
            tmp_path, "sinkhorn_tc", "b32", science={"router.combine": combine}, config={"router": {"combine": combine}}
        )
    found = tables(tmp_path, paper=True)["Table 1 b32 upstream"]
    assert cell(found, "sinkhorn_tc (router.combine=softmax)", "paper %") == "41.63"
    assert cell(found, "sinkhorn_tc (router.combine=plan)", "paper %") == "–"

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from moe_bench.report.collect import collect
from moe_bench.report.groups import sections
from moe_bench.report.render import terminal
from moe_bench.report.tables import Table, not_counted, result_table

from .runs import add_run


def table(root: Path) -> Table:
    (section,) = sections(collect(root).runs)
    return result_table(section)


def cell(found: Table, heading: str, row: int = 0) -> str:
    return found.texts[row][found.headings.index(heading)]


def test_cells_are_means_with_95_percent_intervals_and_units_in_the_heading(tmp_path: Path) -> None:
    add_run(tmp_path, seed=0, prec1=0.7)
    add_run(tmp_path, seed=1, prec1=0.8)
    found = table(tmp_path)
    assert cell(found, "seeds") == "2"
    assert cell(found, "prec@1 % ± 95 % CI") == "75.0 ± 63.5"  # 12.7 standard errors of 5 points
    assert cell(found, "digits 10-shot % ± 95 % CI") == "85.0 ± 63.5"
    assert cell(found, "device-days") == "0.00211"
    assert cell(found, "img/s") == "421"
    assert cell(found, "GFLOP/img") == "0.153"
    assert cell(found, "params M") == "5.81"


def test_equal_means_are_shown_alike_and_neither_is_ahead(tmp_path: Path) -> None:
    for router, scores in (("softmax_ec", (0.005, 0.016)), ("soft", (0.009, 0.012)), ("sparse_ec", (0.002, 0.019))):
        for seed, prec1 in enumerate(scores):
            add_run(tmp_path, router, seed=seed, prec1=prec1)
    (section,) = sections(collect(tmp_path).runs)
    assert {mean.mean for row in section.rows if (mean := row.mean("val/prec1"))} == {0.0105}
    shown = [cell(result_table(section), "prec@1 % ± 95 % CI", row) for row in range(3)]
    assert {text.partition(" ")[0] for text in shown} == {"1.1"}


def test_a_figure_that_fewer_seeds_have_says_how_many(tmp_path: Path) -> None:
    add_run(tmp_path, seed=0, prec1=0.7)
    add_run(tmp_path, seed=1, prec1=None)
    assert cell(table(tmp_path), "prec@1 %") == "70.0 (1)"


def test_a_gap_is_a_dash(tmp_path: Path) -> None:
    add_run(tmp_path, state="failed", reason="no shard")
    found = table(tmp_path)
    assert set(found.texts[0][3:]) == {"–"}
    (section,) = sections(collect(tmp_path).runs)
    ((name, state),) = not_counted(section.others).texts
    assert (name, state) == (section.others[0].name, "failed at step 120 of 600: no shard")


def test_one_seed_has_no_interval_and_a_copy_of_a_run_makes_none(tmp_path: Path) -> None:
    folder = add_run(tmp_path, seed=0, prec1=0.7)
    assert cell(table(tmp_path), "prec@1 %") == "70.0"
    shutil.copytree(folder, tmp_path / "copy")
    assert cell(table(tmp_path), "prec@1 %") == "70.0"
    assert cell(table(tmp_path), "seeds") == "1"


def test_raw_pixels_and_devices_are_noted(tmp_path: Path) -> None:
    add_run(tmp_path, seed=0)
    assert "digits 10-shot: raw pixels reach 74.3 %." in table(tmp_path).notes
    assert not any("comparable" in note for note in table(tmp_path).notes)
    add_run(tmp_path, seed=1, device="H100")
    assert any("not comparable" in note and "1 × H100" in note for note in table(tmp_path).notes)


@pytest.mark.parametrize("columns", [80, 100, 120])
def test_a_table_fits_its_terminal_and_says_what_it_left_out(tmp_path: Path, columns: int) -> None:
    for seed, router in enumerate(("sinkhorn_ec", "sinkhorn_ec", "soft")):
        add_run(tmp_path, router, seed=seed, prec1=0.5 + seed / 10)
    found = table(tmp_path)
    lines = [line.plain for line in terminal(found, columns)]
    body = lines[1 : lines.index("")]
    assert max(map(len, body)) <= columns
    if columns == 80:
        assert lines[-1].startswith("Left out for width: ")
    for row in found.texts:
        assert any(row[2] in line for line in body)


def test_a_long_name_takes_several_lines_where_the_terminal_is_narrow(tmp_path: Path) -> None:
    for iterations in (5, 10):
        changed = {"iterations": iterations, "combine": "plan"}
        science = {f"router.{key}": value for key, value in changed.items()}
        add_run(tmp_path, "sinkhorn_tc", science=science, config={"router": changed})
    found = table(tmp_path)
    lines = [line.plain for line in terminal(found, 60)]
    body = lines[1 : lines.index("")]
    assert max(map(len, body)) <= 60
    words = " ".join(" ".join(body).split())
    assert all("(router.combine=plan," in row[2] for row in found.texts)
    assert "router.iterations=5)" in words
    assert "router.iterations=10)" in words

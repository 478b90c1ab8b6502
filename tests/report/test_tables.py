from __future__ import annotations

import csv
from pathlib import Path

import pytest

from moe_bench.report.collect import collect
from moe_bench.report.groups import sections
from moe_bench.report.paper import published
from moe_bench.report.render import csv_text, markdown, terminal
from moe_bench.report.tables import Table, result_table

from .runs import add_run

PAPER = Path(__file__).parents[2] / "moe_bench" / "report" / "paper.csv"


def table(root: Path, paper: bool = False) -> Table:
    (section,) = sections(collect(root).runs)
    return result_table(section, published() if paper else None)


def cell(found: Table, heading: str, row: int = 0) -> str:
    return found.rows[row][found.headings.index(heading)]


def test_cells_are_means_with_spread_and_units_in_the_heading(tmp_path: Path) -> None:
    add_run(tmp_path, seed=0, prec1=0.7)
    add_run(tmp_path, seed=1, prec1=0.8)
    found = table(tmp_path)
    assert cell(found, "seeds") == "2"
    assert cell(found, "prec@1 %") == "75.0 ± 7.1"
    assert cell(found, "digits 10-shot %") == "85.0 ± 7.1"
    assert cell(found, "device-days") == "0.00211"
    assert cell(found, "img/s") == "421"
    assert cell(found, "GFLOP/img") == "0.153"
    assert cell(found, "params M") == "5.81"


def test_a_figure_that_fewer_seeds_have_says_how_many(tmp_path: Path) -> None:
    add_run(tmp_path, seed=0, prec1=0.7)
    add_run(tmp_path, seed=1, prec1=None)
    assert cell(table(tmp_path), "prec@1 %") == "70.0 (1)"


def test_a_gap_is_a_dash(tmp_path: Path) -> None:
    add_run(tmp_path, state="failed", reason="no shard")
    found = table(tmp_path)
    assert set(found.rows[0][3:]) == {"–"}
    assert any("failed at step 120 of 600: no shard" in note for note in found.notes)


def test_raw_pixels_and_devices_are_noted(tmp_path: Path) -> None:
    add_run(tmp_path, seed=0)
    assert "digits 10-shot: raw pixels reach 74.3 %." in table(tmp_path).notes
    assert not any("comparable" in note for note in table(tmp_path).notes)
    add_run(tmp_path, seed=1, device="H100")
    assert any("not comparable" in note and "1 × H100" in note for note in table(tmp_path).notes)


def test_published_values_stand_beside_ours_and_say_that_they_are_not_ours(tmp_path: Path) -> None:
    add_run(tmp_path, "soft", "b32")
    add_run(tmp_path, "soft", "tiny")
    found = table(tmp_path, paper=True)
    assert cell(found, "paper: JFT prec@1 %", 1) == "45.23"
    assert cell(found, "paper: ImageNet 10-shot %", 1) == "67.37"
    assert cell(found, "paper: JFT prec@1 %", 0) == "–"
    assert any("not levels" in note for note in published().notes)
    assert any("l16, soft, capacity 2" in note for note in published().notes)


def test_the_published_table_is_complete() -> None:
    rows = list(csv.DictReader(PAPER.read_text().splitlines()))
    assert len(rows) == 36
    assert [row for row in rows if not row["jft_prec1"]] == [row for row in rows if row["note"]]


@pytest.mark.parametrize("columns", [80, 100, 120])
@pytest.mark.parametrize("paper", [False, True])
def test_a_table_fits_its_terminal_and_says_what_it_left_out(tmp_path: Path, columns: int, paper: bool) -> None:
    for seed, router in enumerate(("sinkhorn_ec", "sinkhorn_ec", "soft")):
        add_run(tmp_path, router, seed=seed, prec1=0.5 + seed / 10)
    found = table(tmp_path, paper)
    lines = [line.plain for line in terminal(found, columns)]
    body = lines[1 : lines.index("")]
    assert max(map(len, body)) <= columns
    if columns == 80:
        assert lines[-1].startswith("Left out for width: ")
    for row in found.rows:
        assert any(row[2] in line for line in body)


HOSTILE = "=cmd|'/C calc'!A0 <script>alert(1)</script> [x](javascript:1) `a`"


def test_names_are_harmless_in_markdown_and_csv(tmp_path: Path) -> None:
    folder = add_run(tmp_path, "soft")
    for name in ("summary.json", "run.json"):
        path = folder / name
        path.write_text(path.read_text().replace('"soft"', f'"{HOSTILE}"'))
    page = markdown("r", [table(tmp_path)])
    assert "<script>" not in page
    assert "](" not in page.replace("\\](", "")
    row = next(line for line in page.splitlines() if "calc" in line)
    assert row.replace("\\|", "").count("|") == page.splitlines()[4].count("|")
    cells = list(csv.reader(csv_text(sections(collect(tmp_path).runs)).splitlines()))[1]
    assert cells[3] == f"'{HOSTILE}"
    assert not any(text.startswith(("=", "+", "@", "-")) for text in cells)


def test_csv_has_mean_spread_and_count_of_every_figure_in_its_unit(tmp_path: Path) -> None:
    for seed, prec1 in enumerate((0.7, 0.8)):
        add_run(tmp_path, seed=seed, prec1=prec1)
    add_run(tmp_path, "soft", state="running")
    rows = list(csv.DictReader(csv_text(sections(collect(tmp_path).runs)).splitlines()))
    assert [row["router"] for row in rows] == ["softmax_ec", "soft"]
    assert (rows[0]["prec@1 % mean"], rows[0]["prec@1 % std"], rows[0]["prec@1 % n"]) == ("75", "7.07107", "2")
    assert (rows[1]["prec@1 % mean"], rows[1]["prec@1 % n"], rows[1]["seeds"]) == ("", "0", "0")

from __future__ import annotations

from pathlib import Path

import pytest

from moe_bench.monitor.rows import cut_after, encode, read_rows

ROWS = [{"step": 2, "a": 1.5}, {"step": 4, "a": None}, {"step": 4, "val": 1.0}, {"step": 6}]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "rows.jsonl").write_text("".join(map(encode, ROWS)))
    return tmp_path / "rows.jsonl"


def test_a_file_cut_anywhere_in_its_last_row_keeps_the_others(path: Path) -> None:
    whole = path.read_bytes()
    others = len(whole) - len(encode(ROWS[-1]))
    for length in range(others, len(whole)):
        path.write_bytes(whole[:length])
        cut_after(path, 100)
        assert path.read_bytes() == whole[:others]
    path.write_bytes(whole)
    assert cut_after(path, 100) == 0
    assert path.read_bytes() == whole


@pytest.mark.parametrize(("step", "kept"), [(-1, 0), (1, 0), (2, 1), (3, 1), (4, 3), (6, 4)])
def test_rows_beyond_a_step_are_dropped(path: Path, step: int, kept: int) -> None:
    assert cut_after(path, step) == len(ROWS) - kept
    assert read_rows(path) == (ROWS[:kept], 0)


def test_of_the_rows_of_one_step_those_beyond_a_length_are_dropped(path: Path) -> None:
    then = sum(len(encode(row)) for row in ROWS[:2])
    assert cut_after(path, 4, then) == 2
    assert read_rows(path) == (ROWS[:2], 0)
    assert cut_after(path, 4, 10 * then) == 0


def test_damaged_lines_are_counted_and_the_rest_is_read(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b'nonsense\n{"step": 8}\n[1]\n{"ste')
    rows, torn = read_rows(path)
    assert rows == [*ROWS, {"step": 8}]
    assert torn == 3


def test_a_missing_file_has_no_rows(tmp_path: Path) -> None:
    assert read_rows(tmp_path / "none") == ([], 0)
    assert cut_after(tmp_path / "none", 3) == 0


def test_a_row_is_one_line_whatever_it_holds() -> None:
    assert encode({"a": "x\ny", "loss": float("nan")}) == '{"a": "x\\ny", "loss": null}\n'

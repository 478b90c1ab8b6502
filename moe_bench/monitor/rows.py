"""Files with one JSON object a line: read what is whole, cut what an interrupted run wrote past its checkpoint."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

from moe_bench.monitor.atomic import plain


def encode(row: dict[str, Any]) -> str:
    """One line, newline included."""
    return json.dumps(plain(row), ensure_ascii=False, allow_nan=False, separators=(", ", ": ")) + "\n"


def read_rows(path: Path) -> tuple[list[dict[str, Any]], int]:
    """All whole rows, and the number of lines that are not one. A missing file has no rows."""
    try:
        lines = path.read_bytes().splitlines()
    except FileNotFoundError:
        return [], 0
    parsed = [_parse(line) for line in lines]
    rows = [row for row in parsed if row is not None]
    return rows, len(lines) - len(rows)


def cut_after(path: Path, step: int, length: float = math.inf) -> int:
    """Drop what is beyond ``step`` or beyond ``length`` bytes, and a torn last line; returns how many lines that was.

    The length tells apart rows of one and the same step: those that were there when it was saved, and those of
    measurements after it, which come again. The file is shortened in place: earlier rows are never rewritten. Rows are
    in the order of their steps, because each attempt starts by cutting.
    """
    try:
        lines = path.read_bytes().splitlines(keepends=True)
    except FileNotFoundError:
        return 0
    keep = 0
    for number, line in enumerate(lines):
        row = _parse(line)
        torn = not line.endswith(b"\n") or (row is None and number == len(lines) - 1)
        if torn or keep + len(line) > length or (row is not None and row.get("step", 0) > step):
            os.truncate(path, keep)
            return len(lines) - number
        keep += len(line)
    return 0


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) else None

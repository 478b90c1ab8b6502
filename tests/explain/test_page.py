"""docs/routers.md: complete, with pictures that exist, code that is where it says, and numbers that are printed."""

from __future__ import annotations

import ast
import re
import shlex
from pathlib import Path

import pytest

from moe_bench.explain import routers
from moe_bench.explain.routed import route
from moe_bench.routing import PRESETS, Capacity

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "routers.md"
TEXT = PAGE.read_text(encoding="utf-8")
PICTURES = re.findall(r"!\[[^]]*\]\(([^)]+)\)", TEXT)


def test_every_router_has_a_word() -> None:
    for file in (ROOT / "conf" / "router").glob("*.yaml"):
        assert re.search(rf"^\| `{file.stem}` \|", TEXT, re.MULTILINE), f"{file.stem} is not in the table"


def test_every_router_of_the_paper_has_a_section_and_a_picture() -> None:
    assert re.findall(r"^## `(\w+)`", TEXT, re.MULTILINE) == list(PRESETS)
    assert [Path(name).stem for name in PICTURES] == ["all", *PRESETS]


@pytest.mark.parametrize("name", PICTURES)
def test_every_picture_exists_and_is_small(name: str) -> None:
    assert 0 < (PAGE.parent / name).stat().st_size < 120_000


def test_the_code_is_where_the_page_says() -> None:
    named = re.findall(r"`(routing/\w+\.py): (\w+)`", TEXT)
    assert len(named) > 10
    for file, name in named:
        tree = ast.parse((ROOT / "moe_bench" / file).read_text(encoding="utf-8"))
        assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}


def test_the_numbers_are_what_the_command_prints() -> None:
    command = shlex.split(re.search(r"^moe-bench explain (.*)$", TEXT, re.MULTILINE)[1])  # type: ignore[index]
    scene, factor = routers._by_construction(routers._parser().parse_args(command))
    told = routers.table(scene, factor, [route(scene, name, Capacity(factor)) for name in PRESETS])
    assert f"```text\n{told}\n```" in TEXT

from __future__ import annotations

import re
from itertools import combinations, pairwise
from pathlib import Path

from matplotlib.figure import Figure

from moe_bench.report.collect import collect
from moe_bench.report.figures.lines import spread
from moe_bench.report.figures.style import Look, area, encoded, limits, looks, style
from moe_bench.report.groups import ROUTER_ORDER, Row, sections

from ..runs import add_run

OWN = ("my_router", "other", "gumbel", "top_any", "Ω")


def rows(*names: str, variants: tuple[str, ...] = ("",)) -> list[Row]:
    return [Row(name, "tiny", 1.0, variant, []) for name in names for variant in variants]


def test_no_two_routers_look_alike_in_colour_or_in_grey() -> None:
    found = list(looks(rows(*ROUTER_ORDER, *OWN, *(f"own{i}" for i in range(12)))).values())
    assert len(found) == len(ROUTER_ORDER) + len(OWN) + 12
    assert len({(look.colour, look.marker) for look in found}) == len(found)
    known = found[: len(ROUTER_ORDER)]
    assert len({look.colour for look in known}) == len({look.marker for look in known}) == len(known)


def test_a_router_looks_the_same_whatever_stands_beside_it() -> None:
    together = looks(rows(*ROUTER_ORDER, *OWN))
    changed = [name for name in (*ROUTER_ORDER, *OWN) if looks(rows(name))[name, ""] != together[name, ""]]
    assert changed == ["top_any"]  # alone it has the look of my_router, which comes before it


def test_variants_of_a_router_share_its_colour_and_differ_in_shape() -> None:
    found = looks(rows("soft", "my_router", variants=("", "(router.noise=1)", "(router.noise=2)")))
    for one, other in combinations([look for (name, _), look in found.items() if name == "soft"], 2):
        assert one.colour == other.colour
        assert one.fill != other.fill
        assert one.dashes != other.dashes


def test_a_gap_beside_variants_of_its_router_takes_no_look_from_them(tmp_path: Path) -> None:
    for combine in ("plan", "softmax"):
        science = {"router.combine": combine}
        add_run(tmp_path, "sinkhorn_tc", science=science, config={"router": {"combine": combine}})
    add_run(tmp_path, "soft", capacity=2)
    (section,) = sections(collect(tmp_path).runs)
    assert ("sinkhorn_tc", 2.0) in {(row.router, row.capacity) for row in section.rows if not row.runs}
    found = looks(section.rows)
    fills = {variant: look.fill for (name, variant), look in found.items() if name == "sinkhorn_tc"}
    assert fills == {"(router.combine=softmax)": "full", "(router.combine=plan)": "none"}  # softmax is the usual one


def test_the_area_of_a_marker_is_its_capacity() -> None:
    assert area(2.0) == 2 * area(1.0) == 4 * area(0.5)
    assert area(None) == area(1.0)


def test_a_very_long_interval_does_not_squeeze_the_points() -> None:
    assert limits([(1, None), (2, 0.1)]) == (1 - 0.09, 2.1 + 0.09)
    low, high = limits([(1, 50.0), (2, None)])
    assert high - low < 3
    assert limits([(5.0, None)])[0] < 5.0 < limits([(5.0, None)])[1]


def test_names_at_the_ends_of_curves_never_overlap() -> None:
    places = spread([0.0, 0.01, 0.5, 0.5, 0.51, 0.99, 1.0], 0.1)
    assert all(b - a > 0.0999 for a, b in pairwise(places))
    assert places[0] >= 0
    assert places[-1] <= 1
    assert spread([0.2, 0.8], 0.1) == [0.2, 0.8]


def test_files_are_the_same_each_time_and_svg_has_text_as_text() -> None:
    def drawn() -> tuple[bytes, bytes]:
        with style():
            figure = Figure((2, 2), layout="constrained")
            figure.subplots().set_title("a <b> & $x$")
            return encoded(figure)

    svg, png = drawn()
    assert (svg, png) == drawn()
    assert b"a &lt;b&gt; &amp; $x$</text>" in svg
    assert not re.search(rb"\d{4}-\d\d-\d\d", svg)
    assert png.startswith(b"\x89PNG")


def test_a_long_variant_is_broken_into_lines() -> None:
    (look,) = looks(
        rows("soft", variants=("(router.normalize=False, model.experts=128, capacity.group_images=2)",))
    ).values()
    assert isinstance(look, Look)
    assert max(map(len, look.label.splitlines())) <= 44

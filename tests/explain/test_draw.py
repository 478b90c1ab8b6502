"""What is drawn is what was routed: cells, crosses and hatches are counted."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from moe_bench.explain.draw import DPI, draw_all, draw_router
from moe_bench.explain.routed import Routed, route
from moe_bench.explain.scene import Scene, constructed
from moe_bench.routing import PRESETS, Capacity


@pytest.fixture(scope="module")
def scene() -> Scene:
    generator = torch.Generator().manual_seed(0)
    return constructed(torch.rand(3, 3, 32, 32, generator=generator) * 2 - 1, patch=8, experts=4, data="noise")


def titled(figure: Figure, word: str) -> Axes:
    (axes,) = (axes for axes in figure.axes if axes.get_title(loc="left").startswith(word))
    return axes


@pytest.fixture(params=PRESETS)
def routed(request: pytest.FixtureRequest, scene: Scene) -> Routed:
    return route(scene, request.param, Capacity(1.0))


def test_cells_are_the_tensors_with_a_gap_between_pictures(scene: Scene, routed: Routed) -> None:
    figure = draw_router(scene, routed)
    for word, values in (("dispatch", routed.dispatch), ("combine C", routed.combine)):
        cells = np.ma.filled(titled(figure, word).images[0].get_array(), np.nan)
        assert cells.shape == (4, 48 + 2)
        assert np.isnan(cells[:, [16, 33]]).all()
        np.testing.assert_allclose(np.delete(cells, [16, 33], axis=1), values.numpy().T)


def test_a_cross_marks_every_dropped_wish(scene: Scene, routed: Routed) -> None:
    crosses = [place for line in titled(draw_router(scene, routed), "dispatch").lines for place in line.get_xdata()]
    assert len(crosses) == int(routed.dropped.sum())
    assert bool(crosses) == routed.name.endswith("_tc")


def test_a_hatch_marks_every_token_that_nobody_processes(scene: Scene, routed: Routed) -> None:
    axes = titled(draw_router(scene, routed), "weight of" if routed.soft else "slots that")
    assert len([bar for bar in axes.patches if bar.get_hatch()]) == int(routed.uncovered.sum())


def test_all_routers_are_drawn_over_the_same_tokens(scene: Scene) -> None:
    several = [route(scene, name, Capacity(1.0)) for name in PRESETS]
    figure = draw_all(scene, several)
    for one in several:
        assert titled(figure, f"{one.name}:").images[0].get_array().shape == (4, 50)


def test_a_token_is_never_narrower_than_a_dot(scene: Scene) -> None:
    """Else some would be left out: the picture widens with the tokens."""
    many = constructed(scene.pictures.repeat(9, 1, 1, 1), patch=4, experts=4, data="noise")
    axes = titled(draw_router(many, route(many, "softmax_ec", Capacity(1.0))), "dispatch")
    figure = axes.figure
    figure.canvas.draw()
    columns = axes.images[0].get_array().shape[1]
    assert columns > 1700
    assert axes.get_window_extent().width / figure.dpi * DPI / columns > 1

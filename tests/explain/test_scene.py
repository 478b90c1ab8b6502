"""All routers see the same tokens and logits, and the tokens are the pictures'."""

from __future__ import annotations

import pytest
import torch

from moe_bench.explain.routed import route
from moe_bench.explain.scene import LOGIT_STD, Scene, constructed
from moe_bench.routing import PRESETS, Capacity


@pytest.fixture(scope="module")
def scene() -> Scene:
    generator = torch.Generator().manual_seed(0)
    return constructed(torch.rand(3, 3, 32, 32, generator=generator) * 2 - 1, patch=8, experts=4, data="noise")


def test_logits_have_the_standard_deviation_that_is_told(scene: Scene) -> None:
    assert scene.logits.shape == (48, 4)
    assert float(scene.logits.std()) == pytest.approx(LOGIT_STD, rel=1e-4)


def test_every_token_is_shown_as_its_own_patch(scene: Scene) -> None:
    patches = scene.patches()
    assert len(patches) == 48
    assert torch.equal(patches[16 + 6], scene.pictures[1, :, 8:16, 16:24])  # type: ignore[arg-type]


def test_a_class_token_is_shown_as_no_patch(scene: Scene) -> None:
    tokens = torch.cat([torch.zeros(3, 1, scene.tokens.shape[-1]), scene.tokens], dim=1)
    patches = Scene(scene.pictures, scene.patch, tokens, scene.gate, "noise", "").patches()
    assert [number for number, patch in enumerate(patches) if patch is None] == [0, 17, 34]


def test_the_same_pictures_make_the_same_gate(scene: Scene) -> None:
    again = constructed(scene.pictures, patch=8, experts=4, data="noise")
    assert torch.equal(again.gate, scene.gate)


def test_experts_beyond_the_kinds_of_tokens_like_nothing() -> None:
    """Two grey pictures have a token for each of 16 places, twice."""
    grey = constructed(torch.zeros(2, 3, 32, 32), patch=8, experts=20, data="grey")
    assert grey.logits[:, :16].abs().amax(0).min() > 1
    assert not grey.logits[:, 16:].any()


@pytest.mark.parametrize("name", PRESETS)
def test_every_router_gets_these_logits(scene: Scene, name: str) -> None:
    """The combine weights of a token are its softmax, or for Soft MoE a softmax over slots that are alike."""
    routed = route(scene, name, Capacity(1.0))
    gates = scene.logits.softmax(-1)
    if routed.soft:
        torch.testing.assert_close(routed.affinity, scene.logits)
        torch.testing.assert_close(routed.combine, gates)
    else:
        torch.testing.assert_close(routed.combine, gates * (routed.dispatch > 0))


def test_soft_slots_mix_the_tokens_of_one_picture(scene: Scene) -> None:
    routed = route(scene, "soft", Capacity(1.0))
    torch.testing.assert_close(routed.dispatch.view(3, 16, 4).sum(1), torch.ones(3, 4))

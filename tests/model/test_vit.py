"""The dense model is timm's; heads, features and refusals are as described."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import pytest
import timm
import torch
from timm.models.vision_transformer import VisionTransformer as TimmViT
from torch import nn

from moe_bench.model import VisionTransformer, ViTOutput

TINY: dict[str, Any] = {"image_size": 16, "patch": 4, "width": 24, "depth": 3, "heads": 3, "mlp": 48, "num_classes": 5}


def timm_like_tiny(head: str) -> TimmViT:
    """timm's model of the sizes of ``TINY`` with random weights everywhere."""
    model = TimmViT(
        img_size=16,
        patch_size=4,
        embed_dim=24,
        depth=3,
        num_heads=3,
        mlp_ratio=2,
        num_classes=5,
        class_token=head == "token",
        global_pool={"token": "token", "gap": "avg", "map": "map"}[head],
        fc_norm=False,
        act_layer=partial(nn.GELU, approximate="tanh"),
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
    )
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    return model


@pytest.mark.parametrize("head", ["token", "gap", "map"])
def test_timm_weights_load_unchanged_and_give_timm_logits(head: str) -> None:
    torch.manual_seed(0)
    theirs, ours = timm_like_tiny(head), VisionTransformer(**TINY, head=head)
    ours.load_state_dict(theirs.state_dict())
    images = torch.randn(3, 3, 16, 16)
    torch.testing.assert_close(ours(images), theirs(images), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "width", "depth", "heads"),
    [("vit_base_patch16_224", 768, 12, 12), ("vit_large_patch16_224", 1024, 24, 16)],
)
def test_b16_and_l16_have_timm_names_shapes_and_parameter_counts(name: str, width: int, depth: int, heads: int) -> None:
    with torch.device("meta"):
        theirs = timm.create_model(name)
        ours = VisionTransformer(
            image_size=224, patch=16, width=width, depth=depth, heads=heads, mlp=4 * width, num_classes=1000
        )
    shapes = {key: value.shape for key, value in theirs.state_dict().items()}
    assert {key: value.shape for key, value in ours.state_dict().items()} == shapes
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters())


@pytest.mark.parametrize("head", ["token", "gap", "map"])
def test_a_new_model_answers_its_head_bias_for_every_image(head: str) -> None:
    model = VisionTransformer(**TINY, head=head, head_bias=-math.log(5))
    torch.testing.assert_close(model(torch.randn(2, 3, 16, 16)), torch.full((2, 5), -math.log(5)))


def test_positions_cover_the_class_token_and_start_as_specified() -> None:
    model = VisionTransformer(**{**TINY, "width": 96})
    assert model.pos_embed.shape == (1, 17, 96)
    assert model.pos_embed.std().item() == pytest.approx(0.02, rel=0.1)
    assert model.cls_token is not None
    assert not model.cls_token.any()


@pytest.mark.parametrize(("head", "tokens"), [("token", 17), ("gap", 16), ("map", 16)])
def test_only_the_token_head_adds_a_token(head: str, tokens: int) -> None:
    assert VisionTransformer(**TINY, head=head).pos_embed.shape[1] == tokens


def test_detail_of_a_dense_model_has_features_no_routing_and_no_loss() -> None:
    model = VisionTransformer(**TINY)
    nn.init.normal_(model.head.weight)
    images = torch.randn(2, 3, 16, 16)
    out = model(images, detail=True)
    assert isinstance(out, ViTOutput)
    assert out.routing == {}
    assert out.aux_loss.item() == 0.0
    torch.testing.assert_close(model.head(out.pre_logits), out.logits)
    torch.testing.assert_close(model(images), out.logits)


def test_dropout_acts_in_training_only() -> None:
    model = VisionTransformer(**TINY, dropout=0.5)
    nn.init.normal_(model.head.weight)
    images = torch.randn(2, 3, 16, 16)
    assert not torch.equal(model(images), model(images))
    model.eval()
    assert torch.equal(model(images), model(images))


def test_an_image_that_the_patch_does_not_divide_is_refused_with_the_sizes_that_would_do() -> None:
    with pytest.raises(ValueError, match=r"patch of 4 pixels does not divide an image of 18; use 16 or 20"):
        VisionTransformer(**{**TINY, "image_size": 18})


def test_heads_that_do_not_divide_the_width_are_refused_with_the_numbers() -> None:
    with pytest.raises(ValueError, match="5 heads do not divide the width of 24"):
        VisionTransformer(**{**TINY, "heads": 5})


def test_an_unknown_head_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="'cls' is none of token, gap, map"):
        VisionTransformer(**TINY, head="cls")


def test_images_of_another_size_are_refused_with_both_sizes() -> None:
    with pytest.raises(ValueError, match=r"\(3, 20, 20\), but this model reads \(3, 16, 16\)"):
        VisionTransformer(**TINY)(torch.randn(1, 3, 20, 20))

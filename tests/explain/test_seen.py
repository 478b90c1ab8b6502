"""What is seen of a model's layers is what its routings say, with every router, class token and part of a group."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from moe_bench.config import load
from moe_bench.data.bad import Tolerance
from moe_bench.data.index import ShardIndex, open_split
from moe_bench.data.loader import eval_loader
from moe_bench.data.sources import split_of
from moe_bench.errors import DataError
from moe_bench.explain.draw_maps import draw_classes, draw_experts, draw_patches, draw_soft
from moe_bench.explain.mosaic import mosaics
from moe_bench.explain.seen import Seen, favourites, look, sent
from moe_bench.explain.specific import specific
from moe_bench.model import VisionTransformer, from_config
from moe_bench.routing import SoftRouting
from tests.data.shards import picture, sample, write_damaged, write_shards, write_tar

ROUTERS = ("softmax_tc", "sinkhorn_tc", "softmax_ec", "sparse_ec", "soft", "relu_tc", "hash")
SIZE, PATCH, PICTURES = 16, 4, 11  # 11 pictures leave a group of 4 with a hole


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> ShardIndex:
    folder = tmp_path_factory.mktemp("birds")
    write_shards(folder, [PICTURES], split="val")
    return open_split(split_of(folder, "val"))


def model_of(router: str, head: str = "gap", capacity: float = 1.0) -> VisionTransformer:
    cfg = load([f"router={router}", "model=tiny", f"model.head={head}", f"capacity={capacity:g}"])
    torch.manual_seed(0)
    small = replace(cfg.model, image_size=SIZE, patch=PATCH, width=16, depth=2, mlp=16, experts=4, moe_blocks=[1])
    return from_config(small, cfg.router, replace(cfg.capacity, group_images=4), 5)


def layer(model: VisionTransformer, index: ShardIndex, shown: list[int]) -> tuple[Tensor, Seen]:
    pictures, (seen,), _ = look(model, index, np.arange(PICTURES), np.array(shown))
    return pictures, seen


@pytest.mark.parametrize("head", ["gap", "token"])
@pytest.mark.parametrize("router", ROUTERS)
def test_cells_are_the_tensors_with_their_slots_added_up(router: str, head: str, index: ShardIndex) -> None:
    model = model_of(router, head).eval()
    (batch,) = eval_loader(index, np.arange(PICTURES), image_size=SIZE, batch=PICTURES, workers=0)
    with torch.inference_mode():
        (routing,) = model(batch["image"], detail=True).routing.values()
    tokens = 16 + (head == "token")
    found = sent(routing, PICTURES, tokens)
    soft = isinstance(routing, SoftRouting)
    dispatch, combine = (one.flatten(0, 1).unflatten(0, (-1, tokens))[:PICTURES] for one in routing.tensors())
    torch.testing.assert_close(found.dispatch, dispatch.mean(-1) if soft else dispatch.sum(-1))
    torch.testing.assert_close(found.combine, combine.sum(-1))
    figures = {name: float(value) for name, value in routing.stats().items()}
    real = PICTURES * tokens
    assert float(found.uncovered.sum()) / real == pytest.approx(figures.get("uncovered", 0))
    wishes = float(found.dropped.sum()) + float((found.dispatch > 0).sum()) * (not soft)
    if "dropped_wishes" in figures:
        assert float(found.dropped.sum()) / wishes == pytest.approx(figures["dropped_wishes"])
    else:
        assert not found.dropped.any()


@pytest.mark.parametrize("router", ["softmax_tc", "soft"])
def test_all_pictures_are_counted_and_some_are_shown(router: str, index: ShardIndex) -> None:
    pictures, seen = layer(model_of(router), index, [0, 7])
    assert pictures.shape == (2, 3, SIZE, SIZE)
    assert seen.load.shape == (PICTURES, 4)
    amount = seen.shown.combine if router == "soft" else seen.shown.dispatch
    torch.testing.assert_close(amount.sum(1), seen.load[[0, 7]])
    total = PICTURES * 4 if router == "soft" else seen.load.sum()
    assert float(seen.by_place.sum()) == pytest.approx(float(total))


def test_a_favourite_is_the_patch_an_expert_likes_best_of_those_it_takes(index: ShardIndex) -> None:
    _, seen = layer(model_of("softmax_ec", "token"), index, list(range(PICTURES)))
    for expert, found in enumerate(favourites(seen, PICTURES)):
        liking = seen.shown.liking[..., expert].masked_fill(seen.shown.dispatch[..., expert] == 0, -1)[:, 1:]
        order = [float(liking[picture, patch]) for picture, patch in found]
        assert order == sorted((value for value in liking.amax(1).tolist() if value > 0), reverse=True)


@pytest.mark.parametrize("resize", ["short_side", "square"])
def test_a_mosaic_is_made_of_the_patches_of_pictures_read_as_the_run_reads_them(resize: str, tmp_path: Path) -> None:
    several = [member for n in range(PICTURES) for member in sample(f"k{n}", n % 5, picture(n, size=(24, 8)))]
    index = open_split(str(write_tar(tmp_path / "val-0.tar", several)))
    every = np.arange(PICTURES)
    pictures, (seen,), _ = look(model_of("softmax_tc"), index, every, every, resize=resize)
    (batch,) = eval_loader(index, image_size=SIZE, resize=resize, batch=PICTURES, workers=0)
    assert torch.equal(pictures, batch["image"])
    (of_layer,) = mosaics(index, every, [seen], SIZE, PATCH, resize)
    for found, patches in zip(favourites(seen, 12), of_layer, strict=True):
        for (number, token), patch in zip(found, patches, strict=True):
            top, left = token // 4 * PATCH, token % 4 * PATCH
            assert torch.equal(patch, pictures[number, :, top : top + PATCH, left : left + PATCH])


@pytest.mark.parametrize("head", ["gap", "token"])
def test_a_cross_marks_each_dropped_patch_and_a_dot_each_class_token(head: str, index: ShardIndex) -> None:
    pictures, seen = layer(model_of("softmax_tc", head, capacity=2), index, [0, 1, 2])
    classless = int(head == "token")
    lines = draw_patches(pictures, seen).axes[0].lines
    marks = {shape: sum(len(line.get_xdata()) for line in lines if line.get_marker() == shape) for shape in "xo"}
    assert marks["x"] == int(seen.shown.dropped[:, classless:].sum()) > 0
    assert marks["o"] == (int((seen.shown.dispatch[:, 0] > 0).sum()) if classless else 0)


def test_every_picture_of_a_layer_can_be_drawn(index: ShardIndex) -> None:
    for router in ("hash", "soft"):
        pictures, seen = layer(model_of(router), index, [0, 3])
        (of_layer,) = mosaics(index, np.arange(PICTURES), [seen], SIZE, PATCH)
        found = specific(seen.load, index.labels)
        for figure in (
            draw_soft(pictures, seen, "dispatch"),
            draw_soft(pictures, seen, "combine"),
            draw_experts(seen, of_layer, lambda expert: f"told of {expert}"),
            draw_classes(seen, found, [f"class {number}" for number in range(5)]),
        ):
            figure.canvas.draw()


def test_a_model_without_experts_has_no_layer(index: ShardIndex) -> None:
    model: nn.Module = model_of("dense")
    pictures, layers, _ = look(model, index, np.arange(PICTURES), np.array([0]))  # type: ignore[arg-type]
    assert (len(pictures), layers) == (1, [])


@pytest.mark.parametrize("router", ["softmax_tc", "soft"])
def test_a_picture_that_cannot_be_decoded_takes_no_part(router: str, tmp_path: Path) -> None:
    write_damaged(tmp_path, PICTURES, {3: b"no picture"}, split="val", per_shard=PICTURES)
    damaged, model = open_split(split_of(tmp_path, "val")), model_of(router)
    numbers = np.arange(PICTURES)
    with pytest.raises(DataError):
        look(model, damaged, numbers, numbers)
    _, (seen,), bad = look(model, damaged, numbers, numbers, tolerance=Tolerance(skip=True, limit=1.0))
    assert bad == 1
    assert not seen.load[3].any()
    assert seen.best[3].tolist() == [-torch.inf] * 4

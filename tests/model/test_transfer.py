"""Weights of one model in another: positions as the reference zooms them, MLPs as experts, timm's as they are."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import timm
import torch
from model.example_models import ROUTERS
from safetensors.torch import load_file, save_file
from scipy.ndimage import zoom
from torch import Tensor, nn

from moe_bench.config import load
from moe_bench.config.schema import CapacityConfig, DenseRouterConfig, ModelConfig, RouterConfig
from moe_bench.errors import CheckpointError
from moe_bench.model import MoE, VisionTransformer, from_config
from moe_bench.model.transfer import interpolated, transfer

SMALL = ModelConfig(
    "small", 32, 8, width=24, depth=2, heads=3, mlp=48, experts=4, moe_blocks=[1], head="token", identical_experts=False
)
DENSE = DenseRouterConfig()


def made(
    router: RouterConfig = DENSE, model: ModelConfig = SMALL, classes: int = 5, capacity: float = 1.0
) -> VisionTransformer:
    """A model with random weights everywhere, ready to evaluate."""
    found = from_config(model, router, CapacityConfig(factor=capacity), classes)
    for parameter in found.parameters():
        nn.init.normal_(parameter, std=0.2)
    return found.eval()


def pictures(size: int = 32) -> Tensor:
    return torch.randn(8, 3, size, size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("before", "after", "own"), [(4, 7, 1), (4, 8, 0), (7, 4, 1), (14, 24, 1)])
def test_positions_are_zoomed_as_the_reference_does_and_copies_that_of_the_class(
    before: int, after: int, own: int
) -> None:
    positions = torch.randn(1, before**2 + own, 6, dtype=torch.float64)
    found = interpolated(positions, after**2 + own, own)
    grid = positions[0, own:].reshape(before, before, 6).numpy()
    expected = torch.from_numpy(zoom(grid, (after / before, after / before, 1), order=1)).reshape(1, -1, 6)
    assert torch.equal(found[:, :own], positions[:, :own])
    torch.testing.assert_close(found[:, own:], expected)


@pytest.mark.parametrize("name", [*ROUTERS, "dense"])
def test_the_same_model_at_the_same_size_gives_the_same_logits(name: str) -> None:
    router = ROUTERS.get(name, DENSE)
    one, other = made(router), made(router)
    told = transfer(other, one.state_dict(), upcycle=False, keep_head=True)
    assert (len(told.copied), list(told.drawn), told.grids) == (len(one.state_dict()), [], (4, 4))
    assert torch.equal(one(pictures()), other(pictures()))


def test_a_new_head_and_larger_pictures_leave_the_rest_as_it_was() -> None:
    one, other = made(ROUTERS["softmax_tc"]), made(ROUTERS["softmax_tc"], replace(SMALL, image_size=64), classes=9)
    head = other.head.weight.clone()
    told = transfer(other, one.state_dict(), upcycle=False, keep_head=False)
    assert (
        str(told) == f"{len(one.state_dict()) - 2} tensors copied, positions interpolated from 4×4 to 8×8, 2 new (head)"
    )
    assert torch.equal(other.head.weight, head)
    assert torch.equal(other.blocks[1].mlp.experts.w1, one.blocks[1].mlp.experts.w1)
    assert other(pictures(64)).isfinite().all()


@pytest.mark.parametrize("name", [name for name in ROUTERS if name != "soft"])
def test_an_upcycled_layer_is_the_mlp_times_the_sum_of_a_tokens_combine_weights(name: str) -> None:
    """Σ_r Σ_c C[t,r,c] · MLP(x_t): weights are not renormalised, so a token in no slot leaves as zeros."""
    dense, moe = made(), made(ROUTERS[name], capacity=2.0)
    transfer(moe, dense.state_dict(), upcycle=True, keep_head=True)
    layer, mlp = moe.blocks[1].mlp, dense.blocks[1].mlp
    assert isinstance(layer, MoE)
    x = torch.randn(8, 17, 24)
    with torch.no_grad():
        y, routing = layer.forward_with_routing(x)
        share = routing.tensors()[1].sum((-1, -2)).reshape(8, 17, 1)
        torch.testing.assert_close(y, share * mlp(x), atol=1e-5, rtol=1e-5)
    assert share.max() > 0.1


@pytest.mark.parametrize(
    ("router", "capacity", "share"),
    [("softmax_tc", 1, 0.17), ("softmax_tc", 2, 0.31), ("softmax_ec", 2, 0.38), ("sigmoid_tc", 2, 1.22)],
)
def test_a_fresh_gate_lets_so_much_of_an_upcycled_mlp_through(router: str, capacity: int, share: float) -> None:
    asked = load(["model=mini", f"router={router}", f"capacity={capacity}"])
    found = []
    for seed in range(8):  # one draw is off by up to a tenth, and each version of torch draws other weights
        torch.manual_seed(seed)
        model = from_config(asked.model, asked.router, asked.capacity, 10).eval()
        with torch.no_grad():
            routings = model(torch.randn(16, 3, 32, 32), detail=True).routing.values()
        found += [routing.tensors()[1].sum((-1, -2)).mean().item() for routing in routings]
    assert sum(found) / len(found) == pytest.approx(share, rel=0.04)


def test_with_one_expert_the_upcycled_model_is_the_dense_one() -> None:
    dense, moe = made(), made(ROUTERS["softmax_ec"], replace(SMALL, experts=1))
    transfer(moe, dense.state_dict(), upcycle=True, keep_head=True)
    torch.testing.assert_close(moe(pictures()), dense(pictures()), atol=1e-5, rtol=1e-5)


def test_experts_that_began_as_copies_are_tensors_of_their_own() -> None:
    dense, moe = made(), made(ROUTERS["softmax_ec"])
    told = transfer(moe, dense.state_dict(), upcycle=True, keep_head=False)
    assert {name.rpartition(".")[2] for name in told.upcycled} == {"w1", "b1", "w2", "b2"}
    assert str(told).endswith("4 of experts as copies of MLPs, 3 new (routers, head)")
    experts = moe.blocks[1].mlp.experts
    with torch.no_grad():
        experts.w1[0] += 1
    assert torch.equal(experts.w1[1], dense.blocks[1].mlp.fc1.weight.mT)


@pytest.mark.parametrize("spoil", ["missing", "extra", "shape", "head", "no square"])
def test_what_does_not_fit_is_named_and_nothing_is_taken(spoil: str) -> None:
    weights, model = made().state_dict(), made()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    if spoil == "missing":
        del weights["blocks.0.norm1.weight"]
    elif spoil == "extra":
        weights["reg_token"] = torch.zeros(1, 4, 24)
    elif spoil == "shape":
        weights["blocks.0.attn.proj.weight"] = torch.zeros(24, 12)
    elif spoil == "head":
        weights["head.bias"] = torch.zeros(7)
    else:
        weights["pos_embed"] = torch.zeros(1, 14, 24)
    named = {
        "missing": "blocks.0.norm1.weight: not among",
        "extra": "reg_token: not in the model",
        "shape": r"blocks.0.attn.proj.weight: \(24, 12\), the model has \(24, 24\)",
        "head": "init.head=new",
        "no square": "13 positions",
    }
    with pytest.raises(CheckpointError, match=named[spoil]):
        transfer(model, weights, upcycle=False, keep_head=True)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def timm_vit(head: str, approximate: str) -> nn.Module:
    """A ViT of timm's with random weights, in double precision."""
    structure = {"token": {}, "gap": {"class_token": False, "global_pool": "avg", "fc_norm": False}}
    structure["map"] = {"class_token": False, "global_pool": "map"}
    model: nn.Module = timm.create_model(
        "vit_tiny_patch16_224",
        img_size=32,
        patch_size=8,
        depth=2,
        num_classes=5,
        act_layer=partial(nn.GELU, approximate=approximate),
        **structure[head],
    )
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.05)
    return model.double().eval()


@pytest.mark.parametrize("head", ["token", "gap", "map"])
def test_a_file_of_timms_gives_timms_logits(tmp_path: Path, head: str) -> None:
    theirs = timm_vit(head, "tanh")
    save_file(theirs.state_dict(), tmp_path / "vit.safetensors")
    ours = made(model=ModelConfig("tiny", 32, 8, width=192, depth=2, heads=3, mlp=768, head=head)).double()
    transfer(ours, load_file(tmp_path / "vit.safetensors"), upcycle=False, keep_head=True)
    images = pictures().double()
    torch.testing.assert_close(ours(images), theirs(images), atol=1e-10, rtol=1e-10)


def test_the_exact_gelu_that_most_of_timms_models_have_is_all_that_differs() -> None:
    """Ours is the approximation that the reference and JAX's ViTs were trained with."""
    theirs = timm_vit("token", "none")
    ours = made(model=ModelConfig("tiny", 32, 8, width=192, depth=2, heads=3, mlp=768, head="token")).double()
    transfer(ours, theirs.state_dict(), upcycle=False, keep_head=True)
    images = pictures().double()
    difference = (ours(images) - theirs(images)).abs().max() / theirs(images).abs().max()
    assert 0 < difference < 2e-3

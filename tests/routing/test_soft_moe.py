from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from moe_bench.routing import Capacity, SoftRouter, soft


def slots_of(seed: int, dim: int, experts: int, slots: int) -> Tensor:
    return torch.randn(dim, experts, slots, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_normalised_logits_are_cosines_times_the_scale() -> None:
    x, slots = torch.randn(1, 6, 5).double() * 100, slots_of(1, 5, 2, 3)
    _, combine = soft(x, slots, scale=3.0).tensors()
    cosine = torch.nn.functional.cosine_similarity(x[0, :, :, None], slots.flatten(1).unsqueeze(0), dim=1)
    torch.testing.assert_close(combine[0].flatten(1), (3 * cosine).softmax(-1), atol=1e-5, rtol=0)


def test_an_all_zero_token_is_no_nan() -> None:
    routing = soft(torch.zeros(1, 4, 5), slots_of(2, 5, 2, 2).float())
    assert routing.mixture.isfinite().all()


def test_the_weights_are_float32_under_autocast_and_the_products_are_not() -> None:
    router = SoftRouter(16, 4, tokens=8).eval()
    x = torch.randn(2, 8, 16)
    with torch.autocast("cpu", torch.bfloat16):
        routing = router(x)
        slots = routing.dispatch(x)
    assert torch.equal(routing.mixture, router(x).mixture)
    assert slots.dtype == torch.bfloat16


@pytest.mark.parametrize(("normalize", "parameters"), [(True, {"slots", "scale"}), (False, {"slots"})])
def test_the_scale_is_learned_only_with_normalisation(normalize: bool, parameters: set[str]) -> None:
    router = SoftRouter(16, 4, tokens=20, capacity=Capacity(2.0), normalize=normalize)
    assert {name for name, _ in router.named_parameters()} == parameters
    assert router.slots.shape == (16, 4, 10)
    router(torch.randn(3, 20, 16)).combine(torch.randn(4, 30, 16)).sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in router.parameters())


def test_noise_is_added_in_training_only_and_not_divided_by_the_number_of_experts() -> None:
    torch.manual_seed(0)
    router = SoftRouter(16, 8, tokens=512, noise=0.5)
    x = torch.randn(4, 512, 16)
    clean, noisy = router.eval()(x), router.train()(x)
    logits = (noisy.share.log() - clean.share.log()).flatten(2)
    assert (logits - logits.mean(-1, keepdim=True)).std().item() == pytest.approx(0.5, rel=0.01)
    assert torch.equal(router.eval()(x).share, clean.share)


def test_slots_start_at_the_size_of_a_lecun_normal() -> None:
    torch.manual_seed(0)
    slots = SoftRouter(64, 32, tokens=320).slots
    assert slots.std().item() == pytest.approx(1 / 8, rel=0.02)
    assert slots.abs().max().item() <= 2 / 8 / 0.8796


def test_soft_has_no_auxiliary_loss() -> None:
    routing = SoftRouter(8, 2, tokens=4)(torch.randn(1, 4, 8))
    assert routing.losses == {}
    assert routing.aux_loss is None


def test_stats_of_uniform_mixtures() -> None:
    routing = soft(torch.zeros(2, 6, 5), slots_of(3, 5, 3, 2).float())
    stats = {name: value.item() for name, value in routing.stats().items()}
    assert stats["dispatch_max"] == pytest.approx(1 / 6)
    assert stats["combine_max"] == pytest.approx(1 / 6)
    assert stats["gate_entropy"] == pytest.approx(math.log(6))
    assert stats["load/max"] == pytest.approx(1)
    assert stats["load/dead"] == 0

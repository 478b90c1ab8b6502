"""The noise on a router's logits in training: how much, on what, and where it enters."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats
from torch import Tensor

from moe_bench.routing import Capacity, SparseRouter, make_router


def tokens_of(groups: int = 2, tokens: int = 32, dim: int = 16) -> Tensor:
    return torch.randn(groups, tokens, dim, generator=torch.Generator().manual_seed(0))


def log_gate_differences(router: SparseRouter, x: Tensor) -> Tensor:
    """How noise moves each logit against expert 0's (G, T, E - 1): normal, of √2 the noise's standard deviation."""
    moved = router.train()(x).gates.log() - router.eval()(x).gates.log()
    return moved[..., 1:] - moved[..., :1]


@pytest.mark.slow
@pytest.mark.parametrize("place", [None, 7 << 40])
@pytest.mark.parametrize(("experts", "noise"), [(4, 1.0), (32, 1.0), (8, 0.5), (2, 3.0)])
def test_noise_is_normal_with_standard_deviation_noise_over_e(experts: int, noise: float, place: int | None) -> None:
    """Not a variance of noise/E, as the paper's N(0, 1/E) could be read: at E = 4 that would be twice as wide."""
    torch.manual_seed(0)
    router = make_router("softmax_ec", 16, experts, noise=noise).double()
    router.noise_place = None if place is None else torch.tensor(place)
    draws = log_gate_differences(router, tokens_of(8, 20_000).double())[..., 0].flatten()
    expected = stats.norm(scale=math.sqrt(2) * noise / experts)
    assert stats.kstest(draws.detach().numpy(), expected.cdf).pvalue > 1e-3
    assert draws.std().item() == pytest.approx(expected.std(), rel=0.01)


def test_noise_has_standard_deviation_one_over_e_and_only_in_training() -> None:
    torch.manual_seed(0)
    router = make_router("softmax_ec", 16, 8)
    x = tokens_of(4, 512)
    clean, noisy = router.eval()(x).gates, router.train()(x).gates
    noise = noisy.log() - clean.log()
    noise = noise - noise.mean(-1, keepdim=True)
    assert noise.std().item() == pytest.approx(math.sqrt(7 / 8) / 8, rel=0.02)
    assert torch.equal(router.eval()(x).gates, clean)


@pytest.mark.parametrize(
    ("name", "noisy_affinity", "noisy_weights"),
    [
        ("softmax_tc", True, True),
        ("softmax_ec", True, True),
        ("sinkhorn_tc", True, False),
        ("sinkhorn_ec", True, True),
    ],
)
def test_where_noise_enters(name: str, noisy_affinity: bool, noisy_weights: bool) -> None:
    router = make_router(name, 16, 4, capacity=Capacity(2.0), noise=1.0).eval()
    still = router(tokens_of())
    torch.manual_seed(1)
    noisy = router.train()(tokens_of())
    assert torch.equal(noisy.affinity, still.affinity) != noisy_affinity
    assert torch.equal(noisy.gates, still.gates) != noisy_weights


def test_only_the_sparse_affinity_is_without_noise_as_in_the_authors_code() -> None:
    for name in ("softmax_tc", "softmax_ec", "sinkhorn_tc", "sinkhorn_ec", "sparse_ec"):
        router = make_router(name, 16, 4)
        trained, judged = router.train()(tokens_of()).affinity, router.eval()(tokens_of()).affinity
        assert torch.equal(trained, judged) == (name == "sparse_ec")
    with pytest.raises(ValueError, match="takes no noise"):
        make_router("sparse_ec", 16, 4, noise=1.0)

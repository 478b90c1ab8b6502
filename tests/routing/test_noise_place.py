"""Noise by place: normal, and the same wherever and in whatever pieces it is made."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from moe_bench.routing.noise import GROUP_STRIDE, normal_like


def noise(groups: int, *shape: int, place: int = 0) -> torch.Tensor:
    return normal_like(torch.empty(groups, *shape), torch.tensor(place))


def test_it_is_standard_normal() -> None:
    values = noise(64, 128, 32).flatten().numpy()
    assert stats.kstest(values, "norm").pvalue > 0.01
    assert abs(values.mean()) < 3 / len(values) ** 0.5
    assert abs(values.std() - 1) < 3 / (2 * len(values)) ** 0.5
    assert abs(stats.kurtosis(values)) < 0.05


@pytest.mark.parametrize("lag", [1, 2, 31, 32, 64, 4096])
def test_no_number_tells_of_another(lag: int) -> None:
    values = noise(64, 128, 32).flatten().numpy()
    assert abs(np.corrcoef(values[:-lag], values[lag:])[0, 1]) < 4 / len(values) ** 0.5


def test_neighbouring_places_and_layers_are_unrelated() -> None:
    one = noise(1, 128, 32).flatten().numpy()
    for place in (1, 2, GROUP_STRIDE, -1):
        other = noise(1, 128, 32, place=place).flatten().numpy()
        assert not np.array_equal(one, other)
    assert abs(np.corrcoef(one, noise(1, 128, 32, place=GROUP_STRIDE).flatten().numpy())[0, 1]) < 4 / len(one) ** 0.5


@pytest.mark.parametrize("place", [0, 12345, 2**63 - 5, -(2**63)])
def test_pieces_of_a_step_have_the_noise_of_the_whole(place: int) -> None:
    whole = noise(6, 5, 3, place=place)
    for first in (0, 2, 4):
        start = (place + first * GROUP_STRIDE + 2**63) % 2**64 - 2**63
        assert torch.equal(noise(2, 5, 3, place=start), whole[first : first + 2])


def test_an_odd_count_takes_the_shape_and_dtype_of_what_it_is_added_to() -> None:
    like = torch.empty(3, 5, 3, dtype=torch.float64)
    made = normal_like(like, torch.tensor(7))
    assert (made.shape, made.dtype) == (like.shape, like.dtype)
    assert made.isfinite().all()


def test_without_a_place_it_is_the_generators() -> None:
    torch.manual_seed(3)
    drawn = normal_like(torch.empty(2, 3), None)
    torch.manual_seed(3)
    assert torch.equal(drawn, torch.randn(2, 3))

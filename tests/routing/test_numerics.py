from __future__ import annotations

import pytest
import torch

from moe_bench.routing.numerics import no_autocast, real_tokens, top, wide


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_top_is_a_stable_descending_sort(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(3, 4, 200, generator=generator, dtype=dtype).mul(3).round()  # many ties, negatives, ±0
    expected = scores.sort(dim=-1, descending=True, stable=True).indices
    for count in (1, 7, 200):
        assert torch.equal(top(scores, count), expected[..., :count])


def test_top_orders_infinities_and_tiny_differences() -> None:
    scores = torch.tensor([0.0, -0.0, torch.inf, 1.0, 1.0 + 1e-7, -torch.inf, 1e-45, -1e-45])
    assert top(scores, 8).tolist() == [2, 4, 3, 6, 0, 1, 7, 5]


def test_wide_is_float32_or_better() -> None:
    assert wide(torch.zeros(1, dtype=torch.bfloat16)).dtype == torch.float32
    assert wide(torch.zeros(1, dtype=torch.float64)).dtype == torch.float64


def test_products_are_exact_inside_no_autocast() -> None:
    a = torch.randn(4, 4, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", torch.bfloat16):
        assert (a @ a).dtype == torch.bfloat16
        with no_autocast(a):
            assert (a @ a).dtype == torch.float32


def test_a_group_of_nothing_but_padding_counts_as_real() -> None:
    mask = torch.tensor([[True, False], [False, False]])
    assert real_tokens(torch.zeros(2, 2, 3), mask).squeeze(-1).tolist() == [[1, 0], [1, 1]]

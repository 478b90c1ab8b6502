from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import distributed, nn

from moe_bench.routing import Capacity, SparseRouter, make_router
from moe_bench.routing.balance import biased_routers, loads, rebalance

BIASED = {"affinity": "sigmoid", "choice": "token", "combine": "plan", "noise": 0.0}


def biased(rate: float = 0.01, experts: int = 4) -> SparseRouter:
    torch.manual_seed(0)
    return SparseRouter(8, experts, **BIASED, capacity=Capacity(2.0), bias_rate=rate)


def test_the_bias_rises_where_less_than_the_mean_is_asked_for_and_falls_where_more_is() -> None:
    router = biased(experts=5)
    rebalance([router], torch.tensor([[10, 0, 30, 20, 20]]))  # mean 16
    torch.testing.assert_close(router.bias, torch.tensor([0.01, 0.01, -0.01, -0.01, -0.01]))
    rebalance([router], torch.tensor([[16, 17, 15, 16, 16]]))  # at the mean nothing moves
    torch.testing.assert_close(router.bias, torch.tensor([0.01, 0.0, 0.0, -0.01, -0.01]))


def test_loads_count_what_real_tokens_asked_for_dropped_or_not() -> None:
    router, mask = biased(), torch.arange(32).expand(3, -1) < 20
    routing = router(torch.randn(3, 32, 8), mask)
    assert loads([routing, routing]).tolist() == [routing.demand.sum(0).tolist()] * 2
    assert loads([routing]).sum() == 3 * 20 * 2


def test_only_routers_with_a_bias_are_balanced() -> None:
    model = nn.Sequential(biased(), make_router("softmax_tc", 8, 4), biased())
    assert biased_routers(model) == [model[0], model[2]]


def test_steps_bring_lopsided_gates_to_balance_without_a_gradient() -> None:
    router = biased(rate=0.02)
    tokens = torch.randn(4, 64, 8, generator=torch.Generator().manual_seed(1)) + 2 * router.gate.weight[0].detach()
    before = loads([router(tokens)])
    for _ in range(100):
        rebalance([router], loads([router(tokens)]))
    after = loads([router(tokens)])
    assert before.float().std() > 4 * after.float().std()
    assert router.bias is not None
    assert not router.bias.requires_grad


def _rank(rank: int, folder: str) -> None:
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    router = biased()
    rebalance([router], torch.tensor([[9, 0, 0, 3], [0, 0, 0, 40]])[rank : rank + 1])
    torch.save(router.bias, f"{folder}/{rank}.pt")
    distributed.destroy_process_group()


@pytest.mark.slow
def test_ranks_move_the_bias_by_the_load_of_all_of_them(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(_rank, (str(tmp_path),), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    torch.testing.assert_close(first, torch.tensor([0.01, 0.01, 0.01, -0.01]))  # 9, 0, 0 and 43 of a mean of 13
    assert torch.equal(first, second)

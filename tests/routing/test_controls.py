from __future__ import annotations

import pytest
import torch

from moe_bench.routing import Capacity, ControlRouter


def control(kind: str, tokens: int = 16, experts: int = 4, **options: int) -> ControlRouter:
    torch.manual_seed(0)
    return ControlRouter(experts, kind=kind, tokens=tokens, capacity=Capacity(1.0), **options)


def test_the_hash_sends_a_place_to_the_same_experts_in_every_image_whatever_is_there() -> None:
    router = control("hash", k=2)
    routing = router(torch.randn(3, 32, 8))  # two images a group
    chosen = routing.affinity.topk(2).indices
    assert torch.equal(chosen[:, :16], chosen[:1, 16:].expand(3, -1, -1))
    assert torch.equal(routing.token, router.eval()(torch.randn(3, 32, 8)).token)


@pytest.mark.parametrize("k", [1, 2, 4])
def test_the_hash_spreads_places_evenly_and_drops_nothing(k: int) -> None:
    router = ControlRouter(4, kind="hash", tokens=16, k=k, capacity=Capacity(float(k)))
    routing = router(torch.randn(2, 32, 8))
    assert routing.demand.tolist() == [[32 * k // 4] * 4] * 2
    assert routing.stats()["dropped_wishes"] == 0
    assert (routing.tensors()[0].sum((-1, -2)) == k).all()


def test_each_layer_has_another_hash_which_its_checkpoint_keeps() -> None:
    torch.manual_seed(0)
    first, second = (ControlRouter(4, kind="hash", tokens=16) for _ in range(2))
    assert not torch.equal(first.table, second.table)
    second.load_state_dict(first.state_dict())
    x = torch.randn(2, 32, 8)
    assert torch.equal(first(x).token, second(x).token)


def test_chance_is_drawn_anew_in_training_and_fixed_at_evaluation() -> None:
    router, x = control("random"), torch.randn(2, 64, 8)
    torch.manual_seed(1)
    first = router(x).token
    assert not torch.equal(router(x).token, first)
    torch.manual_seed(1)
    assert torch.equal(router(x).token, first)
    router.eval()
    assert torch.equal(router(x).token, router(torch.zeros_like(x)).token)


def test_chance_gives_every_expert_its_share_in_the_long_run() -> None:
    share = control("random")(torch.randn(64, 256, 2)).demand.sum(0) / (64 * 256)
    torch.testing.assert_close(share, torch.full((4,), 0.25), atol=0.02, rtol=0)


@pytest.mark.parametrize("kind", ["hash", "random"])
def test_controls_have_no_parameters_weights_of_1_over_k_and_seat_no_padding(kind: str) -> None:
    router, mask = control(kind, k=2), torch.arange(32).expand(2, -1) < 20
    assert list(router.parameters()) == []
    routing = router(torch.randn(2, 32, 8), mask)
    dispatch, combine = routing.tensors()
    assert torch.equal(combine, dispatch / 2)
    assert not dispatch[~mask].any()
    assert routing.aux_loss is None


@pytest.mark.parametrize(
    ("options", "message"), [({"kind": "coin"}, "hash, random, not 'coin'"), ({"k": 5}, "k=5 of 4")]
)
def test_wrong_options_are_refused(options: dict[str, str | int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ControlRouter(4, **({"kind": "hash", "tokens": 16} | options))  # type: ignore[arg-type]

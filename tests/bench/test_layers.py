"""What is measured is what is said to be measured."""

from __future__ import annotations

import mmap
import sys

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from moe_bench.bench.cases import ROUTERS, Case
from moe_bench.bench.floor import Floor, dense_mlp
from moe_bench.bench.layers import Options, Subject, measure, subjects, work
from moe_bench.bench.machine import peak_bytes
from moe_bench.bench.peers import PEERS, Peer
from moe_bench.bench.results import DENSE, LayerTimes
from moe_bench.bench.routing import sinkhorn_on_logarithms
from moe_bench.model import Experts
from moe_bench.routing import sinkhorn

CASE = Case(24, 48, 4, images=4, tokens=16, group_images=2, capacity=1.0, dtype="float32")
CPU = torch.device("cpu")


def options(**changes: object) -> Options:
    return Options(**{"routers": ROUTERS, "solvers": ["adam"], "peers": [], "rounds": 1, "device": CPU, **changes})


def made(case: Case = CASE, **changes: object) -> tuple[LayerTimes, dict[str, Subject]]:
    times = LayerTimes(case)
    return times, dict(subjects(times, options(**changes)))


def grouped_mm_flops(rows: torch.Size, weights: torch.Size, *_: object, **__: object) -> int:
    """Of (N, D) rows with (E, D, H) weights, a product that torch's counter does not know."""
    return 2 * rows.numel() * weights[-1]


def forward_flops(subject: Subject) -> int:
    subject.x.requires_grad_(False)  # the counter follows gradients, of which there are none without a graph
    with FlopCounterMode(display=False, custom_mapping={torch.ops.aten._grouped_mm: grouped_mm_flops}) as counter:
        subject.forward()
    return int(counter.get_total_flops())


def test_floor_and_dense_mlp_cost_the_flops_of_the_layers_experts() -> None:
    times, layers = made()
    flops = {}
    for name, subject in layers.items():
        flops[name] = forward_flops(subject)
    rows = times.entries["softmax_ec"].rows
    assert flops[f"floor, {rows} rows"] == flops[DENSE] == CASE.flops(rows)
    gate = 2 * 4 * 16 * 24 * 4
    assert flops["softmax_ec"] == flops["sinkhorn_tc"] == CASE.flops(rows) + gate


def test_the_floor_is_what_the_experts_compute() -> None:
    experts = Experts(4, 24, 48, identical=False)
    rows = torch.randn(4, 16, 24)
    torch.testing.assert_close(Floor(experts)(rows), experts(rows))
    assert {id(p) for p in Floor(experts).parameters()} == {id(p) for p in experts.parameters()}


def test_our_layers_and_the_floor_share_their_experts() -> None:
    _, layers = made()
    shared = {id(p) for p in layers["softmax_ec"].layer.experts.parameters()}
    for name, subject in layers.items():
        assert name == DENSE or shared <= {id(p) for p in subject.layer.parameters()}


def test_training_reaches_input_experts_and_gate_and_clearing_drops_all() -> None:
    _, layers = made()
    for name, subject in layers.items():
        subject.train()
        parameters = [subject.x, *subject.layer.parameters()]
        assert all(p.grad is not None and p.grad.isfinite().all() for p in parameters), name
        subject.clear()
        assert all(p.grad is None for p in parameters), name


def test_bf16_is_autocast_over_float32_parameters() -> None:
    case = Case(24, 48, 4, images=4, tokens=16, group_images=2, capacity=1.0, dtype="bf16")
    _, layers = made(case)
    for name in ("softmax_ec", "floor, 16 rows", DENSE):
        assert layers[name].forward().dtype == torch.bfloat16
        assert all(p.dtype == torch.float32 for p in layers[name].layer.parameters())


def test_a_forward_pass_keeps_no_graph() -> None:
    _, layers = made()
    assert not any(subject.forward().requires_grad for subject in layers.values())


def test_progress_reaches_its_end_exactly() -> None:
    worked: list[float] = []
    asked = options(rounds=2, routers=["softmax_tc", "soft", "sparse_ec"])
    measure(LayerTimes(CASE), asked, worked.append)
    assert sum(worked) == work(CASE, asked)


@pytest.mark.skipif(sys.platform != "linux", reason="other kernels do not tell")
@pytest.mark.parametrize("size", [2**16, 2**20, 2**24])
def test_peak_memory_is_at_least_what_exists_at_once_and_no_more_than_ever_was(size: int) -> None:
    """Between the two lie the holes of a heap, which are memory in use."""
    many = 2**26 // size

    def two_thirds_at_once() -> None:
        first = [torch.ones(size, dtype=torch.uint8) for _ in range(many)]
        second = [torch.ones(size, dtype=torch.uint8) for _ in range(many)]
        del first
        third = [torch.ones(size, dtype=torch.uint8) for _ in range(many)]
        del second, third

    two_thirds_at_once()  # warm, as layers are
    peak = peak_bytes(two_thirds_at_once, CPU)
    assert peak is not None
    assert 0.95 * 2 * 2**26 < peak < 1.05 * 3 * 2**26


@pytest.mark.skipif(sys.platform != "linux", reason="other kernels do not tell")
def test_peak_memory_knows_what_torch_did_not_allocate() -> None:
    def elsewhere() -> None:
        with mmap.mmap(-1, 2**26) as memory:
            torch.frombuffer(memory, dtype=torch.uint8).fill_(1)

    assert peak_bytes(elsewhere, CPU) == pytest.approx(2**26, rel=0.05)


@pytest.mark.skipif(sys.platform != "linux", reason="other kernels do not tell")
def test_the_dense_mlp_needs_its_gradients_and_activations() -> None:
    subject = Subject(dense_mlp(512, 2048), torch.randn(1024, 512).requires_grad_(), "float32")
    subject.train()
    subject.clear()
    needed = 2 * 512 * 2048 + 1024 * (2 * 2048 + 512)  # both weights' gradients; before and after GELU; output
    peak = peak_bytes(subject.train, CPU)
    assert peak is not None
    assert 4 * needed < peak < 2 * 4 * needed


def test_training_has_the_noise_of_a_training_run() -> None:
    _, layers = made()
    assert layers["softmax_tc"].layer.router.noise_place is not None


def test_a_peer_that_fails_is_left_out_with_its_reason_and_ours_go_on() -> None:
    def make(case: Case) -> torch.nn.Module:
        raise ValueError("needs a patch size")

    broken = Peer("broken-moe", make, lambda case: 8)
    times = LayerTimes(CASE)
    measure(times, options(peers=[broken], routers=["softmax_ec"]), lambda flops: None)
    assert [(one.package, one.why) for one in times.left_out] == [("broken-moe", "ValueError: needs a patch size")]
    assert set(times.entries) == {"softmax_ec", "floor, 16 rows", DENSE}


@pytest.mark.parametrize("peer", PEERS, ids=lambda peer: peer.package)
@pytest.mark.parametrize("capacity", [1.0, 2.0])
def test_a_peer_does_the_work_that_it_is_compared_for(peer: Peer, capacity: float) -> None:
    if peer.version is None:
        pytest.skip(f"{peer.package} is not installed: pip install 'moe-bench[peers]'")
    case = Case(96, 384, 4, images=2, tokens=32, group_images=2, capacity=capacity, dtype="float32")
    times, layers = made(case, peers=[peer], routers=["softmax_ec"])
    assert times.left_out == []
    assert forward_flops(layers[peer.package]) >= 0.95 * case.flops(times.entries[peer.package].rows)


def test_sinkhorn_on_logarithms_is_the_same_plan() -> None:
    logits = torch.randn(2, 32, 4)
    torch.testing.assert_close(sinkhorn_on_logarithms(logits), sinkhorn(logits, 20), atol=1e-6, rtol=1e-5)

"""The model compiles as one graph: no branch on values, no wait for the device, no state kept between calls."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from example_models import ROUTERS, TINY

from moe_bench.config.schema import CapacityConfig, ControlRouterConfig, RouterConfig, SparseRouterConfig
from moe_bench.model import from_config

SMALL = replace(TINY, image_size=16, patch=4, width=32, depth=2, heads=2, mlp=64, experts=4, moe_blocks=[1])

OTHERS: dict[str, RouterConfig] = {
    "relu": SparseRouterConfig(affinity="relu", choice="token", combine="plan", k=2),
    "biased": SparseRouterConfig(affinity="sigmoid", choice="token", combine="plan", bias_rate=0.001),
    "own": SparseRouterConfig(affinity="moe_bench.routing:sinkhorn"),
    "hash": ControlRouterConfig("hash"),
    "random": ControlRouterConfig("random"),
    "sweeps": SparseRouterConfig(affinity="sparse", solver="sweeps", noise=0.0),
    "dual": SparseRouterConfig(affinity="sparse", solver="dual", iterations=3, noise=0.0),
    "sparse plan": SparseRouterConfig(affinity="sparse", combine="plan", iterations=3, noise=0.0),
    "sinkhorn plan": SparseRouterConfig(affinity="sinkhorn", choice="token", combine="plan"),
    "score": SparseRouterConfig(choice="token", priority="score"),
}


@pytest.mark.parametrize(
    "name",
    [
        *(pytest.param(name, marks=pytest.mark.slow) for name in [*ROUTERS, *OTHERS] if name != "softmax_ec"),
        "softmax_ec",
    ],
)
def test_one_graph_forward_and_backward_serves_changing_data(name: str) -> None:
    torch.manual_seed(0)
    torch.compiler.reset()
    vit = from_config(SMALL, (ROUTERS | OTHERS)[name], CapacityConfig(group_images=2), 10).eval()
    torch.nn.init.normal_(vit.head.weight)
    compiled = torch.compile(vit, fullgraph=True, backend="aot_eager")
    for valid in (torch.ones(4, dtype=torch.bool), torch.arange(4) < 3):
        images = torch.randn(4, 3, 16, 16)
        with torch.compiler.set_stance("default" if valid.all() else "fail_on_recompile"):
            out = compiled(images, valid, detail=True)
        expected = vit(images, valid, detail=True)
        torch.testing.assert_close(out.logits, expected.logits)
        torch.testing.assert_close(out.aux_loss, expected.aux_loss)
        (out.logits.square().mean() + out.aux_loss).backward()
    assert all(parameter.grad is not None for parameter in vit.parameters())

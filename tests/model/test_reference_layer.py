"""One MoE block against the authors' JAX code: value and every gradient (see ``reference/layer.npz``).

The loss is ⟨y, cotangent⟩, plus the mean over groups of the router's own loss. The reference is float32 itself and
6e-6 from the float64 truth where gradients are near 10, so 5e-6 is asked both absolutely and relatively.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from moe_bench.model import MoE
from moe_bench.routing import SoftRouter, SparseRouter

REFERENCE = Path(__file__).parents[1] / "reference" / "layer.npz"
GROUP_IMAGES, EXPERTS, DIM, HIDDEN, TOKENS = 2, 4, 12, 20, 10
EXPERT_NAMES = {
    "w1": "Mlp.Dense_0.kernel",
    "b1": "Mlp.Dense_0.bias",
    "w2": "Mlp.Dense_1.kernel",
    "b2": "Mlp.Dense_1.bias",
}


@pytest.fixture(scope="module")
def reference() -> dict[str, Tensor]:
    with np.load(REFERENCE) as arrays:
        return {key: torch.from_numpy(arrays[key]) for key in arrays.files}


def layer(router: nn.Module, case: str, reference: dict[str, Tensor]) -> MoE:
    """An MoE layer with the experts of ``case``."""
    moe = MoE(DIM, HIDDEN, router, EXPERTS, group_images=GROUP_IMAGES, bf16_dispatch=case.endswith("bf16")).eval()
    for ours, theirs in EXPERT_NAMES.items():
        getattr(moe.experts, ours).data.copy_(reference[f"{case}/param.{theirs}"])
    return moe


def check_gradients(x: Tensor, moe: MoE, case: str, reference: dict[str, Tensor], tolerance: float) -> None:
    """Of the input and the experts."""
    pairs = {"grad_x": x.grad}
    pairs |= {f"grad.{theirs}": getattr(moe.experts, ours).grad for ours, theirs in EXPERT_NAMES.items()}
    for key, gradient in pairs.items():
        assert gradient is not None
        torch.testing.assert_close(gradient, reference[f"{case}/{key}"], atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize(
    ("case", "choice", "importance"),
    [("token_choice.k1.f32", "token", 0.005), ("expert_choice.c1.f32", "expert", 0.0)],
)
def test_sparse_layers_give_the_reference_outputs_losses_and_gradients(
    case: str, choice: str, importance: float, reference: dict[str, Tensor]
) -> None:
    router = SparseRouter(DIM, EXPERTS, affinity="softmax", choice=choice, importance=importance)
    moe = layer(router, case, reference)
    router.gate.weight.data.copy_(reference[f"{case}/param.Router.dense.kernel"].T)
    x = reference["all/x"].clone().requires_grad_()
    y, routing = moe.forward_with_routing(x)
    torch.testing.assert_close(y, reference[f"{case}/y"], atol=5e-6, rtol=0)
    total = (y * reference["all/cotangent"]).sum()
    if routing.aux_loss is not None:
        total = total + routing.aux_loss.mean()
    torch.testing.assert_close(total, reference[f"{case}/total"], atol=2e-5, rtol=0)  # a sum of 480 terms
    total.backward()
    check_gradients(x, moe, case, reference, 5e-6)
    kernel = reference[f"{case}/grad.Router.dense.kernel"].T
    torch.testing.assert_close(router.gate.weight.grad, kernel, atol=5e-6, rtol=5e-6)


def test_soft_layer_with_bf16_dispatch_gives_the_reference_outputs_and_gradients(
    reference: dict[str, Tensor],
) -> None:
    """The authors always round what enters Soft MoE's dispatch and combine to bfloat16, and sum in float32."""
    case = "soft.c1.bf16"
    router = SoftRouter(DIM, EXPERTS, tokens=TOKENS)
    moe = layer(router, case, reference)
    assert isinstance(router.scale, nn.Parameter)
    router.slots.data.copy_(reference[f"{case}/param.Router.mu"])
    router.scale.data.copy_(reference[f"{case}/param.Router.scale"])
    x = reference["all/x"].clone().requires_grad_()
    y = moe(x)
    torch.testing.assert_close(y, reference[f"{case}/y"], atol=5e-6, rtol=0)
    (y * reference["all/cotangent"]).sum().backward()
    check_gradients(x, moe, case, reference, 5e-6)
    torch.testing.assert_close(router.slots.grad, reference[f"{case}/grad.Router.mu"], atol=5e-6, rtol=5e-6)
    torch.testing.assert_close(router.scale.grad, reference[f"{case}/grad.Router.scale"].view(1), atol=5e-6, rtol=5e-6)

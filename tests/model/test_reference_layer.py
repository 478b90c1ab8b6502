"""One MoE block against the authors' JAX code: value and every gradient (see ``reference/layer.npz``).

The loss is ⟨y, cotangent⟩, plus the mean over groups of the router's own loss. The reference is float32 itself and
6e-6 from the float64 truth where gradients are near 10, so 5e-6 is asked both absolutely and relatively.
"""

from __future__ import annotations

import pytest
import torch
from reference_numbers import FILES
from torch import Tensor, nn

from moe_bench.model import MoE
from moe_bench.routing import SoftRouter, SparseRouter

REFERENCE = FILES["layer"]
GROUP_IMAGES, EXPERTS, DIM, HIDDEN, TOKENS = 2, 4, 12, 20, 10
EXPERT_NAMES = {
    "w1": "Mlp.Dense_0.kernel",
    "b1": "Mlp.Dense_0.bias",
    "w2": "Mlp.Dense_1.kernel",
    "b2": "Mlp.Dense_1.bias",
}


def layer(router: nn.Module, case: str) -> MoE:
    """An MoE layer with the experts of ``case``."""
    moe = MoE(DIM, HIDDEN, router, EXPERTS, group_images=GROUP_IMAGES, bf16_dispatch=case.endswith("bf16")).eval()
    for ours, theirs in EXPERT_NAMES.items():
        getattr(moe.experts, ours).data.copy_(REFERENCE.tensor(f"{case}/param.{theirs}"))
    return moe


def check_gradients(x: Tensor, moe: MoE, case: str, tolerance: float) -> None:
    """Of the input and the experts."""
    pairs = {"grad_x": x.grad}
    pairs |= {f"grad.{theirs}": getattr(moe.experts, ours).grad for ours, theirs in EXPERT_NAMES.items()}
    for key, gradient in pairs.items():
        assert gradient is not None
        torch.testing.assert_close(gradient, REFERENCE.tensor(f"{case}/{key}"), atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize(
    ("case", "choice", "importance"),
    [("token_choice.k1.f32", "token", 0.005), ("expert_choice.c1.f32", "expert", 0.0)],
)
def test_sparse_layers_give_the_reference_outputs_losses_and_gradients(
    case: str, choice: str, importance: float
) -> None:
    router = SparseRouter(DIM, EXPERTS, affinity="softmax", choice=choice, importance=importance)
    moe = layer(router, case)
    router.gate.weight.data.copy_(REFERENCE.tensor(f"{case}/param.Router.dense.kernel").T)
    x = REFERENCE.tensor("all/x").requires_grad_()
    y, routing = moe.forward_with_routing(x)
    torch.testing.assert_close(y, REFERENCE.tensor(f"{case}/y"), atol=5e-6, rtol=0)
    total = (y * REFERENCE.tensor("all/cotangent")).sum()
    if routing.aux_loss is not None:
        total = total + routing.aux_loss.mean()
    torch.testing.assert_close(total, REFERENCE.tensor(f"{case}/total"), atol=5e-5, rtol=0)  # a sum of 480 terms
    total.backward()
    check_gradients(x, moe, case, 5e-6)
    kernel = REFERENCE.tensor(f"{case}/grad.Router.dense.kernel").T
    torch.testing.assert_close(router.gate.weight.grad, kernel, atol=5e-6, rtol=5e-6)


def test_soft_layer_with_bf16_dispatch_gives_the_reference_outputs_and_gradients() -> None:
    """The authors always round what enters Soft MoE's dispatch and combine to bfloat16, and sum in float32."""
    case = "soft.c1.bf16"
    router = SoftRouter(DIM, EXPERTS, tokens=TOKENS)
    moe = layer(router, case)
    assert isinstance(router.scale, nn.Parameter)
    router.slots.data.copy_(REFERENCE.tensor(f"{case}/param.Router.mu"))
    router.scale.data.copy_(REFERENCE.tensor(f"{case}/param.Router.scale"))
    x = REFERENCE.tensor("all/x").requires_grad_()
    y = moe(x)
    torch.testing.assert_close(y, REFERENCE.tensor(f"{case}/y"), atol=5e-6, rtol=0)
    total = (y * REFERENCE.tensor("all/cotangent")).sum()
    torch.testing.assert_close(total, REFERENCE.tensor(f"{case}/total"), atol=2e-5, rtol=0)
    total.backward()
    check_gradients(x, moe, case, 5e-6)
    torch.testing.assert_close(router.slots.grad, REFERENCE.tensor(f"{case}/grad.Router.mu"), atol=5e-6, rtol=5e-6)
    torch.testing.assert_close(
        router.scale.grad, REFERENCE.tensor(f"{case}/grad.Router.scale").view(1), atol=5e-6, rtol=5e-6
    )

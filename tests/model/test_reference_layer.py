"""One MoE block against the authors' JAX code: value and every gradient (see ``reference/layer.npz``)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

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


def close(actual: Tensor | None, expected: Tensor, atol: float) -> None:
    assert actual is not None
    torch.testing.assert_close(actual, expected, atol=atol, rtol=0)


def load(moe: MoE, case: str, reference: dict[str, Tensor]) -> dict[str, Tensor]:
    """Set the experts of ``moe``; returns the parameters of this case by their JAX names."""
    parameters = {key.split("/param.")[1]: value for key, value in reference.items() if key.startswith(f"{case}/param")}
    for ours, theirs in EXPERT_NAMES.items():
        getattr(moe.experts, ours).data.copy_(parameters[theirs])
    return parameters


def check_experts(moe: MoE, case: str, reference: dict[str, Tensor], atol: float) -> None:
    for ours, theirs in EXPERT_NAMES.items():
        close(getattr(moe.experts, ours).grad, reference[f"{case}/grad.{theirs}"], atol)


@pytest.mark.parametrize(
    ("case", "choice"), [("token_choice.k1.f32", "token"), ("expert_choice.c1.f32", "expert")]
)
def test_sparse_layers_give_the_reference_outputs_and_gradients(
    case: str, choice: str, reference: dict[str, Tensor]
) -> None:
    router = SparseRouter(DIM, EXPERTS, affinity="softmax", choice=choice, k=1 if choice == "token" else None)
    moe = MoE(DIM, HIDDEN, router, EXPERTS, group_images=GROUP_IMAGES).eval()
    router.gate.weight.data.copy_(load(moe, case, reference)["Router.dense.kernel"].T)
    x = reference["all/x"].clone().requires_grad_()
    y = moe(x)
    close(y, reference[f"{case}/y"], 5e-6)
    (y * reference["all/cotangent"]).sum().backward()
    close(x.grad, reference[f"{case}/grad_x"], 5e-6)
    check_experts(moe, case, reference, 5e-6)
    close(router.gate.weight.grad, reference[f"{case}/grad.Router.dense.kernel"].T, 5e-6)

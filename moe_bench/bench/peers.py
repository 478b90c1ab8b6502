"""Layers of other packages, made as large in FLOPs as ours. Each is used as its package gives it.

Experts with a gated activation (GLU) have three matrices instead of two, so their hidden width is 2/3 of H.
D width, H hidden, E experts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from moe_bench.monitor.environment import version

if TYPE_CHECKING:
    from moe_bench.bench.cases import Case

INSTALL = "pip install 'moe-bench[peers]'"


@dataclass(frozen=True)
class Peer:
    """A package on PyPI and how a layer of it is made."""

    package: str
    make: Callable[[Case], nn.Module]
    rows: Callable[[Case], int]
    """Rows that each of its experts works on, on average."""
    outputs: Callable[[Any], tuple[Tensor, ...]] = lambda output: (output,)
    """What the layer returns → its output and, if it has one, its loss."""

    @property
    def version(self) -> str | None:
        """None where it is not installed."""
        return version(self.package)


def _soft_moe_pytorch(case: Case) -> nn.Module:
    from soft_moe_pytorch import SoftMoE

    slots = case.rows("soft") // case.images
    mult = case.hidden / case.width
    return SoftMoE(case.width, num_slots=slots, num_experts=case.experts, expert_mult=mult)


def _soft_mixture_of_experts(case: Case) -> nn.Module:
    """Its SoftMoE has experts of one linear layer; here they are two of its expert layers with a GELU between."""
    from soft_mixture_of_experts.multi_expert import MultiExpertLayer
    from soft_mixture_of_experts.soft_moe import SoftMoE

    layer = SoftMoE(case.width, case.width, case.experts, slots_per_expert=case.rows("soft") // case.images)
    layer.experts = nn.Sequential(
        MultiExpertLayer(case.width, case.hidden, case.experts),
        nn.GELU(approximate="tanh"),
        MultiExpertLayer(case.hidden, case.width, case.experts),
    )
    return layer


def _st_moe_pytorch(case: Case) -> nn.Module:
    """Top-2 gating, the least it can; its buffers are of one image and its capacity factor is that of the case."""
    from st_moe_pytorch import MoE

    factors = {"capacity_factor_train": case.capacity, "capacity_factor_eval": case.capacity}
    return MoE(case.width, num_experts=case.experts, expert_hidden_mult=case.hidden / case.width, **factors)


def _st_moe_rows(case: Case) -> int:
    return case.images * max(4, int(case.tokens * case.capacity / case.experts))


def _transformers(case: Case) -> nn.Module:
    """Mixtral's block with grouped_mm; it drops no token, so its experts get uneven shares."""
    from transformers.models.mixtral.configuration_mixtral import MixtralConfig
    from transformers.models.mixtral.modeling_mixtral import MixtralSparseMoeBlock

    config = MixtralConfig(
        hidden_size=case.width,
        intermediate_size=2 * case.hidden // 3 // 8 * 8,  # grouped_mm needs rows of whole 16 bytes
        num_local_experts=case.experts,
        num_experts_per_tok=case.choices,
    )
    config._experts_implementation = "grouped_mm"
    block = MixtralSparseMoeBlock(config)
    for parameter in block.parameters():
        nn.init.normal_(parameter, std=config.initializer_range)
    return block


PEERS = (
    Peer("soft-moe-pytorch", _soft_moe_pytorch, lambda case: case.rows("soft")),
    Peer("soft-mixture-of-experts", _soft_mixture_of_experts, lambda case: case.rows("soft")),
    Peer("st-moe-pytorch", _st_moe_pytorch, _st_moe_rows, lambda output: tuple(output[:2])),
    Peer(
        "transformers",
        _transformers,
        lambda case: round(case.images * case.tokens * case.choices / case.experts),
    ),
)

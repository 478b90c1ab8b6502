"""The six routers of "Routers in Vision Mixture of Experts", in plain torch.

    routing = make_router("sinkhorn_ec", dim=768, experts=32, capacity=Capacity(2.0))(x)   # x (G, T, D)
    y = routing.combine(experts(routing.dispatch(x)))                                      # eq. 2

The paper, from front to back, and where each of its ideas lives:

    section 1.2  eq. 2, the layer as a dispatch and a combine tensor   dispatch   Routing, SoftRouting
            3.1  buffer capacity C                                     capacity   slots_per_expert
            2.1  affinity of the softmax, eq. 6                        affinity   softmax
                 Algorithm 1, token choice                             choice     token_choice
            2.2  affinity of balanced transport, eq. 8                 affinity   sinkhorn
            2.3  Algorithm 2, expert choice                            choice     expert_choice
            2.5  affinity of sparse transport, eq. 9                   transport  sparse; more solvers in dual
            2.6  Soft MoE, eq. 10-11                                   soft_moe   soft
              A  importance loss; load loss, eq. 12-15                 losses     importance_loss, load_loss
        2.1-2.6  the six routers by name, made of the above            router     make_router, PRESETS

Beside the paper: ``numerics`` (precision, ties, padding), ``init`` (how a gate starts), ``stats`` (what a routing did),
``balance`` (a bias instead of a loss), ``controls`` (hash and chance), ``words`` (what settings may say).
Names load on first use, so that ``moe_bench.routing.capacity`` can be had without torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from moe_bench.routing.affinity import relu, sigmoid, sinkhorn, softmax
    from moe_bench.routing.capacity import Capacity, slots_per_expert
    from moe_bench.routing.choice import expert_choice, token_choice
    from moe_bench.routing.controls import ControlRouter
    from moe_bench.routing.dispatch import Routing, SoftRouting
    from moe_bench.routing.losses import gshard_loss, importance_loss, load_loss, z_loss
    from moe_bench.routing.router import PRESETS, SparseRouter, make_router
    from moe_bench.routing.soft_moe import SoftRouter, soft
    from moe_bench.routing.transport import sparse

_HOME = {
    "softmax": "affinity",
    "sigmoid": "affinity",
    "relu": "affinity",
    "sinkhorn": "affinity",
    "sparse": "transport",
    "token_choice": "choice",
    "expert_choice": "choice",
    "soft": "soft_moe",
    "importance_loss": "losses",
    "load_loss": "losses",
    "gshard_loss": "losses",
    "z_loss": "losses",
    "slots_per_expert": "capacity",
    "Capacity": "capacity",
    "Routing": "dispatch",
    "SoftRouting": "dispatch",
    "SparseRouter": "router",
    "SoftRouter": "soft_moe",
    "ControlRouter": "controls",
    "PRESETS": "router",
    "make_router": "router",
}

__all__ = [
    "PRESETS",
    "Capacity",
    "ControlRouter",
    "Routing",
    "SoftRouter",
    "SoftRouting",
    "SparseRouter",
    "expert_choice",
    "gshard_loss",
    "importance_loss",
    "load_loss",
    "make_router",
    "relu",
    "sigmoid",
    "sinkhorn",
    "slots_per_expert",
    "soft",
    "softmax",
    "sparse",
    "token_choice",
    "z_loss",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)

"""One scene through each router: what it likes, whom it sends where, what the outputs count.

Dispatch and combine are the tensors of eq. 2 with their slots added up, so that a person can look at them.
N pictures, T tokens of all pictures, E experts, C slots, K choices.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from moe_bench.explain.scene import Scene
from moe_bench.routing import PRESETS, Capacity, Routing, SoftRouter, SoftRouting, SparseRouter


@dataclass(frozen=True)
class Routed:
    """What a router made of all tokens; rows are tokens in the order of the pictures, columns experts."""

    name: str
    affinity: Tensor  # (T, E): who was chosen by; for Soft MoE the logits
    dispatch: Tensor  # (T, E): slots of the expert that hold the token; for Soft MoE its mean weight in the slots
    combine: Tensor  # (T, E): what the outputs of the expert's slots count for the token
    wishes: Tensor  # (T, E) bool: whom the token asked for; nobody asks where experts choose or all is mixed
    slots: int  # of each expert, for all pictures together
    routing: Routing | SoftRouting

    @property
    def soft(self) -> bool:
        return isinstance(self.routing, SoftRouting)

    @property
    def dropped(self) -> Tensor:
        """(T, E) bool: wishes that found the expert full."""
        return self.wishes & (self.dispatch == 0)

    @property
    def uncovered(self) -> Tensor:
        """(T,) bool: tokens that no expert processes."""
        return (self.dispatch == 0).all(-1)


def route(scene: Scene, name: str, capacity: Capacity) -> Routed:
    """The router ``name`` on the scene's tokens with the scene's gate, as it evaluates: without noise.

    Raises ValueError where the capacity leaves an expert without a slot.
    """
    with torch.inference_mode():
        return _soft(scene, capacity) if name == "soft" else _sparse(scene, name, capacity)


def _sparse(scene: Scene, name: str, capacity: Capacity) -> Routed:
    """All pictures are one routing group."""
    dim, experts = scene.gate.shape
    router = SparseRouter(dim, experts, capacity=capacity, **PRESETS[name]).eval()
    router.gate.weight.copy_(scene.gate.T)
    routing: Routing = router(scene.tokens.flatten(0, 1).unsqueeze(0))
    dispatch, combine = (tensor[0] for tensor in routing.tensors())  # (T, E, C)
    affinity = routing.affinity[0]
    wishes = torch.zeros_like(affinity, dtype=torch.bool)
    if router.choice == "token":
        wishes = wishes.scatter(-1, affinity.sort(dim=-1, descending=True, stable=True).indices[:, : router.k], True)
    return Routed(name, affinity, dispatch.sum(-1), combine.sum(-1), wishes, dispatch.shape[-1], routing)


def _soft(scene: Scene, capacity: Capacity) -> Routed:
    """Each picture is a group. Eq. 10 as printed, every slot of an expert with the expert's direction in the gate."""
    pictures, tokens, dim = scene.tokens.shape
    experts = scene.gate.shape[1]
    router = SoftRouter(dim, experts, tokens=tokens, capacity=capacity, normalize=False).eval()
    router.slots.copy_(scene.gate.unsqueeze(-1).expand_as(router.slots))
    routing = router(scene.tokens)
    dispatch, combine = (tensor.flatten(0, 1) for tensor in routing.tensors())
    nobody = torch.zeros(pictures * tokens, experts, dtype=torch.bool)
    slots = pictures * dispatch.shape[-1]
    return Routed("soft", scene.logits, dispatch.mean(-1), combine.sum(-1), nobody, slots, routing)

"""One MoE layer: equation 2 as route → dispatch → experts → combine.

Axis letters: B images, N tokens of an image, G routing groups, T tokens of a group, E experts, C slots, D width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moe_bench.errors import ConfigError
from moe_bench.model.experts import Experts
from moe_bench.routing import Capacity, Routing, SoftRouter, SoftRouting, make_router


class MoE(nn.Module):
    """An MLP layer with many experts of which each token uses few. (B, N, D) → (B, N, D).

    Tokens of ``group_images`` neighbouring images compete for the same slots; Soft MoE always routes one image alone.
    A batch that does not fill its last group is padded with masked tokens, which take no slot: capacity is that of a
    full group. A token that no expert processed leaves as zeros, and only a residual around the layer carries it.

    Args:
        dim: width D.
        hidden: hidden width of each expert.
        router: the name of a router, or a module that maps (G, T, D) tokens and a (G, T) mask to a routing.
        experts: E.
        capacity: capacity factor c, or how slots are counted in full. Read only where ``router`` is a name.
        group_images: images a routing group.
        tokens: tokens of one image; needed for ``router="soft"`` by name, whose slots are counted from it.
        dropout: inside the experts.
        identical_experts: all experts start as copies of one draw.
        bf16_dispatch: round tokens and the experts' outputs to bfloat16 where they enter dispatch and combine, as the
            authors' code can. Routing, experts and weighted sums keep their precision; gradients are rounded alike.

    Raises:
        ValueError: ``group_images`` is below 1, or ``tokens`` is missing for Soft MoE.
    """

    def __init__(
        self,
        dim: int,
        hidden: int,
        router: str | nn.Module,
        experts: int = 32,
        *,
        capacity: float | Capacity = 1.0,
        group_images: int = 8,
        tokens: int | None = None,
        dropout: float = 0.0,
        identical_experts: bool = True,
        bf16_dispatch: bool = False,
    ) -> None:
        super().__init__()
        if group_images < 1:
            raise ValueError(f"group_images is {group_images}; a routing group has at least 1 image")
        if isinstance(router, str):
            capacity = capacity if isinstance(capacity, Capacity) else Capacity(capacity)
            router = make_router(router, dim, experts, capacity=capacity, tokens=tokens)
        self.router = router
        self.bf16_dispatch = bf16_dispatch
        self.group_images = 1 if isinstance(router, SoftRouter) else group_images
        self.experts = Experts(experts, dim, hidden, dropout=dropout, identical=identical_experts)

    def forward(self, x: Tensor, valid: Tensor | None = None) -> Tensor:
        """``x`` (B, N, D), ``valid`` (B,) bool or None if every image is real → (B, N, D)."""
        return self.forward_with_routing(x, valid)[0]

    def forward_with_routing(self, x: Tensor, valid: Tensor | None = None) -> tuple[Tensor, Routing | SoftRouting]:
        """As ``forward``, and the routing of all groups with its losses and statistics."""
        groups, mask = self._group(x, valid)
        routing = self.router(groups, mask)
        if not isinstance(routing, Routing | SoftRouting):
            gave = f"{type(self.router).__name__} gave a {type(routing).__name__}"
            raise ConfigError(f"{gave}; a router returns a Routing, as token_choice, expert_choice and soft make it")
        y = routing.combine(self._sent(self.experts(routing.dispatch(self._sent(groups)))))
        return y.reshape(-1, *x.shape[1:])[: x.shape[0]], routing

    def _sent(self, rows: Tensor) -> Tensor:
        """What arrives of ``rows``: the same dtype, with the digits of bfloat16 if ``bf16_dispatch``."""
        return rows.bfloat16().to(rows.dtype) if self.bf16_dispatch else rows

    def _group(self, x: Tensor, valid: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """(B, N, D) → tokens (G, T, D) and their mask (G, T), None where all are real."""
        images, tokens, dim = x.shape
        missing = -images % self.group_images
        if valid is None and missing:
            valid = torch.ones(images, dtype=torch.bool, device=x.device)
        if missing:
            x = F.pad(x, (0, 0, 0, 0, 0, missing))
        groups = x.reshape(-1, self.group_images * tokens, dim)
        if valid is None:
            return groups, None
        mask = F.pad(valid, (0, missing)).unsqueeze(1).expand(-1, tokens)
        return groups, mask.reshape(groups.shape[:2])

    def extra_repr(self) -> str:
        """Group size for ``print(model)``."""
        return f"group_images={self.group_images}"

"""E expert MLPs as stacked tensors, so that one batched matrix product runs them all: the MLP_r of equation 2.

Axis letters: E experts, N rows an expert gets (groups × slots), D width, H hidden.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from moe_bench.model import pages

BIAS_STD = 1e-6


class Experts(nn.Module):
    """``experts`` MLPs of D → H → D with tanh-approximated GELU; dropout after the activation and after the output.

    Every parameter takes part in every step, whichever tokens arrive, so an expert without tokens has a gradient of
    zero and never none: data parallelism needs no search for unused parameters.

    With ``identical`` all experts start as copies of one draw (as the V-MoE models did); routing noise and different
    tokens separate them. Otherwise each is drawn by itself.
    """

    def __init__(self, experts: int, dim: int, hidden: int, *, dropout: float = 0.0, identical: bool = True) -> None:
        super().__init__()
        self.identical = identical
        self.w1 = nn.Parameter(torch.empty(experts, dim, hidden))
        self.b1 = nn.Parameter(torch.empty(experts, hidden))
        self.w2 = nn.Parameter(torch.empty(experts, hidden, dim))
        self.b2 = nn.Parameter(torch.empty(experts, dim))
        self.dropout = nn.Dropout(dropout)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Xavier uniform kernels, biases from N(0, 1e-6); copies are written in place and need no second tensor."""
        _, dim, hidden = self.w1.shape
        bound = math.sqrt(6 / (dim + hidden))
        for parameter in (self.w1, self.b1, self.w2, self.b2):
            drawn = parameter[:1] if self.identical else parameter
            if parameter.dim() == 3:
                drawn.uniform_(-bound, bound)
            else:
                drawn.normal_(std=BIAS_STD)
            if self.identical:
                parameter[1:] = drawn

    def forward(self, slots: Tensor) -> Tensor:
        """``slots`` (E, N, D) → (E, N, D): row n of slice r goes through expert r."""
        if self._in_few_pages(slots):
            return _Mlps.apply(_product_dtype(slots), slots, self.w1, self.b1, self.w2, self.b2)
        hidden = torch.baddbmm(self.b1.unsqueeze(1), slots, self.w1)
        hidden = self.dropout(F.gelu(hidden, approximate="tanh"))
        return self.dropout(torch.baddbmm(self.b2.unsqueeze(1), hidden, self.w2))

    def _in_few_pages(self, slots: Tensor) -> bool:
        """Whether to run ``_Mlps``: real tensors of an ordinary CPU, eagerly, and no dropout between the products."""
        if slots.device.type != "cpu" or type(slots) is not Tensor or torch.compiler.is_compiling():
            return False
        dtypes_fit = torch.is_autocast_enabled("cpu") or slots.dtype == self.w1.dtype  # or else torch says so
        return dtypes_fit and not (self.training and self.dropout.p)

    def extra_repr(self) -> str:
        """Sizes for ``print(model)``."""
        experts, dim, hidden = self.w1.shape
        return f"experts={experts}, dim={dim}, hidden={hidden}, identical={self.identical}"


class _Mlps(torch.autograd.Function):
    """``Experts.forward`` with its large tensors in huge pages (see ``pages``), the same to the last digit.

    GELU, where no gradient is wanted, and its gradient overwrite what they are made of. Autocast does not see products
    that write to a given place, so ``dtype`` is what it would run them in.
    """

    @staticmethod
    def forward(ctx: Any, dtype: torch.dtype, slots: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor) -> Tensor:
        ctx.dtypes = [tensor.dtype for tensor in (slots, w1, b1, w2, b2)]
        slots, w1, b1, w2, b2 = (_cast(tensor, dtype) for tensor in (slots, w1, b1, w2, b2))
        before = _product(slots, w1, b1)  # (E, N, H)
        after = pages.empty(before.shape, dtype) if any(ctx.needs_input_grad) else before
        torch.ops.aten.gelu.out(before, approximate="tanh", out=after)
        ctx.save_for_backward(slots, w1, before, after, w2)
        return _product(after, w2, b2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, ...]:
        """``slope`` (E, N, D), of the outputs."""
        slots, w1, before, after, w2 = ctx.saved_tensors
        _, need_slots, need_w1, need_b1, need_w2, need_b2 = ctx.needs_input_grad
        slope_w2 = _product(after.mT, slope) if need_w2 else None
        slope_b2 = slope.sum(1) if need_b2 else None
        hidden = _product(slope, w2.mT)  # (E, N, H), the slope after and then before GELU
        torch.ops.aten.gelu_backward.grad_input(hidden, before, approximate="tanh", grad_input=hidden)
        slope_w1 = _product(slots.mT, hidden) if need_w1 else None
        slope_b1 = hidden.sum(1) if need_b1 else None
        slope_slots = _product(hidden, w1.mT) if need_slots else None
        slopes = (slope_slots, slope_w1, slope_b1, slope_w2, slope_b2)
        return None, *(slope if slope is None else _cast(slope, dtype) for slope, dtype in zip(slopes, ctx.dtypes))


def _product(a: Tensor, b: Tensor, bias: Tensor | None = None) -> Tensor:
    """a·b + bias: (E, N, A), (E, A, B), (E, B) → (E, N, B)."""
    out = pages.empty((*a.shape[:2], b.shape[2]), a.dtype)
    return torch.bmm(a, b, out=out) if bias is None else torch.baddbmm(bias.unsqueeze(1), a, b, out=out)


def _cast(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    return tensor if tensor.dtype == dtype else pages.empty(tensor.shape, dtype).copy_(tensor)


def _product_dtype(x: Tensor) -> torch.dtype:
    """What a product of ``x`` on the CPU runs in: its own dtype, or that of the autocast around it."""
    autocast = torch.is_autocast_enabled("cpu") and x.dtype != torch.float64
    return torch.get_autocast_dtype("cpu") if autocast else x.dtype

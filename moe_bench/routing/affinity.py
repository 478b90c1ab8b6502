"""Who likes whom: a token-expert affinity matrix from the router's logits XW (eq. 6 and eq. 8).

Logits (G, T, E) go in, an affinity of the same shape comes out, float32 (float64 stays) whatever the autocast.
G groups, T tokens, E experts. The paper's third affinity, eq. 9, has a module of its own: ``transport``. Two gates of
other papers and any function of one's own fit in its place.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection

import torch
from torch import Tensor

from moe_bench.errors import ConfigError
from moe_bench.routing.numerics import real_tokens, wide

ITERATIONS = 20
"""Of Sinkhorn, as the authors' code has it."""

REFRESH = 5
"""Every this many Sinkhorn iterations, one is done on logarithms."""


def softmax(logits: Tensor) -> Tensor:
    """Eq. 6: the rows of ``logits`` (G, T, E) as probabilities over experts."""
    return wide(logits).softmax(-1)


def sigmoid(logits: Tensor) -> Tensor:
    """DeepSeek-V3's gates: each of ``logits`` (G, T, E) by itself in (0, 1). Rows keep the sum that they have."""
    return wide(logits).sigmoid()


def relu(logits: Tensor) -> Tensor:
    """ReMoE's gates: ``logits`` (G, T, E) where they are positive, else 0, and a token does not want that expert."""
    return wide(logits).relu()


def sinkhorn(logits: Tensor, iterations: int = ITERATIONS, mask: Tensor | None = None) -> Tensor:
    """Eq. 8: the plan Π (G, T, E) whose rows sum to 1 and whose columns sum to T/E, entropy-regularised with ε = 1.

    As the authors do: exactly ``iterations`` rounds from a row potential of 0, columns first and rows last, so rows
    are exact and columns carry what error is left. Padding (``mask`` False) has no row, and T counts real tokens.
    Differentiable.

    Scaling a kernel exp(logits) is several times cheaper than working on logarithms, but overflows for logits of 88.
    So every REFRESH rounds one is done on logarithms and the potentials f, g are absorbed into a fresh kernel, whose
    rows sum to 1 and whose columns sum to at least 1/E. From there a round scales by a factor between 1/T and T at
    most, so the few until the next refresh stay in range for any finite logits.
    """
    if iterations < 1:
        raise ValueError(f"Sinkhorn needs at least 1 iteration, not {iterations}")
    logits = wide(logits)
    real = real_tokens(logits, mask)  # (G, T, 1)
    share = real.sum(-2, keepdim=True) / logits.shape[-1]  # (G, 1, 1), what each expert gets: T/E
    f = real.log()  # padding stays at -inf and so out of every column
    for done in range(0, iterations, REFRESH):
        g = share.log() - (logits + f).logsumexp(-2, keepdim=True)  # (G, 1, E)
        f = -(logits + g).logsumexp(-1, keepdim=True)  # (G, T, 1)
        kernel = (logits + f + g).exp()
        rows, v = torch.ones_like(f), torch.ones_like(g)
        for _ in range(min(REFRESH, iterations - done) - 1):
            v = share / (kernel * (real / rows)).sum(-2, keepdim=True)
            rows = (kernel * v).sum(-1, keepdim=True)
        f = f - rows.log() + real.log()
    plan = kernel * v / rows
    return plan if mask is None else plan * mask.unsqueeze(-1)


class OwnAffinity:
    """A function of one's own as an affinity: logits (G, T, E) to an affinity (G, T, E), larger for who goes first.

    A function with a parameter ``mask`` also gets (G, T) bool or None, False for padding, which takes no slot anyway.
    """

    def __init__(self, function: Callable[..., Tensor]) -> None:
        self.function = function
        module = getattr(function, "__module__", None) or type(function).__module__
        self.name = f"{module}:{getattr(function, '__qualname__', type(function).__qualname__)}"
        self.takes_mask = "mask" in _parameters(function)

    def __call__(self, logits: Tensor, mask: Tensor | None = None) -> Tensor:
        """
        Raises:
            ConfigError: the function gave something else than a tensor of the shape of its ``logits``.
        """
        affinity = self.function(logits, mask=mask) if self.takes_mask else self.function(logits)
        shape = tuple(affinity.shape) if isinstance(affinity, Tensor) else None
        if shape != logits.shape:
            gave = f"a tensor {shape}" if shape is not None else f"a {type(affinity).__name__}"
            code = getattr(self.function, "__code__", None)
            raise ConfigError(
                f"the affinity {self.name}{f' of {code.co_filename}' if code else ''} gave {gave} for logits "
                f"{tuple(logits.shape)}; it gives one number for each of them: (groups, tokens, experts)"
            )
        return wide(affinity)


def _parameters(function: Callable[..., Tensor]) -> Collection[str]:
    try:
        return inspect.signature(function).parameters
    except ValueError:  # it is not written in Python, as torch.sigmoid
        return ()

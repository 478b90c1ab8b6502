"""What the network is asked to do with a batch: targets, mixup, loss, and whether its first answer is right.

B images, Y classes, L labels an image at most. Labels are class numbers (B, L), filled up with −1.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F


def multi_hot(labels: Tensor, classes: int) -> Tensor:
    """Labels (B, L) padded with −1 → 1.0 where a class is one of the image's labels, else 0.0: (B, Y)."""
    hot = torch.zeros(len(labels), classes + 1, device=labels.device)
    hot.scatter_(1, torch.where(labels < 0, classes, labels), 1.0)  # padding goes to a last column that is cut off
    return hot[:, :classes]


def targets(labels: Tensor, classes: int, loss: str) -> Tensor:
    """What ``loss`` compares logits with (B, Y): multi-hot for "sigmoid", equal shares of the labels for "softmax"."""
    hot = multi_hot(labels, classes)
    return hot if loss == "sigmoid" else hot / hot.sum(1, keepdim=True).clamp_min(1)


def losses(logits: Tensor, target: Tensor, loss: str) -> Tensor:
    """Loss of each image (B,), in float32.

    "sigmoid": binary cross-entropies summed over the classes (not averaged), as V-MoE pre-trains. "softmax":
    cross-entropy.
    """
    logits = logits.float()
    if loss == "sigmoid":
        return F.binary_cross_entropy_with_logits(logits, target, reduction="none").sum(1)
    return -(target * F.log_softmax(logits, dim=1)).sum(1)


def correct(logits: Tensor, labels: Tensor) -> Tensor:
    """Whether the highest logit is of one of the image's labels: bool (B,). Its mean is prec@1."""
    return (labels == logits.argmax(1, keepdim=True)).any(1)


def mixup_weight(alpha: float, key: tuple[int, ...]) -> float:
    """The share of the own image, in [0.5, 1]: the larger part of a Beta(α, α) draw that depends on ``key`` only."""
    share = np.random.default_rng(key).beta(alpha, alpha)
    return float(max(share, 1 - share))


def mixup(x: Tensor, share: float) -> Tensor:
    """Each row mixed with the row before it, ``share`` its own: for images as for targets."""
    return share * x + (1 - share) * x.roll(1, dims=0)

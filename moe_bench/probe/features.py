"""From pictures to the features that the probe regresses on. N pictures, B a batch, D features."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

Batch = dict[str, Tensor]
Encoder = Callable[[Tensor, Tensor], Tensor]  # images (B, 3, S, S), valid (B,) → features (B, D)

FLOOR_SIZE = 32  # pixels a side that the raw-pixel floor sees at most


def extract(
    encode: Encoder,
    loader: Iterable[Batch],
    device: torch.device | str = "cpu",
    advance: Callable[[], None] = lambda: None,
    collect: Callable[[Tensor], Tensor] = lambda rows: rows,
) -> tuple[Tensor, Tensor, Tensor]:
    """Of the valid pictures: numbers (N,) ascending, features (N, D) float32 and labels (N,), on the CPU.

    ``advance`` is called after each batch. ``collect`` gives the rows of all ranks for those of this one.
    """
    features, labels, numbers = [], [], []
    for batch in loader:
        valid = batch["valid"]
        encoded = encode(batch["image"].to(device), valid.to(device)).float().cpu()
        features.append(encoded[valid])
        labels.append(batch["label"][valid, 0])
        numbers.append(batch["index"][valid])
        advance()
    ascending, order = collect(torch.cat(numbers)).sort()
    return ascending, collect(torch.cat(features))[order], collect(torch.cat(labels))[order]


def pre_logits(model: nn.Module, context: Callable[[], AbstractContextManager[object]] = nullcontext) -> Encoder:
    """The input of the model's head, in evaluation mode; ``context`` is the autocast to compute it in."""

    def encode(images: Tensor, valid: Tensor) -> Tensor:
        with torch.no_grad(), context():
            features: Tensor = model(images, valid=valid, detail=True).pre_logits
        return features

    return encode


def pixels(images: Tensor, valid: Tensor) -> Tensor:
    """The floor: what a regression reaches on the pixels themselves (B, 3·S·S)."""
    return images.flatten(1)

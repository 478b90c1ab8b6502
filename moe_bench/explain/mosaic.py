"""The pixels of the patches that experts like best, read again from the shards."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from moe_bench.data.index import ShardIndex
from moe_bench.data.loader import eval_loader
from moe_bench.explain.seen import Seen, favourites

FAVOURITES = 12  # patches of each expert


def mosaics(
    index: ShardIndex,
    numbers: NDArray[np.int64],
    layers: list[Seen],
    image_size: int,
    patch: int,
    resize: str = "short_side",
    crop: float = 1.0,
) -> list[list[list[Tensor]]]:
    """For each layer and expert the patches (3, P, P) that it likes best. Holds one batch of pictures at a time."""
    wanted = [favourites(seen, FAVOURITES) for seen in layers]
    pictures = sorted({picture for layer in wanted for expert in layer for picture, _ in expert})
    places: dict[int, set[int]] = {picture: set() for picture in pictures}
    for picture, token in (one for layer in wanted for expert in layer for one in expert):
        places[picture].add(token)
    cut: dict[tuple[int, int], Tensor] = {}
    at = iter(pictures)
    across = image_size // patch
    chosen = numbers[pictures]
    loader = eval_loader(index, chosen, image_size=image_size, resize=resize, crop=crop, batch=64, pad_to=1, workers=0)
    for batch in loader:
        for pixels, picture in zip(batch["image"], at):
            for token in places[picture]:
                top, left = token // across * patch, token % across * patch
                cut[picture, token] = pixels[:, top : top + patch, left : left + patch].clone()
    return [[[cut[one] for one in expert] for expert in layer] for layer in wanted]

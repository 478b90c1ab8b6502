"""What all routers are shown: the tokens of a few real pictures, and one gate.

The gate is a trained run's, or made by construction: experts are the clusters of these very tokens. A fresh gate would
teach nothing, as its affinities are all about 1/E.

N pictures, T tokens of a picture, D width, E experts, S pixels a side of a picture, P of a patch.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import torch
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor
from torch.nn import functional as F

from moe_bench.data.index import ShardIndex
from moe_bench.data.loader import eval_loader
from moe_bench.errors import ConfigError
from moe_bench.model import MoE, VisionTransformer
from moe_bench.model.vit import Block
from moe_bench.routing import SparseRouter

IMAGE_SIZE, PATCH = 32, 8  # pixels a side, as model=tiny cuts pictures: 16 tokens
LOGIT_STD = 2.0  # of the constructed gate: decided, yet most tokens have a second choice
PLACE_WIDTH = 64  # of a token's position
SLOWEST = 100  # ratio of a position's shortest and longest wave length


@dataclass(frozen=True)
class Scene:
    """Tokens and a gate, and the pictures that they come from."""

    pictures: Tensor  # (N, 3, S, S) in [-1, 1]
    patch: int  # P
    tokens: Tensor  # (N, T, D); a class token, if any, comes first
    gate: Tensor  # (D, E), so that logits are tokens @ gate
    data: str  # what the pictures are of
    origin: str  # where the gate is from

    @property
    def logits(self) -> Tensor:
        """XW (N·T, E)."""
        return (self.tokens @ self.gate).flatten(0, 1)

    def patches(self) -> list[Tensor | None]:
        """The pixels (3, P, P) that each of the N·T tokens stands for, None for a class token."""
        pixels = _patches(self.pictures, self.patch).unflatten(-1, (3, self.patch, self.patch))  # (N, T, 3, P, P)
        classless = [None] * (self.tokens.shape[1] - pixels.shape[1])
        return [patch for picture in pixels for patch in (*classless, *picture)]


def read_pictures(
    index: ShardIndex, count: int, image_size: int, resize: str = "short_side", crop: float = 1.0
) -> Tensor:
    """``count`` pictures (N, 3, S, S), spread evenly over those of a split. Raises ConfigError if it has fewer."""
    if not 1 <= count <= len(index):
        raise ConfigError(f"--pictures {count}: there are {len(index):,} to choose from; give 1 to {len(index):,}")
    numbers = np.linspace(0, len(index) - 1, count).round().astype(np.int64)
    (batch,) = eval_loader(index, numbers, image_size=image_size, resize=resize, crop=crop, batch=count, workers=0)
    return batch["image"]


def constructed(pictures: Tensor, patch: int, experts: int, data: str) -> Scene:
    """A token is its standardised patch beside its place in the picture; an expert likes what lies in its direction.

    The place is a sine-cosine code of a mean patch's length (root mean square). The E directions are the k-means
    centres of these tokens at unit length, all scaled alike so that logits have the standard deviation LOGIT_STD. An
    expert too many, for want of different tokens, likes nothing: its logits are 0.
    """
    pixels = _patches(pictures, patch)
    pixels = pixels - pixels.mean((0, 1))
    pixels = pixels / pixels.std().clamp_min(1e-6)
    place = _places(pictures.shape[-1] // patch) * (pixels.shape[-1] / (PLACE_WIDTH / 2)) ** 0.5
    tokens = torch.cat([pixels, place.expand(len(pixels), -1, -1)], dim=-1)
    if experts > tokens[..., 0].numel():
        raise ConfigError(f"--experts {experts}: there are only {tokens[..., 0].numel()} tokens; ask for fewer experts")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer kinds of tokens than experts
        found = KMeans(experts, n_init=10, random_state=0).fit(tokens.flatten(0, 1).numpy())
    kinds, first = np.unique(found.labels_, return_index=True)
    centres = torch.from_numpy(found.cluster_centers_).float()[kinds[first.argsort()]]  # as their tokens come
    gate = F.normalize(torch.cat([centres, centres.new_zeros(experts - len(kinds), centres.shape[-1])]), dim=-1).T
    gate = gate * (LOGIT_STD / (tokens @ gate).std().clamp_min(1e-6))
    return Scene(pictures, patch, tokens, gate, data, "by construction: the k-means directions of these tokens")


def trained(model: VisionTransformer, pictures: Tensor, patch: int, data: str, run: str) -> Scene:
    """The tokens that enter the first MoE layer of a run, and that layer's gate. Raises ConfigError if it has none."""
    number, block = next(((n, b) for n, b in enumerate(model.blocks) if isinstance(b.mlp, MoE)), (0, None))
    if not isinstance(block, Block) or not isinstance(block.mlp, MoE) or not isinstance(block.mlp.router, SparseRouter):
        raise ConfigError(
            f"--run {run} has no gate to show: the run must be of a router with one logit a token and expert. "
            "Choose another run, or leave --run out for a gate by construction."
        )
    gate = block.mlp.router.gate.weight.detach().T
    seen: list[Tensor] = []
    block.norm2.register_forward_hook(lambda _module, _entered, left: seen.append(left))
    with torch.inference_mode():
        model.eval()(pictures)
    return Scene(pictures, patch, seen[0], gate, data, f"of block {number} of {run}")


def _patches(pictures: Tensor, patch: int) -> Tensor:
    """(N, 3, S, S) → (N, T, 3·P·P), row by row."""
    return F.unfold(pictures, patch, stride=patch).mT


def _places(side: int) -> Tensor:
    """A code (side², PLACE_WIDTH) for each row and column of a grid, of length √(PLACE_WIDTH / 2)."""
    waves = SLOWEST ** -(torch.arange(PLACE_WIDTH // 4) / (PLACE_WIDTH // 4))
    row, column = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    angles = [place.reshape(-1, 1) * waves for place in (row, column)]
    return torch.cat([wave(angle) for angle in angles for wave in (torch.sin, torch.cos)], dim=-1)

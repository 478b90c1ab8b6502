"""Weights of one model as the beginning of another: at another resolution, with another head, with experts for MLPs.

Letters: N tokens of an image, S patches a side, E experts, D width, H hidden.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from moe_bench.errors import CheckpointError
from moe_bench.model.vit import VisionTransformer

HEAD = ("head.weight", "head.bias")
POSITIONS = "pos_embed"
EXPERTS = re.compile(r"(blocks\.\d+\.mlp)\.experts\.([wb])([12])")
ROUTER = re.compile(r"blocks\.\d+\.mlp\.router\..+")
PLACES = re.compile(r"blocks\.\d+\.mlp\.router\.table")
"""What a control router draws for each place in an image; drawn anew where there are others."""


@dataclass(frozen=True)
class Transfer:
    """What became of each tensor of a model, by name."""

    copied: Sequence[str]
    upcycled: Sequence[str]  # experts that began as copies of an MLP
    drawn: Sequence[str]  # new
    grids: tuple[int, int]  # S of the positions, before and after

    def __str__(self) -> str:
        before, after = self.grids
        told = [f"{len(self.copied)} tensors copied"]
        if before != after:
            told.append(f"positions interpolated from {before}×{before} to {after}×{after}")
        if self.upcycled:
            told.append(f"{len(self.upcycled)} of experts as copies of MLPs")
        if self.drawn:
            told.append(f"{len(self.drawn)} new ({', '.join(dict.fromkeys(map(_kind, self.drawn)))})")
        return ", ".join(told)


@torch.no_grad()
def transfer(model: VisionTransformer, weights: Mapping[str, Tensor], *, upcycle: bool, keep_head: bool) -> Transfer:
    """Begin with ``weights`` in place of what ``model`` drew, and say what became of each tensor.

    Positions of another grid are interpolated. With ``upcycle`` every expert is a copy of the MLP in its block, and
    routers stay as drawn. The head stays as drawn unless ``keep_head``.

    Raises:
        CheckpointError: a tensor of either side has no counterpart, or another shape; ``model`` is then as before.
    """
    targets = model.state_dict()
    drawn = [name for name in targets if _is_drawn(name, targets, weights, upcycle, keep_head)]
    sources = {name: _source(name) if upcycle else name for name in targets if name not in drawn}
    _refuse_unmatched(sources, weights, drawn)
    class_tokens = int(model.cls_token is not None)
    found = {name: _fitted(weights[source], targets[name], class_tokens) for name, source in sources.items()}
    _refuse_shapes(targets, found)
    for name, value in found.items():
        targets[name].copy_(value)
    upcycled = [name for name, source in sources.items() if source != name]
    grids = (_side(weights[POSITIONS], class_tokens), _side(targets[POSITIONS], class_tokens))
    return Transfer([name for name in found if name not in upcycled], upcycled, drawn, grids)


def interpolated(positions: Tensor, tokens: int, class_tokens: int) -> Tensor:
    """Positions (1, N, D) of a square grid for ``tokens`` of another: corner on corner, linear between; class token
    copied.

    As the reference's ``vit_zoom`` (scipy's zoom of order 1).
    """
    before, after = _side(positions, class_tokens), math.isqrt(tokens - class_tokens)
    grid = positions[:, class_tokens:].unflatten(1, (before, before)).permute(0, 3, 1, 2)  # (1, D, S, S)
    zoomed = F.interpolate(grid, (after, after), mode="bilinear", align_corners=True)
    return torch.cat([positions[:, :class_tokens], zoomed.flatten(2).mT], dim=1)


def _is_drawn(
    name: str, targets: Mapping[str, Tensor], weights: Mapping[str, Tensor], upcycle: bool, keep_head: bool
) -> bool:
    if name in HEAD:
        return not keep_head
    other_places = PLACES.fullmatch(name) and name in weights and weights[name].shape != targets[name].shape
    return bool(other_places or (upcycle and ROUTER.fullmatch(name)))


def _source(name: str) -> str:
    """What of a dense model an expert's tensor is made from; any other from the one of its name."""
    match = EXPERTS.fullmatch(name)
    return f"{match[1]}.fc{match[3]}.{'weight' if match[2] == 'w' else 'bias'}" if match else name


def _fitted(value: Tensor, target: Tensor, class_tokens: int) -> Tensor:
    """``value`` in the shape of ``target``, where there is a way; else as it is."""
    if value.dim() == target.dim() - 1:  # (H, D) of an MLP → (E, D, H), and (H,) → (E, H)
        return value.mT.expand(len(target), -1, -1) if value.dim() == 2 else value.expand(len(target), -1)
    if value.dim() == 3 and len(value) == len(target) == 1 and value.shape[1] != target.shape[1]:
        return interpolated(value, target.shape[1], class_tokens)
    return value


def _side(positions: Tensor, class_tokens: int) -> int:
    """S of positions (1, N, D)."""
    patches = positions.shape[1] - class_tokens
    side = math.isqrt(patches)
    if side * side != patches:
        raise CheckpointError(f"the weights have {patches} positions beside the class token's, which are no square")
    return side


def _refuse_unmatched(sources: Mapping[str, str], weights: Mapping[str, Tensor], drawn: Sequence[str]) -> None:
    missing = [f"{name}: not among the weights" for name, source in sources.items() if source not in weights]
    unused = [f"{name}: not in the model" for name in weights if name not in {*sources.values(), *drawn}]
    _refuse([*missing, *unused])


def _refuse_shapes(targets: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> None:
    shapes = {name: (tuple(value.shape), tuple(targets[name].shape)) for name, value in found.items()}
    _refuse([f"{name}: {have}, the model has {want}" for name, (have, want) in shapes.items() if have != want])


def _refuse(wrong: Sequence[str]) -> None:
    if not wrong:
        return
    more = [f"  … and {len(wrong) - 5} more"] if len(wrong) > 5 else []
    about_head = any(line.startswith(HEAD) for line in wrong)
    remedy = ["init.head=new begins with a new head."] if about_head else []
    first = f"the weights do not fit the model, in {len(wrong)} tensors; nothing was taken:"
    raise CheckpointError("\n".join([first, *(f"  {line}" for line in wrong[:5]), *more, *remedy]))


def _kind(name: str) -> str:
    """What a name is part of, without the number of its block."""
    return "head" if name in HEAD else "routers" if ROUTER.fullmatch(name) else name

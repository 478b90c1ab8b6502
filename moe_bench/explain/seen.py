"""What a trained model's routers do with many pictures: counted for all of them, kept token by token for a few.

Pictures are routed as validation does it, in groups of neighbours and without noise.
N pictures, B of a batch, T tokens of a picture, E experts, C slots of a group.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from moe_bench.data.bad import Tolerance
from moe_bench.data.index import ShardIndex
from moe_bench.data.loader import eval_loader
from moe_bench.model import MoE, VisionTransformer
from moe_bench.routing import Routing, SoftRouting
from moe_bench.routing.stats import Tally

BATCH = 64  # pictures at once, about


@dataclass(frozen=True)
class Sent:
    """Where the tokens of some pictures went. All but ``liking`` as ``routed.Routed`` has it."""

    dispatch: Tensor  # (B, T, E): slots of the expert that hold the token; for Soft MoE its mean weight in the slots
    combine: Tensor  # (B, T, E): what the outputs of the expert's slots count for the token
    liking: Tensor  # (B, T, E): by which slots were given; for Soft MoE the largest weight in a slot of the expert
    dropped: Tensor  # (B, T, E) bool: wishes that found the expert full
    soft: bool

    @classmethod
    def of(cls, parts: Iterable[Tensor], soft: bool) -> Sent:
        """From what ``parts`` gives."""
        dispatch, combine, liking, dropped = parts
        return cls(dispatch, combine, liking, dropped, soft)

    @property
    def parts(self) -> tuple[Tensor, ...]:
        """All that is of single pictures."""
        return self.dispatch, self.combine, self.liking, self.dropped

    @property
    def uncovered(self) -> Tensor:
        """(B, T) bool: tokens that no expert processes."""
        return (self.dispatch == 0).all(-1)


@dataclass(frozen=True)
class Seen:
    """One MoE layer, over N pictures of which some are shown."""

    name: str
    shown: Sent
    load: Tensor  # (N, E) slots of the expert that hold tokens of the picture; Soft MoE: its weight in the outputs
    by_place: Tensor  # (T, E): how much of an expert's slots is of each place
    best: Tensor  # (N, E): the liking of the patch of each picture that the expert likes best, -inf if it takes none
    best_patch: Tensor  # (N, E): which patch that is
    tally: Tally


def look(
    model: VisionTransformer,
    index: ShardIndex,
    numbers: NDArray[np.int64],
    shown: NDArray[np.int64],
    *,
    resize: str = "short_side",
    crop: float = 1.0,
    device: str = "cpu",
    tolerance: Tolerance | None = None,
    advance: Callable[[int], None] = lambda pictures: None,
) -> tuple[Tensor, list[Seen], int]:
    """The pictures (n, 3, S, S) at the places ``shown`` of ``numbers``, each MoE layer over all ``numbers``, and how
    many of these cannot be decoded, which take no slot. Raises DataError for the first if ``tolerance`` is None."""
    model = model.eval().to(device)
    group = max((one.group_images for one in model.modules() if isinstance(one, MoE)), default=1)
    batch = max(1, BATCH // group) * group
    layers: dict[str, list[Sent]] = {}
    counted: dict[str, list[tuple[Tensor, ...]]] = {}
    tallies: dict[str, Tally] = {}
    pictures: list[Tensor] = []
    bad = 0
    loader = eval_loader(
        index,
        numbers,
        image_size=model.image_size,
        resize=resize,
        crop=crop,
        batch=batch,
        pad_to=1,
        workers=0,
        tolerance=tolerance,
    )
    for number, read in enumerate(loader):
        size, valid = len(read["image"]), read["valid"]
        bad += size - int(valid.sum())
        with torch.inference_mode():
            routings = model(read["image"].to(device), valid=valid.to(device), detail=True).routing
        here = torch.from_numpy(shown[(shown >= number * batch) & (shown < number * batch + size)] - number * batch)
        pictures.append(read["image"][here])
        for name, routing in routings.items():
            tally = routing.tally()
            tallies[name] = tallies[name] + tally if name in tallies else tally
            of_batch = sent(routing, size, model.pos_embed.shape[1])
            layers.setdefault(name, []).append(Sent.of((part[here] for part in of_batch.parts), of_batch.soft))
            counted.setdefault(name, []).append(_count(of_batch, valid, classless=int(model.cls_token is not None)))
        advance(size)
    return torch.cat(pictures), [_seen(name, layers[name], counted[name], tallies[name]) for name in layers], bad


def sent(routing: Routing | SoftRouting, pictures: int, tokens: int) -> Sent:
    """A routing of whole pictures, without those that fill up its last group; on the CPU."""
    if isinstance(routing, SoftRouting):
        mixture, share = routing.mixture, routing.share
        parts = (mixture.mean(-1), share.sum(-1), mixture.amax(-1), torch.zeros_like(share[..., 0], dtype=torch.bool))
    else:
        parts = _sparse(routing)
    kept = (part.flatten(0, 1).unflatten(0, (-1, tokens))[:pictures].cpu() for part in parts)
    return Sent.of(kept, isinstance(routing, SoftRouting))


def _sparse(routing: Routing) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The parts of ``Sent``, each (G, T, E); the wishes of a token are for the experts that it likes best."""
    groups, tokens, experts = routing.affinity.shape
    none = routing.weight.new_zeros(experts, groups * tokens + 1)  # the last for empty slots
    dispatch, combine = (
        none.scatter_add(1, routing.token, amount)[:, :-1].T.unflatten(0, (groups, tokens))
        for amount in (torch.ones_like(routing.weight), routing.weight)
    )
    wished = torch.zeros_like(dispatch, dtype=torch.bool)
    if routing.wishes is not None:
        order = routing.affinity.sort(dim=-1, descending=True, stable=True).indices
        rank = torch.arange(experts, device=order.device)
        wished = wished.scatter(-1, order, rank < routing.wishes.unsqueeze(-1))
    return dispatch, combine, routing.affinity, wished & (dispatch == 0)


def _count(of_batch: Sent, valid: Tensor, classless: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Load (B, E), by place (T, E), and the patch of each picture that an expert likes best, with its liking."""
    load = (of_batch.combine if of_batch.soft else of_batch.dispatch).sum(1) * valid.unsqueeze(1)
    taken = of_batch.liking.masked_fill(of_batch.dispatch == 0, -torch.inf)[:, classless:]
    best, patch = taken.max(dim=1)
    return load, of_batch.dispatch.sum(0), best, patch


def _seen(name: str, shown: list[Sent], counted: list[tuple[Tensor, ...]], tally: Tally) -> Seen:
    load, places, best, patch = zip(*counted)
    whole = Sent.of((torch.cat(part) for part in zip(*(one.parts for one in shown))), shown[0].soft)
    return Seen(name, whole, torch.cat(load), torch.stack(places).sum(0), torch.cat(best), torch.cat(patch), tally)


def favourites(seen: Seen, count: int) -> list[list[tuple[int, int]]]:
    """For each expert (picture, patch) of the ``count`` that it likes best, one a picture at most."""
    order = seen.best.sort(dim=0, descending=True, stable=True).indices[:count]  # (count, E)
    return [
        [(int(n), int(seen.best_patch[n, expert])) for n in column if seen.best[n, expert] > -torch.inf]
        for expert, column in enumerate(order.T)
    ]

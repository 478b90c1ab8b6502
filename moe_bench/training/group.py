"""The ranks of a run as one group: joined, agreed, and told apart from a bug when one of them is lost.

What ranks agree on here are numbers on the host, over gloo even where gradients go over NCCL: no device is waited for.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from moe_bench import ranks
from moe_bench.errors import MoeBenchError, RankError, WorkerLostError
from moe_bench.ranks import Alone, Rank
from moe_bench.training.place import Place

T = TypeVar("T")

HEAR_S = 10.0
"""How long to wait for word of who was lost."""

_LOST = re.compile(r"gloo|Connection (closed|reset|refused)|Broken pipe|Socket (Timeout|closed)|NCCL|timed? ?out", re.I)
_WAITED = re.compile(r"timed? ?out|timeout", re.I)


class Group(Alone):
    """All ranks of the run. Every rank must call each method, in the same order."""

    def __init__(self, rank: Rank) -> None:
        self.rank = rank

    def decided(self, decide: Callable[[], T]) -> T:
        box = [decide() if self.rank.rank == 0 else None]
        dist.broadcast_object_list(box, src=0, device=torch.device("cpu"))
        found: T = box[0]  # type: ignore[assignment]
        return found

    def in_turn(self, act: Callable[[], T]) -> T:
        first = self.rank.local_rank == 0
        done = act() if first else None
        self.largest(0)
        return done if first else act()  # type: ignore[return-value]

    def largest(self, number: int) -> int:
        return _reduced(number, dist.ReduceOp.MAX)

    def smallest(self, number: int) -> int:
        return _reduced(number, dist.ReduceOp.MIN)


def _reduced(number: int, how: dist.ReduceOp.RedOpType) -> int:
    value = torch.tensor(number)
    dist.all_reduce(value, how)
    return int(value)


def all_rows(rows: Tensor) -> Tensor:
    """The rows (N, ...) of every rank in the order of ranks, on the host; ``rows`` itself without a group.

    Ranks may have different numbers of rows.
    """
    if not dist.is_initialized():
        return rows
    count = torch.tensor(len(rows))
    counts = [torch.zeros_like(count) for _ in range(dist.get_world_size())]
    dist.all_gather(counts, count)
    most = int(max(counts))
    padded = torch.cat([rows.cpu(), rows.new_zeros(most - len(rows), *rows.shape[1:], device="cpu")])
    gathered = [torch.empty_like(padded) for _ in counts]
    dist.all_gather(gathered, padded)
    return torch.cat([part[: int(size)] for part, size in zip(gathered, counts)])


@contextmanager
def joined(rank: Rank, at: Place, timeout_s: float) -> Iterator[Group]:
    """The group of ``rank`` inside. A rank that waits longer than ``timeout_s`` for another one gives up.

    Raises:
        RankError: another rank ended the run, with its message and exit code.
        WorkerLostError: another rank was lost, and nobody knows why.
    """
    gpu = at.accelerator == "gpu"
    if gpu:
        torch.cuda.set_device(rank.local_rank)
    elif "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, torch.get_num_threads() // at.devices))
    os.environ |= {
        "RANK": str(rank.rank),
        "WORLD_SIZE": str(rank.world),
        "LOCAL_RANK": str(rank.local_rank),
        "NODE_RANK": str(rank.node_rank),
        "MASTER_ADDR": rank.address,
        "MASTER_PORT": str(rank.port),
    }
    try:
        backend = "cpu:gloo,cuda:nccl" if gpu else "gloo"
        dist.init_process_group(backend, timeout=timedelta(seconds=timeout_s))
        ranks.met_others()
        group = Group(rank)
        yield group
        group.largest(0)  # gloo aborts where one rank leaves while another still talks
        dist.destroy_process_group()
    except Exception as error:
        if (loss := explained(error, rank, timeout_s)) is None:
            raise
        raise loss from error


def explained(error: Exception, rank: Rank, timeout_s: float) -> MoeBenchError | None:
    """Who was lost, where that is what ``error`` means; else None."""
    if isinstance(error, MoeBenchError) or not _is_loss(error):
        return None
    if (line := ranks.line()) is not None:
        if _WAITED.search(str(error)):
            line.tell(waited_s=timeout_s)
        if lost := line.who_was_lost(HEAR_S):
            return RankError(lost["message"], lost["code"])
    elif silent := _silent(rank):
        return _of_silence(silent, rank, timeout_s if _WAITED.search(str(error)) else None)
    told = str(error).strip().split("\n", maxsplit=1)[0]
    return WorkerLostError(f"rank {rank.rank} of {rank.world} lost touch with another one: {told}. {_ADVICE}")


_ADVICE = "The same command again goes on from the last checkpoint."


def _silent(rank: Rank) -> list[int]:
    """The ranks that do not answer a roll call of those that have lost touch; none where it cannot be held.

    The store where the ranks met still is there, though no other collective works any more: it belongs to torchrun, or
    to the first rank's process, which may be stuck but has a thread for it.
    """
    names = [f"moe-bench/lost-touch/{number}" for number in range(rank.world)]
    until = time.monotonic() + HEAR_S
    try:
        store = dist.distributed_c10d._get_default_store()
        store.set(names[rank.rank], "")
        while not store.check(names) and time.monotonic() < until:
            time.sleep(0.1)
        return [number for number, name in enumerate(names) if not store.check([name])]
    except (RuntimeError, ValueError):  # the process that kept it is gone, or the ranks never met
        return []


def _of_silence(silent: list[int], rank: Rank, waited_s: float | None) -> WorkerLostError:
    """Told by the first of the ranks that are left."""
    who = f"rank{'s' * (len(silent) > 1)} {', '.join(map(str, silent))} of {rank.world}"
    what = "gone" if waited_s is None else f"stuck: the others waited {waited_s:.0f} s (runtime.timeout_s)"
    error = WorkerLostError(f"{who} {'are' if len(silent) > 1 else 'is'} {what}. {_ADVICE}")
    error.everywhere = rank.rank != min(set(range(rank.world)) - set(silent))
    return error


def _is_loss(error: Exception) -> bool:
    return isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and bool(_LOST.search(str(error))))

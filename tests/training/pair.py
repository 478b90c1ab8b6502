"""Two ranks or more on this machine, as processes over gloo."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import multiprocessing

from moe_bench.ranks import Rank, depart
from moe_bench.training.group import Group, joined
from moe_bench.training.place import resolve

RANKS = 2


def on_ranks(job: Callable[..., Any], folder: Path, *args: Any, ranks: int = RANKS) -> list[Any]:
    """What ``job(group, folder, *args)`` returns on each rank: tensors and plain containers. ``job`` is importable."""
    folder.mkdir(exist_ok=True)
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    multiprocessing.spawn(_work, (ranks, port, job, folder, args), nprocs=ranks)
    return [torch.load(folder / f"returned-{rank}.pt", weights_only=False) for rank in range(ranks)]


def _work(rank: int, ranks: int, port: int, job: Callable[..., Any], folder: Path, args: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    with joined(Rank(rank, rank, 0, ranks, port=port), resolve("cpu", ranks), timeout_s=60) as group:
        assert isinstance(group, Group)
        torch.save(job(group, folder, *args), folder / f"returned-{rank}.pt")
    depart(0)

"""Which of a run's processes this one is, and its line to the process that started it. No torch.

A run on N devices is N processes, its ranks, in three ways:

    moe-bench runtime.devices=N           starts them itself and watches over them (launch/ranks.py)
    torchrun --nproc-per-node N -m moe_bench ...
    srun --ntasks-per-node N moe-bench ...

The line exists in the first way only. It carries JSON objects, one a line: down, signals and the loss of another rank;
up, how far a rank is and how it ended. It tells each side when the other is gone.
"""

from __future__ import annotations

import atexit
import json
import os
import re
import socket
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

from moe_bench.errors import ConfigError, WorkerLostError

T = TypeVar("T")

LINE_VARIABLE = "MOE_BENCH_LINE"
"""Environment variable: the file descriptor of a rank's end of the line."""


@dataclass(frozen=True)
class Rank:
    """One process of a run: its number among ``world``, and among those of its machine."""

    rank: int = 0
    local_rank: int = 0
    node_rank: int = 0
    world: int = 1
    address: str = "127.0.0.1"  # where the ranks meet
    port: int = 29500


class Alone:
    """What a process asks its group, where it is the whole group. See training/group.py for many."""

    rank = Rank()

    def decided(self, decide: Callable[[], T]) -> T:
        """What the first rank decides, on every rank."""
        return decide()

    def in_turn(self, act: Callable[[], T]) -> T:
        """What every rank does for itself, the first of each machine before the others: it fills caches."""
        return act()

    def largest(self, number: int) -> int:
        """The largest of all ranks' numbers."""
        return number

    def smallest(self, number: int) -> int:
        """The smallest of all ranks' numbers."""
        return number


def find_rank(devices: int, nodes: int, environ: Mapping[str, str] | None = None) -> Rank | None:
    """This process's place among ``devices`` × ``nodes``; None if nobody has started the ranks yet.

    Raises:
        ConfigError: a launcher started another number of processes than the settings say, or several machines are asked
            for and no launcher is there.
    """
    env = os.environ if environ is None else environ
    world = devices * nodes
    if "WORLD_SIZE" in env and "RANK" in env:
        return _of_torchrun(env, devices, nodes)
    if processes(env) > 1:
        return _of_slurm(env, devices, nodes)
    if nodes > 1:
        raise _refusal(
            f"runtime.nodes={nodes}: nothing here starts processes on other machines. Start moe-bench with "
            f"`srun --nodes {nodes} --ntasks-per-node {devices} moe-bench …`, or on each machine with "
            f"`torchrun --nnodes {nodes} --nproc-per-node {devices} --rdzv-backend c10d --rdzv-endpoint HOST:PORT "
            "-m moe_bench …`."
        )
    return Rank() if world == 1 else None


def refuse_to_repeat() -> None:
    """Raise ConfigError if this is one of several processes, each of which would do a sweep as a whole."""
    if (started := processes()) > 1:
        raise _refusal(
            f"{started} processes were started to do the same sweep. Start it once: not by torchrun, and under SLURM "
            "as one task, or with hydra/launcher=submitit_slurm where you log in. Each run gets processes of its own."
        )


def _refusal(text: str) -> ConfigError:
    error = ConfigError(text)
    error.everywhere = True
    return error


def processes(environ: Mapping[str, str] | None = None) -> int:
    """How many processes torchrun or srun started with this one; 1 where neither did."""
    env = os.environ if environ is None else environ
    if "WORLD_SIZE" in env and "RANK" in env:
        return int(env["WORLD_SIZE"])
    return int(env.get("SLURM_NTASKS", "1")) if "SLURM_STEP_ID" in env else 1  # a batch script's are not started yet


def _of_torchrun(env: Mapping[str, str], devices: int, nodes: int) -> Rank:
    started = int(env["WORLD_SIZE"])
    local = int(env.get("LOCAL_WORLD_SIZE", devices))
    if (started, local) != (devices * nodes, devices):
        raise _refusal(
            f"{started} processes were started, {local} on this machine, but runtime.devices={devices} × "
            f"runtime.nodes={nodes}. Type runtime.devices={local} runtime.nodes={started // local}."
        )
    rank = int(env["RANK"])
    return Rank(
        rank,
        int(env.get("LOCAL_RANK", rank % devices)),
        rank // devices,
        started,
        env.get("MASTER_ADDR", "127.0.0.1"),
        int(env.get("MASTER_PORT", "29500")),
    )


def _of_slurm(env: Mapping[str, str], devices: int, nodes: int) -> Rank:
    started, on = int(env["SLURM_NTASKS"]), int(env.get("SLURM_NNODES", "1"))
    if (started, on) != (devices * nodes, nodes):
        raise _refusal(
            f"srun started {started} tasks on {on} machine(s), but runtime.devices={devices} × runtime.nodes={nodes}. "
            f"Type runtime.devices={started // on} runtime.nodes={on}, or srun --nodes {nodes} "
            f"--ntasks-per-node {devices}."
        )
    job = int(env.get("SLURM_JOB_ID", "0"))
    return Rank(
        int(env["SLURM_PROCID"]),
        int(env["SLURM_LOCALID"]),
        int(env.get("SLURM_NODEID", "0")),
        started,
        env.get("MASTER_ADDR") or _first_host(env.get("SLURM_STEP_NODELIST", env.get("SLURM_NODELIST", "127.0.0.1"))),
        int(env.get("MASTER_PORT", 15000 + job % 10000)),  # the same number on every machine of the job
    )


def _first_host(nodes: str) -> str:
    """The first of SLURM's list of hosts: "node[07-09,12]" → "node07"."""
    found = re.match(r"([^,\[]+)(?:\[(\w+)[^\]]*\]([^,]*))?", nodes)
    assert found is not None, nodes
    return "".join(part or "" for part in found.groups())


def leave(number: int) -> None:
    """End at once by a signal: what a rank does before it has something to save."""
    os._exit(128 + number)


_met_others = False


def met_others() -> None:
    """This process is in a process group now: it has to end by ``depart``."""
    global _met_others
    _met_others = True


def depart(code: int) -> None:
    """In a process that was in a group, do all that is registered for its exit and end it; else nothing.

    Threads of gloo outlive their group. One of them that lets go of its last tensor while the interpreter cleans up
    would abort the process, although all is done.
    """
    if _met_others:
        atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):  # nobody reads it any more
                stream.flush()
        os._exit(code)


class Line:
    """A rank's end of the line. A thread of its own listens, because the rank may be waiting for another one."""

    def __init__(self, descriptor: int) -> None:
        self._socket = socket.socket(fileno=descriptor)
        self._sending = threading.Lock()
        self._lost: dict[str, Any] | None = None
        self._heard = threading.Event()
        self.on_signal: Callable[[int], None] = leave

    def listen(self) -> None:
        threading.Thread(target=self._listen, name="moe-bench line", daemon=True).start()

    def tell(self, **facts: Any) -> None:
        """Send ``facts`` up."""
        with self._sending, suppress(OSError):  # where nobody is there any more, _listen ends this process
            self._socket.sendall((json.dumps(facts) + "\n").encode())

    def who_was_lost(self, wait_s: float) -> dict[str, Any] | None:
        """What the other side says of the rank that failed first: "code", "message"; None if it does not know."""
        self._heard.wait(wait_s)
        return self._lost

    def _listen(self) -> None:
        with suppress(OSError), self._socket.makefile("r", encoding="utf-8") as heard:
            for text in heard:
                self._hear(json.loads(text))
        os._exit(WorkerLostError.exit_code)  # who started us is gone: nobody would end us when another rank is lost

    def _hear(self, facts: dict[str, Any]) -> None:
        if "signal" in facts:
            self.on_signal(int(facts["signal"]))
        if "lost" in facts:
            self._lost = facts["lost"]
            self._heard.set()


_line: Line | None = None


def line() -> Line | None:
    """This process's line, opened on first use; None where it was not started by us."""
    global _line
    if _line is None and LINE_VARIABLE in os.environ:
        _line = Line(int(os.environ.pop(LINE_VARIABLE)))  # popped: not for processes that this one starts
        _line.listen()
    return _line

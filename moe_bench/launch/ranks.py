"""The ranks of one run on this machine: started, listened to, and ended together.

Each rank is a fresh ``python -m moe_bench`` with the same words and a line to this process (see moe_bench/ranks.py).
This process trains nothing and loads no torch, so it is there whatever happens to a rank: it tells the others who was
lost, ends those that do not end by themselves, tells the reason once, and returns the exit code of the rank that failed
first. The first SIGINT or SIGTERM makes the ranks save and stop at a step boundary, the second ends them at once.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from moe_bench.errors import RankError, RunInUseError, WorkerLostError
from moe_bench.launch.python import this_program
from moe_bench.monitor.folder import RunFolder
from moe_bench.ranks import LINE_VARIABLE

SILENT_S = 10.0
"""How long a rank may take to notice that another one was lost, before it is killed."""
ENDING_S = 45.0
"""How long a rank may take to end after it noticed: W&B is given half a minute."""
POLL_S = 0.1
LOST = WorkerLostError.exit_code


class Member:
    """One rank, as seen from here."""

    def __init__(self, rank: int, command: Sequence[str], environment: dict[str, str]) -> None:
        self.rank = rank
        self.at = self.step = 0  # how far it is: a number that grows within a step too, and the step
        self.end: dict[str, Any] | None = None  # how it says that it ends: "end", an exit code, and "message"
        self.waited_s: float | None = None  # it has given up after waiting so long for another rank
        self._heard = b""
        self.line, theirs = socket.socketpair()
        with theirs:
            variables = {**environment, "RANK": str(rank), "LOCAL_RANK": str(rank), LINE_VARIABLE: str(theirs.fileno())}
            self.process = subprocess.Popen(
                command, env=variables, stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()]
            )

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    @property
    def name(self) -> str:
        return f"rank {self.rank} (process {self.process.pid})"

    def send(self, **facts: Any) -> None:
        with suppress(OSError):
            self.line.sendall((json.dumps(facts) + "\n").encode())

    def hear(self) -> bool:
        """Read what is there; False at the end of the line."""
        try:
            data = self.line.recv(1 << 16)
        except OSError:
            data = b""
        *lines, self._heard = (self._heard + data).split(b"\n")
        for facts in map(json.loads, lines):
            if "end" in facts:
                self.end = facts
            self.at, self.step = facts.get("at", self.at), facts.get("step", self.step)
            self.waited_s = facts.get("waited_s", self.waited_s)
        return bool(data)


@dataclass(frozen=True)
class Cause:
    """What ended the run: the first rank that failed, in words and as an exit code."""

    code: int
    message: str


def run(words: Sequence[str], devices: int, folder: Path) -> int:
    """Train on ``devices`` ranks with the command line ``words``; returns 0.

    Raises:
        RankError: with the message and the exit code of the rank that failed first.
    """
    world = {"WORLD_SIZE": str(devices), "LOCAL_WORLD_SIZE": str(devices), "NODE_RANK": "0"}
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port())}
    command, environment = [*this_program(), *words], {**os.environ, **world, **meeting}
    members: list[Member] = []
    with _relayed_signals(members):
        try:
            for rank in range(devices):
                members.append(Member(rank, command, environment))
            cause = _watch(members)
        finally:
            _kill(members)
    if cause is None:
        return 0
    with suppress(RunInUseError):  # by someone who was quicker
        RunFolder(folder).settle(members[0].process.pid, cause.code, cause.message)
    raise RankError(cause.message, cause.code)


def _watch(members: Sequence[Member]) -> Cause | None:
    """Until all ranks have ended; what the first failure was, None if there was none."""
    cause, since = None, 0.0
    with selectors.DefaultSelector() as selector:
        for member in members:
            selector.register(member.line, selectors.EVENT_READ, member)
        while any(member.alive for member in members):
            for key, _ in selector.select(POLL_S):
                if not key.data.hear():
                    selector.unregister(key.fileobj)
            if cause is None and (cause := _cause(members)) is not None:
                since = time.monotonic()
                for member in members:
                    member.send(lost={"code": cause.code, "message": cause.message})
            elif cause is not None:
                _hurry(members, time.monotonic() - since)
        for key in list(selector.get_map().values()):  # last words
            while key.data.hear():
                pass
    return cause or _cause(members)


def _cause(members: Sequence[Member]) -> Cause | None:
    """The first failure, if there is one by now: a rank's own words, its death, or that the others waited in vain."""
    for member in members:
        if member.end is not None and member.end["end"] not in (0, LOST):
            return Cause(member.end["end"], member.end["message"])
    dead = [member for member in members if not member.alive and member.process.returncode != 0]
    if dead:
        return _death(min(dead, key=lambda member: member.process.returncode))  # killed ones first
    waiting = [member for member in members if member.waited_s is not None]
    return _stuck(members, waiting[0]) if waiting else None


def _death(member: Member) -> Cause:
    code = member.process.returncode
    if member.end is not None:
        return Cause(code, member.end["message"])
    for number in (signal.SIGINT, signal.SIGTERM):
        if code in (-number, 128 + number):
            return Cause(128 + number, f"stopped by {number.name}")
    if code < 0:
        how = f"was killed by {signal.Signals(-code).name}"
        why = ", most often because memory ran out" if -code == signal.SIGKILL else ""
        return Cause(LOST, f"{member.name} {how} at step {member.step:,}{why}. {_ADVICE}")
    return Cause(code, f"{member.name} ended at step {member.step:,} with exit code {code}")


def _stuck(members: Sequence[Member], waiting: Member) -> Cause:
    behind = [member for member in members if member.at < waiting.at]
    if not behind:
        return Cause(LOST, f"{waiting.name} lost touch with the others at step {waiting.step:,}. {_ADVICE}")
    last = min(behind, key=lambda member: member.at)
    waited = f"the others waited {waiting.waited_s:.0f} s for it (runtime.timeout_s)"
    return Cause(LOST, f"{last.name} was stuck at step {last.step:,}: {waited}. {_ADVICE}")


_ADVICE = "The same command again goes on from the last checkpoint."


def _hurry(members: Sequence[Member], since_s: float) -> None:
    """Kill who is still there so many seconds after another one was lost."""
    for member in members:
        ending = member.end is not None or member.waited_s is not None
        if member.alive and since_s > (ENDING_S if ending else SILENT_S):
            member.process.kill()


def _kill(members: Sequence[Member]) -> None:
    for member in members:
        if member.alive:
            member.process.kill()
        member.process.wait()
        member.line.close()


@contextmanager
def _relayed_signals(members: Sequence[Member]) -> Iterator[None]:
    """While open, SIGINT and SIGTERM are told to the ranks instead of ending this process."""

    def relay(number: int, _frame: FrameType | None) -> None:
        for member in members:
            member.send(signal=number)

    before = {number: signal.signal(number, relay) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])

"""What ``doctor`` says of one thing: whether it is all right, what was found, what to do where it is not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from threading import Thread

OK, NOTE, OFF = "ok", "note", "off"
"""Fine; worth knowing, and runs work; a run will fail."""

ANSWER_S = 5.0  # what a server or a disk is given to answer


@dataclass(frozen=True)
class Finding:
    """``mark`` is OK, NOTE or OFF; ``remedy`` is what to type or do, "" where nothing needs doing."""

    mark: str
    what: str
    found: str
    remedy: str = ""

    def line(self) -> str:
        remedy = f" → {self.remedy}" if self.remedy else ""
        return f"{self.mark:<5} {self.what:<10} {' '.join(self.found.split())}{remedy}"


def in_time(what: str, look: Callable[[], Finding], limit_s: float = ANSWER_S) -> Finding:
    """What ``look`` finds, or that it does not end: a network disk or a server may be silent for minutes."""
    found: list[Finding] = []
    thread = Thread(target=lambda: found.append(look()), daemon=True)
    thread.start()
    thread.join(limit_s)
    return found[0] if found else Finding(OFF, what, f"no answer within {limit_s:.0f} s", "look at the network or disk")

"""A sign of life that goes on while a run is busy: in a long step, a probe, or the writing of a large checkpoint."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress

from moe_bench.errors import CheckpointError


class Pulse:
    """Calls ``beat`` every ``every_s`` seconds on a thread of its own until ``stop``, or until the process ends."""

    def __init__(self, beat: Callable[[], None], every_s: float) -> None:
        self._beat = beat
        self._every_s = every_s
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="pulse", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """No beat comes after this. Safe to call twice."""
        self._stopped.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopped.wait(self._every_s):
            with suppress(CheckpointError):  # the run itself meets it at its next write, and tells
                self._beat()

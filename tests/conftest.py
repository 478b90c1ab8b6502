"""What holds for all tests: threads, signals, and how hard property-based tests try.

``quick`` for every day, ``thorough`` with HYPOTHESIS_PROFILE=thorough.
"""

from __future__ import annotations

import os
import signal

# Small tensors, and often several test processes at once: their threads would only wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.pop("COLUMNS", None)  # pytest-xdist sets it, and lines would break at a width that no test asked for

from hypothesis import settings

for number in (signal.SIGINT, signal.SIGHUP):  # `nohup make test &` has them ignored, and so would all that tests start
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, signal.SIG_DFL)

# The same examples in every run and no clock, so that a red test is red on every machine.
settings.register_profile("quick", max_examples=30, derandomize=True, deadline=None, database=None)
settings.register_profile("thorough", max_examples=300, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))

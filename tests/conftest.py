"""How hard property-based tests try: ``quick`` for every day, ``thorough`` with HYPOTHESIS_PROFILE=thorough."""

from __future__ import annotations

import os

# Small tensors, and often several test processes at once: their threads would only wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.pop("COLUMNS", None)  # pytest-xdist sets it, and lines would break at a width that no test asked for

from hypothesis import settings

# The same examples in every run and no clock, so that a red test is red on every machine.
settings.register_profile("quick", max_examples=30, derandomize=True, deadline=None, database=None)
settings.register_profile("thorough", max_examples=300, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))

from __future__ import annotations

from miniature import run, splits

__all__ = ["run", "splits"]  # fixtures

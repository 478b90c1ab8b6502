"""What a run is: its settings (``schema``), how a command line becomes them (``load``), which runs are one (``run_id``)

Nothing here imports torch, and Hydra only when something is composed.
"""

from __future__ import annotations

from moe_bench.config.identity import run_id, science
from moe_bench.config.schema import Config
from moe_bench.config.validate import from_dict, load, to_dict

__all__ = ["Config", "from_dict", "load", "run_id", "science", "to_dict"]

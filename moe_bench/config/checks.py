"""All rules of how settings must fit together, applied at once."""

from __future__ import annotations

from itertools import chain

from moe_bench.config.device_rules import DEVICE_RULES
from moe_bench.config.model_rules import MODEL_RULES
from moe_bench.config.problems import Problem
from moe_bench.config.run_rules import RUN_RULES
from moe_bench.config.schema import Config


def check(cfg: Config, wrong: set[str] | frozenset[str] = frozenset()) -> list[Problem]:
    """Every way in which the settings do not fit, but nothing that rests on a setting or group known to be wrong."""
    found = chain.from_iterable(rule(cfg) for rule in (*MODEL_RULES, *RUN_RULES, *DEVICE_RULES))
    return [p for p in found if not any(name in wrong or name.split(".")[0] in wrong for name in p.uses)]

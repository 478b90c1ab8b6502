"""Findings in words and figures."""

from __future__ import annotations

import math

from moe_bench.monitor.units import MISSING, points
from moe_bench.report.claims import COST
from moe_bench.report.findings import FAILS, HOLDS, OPEN, Finding
from moe_bench.report.price import CPU_DAYS, DEVICE_DAYS

SHORT = {HOLDS: "holds", FAILS: "does not hold", OPEN: "open"}


def is_dense(f: Finding) -> bool:
    return f.claim.name.startswith("dense/")


def metric(figure: str) -> str:
    """ "probe/cifar10/10shot" → "cifar10 10-shot"."""
    if figure.startswith("probe/"):
        return figure.removeprefix("probe/").replace("/", " ").replace("shot", "-shot")
    names = {price.figure: price.unit for price in (CPU_DAYS, DEVICE_DAYS)}
    return {"val/prec1": "prec@1", **names}.get(figure, figure)


def effect(f: Finding) -> str:
    """ "+1.20 ± 0.30"; a factor for costs."""
    e = f.evidence
    if e is None:
        return MISSING
    if f.claim.of == COST:
        interval = f" ({math.exp(e.effect - e.half):.2f} to {math.exp(e.effect + e.half):.2f})" if e.half else ""
        return f"× {math.exp(e.effect):.2f}{interval}"
    value = f"{abs(e.effect):.2f}" if f.claim.alike else points(e.effect)
    return value + (f" ± {e.half:.2f}" if e.half else "")


def short(f: Finding) -> str:
    """ "holds, +1.20 ± 0.30"; "level" where no difference was shown to be more than a tenth of a point."""
    if f.evidence is None:
        return MISSING
    level = f.verdict == FAILS and f.reason.startswith("level")
    return f"{'level' if level else SHORT[f.verdict]}, {effect(f)}"


def claim_words(f: Finding) -> str:
    """The sentence; of a comparison with the dense model, under a title that says so, the other side."""
    return f.claim.sentence.removesuffix(" beats the dense ViT") if is_dense(f) else f.claim.sentence

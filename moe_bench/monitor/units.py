"""Numbers as a person reads them, always with their unit."""

from __future__ import annotations

import math

MISSING = "–"
UNREADABLE = 1e12
"""A figure as large as this has an exponent instead of all its digits."""


def count(value: float | None) -> str:
    """1234 → "1,234"; 964_123_456 → "964.1 M"."""
    if value is None or not math.isfinite(value):
        return MISSING
    for size, name in ((1e12, "T"), (1e9, "G"), (1e6, "M")):
        if abs(value) >= size:
            return f"{value / size:.1f} {name}"
    return f"{value:,.0f}"


def counted(number: float, things: str) -> str:
    """ "12 batches", and "1 batch"."""
    one = things.removesuffix("es" if things.endswith(("ches", "sses")) else "s")
    return f"{number:,} {one if number == 1 else things}"


def flops(value: float | None) -> str:
    """Floating point operations: 33.4e9 → "33.4 GFLOP"."""
    if value is None or not math.isfinite(value):
        return MISSING
    for size, name in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= 0.9995 * size:
            return f"{value / size:.3g} {name}FLOP"
    return f"{value:.0f} FLOP"


def points(difference: float) -> str:
    """Percentage points with their sign: "+1.20"; "+0.00" also of what is below zero by less than is shown."""
    return f"{round(difference, 2) + 0.0:+.2f}"


def percent(fraction: float | None, digits: int = 1) -> str:
    """0.234 → "23.4 %"."""
    if fraction is None or not math.isfinite(fraction):
        return MISSING
    return f"{100 * fraction:.{digits}f} %"


def duration(seconds: float | None) -> str:
    """The two largest units: "42 s", "3 min 05 s", "2 h 10 min", "4 d 03 h"."""
    if seconds is None or not math.isfinite(seconds):
        return MISSING
    if 0 < seconds < 1:
        return f"{1000 * seconds:.0f} ms"
    whole = round(seconds)
    for size, name, part, part_name in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= size:
            return f"{whole // size} {name} {whole % size // part:02d} {part_name}"
    return f"{whole} s"


def about(seconds: float | None) -> str:
    """A guess, no finer than it can be: "under 10 s", "about 40 s", "about 7 min", "about 2.5 h", "about 3.1 d"."""
    if seconds is None or not math.isfinite(seconds):
        return MISSING
    if seconds < 10:
        return "under 10 s"
    if seconds < 90:
        return f"about {round(seconds, -1):.0f} s"
    if seconds < 90 * 60:
        return f"about {seconds / 60:.0f} min"
    return f"about {seconds / 3600:.1f} h" if seconds < 36 * 3600 else f"about {seconds / 86400:.1f} d"


def rate(images_per_s: float | None) -> str:
    """Images a second: "1,234 img/s", "4.2 img/s"."""
    if images_per_s is None or not math.isfinite(images_per_s):
        return MISSING
    return f"{images_per_s:,.0f} img/s" if images_per_s >= 20 else f"{images_per_s:.2g} img/s"


def gigabytes(value: float | None) -> str:
    """Memory in GB (1e9 bytes)."""
    return MISSING if value is None or not math.isfinite(value) else f"{value:.1f} GB"


def size(value: float | None) -> str:
    """Bytes of a file or a disk: "12.3 GB" (1e9), "4.5 MB", "812 bytes"."""
    if value is None or not math.isfinite(value):
        return MISSING
    for unit, name in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if abs(value) >= unit:
            return f"{value / unit:.1f} {name}"
    return f"{value:.0f} bytes"


def significant(value: float | None, digits: int = 3) -> str:
    """A positive figure without exponent where that is readable: 0.00213 → "0.00213"."""
    if value is None or not math.isfinite(value):
        return MISSING
    if abs(value) >= UNREADABLE:
        return f"{value:.{digits - 1}e}"
    if value == 0 or abs(value) >= 10 ** (digits - 1):
        return f"{value:,.0f}"
    decimals = digits - 1 - int(f"{value:.{digits - 1}e}".partition("e")[2])  # of what it is rounded to
    return f"{value:.{decimals}f}" if decimals <= 6 else f"{value:.{digits - 1}e}"

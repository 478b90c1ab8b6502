"""Sizes of the layers and the probe to measure, read from what was typed and checked as a whole. No torch.

G groups, T tokens of a group, E experts, C slots, D width, H hidden.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TypeVar

from moe_bench.config.problems import did_you_mean, printable
from moe_bench.errors import ConfigError
from moe_bench.routing.capacity import Capacity

T = TypeVar("T")

DTYPES = ("float32", "bf16")
ROUTERS = ("softmax_tc", "sinkhorn_tc", "softmax_ec", "sinkhorn_ec", "sparse_ec", "soft")


@dataclass(frozen=True)
class Case:
    """One layer on one batch."""

    width: int  # D
    hidden: int  # H
    experts: int  # E
    images: int
    tokens: int  # of an image
    group_images: int  # images routed together; Soft MoE always routes each alone
    capacity: float
    dtype: str  # float32, or bf16: autocast to bfloat16 with float32 parameters

    @property
    def name(self) -> str:
        return f"{self.width}x{self.hidden}x{self.experts}"

    @property
    def dense_hidden(self) -> int:
        """Of the dense MLP that does the work of ``capacity`` experts on every token."""
        return round(self.capacity * self.hidden)

    @property
    def choices(self) -> int:
        """K, the experts that a token chooses where tokens choose."""
        return math.ceil(self.capacity)

    def rows(self, router: str) -> int:
        """G·C, the rows that each expert works on. Raises ValueError where an expert gets less than one slot."""
        images = 1 if router == "soft" else self.group_images
        return self.images // images * Capacity(self.capacity).slots(images * self.tokens, self.experts)

    @property
    def dense_rows(self) -> int:
        """Of an expert, whose E together do the work of the dense MLP."""
        return round(self.capacity * self.images * self.tokens / self.experts)

    def flops(self, rows: int) -> int:
        """Of a forward pass of all experts over so many rows each."""
        return 4 * self.width * self.hidden * self.experts * rows

    def bytes_needed(self, layers: int) -> int:
        """A bound on what measuring takes: every layer with weights of its own, gradients and activations of one."""
        weights = 4 * 2 * self.experts * self.width * self.hidden
        rows = 4 * round(self.capacity * self.images * self.tokens)
        return weights * (layers + 1) + rows * (6 * self.width + 5 * self.hidden)

    def __str__(self) -> str:
        batch = f"{self.images} image{'s' * (self.images > 1)} × {self.tokens} tokens in groups of {self.group_images}"
        return f"{self.name} (width × hidden × experts) · {batch} · capacity {self.capacity:g} · {self.dtype}"


@dataclass(frozen=True)
class ProbeCase:
    """A few-shot probe: ridge regressions for a grid of λ, from random features of a decaying spectrum."""

    train: int  # examples of a draw
    test: int  # examples
    width: int  # features
    classes: int
    draws: int

    def bytes_needed(self) -> int:
        """A bound on what measuring takes: features, a standardised copy, scikit-learn's predictions and targets."""
        features = (self.draws * self.train + 2 * self.test + 2 * self.train) * self.width
        return 8 * (features + (self.test + 2 * self.train) * self.classes)

    def __str__(self) -> str:
        draws = f"{self.draws} draw{'s' * (self.draws > 1)}"
        return f"{draws} of {self.train:,} × {self.width:,} · {self.test:,} tested · {self.classes:,} classes · float32"


def make_cases(
    sizes: Sequence[tuple[int, int, int]],
    images: Sequence[int],
    capacities: Sequence[float],
    dtypes: Sequence[str],
    tokens: int,
    group_images: int,
    routers: Sequence[str],
) -> list[Case]:
    """Every combination, in the order typed. Raises ConfigError for one that cannot be."""
    cases = [
        Case(*size, count, tokens, min(group_images, count), capacity, dtype)
        for size, dtype, count, capacity in product(sizes, dtypes, images, capacities)
    ]
    for case in cases:
        if case.images % case.group_images:
            raise ConfigError(
                f"--images {case.images} are no whole number of groups of --group-images {case.group_images}: "
                f"use {case.images // case.group_images * case.group_images} images, or other groups"
            )
        for router in routers:
            try:
                case.rows(router)
            except ValueError as error:
                raise ConfigError(f"--case {case.name}, router {router}: {error}") from error
    return cases


def size(text: str) -> tuple[int, int, int]:
    """ "768x3072x32" → width, hidden, experts."""
    if not re.fullmatch(r"[1-9]\d*x[1-9]\d*x[1-9]\d*", text):
        raise ConfigError(f"--case {printable(text)} is no size: type WIDTHxHIDDENxEXPERTS, as in --case 768x3072x32")
    width, hidden, experts = map(int, text.split("x"))
    return width, hidden, experts


def words(flag: str, known: Sequence[str]) -> Callable[[str], list[str]]:
    """A reader of comma-separated words out of ``known``."""

    def read(text: str) -> list[str]:
        for word in text.split(","):
            if word not in known:
                close = did_you_mean(word, known)
                hint = f"did you mean {close}? " if close else ""
                raise ConfigError(f"{flag} {printable(text)}: {hint}{printable(word)!r} is none of {', '.join(known)}")
        return list(dict.fromkeys(text.split(",")))

    return read


def whole(flag: str) -> Callable[[str], int]:
    """A reader of one whole number of at least 1."""
    return lambda text: _number(flag, text, int)


def numbers(flag: str, kind: Callable[[str], T]) -> Callable[[str], list[T]]:
    """A reader of comma-separated positive numbers."""
    return lambda text: list(dict.fromkeys(_number(flag, word, kind) for word in text.split(",")))


def _number(flag: str, text: str, kind: Callable[[str], T]) -> T:
    try:
        number = kind(text)
    except ValueError:
        number = kind("0")
    if not 0 < number < float("inf"):  # type: ignore[operator]
        what = "a whole number of at least 1" if kind is int else "a number greater than 0"
        raise ConfigError(f"{flag} {printable(text)!r}: {what} is needed")
    return number

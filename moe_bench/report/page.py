"""A report as data: a title and parts in reading order. ``html``, ``markup`` and ``render`` lay it out."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import count

from moe_bench.report.tables import Table

LONGEST = 80  # letters of a file's name


@dataclass(frozen=True)
class Heading:
    """Begins a section; ``level`` 2 below the title, 3 within."""

    text: str
    level: int = 2


@dataclass(frozen=True)
class Text:
    """A paragraph, as plain text: nothing in it is markup."""

    text: str


@dataclass(frozen=True)
class Figure:
    """A drawing in two forms, under ``name`` in the folder; ``alt`` says in words what is to be seen in it."""

    name: str
    title: str
    caption: str
    svg: bytes
    png: bytes
    alt: str


Part = Heading | Text | Table | Figure


@dataclass(frozen=True)
class Page:
    title: str
    parts: list[Part]


def with_file_names(parts: Iterable[Part]) -> list[Part]:
    """The same parts, tables and figures with names that differ and that any file system and LaTeX accept."""
    taken: set[tuple[type, str]] = set()
    named: list[Part] = []
    for part in parts:
        if isinstance(part, Table | Figure):
            base = slug(part.name or part.title)
            free = (name for i in count(1) if (type(part), name := base if i == 1 else f"{base}-{i}") not in taken)
            part = replace(part, name=next(free))
            taken.add((type(part), part.name))
        named.append(part)
    return named


def slug(text: str) -> str:
    """Small letters, digits and hyphens: "Table 1: B/32 (tiny)" → "table-1-b-32-tiny"."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    words = re.sub(r"[^a-z0-9]+", "-", plain).strip("-")
    whole = words[: LONGEST + 1].rpartition("-")[0] if len(words) > LONGEST else words  # no word is cut
    return whole or words[:LONGEST] or "part"

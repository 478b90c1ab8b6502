"""The folder of a report: the page as Markdown and HTML, every table as CSV and LaTeX, every figure as PNG and SVG."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from moe_bench.errors import CheckpointError
from moe_bench.report.html import html
from moe_bench.report.latex import latex
from moe_bench.report.markup import markdown
from moe_bench.report.page import Figure, Page
from moe_bench.report.spreadsheet import one_table
from moe_bench.report.tables import Table

LIST = "files.txt"  # in the folder: what we wrote there, so that the next report can clear it away
_OURS = re.compile(r"(tables|figures)/[a-z0-9-]+\.(csv|tex|png|svg)")


def write_report(folder: Path, page: Page, extra: dict[str, str]) -> list[str]:
    """Writes ``page`` and the files of ``extra``; returns the names written. Raises CheckpointError where it cannot.

    Tables and figures of the report before are removed where this one has none of their name; nothing else is.
    """
    files = {**_files(page), **{name: text.encode() for name, text in extra.items()}}
    files[LIST] = "\n".join(files).encode() + b"\n"
    try:
        _remove(folder, set(_written_before(folder)) - set(files))
        for name, content in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
    except OSError as error:
        raise CheckpointError(
            f"cannot write the report to {folder}: {error.strerror or error}. Choose a place with --out DIR"
        ) from error
    return list(files)


def _files(page: Page) -> dict[str, bytes]:
    files = {"report.html": html(page).encode(), "report.md": markdown(page).encode()}
    for part in page.parts:
        if isinstance(part, Table):
            files[f"tables/{part.name}.csv"] = one_table(part).encode()
            files[f"tables/{part.name}.tex"] = latex(part).encode()
        elif isinstance(part, Figure):
            files[f"figures/{part.name}.png"] = part.png
            files[f"figures/{part.name}.svg"] = part.svg
    return files


def _written_before(folder: Path) -> list[str]:
    try:
        listed = (folder / LIST).read_text(encoding="utf-8")
    except (OSError, ValueError):
        return []
    return [name for name in listed.splitlines() if _OURS.fullmatch(name)]


def _remove(folder: Path, names: Iterable[str]) -> None:
    for name in names:
        (folder / name).unlink(missing_ok=True)

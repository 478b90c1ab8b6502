"""The folder of a report: the page as Markdown and HTML, every table as CSV and LaTeX, every figure as PNG and SVG."""

from __future__ import annotations

from pathlib import Path

from moe_bench.errors import CheckpointError
from moe_bench.report.html import html
from moe_bench.report.latex import latex
from moe_bench.report.markup import markdown
from moe_bench.report.page import Figure, Page
from moe_bench.report.spreadsheet import one_table
from moe_bench.report.tables import Table


def write_report(folder: Path, page: Page, extra: dict[str, str]) -> list[str]:
    """Writes ``page`` and the files of ``extra``; returns the names written. Raises CheckpointError where it cannot."""
    texts = {"report.md": markdown(page), "report.html": html(page), **extra}
    files: dict[str, bytes] = {name: text.encode() for name, text in texts.items()}
    for part in page.parts:
        if isinstance(part, Table):
            files[f"tables/{part.name}.csv"] = one_table(part).encode()
            files[f"tables/{part.name}.tex"] = latex(part).encode()
        elif isinstance(part, Figure):
            files[f"figures/{part.name}.png"] = part.png
            files[f"figures/{part.name}.svg"] = part.svg
    try:
        for name, content in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
    except OSError as error:
        raise CheckpointError(
            f"cannot write the report to {folder}: {error.strerror or error}. Choose a place with --out DIR"
        ) from error
    return list(files)

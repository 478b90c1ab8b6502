"""A page as one HTML file that needs nothing beside it: no network, no script. Names of runs are text in it."""

from __future__ import annotations

from base64 import b64encode
from html import escape
from importlib import resources

from moe_bench.report.page import Figure, Heading, Page, Part, Text, slug
from moe_bench.report.tables import Table

POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def html(page: Page) -> str:
    """Figures are drawn from their SVG, within the file; light or dark as the system is; made to be printed."""
    style = resources.files("moe_bench.report").joinpath("page.css").read_text(encoding="utf-8")
    headings = [part.text for part in page.parts if isinstance(part, Heading) and part.level == 2]
    links = " ".join(f'<a href="#{slug(text)}">{escape(text)}</a>' for text in headings)
    return "\n".join(
        [
            "<!DOCTYPE html>",
            '<html lang="en">',
            "<head>",
            '<meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{escape(page.title)}</title>",
            f"<style>\n{style}</style>",
            "</head>",
            "<body>",
            f"<h1>{escape(page.title)}</h1>",
            f"<nav>{links}</nav>",
            *map(_part, page.parts),
            "</body>",
            "</html>\n",
        ]
    )


def _part(part: Part) -> str:
    match part:
        case Heading():
            return f'<h{part.level} id="{slug(part.text)}">{escape(part.text)}</h{part.level}>'
        case Text():
            return f"<p>{escape(part.text)}</p>"
        case Figure():
            return _figure(part)
        case Table():
            return _table(part)


def _figure(figure: Figure) -> str:
    source = b64encode(figure.svg).decode()
    return (
        f'<figure id="figure-{figure.name}">\n<figcaption><b>{escape(figure.title)}</b></figcaption>\n'
        f'<img alt="{escape(figure.alt)}" src="data:image/svg+xml;base64,{source}">\n'
        f"<figcaption>{escape(figure.caption)}</figcaption>\n</figure>"
    )


def _table(table: Table) -> str:
    notes = "".join(f"<li>{escape(note)}</li>" for note in table.notes)
    body = [_row(table, "td", row, "block" if i in table.breaks else "") for i, row in enumerate(table.texts)]
    return "\n".join(
        [
            f'<div class="table" tabindex="0" id="table-{table.name}">',
            f"<table>\n<caption>{escape(table.title)}</caption>",
            f"<thead>\n{_row(table, 'th', table.headings)}\n</thead>",
            "<tbody>",
            *body,
            "</tbody>\n</table>",
            "</div>",
            *([f'<ul class="notes">{notes}</ul>'] if notes else []),
        ]
    )


def _row(table: Table, tag: str, cells: list[str], kind: str = "") -> str:
    """Words to the left, figures to the right."""
    kinds = ["word" if i < table.labels else "figure" for i in range(len(cells))]
    row = "".join(f'<{tag} class="{name}">{escape(text)}</{tag}>' for name, text in zip(kinds, cells))
    return f'<tr class="{kind}">{row}</tr>' if kind else f"<tr>{row}</tr>"

"""The same page as Markdown, HTML, LaTeX and CSV, where no name of a run may do harm."""

from __future__ import annotations

import csv
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from moe_bench.report.collect import collect
from moe_bench.report.groups import Mean, sections
from moe_bench.report.html import html
from moe_bench.report.latex import latex
from moe_bench.report.markup import markdown
from moe_bench.report.page import Figure, Heading, Page, Part, Text, slug, with_file_names
from moe_bench.report.spreadsheet import all_rows, one_table
from moe_bench.report.tables import Table, Value

from .runs import add_run

HOSTILE = "=cmd|'/C calc'!A0 <script>alert(1)</script> [x](javascript:1) `a` \\input{/etc/passwd} $x$ 50% ![i](//e) 名"
SVG = b'<svg xmlns="http://www.w3.org/2000/svg"/>'


def page(text: str = "plain") -> Page:
    value = Value("75.0 ± 63.5", Mean(0.75, 0.0707, 2), 100)
    table = Table(text, [text, "run", "prec@1 % ± 95 % CI"], [[text, text, value], ["a", "b", "–"]], [text], breaks=[1])
    figure = Figure(text, text, text, SVG, b"png", text)
    return Page(text, with_file_names([Heading(text), Text(text), table, figure]))


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def parsed(source: str) -> Tags:
    tags = Tags()
    tags.feed(source)
    return tags


def test_html_needs_nothing_beside_it_and_runs_nothing() -> None:
    tags = parsed(html(page(HOSTILE))).tags
    names = [tag for tag, _ in tags]
    assert not {"script", "link", "iframe", "object"} & set(names)
    (image,) = [attributes for tag, attributes in tags if tag == "img"]
    assert (image["src"] or "").startswith("data:image/svg+xml;base64,")
    assert all((attributes["href"] or "").startswith("#") for tag, attributes in tags if tag == "a")
    assert not [name for _, attributes in tags for name in attributes if name.startswith("on")]


def test_html_shows_a_hostile_name_as_it_is() -> None:
    assert parsed(html(page(HOSTILE))).text.count(HOSTILE) == 12


def test_a_long_name_of_a_file_ends_with_a_whole_word() -> None:
    words = "results-" * 9 + "digits-default"  # 80 letters end within the last word
    assert slug(words) == "results-" * 9 + "digits"
    assert slug(words[:80]) == words[:80]
    assert slug("a" * 100) == "a" * 80


def test_links_of_the_page_lead_somewhere() -> None:
    tags = parsed(html(Page("t", [Heading("Results"), Heading("Not counted"), Heading("Within", 3)]))).tags
    ids = [attributes.get("id") for _, attributes in tags]
    assert [(a["href"] or "")[1:] for tag, a in tags if tag == "a"] == ["results", "not-counted"]
    assert {"results", "not-counted"} <= set(ids)


def test_markdown_shows_a_hostile_name_as_text() -> None:
    made = MarkdownIt("commonmark").enable("table").render(markdown(page(HOSTILE)))
    tags = parsed(made)
    assert {tag for tag, _ in tags.tags} == {*("h1", "h2", "h3", "p", "img", "table"), *("ul", "li")} | {
        *("thead", "tbody", "tr", "th", "td")
    }
    assert [a["src"] for tag, a in tags.tags if tag == "img"] == [f"figures/{slug(HOSTILE)}.png"]
    assert len([tag for tag, _ in tags.tags if tag == "td"]) == 6
    assert sum(HOSTILE in text for text in tags.text) >= 6


@pytest.mark.parametrize("text", ["# a", "- a", "+ a", "1. a", "> a", "=== a", "--- a"])
def test_a_paragraph_stays_one_whatever_it_begins_with(text: str) -> None:
    made = MarkdownIt("commonmark").render(markdown(Page("t", [Text(text)])))
    assert [tag for tag, _ in parsed(made).tags] == ["h1", "p"]


def test_latex_has_no_command_from_a_name() -> None:
    made = latex(next(part for part in page(HOSTILE).parts if isinstance(part, Table)))
    assert r"\textbackslash{}input\{/etc/passwd\}" in made
    assert r"\$x\$ 50\%" in made
    assert "U+540D" in made
    commands = set(re.findall(r"\\[a-z]+", made))
    assert "\\input" not in commands
    rows = [line for line in made.splitlines() if line.endswith(r" \\")]
    assert [line.count(" & ") for line in rows] == [2, 2, 2]


def test_latex_has_a_minus_a_quote_of_every_font_and_lines_for_long_words() -> None:
    long = 'diverged: "loss" is nan ' * 4
    made = latex(Table("t", ["run", "state", "points"], [["a-1", long, "-0.25 ± 3e-06"]]))
    assert "a-1 & diverged: ''loss'' is nan" in made
    assert r"$-$0.25 $\pm$ 3e-06" in made
    assert r"\begin{tabular}{lp{0.6\linewidth}r}" in made


def test_csv_has_no_formula_and_spreads_a_figure_over_columns() -> None:
    table = next(part for part in page(HOSTILE).parts if isinstance(part, Table))
    head, first, second = csv.reader(one_table(table).splitlines())
    assert head == [f"'{HOSTILE}", "run", "prec@1 % mean", "prec@1 % 95 % CI ±", "prec@1 % std", "prec@1 % n"]
    assert first == [f"'{HOSTILE}", f"'{HOSTILE}", "75", "63.5214", "7.07", "2"]
    assert second == ["a", "b", "", "", "", "0"]


def test_the_csv_of_all_rows_has_mean_interval_spread_and_count_of_every_figure(tmp_path: Path) -> None:
    for seed, prec1 in enumerate((0.7, 0.8)):
        add_run(tmp_path, seed=seed, prec1=prec1)
    add_run(tmp_path, "soft", state="running")
    rows = list(csv.DictReader(all_rows(sections(collect(tmp_path).runs)).splitlines()))
    assert [row["router"] for row in rows] == ["softmax_ec", "soft"]
    ours = [rows[0][f"prec@1 % {part}"] for part in ("mean", "95 % CI ±", "std", "n")]
    assert ours == ["75", "63.531", "7.07107", "2"]
    assert (rows[1]["prec@1 % mean"], rows[1]["prec@1 % n"], rows[1]["seeds"]) == ("", "0", "0")


def test_names_of_files_differ_and_suit_any_file_system() -> None:
    parts: list[Part] = [Table(name, [], []) for name in ("A/b", "a b", "../..", "", "a-b-2")]
    names = [part.name for part in with_file_names(parts) if isinstance(part, Table)]
    assert names == ["a-b", "a-b-2", "part", "part-2", "a-b-2-2"]

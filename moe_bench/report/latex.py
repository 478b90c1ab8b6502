"""A table as LaTeX: a float to ``\\input``, with booktabs and graphicx. No name of a run can be a command in it."""

from __future__ import annotations

import re

from moe_bench.report.tables import Table

_SPECIAL = {
    **{letter: f"\\{letter}" for letter in "{}$&#%_"},
    "\\": r"\textbackslash{}",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "`": r"\textasciigrave{}",
    "'": r"\textquotesingle{}",
    '"': "''",  # the straight one is in few fonts
    "[": "{[}",  # after \\ it would begin an option
    "*": "{*}",
    "±": r"$\pm$",
    "×": r"$\times$",
    "Δ": r"$\Delta$",
    "·": r"$\cdot$",
    "≥": r"$\geq$",
    "≤": r"$\leq$",
    "–": "--",
    "−": "$-$",
    "…": r"\dots{}",
    "✓": r"$\surd$",
    "✗": r"$\times$",
}
FITTED = r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%"
"""A table as it is, or made smaller to the width of the text where it is wider."""
LONG = 60  # letters
MINUS = re.compile(r"(?<!\w)-(?=\d)")
KNOWN = 0x180  # Latin letters below this code are in every font


def latex(table: Table) -> str:
    """``\\label{tab:NAME}`` and the title as caption; notes below the table."""
    columns = "".join(
        _words([row[i] for row in table.texts]) if i < table.labels else "r" for i in range(len(table.headings))
    )
    rows = []
    for number, row in enumerate(table.texts):
        rows += [r"\addlinespace"] if number in table.breaks else []
        rows.append(_row(row))
    lines = [
        r"% needs \usepackage{booktabs,graphicx}",
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{escape(table.title)}}}",
        rf"\label{{tab:{table.name}}}",
        FITTED,
        rf"\begin{{tabular}}{{{columns}}}",
        r"\toprule",
        _row(table.headings),
        r"\midrule",
        *rows,
        r"\bottomrule",
        r"\end{tabular}}",
        *(rf"\par\footnotesize {escape(note)}" for note in table.notes),
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def _words(cells: list[str]) -> str:
    """A column of words: as wide as they are, or of several lines where the table would be too small to read."""
    return r"p{0.6\linewidth}" if max(map(len, cells), default=0) > LONG else "l"


def _row(cells: list[str]) -> str:
    return " & ".join(map(escape, cells)) + r" \\"


def escape(text: str) -> str:
    """Text that LaTeX prints as it is; letters of other scripts, which stop pdfLaTeX, by their number."""
    return "".join(map(_letter, MINUS.sub("−", " ".join(text.split()))))


def _letter(letter: str) -> str:
    if letter in _SPECIAL:
        return _SPECIAL[letter]
    return letter if ord(letter) < KNOWN else f"U+{ord(letter):04X}"

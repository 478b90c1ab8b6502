"""The terminal, or whatever stands in for it."""

from __future__ import annotations

import os
import sys
from typing import Any, TextIO

from rich.console import Console

from moe_bench.secrets import redact

PIPE_COLUMNS = 120


class StarredOut:
    """A stream that secrets do not pass, whoever writes them; else as the stream beneath."""

    def __init__(self, file: TextIO) -> None:
        self._file = file

    def write(self, text: str) -> int:
        return self._file.write(redact(text))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


class PatientConsole(Console):
    """Goes on in silence when its reader has left: ``| head`` must not end a training run."""

    def on_broken_pipe(self) -> None:
        self.quiet = True
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self.file.fileno())


def make_console(file: TextIO | None = None, quiet: bool = False) -> Console:
    """A sober console: no guessed colours in numbers; a pipe gets plain text of a fixed width; nothing it cannot print
    is an error (a terminal without UTF-8 shows "?"). ``quiet`` prints nothing: for all ranks but the first."""
    file = sys.stdout if file is None else file
    if hasattr(file, "reconfigure") and (file.encoding or "").lower().replace("-", "") != "utf8":
        file.reconfigure(errors="replace")
    width = None if file.isatty() or "COLUMNS" in os.environ else PIPE_COLUMNS
    starred: Any = StarredOut(file)
    return PatientConsole(file=starred, width=width, quiet=quiet, highlight=False, emoji=False, markup=False)

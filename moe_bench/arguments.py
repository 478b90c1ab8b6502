"""What argparse lacks: a slip told in a line, types that say what was wanted, help for who typed too little."""

from __future__ import annotations

import argparse
import math
import re
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from moe_bench.config.problems import did_you_mean
from moe_bench.errors import ConfigError


class Parser(argparse.ArgumentParser):
    """argparse that keeps the lines of a help text, and raises ConfigError for what cannot be read."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**{"formatter_class": argparse.RawDescriptionHelpFormatter, **settings})

    def error(self, message: str) -> NoReturn:
        _, _, unknown = message.partition("unrecognized arguments: ")
        close = did_you_mean(re.split("[ =]", unknown)[0], self._flags()) if unknown else None
        hint = f" Did you mean {close}?" if close else ""
        raise ConfigError(f"cannot read the command line: {message}.{hint} All options: {self.prog} --help")

    def _flags(self) -> set[str]:
        """Its own and those of its verbs: argparse leaves it to the first parser to tell what none knows."""
        verbs = [action.choices for action in self._actions if isinstance(action, argparse._SubParsersAction)]
        parsers = [parser for named in verbs for parser in named.values()]
        return set(self._option_string_actions).union(*(parser._flags() for parser in parsers))


def positive(kind: Callable[[str], float]) -> Callable[[str], Any]:
    """A number above 0, as ``kind`` (int or float) reads it."""

    def read(word: str) -> float:
        try:
            value = kind(word)
        except ValueError:
            value = 0
        if not 0 < value < math.inf:
            raise argparse.ArgumentTypeError(f"a number above 0 wanted, not {word!r}")
        return value

    return read


def several(kind: Callable[[str], float]) -> Callable[[str], Any]:
    """Numbers above 0, separated by commas, each once."""
    return lambda text: list(dict.fromkeys(map(positive(kind), text.split(","))))


def natural(word: str) -> int:
    """0 or more."""
    if not word.isdecimal():
        raise argparse.ArgumentTypeError(f"0 or more wanted, not {word!r}")
    return int(word)


def too_little(parser: argparse.ArgumentParser) -> int:
    """Print the help of a verb that was typed without the word it needs; the exit code."""
    parser.print_help(sys.stderr)
    return ConfigError.exit_code

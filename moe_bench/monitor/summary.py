"""What is printed after a run: the result, each probe beside what raw pixels reach, the price, what to type next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.text import Text

from moe_bench.monitor.layout import block
from moe_bench.monitor.units import count, duration, flops, gigabytes, percent, rate, significant


def summary_view(
    summary: Mapping[str, Any], folder: str, next_commands: Sequence[tuple[str, str]], columns: int = 80
) -> Text:
    """What to print on a terminal of so many columns; with ``soft_wrap``, so that long commands stay whole.

    ``summary`` is the content of summary.json; ``next_commands`` are (command, what it does) pairs.
    """
    facts = [*_result(summary), *_probes(summary), *_pictures(summary), *_price(summary), ("folder", folder)]
    title = f"{summary.get('run_id', folder)} finished"
    return Text("\n").join([Text(""), *block(title, facts, columns), *next_lines(next_commands)])


def _result(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    loss = summary.get("val/loss")
    words = percent(summary.get("val/prec1")) + " of the validation set"
    return [("prec@1", words if loss is None else f"{words} · loss {loss:.3f}")]


def probe_names(summary: Mapping[str, Any]) -> list[str]:
    """The keys of probe scores, as ``probe/digits/10shot``."""
    return [name for name in summary if name.startswith("probe/") and name.endswith("shot")]


def _probes(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [(_probe_label(name), _probe_words(summary, name)) for name in probe_names(summary)]


def _probe_label(name: str) -> str:
    _, dataset, shots = name.split("/", 2)
    return f"{dataset} {shots.removesuffix('shot')}-shot"


def _probe_words(summary: Mapping[str, Any], name: str) -> str:
    words = percent(summary.get(name))
    if std := summary.get(f"{name}/std"):  # zero: of a single draw
        words += f" ± {100 * std:.1f}"
    if (floor := summary.get(f"{name}/floor")) is not None:
        words += f" · raw pixels reach {percent(floor)}"
    return words


def _pictures(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What training was given, and what could not be decoded."""
    if "data/seen" not in summary:
        return []
    words = [
        f"{summary['data/seen']:,} seen in {significant(summary['data/epochs'])} epochs",
        f"{summary['data/distinct']:,} different",
        f"{summary['data/repeated']:,} repeated",
    ]
    causes = [
        f"{count} {name.rpartition('/')[2].replace('_', ' ')}"
        for name, count in summary.items()
        if name.startswith("data/skipped/")
    ]
    skipped = f"{summary['data/skipped']:,} skipped"
    words.append(f"{skipped} ({', '.join(causes)}; {summary['data/bad']:,} bad pictures)" if causes else skipped)
    if (bad := summary.get("val/bad")) is not None:
        words.append(f"{bad:,} of validation bad")
    bad_probes = {
        name.split("/")[1]: bad for name, bad in summary.items() if name.startswith("probe/") and name.endswith("/bad")
    }
    words += [f"{bad:,} of {name} bad" for name, bad in bad_probes.items()]
    return [("pictures", " · ".join(words))]


def _price(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    training = [
        duration(summary.get("time/train_s")),
        f"{significant(summary.get('cost/device_days'))} device-days",
        rate(summary.get("cost/images_per_s")),
        f"{gigabytes(summary.get('memory/peak_gb'))} peak",
    ]
    total, active = summary.get("params/total"), summary.get("params/active")
    size = f"{count(total)} parameters" + ("" if total == active else f", {count(active)} active")
    return [("training", " · ".join(training)), ("model", f"{size} · {flops(summary.get('flops/image'))}/image")]


def next_lines(commands: Sequence[tuple[str, str]]) -> list[Text]:
    """What to type, one under the other with its purpose above: a command must be whole to be copied."""
    lines = [Text(""), Text("next", style="dim")] if commands else []
    for command, does in commands:
        lines += [Text(f"  # {does}", style="dim"), Text(f"  {command}")]
    return lines

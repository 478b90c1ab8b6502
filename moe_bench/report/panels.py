"""What the dashboard shows: the paper's two figures, routers by capacity, curves, the routers' health, cost.

Curves are over ``samples_seen``, which compares across batch sizes. The names of figures are those of summary.json and
metrics.jsonl, which the runs log to W&B.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import wandb_workspaces.reports.v2 as wr
import wandb_workspaces.workspaces as ws

from moe_bench.report.collect import Run
from moe_bench.report.tables import probe_columns

AXIS = "samples_seen"
PRICE = "cost/device_days"
NAME = "moe-bench: routers, capacity, cost"
RUNS = 100  # at most in one panel; W&B's own limit is 10
LEGEND = "${config:router.name} c=${config:capacity.factor} s=${config:seed}"

HEALTH = {  # figure → what to look for, as in docs/telemetry.md
    "load/max": "load of the busiest expert, 1 is fair",
    "load/cv": "spread of the load over experts",
    "load/dead": "share of dead experts",
    "dropped_tokens": "tokens dropped (token choice)",
    "uncovered": "tokens in no slot",
    "combine_mass": "weight of a token's slots",
    "gate_entropy": "entropy of the gates, nats",
    "tokens_per_slot": "tokens that a slot mixes (Soft MoE)",
}
BY = {"cell": "router and capacity", "router.name": "router"}  # keys of a run's settings at W&B
COSTS = {
    "cost/device_days": "device-days",
    "cost/images_per_s": "images a second",
    "flops/image": "FLOP an image",
    "memory/peak_gb": "peak memory, GB",
}


def figures_of(runs: Iterable[Run]) -> dict[str, str]:
    """The accuracies that runs have, upstream first: name in the summary → words."""
    probes = {column.figure: column.heading.removesuffix(" %") for column in probe_columns(runs)}
    return {"val/prec1": "prec@1 upstream", **probes}


def sections(accuracies: Mapping[str, str]) -> dict[str, list[Any]]:
    """Panels by section, in the order of the questions: how good, at what price, and is it healthy."""
    upstream, *probes = accuracies
    return {
        "Figure 1: upstream accuracy against cost": [_scatter(upstream, accuracies[upstream])],
        "Figure 2: few-shot accuracy against cost": [_scatter(name, accuracies[name]) for name in probes],
        "Routers and capacities": [
            _bars(name, words, by) for name, words in accuracies.items() for by in ("cell", "router.name")
        ],
        "Training": [
            _curve("val/prec1", "prec@1, validation"),
            _curve("val/loss", "loss, validation"),
            _curve("train/loss", "loss, training"),
        ],
        "Routing health": [_curve(f"routing/{name}", words) for name, words in HEALTH.items()],
        "Cost": [_bars(name, words, "cell") for name, words in COSTS.items()],
    }


def workspace(entity: str, project: str, accuracies: Mapping[str, str]) -> ws.Workspace:
    """A saved view of the project."""
    return ws.Workspace(
        entity=entity,
        project=project,
        name=NAME,
        sections=[
            ws.Section(name=name, panels=panels, is_open=True)
            for name, panels in sections(accuracies).items()
            if panels
        ],
        settings=ws.WorkspaceSettings(x_axis=AXIS, max_runs=RUNS),
    )


def report(entity: str, project: str, accuracies: Mapping[str, str]) -> wr.Report:
    """A page to send to somebody: the same panels, each section with a line about how to read it."""
    blocks: list[Any] = [wr.TableOfContents()]
    for name, panels in sections(accuracies).items():
        if panels:
            runs = wr.Runset()  # those of the report's own project; to name it would ask the server
            blocks += [wr.H1(name), wr.P(READING[name]), wr.PanelGrid(runsets=[runs], panels=_placed(panels))]
    about = "Made by moe-bench dashboard. Bars are means over runs with their standard deviation."
    return wr.Report(entity=entity, project=project, title=NAME, description=about, blocks=blocks)


READING = {
    "Figure 1: upstream accuracy against cost": "Up and to the left is better. Compare runs on the same devices only.",
    "Figure 2: few-shot accuracy against cost": "A linear regression on frozen features, mean over draws.",
    "Routers and capacities": "Means over seeds, and over capacities too; the line at a bar is a standard deviation.",
    "Training": "Over pictures seen.",
    "Routing health": "Means over MoE layers. docs/telemetry.md says what is healthy.",
    "Cost": "Means over runs. Device-days and images a second depend on the device.",
}


def spec(view: ws.Workspace | wr.Report) -> dict[str, Any]:
    """What W&B would be sent, as JSON can hold it."""
    made: dict[str, Any] = view._to_model().model_dump(mode="json", by_alias=True, exclude_none=True)
    return made


def _scatter(figure: str, words: str) -> wr.ScatterPlot:
    return wr.ScatterPlot(
        title=f"{words} against device-days",
        x=wr.SummaryMetric(PRICE),
        y=wr.SummaryMetric(figure),
        log_x=True,
        legend_template=LEGEND,
    )


def _bars(figure: str, words: str, by: str) -> wr.BarPlot:
    return wr.BarPlot(
        title=f"{words} by {BY[by]}",
        metrics=[wr.SummaryMetric(figure)],
        groupby=wr.Config(by),
        groupby_aggfunc="mean",
        groupby_rangefunc="stddev",
        aggregate=True,
        max_runs_to_show=RUNS,
        max_bars_to_show=RUNS,
    )


def _curve(figure: str, words: str) -> wr.LinePlot:
    return wr.LinePlot(
        title=words, x=AXIS, y=[figure], title_x="pictures seen", legend_template=LEGEND, max_runs_to_show=RUNS
    )


def _placed(panels: Sequence[Any]) -> list[Any]:
    """Two beside each other, each half as wide as a report's 24 columns."""
    for number, panel in enumerate(panels):
        panel.layout = wr.Layout(x=number % 2 * 12, y=number // 2 * 8, w=12, h=8)
    return list(panels)

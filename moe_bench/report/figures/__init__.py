"""The figures of a report: accuracy against cost, training curves, routing over training, gains over dense.

Of each section of runs that may be compared. They are drawn from summaries and from a thinned metrics.jsonl.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

from matplotlib.figure import Figure as Drawing

from moe_bench.report.evaluations import Evaluated, evaluated
from moe_bench.report.figures.combine import draw_combine, pairs
from moe_bench.report.figures.cost import draw_cost, published_points
from moe_bench.report.figures.curves import draw_curves
from moe_bench.report.figures.gain import dense_beside, draw_gains, gain
from moe_bench.report.figures.health import draw_health
from moe_bench.report.figures.history import BINS
from moe_bench.report.figures.lines import Histories
from moe_bench.report.figures.over_settings import draw_evaluated, draw_shots, shots_of
from moe_bench.report.figures.side_by_side import SideBySide
from moe_bench.report.figures.style import capacity_words, encoded, looks, of_model, style
from moe_bench.report.groups import Row, Section
from moe_bench.report.page import Figure, Heading, Part, Text
from moe_bench.report.paper import PREC1, SHOTS, Published
from moe_bench.report.tables import UPSTREAM, Column, main_probes, router_text

MOST = 4
"""Sections that are drawn, the largest: hundreds of pictures would help nobody."""

INTERVALS = (
    "Bars and bands: 95 % intervals over seeds (Student's t). One seed has none; one that is much longer than its "
    "panel is cut at the edge."
)
THINNED = (
    f"Of training steps, a point is a mean over one of {BINS} spans of the training, of a few of the steps logged "
    f"there; where at most {BINS} were logged, it is one of them."
)
PUBLISHED = {"val/prec1": (PREC1, "JFT-300M prec@1 (%)"), "10shot": (SHOTS, "ImageNet 10-shot (%)")}


Task = Callable[[], Part | None]
"""Draws a figure or says why there is none; None: there is nothing to be said."""


def begin(sections: Sequence[Section], paper: Published | None = None) -> Callable[[], list[Part]]:
    """Begins to draw, beside the caller where there are cores for it; what it returns waits and gives the parts.

    They are figures, headings between those of several sections, and in words what is not drawn and why.
    """
    begun = SideBySide([partial(_in_style, task) for task in _tasks(sections, paper)])
    return lambda: [part for part in begun.results() if part is not None]


def _in_style(task: Task) -> Part | None:
    with style():
        return task()


def _tasks(sections: Sequence[Section], paper: Published | None) -> Iterator[Task]:
    having = sorted((section for section in sections if of_model(section.rows)), key=lambda section: -section.size)
    if not having:
        yield partial(Text, "There are no figures: no run here has finished.")
    for section in having[:MOST]:
        if len(having) > 1:
            yield partial(Heading, section.title, 3)
        yield from _of_section(section, paper)
    if len(having) > MOST:
        few = f"the {MOST} largest of {len(having)} groups of runs that may be compared"
        yield partial(Text, f"Figures are of {few}; for the others give report a folder with those runs only.")


def _of_section(section: Section, paper: Published | None) -> Iterator[Task]:
    histories, found = Histories(section), evaluated(section)
    models = of_model(section.rows)
    for number, column in enumerate(_scores(section)):
        yield partial(_cost, section, column, number, paper)
    yield partial(_combine, section, histories)
    yield partial(_gains, section)
    for model, rows in models.items():
        yield partial(_shots, section, model, rows)
        yield partial(_evaluated, section, model, [one for one in found if one.row.model == model])
    for model, rows in models.items() if histories else ():
        yield partial(_curves, section, histories, model, rows)
        yield partial(_routing, section, histories, model, rows)
    if not histories:
        yield partial(Text, "No training curves: none of these runs has a metrics.jsonl that can be read.")


def _cost(section: Section, column: Column, number: int, paper: Published | None) -> Part:
    """Figure 1, of the first score; Figure 2 of each other."""
    why = f"{section.price.note} " if section.price.note else ""
    what = column.heading.removesuffix(" %")
    key, source = PUBLISHED.get(column.figure.rpartition("/")[2] if number else column.figure, ("", ""))
    published = published_points(paper, key) if paper and key else None
    marks = (
        "The marker is the router, its area the capacity; grey line: the Pareto front, if of several; dotted: dense."
    )
    return _figure(
        draw_cost(section.rows, column.figure, f"{what} (%)", published, source),
        f"figure-2-{what}" if number else "figure-1",
        f"Figure {2 if number else 1}: {what} against the cost of training",
        f"{marks} {why}{INTERVALS}",
        _best(section.rows, column),
    )


def _combine(section: Section, histories: Histories) -> Part:
    found = pairs(section.rows)
    if not found:
        return Text(
            "Figure 3 is not drawn: it compares the softmax and the plan combine of one router, and no two settings "
            "here differ in that alone. `moe-bench sweep=figure3` trains them."
        )
    drawn = draw_combine(found, histories)
    caption = f"The plan decides who goes where; the softmax of the gate or the plan weighs the outputs. {INTERVALS}"
    alt = " ".join(
        f"{pair.softmax.router} on {pair.softmax.model} at {capacity_words(pair.softmax.capacity)} ends at "
        f"{_percent(pair.softmax, UPSTREAM)} with softmax combine, {_percent(pair.plan, UPSTREAM)} without."
        for pair in found
    )
    return _figure(drawn, "figure-3", "Figure 3: with and without softmax combine", caption, alt)


def _gains(section: Section) -> Part:
    drawn = draw_gains(section.rows, _scores(section), looks(section.rows))
    if drawn is None:
        return Text(
            "Gains over dense are not drawn: no model here was trained both ways. Add router=dense to the runs."
        )
    return _figure(
        drawn,
        "gains",
        "What each router adds to the dense model",
        f"Differences are taken seed by seed, of the seeds that both have. Pale: small capacity. {INTERVALS}",
        _most_added(section),
    )


def _shots(section: Section, model: str, rows: Sequence[Row]) -> Part | None:
    """Curves over shots of a model that was probed with several numbers of them."""
    shots = draw_shots(rows, looks(section.rows))
    if shots is None:
        return None
    title = f"Few-shot accuracy of {model} over shots"
    alt = f"Accuracy of {model} on {', '.join(shots_of(rows))} against the number of pictures a class."
    return _figure(shots, f"shots-{model}", title, f"Means over seeds. {INTERVALS}", alt)


def _evaluated(section: Section, model: str, found: Sequence[Evaluated]) -> Part | None:
    """Curves over the capacity of evaluation, of a model with several of them."""
    drawn = draw_evaluated(found, looks(section.rows))
    if drawn is None:
        return None
    title = f"{model} evaluated at other capacities than that of its training"
    caption = f"The same weights; a table under Results has the figures. {INTERVALS}"
    alt = f"prec@1 of {model} against the capacity of evaluation, a curve a router."
    return _figure(drawn, f"evaluation-{model}", title, caption, alt)


def _curves(section: Section, histories: Histories, model: str, rows: Sequence[Row]) -> Part:
    ended = [run for run in histories.ended if run.model == model]
    drawn, crossings = draw_curves(rows, ended, histories, looks(section.rows))
    said = f"{'; '.join(crossings)}. " if crossings else ""
    caption = f"Means over seeds. {THINNED} {said}{INTERVALS}"
    return _figure(drawn, f"curves-{model}", f"Training of {model}", caption, _best(rows, UPSTREAM))


def _routing(section: Section, histories: Histories, model: str, rows: Sequence[Row]) -> Part | None:
    drawn = draw_health(rows, histories, looks(section.rows))
    if drawn is None:
        return None
    caption = (
        f"Means over the MoE layers and over seeds, of training steps. {THINNED} Under expert choice the load is fair "
        f"by construction and not drawn. docs/telemetry.md says what each figure means. {INTERVALS}"
    )
    alt = f"Load, lost tokens and certainty of the routers of {model} over training."
    return _figure(drawn, f"routing-{model}", f"Routing of {model} over training", caption, alt)


def _scores(section: Section) -> list[Column]:
    """Upstream, then the main probe on each data set."""
    return [UPSTREAM, *main_probes(run for row in section.rows for run in row.runs)]


def _most_added(section: Section) -> str:
    """Of each model and score, the router of the largest gain."""
    said = []
    for model, rows in of_model(section.rows).items():
        moe = [row for row in rows if row.router != "dense"]
        beside = [dense_beside(row, rows) for row in moe]
        for column in _scores(section):
            gained = [base and gain(row, base, column.figure) for row, base in zip(moe, beside)]
            gains = [(found.mean, i) for i, found in enumerate(gained) if found]
            if gains:
                points, i = max(gains)
                where = f"{router_text(moe[i])} at {capacity_words(moe[i].capacity)}"
                said.append(f"{model}, {column.heading.removesuffix(' %')}: {where} is highest, {points:+.2f} points.")
    return " ".join(said)


def _best(rows: Sequence[Row], column: Column) -> str:
    """What is to be seen, in a sentence a model."""
    sentences = []
    for model, its in of_model(rows).items():
        means = [(mean.mean, i) for i, row in enumerate(its) if (mean := row.mean(column.figure))]
        if means:
            best = its[max(means)[1]]
            at = "" if best.router == "dense" else f" at {capacity_words(best.capacity)}"
            what = column.heading.removesuffix(" %")
            sentences.append(f"{model}: {router_text(best)}{at} has the highest {what}, {_percent(best, column)}.")
    return " ".join(sentences)


def _percent(row: Row, column: Column) -> str:
    mean = row.mean(column.figure)
    return "no value" if mean is None else f"{100 * mean.mean:.1f} %"


def _figure(drawn: Drawing, name: str, title: str, caption: str, alt: str) -> Figure:
    svg, png = encoded(drawn)
    return Figure(name, title, caption.strip(), svg, png, alt)

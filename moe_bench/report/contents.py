"""What a report consists of, in reading order."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from moe_bench.report.answers import finding_parts, recommendation_parts
from moe_bench.report.collect import Collection
from moe_bench.report.evaluations import evaluation_table
from moe_bench.report.groups import Section
from moe_bench.report.listing import tally, torn_note
from moe_bench.report.page import Heading, Page, Part, Text, with_file_names
from moe_bench.report.paper import Published
from moe_bench.report.paper_tables import paper_tables
from moe_bench.report.recommend import Advice
from moe_bench.report.tables import Table, not_counted, result_table
from moe_bench.report.verdicts import Block

HOW_TO_READ = (
    "Each row is a mean over seeds ± half of its 95 % interval, by Student's t with the seed as the unit: it says how "
    "far the mean of many more seeds may be off, not how far single runs are apart. One seed gives no interval, two "
    "give a wide one (12.7 standard errors, against 4.3 of three and 2.8 of five). Runs of one seed and the same "
    "settings count once. Runs on other data or with another recipe are in another table. – is a gap.",
    "Accuracies are in percent of the whole validation or test set; device-days are devices × training seconds / "
    "86,400; GFLOP/img is a forward pass. Δ is the difference to another router of the same model and capacity, in "
    "points: the mean of the differences between runs of the same seed, with the 95 % interval of that mean.",
)


def report(
    collection: Collection,
    sections: Sequence[Section],
    published: Published | None,
    given: Advice,
    found: Sequence[Block],
    figures: Callable[[], Sequence[Part]],
) -> Page:
    """The recommendation, the findings, tables and ``figures``, and last the runs that are in none."""
    parts: list[Part] = [
        Text(f"Folder {collection.root}: {tally(collection)}."),
        *recommendation_parts(given),
        *finding_parts(found),
        Heading("Results"),
        *map(Text, HOW_TO_READ),
        *result_tables(sections),
        *(table for section in sections for table in evaluation_table(section)),
        Heading("The paper's tables"),
        *map(Text, published.notes if published else []),
        *tables_of_the_paper(sections, published),
        Heading("Figures"),
        *figures(),  # they may still be being drawn: nothing before this waits for them
        *_not_counted(collection, sections),
    ]
    return Page("moe-bench report", with_file_names(parts))


def result_tables(sections: Sequence[Section]) -> list[Table]:
    """One for each section with a finished run."""
    return [result_table(section) for section in sections if section.finished]


def tables_of_the_paper(sections: Sequence[Section], published: Published | None) -> list[Table]:
    """For each section with a finished run."""
    return [table for section in sections if section.finished for table in paper_tables(section, published)]


def _not_counted(collection: Collection, sections: Sequence[Section]) -> list[Part]:
    others = [run for section in sections for run in section.others]
    told = [not_counted(others)] if others else [Text("Every run is finished and counted.")]
    return [Heading("Not counted"), *told, *map(Text, torn_note(collection))]

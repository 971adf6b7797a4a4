"""A comparison as a page (compare.html); it needs no network."""

from pathlib import Path

from gcl.compare.cells import cells_of, gain_words, headings_of
from gcl.compare.chart import charts_of
from gcl.compare.comparison import Comparison
from gcl.compare.entry import METRICS
from gcl.compare.moved import moved_queries
from gcl.page import write_page


def write_comparison_page(path: Path, comparison: Comparison, pages: dict[int, str]) -> None:
    """Write the page; colours, spacing and words are in the template beside this file.

    Args:
        pages: a table's number -> the page beside this one that shows its two models' rankings.
    """
    write_page(
        path,
        Path(__file__).with_name("compare.html"),
        comparison=comparison,
        labels=METRICS,
        charts_of=lambda table: charts_of(table, comparison.baseline),
        headings_of=headings_of,
        rows_of=lambda table, entry: list(zip(headings_of(table), cells_of(table, entry), strict=True)),
        gain_words=gain_words,
        moved_queries=moved_queries,
        pages=pages,
    )

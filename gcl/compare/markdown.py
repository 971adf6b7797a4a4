"""A comparison as Markdown (compare.md)."""

import re
from collections.abc import Iterable

from gcl.compare.cells import Cell, cells_of, gain_words, headings_of
from gcl.compare.comparison import Comparison
from gcl.compare.entry import METRICS
from gcl.compare.table import Table

# A name may hold what Markdown or HTML would obey; an underscore within a word is none of it.
SPECIAL = re.compile(r"[\\`*|\[\]~$#]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])")
ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}


def markdown_from_comparison(comparison: Comparison) -> str:
    lines = ["# Comparison", ""]
    lines += gain_lines(comparison)
    for table in comparison.tables:
        lines += table_lines(table)
    lines += [f"- {plain(note)}" for note in comparison.footnotes]
    return "\n".join(lines) + "\n"


def gain_lines(comparison: Comparison) -> list[str]:
    if not comparison.gains:
        return []
    metrics = comparison.gain_metrics
    rows = [
        [
            named(gains.model, gains.is_published, gains.regime),
            *(" over ".join(filter(None, gain_words(gains.by_metric.get(m)))) for m in metrics),
        ]
        for gains in comparison.gains
    ]
    heading = f"Relative gains over {plain(comparison.baseline)}, each the mean of the tasks' own gains:"
    return [heading, "", *grid(["model", *(METRICS[name] for name in metrics)], rows), ""]


def table_lines(table: Table) -> list[str]:
    rows = [
        [named(entry.model, entry.is_published), *(cell_text(cell) for cell in cells_of(table, entry))]
        for entry in table.entries
    ]
    notes = [line for note in table.notes for line in (plain(note), "")]
    heading = [f"## {plain(table.title)}", "", plain(table.subtitle), ""]
    return [*heading, *notes, *grid(["model", *headings_of(table)], rows), ""]


def grid(headings: list[str], rows: Iterable[list[str]]) -> list[str]:
    ruled = [headings, ["---", *["---:"] * (len(headings) - 1)], *rows]
    return [f"| {' | '.join(row)} |" for row in ruled]


def named(model: str, is_published: bool, regime: str | None = None) -> str:
    notes = [note for note in (regime, "published" if is_published else None) if note]
    return plain(model) + (f" *({plain(', '.join(notes))})*" if notes else "")


def cell_text(cell: Cell) -> str:
    value = f"**{cell.value}**" if cell.is_best else f"<u>{cell.value}</u>" if cell.is_second else cell.value
    return value + cell.mark + (f" \\{cell.interval[:-1]}\\]" if cell.interval else "")


def plain(text: str) -> str:
    """Text that says what it says, and nothing to a renderer."""
    return SPECIAL.sub(r"\\\g<0>", "".join(ENTITIES.get(char, char) for char in text))

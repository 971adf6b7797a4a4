"""A comparison in the terminal."""

from rich.console import Console
from rich.table import Table as Grid
from rich.text import Text

from gcl.compare.cells import Cell, cells_of, gain_words, headings_of
from gcl.compare.comparison import Comparison
from gcl.compare.entry import METRICS
from gcl.compare.table import Table


def print_comparison(comparison: Comparison) -> None:
    """Names are text to rich, never markup."""
    console = Console()
    for table in comparison.tables:
        console.print(grid_from_table(table))
        for note in table.notes:
            console.print(Text(note, style="yellow"))
    if comparison.gains:
        console.print(grid_from_gains(comparison))
    for note in comparison.footnotes:
        console.print(Text(note, style="dim"))


def grid_from_table(table: Table) -> Grid:
    grid = Grid(title=Text(f"{table.title}\n{table.subtitle}"), title_justify="left")
    grid.add_column("model", overflow="fold", min_width=12)
    for heading in headings_of(table):
        grid.add_column(heading, justify="right", no_wrap=True)
    for entry in table.entries:
        grid.add_row(named(entry.model, entry.is_published), *(cell_text(cell) for cell in cells_of(table, entry)))
    return grid


def cell_text(cell: Cell) -> Text:
    """The value, and below it half the width of its interval: there is little room in a line."""
    text = Text(cell.value, style="bold" if cell.is_best else "underline" if cell.is_second else "")
    shown = Text.assemble(text, cell.mark)
    return Text.assemble(shown, (f"\n{cell.spread}", "dim")) if cell.spread else shown


def grid_from_gains(comparison: Comparison) -> Grid:
    grid = Grid(title=Text(f"relative gains over {comparison.baseline}, mean of the tasks' own"), title_justify="left")
    metrics = comparison.gain_metrics
    has_regimes = any(gains.regime for gains in comparison.gains)
    grid.add_column("model", overflow="fold", min_width=12)
    if has_regimes:
        grid.add_column("regime")
    for name in metrics:
        grid.add_column(METRICS[name], justify="right")
    for gains in comparison.gains:
        regime = [Text(gains.regime or "")] if has_regimes else []
        cells = [Text("\n".join(gain_words(gains.by_metric.get(name))).strip()) for name in metrics]
        grid.add_row(named(gains.model, gains.is_published), *regime, *cells)
    return grid


def named(model: str, is_published: bool) -> Text:
    return Text.assemble(model, (" published", "dim") if is_published else "")

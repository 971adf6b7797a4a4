"""What a finished run prints: the start and the end side by side, and where the report is."""

from pathlib import Path

from rich.console import Console
from rich.table import Table

from gcl.retrieval.pages.report import REPORT, Comparison, load_tasks


def print_summary(run: Path) -> None:
    """Print a table of the first and the last evaluation, naming what got worse, and the path of the report."""
    tasks = load_tasks(run)
    last = max((task.end for task in tasks if task.end is not None), default=0)
    table = Table("task", "metric", "start", f"step {last}", "change", title=str(run))
    for task in tasks:
        for comparison in task.comparisons:
            table.add_row(task.name, comparison.name, *cells(comparison))
    console = Console()
    console.print(table)
    console.print(f"report: {run / REPORT}", soft_wrap=True)


def cells(comparison: Comparison) -> tuple[str, str, str]:
    """Start, end and change as text."""
    start, end = ("" if value is None else f"{value:.4f}" for value in (comparison.start, comparison.end))
    if not comparison.verdict:
        return start, end, ""
    return start, end, f"{comparison.difference:+.4f}" + (" WORSE" if comparison.verdict == "worse" else "")

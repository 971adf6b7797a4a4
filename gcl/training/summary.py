"""What a finished run prints: the start and the end side by side, and where the report is."""

from pathlib import Path

from rich.console import Console
from rich.table import Table

from gcl.training.run import RunDirectory

SHOWN = ("ndcg@10", "recall@10", "mrr", "map", "loss")


def print_summary(run: RunDirectory, report: Path) -> None:
    """Print a table of the first and the last evaluation, naming what got worse, and the path of the report."""
    evaluations = run.evaluations()
    first, last = min(evaluations), max(evaluations)
    table = Table("task", "metric", f"step {first}", f"step {last}", "change", title=str(run.path))
    for task, values in evaluations[last].items():
        for metric in SHOWN:
            if metric in values:
                before, after = evaluations[first][task][metric], values[metric]
                worse = after > before if metric == "loss" else after < before
                table.add_row(
                    task,
                    metric,
                    f"{before:.4f}",
                    f"{after:.4f}",
                    f"{after - before:+.4f}" + (" WORSE" if worse else ""),
                )
    console = Console()
    console.print(table)
    console.print(f"report: {report}", soft_wrap=True)

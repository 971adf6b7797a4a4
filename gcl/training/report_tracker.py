"""A run's report.html, written anew after every evaluation."""

from pathlib import Path
from typing import Any

from gcl.data.shards import ShardReader
from gcl.retrieval.pages.report import write_report


class ReportTracker:
    """Keeps the page of a run up to date; `rows` are those that evaluations search."""

    def __init__(self, rows: ShardReader) -> None:
        self.rows = rows

    def begin(self, run: Path, settings: dict[str, Any], step: int, max_steps: int) -> None:
        self.run = run

    def log(self, row: dict[str, Any]) -> None:
        """Nothing: a page for every logged step would be too many."""

    def log_evaluation(self, step: int, metrics: dict[str, dict[str, Any]]) -> None:
        write_report(self.run, self.rows.__getitem__)

    def finish(self) -> None:
        write_report(self.run, self.rows.__getitem__)

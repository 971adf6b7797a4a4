"""All that a comparison shows: tables, gains over the baseline, and what the signs in them mean."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gcl.compare.entry import METRICS, Entry
from gcl.compare.gains import Gains, build_gains
from gcl.compare.measured import load_entries
from gcl.compare.names import baseline_of, told_apart
from gcl.compare.significance import MARKS, PERMUTATIONS
from gcl.compare.table import Table, build_tables, choose_published
from gcl.errors import UserError


@dataclass(frozen=True)
class Comparison:
    """What every output is written from."""

    baseline: str  # a model's name
    tables: list[Table]
    gains: list[Gains]

    @property
    def entries(self) -> list[Entry]:
        return [entry for table in self.tables for entry in table.entries]

    @property
    def gain_metrics(self) -> list[str]:
        """The columns of the gains."""
        return [name for name in METRICS if any(name in gains.by_metric for gains in self.gains)]

    @property
    def footnotes(self) -> list[str]:
        return footnotes_of(self)


def compare(runs: Sequence[Path], baseline: str | None, published: bool | None) -> Comparison:
    """Read folders and set what is in them beside each other.

    Raises:
        UserError: a folder without results, one that cannot be read, or no baseline of that name.
    """
    by_folder: dict[Path | None, Entry] = {}  # a folder that was named twice counts once
    for entry in (entry for run in runs for entry in load_entries(run)):
        by_folder.setdefault(entry.folder and entry.folder.resolve(), entry)
    measured = list(by_folder.values())
    entries = told_apart([*measured, *choose_published(measured, published)])
    if not entries:
        raise UserError("gcl compare needs folders: gcl compare RUN_A RUN_B, each written by gcl evaluate or a run")
    chosen = baseline_of(entries, baseline)
    tables = build_tables(entries, chosen)
    return Comparison(chosen, tables, build_gains(tables, chosen))


def footnotes_of(comparison: Comparison) -> list[str]:
    """What signs, brackets and columns mean, as far as they occur."""
    entries, tables = comparison.entries, comparison.tables
    notes = ["Bold: the best of a column; underlined: the second."]
    if any(entry.intervals for entry in entries):
        notes.append("[low, high]: 95 % interval, by bootstrap over queries; ±: half its width.")
    if any(table.p_values for table in tables):
        signs = ", ".join(f"{mark} p < {limit}" for limit, mark in sorted(MARKS.items(), reverse=True))
        notes.append(
            f"{signs} against {comparison.baseline}: paired randomisation test over queries ({PERMUTATIONS:,} "
            "permutations), corrected by Holm's method over the models tested."
        )
    untested = [entry.model for entry in entries if not entry.is_published and entry.per_query is None]
    if untested:
        names = ", ".join(dict.fromkeys(untested))
        notes.append(f"Without results by query, so neither intervals nor tests: {names}. gcl evaluate writes them.")
    if any(entry.is_published for entry in entries):
        notes.append("Published: Marqo's own figures for its benchmark, to three digits, not measured here.")
    if any("precision@10" in table.metrics for table in tables):
        notes.append("P@10 stands in the place of R@10 where queries have more relevant products than ten.")
    return notes + latency_notes(entries)


def latency_notes(entries: list[Entry]) -> list[str]:
    """On which device which models were timed."""
    models: dict[str, list[str]] = {}
    for entry in entries:
        if entry.latency and entry.model not in models.setdefault(entry.latency.device, []):
            models[entry.latency.device].append(entry.model)
    return [f"Milliseconds for one text and one image on {at}: {', '.join(names)}." for at, names in models.items()]

"""Two models' rankings of the same queries under each other, with pictures: a page for each task."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from gcl.compare.significance import with_queries_of
from gcl.compare.table import Table
from gcl.errors import UserError
from gcl.retrieval.embeddings.joined_reader import Reader, build_reader
from gcl.retrieval.pages.evaluation_report import write_evaluation_report
from gcl.retrieval.result import load_result


def write_side_by_side(tables: list[Table], folder: Path) -> dict[str, str]:
    """Write a page for every table with exactly two results of the same queries; table's title -> file's name."""
    pages = {}
    for table in tables:
        entries = [entry for entry in table.entries if entry.per_query is not None and entry.folder is not None]
        if len(entries) != 2 or with_queries_of(entries[0].per_query, entries[1].per_query) is None:
            continue
        loaded = [(entry.model, load_result(entry.folder)) for entry in entries if entry.folder is not None]
        results = [replace(result, facts={**result.facts, "model": model}) for model, result in loaded]
        reader = reader_of(results[0].facts.get("data") or {})
        name = re.sub(r"[^\w-]+", "_", table.title) + ".html"
        write_evaluation_report(folder / name, results, reader.__getitem__ if reader else None)
        pages[table.title] = name
    return pages


def reader_of(data: dict[str, Any]) -> Reader | None:
    """The rows that were searched, where they are still what they were."""
    if not isinstance(data.get("path"), str):
        return None
    try:
        reader = build_reader(data["path"], str(data.get("split")), data.get("corpus") or [])
        return reader if reader.fingerprint == data.get("fingerprint") else None
    except UserError:
        return None

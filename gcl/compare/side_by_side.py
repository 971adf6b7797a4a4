"""Two models' rankings of the same queries under each other, with pictures: a page for each task."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from gcl.compare.significance import with_queries_of
from gcl.compare.table import Table
from gcl.data.storage.folders import is_remote
from gcl.errors import UserError
from gcl.retrieval.embeddings.joined_reader import Reader, build_reader
from gcl.retrieval.pages.evaluation_report import write_evaluation_report
from gcl.retrieval.result import load_result


def write_side_by_side(tables: list[Table], folder: Path) -> dict[int, str]:
    """Write a page for every table with exactly two results of the same queries; table's number -> file's name."""
    pages = {}
    for number, table in enumerate(tables):
        entries = [entry for entry in table.entries if entry.per_query is not None and entry.folder is not None]
        if len(entries) != 2 or with_queries_of(entries[0].per_query, entries[1].per_query) is None:
            continue
        loaded = [(entry.model, load_result(entry.folder)) for entry in entries if entry.folder is not None]
        results = [replace(result, facts={**result.facts, "model": model}) for model, result in loaded]
        reader = reader_of(results[0].facts.get("data") or {})
        name = f"rankings_{number + 1}.html"
        write_evaluation_report(folder / name, results, reader.__getitem__ if reader else None)
        pages[number] = name
    return pages


def reader_of(data: dict[str, Any]) -> Reader | None:
    """The rows that were searched, where they lie on this machine and are still what they were.

    A result may come from anybody, so no address in it is asked.
    """
    folders = [data.get("path"), *(data.get("corpus") or [])]
    if any(folder is None or is_remote(folder) for folder in folders):
        return None
    try:
        reader = build_reader(folders[0], str(data.get("split")), folders[1:])
        return reader if reader.fingerprint == data.get("fingerprint") else None
    except UserError:
        return None

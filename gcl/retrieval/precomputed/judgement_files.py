"""Judgements from files that others wrote, by id: JSON, TREC's text, TSV and CSV with a header, Parquet."""

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pc_csv
import pyarrow.parquet as pq

from gcl.errors import UserError
from gcl.retrieval.precomputed.id_files import is_id
from gcl.retrieval.precomputed.named_file import NamedFile, named_file, reading

COLUMNS = ("query-id", "corpus-id", "score")  # BEIR's; "_" does for "-"
BATCH = 1 << 17  # lines that are Python's strings at once


@dataclass(frozen=True)
class JudgedIds:
    """One row for each judgement, in the file's order."""

    queries: pa.StringArray
    documents: pa.StringArray
    grades: np.ndarray  # (judged,) float64, finite; 0 and below: not relevant

    def filter(self, kept: np.ndarray) -> "JudgedIds":
        mask = pa.array(kept)
        return JudgedIds(self.queries.filter(mask), self.documents.filter(mask), self.grades[kept])


def load_judgements(text: str) -> JudgedIds:
    """The judgements of the file that `qrels`=`text` names.

    Raises:
        UserError: a file that is missing or unreadable, holds something else, or a grade that is no finite number.
    """
    file = named_file("qrels", text, READERS)
    with reading(file):
        judged = READERS[file.suffix](file)
    if len(judged.grades) == 0:
        raise UserError(f"{file} has no judgements; write one for each query and relevant document")
    if (bad := np.flatnonzero(~np.isfinite(judged.grades))).size:
        query, document = judged.queries[bad[0]].as_py(), judged.documents[bad[0]].as_py()
        raise UserError(f"{file} grades {document!r} for the query {query!r} with no finite number; give it one")
    return judged


@dataclass(frozen=True)
class JsonObject:
    """An object of a JSON file, its names packed at once: a dict for each query would take many times the memory."""

    names: pa.StringArray
    values: list[Any] | np.ndarray  # float64 where all are numbers


def json_object(pairs: list[tuple[str, Any]]) -> JsonObject:
    values = [value for _, value in pairs]
    numbers = all(isinstance(value, float) for value in values)
    return JsonObject(pa.array([name for name, _ in pairs], pa.string()), np.array(values) if numbers else values)


def json_judgements(file: NamedFile) -> JudgedIds:
    """{query_id: {document_id: grade}}"""
    content = file.path.read_bytes()
    top = json.loads(content, object_pairs_hook=json_object, parse_int=float)
    if not isinstance(top, JsonObject) or not all(isinstance(value, JsonObject) for value in top.values):
        raise UserError(f'{file} is not of the form {{"query id": {{"document id": grade}}}}')
    for query, judged in zip(top.names, top.values, strict=True):
        if not isinstance(judged.values, np.ndarray):
            raise UserError(f"{file} has a grade for the query {query.as_py()!r} that is no number; give it one")
    counts = [len(judged.names) for judged in top.values]
    return JudgedIds(
        top.names.take(pa.array(np.repeat(np.arange(len(counts)), counts))),
        pa.concat_arrays([pa.array([], pa.string()), *(judged.names for judged in top.values)]),
        np.concatenate([np.empty(0), *(judged.values for judged in top.values)]),
    )


def trec_judgements(file: NamedFile) -> JudgedIds:
    """Lines of "query iteration document grade"; the iteration is not read."""
    parts = [pa.table([pa.array([], pa.string())] * 3, names=list(COLUMNS))]
    with file.path.open(encoding="utf-8-sig") as lines:
        rows = trec_rows(lines, file)
        while batch := list(islice(rows, BATCH)):
            parts.append(pa.table([pa.array(column) for column in zip(*batch, strict=True)], names=list(COLUMNS)))
    return judged_ids(pa.concat_tables(parts), file)


def trec_rows(lines: Iterable[str], file: NamedFile) -> Iterator[tuple[str, str, str]]:
    for number, line in enumerate(lines, start=1):
        words = line.split()
        if len(words) == 4:
            yield words[0], words[2], words[3]
        elif words:
            raise UserError(f"{file} line {number} has {len(words)} columns; TREC's four are: query 0 document grade")


def separated_judgements(file: NamedFile) -> JudgedIds:
    """TSV or CSV with a header; every cell is read as text, so that 007 stays 007."""
    cells = pc_csv.ParseOptions(delimiter="\t" if file.suffix == ".tsv" else ",")
    names = pc_csv.open_csv(file.path, parse_options=cells).schema.names
    types = pc_csv.ConvertOptions(column_types=dict.fromkeys(names, pa.string()))
    return judged_ids(pc_csv.read_csv(file.path, parse_options=cells, convert_options=types), file)


def parquet_judgements(file: NamedFile) -> JudgedIds:
    if file.column is not None:
        raise UserError(f"{file} names one column; judgements are three, {', '.join(COLUMNS)}: give {file.path}")
    table = pq.ParquetFile(file.path)
    names = [name for name in table.schema_arrow.names if spelled(name) in COLUMNS]
    return judged_ids(table.read(columns=names), file)


def judged_ids(table: pa.Table, file: NamedFile) -> JudgedIds:
    """The three columns of a table, whatever else it has."""
    columns = {spelled(name): column for name, column in zip(table.column_names, table.columns, strict=True)}
    if lacking := [name for name in COLUMNS if name not in columns]:
        raise UserError(f"{file} has no column {', '.join(lacking)}; judgements are {', '.join(COLUMNS)}")
    queries, documents, grades = (columns[name] for name in COLUMNS)
    for ids in (queries, documents):
        if not is_id(ids.type) or ids.null_count:
            raise UserError(f"{file} has ids of type {ids.type}, {ids.null_count} missing; give all as texts")
    if pa.types.is_string(grades.type):
        grades = pc.utf8_trim_whitespace(grades)
    return JudgedIds(
        queries.cast(pa.string()).combine_chunks(),
        documents.cast(pa.string()).combine_chunks(),
        grades.cast(pa.float64()).to_numpy(),
    )


def spelled(column: str) -> str:
    return column.strip().lower().replace("_", "-")


READERS: dict[str, Callable[[NamedFile], JudgedIds]] = {
    ".json": json_judgements,
    ".txt": trec_judgements,
    ".qrels": trec_judgements,
    ".trec": trec_judgements,
    ".tsv": separated_judgements,
    ".csv": separated_judgements,
    ".parquet": parquet_judgements,
}

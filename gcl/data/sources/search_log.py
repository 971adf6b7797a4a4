"""A search log in DuckDB: the files of one log as one relation of queries, products and counts."""

import glob
from dataclasses import dataclass
from pathlib import Path

import duckdb

from gcl.data.record import ITEM_ID
from gcl.data.sources.catalog import GUESSES as CATALOG_GUESSES
from gcl.data.sources.catalog import field_columns, likely_column
from gcl.data.sources.sql import file_list, identifier, literal
from gcl.data.sources.table import DELIMITERS, JSONL, MISSING, PARQUET, find_table, header
from gcl.errors import UserError

QUERY, IMPRESSIONS = "query", "impressions"
NEEDED = {
    QUERY: ("query", "search_query", "search_term", "search_terms", "keyword", "keywords", "term", "q", "search"),
    ITEM_ID: (*CATALOG_GUESSES[ITEM_ID], "product", "item"),
}
COUNTED = {
    IMPRESSIONS: ("impressions", "impression_count", "impression", "shown", "views"),
    "clicks": ("clicks", "click_count", "click", "clicked"),
    "carts": ("carts", "add_to_cart", "add_to_carts", "cart_adds", "added_to_cart", "cart"),
    "purchases": ("purchases", "orders", "purchase_count", "purchase", "purchased", "conversions"),
}
COUNT = "DECIMAL(18, 6)"  # whose sum is the same in whatever order it is made
REJECTED = {  # DuckDB's names for lines of CSV that it cannot read
    "MISSING COLUMNS": "wrong number of columns",
    "TOO MANY COLUMNS": "wrong number of columns",
    "INVALID ENCODING": "wrong encoding",
}
MAX_LINE_BYTES = 2**21


@dataclass(frozen=True)
class SearchLog:
    """The files of a log and the columns that its fields stand in."""

    name: str  # for messages
    files: dict[Path, list[str]]  # each with its columns
    columns: dict[str, str]  # query, item_id, impressions if there are any, and the events -> column

    @property
    def counts(self) -> list[str]:
        return [name for name in self.columns if name not in NEEDED]


def find_log(path: str, wanted: dict[str, str], events: list[str]) -> SearchLog:
    """The log at `path`, a file or a pattern; an event that has no column is left out.

    Raises:
        UserError: no file, a file that cannot be read, or columns that cannot be found.
    """
    found = sorted(map(Path, glob.glob(str(Path(path).expanduser()), recursive=True)))
    if glob.has_magic(path) and not Path(path).exists():
        tables = [find_table(file) for file in found if file.is_file()]
    else:
        tables = [find_table(path)]
    files = {table: names for table in tables if (names := header(table))}  # a day without a search is an empty file
    if not files:
        raise UserError(f"{path} holds no search log; give a table with a row per query and product, or a pattern")
    present = list(dict.fromkeys(name for names in files.values() for name in names if name))
    for name in wanted:
        if name not in {*NEEDED, IMPRESSIONS, *events}:
            raise UserError(
                f"columns.{name} is no field of a search log; there are {', '.join([*NEEDED, IMPRESSIONS, *events])}"
            )
    columns = field_columns(present, wanted, path, NEEDED)
    for name in (IMPRESSIONS, *events):
        column = wanted.get(name) or likely_column(name, present, set(columns.values()), {name: (name,)} | COUNTED)
        if column is not None:
            columns[name] = column
    for table, names in files.items():
        lacking = [column for column in columns.values() if column not in names and table.suffix.lower() != JSONL]
        if lacking:
            raise UserError(f"{table} has no column {lacking[0]!r}, which other files of the log have")
    return SearchLog(Path(path).name, files, columns)


def log_relation(database: duckdb.DuckDBPyConnection, log: SearchLog) -> str:
    """SQL for the log's rows: query, item_id, a number for each count, what is wrong if anything, an example of it."""
    groups: dict[tuple[str, ...], list[Path]] = {}
    for table, names in log.files.items():
        kind = table.suffix.lower()
        groups.setdefault((kind, *(names if kind != JSONL else ())), []).append(table)
    read = [_cells(database, log, kind, files, names) for (kind, *names), files in groups.items()]
    return " UNION ALL ".join(f"({_checked(log, cells)})" for cells in read)


def rejected_lines(database: duckdb.DuckDBPyConnection) -> dict[str, int]:
    """How many lines of CSV could not be read, by reason; to be asked after the relation was read."""
    tables = database.execute("SELECT 1 FROM duckdb_tables() WHERE table_name = 'reject_errors'").fetchall()
    if not tables:
        return {}
    lines = "SELECT scan_id, file_id, line, min(error_type) AS error_type FROM reject_errors GROUP BY ALL"
    counted: dict[str, int] = {}
    for kind, count in database.execute(f"SELECT error_type, count(*) FROM ({lines}) GROUP BY 1 ORDER BY 1").fetchall():
        reason = REJECTED.get(kind, "bad CSV")
        counted[reason] = counted.get(reason, 0) + count
    return counted


def _cells(database: duckdb.DuckDBPyConnection, log: SearchLog, kind: str, files: list[Path], names: list[str]) -> str:
    """SQL for files of one kind with the same columns: every field as it is written, and whether it is a row."""
    if kind == PARQUET:
        source = f"read_parquet({file_list(files)}, union_by_name = true)"
        types = {row[0]: row[1] for row in database.execute(f"DESCRIBE SELECT * FROM {source}").fetchall()}
        cells = {field: _parquet_cell(column, types[column]) for field, column in log.columns.items()}
        is_row = "true"
    elif kind == JSONL:
        source, is_row = f"read_ndjson_objects({file_list(files)}, ignore_errors = true)", "json_type(json) = 'OBJECT'"
        cells = {field: _json_cell(column) for field, column in log.columns.items()}
    else:
        columns = ", ".join(f"c{place}: 'VARCHAR'" for place in range(len(names)))
        missing = ", ".join(map(literal, sorted(MISSING)))
        source = (  # without auto-detection, which faulty lines lead astray
            f"read_csv({file_list(files)}, auto_detect = false, header = true, columns = {{{columns}}}, "
            f"delim = {literal(DELIMITERS[kind])}, quote = '\"', escape = '\"', nullstr = [{missing}], "
            f"max_line_size = {MAX_LINE_BYTES}, store_rejects = true, rejects_limit = 0)"
        )
        cells = {field: f"c{names.index(column)}" for field, column in log.columns.items()}
        is_row = "true"
    selected = ", ".join(f"{cell} AS {identifier(field)}" for field, cell in cells.items())
    return f"SELECT {selected}, {is_row} AS gcl_is_row FROM {source}"


def _parquet_cell(column: str, kind: str) -> str:
    name = identifier(column)
    return _number_text(name) if kind in ("FLOAT", "DOUBLE") else f"CAST({name} AS VARCHAR)"


def _json_cell(column: str) -> str:
    pointer = literal("/" + column.replace("~", "~0").replace("/", "~1"))
    number = _number_text(f"TRY_CAST(json ->> {pointer} AS DOUBLE)")
    return f"CASE WHEN json_type(json, {pointer}) = 'DOUBLE' THEN {number} ELSE json ->> {pointer} END"


def _number_text(number: str) -> str:
    """12.0 is written 12, as `text_of` writes it, and NaN is nothing."""
    whole = f"WHEN {number} = floor({number}) AND abs({number}) < 1e15 THEN CAST(CAST({number} AS BIGINT) AS VARCHAR)"
    return f"CASE {whole} WHEN isfinite({number}) THEN CAST({number} AS VARCHAR) END"


def _checked(log: SearchLog, cells: str) -> str:
    """SQL for what `cells` selects, with texts normalised, counts made numbers, and the first problem of each row."""
    # The spellings of one query: Unicode's composed form, lower case, single spaces.
    query = r"coalesce(trim(regexp_replace(lower(nfc_normalize(query)), '[\s\p{Z}]+', ' ', 'g')), '')"
    item_id = r"coalesce(trim(item_id, E' \t\r\n'), '')"
    texts = f"SELECT * REPLACE ({query} AS query, {item_id} AS item_id) FROM ({cells})"
    names = [identifier(name) for name in log.counts]
    numbers = ", ".join(f"coalesce(TRY_CAST({name} AS {COUNT}), 0) AS {name}" for name in names)
    is_bad = {name: f"{name} IS NOT NULL AND coalesce(TRY_CAST({name} AS {COUNT}), -1) < 0" for name in names}
    bad_count = " ".join(f"WHEN {test} THEN {name}" for name, test in is_bad.items())
    problem = (
        "CASE WHEN gcl_is_row IS NOT true THEN 'bad JSON' WHEN query = '' THEN 'empty query' "
        f"WHEN item_id = '' THEN 'empty item_id' WHEN {' OR '.join(is_bad.values())} THEN 'bad count' END"
    )
    example = (
        "CASE problem WHEN 'empty query' THEN item_id WHEN 'empty item_id' THEN query "
        f"WHEN 'bad count' THEN CASE {bad_count} END END"
    )
    return f"SELECT query, item_id, {numbers}, {problem} AS problem, {example} AS example FROM ({texts})"

r"""A shop's search log, joined to its catalogue: a row for each query and each product that it led to, with a score.

The log counts how often a product was shown to a query (impressions) and what followed (clicks, carts, purchases). Rows
of the same product and query are added up; spellings that differ in case, spaces or Unicode form are the same query.
A pair's value is the sum of its events, each with its weight. Its score is its value per impression, smoothed, in units
of the log's average:

    value   = sum over events e of weight_e * events_e
    average = (value of all pairs) / (impressions of all pairs)
    score   = (value + smoothing * average) / (impressions + smoothing) / average

That is additive smoothing towards the mean, the m-estimate of B. Cestnik, "Estimating Probabilities: A Crucial Task in
Machine Learning" (ECAI 1990), with m = smoothing: every pair starts with so many impressions of average success. 1 is
the log's average. A log without impressions has no rates: score = ln(1 + value).
"""

import itertools
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from operator import itemgetter
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console

from gcl.data.record import ITEM_ID, SCORE, Refusal, SourceRow
from gcl.data.sources.catalog import CatalogSource
from gcl.data.sources.search_log import IMPRESSIONS, QUERY, SearchLog, find_log, log_relation, rejected_lines
from gcl.data.sources.sql import file_list, identifier, literal, open_database
from gcl.errors import UserError

WEIGHTS = {"clicks": 1.0, "carts": 3.0, "purchases": 10.0}
BATCH_ROWS = 1 << 16


@dataclass(frozen=True)
class Joined:
    """The pairs of a log whose product is in the catalogue, on disk, and what was lost on the way there."""

    folder: tempfile.TemporaryDirectory[str]  # deleted with this object
    file: Path  # place of the product in the catalogue, query and score, ordered by place and query
    pairs: int
    refusals: list[Refusal]


class BehaviourSource:
    """The pairs of query and product in a search log, with a score, in the catalogue's order.

    A row has the fields of the catalogue's row, `query` and `score`. What the log holds but the catalogue does not, and
    rows of the log that cannot be used, are counted.

    Raises:
        UserError: files or columns that cannot be found, settings that do not fit the log, or no pair at all.
    """

    def __init__(
        self,
        path: str,  # the search log (.csv, .tsv, .jsonl, .parquet), or a pattern of such files, as 'logs/*.parquet'
        catalog: CatalogSource,  # the products
        columns: dict[str, str] | None = None,  # field: the log's column, as {query: term, clicks: n}; null: by name
        weights: dict[str, float] | None = None,  # of each event; null: {clicks: 1, carts: 3, purchases: 10}
        smoothing: float = 20.0,  # impressions of average success that every pair starts with; needs impressions
        min_impressions: int = 0,  # pairs that were shown less often are left out
        min_events: int = 1,  # pairs with fewer events are left out; 0: keep what was shown and never chosen
        memory_megabytes: int = 1000,  # MB for the join; what does not fit goes to files in TMPDIR
    ) -> None:
        if smoothing <= 0:
            raise UserError(f"smoothing {smoothing} must be above 0: a pair without impressions has no rate")
        if memory_megabytes < 100:
            raise UserError(f"memory_megabytes {memory_megabytes} is too little; give the join at least 100")
        chosen = WEIGHTS if weights is None else weights
        if min(chosen.values(), default=0) < 0 or sum(chosen.values()) <= 0 or IMPRESSIONS in chosen:
            raise UserError(f"weights {chosen} must be numbers from 0 up, one of them above 0, for events")
        self.log = find_log(path, dict(columns or {}), list(chosen))
        self.weights = {name: weight for name, weight in chosen.items() if name in self.log.columns}
        lacking = [name for name in (weights or {}) if name not in self.weights]
        if lacking or not self.weights:
            named = lacking or list(chosen)
            raise UserError(
                f"{path} has no column for {' or '.join(named)}; it has "
                f"{', '.join(next(iter(self.log.files.values())))}; name it: 'source.columns={{{named[0]}: COLUMN}}'"
            )
        if min_impressions > 0 and IMPRESSIONS not in self.log.columns:
            raise UserError(f"min_impressions {min_impressions} needs impressions, which {path} does not count")
        self.catalog, self.folder = catalog, catalog.folder
        self.smoothing, self.min_impressions, self.min_events = smoothing, min_impressions, min_events
        self.memory_megabytes = memory_megabytes

    def __len__(self) -> int:
        return self._joined.pairs + len(self._joined.refusals)

    def __iter__(self) -> Iterator[SourceRow | Refusal]:
        yield from self._joined.refusals
        products = self.catalog.picked(place for place, _ in itertools.groupby(self._column("place")))
        pairs = zip(*map(self._column, ("place", QUERY, SCORE)), strict=True)
        for product, (_, found) in zip(products, itertools.groupby(pairs, key=itemgetter(0)), strict=True):
            for _, query, score in found:
                if isinstance(product, Refusal):
                    yield product
                else:
                    yield SourceRow({**product.fields, QUERY: query, SCORE: score}, product.images, product.origin)

    def _column(self, name: str) -> Iterator[Any]:
        """A column of the joined pairs."""
        for batch in pq.ParquetFile(self._joined.file).iter_batches(BATCH_ROWS, columns=[name]):
            yield from batch.column(0).to_pylist()

    @cached_property
    def _joined(self) -> Joined:
        folder = tempfile.TemporaryDirectory(prefix="gcl-")
        work = Path(folder.name)
        ids = known = write_ids(self.catalog.item_ids(), work / "ids.parquet")
        if self.catalog.where is not None:  # what the user leaves out is not lost
            known = write_ids(self.catalog.item_ids(with_rows_left_out=True), work / "known.parquet")
        subject = f"{self.log.name} cannot be joined to {self.catalog.table.name}"
        with (
            Console(stderr=True).status(f"joining {self.log.name} to {self.catalog.table.name}"),
            open_database(self.memory_megabytes, work, self.log.files, subject) as database,
        ):
            add_up(database, self.log)
            refusals = self._refusals(database)
            database.execute(
                f"CREATE TABLE products AS SELECT item_id, min(place) AS place FROM {ids} GROUP BY item_id"
            )
            pairs = f"FROM pairs WHERE problem IS NULL AND {self._is_kept()}"
            lost = f"FROM (SELECT * {pairs}) ANTI JOIN {known} USING (item_id)"
            counts = "SELECT count(*), count(DISTINCT item_id), sum(log_rows), min(item_id)"
            ((count, items, rows, example),) = database.execute(f"{counts} {lost}").fetchall()
            if count:
                detail = f"{count} queries for {items} products in {rows} rows, such as {example[:80]!r}"
                refusals.append(Refusal(self.log.name, "product not in the catalogue", detail, count))
            file = work / "joined.parquet"
            rated = f"SELECT item_id, query, {self._score(database)} AS score {pairs}"
            joined = f"SELECT place, query, score FROM ({rated}) JOIN products USING (item_id) ORDER BY place, query"
            database.execute(f"COPY ({joined}) TO {literal(str(file.resolve()))}")
        (work / "duckdb").unlink()
        rows = pq.ParquetFile(file).metadata.num_rows
        if not rows:
            why = f"the log's {refusals[-1].detail}" if count else "the log counts too few events"
            raise UserError(
                f"no query of {self.log.name} leads to a product of {self.catalog.table}: {why}; "
                "columns and catalog.columns name the ids"
            )
        return Joined(folder, file, rows, refusals)

    def _refusals(self, database: duckdb.DuckDBPyConnection) -> list[Refusal]:
        """What of the log cannot be used, by reason."""
        name, query = self.log.name, "SELECT problem, sum(log_rows), min(example) FROM pairs WHERE problem IS NOT NULL"
        unread = [Refusal(name, reason, f"{count} lines", count) for reason, count in rejected_lines(database).items()]
        found = database.execute(f"{query} GROUP BY problem ORDER BY problem").fetchall()
        return unread + [
            Refusal(name, reason, f"{count} rows" + (f", such as {example[:80]!r}" if example else ""), int(count))
            for reason, count, example in found
        ]

    def _is_kept(self) -> str:
        events = " + ".join(map(identifier, self.weights))
        shown = f" AND {IMPRESSIONS} >= {self.min_impressions}" if self.min_impressions > 0 else ""
        return f"{events} >= {self.min_events}{shown}"

    def _score(self, database: duckdb.DuckDBPyConnection) -> str:
        """The formula above in SQL."""
        value = " + ".join(f"{weight!r}::DOUBLE * {identifier(name)}::DOUBLE" for name, weight in self.weights.items())
        if IMPRESSIONS not in self.log.columns:
            return f"ln(1 + {value})"
        sums = ", ".join(f"sum({identifier(name)})" for name in (IMPRESSIONS, *self.weights))
        ((impressions, *events),) = database.execute(f"SELECT {sums} FROM pairs WHERE problem IS NULL").fetchall()
        total = sum(weight * float(count or 0) for weight, count in zip(self.weights.values(), events, strict=True))
        if not impressions or not total:
            raise UserError(
                f"{self.log.name} counts {float(impressions or 0):g} impressions and events of value {total:g}; "
                "without any there is no average to measure by; columns names the columns that count them"
            )
        average = total / float(impressions)
        smoothing = float(self.smoothing)
        return f"({value} + {smoothing * average!r}) / ({IMPRESSIONS}::DOUBLE + {smoothing!r}) / {average!r}"


def write_ids(item_ids: Iterator[str], file: Path) -> str:
    """Write every product's id and place in the catalogue; returns them in SQL."""
    schema = pa.schema({"item_id": pa.string(), "place": pa.int64()})
    numbered = ((item_id, place) for place, item_id in enumerate(item_ids) if item_id)
    with pq.ParquetWriter(file, schema) as writer:
        while batch := list(itertools.islice(numbered, BATCH_ROWS)):
            writer.write_batch(pa.record_batch(list(zip(*batch, strict=True)), schema=schema))
    return f"read_parquet({file_list([file])})"


def add_up(database: duckdb.DuckDBPyConnection, log: SearchLog) -> None:
    """Make the table `pairs`: the log's counts by product and query, and rows that cannot be used by reason."""
    sums = ", ".join(f"sum({name}) AS {name}" for name in map(identifier, log.counts))
    texts = ", ".join(f"CASE WHEN problem IS NULL THEN {name} END AS {name}" for name in (QUERY, ITEM_ID))
    database.execute(
        f"CREATE TABLE pairs AS SELECT problem, {texts}, {sums}, count(*) AS log_rows, min(example) AS example "
        f"FROM ({log_relation(database, log)}) GROUP BY ALL"
    )

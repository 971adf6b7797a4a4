"""Review titles as queries of products: grouped, filtered and joined by DuckDB, out of core."""

import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console

from gcl.data.sources.sql import file_list, open_database
from gcl.data.sources.table import PARQUET
from gcl.errors import UserError

MEMORY_MEGABYTES = 1024  # of DuckDB; what does not fit goes to a temporary folder
PRODUCTS_PER_INSERT = 50_000
QUERIES_PER_BATCH = 1000
MAX_QUERY_CHARACTERS = 200  # a longer title is a review
TWO_WORDS = r"\pL.*[^\pL&#;''’].*\pL"

# A title as it would be typed: in lower case and single spaces, without tags, nor marks before and behind it.
TYPED = r"""
    SELECT parent_asin AS item_id, rating, helpful_vote, trim(regexp_replace(regexp_replace(
        lower(title), '<[^<>]*>', ' ', 'g'), '\s+', ' ', 'g'), ' .,;:!?*"''~-') AS typed
    FROM {reviews}
"""
# One row for each query of each product, whatever its rating: how general a query is shows in all of them. Reviews
# without a query are counted under the query NULL, those that could not be read under the product NULL.
PAIRS = f"""
    CREATE TABLE pairs AS
    SELECT item_id, query, count(*) AS reviews,
        sum(1 + greatest(coalesce(helpful_vote, 0), 0)) FILTER (rating >= $min_rating) AS score
    FROM (
        SELECT *, CASE WHEN length(typed) <= {MAX_QUERY_CHARACTERS} AND regexp_matches(typed, $two_words)
            AND typed NOT LIKE '%&lt;%' THEN typed END AS query
        FROM ({TYPED})
    )
    GROUP BY item_id, query
"""
QUERIES = """
    CREATE TABLE queries AS
    SELECT place, query, score
    FROM pairs
    JOIN (SELECT query FROM pairs GROUP BY query HAVING count(*) <= $max_products) USING (query)
    JOIN (SELECT item_id, min(place) AS place FROM products GROUP BY item_id) USING (item_id)
    WHERE score IS NOT NULL
    QUALIFY row_number() OVER (PARTITION BY place ORDER BY score DESC, query) <= $per_product
"""
COUNTS = """
    SELECT (SELECT count(*) FROM products), (SELECT count(DISTINCT place) FROM queries),
        (SELECT count(DISTINCT item_id) FROM products),
        (SELECT coalesce(sum(reviews), 0) FROM pairs WHERE item_id IS NOT NULL),
        (SELECT coalesce(sum(reviews), 0) FROM pairs WHERE item_id IS NULL)
"""
JSON_READER = """
    read_json({files}, format = 'newline_delimited', ignore_errors = true, columns =
        {{parent_asin: 'VARCHAR', title: 'VARCHAR', rating: 'DOUBLE', helpful_vote: 'BIGINT'}})
"""
PARQUET_READER = "read_parquet({files})"


@dataclass(frozen=True)
class QueryRules:
    """Which review titles are queries."""

    min_rating: float  # stars of the review
    max_products: int  # that the title was given to
    per_product: int  # queries; those with the highest scores


@dataclass(frozen=True)
class Query:
    """A query of a product."""

    place: int  # of the product, as the caller counts
    text: str
    score: float  # how much evidence there is for it


class ReviewQueries:
    """The queries of products, by the product's place and then by falling score.

    A score is the sum, over the reviews of the product that have this title, of 1 + the review's helpful votes.

    Args:
        reviews: whole files, all .parquet or all .jsonl and .jsonl.gz.
        products: place and id of each product; of places with one id the first counts.

    Raises:
        UserError: files that are none of reviews, or no query for any product.
    """

    def __init__(self, reviews: list[Path], products: Iterable[tuple[int, str]], rules: QueryRules) -> None:
        if len({file.suffix == PARQUET for file in reviews}) > 1:
            raise UserError(
                f"of {reviews[0]} and the other review files some are {PARQUET} and some not; give one kind"
            )
        self._folder = tempfile.TemporaryDirectory(prefix="gcl-reviews-")
        self._result = Path(self._folder.name) / "queries.parquet"
        with (
            tempfile.TemporaryDirectory(prefix="gcl-reviews-") as temporary,
            open_database(MEMORY_MEGABYTES, Path(temporary), reviews, f"the reviews in {reviews[0]}") as database,
        ):
            insert_products(database, products)
            join_reviews(database, reviews, rules)
            self._write(database)
            self.products, found, asked, lines, unreadable = database.execute(COUNTS).fetchall()[0]
        told = f"{found} of {asked} products have a query from {lines} reviews ({unreadable} more cannot be read)"
        if not found:
            raise UserError(f"{told}; does {reviews[0]} hold reviews (parent_asin, title, rating) of these products?")
        Console(stderr=True, soft_wrap=True).print(told)

    def __len__(self) -> int:
        return int(pq.read_metadata(self._result).num_rows)

    def __iter__(self) -> Iterator[Query]:
        with pq.ParquetFile(self._result) as file:
            for batch in file.iter_batches(QUERIES_PER_BATCH):
                columns = (batch.column(name).to_pylist() for name in ("place", "query", "score"))
                yield from map(Query, *columns)

    def _write(self, database: duckdb.DuckDBPyConnection) -> None:
        query = "SELECT place, query, score::DOUBLE AS score FROM queries ORDER BY place, score DESC, query"
        with (
            database.sql(query).to_arrow_reader(QUERIES_PER_BATCH) as rows,
            pq.ParquetWriter(self._result, rows.schema) as file,
        ):
            for batch in rows:
                file.write_batch(batch)


def insert_products(database: duckdb.DuckDBPyConnection, products: Iterable[tuple[int, str]]) -> None:
    database.execute("CREATE TABLE products (place BIGINT, item_id VARCHAR)")
    remaining = iter(products)
    while batch := list(islice(remaining, PRODUCTS_PER_INSERT)):
        places, ids = zip(*batch, strict=True)
        database.register("batch", pa.table({"place": pa.array(places), "item_id": pa.array(ids)}))
        database.execute("INSERT INTO products SELECT place, item_id FROM batch")
        database.unregister("batch")


def join_reviews(database: duckdb.DuckDBPyConnection, reviews: list[Path], rules: QueryRules) -> None:
    reader = PARQUET_READER if reviews[0].suffix == PARQUET else JSON_READER
    given = {"min_rating": rules.min_rating, "two_words": TWO_WORDS}
    database.execute(PAIRS.format(reviews=reader.format(files=file_list(reviews))), given)
    database.execute(QUERIES, {"max_products": rules.max_products, "per_product": rules.per_product})

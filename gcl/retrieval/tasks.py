"""A retrieval task on rows: which side asks, which side answers, and what counts as relevant."""

import math
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gcl.data.record import ITEM_ID
from gcl.errors import UserError
from gcl.retrieval.embeddings.rows import Rows
from gcl.retrieval.metrics import Judgements
from gcl.retrieval.questions import Questions

SEPARATOR = "_{!@#~}_"  # GCL's, behind each of a query's values
MAX_RELEVANT = 1000  # documents judged relevant to one query, as in GCL
GRADES = 99  # a column of weights is rescaled to 1..GRADES + 1, as in GCL


@dataclass(frozen=True)
class Asked:
    """A task on certain rows."""

    questions: Questions
    asking: np.ndarray  # (queries,) the row whose left side asks
    documents: np.ndarray  # (documents,) the row that a document is


@dataclass
class RetrievalTask:
    """Each distinct value of the left side's texts asks; every product is a document; rows say which are relevant."""

    left: dict[str, float]  # field -> weight: what asks, such as {title: 1.0}
    right: dict[str, float] = field(default_factory=lambda: {"image": 1.0})  # field -> weight: what answers
    relevant: str | None = None  # field: rows equal in it to the asking one are relevant; null: the left side's texts
    weight: str | None = None  # number that grades how relevant a row is, rescaled to 1..100; null: all alike
    max_queries: int = 4000  # sampled from the distinct values as GCL does
    sampling: Literal["uniform", "by_weight"] = "uniform"  # of queries; by_weight: in proportion to their rows' weights
    sample_rows: int | None = None  # rows that take part, drawn with a fixed seed; null: all
    context_length: int | None = None  # tokens read of each text; null: as many as the model reads
    dimensions: int | None = None  # prefix of the embeddings that is compared; null: all of them
    regime: Literal["hard", "easy"] | None = None  # of the Marqo-Ecommerce benchmark; null: another task
    slices: list[str] = field(default_factory=list)  # fields whose values divide the queries in the report

    def __post_init__(self) -> None:
        for name in ("max_queries", "sample_rows", "context_length", "dimensions"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"task {name}={value} must be at least 1")
        for name, side in (("left", self.left), ("right", self.right)):
            if not side or not all(0 < weight < math.inf for weight in side.values()):
                raise UserError(
                    f"task {name}={side} is no side; give fields with weights above 0: {name}={{title: 1.0}}"
                )

    def check_dimensions(self, dimensions: int) -> None:
        """Refuse a prefix that is longer than the model's embeddings."""
        if self.dimensions is not None and self.dimensions > dimensions:
            raise UserError(f"task dimensions {self.dimensions} are more than the model's {dimensions}; give fewer")

    @property
    def fields(self) -> list[str]:
        """What is embedded."""
        return [*self.left, *self.right]

    @property
    def columns(self) -> list[str]:
        """What is read of rows beside their images."""
        named = [name for name in (self.relevant, self.weight) if name is not None]
        return list(dict.fromkeys([ITEM_ID, *self.fields, *named, *self.slices]))

    def ask(self, rows: Rows, texts: list[str], asking_rows: int | None = None) -> Asked:
        """The queries, the documents and the judgements.

        Documents are the distinct item_ids, each as its first row. Queries are sampled as GCL's evaluator does: the
        sorted distinct strings by RandomState(1).permutation(n)[:k], or by weight without replacement.

        Args:
            texts: the text fields among the left side's; a query is their values, each with GCL's separator behind it.
            asking_rows: those from the first on that ask and say what is relevant; the others are only searched.

        Raises:
            UserError: no row has all of them, no left field is a text, or a weight is no number.
        """
        if not texts:
            raise UserError(f"task left={self.left} has no text field; a query is told from others by its text")
        numbers = self._sampled(len(rows))
        documents, document_of = distinct_items(rows, numbers)
        asks: np.ndarray = numbers < (len(rows) if asking_rows is None else asking_rows)
        strings, has_query = query_strings(rows, texts, numbers)
        has_query &= asks
        if not has_query.any():
            raise UserError(f"no row has the query field {', '.join(texts)} that task.left names")
        grades = np.ones(len(numbers))
        grades[asks] = self._grades(rows, numbers[asks])
        encoded = strings.filter(pa.array(has_query)).dictionary_encode()
        query_rows = numbers[has_query]
        codes, first = np.asarray(encoded.indices).astype(np.int64), np.zeros(len(encoded.dictionary), np.int64)
        first[codes[::-1]] = query_rows[::-1]  # the first row of each string is written last
        chosen = self._chosen(encoded.dictionary, np.bincount(codes, grades[has_query]))
        value_of = self._relevance_values(rows, numbers, strings, has_query, asks)
        chosen = chosen[value_of[first[chosen]] >= 0]
        if len(chosen) == 0:
            raise UserError(f"no row that asks has the field {self.relevant} that task.relevant names")
        judgements = judged(value_of, numbers, first[chosen], document_of, grades)
        names = encoded.dictionary.take(pa.array(chosen)).to_pylist()
        ids = rows.column(ITEM_ID).take(pa.array(documents)).cast(pa.large_string())
        readable = [name.replace(SEPARATOR, " ").strip() for name in names]
        slices = {name: rows.column(name).take(pa.array(first[chosen])).to_pylist() for name in self.slices}
        document_of_row = np.zeros(len(rows), np.int64)
        document_of_row[numbers] = document_of
        own = document_of_row[first[chosen]]
        return Asked(Questions(names, readable, ids, judgements, slices, own), first[chosen], documents)

    def _sampled(self, rows: int) -> np.ndarray:
        if self.sample_rows is None or self.sample_rows >= rows:
            return np.arange(rows)
        return np.sort(np.random.RandomState(1).permutation(rows)[: self.sample_rows])

    def _grades(self, rows: Rows, numbers: np.ndarray) -> np.ndarray:
        """Each row's grade: 1, or its weight as GCL rescales it, int((w - min) / (max - min) * 99 + 1)."""
        if self.weight is None:
            return np.ones(len(numbers))
        column = rows.column(self.weight).take(pa.array(numbers))
        try:
            weights = np.asarray(column.cast(pa.float64()))
        except pa.ArrowInvalid as error:
            raise UserError(f"task weight={self.weight} is no number in every row: {error}") from error
        if not np.isfinite(weights).all():
            raise UserError(f"task weight={self.weight} is not finite in every row; leave such rows out of the shards")
        low, high = weights.min(), weights.max()
        if low == high:
            return np.ones(len(numbers))
        return np.trunc((weights - low) / (high - low) * GRADES + 1)

    def _chosen(self, strings: pa.LargeStringArray, weights: np.ndarray) -> np.ndarray:
        """The queries that are asked, as places among the distinct strings."""
        in_order = np.asarray(pc.sort_indices(strings)).astype(np.int64)
        random, count = np.random.RandomState(1), min(len(in_order), self.max_queries)
        if self.sampling == "uniform":
            return in_order[random.permutation(len(in_order))[:count]]
        shares = weights[in_order] / weights.sum()
        return in_order[random.choice(len(in_order), count, replace=False, p=shares)]

    def _relevance_values(
        self,
        rows: Rows,
        numbers: np.ndarray,
        strings: pa.LargeStringArray,
        has_query: np.ndarray,
        asks: np.ndarray,
    ) -> np.ndarray:
        """For each row of the split a number that relevant rows share; -1 where a row is relevant to nothing."""
        values = strings if self.relevant is None else rows.column(self.relevant).take(pa.array(numbers))
        there = has_query if self.relevant is None else asks & np.asarray(pc.not_equal(values, ""))
        found = np.full(len(rows), -1, np.int64)
        found[numbers] = np.where(there, np.asarray(values.dictionary_encode().indices), -1)
        return found


def distinct_items(rows: Rows, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The first row of each product, and for each of `numbers` which of those it belongs to."""
    items = rows.column(ITEM_ID).take(pa.array(numbers)).dictionary_encode()
    document_of = np.asarray(items.indices).astype(np.int64)
    first = np.zeros(len(items.dictionary), np.int64)
    first[document_of[::-1]] = numbers[::-1]
    return first, document_of


def query_strings(rows: Rows, texts: list[str], numbers: np.ndarray) -> tuple[pa.LargeStringArray, np.ndarray]:
    """Each row's query as GCL writes it, and whether it has all of its texts."""
    columns = [rows.column(name).take(pa.array(numbers)) for name in texts]
    parts = [part for column in columns for part in (column, pa.scalar(SEPARATOR, pa.large_string()))]
    there = np.logical_and.reduce([np.asarray(pc.not_equal(column, "")) for column in columns])
    return pc.binary_join_element_wise(*parts, pa.scalar("", pa.large_string())), there


def judged(
    value_of: np.ndarray, numbers: np.ndarray, asking: np.ndarray, document_of: np.ndarray, grades: np.ndarray
) -> Judgements:
    """The relevant documents of each query, at most MAX_RELEVANT: the highest grades first, in file order within one.

    Args:
        value_of: (rows of the split,) what relevant rows share.
        numbers: (rows,) those that take part.
        asking: (queries,) the row that asks.
        document_of: (rows,) the document of each of `numbers`.
        grades: (rows,) of each of `numbers`.
    """
    values = value_of[numbers]
    order = np.lexsort((-grades, values))  # stable: file order within a grade
    in_order = values[order]
    begin = np.searchsorted(in_order, value_of[asking], "left")
    counts = np.searchsorted(in_order, value_of[asking], "right") - begin
    counts[value_of[asking] < 0] = 0
    queries = np.repeat(np.arange(len(asking)), counts)
    places = np.arange(len(queries)) - np.repeat(np.cumsum(counts) - counts, counts) + np.repeat(begin, counts)
    chosen = order[places]
    # A product with several rows counts once, with its best: pairs are in descending grade within a query.
    _, once = np.unique(queries * (document_of.max() + 1) + document_of[chosen], return_index=True)
    once = np.sort(once)
    queries, chosen = queries[once], chosen[once]
    rank = np.arange(len(queries)) - np.searchsorted(queries, queries, "left")
    kept = rank < MAX_RELEVANT
    return Judgements(queries[kept], document_of[chosen[kept]], grades[chosen[kept]])

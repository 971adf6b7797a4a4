"""The queries that the page of an evaluation shows: best, worst, and most changed between two models."""

from collections.abc import Callable, Collection
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gcl.data.record import ITEM_ID, Record
from gcl.errors import UserError
from gcl.retrieval.metrics import DEPTH
from gcl.retrieval.pages.failures import Cluster, Failure, Texts, column_in_words
from gcl.retrieval.pages.gallery import PICTURES, Gallery, Hit, Product, Query, Row
from gcl.retrieval.result import Result

QUERIES = 12  # shown of each kind; half as many of the best and the worst where two models stand side by side
WANTED = 3  # relevant products shown beside a query
MODELS = ("baseline", "second")  # what two are called
PAIRS = 4  # failures shown of each cluster
TITLE, QUERY = 120, 400  # characters shown
JUDGED_BY = "ndcg@10"


@dataclass(frozen=True)
class Pair:
    """A failure as it is shown."""

    query: str
    wanted: Product
    got: Product
    differences: list[tuple[str, str, str]]  # column, of the wanted, of the retrieved


class SearchedRows:
    """The rows that were searched, as far as they can be read: any other is empty."""

    def __init__(self, rows: Callable[[int], Record] | None) -> None:
        self._rows = rows
        self.unreadable: dict[int, str] = {}  # row -> why

    def __call__(self, number: int) -> Record:
        nothing = Record({ITEM_ID: ""}, {})
        if self._rows is None:
            return nothing
        try:
            return self._rows(number)
        except UserError as error:
            self.unreadable[number] = str(error)
            return nothing


class ShownQueries:
    """Makes pictures of queries, with a row for each model."""

    def __init__(self, results: list[Result], rows: SearchedRows) -> None:
        self.results = results
        self._gallery = Gallery(rows)
        self._is_graded = any(is_graded(queries_of(result)) for result in results)

    def best(self) -> list[Query]:
        return self._shown(best(queries_of(self.results[-1]))[: self._few])

    def worst(self, doubtful: Collection[int]) -> list[Query]:
        return self._shown(worst(queries_of(self.results[-1]), doubtful, self._few))

    def changed(self, sign: int) -> list[Query]:
        """With two models: those that got better (1) or worse (-1), the most changed first."""
        first, second = (queries_of(result) for result in self.results)
        return self._shown(changed(first, second, sign)[:QUERIES])

    def pairs(self, cluster: Cluster, texts: dict[int, Texts]) -> list[Pair]:
        """The failures that the last model was surest of, each with another wrong product."""
        model = max(failure.model for failure in cluster.failures)
        scores = first_scores(queries_of(self.results[model]))
        of_model = [failure for failure in cluster.failures if failure.model == model]
        surest = sorted(of_model, key=lambda failure: (-scores[failure.query], failure.query))
        distinct = {failure.got: failure for failure in reversed(surest)}
        return [self._pair(f, cluster, texts) for f in surest if distinct[f.got] is f][:PAIRS]

    @property
    def _few(self) -> int:
        return QUERIES // len(self.results)

    def _pair(self, failure: Failure, cluster: Cluster, texts: dict[int, Texts]) -> Pair:
        query = row_of(queries_of(self.results[failure.model]), failure.query)
        wanted, got = texts[failure.wanted], texts[failure.got]
        return Pair(
            shortened(query["query"], TITLE),
            self._product(failure.wanted, query["relevant_ids"][0]),
            self._product(failure.got, query["retrieved_ids"][0]),
            [(column_in_words(name), wanted[name], got[name]) for name in cluster.differing],
        )

    def _shown(self, numbers: list[int]) -> list[Query]:
        return [self._query(number) for number in numbers]

    def _query(self, number: int) -> Query:
        rows = [row_of(queries_of(result), number) for result in self.results]
        first = rows[0]
        wanted = zip(first["relevant_rows"][:WANTED], first["relevant_ids"], strict=False)
        return Query(
            shortened(first["query"], QUERY),
            [self._product(row, item_id) for row, item_id in wanted],
            first["relevant"],
            [self._row(*each) for each in zip(MODELS, self.results, rows, strict=False)],
        )

    def _row(self, label: str, result: Result, query: dict) -> Row:
        retrieved = zip(
            *(query[f"retrieved_{name}"][:PICTURES] for name in ("rows", "ids", "scores", "grades")), strict=True
        )
        hits = [
            Hit(self._product(row, item_id), score, grade > 0, f"grade {grade:g}" if self._is_graded and grade else "")
            for row, item_id, score, grade in retrieved
        ]
        depth = min(DEPTH, result.metrics["corpus"])
        note = f"nDCG@10 {query[JUDGED_BY]:.3f}"
        first = query["first_relevant"] or None
        return Row(label, hits, first, depth, note) if len(self.results) == 2 else Row(note, hits, first, depth)

    def _product(self, row: int, item_id: str) -> Product:
        product = self._gallery.product(row)
        return Product(product.uri, shortened(product.title or item_id, TITLE))


def best(queries: pa.Table) -> list[int]:
    """Queries by JUDGED_BY, highest first; of equals those with more relevant products, then the surest."""
    keys = (number_column(queries, JUDGED_BY), number_column(queries, "relevant"), first_scores(queries))
    return np.lexsort([-key for key in reversed(keys)]).tolist()


def worst(queries: pa.Table, doubtful: Collection[int], count: int) -> list[int]:
    """Queries by JUDGED_BY, lowest first; of equals those whose first relevant product comes latest.

    Each has another first hit, as a product that comes first for many queries would fill the page.

    Args:
        doubtful: queries whose judgements are in doubt, which say nothing of the model.
    """
    rank = number_column(queries, "first_relevant")
    order = np.lexsort((-first_scores(queries), -np.where(rank == 0, np.inf, rank), number_column(queries, JUDGED_BY)))
    perfect = number_column(queries, JUDGED_BY) >= 1
    firsts, chosen = set(), []
    retrieved = queries["retrieved_rows"]
    for number in order[~np.isin(order, list(doubtful)) & ~perfect[order]].tolist():
        first = next(iter(retrieved[number].as_py()), None)
        if first not in firsts:
            firsts.add(first)
            chosen.append(number)
        if len(chosen) == count:
            break
    return chosen


def changed(first: pa.Table, second: pa.Table, sign: int) -> list[int]:
    """Queries whose JUDGED_BY rose (sign 1) or fell (-1), by how much, then by the reciprocal rank."""
    gain = sign * (number_column(second, JUDGED_BY) - number_column(first, JUDGED_BY))
    nearer = sign * (number_column(second, "mrr") - number_column(first, "mrr"))
    order = np.lexsort((-nearer, -gain))
    return order[gain[order] > 0].tolist()


def first_scores(queries: pa.Table) -> np.ndarray:
    """Of each query's first hit, 0 without one: (queries,)."""
    return np.array([scores[0] if scores else 0.0 for scores in queries["retrieved_scores"].to_pylist()])


def is_graded(queries: pa.Table) -> bool:
    """Whether some products are more relevant than others."""
    grades = pc.unique(pc.list_flatten(queries["retrieved_grades"])).to_pylist()
    return bool(set(grades) - {0, 1})


def queries_of(result: Result) -> pa.Table:
    """The table of a retrieval task, which always has one."""
    assert result.queries is not None
    return result.queries


def number_column(queries: pa.Table, name: str) -> np.ndarray:
    return queries[name].to_numpy().astype(float)


def row_of(queries: pa.Table, number: int) -> dict:
    return queries.slice(number, 1).to_pylist()[0]


def shortened(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"

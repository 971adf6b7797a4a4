"""A retrieval task: which side asks, which side answers, and what counts as relevant."""

from dataclasses import dataclass, field

import numpy as np

from gcl.errors import UserError
from gcl.retrieval.metrics import Judgements

SEPARATOR = "_{!@#~}_"  # GCL's, behind each of a query's values
MAX_RELEVANT = 1000  # rows judged relevant to one query, in manifest order


@dataclass
class RetrievalTask:
    """Each distinct value of the left side asks; every row is a document; the rows with that value are relevant."""

    left: dict[str, float]  # field -> weight: what asks, such as {title: 1.0}
    right: dict[str, float] = field(default_factory=lambda: {"image": 1.0})  # field -> weight: what answers
    max_queries: int = 4000  # sampled from the distinct values as GCL does
    dimensions: int | None = None  # prefix of the embeddings that is compared; null: all of them

    def __post_init__(self) -> None:
        if self.dimensions is not None and self.dimensions < 1:
            raise UserError(f"task dimensions {self.dimensions} must be at least 1, or null for the whole embedding")

    def check_dimensions(self, dimensions: int) -> None:
        """Refuse a prefix that is longer than the model's embeddings."""
        if self.dimensions is not None and self.dimensions > dimensions:
            raise UserError(f"task dimensions {self.dimensions} are more than the model's {dimensions}; give fewer")

    @property
    def fields(self) -> list[str]:
        return [*self.left, *self.right]

    def queries(self, rows: list[dict[str, str]]) -> dict[str, list[int]]:
        """Query -> its relevant rows, sampled as GCL's evaluator samples: RandomState(1).permutation(n)[:k].

        Raises:
            UserError: no row has all of the left side's fields as text.
        """
        relevant: dict[str, list[int]] = {}
        for number, row in enumerate(rows):
            if all(row.get(name) for name in self.left):
                relevant.setdefault("".join(row[name] + SEPARATOR for name in self.left), []).append(number)
        if not relevant:
            raise UserError(f"no row has the query field {', '.join(self.left)}; fields are {', '.join(rows[0])}")
        distinct = sorted(relevant)
        chosen = np.random.RandomState(1).permutation(len(distinct))[: self.max_queries]
        return {distinct[number]: relevant[distinct[number]][:MAX_RELEVANT] for number in chosen}


def judgements(queries: dict[str, list[int]]) -> Judgements:
    """Every relevant row of every query, all of grade 1."""
    pairs = [(query, row) for query, rows in enumerate(queries.values()) for row in rows]
    table = np.array(pairs, dtype=np.int64)
    return Judgements(table[:, 0], table[:, 1], np.ones(len(pairs)))

"""Which queries got better or worse most, from one model to another."""

from dataclasses import dataclass

import numpy as np

from gcl.compare.significance import with_queries_of
from gcl.compare.table import Table

JUDGED_BY = "ndcg@10"
SHOWN = 10  # queries each way


@dataclass(frozen=True)
class MovedQuery:
    """One query under two models; a rank of 0: no relevant document was retrieved."""

    text: str
    values: tuple[float, float]  # of JUDGED_BY
    ranks: tuple[int, int]  # of the first relevant document


@dataclass(frozen=True)
class Moved:
    """The queries that moved most between two models."""

    models: tuple[str, str]
    better: list[MovedQuery]
    worse: list[MovedQuery]
    counts: tuple[int, int, int]  # queries that are better, equal, worse


def moved_queries(table: Table) -> Moved | None:
    """From the first to the second, where a table has exactly two results by query, and of the same queries."""
    known = [entry for entry in table.entries if entry.per_query is not None]
    if len(known) != 2:
        return None
    first, second = known[0].per_query, with_queries_of(known[0].per_query, known[1].per_query)
    if first is None or second is None:
        return None
    values = np.stack([one[JUDGED_BY].to_numpy() for one in (first, second)], axis=1)
    ranks = np.stack([one["first_relevant"].to_numpy() for one in (first, second)], axis=1)
    texts = first["query"]
    change = values[:, 1] - values[:, 0]
    order = np.argsort(-change, kind="stable")
    better = [i for i in order[:SHOWN].tolist() if change[i] > 0]
    worse = [i for i in order[::-1][:SHOWN].tolist() if change[i] < 0]

    def shown(i: int) -> MovedQuery:
        before, after = values[i].tolist()
        return MovedQuery(str(texts[i].as_py()), (before, after), (int(ranks[i, 0]), int(ranks[i, 1])))

    counts = (int((change > 0).sum()), int((change == 0).sum()), int((change < 0).sum()))
    return Moved((known[0].model, known[1].model), [shown(i) for i in better], [shown(i) for i in worse], counts)

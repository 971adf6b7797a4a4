"""The retrieval evaluator: embedded rows and a task in, metrics and examples out."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from gcl.data.record import ITEM_ID
from gcl.errors import UserError
from gcl.losses.side import prefix, side_embedding
from gcl.retrieval.embed import RowEmbeddings
from gcl.retrieval.metrics import DEPTH, retrieval_metrics
from gcl.retrieval.search import search_on_all_processes
from gcl.retrieval.tasks import SEPARATOR, RetrievalTask, judgements

EXAMPLES = 12  # queries whose retrieved rows are kept for the report
SHOWN = 10  # retrieved rows kept for each


@dataclass
class Result:
    """What a task measured."""

    metrics: dict[str, Any]
    examples: list[dict[str, Any]]  # {"query", "relevant": [row], "retrieved": [{"row", "score"}]}


def evaluate_task(task: RetrievalTask, embeddings: RowEmbeddings, rows: list[dict[str, str]]) -> Result:
    """Search every query's row among all rows and measure (all ranks participate; every process gets the result)."""
    queries = task.queries(rows)
    asking = torch.tensor([relevant[0] for relevant in queries.values()])
    left, _ = side_embedding(task.left, embeddings.fields, embeddings.present)
    right, has_right = side_embedding(task.right, embeddings.fields, embeddings.present)
    if task.dimensions is not None:
        left, right = prefix(left, task.dimensions), prefix(right, task.dimensions)
    documents = has_right.nonzero().squeeze(1)  # a row without the right side can't be found; its score would be 0
    if len(documents) == 0:
        raise UserError(f"no row has any of {', '.join(task.right)}, which the task retrieves")
    scores, places = search_on_all_processes(left[asking.to(left.device)], right[documents], DEPTH)
    retrieved = documents[places]
    ids = np.array([row[ITEM_ID] for row in rows])
    metrics = retrieval_metrics(
        scores.cpu().numpy(), retrieved.cpu().numpy(), judgements(queries), ids.argsort().argsort()
    )
    return Result(metrics, examples(queries, scores, retrieved))


def examples(queries: dict[str, list[int]], scores: torch.Tensor, retrieved: torch.Tensor) -> list[dict[str, Any]]:
    """The first queries with what they retrieved; the sample of queries is random and the same at every step."""
    return [
        {
            "query": query.replace(SEPARATOR, " ").strip(),
            "relevant": relevant,
            "retrieved": [
                {"row": int(row), "score": round(float(score), 4)}
                for row, score in zip(retrieved[i, :SHOWN].tolist(), scores[i, :SHOWN].tolist(), strict=True)
            ],
        }
        for i, (query, relevant) in enumerate(list(queries.items())[:EXAMPLES])
    ]

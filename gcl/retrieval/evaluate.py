"""The retrieval evaluator: embedded queries and documents in, metrics query by query out."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from rich.progress import Progress
from torch import Tensor

from gcl.data.manifest import TEXT
from gcl.errors import UserError
from gcl.retrieval.embeddings.embed import Embeddings
from gcl.retrieval.embeddings.rows import Rows
from gcl.retrieval.metrics import DEPTH, QueryMetrics, query_metrics, summary
from gcl.retrieval.questions import Questions
from gcl.retrieval.result import SHOWN, SLICE, Result
from gcl.retrieval.search import search_on_all_processes
from gcl.retrieval.slices import query_slices, slice_table
from gcl.retrieval.statistics import bootstrap_intervals
from gcl.retrieval.tasks import RetrievalTask
from gcl.retrieval.vectors import SideVectors, Vectors


@dataclass(frozen=True)
class Retrieved:
    """What was found for the queries of a task, and what that was worth."""

    questions: Questions
    scores: np.ndarray  # (queries, depth) float32, descending
    documents: np.ndarray  # (queries, depth) int64
    measured: QueryMetrics


def retrieve(questions: Questions, queries: Tensor, corpus: Vectors, progress: Progress | None = None) -> Retrieved:
    """Search every query among all documents and measure (all ranks participate; every process gets the result).

    Args:
        queries: (queries, dimensions) float32.
        corpus: the documents.
    """
    scores, documents = search_on_all_processes(queries, corpus, DEPTH, progress)
    found = scores.cpu().numpy(), documents.cpu().numpy()
    return Retrieved(questions, *found, query_metrics(*found, questions.judgements, questions.document_ids))


def evaluate_task(
    task: RetrievalTask,
    embeddings: Embeddings,
    rows: Rows,
    kinds: dict[str, str],
    facts: dict[str, Any],
    device: torch.device,
    asking_rows: int | None = None,
) -> Result:
    """Measure one task on rows (all ranks participate; every process gets the result).

    Args:
        kinds: of each field, image or text.
        facts: what to say of the model and the data.
        device: that searches.
        asking_rows: those from the first on that ask and say what is relevant; the others are only searched. None: all.

    Raises:
        UserError: nobody asks, or no row has the side that answers.
    """
    asked = task.ask(rows, [name for name in task.left if kinds.get(name) == TEXT], asking_rows)
    sides = [
        SideVectors(
            side, {name: embeddings.field(name, numbers, task.context_length) for name in side}, task.dimensions
        )
        for side, numbers in ((task.left, asked.asking), (task.right, asked.documents))
    ]
    retrieved = retrieve(asked.questions, sides[0].block(0, len(sides[0])).to(device), sides[1])
    if retrieved.documents.shape[1] == 0:
        raise UserError(f"no row has any of {', '.join(task.right)}, which the task retrieves")
    return build_result(retrieved, asked.documents, {**asdict(task), **facts})


def build_result(retrieved: Retrieved, rows: np.ndarray, facts: dict[str, Any]) -> Result:
    """Means, intervals, slices, and a row for each query.

    Args:
        rows: (documents,) the row that each document is.
    """
    questions, measured = retrieved.questions, retrieved.measured
    slices = query_slices(questions.texts, measured.judged, questions.slices)
    intervals = {name: list(bounds) for name, bounds in bootstrap_intervals(measured.values).items()}
    facts = {**facts, "intervals": intervals, "slices": slice_table(slices, measured.values)}
    metrics = summary(measured, len(questions.document_ids))
    return Result(facts, metrics, query_table(retrieved, rows, slices))


def query_table(retrieved: Retrieved, rows: np.ndarray, slices: dict[str, list[str]]) -> pa.Table:
    """One row for each query, as `Result` describes it."""
    questions, measured = retrieved.questions, retrieved.measured
    judgements, ids = questions.judgements, questions.document_ids
    # Of equally relevant documents that of the row which asks comes first.
    is_other = np.ones(len(judgements.queries), bool)
    if questions.own is not None:
        is_other = judgements.documents != questions.own[judgements.queries]
    order = np.lexsort((is_other, -judgements.grades, judgements.queries))
    order = order[judgements.documents[order] < len(ids)]  # others are judged and in no corpus
    asked = judgements.queries[order]
    order = order[np.arange(len(order)) - np.searchsorted(asked, asked, "left") < SHOWN]
    offsets = np.searchsorted(judgements.queries[order], np.arange(len(questions.texts) + 1)).astype(np.int32)
    relevant = judgements.documents[order]
    first = retrieved.documents[:, :SHOWN]
    grades = grades_of(first, questions)
    fixed = np.arange(len(first) + 1, dtype=np.int32) * first.shape[1]

    def lists(values: pa.Array, bounds: np.ndarray) -> pa.ListArray:
        return pa.ListArray.from_arrays(pa.array(bounds), values)

    columns = {
        "query_id": pa.array(questions.query_ids, pa.string()),
        "query": pa.array(questions.texts, pa.string()),
        "relevant": pa.array(measured.judged, pa.int32()),
        **{name: pa.array(values) for name, values in measured.values.items()},
        "first_relevant": pa.array(measured.first_relevant),
        **{SLICE + name: pa.array(labels, pa.string()) for name, labels in slices.items()},
        "retrieved_ids": lists(ids.take(pa.array(first.reshape(-1))), fixed),
        "retrieved_rows": lists(pa.array(rows[first.reshape(-1)], pa.int64()), fixed),
        "retrieved_scores": lists(pa.array(retrieved.scores[:, :SHOWN].reshape(-1)), fixed),
        "retrieved_grades": lists(pa.array(grades.reshape(-1)), fixed),
        "relevant_ids": lists(ids.take(pa.array(relevant)), offsets),
        "relevant_rows": lists(pa.array(rows[relevant], pa.int64()), offsets),
    }
    return pa.table(columns)


def grades_of(documents: np.ndarray, questions: Questions) -> np.ndarray:
    """The grade of each document for its query, 0 where it is not judged: (queries, documents each)."""
    judgements = questions.judgements
    # Numbers of judged documents may lie behind the corpus.
    many = max(len(questions.document_ids), int(judgements.documents.max(initial=0)) + 1)
    keys = judgements.queries * many + judgements.documents
    order = np.argsort(keys)
    wanted = np.arange(len(documents))[:, None] * many + documents
    places = np.searchsorted(keys, wanted, sorter=order).clip(max=len(keys) - 1)
    return np.where(keys[order[places]] == wanted, judgements.grades[order[places]], 0.0)

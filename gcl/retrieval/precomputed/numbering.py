"""Judgements by id become judgements by number, and those that cannot count are told."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gcl.errors import UserError
from gcl.retrieval.metrics import Judgements
from gcl.retrieval.precomputed.judgement_files import JudgedIds


@dataclass(frozen=True)
class Numbered:
    """The queries that are asked, and what is relevant to them.

    A relevant document that the corpus lacks has a number from the size of the corpus up: it is among the relevant
    ones and in the ideal, as in trec_eval, and never found.
    """

    asked: np.ndarray  # (queries,) int64 row of each query with a relevant document, ascending
    judgements: Judgements  # of the asked queries, numbered in that order
    warnings: list[str]


def numbered(judged: JudgedIds, query_ids: pa.StringArray, document_ids: pa.StringArray) -> Numbered:
    """Find the ids of the judgements among those of queries and corpus.

    Raises:
        UserError: a document judged twice for one query, no query with a relevant document, or none of those documents
            is in the corpus.
    """
    queries, unknown = numbers_of(judged.queries, query_ids)
    check_judged_once(judged, queries)
    warnings = []
    if len(unknown):
        warnings.append(f"{len(unknown)} queries of task.qrels are not in task.query_ids and are ignored")
    relevant = (queries < len(query_ids)) & (judged.grades > 0)
    if not relevant.any():
        raise UserError(
            f"no query has a relevant document: task.qrels judges queries such as {judged.queries[0].as_py()!r}, "
            f"task.query_ids has queries such as {query_ids[0].as_py()!r}; give the ids as task.qrels has them"
        )
    judged, queries = judged.filter(relevant), queries[relevant]
    is_asked = np.bincount(queries, minlength=len(query_ids)) > 0
    if left_out := int((~is_asked).sum()):
        warnings.append(f"{left_out} of {len(query_ids)} queries have no relevant document and are left out")
    documents, missing = numbers_of(judged.documents, document_ids)
    if len(missing):
        warnings.append(missing_line(judged, documents, missing, document_ids))
    places = is_asked.cumsum() - 1
    return Numbered(np.flatnonzero(is_asked), Judgements(places[queries], documents, judged.grades), warnings)


def numbers_of(ids: pa.StringArray, known: pa.StringArray) -> tuple[np.ndarray, pa.StringArray]:
    """The place of each id among the known ones; the others are numbered behind them, in order of appearance.

    Returns:
        (ids,) int64, and the distinct ids that are not known.
    """
    encoded = ids.dictionary_encode()
    codes = pc.index_in(known, value_set=encoded.dictionary)  # null for one that is not among `ids`
    found = codes.is_valid().to_numpy(zero_copy_only=False)
    numbers = np.full(len(encoded.dictionary), -1, np.int64)
    numbers[codes.drop_null().to_numpy()] = np.flatnonzero(found)
    unknown = numbers < 0
    numbers[unknown] = len(known) + np.arange(unknown.sum())
    return numbers[encoded.indices.to_numpy()], encoded.dictionary.filter(pa.array(unknown))


def check_judged_once(judged: JudgedIds, queries: np.ndarray) -> None:
    codes = judged.documents.dictionary_encode().indices.to_numpy().astype(np.int64)
    keys = queries * (codes.max() + 1) + codes
    order = np.argsort(keys, kind="stable")
    again = np.flatnonzero(np.diff(keys[order]) == 0)
    if again.size:
        row = order[again[0]]
        raise UserError(
            f"task.qrels judges the document {judged.documents[row].as_py()!r} twice for the query "
            f"{judged.queries[row].as_py()!r}; keep one grade"
        )


def missing_line(
    judged: JudgedIds, documents: np.ndarray, missing: pa.StringArray, document_ids: pa.StringArray
) -> str:
    """How many relevant documents the corpus lacks.

    Raises:
        UserError: all of them.
    """
    found = documents < len(document_ids)
    example = f"{missing[0].as_py()!r}"
    if not found.any():
        raise UserError(
            f"none of the relevant documents is in task.corpus_ids: task.qrels has ids such as {example}, the corpus "
            f"ids such as {document_ids[0].as_py()!r}; write them alike (were leading zeros lost?)"
        )
    total = len(missing) + len(np.unique(documents[found]))
    return (
        f"{len(missing)} of {total} relevant documents are not in task.corpus_ids ({example}, ...): they count as "
        "relevant and are never found"
    )

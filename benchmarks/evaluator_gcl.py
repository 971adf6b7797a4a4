"""GCL's way from features.pt to output.csv, stage by stage as its evaluator goes (github.com/marqo-ai/GCL, evals).

python benchmarks/evaluator_gcl.py FOLDER

A list of row tensors is stacked and searched with faiss; the results become a dict of dicts, which is written as JSON
and read again; beir computes mAP, nDCG, recall, precision (with pytrec_eval) and MRR at all cut-offs, plain Python
computes ERR and RBP. GCL's "hole" and "acc" are left out, for we do not compute them.
"""

import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import faiss
import numpy as np
import pandas as pd
import torch
from beir.retrieval.evaluation import EvaluateRetrieval

DEPTH = 1000
CUTOFFS = [1, 2, 3, 4, 5, 6, 8, 10, 12, *range(20, 101, 10), 200, 500, 1000]
Scores = dict[str, float]


def retrieve(folder: Path) -> dict[str, Scores]:
    features = torch.stack(torch.load(folder / "features.pt"))
    queries = torch.from_numpy(np.load(folder / "queries.npy"))
    query_ids, document_ids = (
        json.loads((folder / f"{name}.json").read_text()) for name in ("query_ids", "document_ids")
    )
    vectors = features.cpu().numpy()
    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(vectors)
    scores, places = index.search(queries.cpu().numpy(), k=DEPTH)
    return {
        query: {str(document_ids[place]): float(score) for place, score in zip(found, values, strict=True)}
        for query, found, values in zip(query_ids, places, scores, strict=True)
    }


def mean(qrels: dict[str, dict[str, int]], results: dict[str, Scores], measure: Callable[..., float]) -> float:
    return sum(measure(grades, results.get(query, {})) for query, grades in qrels.items()) / len(qrels)


def expected_reciprocal_rank(grades: dict[str, int], scores: Scores) -> float:
    ranked = sorted(scores.items(), key=lambda item: item[1], reverse=True)
    highest = max(grades.values())
    total, reached = 0.0, 1.0
    for rank, (document, _) in enumerate(ranked, start=1):
        stops = (2 ** grades.get(document, 0) - 1) / 2**highest
        total += reached * stops / rank
        reached *= 1 - stops
    return total


def rank_biased_precision(grades: dict[str, int], scores: Scores, p: float) -> float:
    ranked = sorted(scores.items(), key=lambda item: item[1], reverse=True)
    highest = max(grades.values())
    total = 0.0
    for rank, (document, _) in enumerate(ranked, start=1):
        total += grades.get(document, 0) / highest * p ** (rank - 1)
    return total * (1 - p)


def evaluate(folder: Path) -> None:
    (folder / "retrieval.json").write_text(json.dumps(retrieve(folder)))
    results: dict[str, Scores] = json.loads((folder / "retrieval.json").read_text())
    qrels = json.loads((folder / "qrels.json").read_text())
    ndcg, average, recall, precision = EvaluateRetrieval.evaluate(qrels, results, CUTOFFS)
    mrr = EvaluateRetrieval.evaluate_custom(qrels, results, CUTOFFS, metric="mrr")
    summary = {
        "mAP@1000": average["MAP@1000"],
        "mrr@1000": mrr["MRR@1000"],
        "NDCG@10": ndcg["NDCG@10"],
        "Recall@10": recall["Recall@10"],
        "P@10": precision["P@10"],
        "mERR": mean(qrels, results, expected_reciprocal_rank),
        **{f"mRBP{round(10 * p)}": mean(qrels, results, partial(rank_biased_precision, p=p)) for p in (0.7, 0.8, 0.9)},
    }
    pd.DataFrame([summary]).to_csv(folder / "output.csv", index=False)
    output = {"ndcg": ndcg, "map": average, "recall": recall, "precision": precision, "mrr": mrr, "summary": summary}
    (folder / "output.json").write_text(json.dumps(output))


if __name__ == "__main__":
    evaluate(Path(sys.argv[1]))

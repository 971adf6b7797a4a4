"""What a task asks of rows: GCL's queries and positives, written down once more with pandas as GCL's evaluator does."""

import time

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from gcl.errors import UserError
from gcl.retrieval.embeddings.rows import Rows, table_of
from gcl.retrieval.tasks import SEPARATOR, Asked, RetrievalTask


def rows_of(frame: pd.DataFrame) -> Rows:
    return Rows(table_of([{name: str(value) for name, value in row.items()} for row in frame.to_dict("records")], None))


def random_rows(seed: int) -> pd.DataFrame:
    random = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "item_id": [f"{number:05d}" for number in range(300)],
            "title": [f"title {number}" for number in random.integers(0, 90, 300)],
            "colour": random.choice(["red", "blue", "Ünï", "a_b"], 300),
            "score": random.integers(1, 40, 300),
        }
    )


def gcl_queries(frame: pd.DataFrame, keys: list[str], top_q: int, weights: "pd.Series | None") -> list[str]:
    """The strings that GCL's evaluator samples."""
    query = sum((frame[key] + SEPARATOR for key in keys[1:]), frame[keys[0]] + SEPARATOR)
    grouped = pd.DataFrame({"query": query, "weight": 1 if weights is None else weights}).groupby("query").sum()
    by_weight = {} if weights is None else {"weights": grouped["weight"]}
    return list(grouped.sample(n=min(top_q, len(grouped)), random_state=1, replace=False, **by_weight).index)


def judged_of(asked: Asked) -> dict[str, dict[str, float]]:
    """The judgements as GCL's gt_results.json holds them."""
    found: dict[str, dict[str, float]] = {query: {} for query in asked.questions.query_ids}
    judgements, ids = asked.questions.judgements, asked.questions.document_ids.to_pylist()
    for query, document, grade in zip(judgements.queries, judgements.documents, judgements.grades, strict=True):
        found[asked.questions.query_ids[query]][ids[document]] = grade
    return found


@pytest.mark.parametrize("keys", [["title"], ["colour"], ["title", "colour"]])
@pytest.mark.parametrize("top_q", [20, 4000])
def test_queries_are_those_that_gcl_samples(keys: list[str], top_q: int) -> None:
    frame = random_rows(0)
    asked = RetrievalTask(dict.fromkeys(keys, 1.0), max_queries=top_q).ask(rows_of(frame), keys)
    assert asked.questions.query_ids == gcl_queries(frame, keys, top_q, None)


def test_queries_by_weight_are_those_that_gcl_samples() -> None:
    frame = random_rows(1)
    task = RetrievalTask({"title": 1.0}, weight="score", max_queries=10, sampling="by_weight")
    scaled = ((frame.score - frame.score.min()) / (frame.score.max() - frame.score.min()) * 99 + 1).astype(int)
    assert task.ask(rows_of(frame), ["title"]).questions.query_ids == gcl_queries(frame, ["title"], 10, scaled)


def test_grades_are_weights_as_gcl_rescales_them() -> None:
    frame = random_rows(2)
    scaled = ((frame.score - frame.score.min()) / (frame.score.max() - frame.score.min()) * 99 + 1).astype(int)
    found = judged_of(RetrievalTask({"title": 1.0}, weight="score").ask(rows_of(frame), ["title"]))
    for query, documents in found.items():
        there = frame[frame.title + SEPARATOR == query]
        assert documents == dict(zip(there.item_id, scaled[there.index], strict=True))


def test_the_first_thousand_of_the_highest_grades_are_relevant() -> None:
    random = np.random.default_rng(0)
    frame = pd.DataFrame({"item_id": [f"{n:04d}" for n in range(1500)], "query": "shoe"})
    frame["score"] = random.integers(0, 4, 1500)
    found = judged_of(RetrievalTask({"query": 1.0}, weight="score").ask(rows_of(frame), ["query"]))
    expected = frame.sort_values("score", ascending=False, kind="stable")[:1000]
    assert list(found[f"shoe{SEPARATOR}"]) == expected.item_id.tolist()


def test_a_row_that_asks_is_the_first_with_its_string() -> None:
    frame = random_rows(3)
    asked = RetrievalTask({"title": 1.0}).ask(rows_of(frame), ["title"])
    first = {title + SEPARATOR: frame.index[frame.title == title][0] for title in frame.title.unique()}
    assert asked.asking.tolist() == [first[query] for query in asked.questions.query_ids]


def test_a_product_with_several_rows_is_one_document() -> None:
    frame = pd.DataFrame(
        {"item_id": ["b", "a", "b", "a", "c"], "query": ["x", "x", "y", "x", "y"], "score": [1, 2, 3, 4, 5]}
    )
    asked = RetrievalTask({"query": 1.0}, weight="score").ask(rows_of(frame), ["query"])
    assert asked.questions.document_ids.to_pylist() == ["b", "a", "c"] and asked.documents.tolist() == [0, 1, 4]
    assert judged_of(asked) == {f"x{SEPARATOR}": {"a": 75, "b": 1}, f"y{SEPARATOR}": {"c": 100, "b": 50}}


def test_relevance_by_another_field() -> None:
    frame = pd.DataFrame({"item_id": list("abcd"), "title": ["w", "x", "y", "z"], "kind": ["1", "2", "1", ""]})
    asked = RetrievalTask({"title": 1.0}, relevant="kind").ask(rows_of(frame), ["title"])
    found = judged_of(asked)
    assert found == {f"w{SEPARATOR}": {"a": 1, "c": 1}, f"x{SEPARATOR}": {"b": 1}, f"y{SEPARATOR}": {"a": 1, "c": 1}}


def test_an_easy_task_takes_a_seeded_sample_of_the_rows() -> None:
    frame = random_rows(4)
    asked = [RetrievalTask({"title": 1.0}, sample_rows=50).ask(rows_of(frame), ["title"]) for _ in range(2)]
    assert len(asked[0].documents) == 50 and asked[0].documents.tolist() == asked[1].documents.tolist()
    assert set(asked[0].asking) <= set(asked[0].documents) and sorted(asked[0].documents) == list(asked[0].documents)


def test_rows_without_the_query_ask_nothing_but_are_found() -> None:
    frame = pd.DataFrame({"item_id": list("abc"), "title": ["x", "", "x"]})
    asked = RetrievalTask({"title": 1.0}).ask(rows_of(frame), ["title"])
    assert judged_of(asked) == {f"x{SEPARATOR}": {"a": 1, "c": 1}} and len(asked.documents) == 3


def test_further_rows_are_searched_and_ask_nothing() -> None:
    frame = pd.DataFrame({"item_id": list("abcb"), "query": ["x", "y", "x", "z"], "score": ["1", "3", "", "bad"]})
    asked = RetrievalTask({"query": 1.0}, weight="score").ask(rows_of(frame), ["query"], asking_rows=2)
    assert judged_of(asked) == {f"x{SEPARATOR}": {"a": 1}, f"y{SEPARATOR}": {"b": 100}}
    assert asked.questions.document_ids.to_pylist() == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("task", "message"),
    [
        (RetrievalTask({"title": 1.0}, weight="colour"), "weight=colour is no number"),
        (RetrievalTask({"title": 1.0}, weight="nan"), "weight=nan is not finite"),
        (RetrievalTask({"title": 1.0}, weight="scores"), "no row has the field 'scores' .did you mean score"),
        (RetrievalTask({"empty": 1.0}), "no row has the query field empty"),
        (RetrievalTask({"title": 1.0}, relevant="empty"), "no row that asks has the field empty"),
    ],
)
def test_what_cannot_be_asked_gives_one_line(task: RetrievalTask, message: str) -> None:
    frame = random_rows(5).assign(empty="", nan="nan")
    with pytest.raises(UserError, match=message) as refused:
        task.ask(rows_of(frame), list(task.left))
    assert len(str(refused.value).splitlines()) == 1


@pytest.mark.parametrize("name", ["max_queries", "sample_rows", "context_length", "dimensions"])
def test_counts_below_one_are_refused(name: str) -> None:
    with pytest.raises(UserError, match=f"task {name}=0 must be at least 1"):
        RetrievalTask({"title": 1.0}, **{name: 0})


def test_many_rows_are_asked_without_an_object_for_each() -> None:
    rows, titles = 400_000, 100_000
    numbers = np.random.default_rng(0).integers(0, titles, rows)
    table = pa.table(
        {
            "item_id": pa.array(np.arange(rows)).cast(pa.large_string()),
            "title": pa.array(numbers).cast(pa.large_string()),
        }
    )
    asked_of, started = Rows(table), time.process_time()
    asked = RetrievalTask({"title": 1.0}).ask(asked_of, ["title"])
    assert time.process_time() - started < 5, "a dictionary of lists takes longer"
    assert len(asked.questions.query_ids) == 4000
    assert len(asked.questions.judgements.queries) == np.isin(numbers, numbers[asked.asking]).sum()

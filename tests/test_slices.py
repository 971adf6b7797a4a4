"""Slices: queries are cut where people look, and every part is measured."""

import numpy as np
import pytest

from gcl.retrieval.slices import query_slices, slice_table
from gcl.retrieval.statistics import bootstrap_intervals


def order_of(labels: list[str]) -> list[str]:
    """The labels in the order of the table's rows."""
    return [row["value"] for row in slice_table({"slice": labels}, {"map": np.zeros(len(labels))})]


def test_queries_are_cut_by_their_number_of_words() -> None:
    texts = ["a", "a b", "a b c", "a b c d", "a b c  d e f", "a b c d e f g"]
    labels = query_slices(texts, np.ones(6), {})["words"]
    assert labels == ["1", "2-3", "2-3", "4-6", "4-6", "7 or more"]
    assert order_of(labels) == ["1", "2-3", "4-6", "7 or more"]


def test_the_head_has_half_of_the_relevant_documents_and_the_tail_one_each() -> None:
    relevant = np.array([1, 9, 2, 1, 5, 9, 3, 4, 1, 1])  # 36: the two of 9 have 18
    labels = query_slices(["a"] * 10, relevant, {})["relevant documents"]
    expected = {1: "1 (tail)", 2: "2-8 (torso)", 3: "2-8 (torso)", 4: "2-8 (torso)", 5: "2-8 (torso)"}
    assert labels == [expected.get(n, "9 or more (head)") for n in relevant.tolist()]
    assert order_of(labels) == ["1 (tail)", "2-8 (torso)", "9 or more (head)"]


@pytest.mark.parametrize("relevant", [[1, 1, 1, 1, 2], [2, 2, 2, 1]])
def test_queries_with_as_many_relevant_documents_are_never_torn_apart(relevant: list[int]) -> None:
    labels = query_slices(["a"] * len(relevant), np.array(relevant), {})["relevant documents"]
    assert labels == ["2 or more (head)" if n == 2 else "1 (tail)" for n in relevant]


def test_what_does_not_cut_is_left_out() -> None:
    columns = {"distinct": ["a", "b", "c"], "numbers": ["1", "2", "3"], "same": ["a"] * 3, "empty": [""] * 3}
    assert query_slices(["one", "word", "each"], np.array([4, 4, 4]), columns) == {}


def test_a_column_keeps_its_twelve_most_frequent_values() -> None:
    frequent = [f"brand {i}" for i in range(12) for _ in range(20 - i)]
    values = [*frequent, *["brand 12"] * 8, "seldom", ""]
    labels = query_slices(["a"] * len(values), np.ones(len(values)), {"brand": values})["brand"]
    assert labels == [*frequent, *["other"] * 9, "(empty)"]
    assert order_of(labels) == [*(f"brand {i}" for i in range(12)), "other", "(empty)"]


def test_a_value_of_a_single_query_is_no_slice() -> None:
    labels = query_slices(["a"] * 4, np.ones(4), {"color": ["red", "blue", "red", "green"]})["color"]
    assert labels == ["red", "other", "red", "other"]


def test_a_column_of_numbers_is_cut_at_its_quartiles() -> None:
    prices = ["", *(f"{price / 2}" for price in range(-4, 36)), "3.0"]
    labels = query_slices(["a"] * 42, np.ones(42), {"price": prices})["price"]
    assert order_of(labels) == ["-2 to 3", "3.5 to 7.5", "8 to 12.5", "13 to 17.5", "(empty)"]
    for price, label in zip(prices[1:], labels[1:], strict=True):
        low, high = map(float, label.split(" to "))
        assert low <= float(price) <= high


def test_few_numbers_are_values_and_one_word_makes_a_column_text() -> None:
    ratings = ["10", "2", "2", "10", "1", "1"]
    assert order_of(query_slices(["a"] * 6, np.ones(6), {"rating": ratings})["rating"]) == ["1", "2", "10"]
    sizes = [*map(str, range(20)), "XL", "XL"]
    assert set(query_slices(["a"] * 22, np.ones(22), {"size": sizes})["size"]) == {"XL", "other"}


def test_every_part_is_measured_with_an_interval() -> None:
    values = {name: np.random.default_rng(0).random(6) for name in ("map", "ndcg@10", "err")}
    rows = slice_table({"color": ["red", "blue", "red", "red", "blue", "red"], "size": ["S"] * 6}, values)
    assert [(row["slice"], row["value"], row["queries"]) for row in rows] == [
        ("color", "red", 4),
        ("color", "blue", 2),
        ("size", "S", 6),
    ]
    red = values["map"][[0, 2, 3, 5]]
    assert list(rows[0]["metrics"]) == list(rows[0]["intervals"]) == ["ndcg@10", "map"]
    assert rows[0]["metrics"]["map"] == pytest.approx(red.mean())
    assert rows[0]["intervals"]["map"] == list(bootstrap_intervals({"map": red})["map"])

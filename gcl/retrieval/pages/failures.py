"""Clusters of failures: how the wrong first hits of queries resemble the products that were wanted."""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import pyarrow as pa

from gcl.data.record import IMAGE_HASH, ITEM_ID, Record

LOOKED_AT = 4000  # failures of each model that are compared; of more, every so manieth
CLUSTERS = 8  # of the most failures; the others are one more, and where the data is in doubt that is always said
ATTRIBUTES = 3  # columns that name a cluster
ROWS_PER_VALUE = 4  # a column of any other name is an attribute if its values occur this often, on average
LONGEST_VALUE = 60  # characters of an attribute's value
FOLLOWS = 0.98  # of the rows: so often one column's value is known from another's
SHOPPERS = re.compile(r"categor|type|colou?r|brand|gender|material|size")  # in the names of columns they go by
CONFUSIONS = 3  # most frequent pairs of values that are named
TITLE = "title"
COPIES = "the same photo as the wanted product, but not marked relevant"
TWINS = "the same title as the wanted product, but not marked relevant"
OTHERS = "other"

Texts = dict[str, str]  # the text fields of a row


@dataclass(frozen=True)
class Failure:
    """A query whose first hit is not relevant."""

    model: int  # which of the results
    query: int  # row of the table of queries
    got: int  # row of the split that came first
    wanted: int  # the best of the relevant rows


@dataclass(frozen=True)
class Cluster:
    """Failures of one kind."""

    name: str
    differing: tuple[str, ...]  # attributes in which wanted and got differ
    failures: list[Failure]

    @property
    def is_doubt(self) -> bool:
        """Whether the data is to blame rather than the model."""
        return self.name in (COPIES, TWINS)

    def confusions(self, texts: dict[int, Texts]) -> list[tuple[str, str, int]]:
        """Where one attribute differs: the values that were mistaken again and again: wanted, got, how often."""
        if len(self.differing) != 1:
            return []
        (name,) = self.differing
        pairs = Counter((texts[failure.wanted][name], texts[failure.got][name]) for failure in self.failures)
        common = sorted(pairs.items(), key=lambda pair: (-pair[1], pair[0]))[:CONFUSIONS]
        return [(wanted, got, count) for (wanted, got), count in common if count > 1]

    def count(self, model: int) -> int:
        return sum(failure.model == model for failure in self.failures)


def failures_of(queries: pa.Table, model: int) -> list[Failure]:
    """Every query whose first hit is not relevant, in order.

    Args:
        queries: as `Result.queries`. A query that retrieved nothing, or has nothing relevant, is left out.
        model: what the failures are marked with.
    """
    columns = [queries[name].to_pylist() for name in ("retrieved_rows", "retrieved_grades", "relevant_rows")]
    return [
        Failure(model, number, retrieved[0], relevant[0])
        for number, (retrieved, grades, relevant) in enumerate(zip(*columns, strict=True))
        if retrieved and relevant and not grades[0]
    ]


def evenly(failures: list[Failure]) -> list[Failure]:
    """All of them, or LOOKED_AT at most."""
    return failures[:: -(-len(failures) // LOOKED_AT) or 1]


def read_texts(failures: Iterable[Failure], rows: Callable[[int], Record]) -> dict[int, Texts]:
    """The text fields of every row that a failure names, each read once, in the order of the split."""
    numbers = {number for failure in failures for number in (failure.got, failure.wanted)}
    return {number: texts_of(rows(number)) for number in sorted(numbers)}


def texts_of(record: Record) -> Texts:
    """The fields that are compared."""
    return {name: value.strip() for name, value in record.fields.items() if isinstance(value, str) and value.strip()}


def clusters_of(failures: list[Failure], texts: dict[int, Texts]) -> list[Cluster]:
    """The largest clusters, then one with the others; a failure whose rows have no text is in none.

    Args:
        texts: of each row that a failure names.
    """
    attributes = attributes_of(list(texts.values()))
    gathered: dict[tuple[str, tuple[str, ...]], list[Failure]] = defaultdict(list)
    for failure in failures:
        got, wanted = texts[failure.got], texts[failure.wanted]
        if got and wanted:
            gathered[kind_of(got, wanted, attributes)].append(failure)
    clusters = [Cluster(name, differing, members) for (name, differing), members in gathered.items()]
    clusters.sort(key=lambda cluster: (-len(cluster.failures), cluster.name))
    certain = [cluster for cluster in clusters if not cluster.is_doubt]
    rest = certain[CLUSTERS:]
    if len(rest) < 2:  # a single one keeps its name
        return clusters
    others = Cluster(OTHERS, (), [failure for cluster in rest for failure in cluster.failures])
    return [cluster for cluster in clusters if cluster not in rest] + [others]


def kind_of(got: Texts, wanted: Texts, attributes: list[str]) -> tuple[str, tuple[str, ...]]:
    """What the failure is called, and the attributes in which the rows differ."""
    hashes = [name for name in wanted if name.endswith(IMAGE_HASH) and name in got]
    if any(got[name] == wanted[name] for name in hashes):
        return COPIES, ()
    if got.get(ITEM_ID) == wanted.get(ITEM_ID) is not None:
        return "same item, other photo", ()
    if plain(got.get(TITLE, "")) == plain(wanted.get(TITLE, "")) != "":
        return ("same title, other photo" if hashes else TWINS), ()
    known = [name for name in attributes if name in got and name in wanted]
    same = [name for name in known if plain(got[name]) == plain(wanted[name])]
    other = tuple(name for name in known if name not in same)
    return name_of(same, other), other


def name_of(same: Iterable[str], other: Iterable[str]) -> str:
    """Agreeing and differing columns as a merchant would say it."""
    alike, unlike = in_words(same), in_words(other)
    if alike and unlike:
        return f"same {alike}, other {unlike}"
    if alike:
        return f"another product of the same {alike}"
    return f"other {unlike}" if unlike else "another product"


def in_words(columns: Iterable[str]) -> str:
    """baseColour and product_type as "base colour and product type"."""
    words = [column_in_words(column) for column in columns]
    return " and ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))


def column_in_words(column: str) -> str:
    return " ".join(re.sub(r"(?<=[a-z\d])(?=[A-Z])|[\W_]+", " ", column).lower().split()) or column


def plain(text: str) -> str:
    """Without regard to case and spaces."""
    return " ".join(text.casefold().split())


def attributes_of(rows: list[Texts]) -> list[str]:
    """At most ATTRIBUTES columns that tell rows apart best, such as category, colour and brand.

    A column counts as an attribute if most rows have it and its values are short words; unless its name says that
    shoppers go by it, they also have to come again and again. One whose value follows from a column taken before (a
    department from a category) is left out. What shoppers go by comes first, and of that whatever two random rows share
    least often.
    """
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for row in rows:
        for name, value in row.items():
            counts[name][plain(value)] += 1
    chosen: list[str] = []

    def place(name: str) -> tuple[bool, float, str]:
        return not is_for_shoppers(name), chance_of_agreement(counts[name]), name

    for name in sorted(counts, key=place):
        if is_attribute(name, counts[name], len(rows)) and not any(follows(name, other, rows) for other in chosen):
            chosen.append(name)
    return chosen[:ATTRIBUTES]


def is_attribute(name: str, counts: Counter[str], rows: int) -> bool:
    there = counts.total()
    if name in (ITEM_ID, TITLE) or name.endswith(IMAGE_HASH) or all(is_number(value) for value in counts):
        return False
    is_short = max(map(len, counts)) <= LONGEST_VALUE
    most = there if is_for_shoppers(name) else there / ROWS_PER_VALUE
    return is_short and 2 * there >= rows and 2 <= len(counts) <= most


def is_for_shoppers(name: str) -> bool:
    return SHOPPERS.search(column_in_words(name)) is not None


def is_number(text: str) -> bool:
    return re.fullmatch(r"[-+]?[\d.,]+", text) is not None


def chance_of_agreement(counts: Counter[str]) -> float:
    """That two random rows have the same value."""
    return sum((count / counts.total()) ** 2 for count in counts.values())


def follows(name: str, other: str, rows: list[Texts]) -> bool:
    """Whether a row's `name` can be told from its `other`, as far as values of `other` come again."""
    together: dict[str, Counter[str]] = defaultdict(Counter)
    for row in rows:
        if name in row and other in row:
            together[plain(row[other])][plain(row[name])] += 1
    repeated = [values for values in together.values() if values.total() > 1]
    total = sum(values.total() for values in repeated)
    return 2 * total >= len(rows) and sum(max(values.values()) for values in repeated) >= FOLLOWS * total

"""The pictures of a report's queries: what each model retrieves for the same query."""

import base64
import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from PIL import Image, ImageOps

from gcl.data.record import IMAGE_FORMATS, Record
from gcl.retrieval.metrics import DEPTH

PICTURES = 5  # shown of those a query retrieved
THUMBNAIL = 120  # longer side, pixels

RETRIEVED = ("retrieved_rows", "retrieved_scores", "retrieved_grades")
Examples = dict[int, dict[str, dict[str, Any]]]  # step -> query -> its row in per_query.parquet


@dataclass(frozen=True)
class Product:
    """A row as it is shown; `uri` is its thumbnail, None where it has no readable picture."""

    uri: str | None
    title: str


@dataclass(frozen=True)
class Hit:
    """A retrieved product."""

    product: Product
    score: float
    is_relevant: bool
    grade: str = ""  # how relevant, where there are degrees of it


@dataclass(frozen=True)
class Row:
    """What one model retrieved for a query."""

    model: str  # "start" or "step 800"
    hits: list[Hit]
    first_relevant: int | None  # rank among all that is kept of the ranking
    depth: int  # how many of the ranking are kept
    note: str = ""


@dataclass(frozen=True)
class Query:
    """One query with some of its relevant products and a row for each model."""

    text: str
    wanted: list[Product]
    relevant: int
    rows: list[Row]


class Gallery:
    """Turns corpus rows into thumbnails, each once."""

    def __init__(self, rows: Callable[[int], Record]) -> None:
        self._rows = rows
        self._seen: dict[int, Product] = {}

    def queries(self, examples: Examples) -> list[Query]:
        """The queries of the last step in `examples`, each with a row for every step that has it."""
        return [self._query(text, examples) for text in examples[max(examples)]] if examples else []

    def product(self, row: int) -> Product:
        """A row of the corpus, by number."""
        if row not in self._seen:
            record = self._rows(row)
            encoded = next(iter(record.images.values()), b"")
            self._seen[row] = Product(thumbnail(encoded), str(record.fields.get("title", record.item_id)))
        return self._seen[row]

    def _query(self, text: str, examples: Examples) -> Query:
        example = examples[max(examples)][text]
        rows = [self._row(step, by_query[text]) for step, by_query in examples.items() if text in by_query]
        return Query(text, [self.product(row) for row in example["relevant_rows"][:1]], example["relevant"], rows)

    def _row(self, step: int, example: dict[str, Any]) -> Row:
        found = list(zip(*(example[column] for column in RETRIEVED), strict=True))[:PICTURES]
        hits = [Hit(self.product(row), score, grade > 0) for row, score, grade in found]
        return Row(f"step {step}" if step else "start", hits, example["first_relevant"] or None, DEPTH)


def found(queries: list[Query]) -> dict[str, int]:
    """For each model, how many of the queries show a relevant picture."""
    counts: dict[str, int] = {}
    for row in (row for query in queries for row in query.rows):
        counts[row.model] = counts.get(row.model, 0) + any(hit.is_relevant for hit in row.hits)
    return counts


def thumbnail(encoded: bytes) -> str | None:
    """A small JPEG as a data: URI, upright and on white; None where the bytes are not a picture."""
    try:
        with Image.open(io.BytesIO(encoded), formats=IMAGE_FORMATS) as image:
            image.thumbnail((THUMBNAIL, THUMBNAIL))
            upright = ImageOps.exif_transpose(image).convert("RGBA")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return None
    white = Image.new("RGBA", upright.size, "white")
    file = io.BytesIO()
    Image.alpha_composite(white, upright).convert("RGB").save(file, "JPEG", quality=78, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()

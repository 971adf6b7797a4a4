"""The pictures of a run's report: what the start and the tuned model retrieve for the same queries."""

import base64
import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from PIL import Image, ImageOps

from gcl.data.record import IMAGE_FORMATS, Record

PICTURES = 5  # shown of those a query retrieved
THUMBNAIL = 120  # longer side, pixels

Examples = dict[int, dict[str, dict[str, Any]]]  # step -> query -> its entry in examples.json


@dataclass(frozen=True)
class Picture:
    """A retrieved product; `uri` is its thumbnail, None where it has no readable picture."""

    uri: str | None
    title: str
    rank: int
    score: float
    is_relevant: bool


@dataclass(frozen=True)
class Row:
    """What one model retrieved for a query."""

    model: str  # "start" or "step 800"
    pictures: list[Picture]
    first_relevant: int | None  # rank among all that is kept of the ranking
    depth: int  # how many of the ranking are kept


@dataclass(frozen=True)
class Query:
    """One query of a task with a row for the start and one for the tuned model."""

    text: str
    wanted: str | None  # data: URI of a relevant product
    wanted_title: str
    relevant: int
    rows: list[Row]


class Gallery:
    """Turns corpus rows into thumbnails, each once."""

    def __init__(self, rows: Callable[[int], Record]) -> None:
        self._rows = rows
        self._seen: dict[int, tuple[str | None, str]] = {}

    def queries(self, examples: Examples) -> list[Query]:
        """The queries of the last step in `examples`, each with a row for every step that has it."""
        return [self._query(text, examples) for text in examples[max(examples)]] if examples else []

    def _query(self, text: str, examples: Examples) -> Query:
        relevant = examples[max(examples)][text]["relevant"]
        wanted, title = self._picture(relevant[0]) if relevant else (None, "")
        rows = [self._row(step, by_query[text]) for step, by_query in examples.items() if text in by_query]
        return Query(text, wanted, title, len(relevant), rows)

    def _row(self, step: int, example: dict[str, Any]) -> Row:
        relevant = set(example["relevant"])
        ranked = list(enumerate(example["retrieved"], start=1))
        first = next((rank for rank, hit in ranked if hit["row"] in relevant), None)
        pictures = [
            Picture(*self._picture(hit["row"]), rank, hit["score"], hit["row"] in relevant)
            for rank, hit in ranked[:PICTURES]
        ]
        return Row(f"step {step}" if step else "start", pictures, first, len(ranked))

    def _picture(self, row: int) -> tuple[str | None, str]:
        if row not in self._seen:
            record = self._rows(row)
            encoded = next(iter(record.images.values()), b"")
            self._seen[row] = thumbnail(encoded), str(record.fields.get("title", record.item_id))
        return self._seen[row]


def found(queries: list[Query]) -> dict[str, int]:
    """For each model, how many of the queries show a relevant picture."""
    counts: dict[str, int] = {}
    for row in (row for query in queries for row in query.rows):
        counts[row.model] = counts.get(row.model, 0) + any(picture.is_relevant for picture in row.pictures)
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

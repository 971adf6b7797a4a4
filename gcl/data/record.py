"""What a product row is: text fields, encoded images, and the reasons for which a row is refused.

A row is a flat JSON object and image bytes. `item_id` names the product, `query` (or any text field) the query,
`score` how relevant the product is to the query, a number from 0 up (optional).
"""

import io
import re
import sys
from dataclasses import dataclass, field

from PIL import Image

ITEM_ID = "item_id"
SCORE = "score"
IMAGE_HASH = ".hash"  # behind the name of an image field: the text field with its hash, such as image.hash

# A tag such as <br> or </b>, or an entity such as &amp; or &#39;.
HTML = re.compile(r"</?[a-zA-Z][^<>]*>|&(?:[a-zA-Z]{2,8}|#\d{1,6}|#x[0-9a-fA-F]{1,5});")
IMAGE_FORMATS = (
    "JPEG",
    "PNG",
    "WEBP",
    "GIF",
)  # the formats that are opened; others would start more of Pillow than is safe
MAX_PIXELS = 64_000_000  # larger images are not decoded
REPLACEMENT_CHARACTER = "\ufffd"


@dataclass(frozen=True)
class Record:
    """One product row."""

    fields: dict[str, str | float]  # the JSON object: item_id, title, query, score, ...
    images: dict[str, bytes]  # field name -> encoded image file
    origin: str = ""  # where it stood in the source, such as "products.csv:17"

    @property
    def item_id(self) -> str:
        return str(self.fields[ITEM_ID])


@dataclass(frozen=True)
class Refusal:
    """A row that is not written, and why."""

    origin: str  # where it stood in the source, such as "products.csv:17"
    reason: str  # one of a small set, counted: "missing image", "empty title", ...
    detail: str = field(default="")


def refusal_of(record: Record, required: list[str]) -> Refusal | None:
    """The first reason not to write `record`, or None.

    Checks: an item_id; every required text field non-empty and free of HTML; a score, if any, finite and not
    negative; no wrongly decoded characters in any text; every image decodes to its last byte.
    """
    text = {name: value for name, value in record.fields.items() if isinstance(value, str)}
    for name in (ITEM_ID, *required):
        # An image brings its hash with it, though that is written later.
        if name.removesuffix(IMAGE_HASH) not in record.images and not str(record.fields.get(name, "")).strip():
            return Refusal(record.origin, f"empty {name}")
    if SCORE in record.fields and not is_score(record.fields[SCORE]):
        return Refusal(record.origin, "bad score", str(record.fields[SCORE])[:80])
    for name, value in text.items():
        if REPLACEMENT_CHARACTER in value:
            return Refusal(record.origin, "wrong encoding", f"{name}: {value[:80]}")
        if name in required and HTML.search(value):
            return Refusal(record.origin, "HTML in text", f"{name}: {value[:80]}")
    for name, encoded in record.images.items():
        if problem := image_problem(encoded):
            return Refusal(record.origin, "bad image", f"{name}: {problem}")
    return None


def is_score(value: str | float) -> bool:
    """Whether this is a finite number from 0 up."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= sys.float_info.max


def image_problem(encoded: bytes) -> str | None:
    """Why these bytes are not a whole image, or None."""
    try:
        with Image.open(io.BytesIO(encoded), formats=IMAGE_FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                return f"{image.width} x {image.height} pixels are more than {MAX_PIXELS}"
            image.load()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        return str(error)
    return None

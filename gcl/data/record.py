"""What a product row is: text fields, encoded images, and the reasons for which a row is refused.

A row is a flat JSON object and image bytes. `item_id` names the product, `query` (or any text field) the query,
`score` how relevant the product is to the query, a number from 0 up (optional).
"""

import hashlib
import io
import re
import sys
from collections.abc import Collection, Mapping
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
MAX_SCANS = 100  # of a JPEG; each costs time by the image's size, however few its bytes
SCAN = b"\xff\xda"  # stands nowhere else in a JPEG's pixels
REPLACEMENT_CHARACTER = "\ufffd"
HALF_CHARACTER = re.compile("[\ud800-\udfff]")  # half of a surrogate pair, which UTF-8 cannot hold


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
class SourceRow:
    """One row as a source gives it: its images may still be files or web addresses."""

    fields: dict[str, str | float]  # the JSON object: item_id, title, query, score, ...
    # Field name -> candidates, best first, of which the first good one is taken: an encoded image file, a path inside
    # the source's folder, or an http(s) address. None at all: the row names no image.
    images: dict[str, tuple[bytes | str, ...]]
    origin: str  # where it stood in the source, such as "products.csv:17"


@dataclass(frozen=True)
class Refusal:
    """A row that is not written, and why."""

    origin: str  # where it stood in the source, such as "products.csv:17"
    reason: str  # one of a small set, counted: "missing image", "empty title", ...
    detail: str = field(default="")
    count: int = 1  # of rows, where a source counts many in one


def refusal_of(
    fields: Mapping[str, str | float], images: Collection[str], required: list[str], origin: str
) -> Refusal | None:
    """The first reason not to write a row with these fields and these named images, or None.

    Checks: an item_id; every required field there, its text non-empty and free of HTML; a score, if any, finite and not
    negative; no wrongly decoded characters in any text. Whether the images are whole is `image_problem`'s to say.
    """
    for name in (ITEM_ID, *required):
        # An image brings its hash with it, though that is written later.
        if name.removesuffix(IMAGE_HASH) not in images and not str(fields.get(name, "")).strip():
            return Refusal(origin, f"empty {name}")
    if SCORE in fields and not is_score(fields[SCORE]):
        return Refusal(origin, "bad score", str(fields[SCORE])[:80])
    for name, value in fields.items():
        if not isinstance(value, str):
            continue
        if REPLACEMENT_CHARACTER in value or HALF_CHARACTER.search(value):
            return Refusal(origin, "wrong encoding", f"{name}: {HALF_CHARACTER.sub(REPLACEMENT_CHARACTER, value[:80])}")
        if name in required and HTML.search(value):
            return Refusal(origin, "HTML in text", f"{name}: {value[:80]}")
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
            if image.format == "JPEG" and (scans := encoded.count(SCAN)) > MAX_SCANS:
                return f"{scans} scans are more than {MAX_SCANS}"
            image.load()
    except Exception as error:  # a decoder at work on broken bytes raises anything
        return str(error) or type(error).__name__
    return None


def hash64(text: str) -> int:
    """A signed 64-bit hash, the same in every process."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), signed=True)

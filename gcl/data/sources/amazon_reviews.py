"""Amazon Reviews 2023 (McAuley Lab): products from its metadata files, with queries from its review files.

gcl prepare source=amazon_reviews source.path=meta_Gift_Cards.jsonl.gz output_dir=shards/gift_cards
"""

import glob
import gzip
import html
import json
import re
import zlib
from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property
from itertools import count, groupby, islice, zip_longest
from pathlib import Path
from typing import Any

from gcl.data.record import ITEM_ID, REPLACEMENT_CHARACTER, SCORE, Refusal, SourceRow
from gcl.data.sources.catalog import IMAGE, TITLE, text_of
from gcl.data.sources.review_queries import QueryRules, ReviewQueries
from gcl.data.sources.table import MISSING, PARQUET, SURROGATE, Row, count_rows, read_rows
from gcl.errors import UserError

QUERY = "query"
LINES = (".jsonl", ".jsonl.gz")
METADATA = "meta_"  # how the names of metadata files begin, and those of review files do not
MAX_LINE_BYTES = 1 << 24  # a longer line is refused: no product needs it, and it would have to fit into memory
MAX_CHARACTERS = 2000  # of features and of the description; text towers read far less
MAX_CANDIDATES = 6  # addresses that are tried for a product's image
SIZES = ("hi_res", "large", "thumb")  # of one image, the best first
IS_WEB = re.compile("https?://", re.IGNORECASE)
# Tags of pasted web pages. What else stands in angle brackets may be the product's text, and is left to be refused.
TAG = re.compile(
    r"</?(?:a|b|big|br|center|div|em|font|h[1-6]|hr|i|img|li|ol|p|small|span|strong|sub|sup|table|tbody|td|th|tr|u|ul)"
    r"(?:\s[^<>]*)?/?>",
    re.IGNORECASE,
)


class AmazonReviewsSource:
    """Amazon Reviews 2023: one row for each product, or with `reviews` one for each query of a product.

    Fields: item_id (parent_asin), title, category (the path, "Toys > Puzzles"; main_category where it is empty),
    main_category, store, features, description, price, average_rating and rating_number; entities such as &amp; become
    characters, tags such as <br> spaces. The image is the first good one of hi_res, large and thumb, of the main photo
    and then of the others. A product without a parent_asin, a title or an image is refused.

    With `reviews`, the titles of a product's reviews become its queries, in lower case: those of two words or more,
    that no more than `max_products_per_query` products were given ("great product" says nothing), from reviews of
    `min_rating` stars or more. A query's score is the evidence for it: 1 for each such review and 1 for each of its
    helpful votes (long-tailed: weighting=log suits it). Products that have no such query are left out.

    Raises:
        UserError: no such files, or one that is damaged; no query for any product.
    """

    folder = None

    def __init__(
        self,
        path: str,  # metadata: a .jsonl, .jsonl.gz or .parquet file, a folder of them, or a pattern ('DIR/meta_*.gz')
        reviews: str | None = None,  # review files, named in the same ways, whose titles become queries; null: none
        min_rating: float = 4.0,  # stars; a review with fewer gives no query: it tells what the product is not
        max_products_per_query: int = 10,  # a review title given to more products is too general to be a query
        queries_per_product: int = 5,  # at most; those with the highest scores
    ) -> None:
        for name, value in (
            ("max_products_per_query", max_products_per_query),
            ("queries_per_product", queries_per_product),
        ):
            if value < 1:
                raise UserError(f"source.{name} is {value}; it must be at least 1")
        self.files = find_files(path, METADATA)
        self.reviews = [] if reviews is None else find_files(reviews, "")
        self.rules = QueryRules(min_rating, max_products_per_query, queries_per_product)

    def __len__(self) -> int:
        if not self.reviews:
            return self._rows
        refused = self._rows - self._queries.products
        return refused + len(self._queries)

    def __iter__(self) -> Iterator[SourceRow | Refusal]:
        return self._rows_with_queries() if self.reviews else self._products()

    @cached_property
    def _rows(self) -> int:
        return sum(
            count_rows(file) if file.suffix == PARQUET else sum(1 for _ in read_lines(file)) for file in self.files
        )

    @cached_property
    def _queries(self) -> ReviewQueries:
        for file in self.reviews:
            check_whole(file)
        products = (
            (place, str(row.fields[ITEM_ID]))
            for place, row in enumerate(self._products())
            if isinstance(row, SourceRow)
        )
        return ReviewQueries(self.reviews, products, self.rules)

    def _products(self) -> Iterator[SourceRow | Refusal]:
        for file in self.files:
            for row in read_rows(file) if file.suffix == PARQUET else read_json_rows(file):
                yield row if isinstance(row, Refusal) else product(row)

    def _rows_with_queries(self) -> Iterator[SourceRow | Refusal]:
        by_place = groupby(self._queries, key=lambda query: query.place)
        place_with_query, queries = next(by_place, (None, iter(())))
        for place, row in enumerate(self._products()):
            if isinstance(row, Refusal):
                yield row
            elif place == place_with_query:
                for query in queries:
                    yield replace(row, fields={**row.fields, QUERY: clean(query.text), SCORE: query.score})
                place_with_query, queries = next(by_place, (None, iter(())))


def product(row: Row) -> SourceRow | Refusal:
    """A metadata record as a row, or why it is none."""
    cells = row.cells
    path = " > ".join(texts_of(cells.get("categories")))
    price = text_of(cells.get("price"))
    fields = {
        ITEM_ID: text_of(cells.get("parent_asin")),
        TITLE: clean(text_of(cells.get("title"))),
        "category": path or clean(text_of(cells.get("main_category"))),
        "main_category": clean(text_of(cells.get("main_category"))),
        "store": clean(text_of(cells.get("store"))),
        "features": bounded("; ".join(texts_of(cells.get("features")))),
        "description": bounded(" ".join(texts_of(cells.get("description")))),
        "price": "" if price in MISSING else price,
        "average_rating": text_of(cells.get("average_rating")),
        "rating_number": text_of(cells.get("rating_number")),
    }
    for name in (ITEM_ID, TITLE):
        if not fields[name]:
            return Refusal(row.origin, f"empty {name}")
    for name, value in fields.items():
        if REPLACEMENT_CHARACTER in value:
            return Refusal(row.origin, "wrong encoding", f"{name}: {value[:80]}")
    images = image_addresses(cells.get("images"))
    if not images:
        return Refusal(row.origin, "missing image", f"{fields[ITEM_ID]} names none")
    return SourceRow({name: value for name, value in fields.items() if value}, {IMAGE: images}, row.origin)


def image_addresses(images: Any) -> tuple[str, ...]:
    """The web addresses of a product's images, the best first: the sizes of the main one, then those of the others.

    Args:
        images: a list with an object for each image, or (in the Parquet form) an object with a list for each key.
    """
    if isinstance(images, dict):
        columns = {key: values for key, values in images.items() if isinstance(values, list)}
        images = [dict(zip(columns, values, strict=True)) for values in zip_longest(*columns.values())]
    listed = [image for image in images if isinstance(image, dict)] if isinstance(images, list) else []
    listed.sort(key=lambda image: image.get("variant") != "MAIN")
    named = [image.get(size) for image in listed for size in SIZES]
    addresses = dict.fromkeys(name.strip() for name in named if isinstance(name, str) and IS_WEB.match(name.strip()))
    return tuple(islice(addresses, MAX_CANDIDATES))


def texts_of(values: Any) -> list[str]:
    """The texts of a list, cleaned; one text counts as a list of it."""
    listed = values if isinstance(values, list) else [values]
    return [text for text in (clean(text_of(value)) for value in listed) if text]


def clean(text: str) -> str:
    """Text without entities and tags of HTML, in single spaces."""
    for _ in range(2):  # some were escaped twice
        text = html.unescape(text) if "&" in text else text
    return " ".join((TAG.sub(" ", text) if "<" in text else text).split())


def bounded(text: str) -> str:
    """At most MAX_CHARACTERS, cut between words."""
    return text if len(text) <= MAX_CHARACTERS else text[: MAX_CHARACTERS + 1].rpartition(" ")[0][:MAX_CHARACTERS]


def find_files(path: str, prefix: str) -> list[Path]:
    """The files that `path` names: a file, a pattern, or a folder (of whose files `prefix` says which).

    Raises:
        UserError: there is none.
    """
    given = Path(path).expanduser()
    if given.is_dir():
        there = sorted(file for file in given.iterdir() if is_readable(file))
        metadata = [file for file in there if file.name.startswith(METADATA)]
        found = (metadata or there) if prefix else [file for file in there if file not in metadata]
    else:
        found = [given] if given.is_file() else sorted(map(Path, glob.glob(str(given))))
        found = [file for file in found if is_readable(file)]
    if not found:
        kinds = ", ".join((*LINES, PARQUET))
        raise UserError(f"{path} names no file ending in {kinds}; give one, a folder of them, or a pattern in quotes")
    return found


def is_readable(file: Path) -> bool:
    return file.is_file() and file.name.endswith((*LINES, PARQUET)) and not file.name.startswith(".")


def read_lines(file: Path) -> Iterator[tuple[int, bytes]]:
    """Number, from 1, and content of each line that is not blank; of a line that is too long, its beginning.

    Raises:
        UserError: the file is damaged.
    """
    try:
        with gzip.open(file, "rb") if file.suffix == ".gz" else file.open("rb") as opened:
            for number in count(1):
                part = line = opened.readline(MAX_LINE_BYTES)
                while len(part) == MAX_LINE_BYTES and part[-1:] != b"\n":
                    part = opened.readline(MAX_LINE_BYTES)
                if not line:
                    return
                if line.strip():
                    yield number, line
    except (OSError, EOFError, zlib.error) as error:
        raise damaged(file, error) from error


def read_json_rows(file: Path) -> Iterator[Row | Refusal]:
    """Every line's object, or why it is none; bytes that are not UTF-8 become U+FFFD."""
    for number, raw in read_lines(file):
        origin = f"{file.name}:{number}"
        line = raw.decode("utf-8-sig" if number == 1 else "utf-8", errors="replace")
        try:
            cells = json.loads(line)
        except (ValueError, RecursionError) as error:
            yield Refusal(origin, "bad JSON", str(error))
            continue
        if not isinstance(cells, dict):
            yield Refusal(origin, "bad JSON", f"{line[:80].strip()} is not an object")
            continue
        if "\\ud" in line.lower():  # half of a surrogate pair cannot be written as UTF-8
            cells = json.loads(SURROGATE.sub(REPLACEMENT_CHARACTER, json.dumps(cells, ensure_ascii=False)))
        yield Row(origin, cells)


def check_whole(file: Path) -> None:
    """Read a compressed file to its end and checksum: who skips bad lines would skip over damage too.

    Raises:
        UserError: the file is damaged.
    """
    if file.suffix != ".gz":
        return
    try:
        with gzip.open(file, "rb") as opened:
            while opened.read(1 << 20):
                pass
    except (OSError, EOFError, zlib.error) as error:
        raise damaged(file, error) from error


def damaged(file: Path, error: Exception) -> UserError:
    return UserError(
        f"{file} cannot be read to its end ({error}); it is damaged or not wholly downloaded: fetch it again"
    )

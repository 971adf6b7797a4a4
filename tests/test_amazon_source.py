"""Amazon Reviews 2023 as it is shipped: metadata becomes rows, review titles become queries, losses are counted."""

import gzip
import io
import json
import random
import tarfile
import threading
from collections import Counter, defaultdict
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from gcl.cli import run_verb
from gcl.data.record import Refusal, SourceRow
from gcl.data.sources import amazon_reviews
from gcl.data.sources.amazon_reviews import AmazonReviewsSource
from gcl.errors import UserError

REAL = Path(__file__).resolve().parents[2] / "shared" / "data" / "formats" / "amazon_reviews_2023_meta_sample.jsonl"
SERVER = "https://m.media-amazon.com/images/I/"


def photo(name: str, variant: str = "MAIN", hi_res: bool = True, server: str = SERVER) -> dict[str, Any]:
    return {
        "thumb": f"{server}{name}._SS40_.jpg",
        "large": f"{server}{name}.jpg",
        "variant": variant,
        "hi_res": f"{server}{name}._SL1500_.jpg" if hi_res else None,
    }


def metadata(item_id: str, **changes: Any) -> dict[str, Any]:
    """A record with the true keys, in their true order."""
    return {
        "main_category": "Handmade",
        "title": f"Silver Earrings {item_id}",
        "average_rating": 4.5,
        "rating_number": 12,
        "features": ["Antique Brass Metallic Hardware", '1" wide'],
        "description": ["These large silver triangles.", "Handmade."],
        "price": None,
        "images": [photo(item_id), photo(f"{item_id}b", "PT01")],
        "videos": [],
        "store": "Zoë Noelle Designs",
        "categories": ["Handmade Products", "Jewelry", "Earrings"],
        "details": {"Department": "Women", "Date First Available": "July 4, 2016"},
        "parent_asin": item_id,
        "bought_together": None,
    } | changes


def review(item_id: str, title: str, rating: float = 5.0, helpful_vote: int = 0) -> dict[str, Any]:
    return {
        "rating": rating,
        "title": title,
        "text": "I bought this for my mother.",
        "images": [],
        "asin": "B0VARIANT",
        "parent_asin": item_id,
        "user_id": "AE74DYR3QUGVPZJ3P7RFWBGIX7XQ",
        "timestamp": 1588615855070,
        "helpful_vote": helpful_vote,
        "verified_purchase": True,
    }


def write(file: Path, records: list[dict[str, Any] | str]) -> Path:
    text = "".join((record if isinstance(record, str) else json.dumps(record)) + "\n" for record in records)
    file.write_bytes(gzip.compress(text.encode()) if file.suffix == ".gz" else text.encode())
    return file


def rows(source: AmazonReviewsSource) -> list[SourceRow]:
    found = list(source)
    assert len(found) == len(source)
    assert all(isinstance(row, SourceRow) for row in found), found
    return [row for row in found if isinstance(row, SourceRow)]


def queries(source: AmazonReviewsSource) -> list[tuple[str, str, float]]:
    return [(str(r.fields["item_id"]), str(r.fields["query"]), float(r.fields["score"])) for r in rows(source)]


@pytest.fixture(params=["written", "real"])
def sample(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Records such as McAuley Lab ships: null prices, missing hi_res, empty categories; or four real ones."""
    if request.param == "real":
        if not REAL.exists():
            pytest.skip(f"{REAL} is not on this machine")
        return REAL
    records = [
        metadata("B01HYNE114"),
        metadata("B08W5BSH6V", categories=[], description=[], details={}, main_category="SUBSCRIPTION BOXES"),
        metadata("B07NTK7T5P", images=[photo("1", hi_res=False), photo("2", "PT01", hi_res=False), photo("3", "PT02")]),
        metadata("B06ZXTKYHN", features=[], price=19.99),
    ]
    return write(tmp_path / "meta_Handmade.jsonl", [*records])


def test_records_as_they_are_shipped_become_rows_with_the_best_address_of_the_main_image_first(sample: Path) -> None:
    shipped = [json.loads(line) for line in sample.read_text(encoding="utf-8").splitlines()]
    found = rows(AmazonReviewsSource(str(sample)))
    assert len(found) == len(shipped) == 4
    for number, (row, record) in enumerate(zip(found, shipped, strict=True), start=1):
        assert row.origin == f"{sample.name}:{number}"
        assert row.fields["item_id"] == record["parent_asin"] and row.fields["title"] == record["title"]
        assert row.fields["category"] == (" > ".join(record["categories"]) or record["main_category"])
        assert (
            row.fields["store"] == record["store"] and float(row.fields["average_rating"]) == record["average_rating"]
        )
        for name in ("features", "description"):
            assert (
                all(text in str(row.fields[name]) for text in record[name]) if record[name] else name not in row.fields
            )
        assert ("price" in row.fields) == (record["price"] is not None)
        main = record["images"][0]
        best = [main[size] for size in ("hi_res", "large", "thumb") if main[size]]
        assert main["variant"] == "MAIN" and list(row.images["image"][: len(best)]) == best
        assert len(row.images["image"]) == 6


def test_a_compressed_file_a_folder_and_a_pattern_give_the_same_rows(tmp_path: Path) -> None:
    first, second = [metadata("A"), metadata("B")], [metadata("C", store="")]
    write(tmp_path / "meta_First.jsonl", [*first])
    write(tmp_path / "meta_Second.jsonl.gz", [*second])
    write(tmp_path / "Second.jsonl.gz", [review("C", "Nice silver")])
    in_folder = rows(AmazonReviewsSource(str(tmp_path)))
    assert [row.fields["item_id"] for row in in_folder] == ["A", "B", "C"]
    assert in_folder[2].origin == "meta_Second.jsonl.gz:1" and "store" not in in_folder[2].fields
    assert rows(AmazonReviewsSource(str(tmp_path / "meta_*"))) == in_folder
    assert rows(AmazonReviewsSource(str(tmp_path / "meta_Second.jsonl.gz"))) == in_folder[2:]


def test_the_parquet_form_gives_the_same_rows(tmp_path: Path) -> None:
    records = [metadata("A"), metadata("B", images=[photo("1", "PT01"), photo("2", hi_res=False)])]
    plain = rows(AmazonReviewsSource(str(write(tmp_path / "meta_All.jsonl", [*records]))))
    table = []
    for record in records:  # the images as one object of lists, what is missing as the text None
        images = {key: [image[key] for image in record["images"]] for key in record["images"][0]}
        table.append({**record, "images": images, "price": "None", "details": "{}", "videos": None})
    pq.write_table(pa.Table.from_pylist(table), tmp_path / "full-00000-of-00001.parquet")
    parquet = rows(AmazonReviewsSource(str(tmp_path / "full-00000-of-00001.parquet")))
    assert [(row.fields, row.images) for row in parquet] == [(row.fields, row.images) for row in plain]


def test_the_main_photo_comes_first_wherever_it_stands_and_candidates_are_few(tmp_path: Path) -> None:
    images = [photo(str(number), f"PT0{number}") for number in range(1, 9)]
    images[4]["variant"] = "MAIN"
    odd = [None, "text", {"variant": "MAIN", "large": ["x"], "thumb": "file:///etc/passwd", "hi_res": "  "}, photo("9")]
    file = write(tmp_path / "meta.jsonl", [metadata("A", images=images), metadata("B", images=odd)])
    first, second = rows(AmazonReviewsSource(str(file)))
    names = [str(address).removeprefix(SERVER) for address in first.images["image"]]
    assert names == ["5._SL1500_.jpg", "5.jpg", "5._SS40_.jpg", "1._SL1500_.jpg", "1.jpg", "1._SS40_.jpg"]
    assert second.images["image"] == tuple(photo("9")[size] for size in ("hi_res", "large", "thumb"))


@pytest.mark.parametrize(
    ("price", "text"),
    [(None, None), ("None", None), (19.99, "19.99"), (20.0, "20"), ("from 12.99", "from 12.99"), (7, "7"), ("", None)],
)
def test_a_price_is_text_if_there_is_one(tmp_path: Path, price: Any, text: str | None) -> None:
    (row,) = rows(AmazonReviewsSource(str(write(tmp_path / "meta.jsonl", [metadata("A", price=price)]))))
    assert row.fields.get("price") == text


def test_entities_become_characters_and_tags_spaces_but_other_angle_brackets_stay(tmp_path: Path) -> None:
    record = metadata(
        "A",
        title=" Salt &amp;amp; Pepper&#39;s <b>Mill</b><br />30 cm &lt;p&gt;",
        features=["<ul><li>Oak</li></ul>", "&nbsp;", "A<B, <NEW> 5 < 6 > 4"],
        description=["word " * 1000],
        categories=["Home &amp; Kitchen", " Mills "],
    )
    (row,) = rows(AmazonReviewsSource(str(write(tmp_path / "meta.jsonl", [record]))))
    assert row.fields["title"] == "Salt & Pepper's Mill 30 cm"
    assert row.fields["features"] == "Oak; A<B, <NEW> 5 < 6 > 4"
    assert row.fields["category"] == "Home & Kitchen > Mills"
    description = str(row.fields["description"])
    assert 1990 < len(description) <= 2000 and set(description.split()) == {"word"}


def test_records_that_cannot_be_used_say_why_and_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(amazon_reviews, "MAX_LINE_BYTES", 4000)
    bad: dict[str, list[dict[str, Any] | str]] = {
        "bad JSON": ['{"title": "cut', "[1]", "[" * 3000, json.dumps(metadata("L", description=["long"] * 4000))],
        "empty item_id": [metadata("", title="x"), metadata("A", parent_asin=None)],
        "empty title": [metadata("B", title="  "), metadata("C", title=None), metadata("D", title={"a": 1})],
        "missing image": [
            metadata("E", images=[]),
            metadata("F", images=None),
            metadata("G", images=[{"large": None}]),
        ],
        "wrong encoding": [json.dumps(metadata("H", title="half \ud83d")), metadata("I", store="caf\ufffd")],
    }
    lines = [line for of_reason in bad.values() for line in of_reason]
    file = write(tmp_path / "meta.jsonl.gz", [*lines, "", "   ", metadata("Z")])
    source = AmazonReviewsSource(str(file))
    found = list(source)
    assert len(source) == len(found) == len(lines) + 1
    reasons = Counter(row.reason for row in found if isinstance(row, Refusal))
    assert reasons == {reason: len(of_reason) for reason, of_reason in bad.items()}
    last = found[-1]
    assert isinstance(last, SourceRow) and last.origin == f"meta.jsonl.gz:{len(lines) + 3}"


@pytest.mark.parametrize("damage", ["cut in half", "without its end", "changed inside", "not compressed"])
@pytest.mark.parametrize("which", ["metadata", "reviews"])
def test_a_damaged_file_is_named_before_a_row_is_written(tmp_path: Path, damage: str, which: str) -> None:
    lines = [metadata(f"B{number}", title=str(random.Random(number).random())) for number in range(2000)]
    reviews = [review("B1", str(random.Random(number).random()) + " pearls and gold") for number in range(2000)]
    files = {
        "metadata": write(tmp_path / "meta_A.jsonl.gz", [*lines]),
        "reviews": write(tmp_path / "A.jsonl.gz", [*reviews]),
    }
    whole = files[which].read_bytes()
    middle = len(whole) // 2
    files[which].write_bytes(
        {
            "cut in half": whole[:middle],
            "without its end": whole[:-4],
            "changed inside": whole[:middle] + bytes(8) + whole[middle + 8 :],
            "not compressed": b"<html>not found</html>" * 20,
        }[damage]
    )
    source = AmazonReviewsSource(str(files["metadata"]), str(files["reviews"]) if which == "reviews" else None)
    with pytest.raises(UserError) as error:
        len(source)
    message = str(error.value)
    assert str(files[which]) in message and "damaged" in message and "\n" not in message


@pytest.mark.parametrize("path", ["absent.jsonl", "empty", "notes.txt", "none_*.gz"])
def test_a_path_that_names_no_file_is_refused(tmp_path: Path, path: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("{}")
    with pytest.raises(UserError, match=r"names no file ending in \.jsonl"):
        AmazonReviewsSource(str(tmp_path / path))


@pytest.fixture
def three_products(tmp_path: Path) -> str:
    return str(write(tmp_path / "meta.jsonl", [metadata("A"), "{broken", metadata("B"), metadata("C")]))


def test_review_titles_become_queries_with_the_evidence_for_them_as_score(
    three_products: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file = write(
        tmp_path / "reviews.jsonl.gz",
        [
            review("B", "Gift for  <br />Grandma!!", helpful_vote=3),
            review("B", "gift for grandma", 4.0),
            review("B", "Gift for grandma", 2.0, helpful_vote=50),  # tells what the product is not
            review("B", "Don&#39;t miss", helpful_vote=9),
            review("B", "Broke at once", 1.0, helpful_vote=9),
            review("B", "Lovely"),  # one word says too little
            review("A", "It's"),
            review("A", "It fits small ears", helpful_vote=-1),
            review("UNKNOWN", "Some other thing"),
            "{broken",
            json.dumps(["B", "x"]),
        ],
    )
    source = AmazonReviewsSource(three_products, str(file))
    found = list(source)
    assert len(found) == len(source) == 4
    assert isinstance(found[1], Refusal) and found[1].reason == "bad JSON"
    good = [row for row in found if isinstance(row, SourceRow)]
    assert [(row.fields["item_id"], row.fields["query"], row.fields["score"]) for row in good] == [
        ("A", "it fits small ears", 1.0),
        ("B", "don't miss", 10.0),
        ("B", "gift for grandma", 5.0),
    ]
    assert all(
        row.fields["title"] == f"Silver Earrings {row.fields['item_id']}" and row.images["image"] for row in good
    )
    assert "2 of 3 products have a query from 9 reviews (2 more cannot be read)" in capfd.readouterr().err


def test_titles_that_many_products_were_given_are_no_queries(three_products: str, tmp_path: Path) -> None:
    titles = [("A", "Great product"), ("B", "great product."), ("X", "GREAT PRODUCT", 1.0), ("A", "Hoops of gold")]
    file = write(tmp_path / "reviews.jsonl", [review(*title) for title in [*titles, ("B", "Hoops of gold")]])

    def of(most: int) -> list[tuple[str, str]]:
        source = AmazonReviewsSource(three_products, str(file), max_products_per_query=most)
        return [(row.fields["item_id"], row.fields["query"]) for row in source if isinstance(row, SourceRow)]

    assert of(2) == [("A", "hoops of gold"), ("B", "hoops of gold")]
    assert of(3) == [("A", "great product"), ("A", "hoops of gold"), ("B", "great product"), ("B", "hoops of gold")]
    with pytest.raises(UserError, match="0 of 3 products have a query from 5 reviews"):
        of(1)


@pytest.mark.parametrize("kind", ["jsonl", "jsonl.gz", "parquet"])
def test_many_reviews_give_the_queries_that_counting_in_python_gives(tmp_path: Path, kind: str) -> None:
    draw = random.Random(7)
    words = ["red", "gold", "pearl", "hoop", "tiny", "gift"]
    products = [f"P{number}" for number in range(300)]
    draw.shuffle(products)
    written = [
        review(f"P{draw.randrange(400)}", " ".join(draw.choices(words, k=3)), draw.randint(1, 5), draw.randrange(4))
        for _ in range(6000)
    ]
    scores: dict[tuple[str, str], float] = defaultdict(float)
    asked: dict[str, set[str]] = defaultdict(set)
    for one in written:
        asked[one["title"]].add(one["parent_asin"])
        if one["rating"] >= 3:
            scores[one["parent_asin"], one["title"]] += 1 + one["helpful_vote"]
    expected = []
    for product in products:
        of_product = [(-s, q) for (p, q), s in scores.items() if p == product and len(asked[q]) <= 25]
        expected += [(product, query, -score) for score, query in sorted(of_product)[:3]]
    file = tmp_path / f"reviews.{kind}"
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(written), file)
    else:
        write(file, [*written])
    meta = write(tmp_path / "meta.jsonl", [metadata(product) for product in products])
    source = AmazonReviewsSource(str(meta), str(file), min_rating=3, max_products_per_query=25, queries_per_product=3)
    found = queries(source)
    assert found == expected and len(found) > 300
    assert queries(source) == found  # the same rows each time they are asked for


def test_files_that_are_no_reviews_are_refused(three_products: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="0 of 3 products have a query"):
        len(AmazonReviewsSource(three_products, str(write(tmp_path / "other.jsonl", [{"a": 1}]))))
    pq.write_table(pa.table({"a": [1]}), tmp_path / "other.parquet")
    with pytest.raises(UserError, match=r"the reviews in .*other\.parquet"):
        len(AmazonReviewsSource(three_products, str(tmp_path / "other.parquet")))


def jpeg(shade: int) -> bytes:
    encoded = io.BytesIO()
    Image.new("RGB", (8, 8), (shade, shade, shade)).save(encoded, "JPEG")
    return encoded.getvalue()


LARGE, THUMB = jpeg(200), jpeg(20)


@pytest.fixture
def image_server() -> Iterator[str]:
    """Photos of a shop whose largest forms, and of the product GONE all, were taken away."""

    class Shop(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = "_SL1500_" not in self.path and "GONE" not in self.path
            body = (THUMB if "_SS40_" in self.path else LARGE) if found else b""
            self.send_response(200 if found else 404)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Shop)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()


def test_prepared_shards_hold_the_first_good_image_and_count_what_was_lost(image_server: str, tmp_path: Path) -> None:
    records = [metadata(f"B{number}", images=[photo(str(number), server=image_server)]) for number in range(12)]
    lost = [metadata("GONE", images=[photo("GONE", server=image_server)]), metadata("BARE", images=[]), "{broken"]
    file = write(tmp_path / "meta_Shop.jsonl.gz", [*records, records[0], *lost])
    reviews = write(tmp_path / "Shop.jsonl", [review(f"B{n}", f"gift number {n}", helpful_vote=n) for n in range(12)])
    output = tmp_path / "shards"
    arguments = ["source=amazon_reviews", f"source.path={file}", f"source.reviews={reviews}", f"output_dir={output}"]
    settings = ["images.allow_private_addresses=true", "max_refused_share=0.5", "workers=1", "split.validation=0.4"]
    run_verb("prepare", [*arguments, *settings])
    refused = [json.loads(line)["reason"] for line in (output / "refused.jsonl").read_text().splitlines()]
    assert sorted(refused) == ["bad JSON", "missing image"]  # what has no query was left out
    written: dict[str, bytes] = {}
    for shard in output.glob("*.tar"):
        with tarfile.open(shard) as opened:
            written |= {name: opened.extractfile(name).read() for name in opened.getnames()}  # type: ignore[union-attr]
    fields = [json.loads(content) for name, content in written.items() if name.endswith(".json")]
    assert {(row["query"], row["score"]) for row in fields} == {(f"gift number {n}", 1.0 + n) for n in range(12)}
    assert [content for name, content in written.items() if name.endswith(".jpg")] == [LARGE] * 12


def test_without_reviews_every_row_that_is_lost_is_counted(image_server: str, tmp_path: Path) -> None:
    good = metadata("GOOD", images=[photo("0", server=image_server)])
    gone = metadata("GONE", images=[photo("GONE", server=image_server)])
    file = write(tmp_path / "meta_Shop.jsonl", [good, good, gone, metadata("BARE", images=[]), "{broken"])
    settings = ["images.allow_private_addresses=true", "max_refused_share=0.9", "workers=1"]
    output = tmp_path / "shards"
    run_verb("prepare", ["source=amazon_reviews", f"source.path={file}", f"output_dir={output}", *settings])
    refused = [json.loads(line) for line in (output / "refused.jsonl").read_text().splitlines()]
    assert {(row["origin"][-1], row["reason"]) for row in refused} == {
        ("2", "duplicate item_id"),
        ("3", "image not found"),
        ("4", "missing image"),
        ("5", "bad JSON"),
    }

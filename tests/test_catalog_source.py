"""A merchant's table becomes records in its own order, and every row that cannot be used says why."""

import csv
import io
import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from gcl.data.record import Record, Refusal, refusal_of
from gcl.data.sources.catalog import CatalogSource
from gcl.errors import UserError

FASHION = Path(__file__).resolve().parents[2] / "shared" / "data" / "fashion"


def jpeg(shade: int = 0) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (shade, 0, 0)).save(buffer, "JPEG")
    return buffer.getvalue()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A catalogue's folder with the images a.jpg and b.jpg, and no table yet."""
    (tmp_path / "a.jpg").write_bytes(jpeg(0))
    (tmp_path / "b.jpg").write_bytes(jpeg(255))
    return tmp_path


def write(folder: Path, name: str, text: str | bytes) -> Path:
    (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return folder / name


def write_parquet(folder: Path, **columns: list[Any] | pa.Array) -> Path:
    pq.write_table(pa.table(columns), folder / "products.parquet")
    return folder / "products.parquet"


def records(source: CatalogSource) -> list[Record]:
    rows = list(source)
    assert len(rows) == len(source)
    assert all(isinstance(row, Record) for row in rows), rows
    return [row for row in rows if isinstance(row, Record)]


def refusals(source: CatalogSource) -> list[tuple[str, str]]:
    rows = list(source)
    assert len(rows) == len(source)
    return [(row.origin, row.reason) for row in rows if isinstance(row, Refusal)]


def test_a_csv_file_with_a_byte_order_mark_is_read(folder: Path) -> None:
    write(folder, "products.csv", "\ufeffid,title,image,category\r\n007,Stövel,a.jpg,Shoes\r\n008,Hat,b.jpg,\r\n")
    first, second = records(CatalogSource(str(folder)))
    assert first.fields == {"item_id": "007", "title": "Stövel", "category": "Shoes"}
    assert first.images == {"image": jpeg(0)} and second.images == {"image": jpeg(255)}
    assert second.fields == {"item_id": "008", "title": "Hat"}
    assert [first.origin, second.origin] == ["products.csv:2", "products.csv:3"]


def test_a_tsv_file_is_read(folder: Path) -> None:
    table = write(folder, "feed.tsv", 'sku\tName\tImage URL\n01\tRug, 27" wide\ta.jpg\n')
    (record,) = records(CatalogSource(str(table)))
    assert record.fields == {"item_id": "01", "title": 'Rug, 27" wide'} and record.origin == "feed.tsv:2"


def test_a_quoted_title_may_hold_a_line_break_and_blank_lines_are_passed_over(folder: Path) -> None:
    write(folder, "products.csv", 'id,title,image\n1,"Red,\nwarm",a.jpg\n\n2,Blue,b.jpg\n')
    first, second = records(CatalogSource(str(folder)))
    assert first.fields["title"] == "Red,\nwarm"
    assert [first.origin, second.origin] == ["products.csv:2", "products.csv:5"]


def test_a_jsonl_file_is_read(folder: Path) -> None:
    rows = [
        {
            "id": 12,
            "title": "Hat",
            "image": ["a.jpg", "b.jpg"],
            "colours": ["red", "blue"],
            "stock": {"Oslo": 3},
            "price": 19.5,
            "weight": 2.0,
            "brand": None,
            "score": "0.5",
            "sizes": [],
            "new": True,
        },
        {"id": "012", "title": "Cap \ud83d\ude00", "image": "b.jpg", "size": "L", "score": "", "brand": None},
    ]
    write(folder, "products.jsonl", "\n\n".join(map(json.dumps, rows)))
    first, second = records(CatalogSource(str(folder)))
    assert first.fields == {
        "item_id": "12",
        "title": "Hat",
        "colours": "red, blue",
        "price": "19.5",
        "weight": "2",
        "score": 0.5,
        "new": "true",
    }
    assert second.fields == {"item_id": "012", "title": "Cap \U0001f600", "size": "L"}
    assert first.images["image"] == jpeg(0) and second.origin == "products.jsonl:3"


def test_a_parquet_file_is_read(folder: Path) -> None:
    write_parquet(
        folder,
        item_ID=[1.0, 2.0, None],
        title=["Hat", "Cap", "Bag"],
        image=["a.jpg", "b.jpg", "a.jpg"],
        price=[9.99, float("nan"), 5.0],
        score=[1, 2, 3],
    )
    first, second, third = records(CatalogSource(str(folder)))
    assert first.fields == {"item_id": "1", "title": "Hat", "price": "9.99", "score": 1.0}
    assert second.fields == {"item_id": "2", "title": "Cap", "score": 2.0}
    assert "item_id" not in third.fields and third.origin == "products.parquet:3"
    refusal = refusal_of(third, ["title"])
    assert refusal is not None and refusal.reason == "empty item_id"


def test_images_may_lie_inside_a_parquet_file(folder: Path) -> None:
    title = ["Hat", "Cap"]
    source = CatalogSource(str(write_parquet(folder, id=["01", "02"], title=title, image=[jpeg(0), jpeg(255)])))
    assert [record.images["image"] for record in records(source)] == [jpeg(0), jpeg(255)]
    struct = [{"bytes": jpeg(1), "path": "elsewhere.jpg"}, {"bytes": None, "path": "b.jpg"}]
    source = CatalogSource(str(write_parquet(folder, id=["01", "02"], title=title, image=struct)))
    assert [record.images["image"] for record in records(source)] == [jpeg(1), jpeg(255)]


def test_columns_are_renamed_and_the_rest_keep_their_names(folder: Path) -> None:
    write(folder, "products.csv", "id,sku,title,category,photo,dept\n1,007,Hat,Old,a.jpg,Men\n")
    source = CatalogSource(str(folder), columns={"item_id": "sku", "category": "dept", "query": "title"})
    (record,) = records(source)
    assert record.fields == {"id": "1", "item_id": "007", "title": "Hat", "query": "Hat", "category": "Men"}


@pytest.mark.parametrize("spelling", ["", "nan", "NaN", "null", "NULL", "None", "  "])
def test_a_missing_value_in_a_csv_file_is_left_out(folder: Path, spelling: str) -> None:
    write(folder, "products.csv", f"id,title,image,brand,score\n1,Hat,a.jpg,{spelling},{spelling}\n")
    assert records(CatalogSource(str(folder)))[0].fields == {"item_id": "1", "title": "Hat"}


def test_rows_that_cannot_be_used_say_why_and_the_others_are_read(folder: Path) -> None:
    (folder / "inside").mkdir()
    (folder / "b.jpg").rename(folder / "outside.jpg")
    (folder / "a.jpg").rename(folder / "inside" / "a.jpg")
    write(
        folder / "inside",
        "products.csv",
        "\n".join(
            [
                "id,title,image,score",
                "1,Hat,a.jpg,1",
                "2,Hat,absent.jpg,1",
                "3,Hat,../outside.jpg,1",
                f"4,Hat,{folder}/outside.jpg,1",
                "7,Hat,a.jpg",
                "8,Hat,a.jpg,1,extra",
                "9,Hat,,1",
                "10,Hat,ftp://shop.example/a.jpg,1",
                "11,Hat,http://127.0.0.1/a.jpg,1",
                "12,Hat,a.jpg,1",
            ]
        ),
    )
    assert refusals(CatalogSource(str(folder / "inside"))) == [
        ("products.csv:3", "missing image"),
        ("products.csv:4", "image outside the catalogue"),
        ("products.csv:5", "image outside the catalogue"),
        ("products.csv:6", "wrong number of columns"),
        ("products.csv:7", "wrong number of columns"),
        ("products.csv:8", "missing image"),
        ("products.csv:9", "image download failed"),
        ("products.csv:10", "image download failed"),
    ]


def test_a_score_that_is_no_number_is_kept_for_the_check_that_refuses_the_row(folder: Path) -> None:
    scores = [0, 2, "0.5", " 3 ", -1, "many", "inf", "1e999", True, [], {"a": 1}, 10**400, None, ""]
    rows = [{"id": number, "title": "Hat", "image": "a.jpg", "score": score} for number, score in enumerate(scores)]
    write(folder, "products.jsonl", "\n".join(map(json.dumps, rows)))
    found = records(CatalogSource(str(folder)))
    checked = [refusal_of(record, ["title", "image"]) for record in found]
    assert [refusal.reason if refusal else None for refusal in checked] == [*[None] * 4, *["bad score"] * 8, None, None]
    assert [record.fields.get("score") for record in found[:4]] == [0.0, 2.0, 0.5, 3.0]
    assert ["score" in record.fields for record in found[-2:]] == [False, False]


def test_a_row_that_is_not_utf8_is_refused_and_the_others_are_read(folder: Path) -> None:
    write(folder, "products.csv", b"id,title,image\n1,St\xf6vel,a.jpg\n2,H\xc3\xb6st,b.jpg\n3,Hat,\xf6.jpg\n")
    source = CatalogSource(str(folder))
    assert refusals(source) == [("products.csv:2", "wrong encoding"), ("products.csv:4", "wrong encoding")]


def test_a_parquet_text_that_is_not_utf8_is_refused_and_the_others_are_read(folder: Path) -> None:
    titles = pa.array([b"St\xf6vel", None, "Höst".encode()]).view(pa.string())
    write_parquet(folder, id=["1", "2", "3"], title=titles, image=["a.jpg"] * 3)
    assert refusals(CatalogSource(str(folder))) == [("products.parquet:1", "wrong encoding")]


def test_jsonl_lines_that_are_no_object_are_refused(folder: Path) -> None:
    good = json.dumps({"id": 1, "title": "Hat", "image": "a.jpg"})
    lines = ["{broken", good, "[1, 2]", "[" * 100_000, good.replace("Hat", r"\ud800"), good.replace("title", r"\uDFFF")]
    write(folder, "products.jsonl", "\n".join([*lines, ""]).encode() + good.replace("Hat", "\xff").encode("latin-1"))
    bad_json, wrong_encoding = [1, 3, 4], [5, 6, 7]
    assert refusals(CatalogSource(str(folder))) == [
        *((f"products.jsonl:{line}", "bad JSON") for line in bad_json),
        *((f"products.jsonl:{line}", "wrong encoding") for line in wrong_encoding),
    ]


def test_a_quote_left_open_does_not_end_the_table(folder: Path) -> None:
    good = [f"{number},Hat,a.jpg" for number in range(12_000)]
    write(folder, "products.csv", "\n".join(["id,title,image", *good[:2], '2,"Hat,a.jpg', *good[3:]]))
    rows = list(CatalogSource(str(folder)))
    assert [row.reason for row in rows if isinstance(row, Refusal)] == ["bad CSV"]
    assert isinstance(rows[1], Record) and isinstance(rows[-1], Record) and rows[-1].item_id == "11999"


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("products.xlsx", "x", "holds no table"),
        ("products.csv", "", "holds no row"),
        ("products.csv", "id,title,image\n", "holds no row"),
        ("products.jsonl", "\n\n", "holds no row"),
        ("products.parquet", "no parquet", "cannot be read as Parquet"),
        ("products.csv", "id,title,title,image\n1,a,b,a.jpg\n", "more than one column named 'title'"),
        ("products.csv", "id;title;image\n1;a;a.jpg\n", "separated by semicolons"),
        ("products.csv", "id,title,image\n1,a,a.jpg\n".encode("utf-16"), "written in UTF-16"),
        ("products.csv", b"id,title,image,gr\xf6\xdfe\n1,a,a.jpg,2\n", "not UTF-8"),
        ("products.csv", "ref,title,image\n1,a,a.jpg\n", "no column for item_id; it has ref, title, image; name the"),
        ("products.csv", "id,label,image\n1,a,a.jpg\n", "no column for title"),
        ("products.csv", "id,title,file\n1,a,a.jpg\n", "no column for image"),
    ],
)
def test_a_table_that_cannot_be_used_is_refused_in_one_line(
    tmp_path: Path, name: str, content: str | bytes, said: str
) -> None:
    write(tmp_path, name, content)
    with pytest.raises(UserError, match=said) as error:
        CatalogSource(str(tmp_path))
    assert "\n" not in str(error.value)


def test_a_path_that_names_no_table_is_refused(folder: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        CatalogSource(str(folder / "absent"))
    with pytest.raises(UserError, match="no table that can be read; a table ends in .csv, .tsv, .jsonl, .parquet"):
        CatalogSource(str(folder / "a.jpg"))
    for name in ("products.csv", "stock.tsv"):
        write(folder, name, "id,title,image\n")
    with pytest.raises(UserError, match=r"holds 2 tables \(products.csv, stock.tsv\); name the one to read"):
        CatalogSource(str(folder))


def test_a_parquet_file_with_a_damaged_column_is_refused(folder: Path) -> None:
    ids = [f"{number:04d}" for number in range(1000)]
    table = write_parquet(folder, id=ids, title=["Hat"] * 1000, image=["a.jpg"] * 1000)
    content = table.read_bytes()
    table.write_bytes(content[:4] + bytes(2000) + content[2004:])
    with pytest.raises(UserError, match="cannot be read as Parquet"):
        list(CatalogSource(str(table)))


def test_a_column_that_is_not_there_is_refused_with_the_nearest_name(folder: Path) -> None:
    write(folder, "products.csv", "id,title,image,subCategory\n1,Hat,a.jpg,Men\n")
    with pytest.raises(
        UserError, match=r"columns.category is 'subcategory'.*did you mean subCategory\?.*FIELD: COLUMN"
    ):
        CatalogSource(str(folder), columns={"category": "subcategory"})


class SlowShop(BaseHTTPRequestHandler):
    """Answers /NUMBER.jpg after a while, the earlier the number the later."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        number = int(self.path.strip("/").partition(".")[0])
        time.sleep(0.1 if number % 2 == 0 else 0.01)
        self.send_response(404 if number == 7 else 200)
        self.send_header("Content-Length", str(len(jpeg(number))))
        self.end_headers()
        self.wfile.write(jpeg(number))

    def log_message(self, *_: object) -> None:
        """Nothing on standard error."""


class SlowShopServer(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """Nothing on standard error where the client hangs up."""


@pytest.fixture
def slow_shop() -> Iterator[str]:
    server = SlowShopServer(("127.0.0.1", 0), SlowShop)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_images_are_downloaded_side_by_side_and_rows_keep_their_order(folder: Path, slow_shop: str) -> None:
    images = [f"{slow_shop}/{number}.jpg" if number % 10 else "a.jpg" for number in range(100)]
    write(folder, "products.csv", "id,title,image\n" + "\n".join(f"{n},Hat,{image}" for n, image in enumerate(images)))
    started = time.monotonic()
    rows = list(CatalogSource(str(folder), allow_private_addresses=True))
    assert time.monotonic() - started < 3.0  # one after the other: over 4.5 seconds of waiting
    assert [row.origin for row in rows] == [f"products.csv:{number + 2}" for number in range(100)]
    assert [row.reason for row in rows if isinstance(row, Refusal)] == ["image download failed"]
    for number, row in enumerate(rows):
        if isinstance(row, Record):
            assert row.images["image"] == jpeg(number if number % 10 else 0)


def test_reading_may_stop_before_the_end(folder: Path, slow_shop: str) -> None:
    lines = [f"{number},Hat,{slow_shop}/{number}.jpg" for number in range(10_000)]
    write(folder, "products.csv", "id,title,image\n" + "\n".join(lines))
    rows = iter(CatalogSource(str(folder), allow_private_addresses=True))
    assert [row.origin for row in islice(rows, 2)] == ["products.csv:2", "products.csv:3"]
    rows.close()  # type: ignore[attr-defined]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("download")]


@pytest.mark.skipif(not FASHION.is_dir(), reason="the fashion catalogue is not here")
def test_a_real_catalogue_is_read() -> None:
    source = CatalogSource(str(FASHION), columns={"category": "subCategory"})
    with (FASHION / "products.csv").open(encoding="utf-8", newline="") as file:
        expected = list(islice(csv.DictReader(file), 50))
    assert len(source) == 9583
    for row, record in zip(expected, source, strict=False):
        assert isinstance(record, Record) and refusal_of(record, ["title"]) is None
        assert record.fields["item_id"] == row["id"] and record.fields["category"] == row["subCategory"]
        assert record.images["image"] == (FASHION / row["image"]).read_bytes()

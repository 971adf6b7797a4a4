"""A merchant's table becomes rows in its own order, and every one that cannot be used says why."""

import csv
import io
import json
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from gcl.data.record import Refusal, SourceRow, refusal_of
from gcl.data.sources.catalog import CatalogSource
from gcl.errors import UserError

FASHION = Path(__file__).resolve().parents[2] / "shared" / "data" / "fashion"


def jpeg(shade: int = 0) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (shade, 0, 0)).save(buffer, "JPEG")
    return buffer.getvalue()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A catalogue's folder, without a table yet."""
    return tmp_path


def write(folder: Path, name: str, text: str | bytes) -> Path:
    (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return folder / name


def write_parquet(folder: Path, **columns: list[Any] | pa.Array) -> Path:
    pq.write_table(pa.table(columns), folder / "products.parquet")
    return folder / "products.parquet"


def good_rows(source: CatalogSource) -> list[SourceRow]:
    rows = list(source)
    assert len(rows) == len(source)
    assert all(isinstance(row, SourceRow) for row in rows), rows
    return [row for row in rows if isinstance(row, SourceRow)]


def checked(row: SourceRow) -> str | None:
    """The reason for which the row is refused once its image is there."""
    refusal = refusal_of(row.fields, row.images, ["title", "image"], row.origin)
    return refusal.reason if refusal else None


def refusals(source: CatalogSource) -> list[tuple[str, str]]:
    rows = list(source)
    assert len(rows) == len(source)
    return [(row.origin, row.reason) for row in rows if isinstance(row, Refusal)]


def test_a_csv_file_with_a_byte_order_mark_is_read(folder: Path) -> None:
    write(folder, "products.csv", "\ufeffid,title,image,category\r\n007,Stövel,a.jpg,Shoes\r\n008,Hat,b.jpg,\r\n")
    first, second = good_rows(CatalogSource(str(folder)))
    assert first.fields == {"item_id": "007", "title": "Stövel", "category": "Shoes"}
    assert first.images == {"image": ("a.jpg",)} and second.images == {"image": ("b.jpg",)}
    assert second.fields == {"item_id": "008", "title": "Hat"}
    assert [first.origin, second.origin] == ["products.csv:2", "products.csv:3"]


def test_a_tsv_file_is_read(folder: Path) -> None:
    table = write(folder, "feed.tsv", 'sku\tName\tImage URL\n01\tRug, 27" wide\ta.jpg\n')
    (row,) = good_rows(CatalogSource(str(table)))
    assert row.fields == {"item_id": "01", "title": 'Rug, 27" wide'} and row.origin == "feed.tsv:2"


def test_a_quoted_title_may_hold_a_line_break_and_blank_lines_are_passed_over(folder: Path) -> None:
    write(folder, "products.csv", 'id,title,image\n1,"Red,\nwarm",a.jpg\n\n2,Blue,b.jpg\n')
    first, second = good_rows(CatalogSource(str(folder)))
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
    first, second = good_rows(CatalogSource(str(folder)))
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
    assert first.images["image"] == ("a.jpg", "b.jpg") and second.origin == "products.jsonl:3"


def test_a_parquet_file_is_read(folder: Path) -> None:
    write_parquet(
        folder,
        item_ID=[1.0, 2.0, None],
        title=["Hat", "Cap", "Bag"],
        image=["a.jpg", "b.jpg", "a.jpg"],
        price=[9.99, float("nan"), 5.0],
        score=[1, 2, 3],
    )
    first, second, third = good_rows(CatalogSource(str(folder)))
    assert first.fields == {"item_id": "1", "title": "Hat", "price": "9.99", "score": 1.0}
    assert second.fields == {"item_id": "2", "title": "Cap", "score": 2.0}
    assert "item_id" not in third.fields and third.origin == "products.parquet:3"
    assert checked(third) == "empty item_id"


def test_images_may_lie_inside_a_parquet_file(folder: Path) -> None:
    title = ["Hat", "Cap"]
    source = CatalogSource(str(write_parquet(folder, id=["01", "02"], title=title, image=[jpeg(0), jpeg(255)])))
    assert [row.images["image"] for row in good_rows(source)] == [(jpeg(0),), (jpeg(255),)]
    struct = [{"bytes": jpeg(1), "path": "elsewhere.jpg"}, {"bytes": None, "path": "b.jpg"}]
    source = CatalogSource(str(write_parquet(folder, id=["01", "02"], title=title, image=struct)))
    assert [row.images["image"] for row in good_rows(source)] == [(jpeg(1),), ("b.jpg",)]
    source = CatalogSource(str(write_parquet(folder, id=["01", "02"], title=title, image=[struct, []])))
    assert [row.images["image"] for row in good_rows(source)] == [(jpeg(1), "b.jpg"), ()]


def test_columns_are_renamed_and_the_rest_keep_their_names(folder: Path) -> None:
    write(folder, "products.csv", "id,sku,title,category,photo,dept\n1,007,Hat,Old,a.jpg,Men\n")
    source = CatalogSource(str(folder), columns={"item_id": "sku", "category": "dept", "query": "title"})
    (row,) = good_rows(source)
    assert row.fields == {"id": "1", "item_id": "007", "title": "Hat", "query": "Hat", "category": "Men"}


@pytest.mark.parametrize("spelling", ["", "nan", "NaN", "null", "NULL", "None", "  "])
def test_a_missing_value_in_a_csv_file_is_left_out(folder: Path, spelling: str) -> None:
    write(folder, "products.csv", f"id,title,image,brand,score\n1,Hat,a.jpg,{spelling},{spelling}\n")
    assert good_rows(CatalogSource(str(folder)))[0].fields == {"item_id": "1", "title": "Hat"}


def test_rows_that_cannot_be_used_say_why_and_the_others_are_read(folder: Path) -> None:
    rows = ["1,Hat,a.jpg,1", "2,Hat,a.jpg", "3,Hat,a.jpg,1,extra", "4,Hat,b.jpg,1"]
    write(folder, "products.csv", "\n".join(["id,title,image,score", *rows]))
    source = CatalogSource(str(folder))
    assert refusals(source) == [(f"products.csv:{line}", "wrong number of columns") for line in (3, 4)]
    assert [row.fields["item_id"] for row in source if isinstance(row, SourceRow)] == ["1", "4"]


def test_every_image_that_a_row_names_is_passed_on_as_it_is_written(folder: Path) -> None:
    named: list[Any] = [
        "a.jpg", " a.jpg ", "../outside.jpg", "https://shop.example/a.jpg?width=9", ["b.jpg", None, "", {}, "a.jpg"],
        [], None, "", 7, {"url": "a.jpg"},
    ]  # fmt: skip
    rows = [{"id": number, "title": "Hat", "image": image} for number, image in enumerate(named)]
    write(folder, "products.jsonl", "\n".join(map(json.dumps, rows)))
    source = CatalogSource(str(folder))
    assert source.folder == folder.resolve()
    assert [row.images for row in good_rows(source)] == [
        {"image": images}
        for images in [
            ("a.jpg",), ("a.jpg",), ("../outside.jpg",), ("https://shop.example/a.jpg?width=9",), ("b.jpg", "a.jpg"),
            (), (), (), (), (),
        ]
    ]  # fmt: skip


def test_a_score_that_is_no_number_is_kept_for_the_check_that_refuses_the_row(folder: Path) -> None:
    scores = [0, 2, "0.5", " 3 ", -1, "many", "inf", "1e999", True, [], {"a": 1}, 10**400, None, ""]
    rows = [{"id": number, "title": "Hat", "image": "a.jpg", "score": score} for number, score in enumerate(scores)]
    write(folder, "products.jsonl", "\n".join(map(json.dumps, rows)))
    found = good_rows(CatalogSource(str(folder)))
    assert [checked(row) for row in found] == [*[None] * 4, *["bad score"] * 8, None, None]
    assert [row.fields.get("score") for row in found[:4]] == [0.0, 2.0, 0.5, 3.0]
    assert ["score" in row.fields for row in found[-2:]] == [False, False]


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
    assert isinstance(rows[1], SourceRow) and isinstance(rows[-1], SourceRow)
    assert rows[-1].fields["item_id"] == "11999"


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
        CatalogSource(str(write(folder, "a.jpg", jpeg())))
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


PRICES = [12.5, None, 3, 40, 12, 7.25]  # of the rows 0 to 5


def write_priced(folder: Path, kind: str) -> Path:
    """The same six products in any kind of table."""
    rows: list[dict[str, Any]] = [
        {"id": f"{number:03d}", "title": f"Hat, {number}", "image": "a.jpg", "brand": "ab"[number % 2], "price": price}
        for number, price in enumerate(PRICES)
    ]
    if kind == "parquet":
        return write_parquet(folder, **{name: [row[name] for row in rows] for name in rows[0]})
    if kind == "jsonl":
        return write(folder, "products.jsonl", "\n".join(map(json.dumps, rows)))
    lines = [list(rows[0]), *(["" if cell is None else str(cell) for cell in row.values()] for row in rows)]
    buffer = io.StringIO()
    csv.writer(buffer, delimiter={"csv": ",", "tsv": "\t"}[kind]).writerows(lines)
    return write(folder, f"products.{kind}", buffer.getvalue())


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "parquet"])
@pytest.mark.parametrize(
    ("condition", "kept"),
    [
        ("price > 12", [0, 3]),
        ("price >= 12 AND brand = 'a' -- a comment", [0, 4]),
        ("price IS NULL OR price < 5", [1, 2]),
        ("id = '003'", [3]),
        ("title LIKE '%, 5'", [5]),
        ("lower(brand) IN ('b')", [1, 3, 5]),
        ("true", [0, 1, 2, 3, 4, 5]),
    ],
)
def test_a_condition_leaves_out_the_rows_that_fail_it(folder: Path, kind: str, condition: str, kept: list[int]) -> None:
    table = write_priced(folder, kind)
    source = CatalogSource(str(table), where=condition)
    everything = good_rows(CatalogSource(str(table)))
    assert good_rows(source) == [everything[number] for number in kept] == good_rows(source)


def test_a_condition_keeps_order_and_origins_over_many_rows_and_groups(folder: Path) -> None:
    random = np.random.default_rng(0)
    frame = pd.DataFrame({"id": np.arange(20_000), "price": random.integers(0, 100, 20_000)})
    frame["title"], frame["image"] = "Hat", "a.jpg"
    frame.loc[5_000:12_000, "price"] = 0  # whole groups without a match
    frame.to_parquet(folder / "a.parquet", row_group_size=1_500)
    frame.to_csv(folder / "a.csv", index=False)
    expected = frame.query("price > 90 and id % 2 == 0")
    for table, first in (("a.parquet", 1), ("a.csv", 2)):
        rows = good_rows(CatalogSource(str(folder / table), where="price > 90 AND id % 2 = 0"))
        assert [row.fields["item_id"] for row in rows] == [str(number) for number in expected["id"]]
        assert [row.origin for row in rows] == [f"{table}:{number + first}" for number in expected.index]


def test_a_condition_lets_rows_that_cannot_be_read_say_why(folder: Path) -> None:
    lines = ["id,title,image,price", "1,Hat,a.jpg,9", "2,Hat,a.jpg", "3,Hat,a.jpg,1", "4,Hat,a.jpg,many"]
    write(folder, "products.csv", "\n".join(lines))
    assert refusals(CatalogSource(str(folder), where="try_cast(price AS DOUBLE) > 3")) == [
        ("products.csv:3", "wrong number of columns")
    ]
    good = {"id": 1, "title": "Hat", "image": "a.jpg", "stock": {"Oslo": 3}, "tags": ["new"]}
    write(
        folder, "products.jsonl", "\n".join([json.dumps(good), "{broken", json.dumps({**good, "stock": {"Oslo": 0}})])
    )
    rows = list(CatalogSource(str(folder / "products.jsonl"), where="stock.Oslo > 0 AND list_contains(tags, 'new')"))
    assert [(type(row), row.origin) for row in rows] == [(SourceRow, "products.jsonl:1"), (Refusal, "products.jsonl:2")]


def test_a_cell_that_does_not_fit_its_column_s_numbers_is_missing_to_a_condition(folder: Path) -> None:
    prices = [*map(str, range(2_000)), "19.4", "free"]
    lines = [f"{number},Hat,a.jpg,{price}" for number, price in enumerate(prices)]
    write(folder, "products.csv", "\n".join(["id,title,image,price", *lines]))
    rows = good_rows(CatalogSource(str(folder), where="price > 19 AND price < 20 OR price IS NULL"))
    assert [row.fields["price"] for row in rows] == ["19.4", "free"]


def test_what_is_written_like_a_number_but_is_a_code_or_a_name_is_text_to_a_condition(folder: Path) -> None:
    lines = [
        "id,title,image,brand,price",
        "007,Infinity,a.jpg,nan,0.1234567890123456789",
        "12345678901234567,Hat,a.jpg,,5",
    ]
    write(folder, "products.csv", "\n".join(lines))
    for condition, kept in (
        ("id = '007'", 0),
        ("id LIKE '%4567'", 1),
        ("title = 'Infinity' AND brand IS NULL", 0),
        ("price < 0.2", 0),
    ):
        rows = good_rows(CatalogSource(str(folder), where=condition))
        assert [row.origin for row in rows] == [f"products.csv:{kept + 2}"]
    odd = [
        {"id": 1, "title": "Hat", "image": "a.jpg", "stock": value} for value in (1e400, 10**30, [1e400], {"a": None})
    ]
    write(folder, "products.jsonl", "\n".join(map(json.dumps, odd)))
    assert len(good_rows(CatalogSource(str(folder / "products.jsonl"), where="id = 1"))) == 4


def test_a_condition_that_fails_late_in_a_table_is_said_to_fail(folder: Path) -> None:
    size = 60_000
    frame = pd.DataFrame({"id": range(size), "title": "Hat", "image": "a.jpg", "stock": [*["n1"] * (size - 1), "many"]})
    frame.to_parquet(folder / "a.parquet", row_group_size=5_000)
    frame.to_csv(folder / "a.csv", index=False)
    for table in ("a.parquet", "a.csv"):
        with pytest.raises(UserError, match=r"where=.* does not work on .*a\..*Could not convert string") as error:
            list(CatalogSource(str(folder / table), where="CAST(substr(stock, 2) AS INTEGER) > 0"))
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
@pytest.mark.parametrize(
    ("condition", "said"),
    [
        ("pric > 3", '"pric" not found.*"price"'),
        ("price >", "syntax error"),
        ("price > 3; DROP TABLE gcl_batch", "syntax error|more than a condition"),
        ("price > 3); SELECT (1", "more than a condition"),
        ("id IN (SELECT id FROM read_csv('{folder}/other.csv'))", "Cannot access file"),
        ("id IN (SELECT id FROM '{folder}/other.csv')", "does not exist|Cannot access"),
    ],
)
def test_a_wrong_condition_is_refused_in_one_line(folder: Path, kind: str, condition: str, said: str) -> None:
    table = write_priced(folder, kind)
    write(folder, "other.csv", "id\n1\n")
    with pytest.raises(UserError, match=said) as error:
        CatalogSource(str(table), where=condition.format(folder=folder))
    assert "\n" not in str(error.value) and str(error.value).startswith("where=") and str(table) in str(error.value)


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_a_condition_that_fails_on_a_value_or_leaves_no_row_says_so(folder: Path, kind: str) -> None:
    table = write_priced(folder, kind)
    with pytest.raises(UserError, match="where=.* does not work on .*Could not convert string"):
        list(CatalogSource(str(table), where="CAST(title AS INTEGER) > 3"))
    with pytest.raises(UserError, match="where='price > 99' leaves no row of "):
        list(CatalogSource(str(table), where="price > 99"))


@pytest.mark.skipif(not FASHION.is_dir(), reason="the fashion catalogue is not here")
def test_a_real_catalogue_is_read() -> None:
    source = CatalogSource(str(FASHION), columns={"category": "subCategory"})
    with (FASHION / "products.csv").open(encoding="utf-8", newline="") as file:
        expected = list(islice(csv.DictReader(file), 50))
    assert len(source) == 9583
    for row, found in zip(expected, source, strict=False):
        assert isinstance(found, SourceRow) and checked(found) is None
        assert found.fields["item_id"] == row["id"] and found.fields["category"] == row["subCategory"]
        assert found.images["image"] == (row["image"],) and (source.folder / row["image"]).is_file()

"""The demo catalogue: the same products every time, varied enough to learn from, with no row that is refused."""

import io
from itertools import islice

import numpy as np
import pytest
from PIL import Image

from gcl.data.record import SourceRow, refusal_of
from gcl.data.sources.demo import DemoSource
from gcl.errors import UserError


def records_of(source: DemoSource, count: int | None = None) -> list[SourceRow]:
    return [record for record in islice(source, count) if isinstance(record, SourceRow)]


@pytest.fixture(scope="module")
def catalogue() -> list[SourceRow]:
    return records_of(DemoSource(products=2000, image_size=32))


def test_the_same_seed_draws_the_same_bytes() -> None:
    assert records_of(DemoSource(products=20)) == records_of(DemoSource(products=20))


def test_a_product_does_not_depend_on_how_many_there_are() -> None:
    assert records_of(DemoSource(products=5)) == records_of(DemoSource(products=5000), 5)


def test_another_seed_draws_other_products() -> None:
    ours, theirs = records_of(DemoSource(products=20)), records_of(DemoSource(products=20, seed=1))
    assert not {record.images["image"] for record in ours} & {record.images["image"] for record in theirs}
    assert sum(a.fields["title"] == b.fields["title"] for a, b in zip(ours, theirs, strict=True)) == 0


def test_it_draws_as_many_products_as_it_says() -> None:
    source = DemoSource(products=7, image_size=32)
    assert len(source) == len(list(source)) == len(list(source)) == 7


def test_every_row_would_be_written(catalogue: list[SourceRow]) -> None:
    assert len(catalogue) == 2000
    refusals = [refusal_of(row.fields, row.images, ["title", "image"], row.origin) for row in catalogue]
    assert set(refusals) == {None}


def test_every_row_has_text_a_grade_and_says_that_it_is_synthetic(catalogue: list[SourceRow]) -> None:
    for record in catalogue:
        assert all(str(record.fields[name]).strip() for name in ("title", "category", "query")), record
        assert record.fields["score"] in range(1, 6)
        assert record.fields["synthetic"] == "true"
    assert {record.fields["score"] for record in catalogue} == {1, 2, 3, 4, 5}


def test_a_query_is_shorter_than_the_title(catalogue: list[SourceRow]) -> None:
    shorter = [len(str(record.fields["query"])) < len(str(record.fields["title"])) for record in catalogue]
    assert np.mean(shorter) > 0.95


def test_the_catalogue_is_varied(catalogue: list[SourceRow]) -> None:
    distinct = {name: {record.fields[name] for record in catalogue} for name in ("type", "colour", "pattern", "title")}
    assert len(distinct["type"]) >= 24
    assert len(distinct["colour"]) >= 12
    assert len(distinct["pattern"]) >= 6
    assert len(distinct["title"]) >= 0.95 * len(catalogue)
    assert len({record.fields["item_id"] for record in catalogue}) == len(catalogue)


def test_photos_have_the_size_asked_for_and_show_something() -> None:
    for record in records_of(DemoSource(products=30, image_size=96)):
        with Image.open(io.BytesIO(record.images["image"][0])) as photo:
            assert (photo.format, photo.mode, photo.size) == ("JPEG", "RGB", (96, 96))
            assert np.asarray(photo).std() > 10


@pytest.mark.parametrize("name", ["products", "image_size"])
def test_a_setting_that_draws_nothing_is_refused(name: str) -> None:
    with pytest.raises(UserError, match=f"{name} 0 "):
        DemoSource(**{name: 0})

"""Marqo-GS-10M's files become rows as their authors' evaluator reads them."""

import csv
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from gcl.config import load_settings
from gcl.data.prepare.command import PrepareSettings
from gcl.data.record import Refusal, SourceRow
from gcl.data.sources.marqo_gs import FILES, MarqoGSSource
from gcl.errors import UserError
from gcl.parts import build

HEADER = [
    "query", "product_id", "position", "title", "pair_id", "score_linear", "score_reciprocal", "no_score", "query_id",
    "image_local",
]  # fmt: skip


def made_rows(split: str) -> list[dict[str, Any]]:
    """Three queries with four products each, as a search for each ranks them."""
    return [
        {
            "query": f'{split} "summer" dress, {query}',
            "product_id": f"{query}{rank}00123456789012",
            "position": rank,
            "title": f"Dress {query}{rank}, blue",
            "pair_id": f"{query}-{rank}",
            "score_linear": 101 - rank,
            "score_reciprocal": 1 / rank,
            "no_score": 1,
            "query_id": query,
            "image_local": f"images/{query}{rank}.webp",
        }
        for query in range(3)
        for rank in range(1, 5)
    ]


def write_split(file: Path, rows: list[dict[str, Any]]) -> None:
    """As pandas writes it with every cell in quotes, which is what the authors' script does."""
    pd.DataFrame(rows, columns=HEADER).to_csv(file, index=False, quoting=csv.QUOTE_ALL)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The data set's folder with its four splits; the images' folder is images_wfash beside it."""
    data = tmp_path / "marqo-gs-dataset" / "marqo_gs_wfash_1m"
    data.mkdir(parents=True)
    (tmp_path / "images_wfash").mkdir()
    for split, name in FILES.items():
        write_split(data / name, made_rows(split))
    (data / "corpus_1.json").write_text("{}")
    return data


def source(folder: Path, **settings: Any) -> MarqoGSSource:
    return MarqoGSSource(str(folder), str(folder.parent.parent / "images_wfash"), **settings)


def good_rows(found: MarqoGSSource) -> list[SourceRow]:
    rows = list(found)
    assert len(rows) == len(found) and all(isinstance(row, SourceRow) for row in rows), rows
    return [row for row in rows if isinstance(row, SourceRow)]


@pytest.mark.parametrize("split", FILES)
@pytest.mark.parametrize("score", ["linear", "reciprocal"])
def test_a_split_s_rows_have_the_chosen_score(folder: Path, split: Any, score: Any) -> None:
    found = source(folder, split=split, score=score)
    assert found.folder == (folder.parent.parent / "images_wfash").resolve()
    for line, (row, made) in enumerate(zip(good_rows(found), made_rows(split), strict=True), start=2):
        assert row.fields == {
            "item_id": made["product_id"],
            "query": made["query"],
            "title": made["title"],
            "position": str(made["position"]),
            "score": pytest.approx(made[f"score_{score}"], rel=1e-12),
        }
        assert row.images["image"][0] == made["image_local"] and row.origin == f"{FILES[split]}:{line}"


def test_the_default_is_the_training_split_with_linear_scores(folder: Path) -> None:
    first = good_rows(source(folder))[0]
    assert first.origin == "query_0_product_id_0.csv:2" and first.fields["score"] == 100


def test_a_file_may_be_named_and_position_may_be_missing(folder: Path) -> None:
    file = folder / "mine.csv"
    pd.DataFrame(made_rows("mine")).drop(columns=["position", "score_reciprocal"]).to_csv(file)
    rows = good_rows(MarqoGSSource(str(file), str(folder)))
    assert len(rows) == 12 and set(rows[0].fields) == {"item_id", "query", "title", "score"}


def test_an_image_is_found_where_the_authors_script_wrote_another_folder_before_it(folder: Path) -> None:
    rows = made_rows("in_domain")[:2]
    rows[0]["image_local"], rows[1]["image_local"] = "/data/elsewhere/images_wfash/01.webp", "02.webp"
    write_split(folder / FILES["in_domain"], rows)
    named = [row.images["image"] for row in good_rows(source(folder))]
    assert named == [("/data/elsewhere/images_wfash/01.webp", "01.webp"), ("02.webp",)]


def test_rows_with_missing_cells_are_passed_on_without_them_and_broken_ones_refused(folder: Path) -> None:
    rows = made_rows("in_domain")[:3]
    rows[0]["title"] = rows[1]["image_local"] = rows[2]["score_linear"] = None
    write_split(folder / FILES["in_domain"], rows)
    with (folder / FILES["in_domain"]).open("a") as file:
        file.write("a query,1\n")
    without_title, without_image, without_score, broken = source(folder)
    assert isinstance(without_title, SourceRow) and "title" not in without_title.fields
    assert isinstance(without_image, SourceRow) and without_image.images == {"image": ()}
    assert isinstance(without_score, SourceRow) and "score" not in without_score.fields
    assert isinstance(broken, Refusal) and broken.reason == "wrong number of columns"


def test_what_is_not_there_is_refused_naming_what_is(folder: Path) -> None:
    (folder / FILES["zero_shot"]).unlink()
    with pytest.raises(
        UserError, match="no query_1_product_id_1.csv, .*split=zero_shot; there is query_0_product_id_0"
    ):
        source(folder, split="zero_shot")
    with pytest.raises(UserError, match="no query_0.*; there is marqo_gs_wfash_1m/query_0_product_id_0.csv"):
        MarqoGSSource(str(folder.parent), str(folder))
    with pytest.raises(UserError, match="there is no CSV file"):
        MarqoGSSource(str(folder.parent.parent / "images_wfash"), str(folder))
    with pytest.raises(UserError, match="does not exist; give the folder"):
        MarqoGSSource(str(folder / "absent"), str(folder))
    with pytest.raises(UserError, match="images=.*absent is no folder"):
        MarqoGSSource(str(folder), str(folder / "absent"))
    pd.DataFrame(made_rows("mine")).drop(columns="image_local").to_csv(folder / "mine.csv")
    with pytest.raises(UserError, match="no column image_local; it has query, product_id"):
        MarqoGSSource(str(folder / "mine.csv"), str(folder))


def test_the_command_line_makes_the_source(folder: Path) -> None:
    arguments = ["source=marqo_gs", f"source.path={folder}", f"source.images={folder}", "source.split=novel_query"]
    made = build(load_settings("prepare", PrepareSettings, [*arguments, "output_dir=unused"])["source"])
    assert isinstance(made, MarqoGSSource) and made.table.name == "query_1_product_id_0.csv"
    with pytest.raises(UserError, match="source.split='test' does not fit"):
        load_settings("prepare", PrepareSettings, [*arguments, "source.split=test", "output_dir=unused"])

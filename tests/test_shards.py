"""Rows become tar shards that give back what was written, and a wrong row or a damaged folder is told in one line."""

import csv
import hashlib
import io
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import webdataset
from PIL import Image

from gcl.cli import run_verb
from gcl.data.prepare import REFUSED, PrepareSettings, SplitSettings, prepare
from gcl.data.record import Record, refusal_of
from gcl.data.shards import MANIFEST, ShardReader, ShardWriter, write_manifest
from gcl.data.sources.catalog import CatalogSource
from gcl.data.sources.demo import DemoSource
from gcl.errors import UserError


def photo(seed: int, file_format: str = "JPEG") -> bytes:
    buffer = io.BytesIO()
    noise = np.random.default_rng(seed).integers(0, 256, (24, 24, 3), dtype=np.uint8)
    Image.fromarray(noise).save(buffer, file_format)
    return buffer.getvalue()


def write_split(folder: Path, records: list[Record], samples_per_shard: int = 3) -> ShardReader:
    folder.mkdir(parents=True, exist_ok=True)
    writer = ShardWriter(folder, "train", samples_per_shard)
    for record in records:
        writer.write(record)
    writer.close()
    write_manifest(folder, {"train": writer, "test": ShardWriter(folder, "test", 1)}, {})
    return ShardReader(folder, "train")


@pytest.fixture
def records() -> list[Record]:
    return [
        Record({"item_id": "0", "title": "plain"}, {"image": photo(0)}),
        Record({"item_id": "1", "title": "Grüße, 上着 👕", "score": 0.5}, {"image": photo(1, "PNG")}),
        Record({"item_id": "2", "title": "two images"}, {"image": photo(2, "WEBP"), "back": photo(3, "GIF")}),
        Record({"item_id": "3", "title": "no image", "query": "x" * 2000}, {}),
        Record({"item_id": "4", "title": "named in German"}, {"rückseite.links": photo(4)}),
        Record({"item_id": "5", "title": "", "score": -3}, {"image": photo(5)}),
        Record({"item_id": "6", "title": "last"}, {"image": photo(6)}),
    ]


def content(record: Record) -> tuple[dict[str, str | float], dict[str, bytes]]:
    return record.fields, record.images


def test_what_is_written_is_read_back_by_number_in_any_order(tmp_path: Path, records: list[Record]) -> None:
    reader = write_split(tmp_path, records)
    assert [shard.samples for shard in reader.shards] == [3, 3, 1]
    assert len(reader) == 7
    assert [content(record) for record in reader] == [content(record) for record in records]
    for number in (6, 0, 3, 2, 3):
        assert content(reader[number]) == content(records[number])


def test_webdataset_itself_reads_the_same_content(tmp_path: Path, records: list[Record]) -> None:
    reader = write_split(tmp_path, records)
    tars = [str(tmp_path / shard.file) for shard in reader.shards]
    samples = list(webdataset.WebDataset(tars, shardshuffle=False))
    assert [json.loads(sample["json"]) for sample in samples] == [record.fields for record in records]
    assert [sample["__key__"] for sample in samples] == [f"{number:09d}" for number in range(7)]
    for sample, record in zip(samples, records, strict=True):
        images = {name: value for name, value in sample.items() if name != "json" and not name.startswith("__")}
        assert {name.rpartition(".")[0]: value for name, value in images.items()} == record.images
    assert {"image.png"} <= set(samples[1]) and {"image.webp", "back.gif"} <= set(samples[2])


def test_the_same_rows_give_the_same_bytes(tmp_path: Path, records: list[Record]) -> None:
    first, second = (write_split(tmp_path / name, records) for name in ("first", "second"))
    assert first.fingerprint == second.fingerprint
    for shard in first.shards:
        assert (first.folder / shard.file).read_bytes() == (second.folder / shard.file).read_bytes()
        assert hashlib.sha256((first.folder / shard.file).read_bytes()).hexdigest() == shard.sha256
    assert write_split(tmp_path / "other", records[::-1]).fingerprint != first.fingerprint


def test_a_forked_worker_reads_through_a_descriptor_of_its_own(tmp_path: Path, records: list[Record]) -> None:
    reader = write_split(tmp_path, records)
    assert content(reader[0]) == content(records[0])
    child = os.fork()
    if child == 0:
        os._exit(0 if content(reader[5]) == content(records[5]) else 1)
    assert os.waitpid(child, 0)[1] == 0


def remove_manifest(folder: Path) -> None:
    (folder / MANIFEST).unlink()


def damage_manifest(folder: Path) -> None:
    (folder / MANIFEST).write_text((folder / MANIFEST).read_text()[:100])


def remove_shard(folder: Path) -> None:
    (folder / "train-000001.tar").unlink()


def remove_index(folder: Path) -> None:
    (folder / "train-000001.npy").unlink()


def damage_index(folder: Path) -> None:
    (folder / "train-000001.npy").write_bytes(b"\x93NUMPY")


def cut_shard(folder: Path) -> None:
    os.truncate(folder / "train-000001.tar", 1024)


def name_shard_outside(folder: Path) -> None:
    for file in folder.glob("train-000001.*"):
        file.rename(folder.parent / file.name)
    name_shard(folder, "../train-000001.tar")


def name_shard_absolutely(folder: Path) -> None:
    name_shard(folder, "/etc/passwd")


def name_shard(folder: Path, file: str) -> None:
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["splits"]["train"][1]["file"] = file
    (folder / MANIFEST).write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    "damage, said",
    [
        (remove_manifest, "holds no manifest.json; write shards there with `gcl prepare"),
        (damage_manifest, "manifest.json cannot be read"),
        (remove_shard, "train-000001.tar is missing"),
        (remove_index, "train-000001.npy is missing"),
        (damage_index, "train-000001.npy cannot be read"),
        (cut_shard, "has 1024 bytes where manifest.json says"),
        (name_shard_outside, "'../train-000001.tar' .* lies outside its folder"),
        (name_shard_absolutely, "'/etc/passwd' .* lies outside its folder"),
    ],
)
def test_a_damaged_folder_is_told_in_one_line(tmp_path: Path, records: list[Record], damage, said: str) -> None:  # type: ignore[no-untyped-def]
    folder = tmp_path / "shards"
    write_split(folder, records)
    damage(folder)
    with pytest.raises(UserError, match=said) as error:
        ShardReader(folder, "train")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("split", ["test", "validation"])
def test_a_split_that_is_empty_or_absent_is_refused_naming_those_there_are(
    tmp_path: Path, records: list[Record], split: str
) -> None:
    write_split(tmp_path, records)
    with pytest.raises(UserError, match=f"split '{split}' of .* is empty or absent; it has train$"):
        ShardReader(tmp_path, split)


@pytest.mark.parametrize(
    "title", ["Salt & Pepper Set", "5 < 6 and 7 > 3", "AT&T phone", "I <3 cats", '5\'6" "tall"', "Ação – 上着"]
)
def test_ordinary_text_is_not_taken_for_html(title: str) -> None:
    assert refusal_of(Record({"item_id": "1", "title": title}, {"image": photo(0)}), ["title", "image"]) is None


BAD = "abcdefg"  # ids of the rows that write_catalog spoils
GOOD = 40


def write_catalog(folder: Path, good: int = GOOD) -> Path:
    """A merchant's folder: `good` good rows, titles in pairs, and behind them one bad row of each kind."""
    (folder / "images").mkdir(parents=True)
    rows = [(f"{number}", f"Mug no. {number // 2}", photo(number)) for number in range(good)]
    rows += [
        ("a", "Mug <b>sale</b>", photo(100)),
        ("b", "Mug &amp; Cup", photo(101)),
        ("0", "the id of another", photo(102)),
        ("d", "", photo(103)),
        ("e", "half a photo", photo(104)[:-200]),
        ("f", "no photo", b""),
        ("g", "M\N{LATIN SMALL LETTER U WITH DIAERESIS}sli", photo(106)),
    ]
    with (folder / "products.csv").open("w", encoding="latin-1", newline="") as file:
        table = csv.writer(file)
        table.writerow(["id", "title", "image"])
        for line, (item_id, title, image) in enumerate(rows):
            table.writerow([item_id, title, f"images/{line}.jpg"])
            if image:
                (folder / "images" / f"{line}.jpg").write_bytes(image)
    return folder


REASONS = {
    "HTML in text": 2,
    "duplicate item_id": 1,
    "empty title": 1,
    "bad image": 1,
    "missing image": 1,
    "wrong encoding": 1,
}


def rows_of(folder: Path) -> Iterator[tuple[str, Record]]:
    manifest = json.loads((folder / MANIFEST).read_text())
    for split in manifest["splits"]:
        if manifest["splits"][split]:
            yield from ((split, record) for record in ShardReader(folder, split))


def test_bad_rows_are_counted_by_reason_and_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = CatalogSource(str(write_catalog(tmp_path / "catalogue")))
    output = tmp_path / "shards"
    prepare(PrepareSettings(str(output), source, max_refused_share=0.2), facts={"source": "catalogue"})
    manifest = json.loads((output / MANIFEST).read_text())
    listed = [json.loads(line) for line in (output / REFUSED).read_text().splitlines()]
    assert manifest["refused"] == REASONS == Counter(row["reason"] for row in listed)
    assert [row["origin"] for row in listed] == [f"products.csv:{line}" for line in range(GOOD + 2, GOOD + 9)]
    assert manifest["rows"] == GOOD and manifest["source"] == "catalogue"
    assert {record.item_id for _, record in rows_of(output)} == {str(number) for number in range(GOOD)}
    assert "refused 7 rows" in capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["catalogue", "shards"]


def test_rows_equal_in_the_split_field_land_in_the_same_split(tmp_path: Path) -> None:
    source = CatalogSource(str(write_catalog(tmp_path / "catalogue", good=200)))
    splits = SplitSettings(validation=0.2, test=0.2)
    prepare(PrepareSettings(str(tmp_path / "shards"), source, splits), facts={})
    places: dict[str, set[str]] = {}
    sizes: Counter[str] = Counter()
    for split, record in rows_of(tmp_path / "shards"):
        places.setdefault(" ".join(str(record.fields["title"]).lower().split()), set()).add(split)
        sizes[split] += 1
    assert len(places) == 100 and all(len(found) == 1 for found in places.values())
    assert 20 <= sizes["validation"] <= 60 and 20 <= sizes["test"] <= 60


def test_letter_case_and_spaces_do_not_part_equal_titles() -> None:
    splits = SplitSettings(validation=0.5)
    for number in range(50):
        written = [f"Große Mug {number}", f" GROSSE  mug\t{number} "]
        records = [Record({"item_id": title, "title": title}, {}) for title in written]
        assert len({splits.split_of(record) for record in records}) == 1


def test_a_row_s_split_does_not_depend_on_the_other_rows() -> None:
    splits = SplitSettings(by="category", validation=0.3, test=0.1)
    records = list(DemoSource(products=300, image_size=32))
    chosen = [splits.split_of(record) for record in records]  # type: ignore[arg-type]
    assert [splits.split_of(record) for record in reversed(records)] == chosen[::-1]  # type: ignore[arg-type]
    assert set(chosen) == {"train", "validation", "test"}


def test_too_many_bad_rows_leave_the_listing_alone(tmp_path: Path) -> None:
    source = CatalogSource(str(write_catalog(tmp_path / "catalogue")))
    with pytest.raises(
        UserError, match=r"^7 of 47 rows were refused \(2 HTML in text, .*max_refused_share=0\.1;.*see "
    ):
        prepare(PrepareSettings(str(tmp_path / "shards"), source), facts={})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["catalogue", "shards.refused.jsonl"]
    assert len((tmp_path / "shards.refused.jsonl").read_text().splitlines()) == 7


def test_a_taken_output_folder_is_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").write_text("precious")
    with pytest.raises(UserError, match="is not empty; choose another"):
        prepare(PrepareSettings(str(tmp_path / "mine"), DemoSource(4, image_size=32)), facts={})
    (tmp_path / "file").write_text("precious")
    with pytest.raises(UserError, match="is a file; choose another"):
        prepare(PrepareSettings(str(tmp_path / "file"), DemoSource(4, image_size=32)), facts={})
    assert [path.read_text() for path in (tmp_path / "mine" / "file", tmp_path / "file")] == ["precious"] * 2


def test_an_empty_output_folder_may_be_used_and_what_a_killed_run_left_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards.tmp").mkdir()
    (tmp_path / "shards.tmp" / "train-000000.tar").write_text("half")
    prepare(PrepareSettings(str(tmp_path / "shards"), DemoSource(8, image_size=32)), facts={})
    assert len(list(rows_of(tmp_path / "shards"))) == 8
    assert not (tmp_path / "shards.tmp").exists()


@pytest.mark.parametrize(
    "argument",
    [
        "samples_per_shard=0",
        "samples_per_shard=-1",
        "max_refused_share=-0.1",
        "split.validation=1.0",
        "split.test=-0.1",
    ],
)
def test_a_number_that_makes_no_sense_is_refused(tmp_path: Path, argument: str) -> None:
    demo = ["source=demo", "source.products=4", "source.image_size=32", f"output_dir={tmp_path / 'shards'}"]
    with pytest.raises(UserError, match=argument.partition("=")[0].partition(".")[2] or argument.partition("=")[0]):
        run_verb("prepare", [*demo, argument])
    assert list(tmp_path.iterdir()) == []


def start_prepare(*arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "gcl", "prepare", "source=catalog", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_the_command_writes_shards_or_exits_with_one_line(tmp_path: Path) -> None:
    path = f"source.path={write_catalog(tmp_path / 'catalogue')}"
    refused = start_prepare(path, f"output_dir={tmp_path / 'refused'}")  # the two at the same time
    written = start_prepare(path, f"output_dir={tmp_path / 'shards'}", "samples_per_shard=16", "max_refused_share=0.2")
    _, err = refused.communicate(timeout=120)
    assert refused.returncode == 2
    errors = [line for line in err.splitlines() if line.startswith("gcl: error:")]
    assert len(errors) == 1 and "7 of 47 rows were refused" in errors[0] and "Traceback" not in err
    assert not (tmp_path / "refused").exists() and (tmp_path / "refused.refused.jsonl").exists()

    _, err = written.communicate(timeout=120)
    assert written.returncode == 0, err
    manifest = json.loads((tmp_path / "shards" / MANIFEST).read_text())
    assert manifest["rows"] == GOOD and manifest["refused"] == REASONS
    assert max(shard["samples"] for shard in manifest["splits"]["train"]) == 16
    assert manifest["source"]["path"] == str(tmp_path / "catalogue")
    assert len(list(rows_of(tmp_path / "shards"))) == GOOD


def test_a_file_given_for_the_folder_of_shards_gives_one_line(tmp_path: Path, records: list[Record]) -> None:
    write_split(tmp_path, records)
    with pytest.raises(UserError, match="is a file"):
        ShardReader(tmp_path / MANIFEST, "train")


@pytest.mark.parametrize("score", [-1, -0.001, float("nan"), float("inf"), 10**400, True, "3", ""])
def test_a_row_whose_score_is_no_finite_number_from_0_up_is_refused(score: str | float) -> None:
    refusal = refusal_of(Record({"item_id": "1", "title": "mug", "score": score}, {"image": photo(0)}), ["title"])
    assert refusal is not None and (refusal.reason, refusal.detail) == ("bad score", str(score)[:80])


@pytest.mark.parametrize("fields", [{}, {"score": 0}, {"score": 0.5}, {"score": 1e300}])
def test_a_row_without_a_score_or_with_a_good_one_is_written(fields: dict[str, str | float]) -> None:
    assert refusal_of(Record({"item_id": "1", "title": "mug", **fields}, {"image": photo(0)}), ["title"]) is None


def write_scored_catalogue(folder: Path, scores: list[str]) -> CatalogSource:
    """Rows whose titles alternate; half of all titles held out, the even ones are in train, the odd in validation."""
    folder.mkdir()
    (folder / "mug.jpg").write_bytes(photo(0))
    lines = [f"{number},{'red mug' if number % 2 else 'mug'},mug.jpg,{score}" for number, score in enumerate(scores)]
    (folder / "products.csv").write_text("\n".join(["id,title,image,score", *lines]) + "\n")
    return CatalogSource(str(folder))


def test_the_manifest_and_the_summary_tell_the_range_of_scores_of_each_split(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write_scored_catalogue(tmp_path / "catalogue", ["3", "0", "0.25", "", "", "7.5", "12", "-1", "many"])
    settings = PrepareSettings(str(tmp_path / "shards"), source, SplitSettings(validation=0.5), max_refused_share=0.5)
    prepare(settings, facts={})
    manifest = json.loads((tmp_path / "shards" / MANIFEST).read_text())
    assert manifest["scores"] == {
        "train": {"rows": 3, "missing": 1, "min": 0.25, "max": 12.0},
        "validation": {"rows": 2, "missing": 1, "min": 0.0, "max": 7.5},
        "test": {"rows": 0, "missing": 0, "min": None, "max": None},
    }
    assert manifest["refused"] == {"bad score": 2}
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in capsys.readouterr().out.splitlines()]
    assert [row for row in cells if row] == [
        ["train", "4", "1", "3", "0.25", "12"],
        ["validation", "3", "1", "2", "0", "7.5"],
        ["test", "0", "0", "0", "", ""],
    ]


def test_a_catalogue_without_scores_has_no_columns_for_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_scored_catalogue(tmp_path / "catalogue", ["", ""])
    prepare(PrepareSettings(str(tmp_path / "shards"), source, SplitSettings(validation=0.0)), facts={})
    scores = json.loads((tmp_path / "shards" / MANIFEST).read_text())["scores"]
    assert scores["train"] == {"rows": 0, "missing": 2, "min": None, "max": None}
    assert "lowest" not in capsys.readouterr().out


def test_a_source_whose_rows_are_all_refused_is_not_read_to_its_end(tmp_path: Path) -> None:
    read = []

    class Rows:
        def __len__(self) -> int:
            return 5000

        def __iter__(self) -> Iterator[Record]:
            for number in range(5000):
                read.append(number)
                yield Record({"item_id": str(number), "title": "mug"}, {"image": photo(number)})

    settings = PrepareSettings(str(tmp_path / "shards"), Rows(), SplitSettings(by="titel"))
    with pytest.raises(UserError, match="1001 of 1001 rows were refused .1001 empty titel."):
        prepare(settings, facts={})
    assert len(read) == 1001


def test_good_rows_behind_many_bad_ones_are_still_written(tmp_path: Path) -> None:
    class Rows:
        def __len__(self) -> int:
            return 1101

        def __iter__(self) -> Iterator[Record]:
            for number in range(1101):
                title = "mug" if number == 1100 else ""
                yield Record({"item_id": str(number), "title": title}, {"image": photo(0)})

    prepare(PrepareSettings(str(tmp_path / "shards"), Rows(), SplitSettings(), max_refused_share=1.0), facts={})
    manifest = json.loads((tmp_path / "shards" / MANIFEST).read_text())
    assert (manifest["rows"], manifest["refused"]) == (1, {"empty title": 1100})

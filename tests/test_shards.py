"""Rows become tar shards that give back what was written, and a wrong row or a damaged folder is told in one line."""

import hashlib
import io
import json
import os
import random
from pathlib import Path

import numpy as np
import pytest
import webdataset
from PIL import Image

from gcl.data.manifest import MANIFEST
from gcl.data.record import Record
from gcl.data.shard_writer import write_shards
from gcl.data.shards import ShardReader
from gcl.errors import UserError


def photo(seed: int, file_format: str = "JPEG") -> bytes:
    buffer = io.BytesIO()
    noise = np.random.default_rng(seed).integers(0, 256, (24, 24, 3), dtype=np.uint8)
    Image.fromarray(noise).save(buffer, file_format)
    return buffer.getvalue()


def write_split(folder: Path, records: list[Record], samples_per_shard: int = 3) -> ShardReader:
    write_shards(folder, {"train": records, "test": []}, samples_per_shard)
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
        assert (tmp_path / "first" / shard.file).read_bytes() == (tmp_path / "second" / shard.file).read_bytes()
        assert hashlib.sha256((tmp_path / "first" / shard.file).read_bytes()).hexdigest() == shard.sha256
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
    (folder / "train.index.npy").unlink()


def damage_index(folder: Path) -> None:
    (folder / "train.index.npy").write_bytes(b"\x93NUMPY")


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
        (remove_index, "train.index.npy"),
        (damage_index, "train.index.npy cannot be read"),
        (cut_shard, "has 1024 bytes where 10240 were written"),
        (name_shard_outside, "'../train-000001.tar' .* must be a plain name in that folder"),
        (name_shard_absolutely, "'/etc/passwd' .* must be a plain name in that folder"),
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


def test_a_file_given_for_the_folder_of_shards_gives_one_line(tmp_path: Path, records: list[Record]) -> None:
    write_split(tmp_path, records)
    with pytest.raises(UserError, match="is a file"):
        ShardReader(tmp_path / MANIFEST, "train")


def test_any_damage_to_a_shard_gives_a_record_or_one_line(tmp_path: Path, records: list[Record]) -> None:
    reader = write_split(tmp_path, records, samples_per_shard=7)
    tar = tmp_path / reader.shards[0].file
    whole, chance, refused = tar.read_bytes(), random.Random(5), 0
    for _ in range(400):
        damaged = bytearray(whole)
        for _ in range(chance.choice([1, 4, 60])):
            place = chance.randrange(len(whole))
            # Headers are rarer than content, and hurt more.
            place = place // 512 * 512 + chance.choice([chance.randrange(512), 156]) if chance.random() < 0.7 else place
            damaged[place] = chance.choice([chance.randrange(256), *b"xgLKSV0"])
        tar.write_bytes(damaged)
        for number in range(len(reader)):
            try:
                record = reader[number]
                assert all(isinstance(value, bytes) for value in record.images.values())
            except UserError as error:
                assert "\n" not in str(error) and tar.name in str(error)
                refused += 1
    assert 100 < refused < 400 * len(reader)

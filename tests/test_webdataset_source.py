"""Shards that others wrote are indexed where they lie; bad samples and damaged tars are counted, not fatal."""

import hashlib
import io
import json
import random
import tarfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import webdataset
from test_shards import photo

from gcl.cli import run_verb
from gcl.data.manifest import MANIFEST
from gcl.data.prepare.merge import REFUSED
from gcl.data.shards import ShardReader
from gcl.data.sources.webdataset import WebDatasetSource
from gcl.errors import UserError

Sample = dict[str, Any]


def sample(number: int, **more: Any) -> Sample:
    content = {"__key__": f"{number:05d}", "jpg": photo(number), "txt": f"mug no. {number}"}
    return content | {"json": {"width": 24, "url": f"http://x/{number}", "caption": f"cup {number}"}} | more


def write_tar(path: Path, samples: list[Sample]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with webdataset.TarWriter(str(path), mtime=0) as writer:
        for content in samples:
            writer.write(content)
    return path


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    """Three shards of twenty samples, as open_clip's users have them."""
    folder = tmp_path / "foreign"
    for shard in range(3):
        write_tar(folder / f"cc-{shard:05d}.tar", [sample(20 * shard + number) for number in range(20)])
    return folder


def index(folder: Path, output: Path, *more: str) -> dict[str, Any]:
    """The manifest of `gcl prepare source=webdataset`."""
    run_verb("prepare", ["source=webdataset", f"source.path={folder}", f"output_dir={output}", "workers=1", *more])
    manifest: dict[str, Any] = json.loads((output / MANIFEST).read_text())
    return manifest


def titles(output: Path, manifest: dict[str, Any]) -> dict[str, list[str]]:
    splits = [split for split, shards in manifest["splits"].items() if shards]
    return {split: [str(record.fields["title"]) for record in ShardReader(output, split)] for split in splits}


def test_foreign_shards_are_read_where_they_lie_and_stay_as_they_are(foreign: Path, tmp_path: Path) -> None:
    before = {path.name: path.read_bytes() for path in foreign.iterdir()}
    manifest = index(foreign, tmp_path / "index", "split.validation=0.3")
    found = titles(tmp_path / "index", manifest)
    assert sorted(found["train"] + found["validation"]) == sorted(f"mug no. {number}" for number in range(60))
    assert len(found["validation"]) > 5
    assert {path.name: path.read_bytes() for path in foreign.iterdir()} == before
    assert sorted(path.name for path in (tmp_path / "index").iterdir()) == [
        MANIFEST, REFUSED, "train.index.npy", "validation.index.npy",
    ]  # fmt: skip
    record = ShardReader(tmp_path / "index", "train")[7]
    number = int(record.item_id)
    assert record.images == {"image": photo(number)} and record.fields["title"] == f"mug no. {number}"
    assert record.fields["url"] == f"http://x/{number}" and record.fields["width"] == "24"


def test_a_field_can_come_from_the_json(foreign: Path, tmp_path: Path) -> None:
    manifest = index(
        foreign, tmp_path / "index", "source.fields={title: json.caption, text: txt}", "split.validation=0"
    )
    assert titles(tmp_path / "index", manifest)["train"][:2] == ["cup 0", "cup 1"]
    assert ShardReader(tmp_path / "index", "train")[1].fields["text"] == "mug no. 1"


def test_a_field_that_no_sample_has_is_refused_naming_what_there_is(foreign: Path) -> None:
    with pytest.raises(
        UserError,
        match=r"fields.title is 'json.captoin', .* samples of cc-00000.tar do not have \(did you mean json.caption",
    ):
        WebDatasetSource(str(foreign), {"title": "json.captoin"})
    with pytest.raises(UserError, match="they have jpg, json, json.width, json.url, json.caption, txt"):
        WebDatasetSource(str(foreign), {"category": "cls"})


def test_a_pattern_chooses_shards(foreign: Path, tmp_path: Path) -> None:
    assert len(WebDatasetSource(f"{foreign}/cc-{{00000..00001}}.tar")) == 2
    assert WebDatasetSource(f"{foreign}/cc-0000[1].tar".replace("[1]", "2")).files == ["cc-00002.tar"]
    assert len(WebDatasetSource(f"{foreign}/*1.tar")) == 1
    with pytest.raises(UserError, match=r"has no cc-00003.tar \(2 of 5 shards are missing\)"):
        WebDatasetSource(f"{foreign}/cc-{{00000..00004}}.tar")
    with pytest.raises(UserError, match="holds no .tar; give the folder"):
        WebDatasetSource(str(tmp_path))
    with pytest.raises(UserError, match="cannot be listed"):
        WebDatasetSource(str(tmp_path / "nowhere"))


def test_bad_samples_are_counted_by_reason_and_left_out(foreign: Path, tmp_path: Path) -> None:
    bad = [
        sample(100, jpg=photo(100)[:-200]),
        sample(101, txt=""),
        sample(102, json=b"{not json"),
        sample(103, txt="<b>mug</b>"),
        {"__key__": "00104", "txt": "no photo"},
        sample(105, jpg=b"<html>not found</html>"),
        sample(106),
    ]
    write_tar(foreign / "cc-00003.tar", bad)
    manifest = index(foreign, tmp_path / "index", "max_refused_share=0.5")
    assert manifest["refused"] == {
        "bad image": 2, "empty title": 1, "bad sample": 1, "HTML in text": 1, "empty image": 1,
    }  # fmt: skip
    assert manifest["rows"] == 61
    listed = [json.loads(line)["origin"] for line in (tmp_path / "index" / REFUSED).read_text().splitlines()]
    assert listed == [f"cc-00003.tar:{number:05d}" for number in range(100, 106)]


def test_what_stands_before_the_damage_of_a_cut_tar_is_kept_and_the_tar_is_named(foreign: Path, tmp_path: Path) -> None:
    tar = foreign / "cc-00001.tar"
    tar.write_bytes(tar.read_bytes()[:20_000])
    manifest = index(foreign, tmp_path / "index", "max_refused_share=0.5")
    assert manifest["refused"] == {"damaged tar": 1}
    assert 40 < manifest["rows"] < 60
    (listed,) = [json.loads(line) for line in (tmp_path / "index" / REFUSED).read_text().splitlines()]
    assert listed["origin"] == "cc-00001.tar"


def test_a_file_that_is_no_tar_is_counted_and_named(foreign: Path, tmp_path: Path) -> None:
    (foreign / "cc-00003.tar").write_bytes(random.Random(1).randbytes(30_000))
    (foreign / "cc-00004.tar").write_bytes(b"")
    manifest = index(foreign, tmp_path / "index", "max_refused_share=0.5")
    assert manifest["rows"] == 60 and manifest["refused"] == {"damaged tar": 2}


def test_any_damage_to_a_tar_ends_in_samples_refusals_or_one_line(foreign: Path, tmp_path: Path) -> None:
    tar = foreign / "cc-00000.tar"
    whole, chance = tar.read_bytes(), random.Random(3)
    for path in (foreign / "cc-00001.tar", foreign / "cc-00002.tar"):
        path.unlink()
    outcomes: Counter[str] = Counter()
    for round in range(40):
        damaged = bytearray(whole)
        for _ in range(chance.choice([1, 3, 40])):
            # Headers are rarer than content, and hurt more.
            place = chance.randrange(len(whole))
            place = place // 512 * 512 + chance.randrange(200) if chance.random() < 0.7 else place
            damaged[place] = chance.randrange(256)
        if chance.random() < 0.3:
            damaged = damaged[: chance.randrange(len(damaged))]
        tar.write_bytes(bytes(damaged))
        output = tmp_path / f"index{round}"
        try:
            manifest = index(foreign, output, "max_refused_share=1", "split.validation=0")
        except UserError as error:
            assert "\n" not in str(error)
            outcomes["one line"] += 1
            continue
        rows = list(ShardReader(output, "train"))
        assert len(rows) == manifest["rows"] and all(row.images["image"] for row in rows)
        outcomes["refusals" if manifest["refused"] else "samples"] += 1
    assert outcomes["refusals"] > 10 and sum(outcomes.values()) == 40


def with_size(tar: bytes, member: int, size: bytes) -> bytes:
    """The tar with another size in the header at a member's offset, and a checksum that fits."""
    header = bytearray(tar[member : member + 512])
    header[124:136] = size
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return tar[:member] + bytes(header) + tar[member + 512 :]


@pytest.mark.parametrize(
    "size",
    [
        b"\xff" * 10 + (-512 & 0xFFFF).to_bytes(2),  # -512
        b"\xff" * 10 + (-1024 & 0xFFFF).to_bytes(2),
        b"\x80" + b"\x7f" * 11,  # very large
        b"77777777777\0",
        b"not a size\0\0",
    ],
)
def test_a_header_with_a_hostile_size_is_damage_not_a_circle(foreign: Path, tmp_path: Path, size: bytes) -> None:
    tar = foreign / "cc-00001.tar"
    tar.write_bytes(with_size(tar.read_bytes(), 4096, size))
    manifest = index(foreign, tmp_path / "index", "max_refused_share=0.5")
    assert 40 <= manifest["rows"] < 60 and manifest["refused"]["damaged tar"] == 1


def test_a_tar_without_a_good_sample_does_not_stop_the_others(foreign: Path, tmp_path: Path) -> None:
    write_tar(foreign / "aa.tar", [sample(number, txt="") for number in range(1100)])
    manifest = index(foreign, tmp_path / "index", "max_refused_share=1")
    assert manifest["rows"] == 60 and manifest["refused"] == {"empty title": 1100}


def test_suffixes_are_compared_as_webdataset_compares_them(tmp_path: Path) -> None:
    path = tmp_path / "foreign" / "x.tar"
    path.parent.mkdir()
    with tarfile.open(path, "w") as tar:
        for name, content in [("1.JPG", photo(1)), ("1.Txt", b"mug")]:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    index(path.parent, tmp_path / "index", "split.validation=0")
    assert [row.images["image"] for row in ShardReader(tmp_path / "index", "train")] == [photo(1)]


def test_a_tar_that_was_replaced_since_is_indexed_again(foreign: Path, tmp_path: Path) -> None:
    run_verb("prepare", ["source=webdataset", f"source.path={foreign}", f"output_dir={tmp_path / 'i'}", "part=0/2"])
    size = (foreign / "cc-00000.tar").stat().st_size
    write_tar(foreign / "cc-00000.tar", [sample(number, txt=f"cup no. {number}") for number in range(20)])
    assert (foreign / "cc-00000.tar").stat().st_size == size
    manifest = index(foreign, tmp_path / "i", "split.validation=0.1")
    shards = {shard["file"]: shard["sha256"] for shard in manifest["splits"]["train"]}
    assert shards["cc-00000.tar"] == hashlib.sha256((foreign / "cc-00000.tar").read_bytes()).hexdigest()


def test_the_index_is_the_same_for_any_workers_and_goes_on_after_a_kill(foreign: Path, tmp_path: Path) -> None:
    index(foreign, tmp_path / "one")
    index(foreign, tmp_path / "two", "workers=2")
    run_verb("prepare", ["source=webdataset", f"source.path={foreign}", f"output_dir={tmp_path / 'parts'}", "part=1/2"])
    index(foreign, tmp_path / "parts")
    contents = [
        {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("one", "two", "parts")
    ]
    assert contents[0] == contents[1] == contents[2]


def test_samples_in_folders_of_a_tar_and_other_members_are_understood(tmp_path: Path) -> None:
    path = tmp_path / "foreign" / "x.tar"
    path.parent.mkdir()
    with tarfile.open(path, "w") as tar:
        for name, content in [
            ("a/", None), ("a/1.jpg", photo(1)), ("a/1.png", "nowhere"), ("a/1.txt", b"mug"), ("a/1.cls", b"3"),
            ("b/1.txt", b"cup"), ("b/1.jpg", photo(2)),
        ]:  # fmt: skip
            member = tarfile.TarInfo(name)
            if isinstance(content, bytes):
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
                continue
            member.type = tarfile.DIRTYPE if content is None else tarfile.SYMTYPE
            member.linkname = content or ""
            tar.addfile(member)
    index(path.parent, tmp_path / "index", "split.validation=0")
    rows = list(ShardReader(tmp_path / "index", "train"))
    assert [(row.item_id, row.fields["title"], row.images["image"]) for row in rows] == [
        ("a/1", "mug", photo(1)),
        ("b/1", "cup", photo(2)),
    ]


def test_webdataset_s_own_reader_gives_the_same_samples(foreign: Path, tmp_path: Path) -> None:
    index(foreign, tmp_path / "index", "split.validation=0")
    theirs = list(webdataset.WebDataset([str(path) for path in sorted(foreign.iterdir())], shardshuffle=False))
    ours = list(ShardReader(tmp_path / "index", "train"))
    assert [row.images["image"] for row in ours] == [row["jpg"] for row in theirs]
    assert [row.fields["title"] for row in ours] == [row["txt"].decode() for row in theirs]

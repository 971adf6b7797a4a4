"""Every written row carries the hashes of its images, equal for equal images and not for others."""

import io
import json
import struct
import zlib
from pathlib import Path

import imagehash
import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageOps
from row_list import RowList

from gcl.cli import run_verb
from gcl.data.image_hash import HashMethod, perceptual_hash, with_image_hashes
from gcl.data.manifest import MANIFEST
from gcl.data.prepare.chunk import SplitSettings
from gcl.data.prepare.command import PrepareSettings, prepare
from gcl.data.record import Record, SourceRow
from gcl.data.shards import ShardReader
from gcl.data.sources.catalog import CatalogSource
from gcl.data.sources.demo import DemoSource
from gcl.errors import UserError

ORIENTATION = 0x0112


def picture(number: int) -> Image.Image:
    return Image.open(io.BytesIO(DemoSource(image_size=160).record(number).images["image"][0])).convert("RGB")


def encode(image: Image.Image, file_format: str = "JPEG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def hashed(encoded: bytes, method: HashMethod) -> str:
    fields = with_image_hashes(Record({"item_id": "1"}, {"image": encoded}), method).fields
    assert set(fields) == {"item_id", "image.hash"}
    return str(fields["image.hash"])


def test_the_bytes_hash_tells_byte_identical_files_alone() -> None:
    first, again, another_quality = (encode(picture(0), quality=quality) for quality in (90, 90, 60))
    assert hashed(first, "bytes") == hashed(again, "bytes") != hashed(another_quality, "bytes")
    assert len(hashed(first, "bytes")) == 16 and int(hashed(first, "bytes"), 16) >= 0


def test_the_perceptual_hash_is_imagehash_s_phash() -> None:
    for number in range(30):
        assert perceptual_hash(encode(picture(number), "PNG")) == str(imagehash.phash(picture(number), hash_size=16))


def test_the_perceptual_hash_survives_light_compression_for_most_pictures() -> None:
    originals = [hashed(encode(picture(number), "PNG"), "perceptual") for number in range(50)]
    copies = [hashed(encode(picture(number), "JPEG", quality=95), "perceptual") for number in range(50)]
    assert sum(map(str.__eq__, originals, copies)) > 25


def test_the_perceptual_hash_tells_pictures_apart() -> None:
    hashes = {hashed(encode(picture(number), "PNG"), "perceptual") for number in range(50)}
    assert len(hashes) >= 48
    assert hashed(encode(ImageOps.mirror(picture(0)), "PNG"), "perceptual") not in hashes


def test_the_perceptual_hash_is_that_of_the_picture_as_it_is_seen() -> None:
    turned = Image.Exif()
    turned[ORIENTATION] = 6  # shown after a quarter turn
    upright = hashed(encode(picture(0), quality=95), "perceptual")
    assert (
        hashed(encode(picture(0).transpose(Image.Transpose.ROTATE_90), quality=95, exif=turned), "perceptual")
        == upright
    )
    cut_out, on_white = (
        Image.new("RGBA", (96, 96)),
        Image.new("RGB", (96, 96), "white"),
    )  # black where it is transparent
    for image in (cut_out, on_white):
        ImageDraw.Draw(image).ellipse((20, 30, 70, 80), fill="black")
    assert hashed(encode(cut_out, "PNG"), "perceptual") == hashed(encode(on_white, "PNG"), "perceptual")


@pytest.mark.parametrize("method", ["bytes", "perceptual"])
def test_every_image_of_a_row_is_hashed_in_place_of_what_the_source_called_so(method: HashMethod) -> None:
    images = {"image": encode(picture(0)), "back": encode(picture(1))}
    record = Record({"item_id": "1", "image.hash": "theirs", "label.hash": "kept"}, images, "products.csv:2")
    fields = with_image_hashes(record, method).fields
    assert fields["image.hash"] == hashed(images["image"], method) != hashed(images["back"], method)
    assert fields == record.fields | {"image.hash": fields["image.hash"], "back.hash": hashed(images["back"], method)}
    assert with_image_hashes(record, method).origin == record.origin and record.fields["image.hash"] == "theirs"
    bare = Record({"item_id": "1"}, {})
    assert with_image_hashes(bare, method) == bare


def write_catalogue(folder: Path, images: list[bytes]) -> CatalogSource:
    """One product for each image, with a title and a hash of its own."""
    folder.mkdir()
    for number, image in enumerate(images):
        (folder / f"{number}.img").write_bytes(image)
    lines = [f"{number},Mug {number},{number}.img,theirs" for number in range(len(images))]
    (folder / "products.csv").write_text("\n".join(["id,title,image,image.hash", *lines]) + "\n")
    return CatalogSource(str(folder))


def written(folder: Path) -> list[tuple[str, Record]]:
    manifest = json.loads((folder / MANIFEST).read_text())
    splits = [split for split, shards in manifest["splits"].items() if shards]
    return [(split, record) for split in splits for record in ShardReader(folder, split)]


def test_prepared_rows_carry_the_hash_as_a_text_field_that_the_manifest_knows(tmp_path: Path) -> None:
    write_catalogue(tmp_path / "catalogue", [encode(picture(number)) for number in (0, 0, 1)])
    arguments = ["source=catalog", f"source.path={tmp_path / 'catalogue'}", "split.validation=0"]
    for method in ("bytes", "perceptual"):
        run_verb("prepare", [*arguments, f"output_dir={tmp_path / method}", f"image_hash={method}"])
        hashes = [record.fields["image.hash"] for _, record in written(tmp_path / method)]
        assert hashes == [hashed(encode(picture(number)), method) for number in (0, 0, 1)]
        assert ShardReader(tmp_path / method, "train").split_fields(["image.hash"]) == ([], ["image.hash"])
        assert json.loads((tmp_path / method / MANIFEST).read_text())["image_hash"] == method


def test_another_method_is_refused_naming_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="image_hash='md5' does not fit: it should be 'bytes' or 'perceptual'"):
        run_verb("prepare", ["source=demo", f"output_dir={tmp_path / 'shards'}", "image_hash=md5"])


def test_rows_may_be_split_by_the_hash_so_that_equal_images_stay_together(tmp_path: Path) -> None:
    images = [encode(picture(number)) for number in range(20)]
    rows = [SourceRow({"item_id": str(i), "title": "Mug"}, {"image": (images[i // 3],)}, "") for i in range(60)]
    splits = SplitSettings(by="image.hash", validation=0.4)
    prepare(PrepareSettings(str(tmp_path / "shards"), RowList(rows), split=splits, workers=1), facts={})
    places: dict[bytes, list[str]] = {}
    for split, record in written(tmp_path / "shards"):
        places.setdefault(record.images["image"], []).append(split)
    assert len(places) == 20 and all(len(found) == 3 and len(set(found)) == 1 for found in places.values())
    assert {found[0] for found in places.values()} == {"train", "validation"}


def with_chunk(png: bytes, kind: bytes, content: bytes) -> bytes:
    """The PNG file with one more chunk, behind its header."""
    checksum = struct.pack(">I", zlib.crc32(kind + content))
    return png[:33] + struct.pack(">I", len(content)) + kind + content + checksum + png[33:]


def test_a_picture_whose_exif_is_broken_is_hashed_as_it_is_shown() -> None:
    damaged = with_chunk(encode(picture(0), "PNG"), b"eXIf", b"not Exif")
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(damaged))), np.asarray(picture(0)))
    assert perceptual_hash(damaged) == perceptual_hash(encode(picture(0), "PNG"))


@pytest.mark.parametrize("broken", [b"", b"no image", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"])
def test_what_is_no_image_has_no_perceptual_hash(broken: bytes) -> None:
    with pytest.raises(OSError):
        perceptual_hash(broken)

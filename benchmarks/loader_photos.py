"""The shards that both loaders read: drawn products with the texture and grain of photographs."""

import io
from collections.abc import Iterator
from pathlib import Path
from random import Random

import numpy as np
import webdataset
from PIL import Image

from gcl.data.record import Record
from gcl.data.shard_writer import write_shards
from gcl.data.sources.demo import draw_product, draw_title
from gcl.data.sources.demo_drawing import draw_photo

DRAWN_PIXELS = 250  # side of a drawing; it is scaled up, as edges in a photo are softer than drawn ones
SIDES = (300, 500)  # pixels of a photo's width and height
QUALITIES = (85, 90)  # of the JPEG
TEXTURE, GRAIN = 14.0, 3.0  # standard deviations in 8-bit levels: of cloth, shade and background; of a sensor
SHARDS = 8  # open_clip gives whole shards to its workers


def write_photos(folder: Path, count: int) -> list[bytes]:
    """Write `count` photos with titles for either side, the very same bytes, and return them.

    Ours are what gcl prepare writes, `000000001.image.jpg` and `000000001.json`; open_clip's reader wants
    `000000001.jpg` and `000000001.txt`.
    """
    records = list(draw_records(count))
    write_shards(folder / "ours", {"train": records}, max_samples=count // SHARDS)
    (folder / "theirs").mkdir()
    pattern = str(folder / "theirs" / "train-%06d.tar")
    with webdataset.ShardWriter(pattern, maxcount=count // SHARDS, verbose=0) as writer:
        for number, record in enumerate(records):
            title, photo = str(record.fields["title"]), record.images["image"]
            writer.write({"__key__": f"{number:09d}", "jpg": photo, "txt": title})
    return [record.images["image"] for record in records]


def draw_records(count: int) -> Iterator[Record]:
    for number in range(count):
        random = Random(f"photo {number}")
        product = draw_product(random)
        fields: dict[str, str | float] = {"item_id": f"P{number:06d}", "title": draw_title(product, random)}
        drawing = Image.open(io.BytesIO(draw_photo(product.look, DRAWN_PIXELS, random)))
        yield Record(fields, {"image": photograph(drawing, np.random.default_rng(number))})


def photograph(drawing: Image.Image, random: np.random.Generator) -> bytes:
    """The drawing as a JPEG of a random size: scaled up, with texture of every fineness, and grain."""
    width, height = (int(side) for side in random.integers(*SIDES, size=2, endpoint=True))
    picture = np.asarray(drawing.convert("RGB").resize((width, height), Image.Resampling.BICUBIC), dtype=np.float32)
    for cells in (6, 24, 96):
        noise = Image.fromarray(random.normal(0, TEXTURE / 3**0.5, (cells, cells)).astype(np.float32))
        picture = picture + np.asarray(noise.resize((width, height), Image.Resampling.BICUBIC))[:, :, None]
    picture = picture + random.normal(0, GRAIN, picture.shape)
    buffer = io.BytesIO()
    quality = int(random.integers(*QUALITIES, endpoint=True))
    Image.fromarray(picture.clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()

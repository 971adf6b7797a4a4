"""The hashes of a row's images: text fields, by which rows with an equal image can be told."""

import hashlib
import io
from dataclasses import replace
from typing import Literal

import imagehash
from PIL import Image

from gcl.data.image_rgb import rgb_image
from gcl.data.record import IMAGE_FORMATS, IMAGE_HASH, Record

HashMethod = Literal["bytes", "perceptual"]


def with_image_hashes(record: Record, method: HashMethod) -> Record:
    """The record with the hash of each image, in place of a field of that name which the source may have brought.

    Raises:
        OSError: the method decodes, and an image cannot be decoded.
    """
    hash_of = perceptual_hash if method == "perceptual" else bytes_hash
    hashes = {f"{name}{IMAGE_HASH}": hash_of(encoded) for name, encoded in record.images.items()}
    return replace(record, fields={**record.fields, **hashes})


def bytes_hash(encoded: bytes) -> str:
    """16 hex digits, equal for byte-identical files."""
    return hashlib.blake2b(encoded, digest_size=8).hexdigest()


def perceptual_hash(encoded: bytes) -> str:
    """64 hex digits, equal for many copies of a picture in another size, format or quality.

    pHash: which of the picture's 16 x 16 lowest frequencies, in 64 x 64 greys, lie above their median
    (https://www.hackerfactor.com/blog/index.php?/archives/432-Looks-Like-It.html). The usual 8 x 8 are too few here:
    products photographed on a plain ground share an outline, and would be taken for copies. It is blind to colour.
    """
    try:
        with Image.open(io.BytesIO(encoded), formats=IMAGE_FORMATS) as opened:
            return str(imagehash.phash(rgb_image(opened), hash_size=16))
    except Exception as error:  # a decoder at work on broken bytes raises anything
        raise OSError(f"not a readable image: {error}") from error

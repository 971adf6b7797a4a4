"""A few products, and how a model embeds them: what every export is compared with."""

import io
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from gcl.data.images import ImageReader
from gcl.data.record import Record, image_problem
from gcl.data.shards import ShardReader
from gcl.errors import UserError
from gcl.training.load import Loaded

ROWS = 8


@dataclass
class Samples:
    """Raw inputs, the model's inputs made of them, and its embeddings."""

    images: list[bytes]  # encoded files
    texts: list[str]
    pixels: Tensor  # (rows, 3, size, size) uint8
    tokens: Tensor  # (rows, context_length) int64
    image_embeddings: Tensor  # (rows, dim) float32, normalised
    text_embeddings: Tensor  # (rows, dim) float32, normalised


def build_samples(loaded: Loaded) -> Samples:
    """The first rows of the run's validation split, or drawn images where there is no run or its data is gone."""
    records = validation_rows(loaded) or drawn_rows()
    images = [next(iter(record.images.values())) for record in records]
    texts = [str(record.fields["title"]) for record in records]
    model, image = loaded.model.eval(), loaded.model.image
    reader = ImageReader(image.size, image.interpolation, image.resize_mode)
    pixels, tokens = torch.stack([reader.read(encoded) for encoded in images]), model.tokenizer(texts)
    with torch.inference_mode():
        fields = model({"image": pixels}, {"text": tokens}).fields
    return Samples(images, texts, pixels, tokens, fields["image"], fields["text"])


def validation_rows(loaded: Loaded) -> list[Record]:
    if loaded.settings is None:
        return []
    try:
        reader = ShardReader(loaded.settings["data"]["path"], loaded.settings["data"]["validation_split"])
    except UserError:
        return []
    records = [reader[number] for number in range(min(ROWS, len(reader)))]
    return [record for record in records if is_usable(record)]


def is_usable(record: Record) -> bool:
    """Whether a row has a title and an image that can be decoded."""
    has_image = any(image_problem(encoded) is None for encoded in list(record.images.values())[:1])
    return has_image and bool(str(record.fields.get("title", "")).strip())


def drawn_rows() -> list[Record]:
    random = np.random.default_rng(0)
    records = []
    for number in range(ROWS):
        file = io.BytesIO()
        coarse = Image.fromarray(random.integers(0, 256, (8, 8, 3), dtype=np.uint8))
        coarse.resize((300, 300), Image.Resampling.BICUBIC).save(file, "PNG")
        title = f"{['Red', 'Navy', 'Plain', 'Striped'][number % 4]} sample product number {number}"
        records.append(Record({"item_id": str(number), "title": title}, {"image": file.getvalue()}))
    return records

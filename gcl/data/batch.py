"""Samples to a batch: pixels, token ids, which fields are present, and hashes that tell equal values."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gcl.data.images import ImageReader
from gcl.data.record import Record
from gcl.data.shards import ShardReader

Tokenizer = Callable[[list[str]], Tensor]


@dataclass
class Batch:
    """One process's rows of a step."""

    images: dict[str, Tensor]  # field -> (rows, 3, size, size) uint8
    texts: dict[str, Tensor]  # field -> (rows, context_length) int64
    present: dict[str, Tensor]  # field -> (rows,) bool
    identities: dict[str, Tensor]  # field -> (rows,) int64, 0 where unknown
    weight: Tensor  # (rows,) float32
    encoded_images: int  # images that the rows brought
    undecodable: int  # of them, those that could not be decoded; their rows stay, with the field missing

    def to(self, device: torch.device) -> "Batch":
        """The same batch on another device."""

        def moved(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
            return {name: tensor.to(device, non_blocking=True) for name, tensor in tensors.items()}

        return Batch(
            moved(self.images),
            moved(self.texts),
            moved(self.present),
            moved(self.identities),
            self.weight.to(device, non_blocking=True),
            self.encoded_images,
            self.undecodable,
        )


@dataclass(frozen=True)
class BatchBuilder:
    """Makes batches of the given fields."""

    image_fields: list[str]
    text_fields: list[str]
    identity_fields: list[str]
    image_reader: ImageReader
    tokenizer: Tokenizer

    def build(self, records: list[Record], randoms: list[np.random.Generator] | None = None) -> Batch:
        """Decode and tokenize `records`; `randoms`, one for each record, turn augmentation on."""
        images, texts, present, encoded = {}, {}, {}, 0
        for name in self.image_fields:
            pixels = [self._pixels(record, name, randoms[i] if randoms else None) for i, record in enumerate(records)]
            encoded += sum(name in record.images for record in records)
            present[name] = torch.tensor([p is not None for p in pixels])
            size = self.image_reader.size
            images[name] = torch.stack(
                [torch.zeros(3, size, size, dtype=torch.uint8) if p is None else p for p in pixels]
            )
        undecodable = encoded - sum(int(there.sum()) for there in present.values())
        for name in self.text_fields:
            values = [str(record.fields.get(name, "")).strip() for record in records]
            present[name] = torch.tensor([bool(value) for value in values])
            texts[name] = self.tokenizer(values)
        identities = {name: identity(records, name) for name in self.identity_fields}
        return Batch(images, texts, present, identities, torch.ones(len(records)), encoded, undecodable)

    def _pixels(self, record: Record, name: str, random: np.random.Generator | None) -> Tensor | None:
        try:
            return self.image_reader.read(record.images[name], random) if name in record.images else None
        except OSError:
            return None


def build_batch_builder(
    reader: ShardReader,
    fields: list[str],
    identity_fields: list[str],
    image_reader: ImageReader,
    tokenizer: Tokenizer,
) -> BatchBuilder:
    """A builder of these fields, each once, told apart as images and texts by the shards' manifest.

    Raises:
        UserError: a field that no row has.
    """
    images, texts = reader.split_fields(list(dict.fromkeys(fields)))
    _, identities = reader.split_fields(identity_fields)
    return BatchBuilder(images, texts, identities, image_reader, tokenizer)


def identity(records: list[Record], name: str) -> Tensor:
    """A 64-bit hash of each record's value of a field, 0 where it has none: (records,) int64."""
    values = [str(record.fields.get(name, "")).strip() for record in records]
    return torch.tensor([hash64(value) if value else 0 for value in values], dtype=torch.int64)


def hash64(text: str) -> int:
    """A signed 64-bit hash, the same in every process."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), signed=True)

"""Samples to a batch: pixels, token ids, which fields are present, and hashes that tell equal values."""

from collections.abc import Callable
from dataclasses import dataclass
from operator import itemgetter

import numpy as np
import torch
from torch import Tensor

from gcl.data.images import ImageReader
from gcl.data.record import SCORE, Record, hash64, is_score
from gcl.data.shards import ShardReader
from gcl.errors import UserError

Tokenizer = Callable[[list[str]], Tensor]


@dataclass
class Batch:
    """One process's rows of a step."""

    images: dict[str, Tensor]  # field -> (rows, 3, size, size) uint8
    texts: dict[str, Tensor]  # field -> (rows, context_length) int64
    present: dict[str, Tensor]  # field -> (rows,) bool
    identities: dict[str, Tensor]  # field -> (rows,) int64, 0 where unknown
    score: Tensor  # (rows,) float32
    encoded_images: int  # images that the rows brought
    undecodable: int  # of them, those that could not be decoded; their rows stay, with the field missing
    unscored: int  # rows that were given the default score

    def __len__(self) -> int:
        return len(self.score)

    def to(self, device: torch.device) -> "Batch":
        """The same batch on another device."""
        return self._with(lambda tensor: tensor.to(device, non_blocking=True))

    def split(self, size: int) -> "list[Batch]":
        """Micro-batches of `size` rows, in order; the last may have fewer. What is counted stays with the whole."""
        if size >= len(self):
            return [self]
        return [self._with(itemgetter(slice(start, start + size))) for start in range(0, len(self), size)]

    def _with(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        """The same batch with every tensor changed."""
        images, texts, present, identities = (
            {name: change(tensor) for name, tensor in tensors.items()}
            for tensors in (self.images, self.texts, self.present, self.identities)
        )
        counts = self.encoded_images, self.undecodable, self.unscored
        return Batch(images, texts, present, identities, change(self.score), *counts)


@dataclass(frozen=True)
class Scores:
    """How rows' scores are read."""

    are_read: bool  # whether the weights depend on them
    default: float | None = None  # of a row without a usable one; None: such a row is a mistake

    def check(self, rows: ShardReader) -> None:
        """Refuse rows without scores before anything is read, where their manifest counts them."""
        if self.are_read and self.default is None and rows.scores is not None and rows.scores.missing:
            raise UserError(
                f"{rows.scores.missing} of {len(rows)} rows of split {rows.split} of {rows.folder} have no score; give "
                "them one with data.default_score=NUMBER, or train without scores (weighting=constant)"
            )

    def read(self, records: list[Record]) -> tuple[Tensor, int]:
        """Each record's score, and how many were given the default: (records,) float32.

        Raises:
            UserError: a score that is missing, negative or no number, where there is no default.
        """
        if not self.are_read:
            return torch.ones(len(records)), 0
        usable = [usable_score(record.fields.get(SCORE)) for record in records]
        unscored = [record for record, score in zip(records, usable, strict=True) if score is None]
        if unscored and self.default is None:
            bad = unscored[0]
            raise UserError(
                f"row {bad.item_id!r} ({bad.origin}) has score {bad.fields.get(SCORE)!r}; a score is a number from 0 "
                "up; give such rows one with data.default_score=NUMBER, or train without scores (weighting=constant)"
            )
        return torch.tensor([self.default if score is None else score for score in usable]), len(unscored)


def usable_score(value: str | float | None) -> float | None:
    """A score as a finite number from 0 up, also one that is written as text, or None."""
    try:
        score = float(value) if isinstance(value, str) else value
    except ValueError:
        return None
    return float(score) if score is not None and is_score(score) else None


@dataclass(frozen=True)
class BatchBuilder:
    """Makes batches of the given fields."""

    image_fields: list[str]
    text_fields: list[str]
    identity_fields: list[str]
    image_reader: ImageReader
    tokenizer: Tokenizer
    scores: Scores = Scores(are_read=False)

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
        score, unscored = self.scores.read(records)
        return Batch(images, texts, present, identities, score, encoded, undecodable, unscored)

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
    scores: Scores = Scores(are_read=False),
) -> BatchBuilder:
    """A builder of these fields, each once, told apart as images and texts by the shards' manifest.

    Raises:
        UserError: a field that no row has.
    """
    images, texts = reader.split_fields(list(dict.fromkeys(fields)))
    _, identities = reader.split_fields(identity_fields)
    return BatchBuilder(images, texts, identities, image_reader, tokenizer, scores)


def identity(records: list[Record], name: str) -> Tensor:
    """A 64-bit hash of each record's value of a field, 0 where it has none: (records,) int64."""
    values = [str(record.fields.get(name, "")).strip() for record in records]
    return torch.tensor([hash64(value) if value else 0 for value in values], dtype=torch.int64)

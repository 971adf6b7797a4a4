"""How many tokens texts have, and which of them a model's context cuts off."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

LONGEST = 8  # contexts: texts are not counted further


class LengthTokenizer(Protocol):
    """What open_clip's tokenizers have in common."""

    context_length: int

    def __call__(self, texts: list[str], context_length: int | None = None) -> Tensor: ...


@dataclass
class TokenCounts:
    """Of the texts of one field."""

    lengths: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))  # texts by number of tokens
    cut: int = 0  # texts that lose tokens

    @property
    def texts(self) -> int:
        return int(self.lengths.sum())

    def add(self, other: "TokenCounts") -> None:
        self.lengths, self.cut = added(self.lengths, other.lengths), self.cut + other.cut


def count_tokens(texts: list[str], tokenizer: LengthTokenizer) -> TokenCounts:
    """Counts of `texts`, none of them empty. A text is cut where a longer context would give it more tokens."""
    if not texts:
        return TokenCounts()
    context, times = tokenizer.context_length, Counter(texts)
    distinct, weights = list(times), np.array(list(times.values()))
    long, short = tokenizer(distinct, context_length=LONGEST * context), tokenizer(distinct)
    # Padding is what an empty text mostly consists of; it may be the token that ends a text, which then goes uncounted.
    padding = torch.mode(tokenizer([""], context_length=LONGEST * context)[0]).values
    lengths, kept = (long != padding).sum(1).numpy(), (short != padding).sum(1).numpy()
    return TokenCounts(np.bincount(lengths, weights).astype(np.int64), int(weights[lengths > kept].sum()))


def added(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """The sum of two counts by number, which may be of different length."""
    total = np.zeros(max(len(one), len(other)), np.int64)
    total[: len(one)] += one
    total[: len(other)] += other
    return total

"""All that was found, and the figures that both the summary and the page show."""

from dataclasses import dataclass

import numpy as np

from gcl.data.record import ITEM_ID
from gcl.doctor.model import Demands
from gcl.doctor.repeats import Repeats
from gcl.doctor.rows import Rows
from gcl.doctor.survey import ImageFacts, Survey
from gcl.doctor.throughput import Throughput


@dataclass(frozen=True)
class Column:
    """One field: in how many rows it is, and how long its texts are."""

    name: str
    kind: str  # "image" or "text"
    filled: int
    share: float  # of the rows
    median: int = 0  # characters
    longest: int = 0  # characters
    tokens: int | None = None  # median; None: not tokenized
    cut: float | None = None  # share of the sampled texts that lose tokens


@dataclass(frozen=True)
class Examination:
    """What was found."""

    rows: Rows
    demands: Demands
    survey: Survey
    repeats: list[Repeats]
    throughput: Throughput | None  # None: no batch could be made

    @property
    def sample(self) -> str:
        """What figures from the sample are figures of."""
        survey = self.survey
        return f"all {survey.sampled:,} rows" if survey.is_whole else f"a sample of {survey.sampled:,} rows"

    @property
    def distinct(self) -> dict[str, int]:
        """How many products there are, and how many queries where rows have one."""
        names = {"products": ITEM_ID, "queries": "query"}
        return {what: self.survey.distinct(name) for what, name in names.items() if name in self.survey.hashes}

    @property
    def context(self) -> int | None:
        """Tokens that the model reads of a text."""
        return self.demands.tokenizer.context_length if self.demands.tokenizer else None

    @property
    def good_images(self) -> list[ImageFacts]:
        return [image for image in self.survey.images if not image.problem]

    @property
    def bad_images(self) -> list[ImageFacts]:
        return [image for image in self.survey.images if image.problem]

    @property
    def scores(self) -> np.ndarray:
        """Of the rows that have a usable one: (n,) float32."""
        scores = np.concatenate(self.survey.scores) if self.survey.scores else np.zeros(0, np.float32)
        found: np.ndarray = scores[~np.isnan(scores)]
        return found

    @property
    def columns(self) -> list[Column]:
        """Image fields, then text fields."""
        total = max(1, self.survey.total_rows)
        images = [
            Column(name, "image", self.survey.filled[name], self.survey.filled[name] / total)
            for name in self.rows.image_fields
        ]
        return images + [self._text_column(name, total) for name in self.rows.text_fields]

    def _text_column(self, name: str, total: int) -> Column:
        filled = self.survey.filled[name]
        lengths = self.survey.lengths.get(name)
        there = np.zeros(0) if lengths is None else np.concatenate([[0], lengths[1:]])
        longest = self.survey.longest.get(name, [])
        counts = self.survey.tokens.get(name)
        return Column(
            name,
            "text",
            filled,
            filled / total,
            median_of(there),
            longest[0][0] if longest else 0,
            median_of(counts.lengths) if counts else None,
            counts.cut / counts.texts if counts else None,
        )


def median_of(counts: np.ndarray) -> int:
    """The median of numbers that occur `counts` times; 0 where there are none."""
    total = counts.sum()
    return int(np.searchsorted(np.cumsum(counts), total / 2)) if total else 0

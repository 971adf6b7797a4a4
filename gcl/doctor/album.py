"""The pictures of the page: what is wrong, what is there twice, and what there is at all."""

from dataclasses import dataclass

import numpy as np

from gcl.doctor.examination import Examination
from gcl.doctor.repeats import GROUPS
from gcl.doctor.rows import Rows, Unreadable, text_of
from gcl.doctor.survey import ImageFacts
from gcl.doctor.tokens import LONGEST, count_tokens
from gcl.retrieval.pages.gallery import thumbnail

PICTURES = 12  # of the smallest images
RANDOM = 24  # samples shown
LONG = 200  # characters from which a text is long
TITLE, TEXT = 120, 400  # characters shown of a title, and of a text that is shown for its length


@dataclass(frozen=True)
class Shown:
    """A row with one of its images; `uri` is a thumbnail, None where there is no readable picture."""

    uri: str | None
    title: str
    caption: str
    is_bad: bool = False


@dataclass(frozen=True)
class Strip:
    """Pictures side by side."""

    heading: str
    pictures: list[Shown]


@dataclass(frozen=True)
class LongText:
    """One of the longest texts of a field."""

    characters: int
    tokens: str  # nothing without a model
    is_cut: bool
    text: str


class Album:
    """Turns rows into pictures."""

    def __init__(self, examination: Examination) -> None:
        self.examination, self.rows = examination, examination.rows
        self.facts = {(image.number, image.field): image for image in examination.survey.images}

    def shown(self, number: int, field: str | None = None, is_bad: bool = False) -> Shown:
        """A row with the image of this field, or with its first."""
        record, split = self.rows[number], self.rows.split_of(number)
        if isinstance(record, Unreadable):
            return Shown(None, "", f"{split} {number:,}: not readable", is_bad=True)
        name = field or next(iter(record.images), "")
        encoded = record.images.get(name, b"")
        parts = [split, f"{len(encoded) / 1000:.1f}\u00a0KB"]
        facts = self.facts.get((number, name))
        if facts and facts.width:
            parts.insert(1, f"{facts.width}\u00a0×\u00a0{facts.height}")
        if facts and facts.problem:
            parts.append(facts.problem)
        return Shown(thumbnail(encoded), title_of(self.rows, number), ", ".join(parts)[:200], is_bad)

    def bad(self) -> list[Strip]:
        """Each of the first bad images between its neighbours, which often share what went wrong."""
        strips = []
        for image in self.examination.bad_images[:GROUPS]:
            beside = range(max(0, image.number - 1), min(len(self.rows), image.number + 2))
            pictures = [self.shown(number, image.field, number == image.number) for number in beside]
            strips.append(Strip(item_id_of(self.rows, image.number), pictures))
        return strips

    def repeats(self) -> list[tuple[str, list[Strip]]]:
        """For each kind, its largest groups."""
        found = []
        for repeats in self.examination.repeats:
            strips = [
                Strip(f"{group.size:,} rows", [self.shown(number, repeats.image or None) for number in group.numbers])
                for group in repeats.largest
            ]
            if strips:
                found.append((repeats.what, strips))
        return found

    def smallest(self) -> list[Shown]:
        """The images with the shortest sides, the fewer bytes first."""

        def size(image: ImageFacts) -> tuple[int, int, int]:
            return min(image.width, image.height), image.bytes, image.number

        found = sorted(self.examination.good_images, key=size)[:PICTURES]
        return [self.shown(image.number, image.field) for image in found]

    def random(self, seed: int) -> list[Shown]:
        """Rows drawn from all."""
        count = min(RANDOM, len(self.rows))
        drawn = np.random.default_rng([seed, 1]).choice(len(self.rows), count, replace=False)
        return [self.shown(number) for number in np.sort(drawn).tolist()]

    def longest(self) -> dict[str, list[LongText]]:
        """The longest texts of titles, queries and fields with long texts."""
        found = {}
        for name, texts in self.examination.survey.longest.items():
            if texts[0][0] >= (1 if name in ("title", "query") else LONG):
                found[name] = [self._long_text(name, number, length) for length, number in texts[:8] if length]
        return found

    def _long_text(self, name: str, number: int, length: int) -> LongText:
        record, tokenizer = self.rows[number], self.examination.demands.tokenizer
        text = "" if isinstance(record, Unreadable) else text_of(record, name)
        shown = shortened(text, TEXT)
        if not tokenizer or not text:
            return LongText(length, "", False, shown)
        counts = count_tokens([text], tokenizer)
        tokens = len(counts.lengths) - 1
        more = "+" if tokens >= LONGEST * tokenizer.context_length - 1 else ""  # one may be the end, uncounted
        return LongText(length, f"{tokens}{more}", counts.cut > 0, shown)


def title_of(rows: Rows, number: int) -> str:
    record = rows[number]
    return (
        "" if isinstance(record, Unreadable) else shortened(text_of(record, "title") or item_id_of(rows, number), TITLE)
    )


def item_id_of(rows: Rows, number: int) -> str:
    record = rows[number]
    return "" if isinstance(record, Unreadable) else shortened(text_of(record, "item_id"), TITLE)


def shortened(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"

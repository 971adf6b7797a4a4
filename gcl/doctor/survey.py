"""What there is in the rows: counted shard by shard by worker processes, in memory that holds no rows.

Of every row a few 64-bit hashes and the score are kept (some 50 bytes), of the sampled rows' images sizes and hashes.
"""

import io
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from PIL import Image
from rich.progress import Progress
from torch.utils.data import DataLoader, Dataset

from gcl.data.batch import hash64, usable_score
from gcl.data.image_hash import bytes_hash, perceptual_hash
from gcl.data.record import IMAGE_FORMATS, ITEM_ID, SCORE, Record
from gcl.doctor.rows import Part, Rows, Unreadable, text_of
from gcl.doctor.tokens import LengthTokenizer, TokenCounts, added, count_tokens
from gcl.errors import UserError

LONGEST_TEXT = 4096  # characters; longer texts are counted as that long
SHOWN = 12  # of every kind of finding, for the page
MEMORY = re.compile(r"<_io.BytesIO object at 0x[0-9a-f]+>")
HOPELESS = 3  # samples in a row whose bytes cannot be had, after which the rest of a part is not tried


@dataclass(frozen=True)
class ImageFacts:
    """One sampled image."""

    number: int  # of its row
    field: str
    bytes: int
    width: int = 0
    height: int = 0
    bytes_hash: int = 0
    look_hash: int = 0
    problem: str = ""  # why it cannot be decoded


@dataclass
class Survey:
    """What was counted in a part, or in all of them."""

    listed: Counter[str] = field(default_factory=Counter)  # split -> samples that the manifest lists
    rows: Counter[str] = field(default_factory=Counter)  # split -> rows that can be read
    unreadable: Counter[str] = field(default_factory=Counter)  # shard -> samples that cannot
    damaged: dict[str, str] = field(default_factory=dict)  # shard -> what is wrong with the file
    examples: list[Unreadable] = field(default_factory=list)
    filled: Counter[str] = field(default_factory=Counter)  # field -> rows that have it
    lengths: dict[str, np.ndarray] = field(default_factory=dict)  # text field -> rows by number of characters
    longest: dict[str, list[tuple[int, int]]] = field(default_factory=dict)  # text field -> (characters, row)
    hashes: dict[str, list[np.ndarray]] = field(default_factory=dict)  # field -> int64 of each listed row, 0: none
    scores: list[np.ndarray] = field(default_factory=list)  # float32 of each listed row, NaN: none
    bad_scores: int = 0
    sampled: int = 0  # rows whose images were decoded and texts tokenized
    images: list[ImageFacts] = field(default_factory=list)  # of the sampled rows
    tokens: dict[str, TokenCounts] = field(default_factory=dict)  # text field -> of the sampled rows

    def add(self, other: "Survey") -> None:
        """Count what comes next in the order of rows."""
        for name in ("listed", "rows", "unreadable", "filled"):
            getattr(self, name).update(getattr(other, name))
        self.damaged |= other.damaged
        self.examples = (self.examples + other.examples)[:SHOWN]
        for name, lengths in other.lengths.items():
            self.lengths[name] = added(self.lengths.get(name, lengths[:0]), lengths)
        for name, longest in other.longest.items():
            self.longest[name] = the_longest(self.longest.get(name, []) + longest)
        for name, hashes in other.hashes.items():
            self.hashes.setdefault(name, []).extend(hashes)
        for name, counts in other.tokens.items():
            self.tokens.setdefault(name, TokenCounts()).add(counts)
        self.scores += other.scores
        self.bad_scores += other.bad_scores
        self.sampled += other.sampled
        self.images += other.images

    @property
    def total_rows(self) -> int:
        return sum(self.rows.values())

    @property
    def is_whole(self) -> bool:
        """Whether the sample holds every row that can be read."""
        return self.sampled == self.total_rows

    def values(self, name: str) -> np.ndarray:
        """A field's hash in each listed row: (rows,) int64."""
        return np.concatenate(self.hashes[name])

    def distinct(self, name: str) -> int:
        """How many values a field has."""
        values = self.values(name)
        return len(np.unique(values[values != 0]))


def the_longest(texts: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """The longest first, the earlier of equals first."""
    return sorted(texts, key=lambda text: (-text[0], text[1]))[:SHOWN]


class PartSurveys(Dataset[Survey]):
    """The survey of each part, by its place: made in worker processes."""

    def __init__(self, rows: Rows, tokenizer: LengthTokenizer | None, sample: np.ndarray) -> None:
        self.rows, self.tokenizer, self.sample = rows, tokenizer, sample
        self.parts = list(rows.parts())

    def __len__(self) -> int:
        return len(self.parts)

    def __getitem__(self, place: int) -> Survey:
        part = self.parts[place]
        between = np.searchsorted(self.sample, [part.first, part.stop])
        return survey_part(self.rows, part, set(self.sample[slice(*between)].tolist()), self.tokenizer)


def survey_rows(
    rows: Rows, tokenizer: LengthTokenizer | None, sample_size: int, seed: int, workers: int, progress: Progress
) -> Survey:
    """Count in all rows, and look closely at a seeded sample of them; the same for any number of workers.

    Raises:
        UserError: a worker process died.
    """
    sample = np.random.default_rng(seed).choice(len(rows), min(sample_size, len(rows)), replace=False)
    parts = PartSurveys(rows, tokenizer, np.sort(sample))
    workers = min(workers, len(parts))
    total, task = Survey(), progress.add_task("rows", total=len(rows))
    try:
        # One worker is this process: nothing to start.
        for survey in DataLoader(parts, batch_size=None, num_workers=workers if workers > 1 else 0):
            total.add(survey)
            progress.advance(task, sum(survey.listed.values()))
    except RuntimeError as error:
        raise UserError(
            f"a worker process died ({str(error).splitlines()[0]}), most likely for want of memory; try workers=1"
        ) from error
    return total


def survey_part(rows: Rows, part: Part, sampled: set[int], tokenizer: LengthTokenizer | None) -> Survey:
    """Count in one part; rows whose number is in `sampled` are decoded and tokenized."""
    size = part.stop - part.first
    survey = Survey(listed=Counter({part.split: size}), scores=[np.full(size, np.nan, np.float32)])
    survey.hashes = {name: [np.zeros(size, np.int64)] for name in hashed_fields(rows)}
    texts: dict[str, list[str]] = {name: [] for name in rows.text_fields}
    for number, record in readable(rows, part, survey):
        survey.rows[part.split] += 1
        count_row(survey, record, rows, number, number - part.first)
        if number in sampled:
            survey.sampled += 1
            survey.images += [image_facts(number, name, encoded) for name, encoded in record.images.items()]
            for name, kept in texts.items():
                kept += [text] if (text := text_of(record, name)) else []
    if missing := size - survey.rows[part.split]:
        survey.unreadable[part.shard.file] = missing
    if tokenizer:
        survey.tokens = {name: count_tokens(kept, tokenizer) for name, kept in texts.items() if kept}
    return survey


def readable(rows: Rows, part: Part, survey: Survey) -> Iterator[tuple[int, Record]]:
    """The rows of a part that can be read, with their numbers; what is wrong with the others goes into `survey`."""
    reader, failures = rows.reader_of(part), 0
    problem = reader.problem_of(part.shard)
    if problem:
        survey.damaged[part.shard.file] = problem
    rows.read_ahead(part)
    for number in range(part.first, part.stop):
        record = rows[number]
        if isinstance(record, Record):
            failures = 0
            yield number, record
            continue
        if not problem:  # which says it all
            survey.examples = [*survey.examples, record][:SHOWN]
        failures += record.is_out_of_reach
        if failures == HOPELESS:
            return


def hashed_fields(rows: Rows) -> list[str]:
    """The fields whose equal values are counted."""
    return [ITEM_ID, *rows.hash_fields, *(name for name in ("title", "query") if name in rows.text_fields)]


def count_row(survey: Survey, record: Record, rows: Rows, number: int, place: int) -> None:
    """Count one row, the one at `place` in its part."""
    for name in survey.hashes:
        if value := text_of(record, name):
            survey.hashes[name][0][place] = hash64(value)
    for name in rows.text_fields:
        length = min(len(text_of(record, name)), LONGEST_TEXT)
        survey.filled[name] += length > 0
        counts = survey.lengths.setdefault(name, np.zeros(LONGEST_TEXT + 1, np.int64))
        counts[length] += 1
        survey.longest[name] = the_longest([*survey.longest.get(name, []), (length, number)])
    survey.filled.update(name for name in rows.image_fields if record.images.get(name))
    score = usable_score(record.fields.get(SCORE))
    if score is not None:
        survey.scores[0][place] = score
    elif record.fields.get(SCORE) is not None:
        survey.bad_scores += 1


def image_facts(number: int, name: str, encoded: bytes) -> ImageFacts:
    """Size and hashes of an image, or why it cannot be decoded as training would."""
    try:
        look = perceptual_hash(encoded)
        with Image.open(io.BytesIO(encoded), formats=IMAGE_FORMATS) as image:
            width, height = image.size
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        return ImageFacts(number, name, len(encoded), problem=first_words(error))
    return ImageFacts(number, name, len(encoded), width, height, hash64(bytes_hash(encoded)), hash64(look))


def first_words(error: Exception) -> str:
    """An error on one line, without the address in memory at which Pillow found no image."""
    return " ".join(MEMORY.sub("", str(error)).split())[:200] or type(error).__name__

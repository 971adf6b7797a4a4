"""Values that several rows share: copies of an image, titles that occur twice, and what leaks between splits."""

from dataclasses import dataclass, replace

import numpy as np

from gcl.data.record import IMAGE_HASH
from gcl.doctor.rows import Rows, Unreadable, text_of
from gcl.doctor.survey import ImageFacts, Survey

TITLE, QUERY = "title", "query"
SAME_BYTES, SAME_PICTURE = "same bytes", "same picture"
GROUPS, MEMBERS = 8, 4  # shown of each kind
BYTES_DIGITS, LOOK_DIGITS = 16, 64  # of the hashes that gcl prepare writes


@dataclass(frozen=True)
class Group:
    """Rows with one value."""

    size: int
    numbers: list[int]  # the first of them


@dataclass(frozen=True)
class Repeats:
    """How often the values of one kind repeat."""

    what: str  # "title", "image: same bytes", "image: same picture"
    field: str  # whose values they are, as `same` of a pair names them; nothing where no field has them
    looked_at: int  # values
    is_sample: bool  # of the sampled rows alone: a copy is seen only where both are in the sample
    copies: int  # values that are not the first of their group
    groups: int
    largest: list[Group]
    leaked: int  # values outside the training split that it has too

    @property
    def image(self) -> str:
        """The image field; nothing where it is a text."""
        return self.what.rpartition(": ")[0]

    @property
    def is_by_bytes(self) -> bool:
        return self.what.endswith(f": {SAME_BYTES}")

    @property
    def hash_field(self) -> str:
        """The field in which gcl prepare writes the image's hash."""
        return f"{self.image}{IMAGE_HASH}"

    @property
    def share(self) -> float:
        return self.copies / self.looked_at if self.looked_at else 0.0


def find_repeats(survey: Survey, rows: Rows) -> list[Repeats]:
    """Of images by bytes and by look: of all rows where they bring that hash, of the sample where not; of titles.

    A query that several products answer is no defect: of queries it counts which are in train too.
    """
    training = training_rows(rows)
    found = []
    for name in rows.image_fields:
        for what, digits in ((SAME_BYTES, BYTES_DIGITS), (SAME_PICTURE, LOOK_DIGITS)):
            field = f"{name}{IMAGE_HASH}"
            label = f"{name}: {what}"
            if digits == digits_of_hash(rows, field, survey):
                found.append(repeats_of(label, field, survey.values(field), None, training))
            else:
                images = [image for image in survey.images if image.field == name and not image.problem]
                found.append(sampled_repeats(label, images, digits, training, survey.is_whole))
    if TITLE in survey.hashes:
        found.append(repeats_of(TITLE, TITLE, survey.values(TITLE), None, training))
    if QUERY in survey.hashes:
        queries = repeats_of(QUERY, QUERY, survey.values(QUERY), None, training)
        found.append(replace(queries, copies=0, groups=0, largest=[]))
    return found


def training_rows(rows: Rows) -> range:
    """The numbers of the rows that are trained on, where others are looked at too."""
    if "train" not in rows.splits or len(rows.splits) == 1:
        return range(0)
    place = rows.splits.index("train")
    return range(int(rows.starts[place]), int(rows.starts[place + 1]))


def digits_of_hash(rows: Rows, field: str, survey: Survey) -> int:
    """By its length one can tell which hash the rows bring; 0 where they bring none."""
    if field not in survey.hashes:
        return 0
    for number in np.flatnonzero(survey.values(field))[:1].tolist():
        record = rows[number]
        return 0 if isinstance(record, Unreadable) else len(text_of(record, field))
    return 0


def sampled_repeats(what: str, images: list[ImageFacts], digits: int, training: range, is_whole: bool) -> Repeats:
    values = [image.bytes_hash if digits == BYTES_DIGITS else image.look_hash for image in images]
    numbers = np.array([image.number for image in images], np.int64)
    return repeats_of(what, "", np.array(values, np.int64), numbers, training, is_sample=not is_whole)


def repeats_of(
    what: str, field: str, values: np.ndarray, numbers: np.ndarray | None, training: range, is_sample: bool = False
) -> Repeats:
    """Count values that occur more than once.

    Args:
        values: (n,) int64 hashes; 0 stands for none.
        numbers: (n,) their rows; None: one value for each row.
        training: the rows of the training split.
    """
    numbers = np.arange(len(values)) if numbers is None else numbers
    there = values != 0
    values, numbers = values[there], numbers[there]
    order = np.argsort(values, kind="stable")
    values, numbers = values[order], numbers[order]
    starts = np.flatnonzero(np.diff(values, prepend=values[:1] - 1)) if len(values) else np.zeros(0, np.int64)
    sizes = np.diff(starts, append=len(values))
    several = np.flatnonzero(sizes > 1)
    # The largest groups first, of equals the one that begins first.
    first = several[np.lexsort((numbers[starts[several]], -sizes[several]))][:GROUPS]
    largest = [Group(int(sizes[i]), numbers[starts[i] : starts[i] + min(sizes[i], MEMBERS)].tolist()) for i in first]
    in_training = (numbers >= training.start) & (numbers < training.stop)
    leaked = int(np.isin(values[~in_training], values[in_training]).sum()) if len(training) else 0
    return Repeats(what, field, len(values), is_sample, int((sizes - 1).sum()), len(several), largest, leaked)

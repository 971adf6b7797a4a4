"""What to do about what was found, what matters most first."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from gcl.doctor.examination import Examination
from gcl.doctor.repeats import TITLE, Repeats

# What outweighs what, whatever the share of rows.
LOST, WRONG, HARMFUL, SLOW, NOTE = 5.0, 4.0, 3.0, 2.0, 0.0
FEW = 0.01  # share of rows below which a finding is not worth a line
NAMED = 5  # fields
MOSTLY = 0.9  # share of the images that look the same from which equal files are taken to be the matter
LARGE = 3  # times the model's image size: decoding costs more than what is shown of it is worth


@dataclass(frozen=True)
class Advice:
    """One line of what to do."""

    weight: float  # how much it matters: its kind, then the share of rows
    finding: str
    remedy: str

    @property
    def is_serious(self) -> bool:
        return self.weight >= HARMFUL


def advice_on(examination: Examination) -> list[Advice]:
    """What to do, most important first."""
    advice = [
        *on_unreadable(examination),
        *on_bad_images(examination),
        *on_leaks(examination),
        *on_cut_texts(examination),
        *on_copies(examination),
        *on_missing_fields(examination),
        *on_scores(examination),
        *on_image_sizes(examination),
        *on_throughput(examination),
        *on_model(examination),
    ]
    return sorted(advice, key=lambda item: -item.weight)


def on_unreadable(examination: Examination) -> list[Advice]:
    survey = examination.survey
    listed, lost = survey.listed.total(), survey.unreadable.total()
    if not lost and not survey.damaged:
        return []
    shards = dict.fromkeys([*survey.damaged, *survey.unreadable])
    named = ", ".join(list(shards)[:3]) + (f" and {len(shards) - 3} more" if len(shards) > 3 else "")
    finding = f"{amount(lost, listed, 'rows')} cannot be read, in {named}"
    return [
        Advice(LOST + lost / listed, finding, "a run stops there: copy these shards again, or run gcl prepare again")
    ]


def on_bad_images(examination: Examination) -> list[Advice]:
    bad, all_images = len(examination.bad_images), len(examination.survey.images)
    if not bad:
        return []
    finding = f"{amount(bad, all_images, f'images{of_sample(examination)}')} cannot be decoded"
    remedy = "training leaves them out and counts them; gcl prepare refuses such rows"
    return [Advice(WRONG + bad / all_images, finding, remedy)]


def on_leaks(examination: Examination) -> list[Advice]:
    """Rows outside the training split with an image of it, once for each image field."""
    outside = sum(count for split, count in examination.survey.rows.items() if split != "train")
    found = []
    for repeats in telling(examination.repeats, lambda repeats: repeats.leaked):
        if repeats.what != TITLE and outside:
            rows = amount(repeats.leaked, outside, "rows outside train")
            finding = f"{rows} have {same_value(repeats)} as a row in train"
            remedy = f"evaluation on them flatters: prepare with split.by={repeats.hash_field}{by_look(repeats)}"
            weight = HARMFUL if repeats.leaked >= FEW * outside else 1.0
            found.append(Advice(weight + repeats.leaked / outside, finding + in_sample(repeats), remedy))
    return found


def on_copies(examination: Examination) -> list[Advice]:
    """Rows with an image or a title that another one has, once for each field."""
    found = []
    for repeats in telling(examination.repeats, lambda repeats: repeats.copies):
        finding = f"{amount(repeats.copies, repeats.looked_at, 'rows')} have {same_value(repeats)} as an earlier one"
        if repeats.what == TITLE:
            remedy = "no matter where a pair has the title on a side: equal titles are not each other's negatives"
            found.append(Advice(NOTE + repeats.share, finding, remedy))
            continue
        same = f"tell pairs that these are not each other's negatives: same: [item_id, title, {repeats.hash_field}]"
        remedy = same if repeats.field else f"prepare again{by_look(repeats)}, and {same}"
        weight = SLOW if repeats.share >= FEW else 1.0
        found.append(Advice(weight + repeats.share, finding + in_sample(repeats), remedy))
    return found


def telling(repeats: list[Repeats], count_of: Callable[[Repeats], int]) -> list[Repeats]:
    """One for each field, where it counts something: equal files, unless many more only look the same."""
    chosen: dict[str, Repeats] = {}
    for one in repeats:  # a field's equal files come before what looks the same
        before = chosen.get(one.hash_field)
        if before is None or count_of(before) < MOSTLY * count_of(one):
            chosen[one.hash_field] = one
    return [one for one in chosen.values() if count_of(one)]


def on_cut_texts(examination: Examination) -> list[Advice]:
    found = []
    for column in sorted(examination.columns, key=lambda column: -(column.cut or 0))[:NAMED]:
        if column.cut:
            finding = (
                f"{share(column.cut)} of the texts in {column.name}{of_sample(examination)} are longer than "
                f"{examination.context} tokens"
            )
            remedy = (
                "their ends are not read: put what matters first, shorten them, or take a model with a longer context"
            )
            found.append(Advice((SLOW if column.cut >= FEW else NOTE) + column.cut, finding, remedy))
    return found


def on_missing_fields(examination: Examination) -> list[Advice]:
    """One line for all fields that rows lack, the emptiest first."""
    gaps = sorted((1 - column.share, column.name) for column in examination.columns if 1 - column.share >= FEW)[::-1]
    if not gaps or not examination.survey.total_rows:
        return []
    finding = "rows lack fields: " + ", ".join(f"{share(gap)} have no {name}" for gap, name in gaps[:NAMED])
    finding += f", and {len(gaps) - NAMED} more" if len(gaps) > NAMED else ""
    return [Advice(1.0 + gaps[0][0] / 2, finding, "a pair with such a field alone on a side leaves these rows out")]


def on_scores(examination: Examination) -> list[Advice]:
    survey, scores = examination.survey, examination.scores
    missing = survey.total_rows - len(scores)
    if not len(scores):
        return [Advice(NOTE, "no row has a score", "train with weighting=constant, the default")]
    found = []
    if missing:
        bad = f" ({survey.bad_scores:,} of them one that is no number from 0 up)" if survey.bad_scores else ""
        finding = f"{amount(missing, survey.total_rows, 'rows')} have no score{bad}"
        remedy = "give them one with data.default_score=NUMBER, or train with weighting=constant"
        found.append(Advice(SLOW + missing / survey.total_rows, finding, remedy))
    if scores.min() == scores.max():
        finding = f"every score is {scores.max():g}"
        return [*found, Advice(1.0, finding, "they tell no pairs apart: train with weighting=constant, the default")]
    finding = f"scores go from {scores.min():g} to {scores.max():g}"
    remedy = f"they are read with weighting=linear weighting.max_score={scores.max():g}, or another weighting"
    return [*found, Advice(NOTE, finding, remedy)]


def on_image_sizes(examination: Examination) -> list[Advice]:
    sides = np.array([min(image.width, image.height) for image in examination.good_images])
    size = examination.demands.image.size
    if not len(sides) or examination.context is None:
        return []
    found = []
    small = float((sides < size).mean())
    if small >= FEW:
        finding = f"{share(small)} of the images{of_sample(examination)} are smaller than the model's {size} pixels"
        found.append(Advice(1.0 + small / 2, finding, "they are scaled up: look for larger originals"))
    large = float((sides > LARGE * size).mean())
    if large >= 0.5:
        which = f"{share(large)} of the images{of_sample(examination)}"
        finding = f"{which} are more than {LARGE} times the model's {size} pixels"
        remedy = f"prepare with images.short_side={2 * size}: smaller shards, faster workers"
        found.append(Advice(1.0 + large / 2, finding, remedy))
    return found


def on_throughput(examination: Examination) -> list[Advice]:
    speed = examination.throughput
    if speed is None:
        return []
    finding = (
        f"{speed.workers} worker{'s are' if speed.workers > 1 else ' is'} needed for {speed.planned:,.0f} samples per "
        f"second (one does {speed.samples_per_second:,.0f}); this machine has {speed.cores} cores"
    )
    if speed.workers <= speed.cores:
        return [Advice(NOTE + 0.5, finding, f"data.workers={speed.workers}, divided by the processes of a run")]
    remedy = "plan for more cores, smaller images, or fewer samples per second (samples_per_second=NUMBER)"
    return [Advice(SLOW + 0.5, finding, remedy)]


def on_model(examination: Examination) -> list[Advice]:
    if examination.context is not None:
        return []
    finding = "text lengths were not compared with a context length"
    return [Advice(NOTE, finding, "name the model that is to be trained: model=vit_b_16_siglip")]


def same_value(repeats: Repeats) -> str:
    """What rows share, in words."""
    if repeats.what == TITLE:
        return "the same title"
    return f"the same {repeats.image} file" if repeats.is_by_bytes else f"the same picture in {repeats.image}"


def by_look(repeats: Repeats) -> str:
    """The setting that makes gcl prepare write this hash, where it is not the default."""
    return "" if repeats.is_by_bytes or repeats.field else " image_hash=perceptual"


def in_sample(repeats: Repeats) -> str:
    return " (in the sample alone; among all rows there are more)" if repeats.is_sample else ""


def of_sample(examination: Examination) -> str:
    return "" if examination.survey.is_whole else " of the sample"


def amount(part: int, whole: int, what: str) -> str:
    return f"{part:,} of {whole:,} {what} ({share(part / whole)})"


def share(value: float) -> str:
    """A share in percent; 0% and 100% only where that is exact."""
    if 0 < value < 0.001:
        return "under 0.1%"
    if 0.99 < value < 1:
        return f"{min(value, 0.999):.1%}"
    return f"{value:.1%}" if 0 < value < 0.1 else f"{value:.0%}"

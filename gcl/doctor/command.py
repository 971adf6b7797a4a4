"""`gcl doctor`: looks at shards before a GPU is rented.

gcl doctor data.path=shards/mine model=vit_b_16_siglip output_dir=doctor/mine

Every row's text is looked at; images are decoded and texts tokenized of a sample. What is wrong with rows is a finding:
the exit status is 0 whenever the shards could be looked at.
"""

import os
from dataclasses import dataclass, field
from pathlib import Path

from gcl.config import load_settings
from gcl.data.augment import Augmentation
from gcl.doctor.advice import advice_on
from gcl.doctor.examination import Examination
from gcl.doctor.model import demands_of
from gcl.doctor.repeats import find_repeats
from gcl.doctor.report import write_report
from gcl.doctor.rows import Rows
from gcl.doctor.summary import print_summary
from gcl.doctor.survey import survey_rows
from gcl.doctor.throughput import measure_throughput
from gcl.errors import UserError
from gcl.parts import Part, build_as
from gcl.progress import progress_bar


@dataclass
class ExaminedData:
    """The rows that are looked at."""

    path: str  # folder written by gcl prepare, or its address: s3://, gs://, hf://, https://
    split: str | None = None  # one of its splits; null: all
    augmentation: Augmentation = field(default_factory=Augmentation)  # of training images, as a run will have it


@dataclass
class DoctorSettings:
    """Look at shards before a GPU is rented: what is in them, what is wrong, and how fast they are read."""

    data: ExaminedData  # the rows that are looked at
    output_dir: str | None = None  # folder for report.html, a page with pictures; null: only printed
    model: Part | None = None  # whose tokenizer, context length and image size count; null: lengths in characters only
    sample_size: int = 10_000  # rows whose images are decoded and whose texts are tokenized
    samples_per_second: float = 1000.0  # planned: train.batch_size / seconds of a step; the workers for it are counted
    workers: int | None = None  # processes that look; null: one for each core
    seed: int = 0  # of the sample

    def __post_init__(self) -> None:
        for name in ("sample_size", "samples_per_second", "workers"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise UserError(f"{name}={value} must be above 0")
        if self.seed < 0:
            raise UserError(f"seed={self.seed} must be 0 or more")


def main(arguments: list[str]) -> None:
    # Workers are forked; a thread pool of the tokenizer's would not survive that, and would print a warning.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    chosen = load_settings("doctor", DoctorSettings, arguments)
    settings: DoctorSettings = build_as(DoctorSettings, {**chosen, "model": None})
    rows = Rows(settings.data.path, settings.data.split)
    demands = demands_of(chosen["model"])
    workers = settings.workers or len(os.sched_getaffinity(0))
    with progress_bar(is_shown=True) as progress:
        survey = survey_rows(rows, demands.tokenizer, settings.sample_size, settings.seed, workers, progress)
    throughput = measure_throughput(
        rows, demands, settings.data.augmentation, settings.samples_per_second, settings.seed
    )
    examination = Examination(rows, demands, survey, find_repeats(survey, rows), throughput)
    advice = advice_on(examination)
    page = None
    if settings.output_dir:
        page = write_report(Path(settings.output_dir).expanduser(), examination, advice, settings.seed)
    print_summary(examination, advice, page)

"""The page of an examination: report.html, with pictures of what was found; it needs no network."""

from pathlib import Path

import numpy as np

from gcl.doctor.advice import Advice, share
from gcl.doctor.album import Album
from gcl.doctor.examination import Examination
from gcl.doctor.histogram import Histogram, histogram_of
from gcl.page import write_page

REPORT = "report.html"
TEXTS = ("title", "query")  # whose lengths are drawn; of other fields the table tells


def write_report(folder: Path, examination: Examination, advice: list[Advice], seed: int) -> Path:
    """Write folder/report.html."""
    album = Album(examination)
    folder.mkdir(parents=True, exist_ok=True)
    write_page(
        folder / REPORT,
        Path(__file__).with_name(REPORT),
        name=examination.rows.folder,
        facts=facts_of(examination),
        advice=advice,
        found=examination,
        survey=examination.survey,
        share=share,
        charts=[chart for chart in histograms_of(examination) if chart.total],
        bad=album.bad(),
        repeats=album.repeats(),
        smallest=album.smallest(),
        longest=album.longest(),
        random=album.random(seed),
    )
    return folder / REPORT


def facts_of(examination: Examination) -> dict[str, str]:
    """What the head of the page says."""
    readers, speed = examination.rows.readers, examination.throughput
    shards = [shard for reader in readers for shard in reader.shards]
    facts = {
        "rows": f"{examination.survey.total_rows:,}",
        **{what: f"{count:,}" for what, count in examination.distinct.items()},
        "shards": f"{len(shards):,}",
        "size": f"{sum(shard.bytes for shard in shards) / 1e6:,.1f} MB",
        "images and tokens": f"of {examination.sample}",
    }
    if examination.context:
        image = examination.demands.image
        facts["model"] = f"{examination.demands.name}, {image.size} pixels, {examination.context} tokens"
    if speed:
        facts["one worker"] = f"{speed.samples_per_second:,.0f} samples per second"
        facts["workers"] = f"{speed.workers:,} for {speed.planned:,.0f} per second; {speed.cores} cores here"
    return facts


def histograms_of(examination: Examination) -> list[Histogram]:
    """Lengths, image sizes and scores; one without values is not drawn."""
    charts, context = [], examination.context
    for name in TEXTS:
        counts = examination.survey.tokens.get(name)
        if counts and context:
            lengths, title, unit = counts.lengths, f"Tokens of {name}", f"tokens, of {examination.sample}"
        else:
            lengths = examination.survey.lengths.get(name, np.zeros(1, np.int64))
            title, unit = f"Length of {name}", "characters"
        there = np.concatenate([[0], lengths[1:]])
        charts.append(Histogram(title, unit, np.arange(len(there)), there, context, f"read: {context}"))
    good, size = examination.good_images, examination.demands.image.size
    sides = np.array([min(image.width, image.height) for image in good])
    mark = size if context else None
    charts.append(histogram_of("Image size", "pixels of the shorter side", sides, mark, f"model: {size}"))
    charts.append(histogram_of("Image files", "kilobytes", np.array([image.bytes / 1000 for image in good])))
    charts.append(histogram_of("Scores", "score", examination.scores.astype(np.float64)))
    return charts

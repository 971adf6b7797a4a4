"""The page of a run: it stands alone, shows the start beside the result, and says plainly what got worse."""

import base64
import io
import json
import math
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageDraw

from gcl.data.record import Record
from gcl.retrieval.pages.charts import BUCKETS, LEFT, Chart, Series, svg_from_chart, thinned
from gcl.retrieval.pages.gallery import thumbnail
from gcl.retrieval.pages.report import Comparison, load_log, write_report
from gcl.retrieval.result import PER_QUERY, SHOWN

COLOURS = ["crimson", "teal", "goldenrod", "slateblue", "seagreen", "sienna", "black", "orchid"]
SHAPES = ["mug", "vase", "plate", "lamp"]
HOSTILE = "</title><script>alert(1)</script><img src=https://example.com/x.png onerror=alert(2)> \"quoted\" & 'so'"
CORPUS = 160
QUERIES = 12
START = {"ndcg@10": 0.031, "recall@10": 0.054, "mrr": 0.029, "map": 0.028, "precision@10": 0.0061}
END = {"ndcg@10": 0.742, "recall@10": 0.913, "mrr": 0.688, "map": 0.679, "precision@10": 0.0913}

Rows = Callable[[int], Record]


@pytest.fixture(scope="module")
def rows() -> Rows:
    """An evaluation corpus of drawn products; row 3 has a hostile title, row 5 a broken picture, row 6 none."""
    records = [drawn_product(number) for number in range(CORPUS)]
    records[3].fields["title"] = HOSTILE
    records[5].images["image"] = b"\xff\xd8 not a picture"
    records[6].images.clear()
    return records.__getitem__


def drawn_product(number: int) -> Record:
    colour, shape = COLOURS[number % len(COLOURS)], SHAPES[number // len(COLOURS) % len(SHAPES)]
    image = Image.effect_noise((320, 240), 30).convert("RGB").point(lambda level: 160 + level // 3)
    box = (60 + number % 40, 40, 240, 200 - number % 30)
    draw = ImageDraw.Draw(image)
    match shape:
        case "mug":
            draw.rectangle(box, colour)
        case "vase":
            draw.ellipse(box, colour)
        case "plate":
            draw.rounded_rectangle(box, 30, colour)
        case _:
            draw.chord(box, 180, 360, colour)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=90)
    return Record({"item_id": f"P{number:05d}", "title": f"{colour} {shape} no. {number}"}, {"image": file.getvalue()})


def write_json(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def write_evaluation(run: Path, step: int, task: str, metrics: dict[str, float | None], relevant: int) -> None:
    """Metrics and examples as the evaluator leaves them; the higher ndcg@10, the more of the first ten are relevant."""
    folder = run / "evaluation" / f"step_{step:08d}" / task
    write_json(folder / "metrics.json", {**metrics, "queries": 910, "corpus": CORPUS, "by_cutoff": {"ndcg@1": 0.5}})
    random = np.random.default_rng([step, relevant])
    examples = []
    for query in range(QUERIES):
        wanted = [(query + CORPUS // relevant * i) % CORPUS for i in range(relevant)]
        ranking = [int(row) for row in random.permutation(CORPUS)[:10]]
        if random.random() < (metrics["ndcg@10"] or 0):
            place = int(random.integers(3))
            ranking[place : place + len(wanted)] = wanted
        scores = np.linspace(0.42, 0.18, 10)
        retrieved = [{"row": row, "score": float(score)} for row, score in zip(ranking[:10], scores, strict=True)]
        examples.append({"query": query_text(query), "relevant": wanted, "retrieved": retrieved})
    write_examples(folder, examples)


def write_examples(folder: Path, examples: list[dict[str, Any]]) -> None:
    """A table with what the report takes of it."""
    columns = {
        "query": [example["query"] for example in examples],
        "relevant": [len(example["relevant"]) for example in examples],
        "relevant_rows": [example["relevant"][:SHOWN] for example in examples],
        "first_relevant": [first_relevant(example) for example in examples],
        "retrieved_grades": [
            [float(hit["row"] in example["relevant"]) for hit in example["retrieved"]] for example in examples
        ],
        "retrieved_rows": [[hit["row"] for hit in example["retrieved"]] for example in examples],
        "retrieved_scores": [[hit["score"] for hit in example["retrieved"]] for example in examples],
    }
    pq.write_table(pa.table(columns), folder / PER_QUERY)


def first_relevant(example: dict[str, Any]) -> int:
    ranks = [rank for rank, hit in enumerate(example["retrieved"], start=1) if hit["row"] in example["relevant"]]
    return min(ranks, default=0)


def query_text(query: int) -> str:
    return HOSTILE if query == 3 else f"{COLOURS[query % 8]} {SHAPES[query // 8]}, hand made & glazed, no. {query}"


def write_log(run: Path, steps: range) -> None:
    random = np.random.default_rng(0)
    with (run / "metrics.jsonl").open("w") as file:
        for step in steps:
            share = step / 800
            logged = {
                "step": step,
                "samples_seen": step * 128,
                "epoch": step / 65,
                "loss": 1.1 + 3.6 * math.exp(-4 * share) + random.normal(0, 0.06),
                "lr": 2e-4 * min(step / 40, 0.5 + 0.5 * math.cos(math.pi * share)),
                "logit_scale": 10 + 4 * share,
                "logit_bias": -10 - share + random.normal(0, 0.01),
                "grad_norm": 2.5 * math.exp(-2 * share) + abs(random.normal(0, 0.15)),
                "samples_per_second": 118 + random.normal(0, 4),
            }
            file.write(json.dumps(logged) + "\n")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A finished run of 800 steps, evaluated every 200."""
    folder = tmp_path / "fashion-b16"
    folder.mkdir()
    (folder / "config.yaml").write_text(
        "model: {architecture: ViT-B-16-SigLIP}\nloss: {_target_: gcl.losses.sigmoid.SigmoidLoss}\n"
        "optim: {lr: 0.0002}\ntrain: {max_steps: 800, batch_size: 128}\nseed: 17\nnote: <b>bold</b>\n"
    )
    write_json(
        folder / "environment.json",
        {
            "versions": {"torch": "2.15.0"},
            "commit": "83b2dd7",
            "processes": 4,
            "devices": ["NVIDIA H100"] * 4,
            "command": "accelerate launch train.py experiment=fashion",
        },
    )
    write_log(folder, range(10, 801, 10))
    for step in range(0, 801, 200):
        share = (step / 800) ** 0.4
        metrics: dict[str, float | None] = {name: START[name] + share * (END[name] - START[name]) for name in START}
        write_evaluation(folder, step, "title2image", metrics, relevant=1)
        worse: dict[str, float | None] = {"ndcg@10": 0.412 - 0.05 * share, "recall@10": 0.08, "mrr": 0.55 + share / 10}
        write_evaluation(folder, step, "category2image", worse, relevant=4)
        losses = {"loss": 4.6 - 3 * share, "rows": 910}
        write_json(folder / f"evaluation/step_{step:08d}/validation_loss/metrics.json", losses)
    return folder


class Page(HTMLParser):
    """A parsed page: its tags with their attributes, and its text without the style sheet."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self._words: list[str] = []
        self.feed(self.source)
        self.text = re.sub(r"\s+", " ", " ".join(self._words))

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1][0] != "style":
            self._words.append(data)

    def attributes(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def test_page_needs_no_network_and_runs_no_script(run: Path, rows: Rows) -> None:
    page = Page(write_report(run, rows))
    assert not page.attributes("script")
    for tag, attributes in page.tags:
        for name, value in attributes.items():
            if name in ("src", "href", "xlink:href", "srcset", "action", "poster"):
                assert (value or "").startswith("data:"), (tag, name, value)
            assert not name.startswith("on"), (tag, name)
    style = page.source.split("<style>")[1].split("</style>")[0]
    assert "url(" not in style and "@import" not in style
    assert "default-src 'none'" in page.source  # the browser enforces it too
    assert (run / "report.html").stat().st_size < 3_000_000


def test_text_from_data_is_escaped(run: Path, rows: Rows) -> None:
    page = Page(write_report(run, rows))
    assert "<script" not in page.source.lower()
    assert HOSTILE in page.text  # it is read as the text it is
    assert any(attributes.get("title") == HOSTILE for attributes in page.attributes("img"))
    assert "<b>bold</b>" not in page.source and "note: <b>bold</b>" in page.text


def test_start_and_end_stand_side_by_side(run: Path, rows: Rows) -> None:
    page = Page(write_report(run, rows))
    assert "ndcg@10 of title2image: 0.031 at the start, 0.742 at step 800" in page.text
    assert "ndcg@10 0.0310 0.7420 +0.7110" in page.text
    assert "loss 4.6000 1.6000 −3.0000 ▲ better" in page.text
    assert "model ViT-B-16-SigLIP" in page.text and "4 × NVIDIA H100" in page.text


def test_what_got_worse_is_plainly_said(run: Path, rows: Rows) -> None:
    page = Page(write_report(run, rows))
    assert [a for a in page.attributes("section") if a.get("role") == "alert"]
    assert "▼ Worse than the start ndcg@10 of category2image: 0.4120 at the start, 0.3620 at step 800" in page.text
    assert "ndcg@10 0.4120 0.3620 −0.0500 ▼ worse than the start" in page.text
    assert "(best at the start)" in page.text


@pytest.mark.parametrize(
    ("name", "start", "end", "verdict"),
    [
        ("mrr", 0.5, 0.4999, "worse"),
        ("mrr", 0.5, 0.50001, "same"),
        ("mrr", 0.5, 0.6, "better"),
        ("loss", 1.0, 1.1, "worse"),
        ("loss", 1.0, 0.9, "better"),
        ("loss", 1.0, math.nan, "worse"),
        ("mrr", math.nan, 0.1, "better"),
        ("loss", 2.0, math.inf, "worse"),
        ("mrr", None, 0.1, ""),
        ("mrr", 0.1, None, ""),
    ],
)
def test_verdict(name: str, start: float | None, end: float | None, verdict: str) -> None:
    assert Comparison(name, start, end).verdict == verdict


def test_each_query_shows_the_pictures_of_the_start_and_of_the_tuned_model(run: Path, rows: Rows) -> None:
    page = Page(write_report(run, rows))
    assert page.text.count("start first relevant") + page.text.count("start no relevant") == 2 * QUERIES
    assert page.text.count("step 800 first relevant") + page.text.count("step 800 no relevant") == 2 * QUERIES
    pictures = page.attributes("img")
    # 2 tasks, 2 models, 5 places, and one relevant product beside each query; a few rows have no picture.
    assert 2 * QUERIES * 9 < len(pictures) <= 2 * QUERIES * 11
    assert re.search(r"first 5 for \d of 12 queries at the start, and \d+ of 12 queries at step 800\.", page.text)
    assert all(attributes.get("alt") for attributes in pictures)
    hits = [attributes for attributes in page.attributes("li") if attributes.get("class") == "hit"]
    assert len(hits) == page.text.count("✓") - 2 > 0  # each task explains the mark once


def test_product_without_a_readable_picture_keeps_its_place(run: Path, rows: Rows) -> None:
    examples = [{"query": "q", "relevant": [5], "retrieved": [{"row": row, "score": 0.1} for row in (5, 6, 7)]}]
    write_examples(run / "evaluation/step_00000800/title2image", examples)
    page = Page(write_report(run, rows))
    assert [a["title"] for a in page.attributes("span") if a.get("class") == "blank"][:3] == [
        "a relevant product: sienna mug no. 5",
        "sienna mug no. 5",
        "black mug no. 6",
    ]


def test_a_query_with_more_relevant_products_than_are_kept_is_marked_in_full(run: Path, rows: Rows) -> None:
    relevant = list(range(15))
    retrieved = [{"row": row, "score": 0.5} for row in reversed(relevant)][:10]  # none of the first ten in file order
    write_examples(
        run / "evaluation/step_00000800/title2image", [{"query": "q", "relevant": relevant, "retrieved": retrieved}]
    )
    page = Page(write_report(run, rows))
    assert "15 relevant products" in page.text and "first relevant at rank 1" in page.text
    hits = [attributes for attributes in page.attributes("li") if attributes.get("class") == "hit"]
    assert len(hits) >= 5


def test_thumbnail_is_small_on_white_and_upright() -> None:
    transparent, turned = io.BytesIO(), io.BytesIO()
    Image.new("RGBA", (600, 300), (0, 0, 0, 0)).save(transparent, "PNG")
    exif = Image.Exif()
    exif[0x0112] = 6  # taken with the camera on its side
    Image.new("RGB", (600, 300), "teal").save(turned, "JPEG", exif=exif)
    assert shown_thumbnail(transparent).size == (120, 60)
    assert shown_thumbnail(transparent).getpixel((5, 5)) == (255, 255, 255)
    assert shown_thumbnail(turned).size == (60, 120)


@pytest.mark.parametrize("kind", ["CMYK JPEG", "L JPEG", "P GIF", "LA PNG", "RGB WEBP"])
def test_thumbnail_is_made_of_any_kind_of_picture(kind: str) -> None:
    mode, form = kind.split()
    file = io.BytesIO()
    Image.new(mode, (300, 300)).save(file, form)
    assert shown_thumbnail(file).size == (120, 120)


def shown_thumbnail(file: io.BytesIO) -> Image.Image:
    uri = thumbnail(file.getvalue())
    assert uri is not None
    return Image.open(io.BytesIO(base64.b64decode(uri.removeprefix("data:image/jpeg;base64,"))))


def remove_all(run: Path) -> None:
    for path in sorted(run.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()


def test_empty_run_has_a_page(run: Path, rows: Rows) -> None:
    remove_all(run)
    page = Page(write_report(run, rows))
    assert "Nothing has been evaluated yet." in page.text and "Nothing has been logged yet." in page.text


def test_run_with_only_the_start_has_a_page(run: Path, rows: Rows) -> None:
    remove_all(run)
    write_evaluation(run, 0, "title2image", dict(START), relevant=1)
    page = Page(write_report(run, rows))
    assert "0.031 at the start; nothing later is evaluated yet" in page.text
    assert page.text.count("start first relevant") + page.text.count("start no relevant") == QUERIES
    assert "Worse" not in page.text and "No number is worse" not in page.text


def test_run_whose_start_was_not_evaluated_says_so(run: Path, rows: Rows) -> None:
    remove_all(run)
    write_evaluation(run, 200, "title2image", dict(END), relevant=1)
    assert "0.742 at step 200; the start was not evaluated" in Page(write_report(run, rows)).text


def test_one_logged_line_is_drawn_as_a_dot(run: Path, rows: Rows) -> None:
    remove_all(run)
    write_log(run, range(10, 11))
    page = Page(write_report(run, rows))
    assert len(page.attributes("circle")) == 6  # loss, learning rate, gradient norm, scale, bias, throughput
    assert "trained to step 10" in page.text


def test_numbers_that_are_not_finite_are_named(run: Path, rows: Rows) -> None:
    lines = (run / "metrics.jsonl").read_text().splitlines()
    lines[30] = json.dumps({**json.loads(lines[30]), "loss": math.nan, "grad_norm": math.inf})
    (run / "metrics.jsonl").write_text("\n".join(lines) + '\n{"step": 810, "lo')
    write_evaluation(run, 800, "title2image", {**END, "mrr": math.nan, "map": None}, relevant=1)
    page = Page(write_report(run, rows))
    assert "training: not finite at step 310" in page.text
    assert "mrr of title2image: 0.0290 at the start, not finite at step 800" in page.text
    assert "map of title2image: 0.0280 at the start, not finite at step 800" in page.text
    assert "1 line of metrics.jsonl could not be read" in page.text
    assert not re.search(r'points="[^"]*(nan|inf)', page.source)


def test_steps_logged_again_after_a_resume_count_once(run: Path) -> None:
    with (run / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": 400, "loss": 123.0}) + "\n")
    log, unreadable = load_log(run)
    assert [line["step"] for line in log] == list(range(10, 801, 10)) and unreadable == 0
    assert log[39] == {"step": 400, "loss": 123.0}


def test_chart_is_well_formed_and_says_its_curve_in_words() -> None:
    chart = Chart("A <chart>", [Series("loss & more", [(10, 4.0), (20, math.nan), (30, 1.5)])])
    svg = ElementTree.fromstring(str(svg_from_chart(chart)))
    assert svg.attrib["aria-label"] == "A <chart>: loss & more from 4 at step 10 to 1.5 at step 30"


def test_curve_of_a_long_run_is_thinned_without_losing_a_spike() -> None:
    points = [(step, 5000.0 if step == 31_337 else math.sin(step / 900)) for step in range(100_000)]
    thin = thinned(points)
    assert len(thin) <= 2 * BUCKETS and (31_337, 5000.0) in thin
    assert thin == sorted(thin)


@pytest.mark.parametrize("values", [[0.0], [3.0, 3.0], [-10.0, -10.0], [1e-9, 2e-9], [1e6, 2e7], [0.1, 0.1 + 1e-15]])
def test_any_range_has_distinct_tick_labels(values: list[float]) -> None:
    svg = ElementTree.fromstring(str(Chart("t", [Series("s", list(enumerate(values)))]).svg))
    labels = [text.text for text in svg.iter("text") if text.attrib["x"] == str(LEFT - 6)]
    assert len(labels) >= 2 and len(set(labels)) == len(labels)


def test_report_replaces_the_former_one_whole(run: Path, rows: Rows) -> None:
    path = write_report(run, rows)
    assert write_report(run, rows) == path == run / "report.html"
    assert not list(run.glob("*.tmp"))

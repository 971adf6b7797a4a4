"""`gcl doctor` counts exactly the defects that shards have, dies of none, and writes a page that stands alone."""

import io
import json
import os
import re
import subprocess
import sys
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from open_clip.tokenizer import HFTokenizer, SimpleTokenizer
from PIL import Image
from rich.progress import Progress

from gcl.cli import run_command, run_verb
from gcl.data.augment import Augmentation
from gcl.data.image_hash import with_image_hashes
from gcl.data.record import Record
from gcl.data.shard_writer import write_shards
from gcl.doctor.advice import advice_on
from gcl.doctor.examination import Examination
from gcl.doctor.histogram import Histogram, bins_of, histogram_of, svg_from_histogram
from gcl.doctor.model import NO_MODEL, Demands
from gcl.doctor.repeats import find_repeats, repeats_of
from gcl.doctor.report import write_report
from gcl.doctor.rows import Rows
from gcl.doctor.survey import Survey, survey_rows
from gcl.doctor.throughput import Throughput, measure_throughput
from gcl.doctor.tokens import count_tokens

CONTEXT = 16
TOKENIZER = SimpleTokenizer(context_length=CONTEXT)
DEMANDS = Demands("tiny", TOKENIZER, NO_MODEL.image)
HOSTILE = "</title><script>alert(1)</script><img src=https://example.com/x.png onerror=alert(2)> \"quoted\" & 'so'"
LONG = " ".join(["hand made"] * CONTEXT)
TRAIN, VALIDATION, PER_SHARD = 60, 20, 15


def photo(seed: int, file_format: str = "JPEG", size: tuple[int, int] = (48, 40)) -> bytes:
    """Coarse noise, so that pictures of two seeds differ in what the perceptual hash sees."""
    noise = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return encoded(Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC), file_format)


def encoded(image: Image.Image, file_format: str) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format)
    return buffer.getvalue()


def product(number: int) -> Record:
    fields = {"item_id": f"P{number:03d}", "title": f"product no. {number}", "score": 1.0 + number % 4, "colour": "red"}
    return Record(fields, {"image": photo(number)})


def defective_rows() -> dict[str, list[Record]]:
    """Sound rows with known defects put in, each in rows of its own."""
    rows = [product(number) for number in range(TRAIN + VALIDATION)]
    for number in range(0, 5):
        rows[number + 30].images["image"] = rows[number].images["image"]  # five equal files
    for number in range(5, 8):  # three equal pictures in another format
        rows[number + 30].images["image"] = encoded(Image.open(io.BytesIO(rows[number].images["image"])), "PNG")
    for number in (8, 9, 10):
        rows[number].images["image"] = rows[number].images["image"][:300]
    rows[11].images["image"] = b"<html>not found</html>"
    for number in range(12, 18):
        rows[number].fields["title"] = f"{number} {LONG}"
    rows[18].fields["title"] = rows[19].fields["title"]
    for number in range(20, 27):
        del rows[number].fields["score"]
    rows[27].fields["score"] = "high"
    for number in range(40, 50):
        rows[number].fields["colour"] = ""
    rows[50].images.clear()
    for number in (TRAIN, TRAIN + 1):  # two photos of train in validation
        rows[number].images["image"] = rows[number - 8].images["image"]
    return {"train": rows[:TRAIN], "validation": rows[TRAIN:]}


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    folder = tmp_path / "shards"
    write_shards(folder, defective_rows(), PER_SHARD, {"refused": {"missing image": 3, "empty title": 1}})
    return folder


def survey_of(folder: Path, sample_size: int = 10_000, workers: int = 1, split: str | None = None) -> Examination:
    rows = Rows(str(folder), split)
    survey = survey_rows(rows, TOKENIZER, sample_size, 0, workers, Progress(disable=True))
    return Examination(rows, DEMANDS, survey, find_repeats(survey, rows), Throughput(85.0, 1000.0, 2))


def findings(examination: Examination) -> str:
    return "\n".join(item.finding for item in advice_on(examination))


def test_defects_are_counted_exactly(shards: Path) -> None:
    examination = survey_of(shards)
    survey = examination.survey
    assert survey.rows == {"train": TRAIN, "validation": VALIDATION} and not survey.unreadable and survey.is_whole
    assert [image.number for image in examination.bad_images] == [8, 9, 10, 11]
    assert len(examination.good_images) == TRAIN + VALIDATION - 1 - 4
    copies = {repeats.what: (repeats.copies, repeats.leaked) for repeats in examination.repeats}
    assert copies == {"image: same bytes": (5 + 2, 2), "image: same picture": (5 + 3 + 2, 2), "title": (1, 0)}
    assert survey.tokens["title"].cut == 6 and survey.tokens["title"].texts == TRAIN + VALIDATION
    assert survey.tokens["colour"].cut == 0
    assert examination.distinct == {"products": TRAIN + VALIDATION}
    filled = {column.name: column.filled for column in examination.columns}
    assert filled == {"image": 79, "title": 80, "colour": 70}
    expected = [float(r.fields["score"]) for rows in defective_rows().values() for r in rows if is_number(r)]
    assert Counter(examination.scores.tolist()) == Counter(expected) and len(expected) == 72
    assert survey.bad_scores == 1
    assert Rows(str(shards), None).refused == {"missing image": 3, "empty title": 1}


def is_number(record: Record) -> bool:
    return isinstance(record.fields.get("score"), float)


def test_what_to_do_is_said_with_the_numbers_most_important_first(shards: Path) -> None:
    advice = advice_on(survey_of(shards))
    lines = [item.finding for item in advice]
    assert lines[0] == "4 of 79 images (5.1%) cannot be decoded"
    assert lines[1].startswith("2 of 20 rows outside train (10%) have the same image file as")
    text = "\n".join(lines)
    assert "12 workers are needed for 1,000 samples per second (one does 85); this machine has 2 cores" in text
    assert "7.5% of the texts in title are longer than 16 tokens" in text
    assert "8 of 80 rows (10%) have no score (1 of them one that is no number from 0 up)" in text
    assert "rows lack fields: 12% have no colour, 1.2% have no image" in text
    assert "10 of 75 rows (13%) have the same picture in image as an earlier one" in text
    assert [item.weight for item in advice] == sorted((item.weight for item in advice), reverse=True)


@pytest.mark.parametrize("workers", [2, 3])
def test_what_is_found_is_the_same_for_any_number_of_workers(shards: Path, workers: int) -> None:
    one, several = survey_of(shards, 30), survey_of(shards, 30, workers)
    assert comparable(one.survey) == comparable(several.survey)
    assert one.survey.sampled == 30 and one.repeats == several.repeats


def comparable(survey: Survey) -> str:
    """Everything in it, to the last number."""
    return json.dumps(vars(survey), default=lambda value: getattr(value, "tolist", lambda: vars(value))())


def test_figures_of_a_sample_are_called_so(shards: Path) -> None:
    examination = survey_of(shards, sample_size=40)
    assert examination.sample == "a sample of 40 rows"
    assert len(examination.survey.images) <= 40 and examination.survey.tokens["title"].texts == 40
    by_look = next(repeats for repeats in examination.repeats if repeats.what == "image: same picture")
    assert by_look.is_sample and by_look.looked_at <= 40
    assert "images of the sample (" in findings(examination)
    assert "as an earlier one (in the sample alone; among all rows there are more)" in findings(examination)


@pytest.mark.parametrize("method", ["bytes", "perceptual"])
def test_hashes_that_rows_bring_count_for_all_rows_whatever_the_sample(tmp_path: Path, method: str) -> None:
    whole = [record for record in defective_rows()["train"] if record.images and record.fields["item_id"] not in BAD]
    write_shards(tmp_path / "shards", {"train": [with_image_hashes(record, method) for record in whole]})  # type: ignore[arg-type]
    found = {repeats.what: repeats for repeats in survey_of(tmp_path / "shards", sample_size=3).repeats}
    by_hash = found["image: same bytes" if method == "bytes" else "image: same picture"]
    assert by_hash.looked_at == len(whole) and not by_hash.is_sample and by_hash.field == "image.hash"
    assert by_hash.copies == (5 if method == "bytes" else 8)


BAD = {f"P{number:03d}" for number in (8, 9, 10, 11)}


def test_equal_values_and_leaks_are_those_of_a_plain_count() -> None:
    values = np.random.default_rng(0).integers(0, 60, 300)
    repeats = repeats_of("title", "title", values, None, range(0, 200))
    counts = Counter(values[values != 0].tolist())
    assert repeats.looked_at == sum(counts.values())
    assert repeats.copies == sum(count - 1 for count in counts.values())
    assert repeats.groups == sum(count > 1 for count in counts.values())
    assert repeats.leaked == sum(value != 0 and value in values[:200] for value in values[200:])
    assert [group.size for group in repeats.largest] == sorted(counts.values(), reverse=True)[: len(repeats.largest)]
    for group in repeats.largest:
        assert group.numbers == np.flatnonzero(values == values[group.numbers[0]])[: len(group.numbers)].tolist()


def test_a_truncated_shard_is_named_and_all_else_is_counted(shards: Path) -> None:
    tar = shards / "train-000001.tar"
    whole = [len(Rows(str(shards), None)), tar.stat().st_size]
    os.truncate(tar, whole[1] // 2)
    survey = survey_of(shards).survey
    lost = survey.unreadable["train-000001.tar"]
    assert set(survey.unreadable) == set(survey.damaged) == {"train-000001.tar"}
    assert 5 <= lost <= 10 and survey.total_rows == whole[0] - lost
    text = findings(survey_of(shards))
    assert re.match(rf"{lost} of 80 rows \([\d.]+%\) cannot be read, in train-000001.tar", text)


def test_a_missing_shard_is_named_and_all_else_is_counted(shards: Path) -> None:
    (shards / "validation-000000.tar").unlink()
    survey = survey_of(shards, workers=2).survey
    assert survey.damaged == {"validation-000000.tar": "validation-000000.tar is missing"}
    assert survey.rows == {"train": TRAIN, "validation": VALIDATION - PER_SHARD}


@pytest.mark.parametrize("damage", ["header", "json", "surrogate", "list", "no fields"])
def test_a_damaged_sample_is_named_and_all_others_are_counted(tmp_path: Path, damage: str) -> None:
    rows = [product(number) for number in range(20)]
    rows[7].fields["title"] = "XXXXXXXXXXXX"
    write_shards(tmp_path, {"train": rows}, 10)
    tar = tmp_path / "train-000000.tar"
    content = tar.read_bytes()
    match damage:
        case "header":
            start = content.index(b"000000007.image.jpg")
            content = content[:start] + os.urandom(512) + content[start + 512 :]
        case "json":
            content = content.replace(b'"title": "XXXXXXXXXXXX"', b'"title": XXXXXXXXXXXX  ')
        case "surrogate":
            content = content.replace(b"XXXXXXXXXXXX", b"XXXXXX\\ud800")
        case "list" | "no fields":
            start = content.index(b'{"', content.index(b"000000007.json"))
            end = content.index(b"}", start)
            other = b"[1]" if damage == "list" else b"{}"
            content = content[:start] + other.ljust(end + 1 - start) + content[end + 1 :]
    tar.write_bytes(content)
    survey = survey_of(tmp_path).survey
    assert survey.unreadable == {"train-000000.tar": 1} and survey.total_rows == 19
    (example,) = survey.examples
    assert example.number == 7 and example.reason.startswith("row 7 of train, in train-000000.tar: ")


def test_a_run_of_damaged_samples_costs_no_sound_one(tmp_path: Path) -> None:
    write_shards(tmp_path, {"train": [product(number) for number in range(40)]})
    tar = tmp_path / "train-000000.tar"
    content = bytearray(tar.read_bytes())
    for number in range(5, 30):
        start = content.index(f"{number:09d}.image.jpg".encode())
        content[start : start + 512] = b"x" * 512
    tar.write_bytes(content)
    assert survey_of(tmp_path).survey.unreadable == {"train-000000.tar": 25}


def test_shards_of_rubbish_are_looked_at_to_the_end(shards: Path) -> None:
    for tar in shards.glob("*.tar"):
        tar.write_bytes(np.random.default_rng(0).bytes(tar.stat().st_size))
    examination = survey_of(shards)
    assert examination.survey.total_rows == 0 and examination.survey.unreadable.total() == TRAIN + VALIDATION
    rows = examination.rows
    assert measure_throughput(rows, DEMANDS, Augmentation(), 1000.0, 0, seconds=0.1) is None


def test_titles_are_cut_where_open_clips_tokenizer_says_so() -> None:
    texts = [" ".join(["shoe"] * words) for words in range(1, 40)] + ["!" * 30, "Grüße, 上着 👕"]
    lengths = [len(TOKENIZER.encode(text)) + 2 for text in texts]
    counts = count_tokens(texts, TOKENIZER)
    assert counts.cut == sum(length > CONTEXT for length in lengths)
    assert counts.texts == len(texts)
    plain = count_tokens(texts[:39], TOKENIZER)  # the token of an exclamation mark is that of padding
    assert plain.lengths.tolist() == np.bincount(lengths[:39]).tolist()


@pytest.mark.parametrize("end", [True, False])
def test_titles_are_cut_where_a_tokenizer_pads_with_the_token_that_ends_texts(tmp_path: Path, end: bool) -> None:
    write_word_tokenizer(tmp_path, has_end=end)
    tokenizer = HFTokenizer(str(tmp_path), context_length=8)
    texts = [" ".join(["shoe"] * words) for words in range(1, 12)]
    assert count_tokens(texts, tokenizer).cut == (4 if end else 3)  # 8 words do not fit beside the end


def write_word_tokenizer(folder: Path, has_end: bool) -> None:
    """As SigLIP's: one token pads and ends texts."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors  # noqa: PLC0415
    from transformers import PreTrainedTokenizerFast  # noqa: PLC0415

    words = Tokenizer(models.WordLevel({"</s>": 1, "<unk>": 2, "shoe": 3}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    if has_end:
        words.post_processor = processors.TemplateProcessing("$A </s>", special_tokens=[("</s>", 1)])
    PreTrainedTokenizerFast(tokenizer_object=words, pad_token="</s>", unk_token="<unk>").save_pretrained(folder)


@pytest.mark.parametrize(
    "values",
    [
        np.array([224] * 50),
        np.random.default_rng(0).integers(100, 4000, 500),
        np.random.default_rng(0).exponential(3.0, 1000) * 1e-3,
        np.concatenate([np.ones(999), [1e6]]),
        np.zeros(4),
        np.array([-0.25, 0.5, 1e-12]),
    ],
)
def test_every_value_is_in_one_bar(values: np.ndarray) -> None:
    chart = histogram_of("sizes", "pixels", values, mark=float(values.mean()) or 1.0, mark_label="model")
    edges, counts, is_open = bins_of(chart)
    assert counts.sum() == len(values) and len(counts) <= 70 and np.all(np.diff(edges) > 0)
    closed = counts[:-1] if is_open else counts
    for low, high, count in zip(edges[:-1], edges[1:], closed, strict=False):
        margin = 1e-9 * (high - low)
        assert count == ((values >= low - margin) & (values < high - margin)).sum()
    svg = ElementTree.fromstring(str(svg_from_histogram(chart)))
    assert len([bar for bar in svg.iter("rect")]) == (counts > 0).sum()
    assert str(svg_from_histogram(Histogram("none", "", np.arange(3), np.zeros(3, np.int64)))) == ""


class Page(HTMLParser):
    """The tags of a page, all that its attributes hold, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.attributes: list[tuple[str, str, str]] = []
        self.text: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def test_the_page_stands_alone_and_a_title_stays_text(tmp_path: Path) -> None:
    splits = defective_rows()
    for name, field in (("train", "title"), ("train", "item_id"), ("validation", "colour"), ("train", HOSTILE)):
        for record in splits[name][5:14]:
            record.fields[field] = HOSTILE
    splits["train"][51].images[HOSTILE.replace("/", "")] = photo(1000)
    folder = tmp_path / "<b>shards"
    write_shards(folder, splits, PER_SHARD, {"refused": {HOSTILE: 2}})
    os.truncate(folder / "validation-000001.tar", 2048)
    examination = survey_of(folder)
    text = write_report(tmp_path / "out", examination, advice_on(examination), 0).read_text()
    page = Page(text)
    assert not {"script", "iframe", "object", "embed", "base"} & set(page.tags)
    assert not [name for _, name, _ in page.attributes if name.startswith("on")]
    for tag, name, value in page.attributes:
        if name in ("src", "href"):
            assert value.startswith("data:"), (tag, value)
    assert "url(" not in text and "@import" not in text
    assert HOSTILE in " ".join(page.text)
    for svg in re.findall(r"<svg.*?</svg>", text, re.DOTALL):
        ElementTree.fromstring(svg)
    assert len(text) < 1_500_000


def test_the_page_shows_what_was_found(shards: Path, tmp_path: Path) -> None:
    examination = survey_of(shards)
    page = Page(write_report(tmp_path, examination, advice_on(examination), 0).read_text())
    text = " ".join(" ".join(page.text).split())
    for heading in (
        "What to do",
        "Images that cannot be decoded",
        "image: same bytes: the largest groups",
        "title: the largest groups",
        "The smallest images",
        "The longest texts",
        "Random rows",
        "Tokens of title",
        "Scores",
        "missing image",
    ):
        assert heading in text
    bad = [value for _, name, value in page.attributes if name == "class" and value == "bad"]
    assert len(bad) == 4
    assert page.tags["img"] > 40


def run_doctor(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "gcl", "doctor", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, "COLUMNS": "200"}, timeout=120)


def test_the_verb_prints_a_summary_and_writes_the_page(shards: Path, tmp_path: Path) -> None:
    os.truncate(shards / "train-000001.tar", 9000)
    done = run_doctor(f"data.path={shards}", "model=tiny", f"output_dir={tmp_path / 'out'}", "workers=2")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "cannot be read: train-000001.tar has 9,000 bytes where" in done.stdout
    assert "gcl prepare refused 4 rows: 3 missing image, 1 empty title" in done.stdout
    assert re.search(r"workers? (is|are) needed for 1,000 samples per second \(one does [\d,]+\)", done.stdout)
    assert (tmp_path / "out" / "report.html").is_file()


def test_without_a_model_lengths_are_characters_and_the_way_to_tokens_is_named(
    shards: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_verb("doctor", [f"data.path={shards}", "data.split=validation", "workers=1"])
    shown = capsys.readouterr().out
    assert "model=vit_b_16_siglip" in shown and "tokens, median" not in shown and "output_dir=FOLDER" in shown
    assert "outside train" not in shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "data.path must be set"),
        (["data.path=nowhere"], "holds no manifest.json"),
        (["data.path={shards}", "data.split=tset"], "split 'tset' of"),
        (["data.path={shards}", "sample_size=0"], "sample_size=0 must be above 0"),
        (["data.path={shards}", "samples_per_second=nan"], "samples_per_second=nan must be above 0"),
    ],
)
def test_a_mistake_is_told_in_one_line(
    shards: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit:
        run_command(lambda: run_verb("doctor", [argument.format(shards=shards) for argument in arguments]))
    assert exit.value.code == 2
    errors = capsys.readouterr().err
    assert message in errors and errors.count("\n") == 1


def test_a_manifest_that_says_nothing_of_refused_rows_is_read(shards: Path) -> None:
    manifest = json.loads((shards / "manifest.json").read_text())
    for refused in (None, ["a"], {"reason": "three"}):
        (shards / "manifest.json").write_text(json.dumps({**manifest, "refused": refused}))
        assert Rows(str(shards), None).refused == {}

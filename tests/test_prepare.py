"""A source's rows become shards: bad ones counted, splits kept apart, and the same bytes however the work is shared."""

import csv
import json
import random
import resource
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from image_server import ImageServer
from row_list import RowList
from test_shards import photo

from gcl.cli import run_verb
from gcl.data.manifest import MANIFEST
from gcl.data.prepare.chunk import SplitSettings
from gcl.data.prepare.command import PrepareSettings, begin, parse_part, prepare
from gcl.data.prepare.lock import sole_use
from gcl.data.prepare.merge import REFUSED
from gcl.data.record import Record, SourceRow, refusal_of
from gcl.data.shards import ShardReader
from gcl.data.sources.catalog import CatalogSource
from gcl.data.sources.demo import DemoSource
from gcl.errors import UserError


def settings_of(output: str, source: Any, split: SplitSettings | None = None, **more: Any) -> PrepareSettings:
    return PrepareSettings(output, source, split=split or SplitSettings(), **{"workers": 1, **more})


@pytest.mark.parametrize(
    "title", ["Salt & Pepper Set", "5 < 6 and 7 > 3", "AT&T phone", "I <3 cats", '5\'6" "tall"', "Ação – 上着"]
)
def test_ordinary_text_is_not_taken_for_html(title: str) -> None:
    assert refusal_of({"item_id": "1", "title": title}, ["image"], ["title", "image"], "") is None


BAD = "abcdefg"  # ids of the rows that write_catalog spoils
GOOD = 40


def write_catalog(folder: Path, good: int = GOOD) -> Path:
    """A merchant's folder: `good` good rows, titles in pairs, and behind them one bad row of each kind."""
    (folder / "images").mkdir(parents=True)
    rows = [(f"{number}", f"Mug no. {number // 2}", photo(number)) for number in range(good)]
    rows += [
        ("a", "Mug <b>sale</b>", photo(100)),
        ("b", "Mug &amp; Cup", photo(101)),
        ("0", "the id of another", photo(102)),
        ("d", "", photo(103)),
        ("e", "half a photo", photo(104)[:-200]),
        ("f", "no photo", b""),
        ("g", "M\N{LATIN SMALL LETTER U WITH DIAERESIS}sli", photo(106)),
    ]
    with (folder / "products.csv").open("w", encoding="latin-1", newline="") as file:
        table = csv.writer(file)
        table.writerow(["id", "title", "image"])
        for line, (item_id, title, image) in enumerate(rows):
            table.writerow([item_id, title, f"images/{line}.jpg"])
            if image:
                (folder / "images" / f"{line}.jpg").write_bytes(image)
    return folder


REASONS = {
    "HTML in text": 2,
    "duplicate item_id": 1,
    "empty title": 1,
    "bad image": 1,
    "missing image": 1,
    "wrong encoding": 1,
}


def rows_of(folder: Path) -> Iterator[tuple[str, Record]]:
    manifest = json.loads((folder / MANIFEST).read_text())
    for split in manifest["splits"]:
        if manifest["splits"][split]:
            yield from ((split, record) for record in ShardReader(folder, split))


def test_bad_rows_are_counted_by_reason_and_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = CatalogSource(str(write_catalog(tmp_path / "catalogue")))
    output = tmp_path / "shards"
    prepare(settings_of(str(output), source, max_refused_share=0.2), facts={"source": "catalogue"})
    manifest = json.loads((output / MANIFEST).read_text())
    listed = [json.loads(line) for line in (output / REFUSED).read_text().splitlines()]
    assert manifest["refused"] == REASONS == Counter(row["reason"] for row in listed)
    assert [row["origin"] for row in listed] == [f"products.csv:{line}" for line in range(GOOD + 2, GOOD + 9)]
    assert manifest["rows"] == GOOD and manifest["source"] == "catalogue"
    assert {record.item_id for _, record in rows_of(output)} == {str(number) for number in range(GOOD)}
    assert "refused 7 rows" in capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["catalogue", "shards"]


def test_rows_equal_in_the_split_field_land_in_the_same_split(tmp_path: Path) -> None:
    source = CatalogSource(str(write_catalog(tmp_path / "catalogue", good=200)))
    splits = SplitSettings(validation=0.2, test=0.2)
    prepare(settings_of(str(tmp_path / "shards"), source, splits), facts={})
    places: dict[str, set[str]] = {}
    sizes: Counter[str] = Counter()
    for split, record in rows_of(tmp_path / "shards"):
        places.setdefault(" ".join(str(record.fields["title"]).lower().split()), set()).add(split)
        sizes[split] += 1
    assert len(places) == 100 and all(len(found) == 1 for found in places.values())
    assert 20 <= sizes["validation"] <= 60 and 20 <= sizes["test"] <= 60


def test_rows_are_not_split_by_an_image_but_by_its_hash(tmp_path: Path) -> None:
    for workers in (1, 2):
        settings = settings_of(str(tmp_path / "a"), DemoSource(20, image_size=32), SplitSettings(by="image"))
        settings.samples_per_shard, settings.workers = 5, workers
        with pytest.raises(UserError, match="split.by=image is no text of demo:0; there are item_id"):
            prepare(settings, facts={})
    prepare(settings_of(str(tmp_path / "b"), DemoSource(20, image_size=32), SplitSettings(by="image.hash")), facts={})


def test_letter_case_and_spaces_do_not_part_equal_titles() -> None:
    splits = SplitSettings(validation=0.5)
    for number in range(50):
        written = [f"Große Mug {number}", f" GROSSE  mug\t{number} "]
        records = [Record({"item_id": title, "title": title}, {}) for title in written]
        assert len({splits.split_of(record) for record in records}) == 1


def test_a_row_s_split_does_not_depend_on_the_other_rows() -> None:
    splits = SplitSettings(by="category", validation=0.3, test=0.1)
    records = list(DemoSource(products=300, image_size=32))
    chosen = [splits.split_of(record) for record in records]  # type: ignore[arg-type]
    assert [splits.split_of(record) for record in reversed(records)] == chosen[::-1]  # type: ignore[arg-type]
    assert set(chosen) == {"train", "validation", "test"}


def test_too_many_bad_rows_stop_it_with_everything_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, output = CatalogSource(str(write_catalog(tmp_path / "catalogue"))), tmp_path / "shards"
    with pytest.raises(
        UserError,
        match=r"^7 of 47 rows .*\(2 HTML in text, .*max_refused_share=0\.1; the first: products.csv:42, HTML .*; see ",
    ):
        prepare(settings_of(str(output), source), facts={})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["catalogue", "shards.unfinished"]
    assert len((tmp_path / "shards.unfinished" / REFUSED).read_text().splitlines()) == 7
    for image in (tmp_path / "catalogue" / "images").iterdir():
        image.unlink()  # going on reads none of them again
    prepare(settings_of(str(output), source, max_refused_share=0.2), facts={})
    assert len(list(rows_of(output))) == GOOD
    assert sorted(path.name for path in tmp_path.iterdir()) == ["catalogue", "shards"]


def test_rows_that_are_all_bad_leave_the_list_of_them_alone(tmp_path: Path) -> None:
    source = CatalogSource(str(write_catalog(tmp_path / "catalogue", good=0)))
    with pytest.raises(UserError, match=r"^7 of 7 rows were refused .*; nothing was written; see .*refused.jsonl"):
        prepare(settings_of(str(tmp_path / "shards"), source, required=["title", "image", "colour"]), facts={})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["catalogue", "shards.refused.jsonl"]


def test_a_taken_output_folder_is_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").write_text("precious")
    with pytest.raises(UserError, match="is not empty; choose another"):
        prepare(settings_of(str(tmp_path / "mine"), DemoSource(4, image_size=32)), facts={})
    (tmp_path / "file").write_text("precious")
    with pytest.raises(UserError, match="is a file; choose another"):
        prepare(settings_of(str(tmp_path / "file"), DemoSource(4, image_size=32)), facts={})
    assert [path.read_text() for path in (tmp_path / "mine" / "file", tmp_path / "file")] == ["precious"] * 2


def test_an_empty_output_folder_may_be_used(tmp_path: Path) -> None:
    (tmp_path / "shards").mkdir()
    prepare(settings_of(str(tmp_path / "shards"), DemoSource(8, image_size=32)), facts={})
    assert len(list(rows_of(tmp_path / "shards"))) == 8
    assert [path.name for path in tmp_path.iterdir()] == ["shards"]


@pytest.mark.parametrize(
    "argument",
    [
        "samples_per_shard=0",
        "samples_per_shard=-1",
        "shard_megabytes=0",
        "workers=0",
        "part=8/8",
        "part=all",
        "max_refused_share=-0.1",
        "split.validation=1.1",
        "split.test=-0.1",
    ],
)
def test_a_number_that_makes_no_sense_is_refused(tmp_path: Path, argument: str) -> None:
    demo = ["source=demo", "source.products=4", "source.image_size=32", f"output_dir={tmp_path / 'shards'}"]
    with pytest.raises(UserError, match=argument.partition("=")[0].partition(".")[2] or argument.partition("=")[0]):
        run_verb("prepare", [*demo, argument])
    assert list(tmp_path.iterdir()) == []


def start_prepare(*arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "gcl", "prepare", "source=catalog", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_the_command_writes_shards_or_exits_with_one_line(tmp_path: Path) -> None:
    path = f"source.path={write_catalog(tmp_path / 'catalogue')}"
    refused = start_prepare(path, f"output_dir={tmp_path / 'refused'}")  # the two at the same time
    written = start_prepare(path, f"output_dir={tmp_path / 'shards'}", "samples_per_shard=16", "max_refused_share=0.2")
    _, err = refused.communicate(timeout=120)
    assert refused.returncode == 2
    errors = [line for line in err.splitlines() if line.startswith("gcl: error:")]
    assert len(errors) == 1 and "7 of 47 rows were refused" in errors[0] and "Traceback" not in err
    assert not (tmp_path / "refused").exists() and (tmp_path / "refused.unfinished" / REFUSED).exists()

    _, err = written.communicate(timeout=120)
    assert written.returncode == 0, err
    manifest = json.loads((tmp_path / "shards" / MANIFEST).read_text())
    assert manifest["rows"] == GOOD and manifest["refused"] == REASONS
    assert max(shard["samples"] for shard in manifest["splits"]["train"]) == 16
    assert manifest["source"]["path"] == str(tmp_path / "catalogue")
    assert len(list(rows_of(tmp_path / "shards"))) == GOOD


@pytest.mark.parametrize("score", [-1, -0.001, float("nan"), float("inf"), 10**400, True, "3", ""])
def test_a_row_whose_score_is_no_finite_number_from_0_up_is_refused(score: str | float) -> None:
    refusal = refusal_of({"item_id": "1", "title": "mug", "score": score}, ["image"], ["title"], "")
    assert refusal is not None and (refusal.reason, refusal.detail) == ("bad score", str(score)[:80])


@pytest.mark.parametrize("fields", [{}, {"score": 0}, {"score": 0.5}, {"score": 1e300}])
def test_a_row_without_a_score_or_with_a_good_one_is_written(fields: dict[str, str | float]) -> None:
    assert refusal_of({"item_id": "1", "title": "mug", **fields}, ["image"], ["title"], "") is None


def write_scored_catalogue(folder: Path, scores: list[str]) -> CatalogSource:
    """Rows whose titles alternate; half of all titles held out, the even ones are in train, the odd in validation."""
    folder.mkdir()
    (folder / "mug.jpg").write_bytes(photo(0))
    lines = [f"{number},{'red mug' if number % 2 else 'mug'},mug.jpg,{score}" for number, score in enumerate(scores)]
    (folder / "products.csv").write_text("\n".join(["id,title,image,score", *lines]) + "\n")
    return CatalogSource(str(folder))


def test_the_manifest_and_the_summary_tell_the_range_of_scores_of_each_split(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write_scored_catalogue(tmp_path / "catalogue", ["3", "0", "0.25", "", "", "7.5", "12", "-1", "many"])
    settings = settings_of(str(tmp_path / "shards"), source, SplitSettings(validation=0.5), max_refused_share=0.5)
    prepare(settings, facts={})
    manifest = json.loads((tmp_path / "shards" / MANIFEST).read_text())
    assert manifest["scores"] == {
        "train": {"rows": 3, "missing": 1, "min": 0.25, "max": 12.0},
        "validation": {"rows": 2, "missing": 1, "min": 0.0, "max": 7.5},
        "test": {"rows": 0, "missing": 0, "min": None, "max": None},
    }
    assert manifest["refused"] == {"bad score": 2}
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in capsys.readouterr().out.splitlines()]
    assert [row for row in cells if row] == [
        ["train", "4", "1", "0.0", "3", "0.25", "12"],
        ["validation", "3", "1", "0.0", "2", "0", "7.5"],
        ["test", "0", "0", "0.0", "0", "", ""],
    ]


def test_a_catalogue_without_scores_has_no_columns_for_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_scored_catalogue(tmp_path / "catalogue", ["", ""])
    prepare(settings_of(str(tmp_path / "shards"), source, SplitSettings(validation=0.0)), facts={})
    scores = json.loads((tmp_path / "shards" / MANIFEST).read_text())["scores"]
    assert scores["train"] == {"rows": 0, "missing": 2, "min": None, "max": None}
    assert "lowest" not in capsys.readouterr().out


def test_a_source_whose_rows_are_all_refused_is_not_read_to_its_end(tmp_path: Path) -> None:
    read = []

    class Rows:
        folder = None

        def __len__(self) -> int:
            return 5000

        def __iter__(self) -> Iterator[SourceRow]:
            for number in range(5000):
                read.append(number)
                yield SourceRow({"item_id": str(number), "title": "mug"}, {"image": (photo(number),)}, "")

    settings = settings_of(str(tmp_path / "shards"), Rows(), SplitSettings(by="titel"))
    with pytest.raises(UserError, match="2000 of 2000 rows were refused .2000 empty titel."):
        prepare(settings, facts={})
    assert len(read) <= 3000


def test_good_rows_behind_many_bad_ones_are_still_written(tmp_path: Path) -> None:
    class Rows:
        folder = None

        def __len__(self) -> int:
            return 1101

        def __iter__(self) -> Iterator[SourceRow]:
            for number in range(1101):
                title = "mug" if number == 1100 else ""
                yield SourceRow({"item_id": str(number), "title": title}, {"image": (photo(0),)}, "")

    prepare(settings_of(str(tmp_path / "shards"), Rows(), SplitSettings(), max_refused_share=1.0), facts={})
    manifest = json.loads((tmp_path / "shards" / MANIFEST).read_text())
    assert (manifest["rows"], manifest["refused"]) == (1, {"empty title": 1100})


def test_a_path_that_utf_8_cannot_hold_is_a_refusal(tmp_path: Path) -> None:
    rows = RowList(SourceRow({"item_id": str(n), "title": "mug"}, {"image": (photo(n),)}, "") for n in range(9))
    rows.append(SourceRow({"item_id": "x", "title": "mug"}, {"image": ("x\ud800.jpg",)}, "rows:x"))
    rows.append(SourceRow({"item_id": "y", "title": "m\ud800g"}, {"image": (photo(0),)}, "rows:y"))
    prepare(settings_of(str(tmp_path / "shards"), rows, max_refused_share=0.5), facts={})
    listed = [json.loads(line) for line in (tmp_path / "shards" / REFUSED).read_text().splitlines()]
    assert [(row["origin"], row["reason"]) for row in listed] == [
        ("rows:x", "image outside the source"),
        ("rows:y", "wrong encoding"),
    ]


def digests(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


ROWS, PER_SHARD = 330, 8  # 42 chunks


def prepare_demo(output: Path, **more: Any) -> None:
    settings = settings_of(str(output), DemoSource(ROWS, image_size=32), samples_per_shard=PER_SHARD, **more)
    prepare(settings, facts={"source": "demo"})


def test_the_shards_are_the_same_bytes_for_any_number_of_workers_and_parts(tmp_path: Path) -> None:
    prepare_demo(tmp_path / "one")
    prepare_demo(tmp_path / "three", workers=3)
    for number in (2, 0, 1):
        prepare_demo(tmp_path / "parts", part=f"{number}/3")
    assert not (tmp_path / "parts").exists()
    prepare_demo(tmp_path / "parts")
    expected = digests(tmp_path / "one")
    assert len([name for name in expected if name.endswith(".tar")]) > 40
    assert digests(tmp_path / "three") == expected
    assert digests(tmp_path / "parts") == expected


def test_a_part_that_never_ran_is_done_by_the_command_that_merges(tmp_path: Path) -> None:
    prepare_demo(tmp_path / "whole")
    prepare_demo(tmp_path / "parts", part="1/2")
    prepare_demo(tmp_path / "parts")
    assert digests(tmp_path / "parts") == digests(tmp_path / "whole")


def test_a_shard_ends_at_either_limit(tmp_path: Path) -> None:
    prepare(settings_of(str(tmp_path / "a"), DemoSource(40, image_size=48), shard_megabytes=0.02), facts={})
    shards = ShardReader(tmp_path / "a", "train").shards
    assert len(shards) > 2 and all(shard.samples < 40 for shard in shards)
    assert all(20_000 <= shard.bytes < 40_000 for shard in shards[:-1])


def test_going_on_with_other_settings_is_refused_naming_the_difference(tmp_path: Path) -> None:
    prepare_demo(tmp_path / "shards", part="0/2")
    with pytest.raises(UserError, match=r"shards.unfinished holds .* with source=demo, this command says other; give"):
        prepare(
            settings_of(str(tmp_path / "shards"), DemoSource(ROWS), samples_per_shard=PER_SHARD), {"source": "other"}
        )
    with pytest.raises(UserError, match=f"with rows={ROWS}, this command says 8;"):
        prepare(settings_of(str(tmp_path / "shards"), DemoSource(8)), {"source": "demo"})


def test_a_chunk_whose_rows_have_changed_since_is_written_again(tmp_path: Path) -> None:
    prepare_demo(tmp_path / "shards", part="0/2")
    source = DemoSource(ROWS, seed=1, image_size=32)
    prepare(settings_of(str(tmp_path / "shards"), source, samples_per_shard=PER_SHARD), facts={"source": "demo"})
    prepare(settings_of(str(tmp_path / "fresh"), source, samples_per_shard=PER_SHARD), facts={"source": "demo"})
    assert digests(tmp_path / "shards") == digests(tmp_path / "fresh")


@pytest.mark.parametrize("workers", [1, 2])
def test_a_disk_that_takes_no_more_ends_it_in_one_line_and_it_goes_on(tmp_path: Path, workers: int) -> None:
    source = ["source=demo", f"source.products={ROWS}", "source.image_size=32", f"samples_per_shard={PER_SHARD}"]
    command = [*source, f"workers={workers}", f"output_dir={tmp_path / 'shards'}"]
    stopped = subprocess.run(
        [sys.executable, "-m", "gcl", "prepare", *command],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000)),  # bytes of a file
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert stopped.returncode == 2 and "Traceback" not in stopped.stderr
    assert "shards.unfinished cannot be written (File too large); make room, then" in " ".join(stopped.stderr.split())
    run_verb("prepare", command)
    assert len(list(rows_of(tmp_path / "shards"))) == ROWS


def test_a_query_for_a_product_is_a_row_of_its_own(tmp_path: Path) -> None:
    class Rows:
        folder = None

        def __len__(self) -> int:
            return 5

        def __iter__(self) -> Iterator[SourceRow]:
            for number, query in enumerate(["red mug", "mug", "red mug", "", ""]):
                fields: dict[str, str | float] = {"item_id": "1", "title": "mug", "query": query}
                yield SourceRow(fields, {"image": (photo(0),)}, f"log:{number}")

    prepare(settings_of(str(tmp_path / "shards"), Rows(), max_refused_share=0.5), facts={})
    assert sorted(str(record.fields["query"]) for _, record in rows_of(tmp_path / "shards")) == ["", "mug", "red mug"]
    listed = [json.loads(line) for line in (tmp_path / "shards" / REFUSED).read_text().splitlines()]
    assert [(row["origin"], row["reason"]) for row in listed] == [(f"log:{n}", "duplicate item_id") for n in (2, 4)]


def test_a_preparation_killed_at_any_moment_goes_on_to_the_same_shards(tmp_path: Path) -> None:
    arguments = ["source=demo", "source.products=1200", "source.image_size=32", "samples_per_shard=10", "workers=2"]
    run_verb("prepare", [*arguments, f"output_dir={tmp_path / 'whole'}"])
    output, unfinished = tmp_path / "killed", tmp_path / "killed.unfinished"
    moments = random.Random(5)
    kills = 0
    for _ in range(3):
        there = len(list(unfinished.glob("chunk-*.json")))
        kills += start_and_kill(arguments, output, there + moments.randrange(1, 15))
    assert kills >= 2 and unfinished.exists()
    run_verb("prepare", [*arguments, f"output_dir={output}"])
    expected = digests(tmp_path / "whole")
    assert digests(output) == expected


def write_online_catalogue(folder: Path, shop: ImageServer, rows: int) -> Path:
    """A table whose images are addresses, one of eight of them bad in some way."""
    bad = ("gone", "page", "cut", "damaged", "loop")
    ways = [bad[number // 8 % len(bad)] if number % 8 == 7 else ("good", "moved")[number % 2] for number in range(rows)]
    lines = [f"{n},Mug no. {n},{shop.url(f'/{way}/{n}.jpg')}" for n, way in enumerate(ways)]
    folder.mkdir()
    (folder / "products.csv").write_text("\n".join(["id,title,image", *lines]) + "\n")
    return folder


def test_a_preparation_that_downloads_goes_on_after_kills_to_the_same_shards(tmp_path: Path) -> None:
    with ImageServer() as shop:
        catalogue = write_online_catalogue(tmp_path / "catalogue", shop, 240)
        arguments = [
            "source=catalog",
            f"source.path={catalogue}",
            "samples_per_shard=10",
            "max_refused_share=0.2",
            "workers=2",
            "images.allow_private_addresses=true",
        ]
        run_verb("prepare", [*arguments, f"output_dir={tmp_path / 'whole'}"])
        asked_undisturbed = sum(shop.asked.values())
        kills = sum(start_and_kill(arguments, tmp_path / "killed", chunks) for chunks in (3, 9))
        run_verb("prepare", [*arguments, f"output_dir={tmp_path / 'killed'}"])
        assert kills == 2
        assert sum(shop.asked.values()) < 3 * asked_undisturbed, "what is there is not downloaded again"
    assert digests(tmp_path / "killed") == digests(tmp_path / "whole")
    refused = json.loads((tmp_path / "whole" / MANIFEST).read_text())["refused"]
    assert refused == {
        "image not found": 6,
        "web page instead of an image": 6,
        "image download broken off": 6,
        "bad image": 6,
        "too many redirects": 6,
    }


def start_and_kill(arguments: list[str], output: Path, chunks: int) -> bool:
    """Kill `gcl prepare` when so many chunks are there; whether it had not ended by then."""
    unfinished = output.with_name(output.name + ".unfinished")
    process = subprocess.Popen(
        [sys.executable, "-m", "gcl", "prepare", *arguments, f"output_dir={output}"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while process.poll() is None and len(list(unfinished.glob("chunk-*.json"))) < chunks:
        time.sleep(0.005)
    was_running = process.poll() is None
    process.kill()
    process.wait()
    return was_running


@contextmanager
def dying(method: str, count: int, suffix: str = "") -> Iterator[None]:
    """This process is interrupted at so many calls of a method of paths with a suffix."""
    real, calls = getattr(Path, method), 0

    def counted(self: Path, *arguments: Any) -> Any:
        nonlocal calls
        calls += self.suffix == suffix or not suffix
        if calls == count:
            raise KeyboardInterrupt
        return real(self, *arguments)

    with pytest.MonkeyPatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Path, method, counted)
        yield


def test_a_merge_killed_half_way_is_done_again(tmp_path: Path) -> None:
    prepare_demo(tmp_path / "whole")
    with dying("rename", 20, ".tar"):
        prepare_demo(tmp_path / "killed")
    prepare_demo(tmp_path / "killed")
    assert digests(tmp_path / "killed") == digests(tmp_path / "whole")


def test_a_merge_killed_before_the_rows_changed_is_not_taken_for_that_of_the_new_rows(tmp_path: Path) -> None:
    with dying("rename", 20, ".tar"):
        prepare_demo(tmp_path / "killed")
    source = DemoSource(ROWS, seed=1, image_size=32)
    for name in ("killed", "fresh"):
        prepare(settings_of(str(tmp_path / name), source, samples_per_shard=PER_SHARD), facts={"source": "demo"})
    assert digests(tmp_path / "killed") == digests(tmp_path / "fresh")


def test_a_merge_killed_while_it_tidies_has_only_to_be_tidied(tmp_path: Path) -> None:
    prepare_demo(tmp_path / "whole")
    with dying("unlink", 30):
        prepare_demo(tmp_path / "killed")
    with pytest.raises(UserError, match="with source=demo, this command says other"):
        prepare(settings_of(str(tmp_path / "killed"), DemoSource(ROWS)), facts={"source": "other"})
    prepare_demo(tmp_path / "killed")
    assert digests(tmp_path / "killed") == digests(tmp_path / "whole")


def test_parts_may_begin_at_the_same_moment(tmp_path: Path) -> None:
    folder, plan = tmp_path / "shards.unfinished", {"rows": 1}
    folder.mkdir()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: begin(folder, plan), range(400)))
    assert json.loads((folder / "plan.json").read_text()) == plan


def test_a_part_whose_rows_are_all_refused_fails(tmp_path: Path) -> None:
    rows = RowList(SourceRow({"item_id": str(n), "title": ""}, {"image": (photo(0),)}, "") for n in range(4000))
    with pytest.raises(UserError, match="part 0/2 stopped: the first 2000 rows were all refused"):
        prepare(settings_of(str(tmp_path / "shards"), rows, part="0/2"), facts={})


def test_an_image_field_that_cannot_name_a_member_is_refused(tmp_path: Path) -> None:
    rows = RowList([SourceRow({"item_id": "1", "title": "mug"}, {"photo/front": (photo(0),)}, "")])
    with pytest.raises(UserError, match="image field 'photo/front' cannot name a tar's member; rename"):
        prepare(settings_of(str(tmp_path / "shards"), rows, required=["title"]), facts={})


@pytest.mark.parametrize(
    "held, wanted, is_free",
    [
        (None, None, False),
        (None, "0/2", False),
        ("0/2", None, False),
        ("0/2", "0/2", False),
        ("0/2", "1/2", True),
    ],
)
def test_two_preparations_do_not_write_the_same(
    tmp_path: Path, held: str | None, wanted: str | None, is_free: bool
) -> None:
    unfinished = tmp_path / "shards.unfinished"
    unfinished.mkdir()
    with sole_use(unfinished, held):
        if is_free:
            prepare_demo(tmp_path / "shards", part=wanted)
        else:
            with pytest.raises(UserError, match="another gcl prepare is at work in .*shards.unfinished; wait"):
                prepare_demo(tmp_path / "shards", part=wanted)
    prepare_demo(tmp_path / "shards")


@pytest.mark.parametrize("part, parsed", [(None, (0, 1)), ("0/1", (0, 1)), ("7/8", (7, 8))])
def test_a_part_is_counted_from_0(part: str | None, parsed: tuple[int, int]) -> None:
    assert parse_part(part) == parsed

"""Mined negatives are what a sort of all scores finds, on any number of processes; each row is given one per epoch."""

import functools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from loss_processes import run_on_processes
from rich.progress import Progress
from safetensors.torch import load_file, save_file
from torch.nn import functional
from training_processes import arguments_for, finish, losses, start

from gcl.cli import run_verb
from gcl.data.augment import Augmentation
from gcl.data.batch import BatchBuilder
from gcl.data.images import ImageReader
from gcl.data.loader import DataSettings, StepBatches, build_negatives
from gcl.data.mixture import Mixture
from gcl.data.negatives import MinedNegatives, write_negatives
from gcl.data.order import SampleOrder
from gcl.data.shards import ShardReader
from gcl.errors import UserError
from gcl.losses.pair import Pair
from gcl.retrieval import hard_negatives
from gcl.retrieval.embeddings.row_embeddings import RowEmbeddings
from gcl.retrieval.embeddings.rows import Rows, table_of
from gcl.retrieval.hard_negatives import Mined, Sides, search_negatives
from gcl.retrieval.mine import build_sides

ROWS, DEPTH = 60, 5
BOTH_SIDES = ["left={title: 1.0}", "right={image: 1.0}"]


def random_sides(kind: str, margin: float) -> Sides:
    """Rows with missing sides, with equal ids and titles and unknown ones; scores are reals, or integers with ties."""
    generator = torch.Generator().manual_seed(0)
    if kind == "ties":
        left, right = (torch.randint(-1, 2, (ROWS, 4), generator=generator).float() for _ in range(2))
    else:
        left, right = (functional.normalize(torch.randn(ROWS, 16, generator=generator)) for _ in range(2))
        right = functional.normalize(right + left)  # most rows find their own
    has_left, has_right = torch.rand(2, ROWS, generator=generator) > 0.1
    item_ids = torch.arange(1, ROWS + 1)
    item_ids[[3, 40]] = 99
    titles = torch.randint(0, 20, (ROWS,), generator=generator)  # 0: unknown
    return Sides(left, right, has_left, has_right, [item_ids, titles], margin)


def expected_negatives(sides: Sides) -> tuple[list[list[int]], list[int]]:
    """The rule row by row: the numbers of the hardest negatives, and how many candidates the margin left out."""
    scores = sides.left.numpy() @ sides.right.numpy().T
    numbers, false_negatives = [], []
    for i in range(ROWS):
        candidates = [j for j in range(ROWS) if can_be_negative(sides, i, j)]
        s = scores[i, i]
        near = [j for j in candidates if scores[i, j] > s - (1 - sides.margin) * abs(s)]
        hardest = sorted(set(candidates) - set(near), key=lambda j: (-scores[i, j], j))[:DEPTH]
        numbers.append(hardest + [-1] * (DEPTH - len(hardest)))
        false_negatives.append(len(near))
    return numbers, false_negatives


def can_be_negative(sides: Sides, i: int, j: int) -> bool:
    if i == j or not (sides.has_left[i] and sides.has_right[i] and sides.has_right[j]):
        return False
    return not any(values[i] == values[j] != 0 for values in sides.identities)


def searched(sides: Sides) -> Mined:
    return search_negatives(sides, DEPTH, Progress(disable=True))


CASES = [("reals", 0.95), ("reals", 0.5), ("ties", 0.5), ("ties", 1.0)]


@pytest.mark.parametrize("corpus_block", [7, 1000])
@pytest.mark.parametrize(("kind", "margin"), CASES)
def test_the_list_is_what_a_sort_of_all_scores_gives(
    monkeypatch: pytest.MonkeyPatch, kind: str, margin: float, corpus_block: int
) -> None:
    monkeypatch.setattr(hard_negatives, "CORPUS_BLOCK", corpus_block)
    monkeypatch.setattr(hard_negatives, "QUERY_BLOCK", 8)
    sides = random_sides(kind, margin)
    numbers, false_negatives = expected_negatives(sides)
    mined = searched(sides)
    assert mined.numbers.tolist() == numbers
    assert mined.false_negatives.tolist() == false_negatives
    assert mined.has_negatives.tolist() == [row[0] >= 0 for row in numbers]
    assert sum(false_negatives) > 0 and -1 in [row[-1] for row in numbers], "the margin and missing sides matter here"


def mine_and_save(sides: Sides, accelerator: Accelerator, folder: Path) -> None:
    mined = searched(sides)
    save_file(
        {"numbers": mined.numbers, "scores": mined.scores, "false_negatives": mined.false_negatives},
        folder / f"{accelerator.process_index}.safetensors",
    )


def test_two_processes_find_what_one_finds(tmp_path: Path) -> None:
    sides = random_sides("ties", 0.5)
    alone = searched(sides)
    run_on_processes(2, functools.partial(mine_and_save, sides), tmp_path)
    for process in range(2):
        found = load_file(tmp_path / f"{process}.safetensors")
        assert torch.equal(found["numbers"], alone.numbers)
        assert torch.equal(found["scores"], alone.scores)
        assert torch.equal(found["false_negatives"], alone.false_negatives)


def test_the_margin_lies_below_a_positive_that_scores_negative() -> None:
    """0.95 x -0.5 would lie above it, and let in what beats it."""
    left = torch.tensor([[1.0, 0.0]] * 4)
    right = torch.tensor([[-0.5, 0.0], [-0.51, 0.0], [-0.53, 0.0], [-0.49, 0.0]])
    everywhere = torch.tensor([True] * 4)
    mined = searched(Sides(left, right, everywhere, everywhere, [], margin=0.95))
    assert mined.numbers[0].tolist() == [2, -1, -1, -1]
    assert mined.false_negatives[0] == 2


def test_rows_that_agree_in_what_the_objective_compares_are_alike() -> None:
    values = [
        ("1", "mug", "a"),
        ("1", "cup", "b"),
        ("2", "mug ", "c"),
        ("3", "bowl", "a"),
        ("4", "", ""),
        ("5", "", ""),
    ]
    rows = Rows(table_of([dict(zip(("item_id", "title", "kind"), row, strict=True)) for row in values], None))
    reader = SimpleNamespace(kinds={"item_id": "text", "title": "text", "kind": "text", "image": "image"})
    embedder = SimpleNamespace(rows=rows, reader=reader)
    embeddings = RowEmbeddings(embedder, dict.fromkeys(("title", "image"), torch.ones(6, 1)))  # type: ignore[arg-type]
    alike = {(0, 1), (0, 2)}
    for pair, expected in (
        (Pair({"title": 1.0}, {"image": 1.0}), alike),
        (Pair({"title": 1.0}, {"image": 1.0}, same=["kind"]), alike | {(0, 3)}),
    ):
        identities = build_sides(embeddings, pair, margin=1.0).identities
        equal = {(i, j) for i in range(6) for j in range(i + 1, 6) for v in identities if v[i] == v[j] != 0}
        assert equal == expected


@pytest.fixture(scope="module")
def shards(demo_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy that may be written to."""
    folder = tmp_path_factory.mktemp("mine") / "shards"
    shutil.copytree(demo_shards, folder)
    return folder


@pytest.fixture(scope="module")
def run(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short run of the tiny start."""
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    finish(start(arguments_for(shards, folder, "train.max_steps=10")))
    return folder


@pytest.fixture(scope="module")
def mined(run: Path, shards: Path) -> Path:
    """Where `gcl mine` writes by itself."""
    run_verb("mine", [f"checkpoint={run}", "data.workers=0", "negatives_per_row=4", "margin=1.0"])
    return shards / "negatives"


def test_a_run_is_mined_beside_its_shards(mined: Path, shards: Path) -> None:
    manifest = json.loads((mined / "manifest.json").read_text())
    reader = ShardReader(shards, "train")
    numbers = np.load(mined / "train.npy")
    assert (manifest["left"], manifest["right"], manifest["margin"]) == ({"title": 1.0}, {"image": 1.0}, 1.0)
    assert manifest["checkpoint"] == "tiny/step_00000010"
    written = manifest["splits"]["train"]
    assert (written["rows"], written["fingerprint"]) == (len(reader), reader.fingerprint)
    assert numbers.dtype == np.int32 and numbers.shape == (len(reader), 4)
    assert written["statistics"]["rows_with_negatives"] == int((numbers[:, 0] >= 0).sum()) > 0
    assert written["statistics"]["mean_hardest_score"] < written["statistics"]["mean_positive_score"]
    assert not list(shards.glob("*.tmp"))
    assert len(MinedNegatives(mined, reader).fingerprint) == 16


def test_sides_of_one_s_own_are_mined_and_examples_shown(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_verb(
        "mine",
        [f"checkpoint={run}", f"output_dir={tmp_path / 'out'}", "data.workers=0", "data.split=validation"]
        + ["left={query: 1.0}", "right={image: 0.9, title: 0.1}", "margin=1.0"],
    )
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["right"] == {"image": 0.9, "title": 0.1}
    assert (tmp_path / "out" / "validation.npy").is_file()
    printed = capsys.readouterr().out
    assert "rows have negatives; mean score of positives" in " ".join(printed.split())
    assert "hardest negative" in printed


def test_a_run_trains_with_what_was_mined(run: Path, mined: Path, shards: Path, tmp_path: Path) -> None:
    finish(start(arguments_for(shards, tmp_path / "run", "train.max_steps=2", f"data.negatives={mined}")))
    assert losses(tmp_path / "run")[1] > losses(run)[1], "the same start has twice as many negatives"


REFUSED: list[tuple[list[str], str]] = [
    (["margin=0.0"], "margin=0.0 must lie above 0"),
    (["margin=1.5"], "margin=1.5 must lie above 0 and up to 1"),
    (["negatives_per_row=0"], "negatives_per_row=0 must be at least 1"),
    (["batch_size=0"], "batch_size=0 must be at least 1"),
    (["left={}"], "needs at least one field"),
    (["right={image: -1.0}"], "a weight above 0"),
    (["left={titel: 1.0}"], "'titel' is in no row"),
    (["data.split=trian"], "'trian'"),
    (["margin=1e-6"], "no row has a negative"),
]


@pytest.mark.parametrize(("arguments", "message"), REFUSED, ids=[" ".join(words) for words, _ in REFUSED])
def test_what_cannot_be_mined_is_refused_and_nothing_written(
    run: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    with pytest.raises(UserError, match=message) as refused:
        run_verb("mine", [f"checkpoint={run}", f"output_dir={tmp_path / 'out'}", "data.workers=0", *arguments])
    assert len(str(refused.value).splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_that_is_no_run_needs_both_sides(run: Path, shards: Path, tmp_path: Path) -> None:
    (weights,) = run.glob("checkpoints/step_00000010/model.safetensors")
    arguments = [f"checkpoint={weights}", "model=tiny", f"data.path={shards}", f"output_dir={tmp_path / 'out'}"]
    with pytest.raises(UserError, match="does not say which sides to mine"):
        run_verb("mine", [*arguments, BOTH_SIDES[0]])
    run_verb("mine", [*arguments, *BOTH_SIDES, "data.workers=0", "margin=1.0"])
    assert (tmp_path / "out" / "manifest.json").is_file()


def test_a_taken_folder_is_left_alone(run: Path, tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("precious")
    for output, message in ((tmp_path, "is not empty"), (tmp_path / "precious", "is a file")):
        with pytest.raises(UserError, match=message):
            run_verb("mine", [f"checkpoint={run}", f"output_dir={output}"])
    assert (tmp_path / "precious").read_text() == "precious"


@pytest.fixture
def reader(demo_shards: Path) -> ShardReader:
    return ShardReader(demo_shards, "train")


@pytest.fixture
def written(reader: ShardReader, tmp_path: Path) -> Path:
    """Negatives by hand: row i has i + 1, i + 2 and i + 3; the first row none, the second one only."""
    numbers = ((np.arange(len(reader))[:, None] + [1, 2, 3]) % len(reader)).astype(np.int32)
    numbers[0], numbers[1, 1:] = -1, -1
    write_negatives(tmp_path / "negatives", reader, numbers, {}, {})
    return tmp_path / "negatives"


def test_a_row_is_given_the_fields_and_images_of_one_of_its_negatives(reader: ShardReader, written: Path) -> None:
    negatives = MinedNegatives(written, reader)
    row, negative = reader[1], reader[2]
    row.fields["negatives.query"] = row.fields["negatives.made_up"] = "its own, which gives way"
    given = negatives.add(row, 1, np.random.default_rng(0))
    assert given.fields == {
        **reader[1].fields,
        **{f"negatives.{name}": value for name, value in negative.fields.items()},
    }
    assert given.images == {"image": row.images["image"], "negatives.image": negative.images["image"]}
    assert negatives.kinds == {f"negatives.{name}": kind for name, kind in reader.kinds.items()}
    assert negatives.add(reader[0], 0, np.random.default_rng(0)) == reader[0], "it has none"


def test_every_negative_of_a_row_is_drawn(reader: ShardReader, written: Path) -> None:
    negatives = MinedNegatives(written, reader)
    drawn = [negatives.add(reader[5], 5, np.random.default_rng(seed)) for seed in range(60)]
    counts = [sum(record.fields["negatives.item_id"] == reader[i].item_id for record in drawn) for i in (6, 7, 8)]
    assert sum(counts) == 60 and min(counts) > 8


def read_epoch(
    reader: ShardReader, negatives: MinedNegatives | None, seed: int = 0, epoch: int = 0, processes: int = 1
) -> dict[int, tuple[bytes, int]]:
    """sample -> its augmented pixels, and the hash of its negative's item_id, gathered from all processes."""
    order = SampleOrder(tuple(shard.samples for shard in reader.shards), 32, 4, 16, seed)
    pixels = ImageReader(16, "bicubic", "squash", Augmentation(min_area=0.3, flip=0.5))
    images = ["image", *["negatives.image"] * (negatives is not None)]
    builder = BatchBuilder(images, [], ["negatives.item_id"], pixels, lambda texts: torch.zeros(len(texts), 1))
    seen: dict[int, tuple[bytes, int]] = {}
    for process in range(processes):
        batches = StepBatches([reader], Mixture((order,), (1.0,)), builder, 0, process, processes, negatives)
        for step in range(epoch * order.steps_per_epoch, (epoch + 1) * order.steps_per_epoch):
            batch = batches[step]
            numbers = order.local_batch(step, process, processes).tolist()
            rows = [image.numpy().tobytes() for image in batch.images["image"]]
            seen |= dict(
                zip(numbers, zip(rows, batch.identities["negatives.item_id"].tolist(), strict=True), strict=True)
            )
    return seen


def test_the_draw_is_a_pure_function_of_seed_epoch_and_sample(reader: ShardReader, written: Path) -> None:
    negatives = build_negatives(DataSettings("", negatives=str(written)), reader)
    first = read_epoch(reader, negatives)
    assert read_epoch(reader, negatives, processes=4) == first
    several = [number for number in first if number > 1]
    for changed in ({"epoch": 1}, {"seed": 1}):
        other = read_epoch(reader, negatives, **changed)
        both = [number for number in several if number in other]
        differ = sum(first[number][1] != other[number][1] for number in both)
        assert 0.5 < differ / len(both) < 0.8, "two of three draws differ"


def test_a_row_s_own_image_is_augmented_as_without_negatives(reader: ShardReader, written: Path) -> None:
    with_negatives = read_epoch(reader, MinedNegatives(written, reader))
    without = read_epoch(reader, None)
    assert {number: pixels for number, (pixels, _) in with_negatives.items()} == {
        number: pixels for number, (pixels, _) in without.items()
    }
    assert {negative for _, negative in without.values()} == {0}


def test_negatives_that_rows_bring_are_not_mined_ones(reader: ShardReader) -> None:
    assert build_negatives(DataSettings(""), reader) is None
    assert build_negatives(DataSettings("", negatives="rows"), reader) is None


def test_a_default_score_that_is_none_is_refused() -> None:
    for score in (-1.0, float("nan"), float("inf")):
        with pytest.raises(UserError, match="data.default_score="):
            DataSettings("", default_score=score)


def change_manifest(folder: Path, **values: Any) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["splits"]["train"] |= values
    (folder / "manifest.json").write_text(json.dumps(manifest))


def overwrite(folder: Path, numbers: np.ndarray) -> None:
    np.save(folder / "train.npy", numbers, allow_pickle=True)


DAMAGES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no folder": (shutil.rmtree, "holds no manifest.json"),
    "no table": (lambda folder: (folder / "train.npy").unlink(), "cannot be read"),
    "an empty table": (lambda folder: (folder / "train.npy").write_bytes(b""), "cannot be read"),
    "a table cut short": (
        lambda folder: (folder / "train.npy").write_bytes((folder / "train.npy").read_bytes()[:500]),
        "cannot be read",
    ),
    "a table of objects": (lambda folder: overwrite(folder, np.array([{}])), "cannot be read"),
    "another number of rows": (lambda folder: overwrite(folder, np.zeros((3, 2), np.int32)), "where int32"),
    "rows that are not there": (
        lambda folder: overwrite(folder, np.load(folder / "train.npy") + np.int32(1)),
        "names rows from 0 to",
    ),
    "no JSON": (lambda folder: (folder / "manifest.json").write_text("{"), "is no manifest of negatives"),
    "other JSON": (lambda folder: (folder / "manifest.json").write_text("[]"), "is no manifest of negatives"),
    "other shards": (lambda folder: change_manifest(folder, fingerprint="0"), "mined from other rows"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_negatives_that_do_not_fit_are_refused(reader: ShardReader, written: Path, damage: str) -> None:
    spoil, message = DAMAGES[damage]
    spoil(written)
    with pytest.raises(UserError, match=message) as refused:
        MinedNegatives(written, reader)
    assert len(str(refused.value).splitlines()) == 1


def test_negatives_of_another_split_or_of_shards_are_refused(demo_shards: Path, written: Path) -> None:
    with pytest.raises(UserError, match="of split train, not of validation"):
        MinedNegatives(written, ShardReader(demo_shards, "validation"))
    with pytest.raises(UserError, match="is no manifest of negatives"):
        MinedNegatives(demo_shards, ShardReader(demo_shards, "train"))


def test_a_table_outside_the_folder_is_not_read(reader: ShardReader, written: Path) -> None:
    shutil.copy(written / "train.npy", written.parent / "elsewhere.npy")
    change_manifest(written, file="../elsewhere.npy")
    with pytest.raises(UserError, match="cannot be read"):
        MinedNegatives(written, reader)

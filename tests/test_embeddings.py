"""Embeddings of rows: the same on any number of processes, gone on with after a kill, never taken for others."""

import functools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from loss_processes import run_on_processes
from safetensors.torch import load_file, save_file
from torch.distributed.fsdp import fully_shard
from training_processes import ROOT, launcher_of, one_core

from gcl.cli import run_verb
from gcl.data.prepare.chunk import SplitSettings
from gcl.data.prepare.command import PrepareSettings, prepare
from gcl.data.shards import ShardReader
from gcl.data.sources.demo import DemoSource
from gcl.encoders.open_clip_encoder import OpenClipEncoder
from gcl.errors import UserError
from gcl.models.open_clip_start import build_open_clip
from gcl.retrieval.embeddings import chunks, store
from gcl.retrieval.embeddings.chunks import own_pieces
from gcl.retrieval.embeddings.embed import Embedder, check_undecodable
from gcl.retrieval.embeddings.row_embeddings import embed_rows
from gcl.retrieval.embeddings.row_store import stored_rows
from gcl.retrieval.embeddings.rows import load_rows
from gcl.retrieval.embeddings.store import DONE, EmbeddingStore
from gcl.retrieval.evaluate import evaluate_task
from gcl.retrieval.tasks import RetrievalTask

TINY = "package:gcl/models/gcl-tiny.json"


def embedder_of(
    shards: Path, accelerator: Accelerator, store: EmbeddingStore | None = None, batch_size: int = 16, **more: object
) -> Embedder:
    """The tiny model, and the 200 demo products that are trained on."""
    model = build_open_clip(TINY, siglip_image=True, seed=1).eval()
    encoder = OpenClipEncoder(model, "tiny", **more)
    reader = ShardReader(shards, "train")
    rows = load_rows(reader)
    return Embedder(encoder, reader, rows, accelerator, batch_size, 0, store, False, encoder.identity())


def all_vectors(embedder: Embedder) -> dict[str, torch.Tensor]:
    numbers = np.arange(len(embedder.rows))
    fields = {name: embedder.field(name, numbers) for name in ("title", "image")}
    return {name: vectors.block(0, len(vectors)).contiguous() for name, vectors in fields.items()}


def measured(embedder: Embedder) -> dict[str, object]:
    """What the task title2image measures."""
    task = RetrievalTask({"title": 1.0})
    return evaluate_task(task, embedder, embedder.rows, embedder.reader.kinds, {}, embedder.accelerator.device).metrics


def embed_and_save(shards: Path, kind: str, accelerator: Accelerator, folder: Path) -> None:
    store = EmbeddingStore(folder / "store", "float32") if kind == "stored" else None
    embedder = embedder_of(shards, accelerator, store)
    if kind == "sharded":
        encoder = embedder.encoder
        assert isinstance(encoder, OpenClipEncoder)
        torch.distributed.device_mesh.init_device_mesh("cpu", (accelerator.num_processes,))
        encoder.forward = fully_shard(encoder.model)
    save_file(all_vectors(embedder), folder / f"{accelerator.process_index}.safetensors")
    (folder / f"{accelerator.process_index}.json").write_text(json.dumps(measured(embedder)))


@pytest.mark.parametrize(
    ("world", "kind"), [(2, "memory"), (4, "memory"), (2, "stored"), (2, "sharded"), (4, "sharded")]
)
def test_processes_embed_what_one_embeds(demo_shards: Path, tmp_path: Path, world: int, kind: str) -> None:
    embedder = embedder_of(demo_shards, Accelerator(cpu=True))
    alone = all_vectors(embedder)
    run_on_processes(world, functools.partial(embed_and_save, demo_shards, kind), tmp_path)
    for process in range(world):
        found = load_file(tmp_path / f"{process}.safetensors")
        for name, vectors in alone.items():
            torch.testing.assert_close(found[name], vectors, atol=0 if kind != "sharded" else 1e-6, rtol=0)
        assert json.loads((tmp_path / f"{process}.json").read_text()) == measured(embedder)


def test_every_process_makes_as_many_forward_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    for world, items in [(2, 129), (4, 129), (3, 1000), (4, 5)]:
        monkeypatch.setattr(chunks, "world_size", lambda world=world: world)
        shares = []
        for rank in range(world):
            monkeypatch.setattr(chunks, "rank", lambda rank=rank: rank)
            shares.append(own_pieces(list(range(chunks.chunk_count(items))), items, 16))
        assert len({len(share) for share in shares}) == 1
        counted = [number for share in shares for p in share if p.counts for number in range(p.start, p.stop)]
        assert sorted(counted) == list(range(items))


def test_stored_embeddings_are_those_in_memory(demo_shards: Path, tmp_path: Path) -> None:
    accelerator = Accelerator(cpu=True)
    in_memory = all_vectors(embedder_of(demo_shards, accelerator))
    for stored_type, tolerance in (("float32", 0.0), ("float16", 5e-4)):
        stored = all_vectors(embedder_of(demo_shards, accelerator, EmbeddingStore(tmp_path, stored_type)))
        for name, vectors in in_memory.items():
            torch.testing.assert_close(stored[name], vectors, atol=tolerance, rtol=0)


def test_stored_embeddings_are_not_made_again(demo_shards: Path, tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    store = EmbeddingStore(tmp_path, "float32")
    first = embedder_of(demo_shards, Accelerator(cpu=True), store)
    all_vectors(first)
    second = embedder_of(demo_shards, Accelerator(cpu=True), store)
    second.encoder.encode_images = second.encoder.encode_texts = None  # type: ignore[method-assign]
    assert torch.equal(all_vectors(second)["image"], all_vectors(first)["image"])


def test_a_half_written_store_is_gone_on_with(demo_shards: Path, tmp_path: Path) -> None:
    store = EmbeddingStore(tmp_path, "float32")
    whole = all_vectors(embedder_of(demo_shards, Accelerator(cpu=True), store))
    (images,) = tmp_path.glob("image-*")
    marks = sorted((images / DONE).iterdir())
    assert len(marks) > 1
    marks[1].unlink()
    vectors = np.load(images / "vectors.npy", mmap_mode="r+")
    vectors[128:] = 7.0  # as a power cut might leave them
    del vectors
    assert torch.equal(all_vectors(embedder_of(demo_shards, Accelerator(cpu=True), store))["image"], whole["image"])


def other_shards(folder: Path, seed: int) -> Path:
    source = DemoSource(products=40, image_size=32, seed=seed)
    prepare(PrepareSettings(str(folder), source, split=SplitSettings(validation=0.0), workers=1), facts={})
    return folder


def test_nothing_is_taken_for_what_it_is_not(demo_shards: Path, tmp_path: Path) -> None:
    """Another weight, another tokenizer's text, another image size, other rows, other type: each has its own folder."""
    accelerator, folder = Accelerator(cpu=True), tmp_path / "store"

    def folders() -> int:
        return len(list(folder.glob("image-*")))

    store = EmbeddingStore(folder, "float32")
    all_vectors(embedder_of(demo_shards, accelerator, store))
    assert folders() == 1
    changed = embedder_of(demo_shards, accelerator, store)
    with torch.no_grad():
        next(changed.encoder.model.network.visual.parameters()).add_(1e-3)
    all_vectors(Embedder(**{**vars(changed), "identity": changed.encoder.identity()}))
    assert folders() == 2
    all_vectors(embedder_of(demo_shards, accelerator, EmbeddingStore(folder, "float16")))
    assert folders() == 3
    all_vectors(embedder_of(other_shards(tmp_path / "other", 1), accelerator, store))
    assert folders() == 4
    some = embedder_of(demo_shards, accelerator, store)
    some.field("image", np.arange(100))
    assert folders() == 5


def test_a_shard_that_was_changed_in_place_is_noticed(tmp_path: Path) -> None:
    shards, store = other_shards(tmp_path / "shards", 0), EmbeddingStore(tmp_path / "store", "float32")
    all_vectors(embedder_of(shards, Accelerator(cpu=True), store))
    (tar,) = shards.glob("train-*.tar")
    os.utime(tar)  # copied anew, the same content
    all_vectors(embedder_of(shards, Accelerator(cpu=True), store))
    content = bytearray(tar.read_bytes())
    content[5000] ^= 1
    tar.write_bytes(content)
    with pytest.raises(UserError, match=r"train-000000.tar is not the shard that manifest.json describes"):
        all_vectors(embedder_of(shards, Accelerator(cpu=True), store))


def test_texts_of_a_shard_that_was_changed_in_place_are_not_taken_for_the_old(tmp_path: Path) -> None:
    shards = other_shards(tmp_path / "shards", 0)
    stored_rows(ShardReader(shards, "train"), ["title"], tmp_path / "store", workers=0)
    (tar,) = shards.glob("train-*.tar")
    tar.write_bytes(tar.read_bytes().replace(b'"title": "', b'"title": "_', 1)[: tar.stat().st_size])
    with pytest.raises(UserError, match=r"train-000000.tar is not the shard that manifest.json describes"):
        stored_rows(ShardReader(shards, "train"), ["title"], tmp_path / "store", workers=0)


def test_a_command_that_comes_second_keeps_what_the_first_has_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both saw no file yet: the second's empty one must not take the place of the first's."""
    shape, folder = (128, 4), tmp_path / "image-0"
    store.prepare(folder, {}, shape, np.dtype("float32"))
    first = store.FileSink(folder, shape[0])
    first.write(0, torch.ones(shape), 0)
    monkeypatch.setattr(Path, "exists", lambda path: False)
    monkeypatch.setattr(Path, "glob", lambda path, pattern: iter([]))
    store.prepare(folder, {}, shape, np.dtype("float32"))
    assert (np.load(folder / "vectors.npy") == 1).all()


def test_shards_written_anew_in_the_same_place_are_embedded_anew(tmp_path: Path) -> None:
    store, found = EmbeddingStore(tmp_path / "store", "float32"), []
    for seed in (0, 1):
        shards = other_shards(tmp_path / "shards", seed)
        found.append(all_vectors(embedder_of(shards, Accelerator(cpu=True), store))["image"])
        fresh = all_vectors(embedder_of(shards, Accelerator(cpu=True)))["image"]
        assert torch.equal(found[-1], fresh)
        shards.rename(tmp_path / f"before-{seed}")
    assert not torch.equal(*found)


def test_a_damaged_store_gives_one_line(demo_shards: Path, tmp_path: Path) -> None:
    store = EmbeddingStore(tmp_path, "float32")
    all_vectors(embedder_of(demo_shards, Accelerator(cpu=True), store))
    (images,) = tmp_path.glob("image-*")
    vectors = images / "vectors.npy"
    vectors.write_bytes(vectors.read_bytes()[:-100])
    with pytest.raises(UserError, match="cannot be read"):
        all_vectors(embedder_of(demo_shards, Accelerator(cpu=True), store))
    vectors.unlink()
    with pytest.raises(UserError, match=r"has lost its vectors.npy; remove the folder"):
        all_vectors(embedder_of(demo_shards, Accelerator(cpu=True), store))


def test_an_embedding_that_is_not_finite_is_refused(demo_shards: Path) -> None:
    embedder = embedder_of(demo_shards, Accelerator(cpu=True))
    with torch.no_grad():
        next(embedder.encoder.model.network.visual.parameters()).fill_(float("nan"))
    with pytest.raises(UserError, match="embedding of image is not finite for item 0"):
        embedder.field("image", np.arange(10))


def test_a_row_without_the_image_is_zeros(demo_shards: Path) -> None:
    embedder = embedder_of(demo_shards, Accelerator(cpu=True))
    whole = embed_rows(embedder, ["image"])
    assert whole.present["image"].all()
    reader = ReaderWithout(embedder.reader, {3, 7})
    without = embed_rows(Embedder(**{**vars(embedder), "reader": reader}), ["image"])
    assert (~without.present["image"]).nonzero().squeeze(1).tolist() == [3, 7]
    kept = [number for number in range(len(whole.fields["image"])) if number not in (3, 7)]
    assert torch.equal(without.fields["image"][kept], whole.fields["image"][kept])


class ReaderWithout:
    """A split some of whose rows have no image."""

    def __init__(self, reader: ShardReader, rows: set[int]) -> None:
        self.reader, self.without, self.kinds = reader, rows, reader.kinds
        self.fingerprint = reader.fingerprint

    def __len__(self) -> int:
        return len(self.reader)

    def __getitem__(self, number: int) -> object:
        record = self.reader[number]
        return type(record)(record.fields, {}, record.origin) if number in self.without else record


def test_too_many_undecodable_images_are_no_measurement() -> None:
    check_undecodable(5, 100)
    with pytest.raises(UserError, match="6 images of 100 rows"):
        check_undecodable(6, 100)


def evaluate_command(weights: Path, shards: Path, store: Path, output: Path, *more: str) -> list[str]:
    return [
        f"checkpoint={weights}",
        "model=tiny",
        f"data.path={shards}",
        "data.split=train",
        "data.workers=0",
        f"embeddings.folder={store}",
        f"output_dir={output}",
        *more,
    ]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_file(build_open_clip(TINY, siglip_image=True, seed=1).network.state_dict(), path)
    return path


def metrics_of(output: Path) -> dict[str, object]:
    metrics: dict[str, object] = json.loads((output / "metrics.json").read_text())
    return metrics


def test_an_evaluation_that_was_killed_goes_on_to_the_same_numbers(
    weights: Path, demo_shards: Path, tmp_path: Path
) -> None:
    run_verb("evaluate", evaluate_command(weights, demo_shards, tmp_path / "other", tmp_path / "whole", "batch_size=1"))
    store = tmp_path / "store"
    command = evaluate_command(weights, demo_shards, store, tmp_path / "killed", "batch_size=1")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with one_core():
        process = subprocess.Popen(
            [sys.executable, "-m", "gcl", "evaluate", *command], env=environment, stderr=subprocess.DEVNULL
        )
    deadline = time.monotonic() + 120
    while not list(store.glob(f"image-*/{DONE}/*")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    marks = list(store.glob(f"image-*/{DONE}/*"))
    assert process.returncode == -9 and len(marks) == 1, "killed between two chunks"
    written = marks[0].stat().st_mtime_ns
    run_verb("evaluate", command)
    assert metrics_of(tmp_path / "killed") == metrics_of(tmp_path / "whole")
    assert marks[0].stat().st_mtime_ns == written, "what was whole is not made again"


def test_two_launched_processes_give_the_numbers_of_one(weights: Path, demo_shards: Path, tmp_path: Path) -> None:
    run_verb("evaluate", evaluate_command(weights, demo_shards, tmp_path / "one", tmp_path / "alone"))
    command = evaluate_command(weights, demo_shards, tmp_path / "two", tmp_path / "together")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "ACCELERATE_USE_CPU": "true"}
    subprocess.run(
        [*launcher_of(2), "-m", "gcl", "evaluate", *command], env=environment, check=True, capture_output=True
    )
    assert metrics_of(tmp_path / "together") == metrics_of(tmp_path / "alone")

"""Data sets in the columns of Marqo's evaluation sets, from local files and from a Hub on loopback, become rows."""

import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, Sequence, Value
from hub_server import COMMIT, hub_server
from PIL import Image as Pillow

from gcl.cli import run_verb
from gcl.data.record import Refusal, SourceRow
from gcl.data.sources.hf_dataset import HFDatasetSource
from gcl.errors import UserError

MARQO = Features(
    image=Image(), item_ID=Value("string"), query=Value("string"), title=Value("string"), position=Value("int64")
)


def jpeg(shade: int) -> bytes:
    encoded = io.BytesIO()
    Pillow.new("RGB", (8, 8), (shade % 256, shade // 256, 0)).save(encoded, "JPEG")
    return encoded.getvalue()


def marqo(numbers: range) -> Dataset:
    """Rows as Marqo/amazon-products-eval and Marqo/google-shopping-general-eval have them."""
    columns = {
        "image": [{"bytes": jpeg(number), "path": f"{number}.jpg"} for number in numbers],
        "item_ID": [f"{number:010d}" for number in numbers],
        "query": [f"query {number // 3}" for number in numbers],
        "title": [f"Title {number}" for number in numbers],
        "position": [number % 3 + 1 for number in numbers],
    }
    return Dataset.from_dict(columns, features=MARQO)


def marqo_fields(number: int) -> dict[str, str]:
    return {
        "item_id": f"{number:010d}",
        "title": f"Title {number}",
        "query": f"query {number // 3}",
        "position": str(number % 3 + 1),
    }


def rows(source: HFDatasetSource) -> list[SourceRow]:
    found = list(source)
    assert len(found) == len(source)
    assert all(isinstance(row, SourceRow) for row in found), found
    return [row for row in found if isinstance(row, SourceRow)]


def write_parquet(file: Path, numbers: range) -> None:
    """Parquet whose image column is what the format says, a struct of bytes and path, with no word of `datasets`."""
    table = marqo(numbers).data.table.replace_schema_metadata(None)
    pq.write_table(table, file, row_group_size=100)


def write_arrow_file(file: Path, numbers: range) -> None:
    table = marqo(numbers).data.table
    with pa.OSFile(str(file), "wb") as opened, pa.ipc.new_file(opened, table.schema) as writer:
        writer.write_table(table)


@pytest.mark.parametrize("form", ["parquet files", "parquet file", "plain parquet", "saved", "one of several", "arrow"])
def test_rows_in_marqos_columns_need_no_setting_whatever_file_holds_them(tmp_path: Path, form: str) -> None:
    path, split = tmp_path / "eval", "train"
    if form == "parquet files":
        split = "data"
        (path / "data").mkdir(parents=True)
        for part in range(2):
            file = path / "data" / f"data-0000{part}-of-00002.parquet"
            marqo(range(150 * part, 150 * part + 150)).to_parquet(file, batch_size=70)
    elif form == "parquet file":
        path = tmp_path / "eval.parquet"
        marqo(range(300)).to_parquet(path)
    elif form == "plain parquet":
        path = tmp_path / "eval.parquet"
        write_parquet(path, range(300))
    elif form == "saved":
        marqo(range(300)).save_to_disk(path, num_shards=3)
    elif form == "one of several":
        split = "test"
        DatasetDict(train=marqo(range(7)), test=marqo(range(300))).save_to_disk(path)
    else:
        path = tmp_path / "eval.arrow"
        write_arrow_file(path, range(300))
    source = HFDatasetSource(str(path), split="test" if form == "one of several" else None)
    found = rows(source)
    assert [row.fields for row in found] == [marqo_fields(number) for number in range(300)]
    assert [row.images for row in found] == [{"image": (jpeg(number),)} for number in range(300)]
    assert [row.origin for row in found[::299]] == [f"{path.name}:{split}:1", f"{path.name}:{split}:300"]
    assert rows(source) == found  # the same rows each time they are asked for


def test_the_split_must_be_chosen_where_there_are_several(tmp_path: Path) -> None:
    DatasetDict(train=marqo(range(2)), test=marqo(range(3))).save_to_disk(tmp_path / "eval")
    with pytest.raises(UserError, match=r"has the splits train, test; choose one: source\.split=train"):
        HFDatasetSource(str(tmp_path / "eval"))
    with pytest.raises(UserError, match="no split 'tset'; it has train, test"):
        HFDatasetSource(str(tmp_path / "eval"), split="tset")


def test_columns_are_renamed_and_a_wrong_name_is_answered_with_the_nearest(tmp_path: Path) -> None:
    table = marqo(range(3)).rename_columns({"item_ID": "pk", "title": "caption"})
    table.to_parquet(tmp_path / "eval.parquet")
    columns = {"item_id": "pk", "title": "caption", "score": "position"}
    found = rows(HFDatasetSource(str(tmp_path / "eval.parquet"), columns=columns))
    assert found[1].fields == {"item_id": "0000000001", "title": "Title 1", "query": "query 0", "score": 2.0}
    with pytest.raises(UserError, match=r"columns.title is 'captain'.* \(did you mean caption\?\)"):
        HFDatasetSource(str(tmp_path / "eval.parquet"), columns={"title": "captain"})
    with pytest.raises(UserError, match="no column for title"):
        HFDatasetSource(str(tmp_path / "eval.parquet"))


def test_web_addresses_paths_and_further_images_are_candidates_undecoded(tmp_path: Path) -> None:
    features = Features(
        id=Value("int32"),
        name=Value("string"),
        image_url=Value("string"),
        back=Image(),
        views=Sequence(Image()),
        kind=ClassLabel(names=["hat", "shoe"]),
        sound={"bytes": Value("binary"), "path": Value("string")},
    )
    table = {
        "id": [1, 2],
        "name": ["Hat", "Shoe"],
        "image_url": ["https://shop.example/1.jpg", "photos/2.jpg"],
        "back": [{"bytes": b"not an image", "path": "b.jpg"}, None],
        "views": [[{"bytes": None, "path": "v1.jpg"}, {"bytes": None, "path": "v2.jpg"}], []],
        "kind": [1, -1],
        "sound": [{"bytes": b"moo", "path": None}] * 2,
    }
    pq.write_table(Dataset.from_dict(table, features=features).data.table, tmp_path / "shop.parquet")
    first, second = rows(HFDatasetSource(str(tmp_path / "shop.parquet")))
    assert first.fields == {"item_id": "1", "title": "Hat", "kind": "shoe"}
    assert second.fields == {"item_id": "2", "title": "Shoe"}
    assert first.images == {"image": ("https://shop.example/1.jpg",), "back": (b"not an image",)}
    assert second.images == {"image": ("photos/2.jpg",)}
    views = rows(HFDatasetSource(str(tmp_path / "shop.parquet"), columns={"image": "views", "front": "image_url"}))
    assert views[0].images["image"] == ("v1.jpg", "v2.jpg") and views[1].images["image"] == ()
    assert views[0].fields["front"] == "https://shop.example/1.jpg"


def test_a_folder_of_photos_in_folders_by_kind_is_a_data_set_with_numbered_rows(tmp_path: Path) -> None:
    for name in ("hat/a.jpg", "shoe/b.jpg", "shoe/c.jpg"):
        (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "photos" / name).write_bytes(jpeg(len(name)))
    source = HFDatasetSource(str(tmp_path / "photos"), columns={"title": "label"})
    found = rows(source)
    assert [row.fields for row in found] == [
        {"item_id": str(number), "title": kind} for number, kind in enumerate(["hat", "shoe", "shoe"], start=1)
    ]
    paths = [Path(str(row.images["image"][0])) for row in found]
    assert [path.name for path in paths] == ["a.jpg", "b.jpg", "c.jpg"]
    assert all(path.resolve().is_relative_to(source.folder) for path in paths)


def test_text_that_is_no_utf8_refuses_its_row_alone(tmp_path: Path) -> None:
    titles = pa.array([b"Hat", b"caf\xe9", b"Shoe"]).view(pa.string())
    table = pa.table({"item_ID": ["1", "2", "3"], "title": titles, "image": [jpeg(1)] * 3})
    pq.write_table(table, tmp_path / "shop.parquet")
    first, second, third = HFDatasetSource(str(tmp_path / "shop.parquet"))
    assert isinstance(second, Refusal) and second.reason == "wrong encoding"
    assert isinstance(first, SourceRow) and isinstance(third, SourceRow) and third.fields["title"] == "Shoe"


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("Marqo/amazon-products-eval", "Marqo/amazon-products-eval cannot be read as a data set"),
        ("csv", "source.path is 'csv'; it must be a folder or file that exists, or OWNER/NAME on the Hub"),
        ("https://shop.example/eval.parquet?key=SECRET", "source.path is an address; it must be"),
        ("", "source.path is ''; it must be"),
        ("table.csv", "neither .parquet nor .arrow nor a folder"),
        ("broken.parquet", "broken.parquet cannot be read"),
        ("empty.parquet", "holds no row"),
        ("folder", "folder cannot be read as a data set"),
        ("script", "script cannot be read as a data set"),
    ],
)
def test_what_cannot_be_read_is_said_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("table.csv").write_text("a,b\n")
    Path("broken.parquet").write_bytes(b"PAR1 no more")
    marqo(range(0)).to_parquet("empty.parquet")
    Path("folder").mkdir()
    Path("script").mkdir()
    Path("script/script.py").write_text("open('ran', 'w')\n")
    with pytest.raises(UserError) as error:
        HFDatasetSource(path)
    assert message in str(error.value) and "\n" not in str(error.value) and "SECRET" not in str(error.value)
    assert not Path("ran").exists()


def test_a_file_that_breaks_off_stops_with_its_name(tmp_path: Path) -> None:
    file = tmp_path / "eval.parquet"
    write_parquet(file, range(300))
    content = bytearray(file.read_bytes())
    content[len(content) // 2 - 5000 : len(content) // 2] = bytes(5000)
    file.write_bytes(content)
    with pytest.raises(UserError, match=r"eval\.parquet cannot be read"):
        list(HFDatasetSource(str(file)))


def test_prepare_writes_the_bytes_of_the_data_set_and_counts_rows_it_cannot_use(tmp_path: Path) -> None:
    (tmp_path / "secret.jpg").write_bytes(jpeg(9))
    images: list[Any] = [{"bytes": jpeg(number), "path": None} for number in range(20)]
    images[3] = None
    images[4] = {"bytes": jpeg(4)[:-300], "path": None}
    images[5] = {"bytes": None, "path": "inside.jpg"}
    images[6] = {"bytes": None, "path": "../secret.jpg"}
    images[7] = {"bytes": None, "path": str(tmp_path / "secret.jpg")}
    columns = {name: marqo(range(20))[name] for name in ("item_ID", "query", "title", "position")}
    columns["title"] = [*columns["title"][:8], None, *columns["title"][9:]]
    table = Dataset.from_dict({"image": images, **columns}, features=MARQO)
    (tmp_path / "eval").mkdir()
    (tmp_path / "eval" / "inside.jpg").write_bytes(jpeg(5))
    pq.write_table(table.data.table, tmp_path / "eval" / "eval.parquet")
    output = tmp_path / "shards"
    arguments = ["source=hf_dataset", f"source.path={tmp_path / 'eval' / 'eval.parquet'}", f"output_dir={output}"]
    run_verb("prepare", [*arguments, "max_refused_share=0.5", "workers=1"])
    refused = [json.loads(line) for line in (output / "refused.jsonl").read_text().splitlines()]
    assert {(row["origin"], row["reason"]) for row in refused} == {
        ("eval.parquet:train:4", "missing image"),
        ("eval.parquet:train:5", "bad image"),
        ("eval.parquet:train:7", "image outside the source"),
        ("eval.parquet:train:8", "image outside the source"),
        ("eval.parquet:train:9", "empty title"),
    }
    assert images_by_item(output) == {f"{n:010d}": jpeg(n) for n in range(20) if n not in (3, 4, 6, 7, 8)}


def images_by_item(shards: Path) -> dict[str, bytes]:
    """The image of each item in all shards."""
    found = {}
    for shard in shards.glob("*.tar"):
        with tarfile.open(shard) as opened:
            content = {name: opened.extractfile(name).read() for name in opened.getnames()}  # type: ignore[union-attr]
        for name in (name for name in content if name.endswith(".json")):
            found[json.loads(content[name])["item_id"]] = content[name.replace(".json", ".image.jpg")]
    return found


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a Hub with the data sets Marqo/amazon-products-eval, shop/photos and nothing else."""
    folder = tmp_path_factory.mktemp("hub")
    marqo(range(30)).to_parquet(folder / "eval.parquet")
    repositories = {
        "Marqo/amazon-products-eval": {
            "README.md": b"---\nlicense: apache-2.0\n---\n",
            "data/data-00000-of-00001.parquet": (folder / "eval.parquet").read_bytes(),
        },
        "shop/photos": {"hat/a.jpg": jpeg(1), "shoe/b.jpg": jpeg(2)},
    }

    def name_of(path: str) -> str | None:
        return next((name for name in repositories if name in path), None)

    def content_of(path: str) -> bytes | None:
        name = name_of(path)
        return hub_answer(path, name, repositories[name]) if name else None

    with hub_server(content_of, lambda path: name_of(path) is not None) as address:
        yield address


def hub_answer(address: str, name: str, files: dict[str, bytes]) -> bytes | None:
    """What the Hub says of one data set: its files, its facts, or what a folder of it holds."""
    path, _, query = address.partition("?")
    is_recursive = "recursive=true" in query
    for revision in ("main", COMMIT):
        if path.startswith(prefix := f"/datasets/{name}/resolve/{revision}/"):
            return files.get(path.removeprefix(prefix))
        if path in (f"/api/datasets/{name}", f"/api/datasets/{name}/revision/{revision}"):
            siblings = [{"rfilename": file} for file in files]
            return json.dumps({"_id": "1", "id": name, "sha": COMMIT, "siblings": siblings}).encode()
        if path.startswith(prefix := f"/api/datasets/{name}/tree/{revision}"):
            folder = f"{path.removeprefix(prefix)}/".lstrip("/")
            inside = {file: content for file, content in files.items() if file.startswith(folder)}
            entries = {}
            for file, content in inside.items():
                first, *below = file.removeprefix(folder).split("/")
                if below:
                    entries[first] = {"type": "directory", "path": folder + first, "size": 0, "oid": COMMIT}
                if not below or is_recursive:
                    sha = hashlib.sha1(content).hexdigest()
                    entries[file] = {"type": "file", "path": file, "size": len(content), "oid": sha}
            return json.dumps(list(entries.values())).encode() if entries else None
    return None


PREPARE = """
import sys
from gcl.cli import run_verb
cache, *paths = sys.argv[1:]
for number, path in enumerate(paths):
    columns = ["source.columns={title: label}"] if path == "shop/photos" else []
    output = f"{cache}/{path}-{number}"
    try:
        run_verb("prepare", ["source=hf_dataset", f"source.path={path}", f"output_dir={output}", "workers=1", *columns])
    except ValueError as error:
        print("refused:", error)
"""


def prepare(hub: str, cache: Path, *paths: str, **environment: str) -> str:
    """Prepare data sets of the loopback Hub; in another process, because the Hub's client reads its address once."""
    environment = {**os.environ, "HF_ENDPOINT": hub, "HF_HUB_OFFLINE": "0", "HF_HOME": str(cache), **environment}
    command = [sys.executable, "-c", PREPARE, str(cache), *paths]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_data_sets_are_prepared_by_their_names_on_the_hub_and_again_without_a_network(hub: str, tmp_path: Path) -> None:
    marqos, photos, absent = "Marqo/amazon-products-eval", "shop/photos", "shop/absent"
    told = prepare(hub, tmp_path, marqos, photos, absent)
    expected = {f"{number:010d}": jpeg(number) for number in range(30)}
    assert images_by_item(tmp_path / f"{marqos}-0") == expected
    assert images_by_item(tmp_path / f"{photos}-1") == {"1": jpeg(1), "2": jpeg(2)}  # files of their own
    refused = [line for line in told.splitlines() if line.startswith("refused: ")]
    assert len(refused) == 1 and f"{absent} cannot be read as a data set" in refused[0]
    told = prepare("http://127.0.0.1:9", tmp_path, absent, marqos, HF_HUB_OFFLINE="1")
    assert images_by_item(tmp_path / f"{marqos}-1") == expected
    refused = [line for line in told.splitlines() if line.startswith("refused: ")]
    assert len(refused) == 1 and absent in refused[0] and "Offline" in refused[0]

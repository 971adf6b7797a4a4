"""The tasks of Marqo's benchmarks, from rows as the Hub holds them to metrics, and beside the published tables."""

import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from safetensors.torch import save_file

from gcl.cli import run_verb
from gcl.models.open_clip_start import build_open_clip

PRODUCTS, CATEGORIES = 60, 5


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_file(build_open_clip("package:gcl/models/gcl-tiny.json", siglip_image=True).network.state_dict(), path)
    return path


def picture(number: int) -> bytes:
    file = io.BytesIO()
    pixels = np.random.default_rng(number).integers(0, 255, (40, 40, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, "JPEG")
    return file.getvalue()


@pytest.fixture(scope="module")
def shopping(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards from a Parquet file with the columns of Marqo/google-shopping-general-eval."""
    folder = tmp_path_factory.mktemp("google")
    rows = {
        "image": [{"bytes": picture(number), "path": None} for number in range(PRODUCTS)],
        "item_ID": [f"00{number:04d}" for number in range(PRODUCTS)],
        "query": [f"category {number % CATEGORIES}" for number in range(PRODUCTS)],
        "title": [f"product {number // 2}" for number in range(PRODUCTS)],
        "position": [number // CATEGORIES + 1 for number in range(PRODUCTS)],
    }
    pq.write_table(pa.table(rows), folder / "data.parquet")
    source = [f"source.path={folder / 'data.parquet'}", "split.validation=1", "workers=1"]
    run_verb("prepare", ["source=hf_dataset", *source, f"output_dir={folder / 'shards'}"])
    return folder / "shards"


def evaluate(weights: Path, shards: Path, task: str, output: Path, *more: str) -> dict[str, dict[str, object]]:
    run_verb(
        "evaluate",
        [
            f"checkpoint={weights}",
            "model=tiny",
            f"task={task}",
            f"data.path={shards}",
            "data.workers=0",
            f"embeddings.folder={output.parent / 'store'}",
            f"output_dir={output}",
            *more,
        ],
    )
    return {name: json.loads((output / f"{name}.json").read_text()) for name in ("metrics", "evaluation")}


@pytest.mark.parametrize(
    ("task", "queries"),
    [
        ("google_shopping_title2image", PRODUCTS // 2),
        ("google_shopping_category2image", CATEGORIES),
        ("amazon_products_title2image", PRODUCTS // 2),
    ],
)
def test_a_task_in_both_regimes(weights: Path, shopping: Path, tmp_path: Path, task: str, queries: int) -> None:
    hard = evaluate(weights, shopping, task, tmp_path / "hard")
    assert hard["metrics"]["queries"] == queries and hard["metrics"]["corpus"] == PRODUCTS
    assert hard["evaluation"]["regime"] == "hard" and hard["evaluation"]["sample_rows"] is None
    easy = evaluate(weights, shopping, f"{task}_easy", tmp_path / "easy", "task.sample_rows=20")
    assert easy["metrics"]["corpus"] == 20 and easy["evaluation"]["regime"] == "easy"


def test_published_rows_stand_beside_one_s_own(
    weights: Path, shopping: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluate(weights, shopping, "google_shopping_title2image", tmp_path / "mine")
    capsys.readouterr()
    run_verb("compare", [str(tmp_path / "mine"), f"output_dir={tmp_path / 'compared'}"])
    rows = (tmp_path / "compared" / "compare.csv").read_text().splitlines()
    published = [row for row in rows if "published" in row and "google_shopping_title2image" in row]
    assert any(row.startswith("Marqo-Ecommerce-L") and ",0.682" in row for row in published)
    assert not any("category2image" in row for row in rows), "a task that was not measured"


def test_marqo_gs_grades_by_score_and_searches_further_folders(weights: Path, tmp_path: Path) -> None:
    columns = "query,product_id,title,image_local,score_linear,position\n"
    images = tmp_path / "images"
    images.mkdir()
    for number in range(12):
        (images / f"{number}.jpg").write_bytes(picture(number))
    for split, asks, products in (("novel_query", 1, 6), ("in_domain", 0, 12)):
        folder = tmp_path / split
        folder.mkdir()
        lines = [f"{split} {n % 3},{n},title {n},{n}.jpg,{100 - n},{n}" for n in range(products)]
        (folder / f"query_{asks}_product_id_0.csv").write_text(columns + "\n".join(lines) + "\n")
        source = [f"source.path={folder}", f"source.split={split}", f"source.images={images}"]
        prepared = ["split.validation=1", "workers=1", f"output_dir={tmp_path / 'shards' / split}"]
        run_verb("prepare", ["source=marqo_gs", *source, *prepared])
    novel, in_domain = tmp_path / "shards/novel_query", tmp_path / "shards/in_domain"
    found = evaluate(weights, novel, "marqo_gs", tmp_path / "out", f"data.corpus=[{in_domain}]")
    assert found["metrics"]["queries"] == 3 and found["metrics"]["corpus"] == 12
    table = pq.read_table(tmp_path / "out" / "per_query.parquet").to_pylist()
    grades = {row["query"]: row["relevant_ids"] for row in table}
    assert grades == {f"novel_query {n}": [str(n), str(n + 3)] for n in range(3)}, "the higher score first"

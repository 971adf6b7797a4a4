"""`gcl mine`: hard negatives for every row of a split, found with a checkpoint and written beside the shards.

gcl mine checkpoint=runs/mine data.path=shards/mine
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from rich.text import Text
from torch import Tensor
from torch.nn import functional

from gcl.config import load_settings
from gcl.data.batch import identity
from gcl.data.manifest import TEXT
from gcl.data.negatives import write_negatives
from gcl.data.record import ITEM_ID
from gcl.data.storage.folders import is_remote
from gcl.distributed import Precision, is_main_process, leave, start_processes
from gcl.encoders.load import LoadedEncoder, load_encoder
from gcl.errors import UserError
from gcl.files import check_new_folder
from gcl.losses.objective import Objective
from gcl.losses.pair import Pair
from gcl.losses.side import side_embedding
from gcl.parts import Part, build, build_as, is_part
from gcl.progress import progress_bar
from gcl.retrieval.embeddings.embed import Embedder
from gcl.retrieval.embeddings.joined_reader import JoinedReader
from gcl.retrieval.embeddings.row_embeddings import RowEmbeddings, embed_rows
from gcl.retrieval.embeddings.rows import Rows, load_rows
from gcl.retrieval.hard_negatives import Mined, Sides, search_negatives
from gcl.retrieval.model_evaluation import precision_of, reader_of
from gcl.retrieval.settings import SearchedData

EXAMPLES = 3  # rows that are shown with their hardest negative


@dataclass
class MineSettings:
    """Find hard negatives for every row of a split and write them beside the shards, for data.negatives of a run."""

    checkpoint: str  # a run, a checkpoint folder, a .pt or .safetensors file, ViT-B-16-SigLIP/webli, hf-hub:ORG/NAME
    data: SearchedData  # the rows, each of which can be the negative of another
    left: dict[str, float] | None = None  # field -> weight: what asks; null: that of the run's first pair
    right: dict[str, float] | None = None  # field -> weight: what answers; null: that of the run's first pair
    output_dir: str | None = None  # folder for the negatives; null: negatives/ in the folder of the shards
    negatives_per_row: int = 10  # at most; training draws one of them each time it reads the row
    margin: float = 0.95  # times the score of a row's own positive: what scores higher is taken for a false negative
    batch_size: int = 128  # rows encoded at once, per process
    precision: Precision | None = None  # of the towers' matrix products; null: the run's, or float32
    model: Part | None = None  # architecture of a .pt or .safetensors file
    trust_remote_code: bool = False  # run Python code that comes with a transformers: or sentence-transformers: model

    def __post_init__(self) -> None:
        for name, value in (("negatives_per_row", self.negatives_per_row), ("batch_size", self.batch_size)):
            if value < 1:
                raise UserError(f"{name}={value} must be at least 1")
        if not 0 < self.margin <= 1:
            raise UserError(f"margin={self.margin} must lie above 0 and up to 1: it is a share of the positive's score")


def main(arguments: list[str]) -> None:
    chosen = load_settings("mine", MineSettings, arguments)
    settings: MineSettings = build_as(MineSettings, {**chosen, "model": None})
    loaded = load_encoder(settings.checkpoint, chosen["model"], settings.trust_remote_code)
    pair = pair_to_mine(settings, loaded)
    reader = reader_of(loaded, settings.checkpoint, settings.data)
    if isinstance(reader, JoinedReader):
        raise UserError("data.corpus has no use here: negatives lie in the folder of the rows that they are for")
    reader.split_fields([*pair.left, *pair.right])
    if settings.output_dir is None and is_remote(reader.folder):
        raise UserError(f"{reader.folder} is no local folder to write negatives to; give output_dir=DIR")
    output = Path(settings.output_dir or Path(reader.folder) / "negatives").expanduser().resolve()
    check_new_folder(output)
    accelerator = start_processes(precision_of(loaded, settings.precision))
    embedder = Embedder(
        loaded.encoder.to(accelerator.device),
        reader,
        load_rows(reader),
        accelerator,
        settings.batch_size,
        settings.data.workers,
        None,
        shows_progress=True,
    )
    mined = mine(embedder, pair, settings)
    if accelerator.is_main_process:
        facts = {"checkpoint": loaded.encoder.name, "left": pair.left, "right": pair.right, "margin": settings.margin}
        table = padded(mined.numbers, settings.negatives_per_row)
        write_negatives(output, reader, table, facts, statistics_of(mined))
        show(mined, embedder.rows, pair, output)
    leave()


def pair_to_mine(settings: MineSettings, loaded: LoadedEncoder) -> Pair:
    """The sides that are given; for one that is not, that of the first pair that the run was trained on."""
    if settings.left is not None and settings.right is not None:
        return Pair(settings.left, settings.right)
    part = loaded.settings.get("objective") if loaded.settings else None
    objective = build(part) if part and is_part(part) else None
    if not isinstance(objective, Objective):
        raise UserError(
            f"checkpoint {settings.checkpoint} does not say which sides to mine; give both, such as "
            "'left={title: 1.0}' 'right={image: 1.0}'"
        )
    first = objective.pairs[0]
    left = first.left if settings.left is None else settings.left
    right = first.right if settings.right is None else settings.right
    return replace(first, left=left, right=right)


def mine(embedder: Embedder, pair: Pair, settings: MineSettings) -> Mined:
    """Embed every row and search its negatives (all ranks participate).

    Raises:
        UserError: no row has any.
    """
    with torch.inference_mode():
        sides = build_sides(embed_rows(embedder, [*pair.left, *pair.right]), pair, settings.margin)
    with progress_bar(is_main_process()) as progress:
        mined = search_negatives(sides, settings.negatives_per_row, progress)
    if not mined.takes_part.any():
        raise UserError(f"no row of {embedder.reader.folder} has both sides, {pair.left} and {pair.right}")
    if not mined.has_negatives.any():
        raise UserError(
            f"no row has a negative: margin={settings.margin} takes {int(mined.false_negatives.sum())} candidates for "
            "false negatives, and all others are equal in item_id or a text; raise it, or mine with a model that tells "
            "these rows apart"
        )
    return mined


def build_sides(embeddings: RowEmbeddings, pair: Pair, margin: float) -> Sides:
    """Both sides of the rows; those that agree in item_id, a text of the sides or a field of `pair.same` are alike."""
    present, reader = embeddings.present, embeddings.embedder.reader
    left, has_left = side_embedding(pair.left, embeddings.fields, present)
    right, has_right = side_embedding(pair.right, embeddings.fields, present)
    records = embeddings.embedder.rows.records()
    texts = [name for name in embeddings.fields if reader.kinds[name] == TEXT]
    names = dict.fromkeys([ITEM_ID, *texts, *(pair.same or [])])
    identities = [identity(records, name).to(left.device) for name in names]
    return Sides(left, right, has_left, has_right, identities, margin)


def padded(numbers: Tensor, width: int) -> np.ndarray:
    """(rows, width) int32, filled up with -1."""
    table: np.ndarray = functional.pad(numbers, (0, width - numbers.shape[1]), value=-1).cpu().numpy().astype(np.int32)
    return table


def statistics_of(mined: Mined) -> dict[str, Any]:
    """What the manifest says of a split's negatives."""
    return {
        "rows_with_both_sides": int(mined.takes_part.sum()),
        "rows_with_negatives": int(mined.has_negatives.sum()),
        "mean_positive_score": float(mined.positive[mined.takes_part].mean()),
        "mean_hardest_score": float(mined.scores[mined.has_negatives, 0].mean()),
        "false_negatives": int(mined.false_negatives.sum()),
    }


def show(mined: Mined, rows: Rows, pair: Pair, output: Path) -> None:
    """Print what was found, and a few rows with their hardest negative."""
    found, console = statistics_of(mined), Console()
    examples = Table("row", "score", "hardest negative", "score")
    numbers = mined.has_negatives.nonzero().squeeze(1).tolist()
    for number in numbers[:: -(-len(numbers) // EXAMPLES)]:
        row, negative = rows.row(number), rows.row(int(mined.numbers[number, 0]))
        scores = [f"{float(score):.4f}" for score in (mined.positive[number], mined.scores[number, 0])]
        texts = [described(row, [*pair.left]), described(negative, [*pair.right, *pair.left])]
        examples.add_row(Text(texts[0]), scores[0], Text(texts[1]), scores[1])  # Text: a title may hold [brackets]
    console.print(examples)
    console.print(
        f"{found['rows_with_negatives']} of {len(rows)} rows have negatives; mean score of positives "
        f"{found['mean_positive_score']:.4f}, of hardest negatives {found['mean_hardest_score']:.4f}; "
        f"{found['false_negatives']} candidates were taken for false negatives",
        highlight=False,
    )
    console.print(f"wrote {output}; train with data.negatives={output}", soft_wrap=True, highlight=False)


def described(row: dict[str, str], fields: list[str]) -> str:
    """The first text that a row has among `fields`, or its item_id."""
    return next((row[name] for name in fields if row.get(name)), row[ITEM_ID])

"""Global batches with weights, missing fields, false negatives and explicit negatives, and small towers for them."""

from dataclasses import dataclass, field, replace
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from gcl.data.batch import Batch
from gcl.losses.objective import Loss, Objective, PairLoss
from gcl.losses.pair import Pair
from gcl.losses.rows import FalseNegatives
from gcl.losses.sigmoid import SigmoidLoss
from gcl.losses.softmax import SoftmaxLoss
from gcl.losses.weighting import ConstantWeight, LinearWeight
from gcl.models.dual_encoder import Embeddings

ROWS, IMAGE_DIM, TEXT_DIM, DIM = 36, 7, 9, 5  # 36 is divisible by 1, 2, 3 and 4
LOSSES = ("sigmoid", "softmax")
TILES = (3, 7, 64)  # smaller than a process's rows, not dividing them, and larger than the whole batch
MICRO_BATCHES = (1, 3)

NEGATIVE_FIELDS = ["negatives.image", "negatives.title"]
Groups = dict[str, list[list[int]]]  # field -> groups of rows that share its value


class Towers(nn.Module):
    """Returns what DualEncoder does; inputs are float64 features, and all texts share one tower."""

    def __init__(self, between: nn.Module | None = None) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(2)
            self.image = nn.Sequential(nn.Linear(IMAGE_DIM, 8), between or nn.Tanh(), nn.Linear(8, DIM)).double()
            self.text = nn.Sequential(nn.Linear(TEXT_DIM, 8), between or nn.Tanh(), nn.Linear(8, DIM)).double()
        self.logit_scale = nn.Parameter(torch.tensor([9.0], dtype=torch.float64))
        self.logit_bias = nn.Parameter(torch.tensor([-3.0], dtype=torch.float64))

    def forward(self, images: dict[str, Tensor], texts: dict[str, Tensor]) -> Embeddings:
        fields = {name: self.encode(self.image, value) for name, value in images.items()}
        fields |= {name: self.encode(self.text, value) for name, value in texts.items()}
        return Embeddings(fields, self.logit_scale * 1, self.logit_bias * 1)

    def encode(self, tower: nn.Module, value: Tensor) -> Tensor:
        return functional.normalize(tower(value), dim=-1)


@dataclass(frozen=True)
class Case:
    """An objective and what is special about the rows of its batch."""

    pairs: list[Pair]
    matryoshka: dict[int, float] = field(default_factory=dict)
    weighted: bool = False
    weight_negatives: bool = False  # of the sigmoid loss
    missing: dict[str, list[int]] = field(default_factory=dict)  # field -> rows without it
    equal: Groups = field(default_factory=dict)
    unknown: dict[str, list[int]] = field(default_factory=dict)  # field -> rows whose value is not known
    has_negatives: bool = False  # rows bring explicit negatives

    @property
    def losses(self) -> tuple[str, ...]:
        return ("sigmoid",) if self.weight_negatives else LOSSES

    def loss(self, loss_name: str, tile_size: int) -> Loss:
        """The objective as a trainer is given it."""
        pair_loss: PairLoss = SoftmaxLoss(tile_size)
        if loss_name == "sigmoid":
            pair_loss = SigmoidLoss(self.weight_negatives, tile_size)
        objective = Objective(self.pairs, self.matryoshka)
        return partial(objective.loss, pair_loss, LinearWeight() if self.weighted else ConstantWeight())

    def batch(self) -> Batch:
        """The rows of all processes. A missing field has embeddings too: nothing may depend on them."""
        objective = Objective(self.pairs)
        names = objective.fields + (NEGATIVE_FIELDS if self.has_negatives else [])
        generator = torch.Generator().manual_seed(1)
        dims = {name: IMAGE_DIM if name.endswith("image") else TEXT_DIM for name in names}
        inputs = {name: torch.randn(ROWS, dims[name], generator=generator).double() for name in names}
        present = {name: torch.ones(ROWS, dtype=torch.bool) for name in names}
        for name, rows in self.missing.items():
            present[name][rows] = False
        score = (torch.arange(ROWS) * 7 % 16 + 1) / 16  # exact in float32, and so are their means
        images = {name: inputs[name] for name in names if name.endswith("image")}
        texts = {name: inputs[name] for name in names if not name.endswith("image")}
        return Batch(images, texts, present, self._identities(), score, encoded_images=0, undecodable=0, unscored=0)

    def _identities(self) -> dict[str, Tensor]:
        names = ["item_id", "title", "query", "category", "image.hash"]
        if self.has_negatives:
            names += ["negatives.item_id", "negatives.title"]
        identities = {name: torch.arange(1, ROWS + 1) * 1000 + number for number, name in enumerate(names)}
        for name, groups in self.equal.items():
            for group in groups:
                identities[name][group] = -1 - group[0]
        for name, rows in self.unknown.items():
            identities[name][rows] = 0
        if self.has_negatives:
            # Some negatives are what other rows sell.
            identities["negatives.item_id"][[4, 25]] = identities["item_id"][[2, 20]]
            identities["negatives.title"][[6, 15]] = identities["title"][[1, 22]]
        return identities


def gcl_fields(false_negatives: FalseNegatives = "ignore", same: list[str] | None = None) -> list[Pair]:
    query = Pair({"query": 1.0}, {"image": 0.9, "title": 0.1}, 1.0, same, false_negatives)
    return [query, Pair({"title": 1.0}, {"image": 1.0}, 0.5, same, false_negatives)]


QUERY_PAIR = Pair({"query": 1.0}, {"image": 0.9, "title": 0.1}, 1.0, ["query"], "positive")
TITLE_IMAGE = [Pair({"title": 1.0}, {"image": 1.0})]
EVERY_ROW, LAST_HALF, LAST_QUARTER = list(range(ROWS)), list(range(18, ROWS)), list(range(27, ROWS))

PLAIN = Case(gcl_fields())
# The second pair has no row in the last half, and no pair has one in the last quarter: processes without rows. Groups
# cross the borders of processes; rows 8 and 10 agree in fields of both sides.
MASKS = replace(
    PLAIN,
    missing={"title": [0, 5, 6, *LAST_HALF], "query": [1, 6, 9, *LAST_QUARTER], "image": [5, 6, 11]},
    equal={
        "item_id": [[0, 11], [3, 4, 20], [2, 14]],
        "title": [[2, 7], [4, 9], [8, 10]],
        "query": [[1, 8, 10, 19], [3, 25], [12, 13, 15, 16, 17, 18, 21, 22, 24]],
    },
    unknown={"item_id": [12, 13, 26], "title": [14, 15], "query": [5, 23, 26]},
)
NEGATIVES = Case(gcl_fields(), has_negatives=True, missing={"negatives.image": [0, 3, 9, 10, *LAST_QUARTER]})
ALL_AT_ONCE = replace(
    MASKS,
    pairs=[*gcl_fields("positive"), Pair({"title": 0.3, "query": 0.7}, {"image": 1.0}, 0.25, ["category", "item_id"])],
    matryoshka={2: 0.5, 4: 2.0},
    weighted=True,
    has_negatives=True,
    missing={**MASKS.missing, "negatives.image": [0, 1, *LAST_HALF], "negatives.title": [0, 9, 12]},
    equal={**MASKS.equal, "category": [EVERY_ROW[::3]]},
)
GRID = {
    "plain": PLAIN,
    "weights": replace(PLAIN, weighted=True),
    "masks": MASKS,
    "masks_and_weights": replace(MASKS, weighted=True),
}
CASES = {
    **GRID,
    "title_image": Case(TITLE_IMAGE),
    "positives": replace(MASKS, pairs=gcl_fields("positive")),
    "weighted_positives": replace(MASKS, pairs=gcl_fields("positive"), weighted=True),
    "positives_by_query": replace(MASKS, pairs=[QUERY_PAIR], weighted=True),
    "positives_by_image_hash": Case(
        gcl_fields("positive", ["image.hash"]), weighted=True, equal={"image.hash": [[0, 9, 35], [12, 13]]}
    ),
    "ignored_by_category": Case(gcl_fields(same=["category"]), equal={"category": [EVERY_ROW[::2], EVERY_ROW[1::4]]}),
    "all_are_negatives": replace(MASKS, pairs=gcl_fields(same=[])),
    "one_product": Case(TITLE_IMAGE, weighted=True, equal={"item_id": [EVERY_ROW]}),
    "one_product_positive": Case(gcl_fields("positive"), weighted=True, equal={"item_id": [EVERY_ROW]}),
    "weighted_negatives": replace(MASKS, weighted=True, weight_negatives=True),
    "weighted_negatives_and_positives": replace(
        MASKS, pairs=gcl_fields("positive"), weighted=True, weight_negatives=True
    ),
    "weighted_explicit_negatives": replace(NEGATIVES, weighted=True, weight_negatives=True),
    "explicit_negatives": NEGATIVES,
    "explicit_negatives_of_no_row": replace(NEGATIVES, missing={"negatives.image": EVERY_ROW}, pairs=TITLE_IMAGE),
    "explicit_negatives_and_positives": replace(NEGATIVES, pairs=gcl_fields("positive"), weighted=True),
    "matryoshka": replace(PLAIN, matryoshka={2: 0.5, 4: 2.0}, weighted=True),
    "no_rows": Case(TITLE_IMAGE, missing={"title": EVERY_ROW}),
    "no_rows_but_negatives": replace(NEGATIVES, pairs=TITLE_IMAGE, missing={"image": EVERY_ROW}),
    "a_pair_without_rows": Case(gcl_fields(), missing={"query": EVERY_ROW}),
    "all_at_once": ALL_AT_ONCE,
}


@dataclass(frozen=True)
class Run:
    """One way to compute a case."""

    case: str
    loss: str
    tile_size: int
    micro_batches: int

    def __str__(self) -> str:
        return f"{self.case}-{self.loss}-tiles_of_{self.tile_size}-{self.micro_batches}_micro_batches"


RUNS = [
    Run(case, loss, tile_size, micro_batches)
    for case in CASES
    for loss in CASES[case].losses
    for tile_size in (TILES if case in GRID else TILES[1:2])
    for micro_batches in (MICRO_BATCHES if case in GRID else MICRO_BATCHES[1:])
]

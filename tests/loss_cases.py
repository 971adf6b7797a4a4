"""Batches with missing fields, weights and false negatives, measured on any number of processes."""

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional

from gcl.distributed import all_sum, leave, rank, world_size
from gcl.losses.objective import Objective, Pair, PairLoss
from gcl.losses.sigmoid import SigmoidLoss
from gcl.losses.softmax import SoftmaxLoss

ROWS = 12  # divisible by 2 and by 3
FIELDS = ("title", "query", "image")
LOSSES: dict[str, PairLoss] = {"sigmoid": SigmoidLoss(), "softmax": SoftmaxLoss()}

TITLE_IMAGE = [Pair({"title": 1.0}, {"image": 1.0})]
GCL_FIELDS = [
    Pair({"query": 1.0}, {"image": 0.9, "title": 0.1}),
    Pair({"title": 1.0}, {"image": 1.0}, weight=0.5),
    Pair({"title": 0.3, "query": 0.7}, {"image": 1.0}, weight=0.25, same=["item_id"]),
]


@dataclass
class Case:
    """One global batch, in float64; every field's tower is one matrix."""

    pairs: list[Pair]
    present: dict[str, Tensor]  # field -> (rows,) bool
    identities: dict[str, Tensor]  # field -> (rows,) int64, 0: unknown
    weight: Tensor  # (rows,)

    def inputs(self) -> dict[str, Tensor]:
        """What the towers read: field -> (rows, 7)."""
        generator = torch.Generator().manual_seed(1)
        return {name: torch.randn(ROWS, 7, generator=generator, dtype=torch.float64) for name in FIELDS}

    def parameters(self) -> dict[str, Tensor]:
        """A tower for each field, (7, 5), and logit_scale and logit_bias, (1,)."""
        generator = torch.Generator().manual_seed(2)
        towers = {name: torch.randn(7, 5, generator=generator, dtype=torch.float64) for name in FIELDS}
        scale, bias = torch.tensor([9.0], dtype=torch.float64), torch.tensor([-3.0], dtype=torch.float64)
        return {name: value.requires_grad_() for name, value in {**towers, "scale": scale, "bias": bias}.items()}

    def fields(self, parameters: dict[str, Tensor]) -> dict[str, Tensor]:
        """field -> (rows, 5) normalised embeddings."""
        return {name: functional.normalize(value @ parameters[name], dim=-1) for name, value in self.inputs().items()}


def case(
    pairs: list[Pair],
    missing: dict[str, list[int]] | None = None,
    equal: dict[str, list[list[int]]] | None = None,
    unknown: dict[str, list[int]] | None = None,
    weighted: bool = False,
) -> Case:
    """A batch where rows `missing` lack a field, `equal` share its value and `unknown` have none to compare."""
    present = {name: torch.ones(ROWS, dtype=torch.bool) for name in FIELDS}
    for name, rows in (missing or {}).items():
        present[name][rows] = False
    identities = {name: torch.arange(1, ROWS + 1) * 1000 for name in ("item_id", "title", "query")}
    for name, groups in (equal or {}).items():
        for group in groups:
            identities[name][group] = -group[0] - 1
    for name, rows in (unknown or {}).items():
        identities[name][rows] = 0
    weight = torch.linspace(0.2, 3.0, ROWS, dtype=torch.float64) if weighted else torch.ones(ROWS, dtype=torch.float64)
    return Case(pairs, present, identities, weight)


EVERY_ROW = list(range(ROWS))
CASES = {
    "plain": case(TITLE_IMAGE),
    "weights": case(TITLE_IMAGE, weighted=True),
    "missing": case(TITLE_IMAGE, missing={"title": [0, 5, 6], "image": [5, 11]}, weighted=True),
    "duplicates": case(TITLE_IMAGE, equal={"item_id": [[0, 11], [3, 4, 8]], "title": [[2, 7], [4, 5]]}),
    "unknown": case(TITLE_IMAGE, equal={"title": [[1, 9]]}, unknown={"item_id": [2, 7, 10], "title": [0, 6]}),
    "several_pairs": case(
        GCL_FIELDS,
        missing={"title": [0, 5, 6], "query": [1, 6, 9], "image": [5, 6, 11]},
        equal={"item_id": [[0, 11], [3, 4]], "title": [[2, 7]], "query": [[1, 8, 10]]},
        weighted=True,
    ),
    "a_process_without_rows": case(TITLE_IMAGE, missing={"image": [0, 1, 2, 3, 4, 5]}, weighted=True),
    "no_rows": case(TITLE_IMAGE, missing={"title": EVERY_ROW}),
}


def measure(batch: Case, pair_loss: PairLoss) -> dict[str, Tensor]:
    """The loss and its gradients as data-parallel training sees them: both averaged over processes."""
    rows = ROWS // world_size()
    own = slice(rank() * rows, (rank() + 1) * rows)
    parameters = batch.parameters()
    share = Objective(batch.pairs).loss(
        pair_loss,
        {name: value[own] for name, value in batch.fields(parameters).items()},
        {name: value[own] for name, value in batch.present.items()},
        {name: value[own] for name, value in batch.identities.items()},
        batch.weight[own],
        parameters["scale"],
        parameters["bias"],
    )
    share.backward()
    values = {"loss": share} | gradients(parameters)
    return {name: all_sum(value) / world_size() for name, value in values.items()}


def gradients(parameters: dict[str, Tensor]) -> dict[str, Tensor]:
    """Of every parameter; zeros where it took no part."""
    return {name: torch.zeros_like(value) if value.grad is None else value.grad for name, value in parameters.items()}


def measure_on_processes(process: int, worlds: list[int], folder: Path) -> None:
    """Measure every case in groups of each size in turn, and write the results from the first process."""
    torch.set_num_threads(1)
    for world in (world for world in worlds if process < world):
        rendezvous = f"file://{folder}/rendezvous_{world}"
        torch.distributed.init_process_group("gloo", init_method=rendezvous, rank=process, world_size=world)
        for loss_name, pair_loss in LOSSES.items():
            for case_name, batch in CASES.items():
                measured = measure(batch, pair_loss)
                if process == 0:
                    save_file(measured, folder / f"{world}_{loss_name}_{case_name}.safetensors")
        leave()

"""The gradient cache: dropout is replayed, activations may be recomputed, and processes meet once a step."""

import json
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from dense_loss import assert_same, dense_gradients
from loss_cases import CASES, LOSSES, Towers
from loss_processes import cached_step, measure_step, named, of_run, run_on_processes
from recorders import Collectives, Memory
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from gcl.distributed import rank

WORLDS = (1, 2)
MICRO_BATCHES = (1, 3)  # of a step
CASE = CASES["masks_and_weights"]
# The reentrant kind and DDP do not go together where a tower is used twice, as the text tower is in the other case.
RECOMPUTED = {"non_reentrant": (CASE, False), "reentrant": (replace(CASES["title_image"], weighted=True), True)}
by_loss = pytest.mark.parametrize("loss_name", LOSSES)
by_micro_batches = pytest.mark.parametrize("micro_batches", MICRO_BATCHES)


class RecordedDropout(nn.Module):
    """Dropout by torch's own generator that keeps its masks; or with given masks."""

    def __init__(self, given: list[Tensor] | None = None) -> None:
        super().__init__()
        self.given = list(given or [])
        self.masks: list[Tensor] = []

    def forward(self, value: Tensor) -> Tensor:
        mask = self.given.pop(0) if self.given else functional.dropout(torch.ones_like(value), 0.4)
        self.masks.append(mask)
        return value * mask


class RecomputingTowers(Towers):
    """Towers with dropout whose activations are computed again in the backward pass."""

    def __init__(self, use_reentrant: bool) -> None:
        super().__init__(nn.Dropout(0.4))
        self.use_reentrant = use_reentrant

    def encode(self, tower: nn.Module, value: Tensor) -> Tensor:
        # The reentrant kind gives no gradient where no input asks for one.
        value = value.clone().requires_grad_()
        return functional.normalize(checkpoint(tower, value, use_reentrant=self.use_reentrant), dim=-1)


class Wide(nn.Module):
    """Activations that take far more memory than all else."""

    def forward(self, value: Tensor) -> Tensor:
        return value.repeat(1, 1000).tanh().unflatten(1, (1000, -1)).mean(1)


def measure_all(accelerator: Accelerator, folder: Path) -> None:
    """Write gradients with dropout, with its masks, with recomputed activations, and what a step calls."""
    measured: dict[str, Tensor] = {}
    masks: dict[str, Tensor] = {}
    for loss_name in LOSSES:
        dropout = RecordedDropout()
        values = measure_step(accelerator, Towers(dropout), CASE, CASE.loss(loss_name, 7), MICRO_BATCHES[-1])
        measured |= named(f"dropout-{loss_name}", values)
        masks |= named(loss_name, {f"{number:02}": mask for number, mask in enumerate(dropout.masks)})
    for loss_name, kind, micro_batches in product(LOSSES, RECOMPUTED, MICRO_BATCHES):
        case, use_reentrant = RECOMPUTED[kind]
        for name, towers in {
            "kept": Towers(nn.Dropout(0.4)),
            "recomputed": RecomputingTowers(use_reentrant),
        }.items():
            values = measure_step(accelerator, towers, case, case.loss(loss_name, 7), micro_batches)
            measured |= named(f"{name}-{kind}-{loss_name}-{micro_batches}", values)
    costs = {str(micro_batches): measure_costs(accelerator, micro_batches) for micro_batches in MICRO_BATCHES}
    save_file(masks, folder / f"masks_{rank()}.safetensors")
    if rank() == 0:
        save_file(measured, folder / "measured.safetensors")
        (folder / "costs.json").write_text(json.dumps(costs))


def measure_costs(accelerator: Accelerator, micro_batches: int) -> dict[str, Any]:
    """A step's encodings, the gradients that each parameter is given, the collective calls of backward, the memory."""
    towers, encoded = Towers(), []
    towers.register_forward_hook(lambda towers, inputs, output: encoded.append(len(output.fields["image"])))
    gradients: list[str] = []
    for name, parameter in towers.named_parameters():
        parameter.register_post_accumulate_grad_hook(lambda parameter, name=name: gradients.append(name))
    cache, step = cached_step(accelerator, towers, CASE, CASE.loss("sigmoid", 7), micro_batches)
    with Collectives() as collectives:
        cache.backward(step)
    with Memory() as memory:
        measure_step(accelerator, Towers(Wide()), CASE, CASE.loss("sigmoid", 7), micro_batches)
    counts = {name: gradients.count(name) for name, _ in towers.named_parameters()}
    return {"encoded": encoded, "gradients": counts, "collectives": collectives.names, "peak_memory": memory.peak}


@pytest.fixture(scope="module", params=WORLDS, ids=lambda world: f"{world}_processes")
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `measure_all` wrote on that many processes."""
    path = tmp_path_factory.mktemp(f"gradient_cache_{request.param}")
    run_on_processes(request.param, measure_all, path)
    return path


@pytest.fixture(scope="module")
def measured(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "measured.safetensors")


def dropout_masks(folder: Path, loss_name: str) -> list[list[Tensor]]:
    """For each process, the masks in the order of their making: of both passes, micro-batches and fields."""
    files = [load_file(file) for file in sorted(folder.glob("masks_*.safetensors"))]
    return [[value for _, value in sorted(of_run(file, loss_name).items())] for file in files]


@by_loss
def test_the_second_pass_has_the_dropout_of_the_first(loss_name: str, folder: Path) -> None:
    for masks in dropout_masks(folder, loss_name):
        first, second = masks[: len(masks) // 2], masks[len(masks) // 2 :]
        assert all(torch.equal(*both) for both in zip(first, second, strict=True))
        assert all(0 < float((mask == 0).double().mean()) < 1 for mask in masks)


@by_loss
def test_every_micro_batch_of_every_process_has_a_dropout_of_its_own(loss_name: str, folder: Path) -> None:
    first_rows = [
        tuple(mask[:4].flatten().tolist())
        for masks in dropout_masks(folder, loss_name)
        for mask in masks[: len(masks) // 2]
    ]
    assert len(set(first_rows)) == len(first_rows)


@by_loss
def test_with_dropout_the_gradients_are_those_of_one_pass_with_the_same_masks(
    loss_name: str, folder: Path, measured: dict[str, Tensor]
) -> None:
    processes, fields = dropout_masks(folder, loss_name), len(CASE.batch().present)
    whole = [
        torch.cat([mask for masks in processes for mask in masks[: len(masks) // 2][field::fields]])
        for field in range(fields)
    ]
    expected = dense_gradients(CASE, loss_name, Towers(RecordedDropout(whole)))
    assert_same(of_run(measured, f"dropout-{loss_name}"), expected)


@by_loss
@by_micro_batches
@pytest.mark.parametrize("kind", RECOMPUTED)
def test_recomputed_activations_give_the_same_gradients(
    loss_name: str, micro_batches: int, kind: str, measured: dict[str, Tensor]
) -> None:
    recomputed = of_run(measured, f"recomputed-{kind}-{loss_name}-{micro_batches}")
    assert_same(recomputed, of_run(measured, f"kept-{kind}-{loss_name}-{micro_batches}"))


@pytest.fixture(scope="module")
def costs(folder: Path) -> dict[str, dict[str, Any]]:
    return json.loads((folder / "costs.json").read_text())


def test_rows_are_encoded_twice_only_where_there_are_micro_batches(costs: dict[str, dict[str, Any]]) -> None:
    (rows,) = costs["1"]["encoded"]
    assert costs["3"]["encoded"] == 2 * [rows // 3 + 1, rows // 3 + 1, rows - 2 * (rows // 3 + 1)]


def test_micro_batches_need_less_memory(costs: dict[str, dict[str, Any]]) -> None:
    assert costs["3"]["peak_memory"] < 0.6 * costs["1"]["peak_memory"]


@by_micro_batches
def test_processes_meet_once_in_backward(micro_batches: int, folder: Path, costs: dict[str, dict[str, Any]]) -> None:
    several = (folder / "masks_1.safetensors").exists()
    assert costs[str(micro_batches)]["collectives"] == (["c10d::allreduce_"] if several else [])


@by_micro_batches
def test_every_micro_batch_gives_every_parameter_a_gradient(
    micro_batches: int, costs: dict[str, dict[str, Any]]
) -> None:
    assert set(costs[str(micro_batches)]["gradients"].values()) == {micro_batches}

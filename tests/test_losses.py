"""The objective is exact: open_clip's losses where nothing is ignored, else the formula, on any number of processes."""

import time
from pathlib import Path

import open_clip
import pytest
import torch
from loss_cases import CASES, LOSSES, ROWS, TITLE_IMAGE, Case, case, gradients, measure, measure_on_processes
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional

from gcl.errors import UserError
from gcl.losses.objective import Objective, Pair
from gcl.losses.rows import PairRows

WORLDS = [2, 3]
SECONDS = 120  # for all processes together
by_loss = pytest.mark.parametrize("loss_name", LOSSES)
by_case = pytest.mark.parametrize("case_name", CASES)


def dense_loss(loss_name: str, batch: Case, parameters: dict[str, Tensor]) -> Tensor:
    """The objective's formula, row by row."""
    fields, total = batch.fields(parameters), torch.zeros((), dtype=torch.float64)
    for pair in batch.pairs:
        sides = [
            {
                i: functional.normalize(
                    torch.stack([weight * fields[name][i] for name, weight in have.items()]).sum(0), dim=0
                )
                for i in range(ROWS)
                if (have := {name: weight for name, weight in side.items() if batch.present[name][i]})
            }
            for side in (pair.left, pair.right)
        ]
        rows = [i for i in range(ROWS) if i in sides[0] and i in sides[1]]
        logits = {
            (i, j): parameters["scale"] * (sides[0][i] @ sides[1][j]) + parameters["bias"] for i in rows for j in rows
        }
        kept = {(i, j) for i, j in logits if i == j or not are_equal(batch, pair, i, j)}
        for i in rows:
            row = [logits[i, j] for j in rows if (i, j) in kept]
            column = [logits[j, i] for j in rows if (j, i) in kept]
            if loss_name == "sigmoid":
                negatives = [functional.softplus(logits[i, j]) for j in rows if j != i and (i, j) in kept]
                value = batch.weight[i] * functional.softplus(-logits[i, i]) + sum(negatives)
            else:
                value = torch.stack(row).logsumexp(0) + torch.stack(column).logsumexp(0) - 2 * logits[i, i]
                value = batch.weight[i] * value / 2
            total = total + pair.weight * value.squeeze() / len(rows)
    return total


def are_equal(batch: Case, pair: Pair, i: int, j: int) -> bool:
    names = pair.same or ["item_id", *pair.left, *pair.right]
    values = [batch.identities[name] for name in names if name in batch.identities]
    return any(value[i] == value[j] != 0 for value in values)


def assert_same(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    for name in theirs:
        difference = float((ours[name] - theirs[name]).abs().max())
        assert difference <= 1e-12 * max(1.0, float(theirs[name].abs().max())), f"{name} differs by {difference}"


def dense(loss_name: str, batch: Case) -> dict[str, Tensor]:
    parameters = batch.parameters()
    loss = dense_loss(loss_name, batch, parameters)
    if loss.requires_grad:
        loss.backward()
    return {"loss": loss.detach()} | gradients(parameters)


def random_pair() -> list[Tensor]:
    """left, right (16, 8) normalised; logit scale and bias (1,): float64 leaves."""
    generator = torch.Generator().manual_seed(0)
    sides = [functional.normalize(torch.randn(16, 8, generator=generator, dtype=torch.float64)) for _ in range(2)]
    leaves = [*sides, torch.tensor([12.0], dtype=torch.float64), torch.tensor([-4.0], dtype=torch.float64)]
    return [leaf.requires_grad_() for leaf in leaves]


@pytest.mark.parametrize(
    ("loss_name", "theirs"), [("sigmoid", open_clip.loss.SigLipLoss()), ("softmax", open_clip.loss.ClipLoss())]
)
def test_loss_and_gradients_are_open_clips_when_nothing_is_ignored(loss_name: str, theirs: torch.nn.Module) -> None:
    left, right, scale, bias = random_pair()
    rows = PairRows(left, right, torch.ones(16, dtype=torch.bool), torch.ones(16, dtype=torch.float64), [])
    ours = LOSSES[loss_name](rows, scale, bias)
    expected = theirs(left, right, scale, bias)
    torch.testing.assert_close(ours, expected, rtol=1e-12, atol=0)
    for mine, other in zip(
        torch.autograd.grad(ours, (left, right, scale, bias)),
        torch.autograd.grad(expected, (left, right, scale, bias)),
        strict=True,
    ):
        torch.testing.assert_close(mine, other, rtol=1e-12, atol=1e-14)


@by_loss
@by_case
def test_loss_and_gradients_follow_the_formula_row_by_row(loss_name: str, case_name: str) -> None:
    assert_same(measure(CASES[case_name], LOSSES[loss_name]), dense(loss_name, CASES[case_name]))


@pytest.fixture(scope="module")
def measured_on_processes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with every case's loss and gradients on 2 and on 3 gloo processes."""
    folder = tmp_path_factory.mktemp("losses")
    processes = torch.multiprocessing.spawn(measure_on_processes, (WORLDS, folder), nprocs=max(WORLDS), join=False)
    deadline = time.monotonic() + SECONDS
    while not processes.join(timeout=1):
        if time.monotonic() > deadline:
            for process in processes.processes:
                process.kill()
            pytest.fail(f"processes still wait for each other after {SECONDS} s")
    return folder


@by_loss
@by_case
@pytest.mark.parametrize("world", WORLDS)
def test_loss_and_gradients_are_the_same_on_several_processes(
    loss_name: str, case_name: str, world: int, measured_on_processes: Path
) -> None:
    measured = load_file(measured_on_processes / f"{world}_{loss_name}_{case_name}.safetensors")
    assert_same(measured, measure(CASES[case_name], LOSSES[loss_name]))


@by_loss
def test_a_batch_without_a_whole_row_costs_nothing(loss_name: str) -> None:
    measured = measure(CASES["no_rows"], LOSSES[loss_name])
    assert all(float(value.abs().sum()) == 0 for value in measured.values()), measured


@by_loss
def test_embeddings_of_rows_that_take_no_part_get_no_gradient(loss_name: str) -> None:
    batch = CASES["missing"]
    fields = {name: value.detach().requires_grad_() for name, value in batch.fields(batch.parameters()).items()}
    scale, bias = batch.parameters()["scale"], batch.parameters()["bias"]
    loss = Objective(batch.pairs).loss(
        LOSSES[loss_name], fields, batch.present, batch.identities, batch.weight, scale, bias
    )
    title, image = torch.autograd.grad(loss, (fields["title"], fields["image"]))
    absent = [0, 5, 6, 11]
    assert float(title[absent].abs().sum() + image[absent].abs().sum()) == 0
    assert (title.abs().sum(1)[[i for i in range(ROWS) if i not in absent]] > 0).all()


@by_loss
def test_equal_products_are_no_negatives_but_unknown_values_are(loss_name: str) -> None:
    plain = float(measure(case(TITLE_IMAGE), LOSSES[loss_name])["loss"])
    unknown = float(measure(case(TITLE_IMAGE, unknown={"item_id": [0, 1], "title": [0, 1]}), LOSSES[loss_name])["loss"])
    equal = float(measure(case(TITLE_IMAGE, equal={"item_id": [[0, 1]]}), LOSSES[loss_name])["loss"])
    assert unknown == plain
    assert equal < plain


@by_loss
def test_a_hundred_times_the_weights_on_one_row_pull_its_pair_together(loss_name: str) -> None:
    left, right, scale, bias = random_pair()
    pulls = []
    for factor in (1.0, 100.0):
        weight = torch.ones(16, dtype=torch.float64)
        weight[3] = factor
        rows = PairRows(left, right, torch.ones(16, dtype=torch.bool), weight, [])
        (gradient,) = torch.autograd.grad(LOSSES[loss_name](rows, scale, bias), left)
        pulls.append(-float(gradient[3] @ right[3].detach()))
    assert pulls[1] > 10 * abs(pulls[0])


def test_fields_of_several_pairs_are_named_once() -> None:
    objective = Objective([Pair({"query": 1.0}, {"image": 0.9, "title": 0.1}), Pair({"title": 1.0}, {"image": 1.0})])
    assert objective.fields == ["query", "image", "title"]
    assert objective.identity_fields[0] == "item_id"


@pytest.mark.parametrize("side", [{}, {"title": 0.0}, {"title": 1.0, "query": -0.5}])
def test_a_side_without_weight_is_refused(side: dict[str, float]) -> None:
    with pytest.raises(UserError, match="weight above 0"):
        Objective([Pair(side, {"image": 1.0})])


def test_an_objective_without_pairs_is_refused() -> None:
    with pytest.raises(UserError, match="objective.pairs is empty"):
        Objective([])

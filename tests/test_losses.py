"""The objective is exact: N processes, micro-batches and any tile size give what one process gives on all rows."""

import json
import math
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from dense_loss import assert_same, dense_gradients
from loss_cases import CASES, LOSSES, NEGATIVE_FIELDS, ROWS, RUNS, TITLE_IMAGE, Case, Run, Towers
from loss_processes import measure_step, named, of_run, run_on_processes
from open_clip.loss import ClipLoss, SigLipLoss
from recorders import Collectives, Memory
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._pytree import tree_map

from gcl.distributed import rank, world_size
from gcl.errors import UserError
from gcl.losses.objective import Loss, Objective
from gcl.losses.pair import Pair
from gcl.losses.rows import FalseNegatives, Identity, PairRows
from gcl.losses.sigmoid import SigmoidLoss
from gcl.losses.softmax import SoftmaxLoss

WORLDS = (1, 2, 3, 4)
OPEN_CLIP = {f"siglip_{name}": "sigmoid" for name in ("bidir", "shift", "reduce", "gather")} | {"clip": "softmax"}
PAIR_LOSSES: dict[str, type[SigmoidLoss] | type[SoftmaxLoss]] = {"sigmoid": SigmoidLoss, "softmax": SoftmaxLoss}
by_loss = pytest.mark.parametrize("loss_name", LOSSES)
COUNTED = ("plain", "masks", "all_at_once", "no_rows")  # cases whose collective calls are counted


def open_clips(name: str) -> Loss:
    """One of open_clip's losses in the place of the objective."""
    theirs: nn.Module = ClipLoss(local_loss=True, gather_with_grad=True, rank=rank(), world_size=world_size())
    if name != "clip":
        theirs = SigLipLoss(rank=rank(), world_size=world_size(), dist_impl=name.removeprefix("siglip_"))

    def loss(
        fields: dict[str, Tensor],
        present: dict[str, Tensor],
        identities: dict[str, Tensor],
        score: Tensor,
        scale: Tensor,
        bias: Tensor,
    ) -> Tensor:
        value: Tensor = theirs(fields["title"], fields["image"], scale, None if name == "clip" else bias)
        return value + 0 * bias.sum()  # DDP waits for a gradient of every parameter

    return loss


def measure_all(accelerator: Accelerator, folder: Path) -> None:
    """Write every run's loss and gradients, open_clip's, and the collective calls of some cases."""
    measured: dict[str, Tensor] = {}
    for run in RUNS:
        case = CASES[run.case]
        values = measure_step(accelerator, Towers(), case, case.loss(run.loss, run.tile_size), run.micro_batches)
        measured |= named(str(run), values)
    for theirs in OPEN_CLIP:
        values = measure_step(accelerator, Towers(), CASES["title_image"], open_clips(theirs), micro_batches=1)
        measured |= named(theirs, values)
    calls = {f"{case}-{loss}": collective_calls(CASES[case], loss) for case in COUNTED for loss in LOSSES}
    (folder / f"calls_{rank()}.json").write_text(json.dumps(calls))
    if rank() == 0:
        save_file(measured, folder / "measured.safetensors")


def collective_calls(case: Case, loss_name: str) -> dict[str, list[str]]:
    """Those of the objective's forward and of its backward pass."""
    batch, towers = case.batch().split(ROWS // world_size())[rank()], Towers()
    fields, scale, bias = towers(batch.images, batch.texts)
    with Collectives() as forward:
        share = case.loss(loss_name, 64)(fields, batch.present, batch.identities, batch.score, scale, bias)
    with Collectives() as backward:
        share.backward()
    return {"forward": forward.names, "backward": backward.names}


@pytest.fixture(scope="module", params=WORLDS, ids=lambda world: f"{world}_processes")
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `measure_all` wrote on that many processes."""
    path = tmp_path_factory.mktemp(f"losses_{request.param}")
    run_on_processes(request.param, measure_all, path)
    return path


@pytest.fixture(scope="module")
def measured(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "measured.safetensors")


@cache
def expected(case_name: str, loss_name: str) -> dict[str, Tensor]:
    return dense_gradients(CASES[case_name], loss_name, Towers())


@pytest.mark.parametrize("run", RUNS, ids=str)
def test_loss_and_every_gradient_are_those_of_one_process_on_the_whole_batch(
    run: Run, measured: dict[str, Tensor]
) -> None:
    assert_same(of_run(measured, str(run)), expected(run.case, run.loss))


@pytest.mark.parametrize("theirs", OPEN_CLIP)
def test_loss_and_gradients_are_open_clips_when_nothing_is_ignored(theirs: str, measured: dict[str, Tensor]) -> None:
    ours = of_run(measured, str(Run("title_image", OPEN_CLIP[theirs], 7, 3)))
    others = of_run(measured, theirs)
    if theirs == "clip":
        others["logit_bias"] = torch.zeros_like(others["logit_bias"])
    assert_same(ours, others)


@by_loss
@pytest.mark.parametrize("case_name", COUNTED)
def test_every_process_makes_the_same_collective_calls_and_none_in_backward(
    loss_name: str, case_name: str, folder: Path
) -> None:
    calls = [json.loads(file.read_text())[f"{case_name}-{loss_name}"] for file in folder.glob("calls_*.json")]
    assert all(call == calls[0] for call in calls)
    assert calls[0]["backward"] == []
    assert bool(calls[0]["forward"]) == (len(calls) > 1)


def random_rows(count: int, dim: int, dtype: torch.dtype = torch.float64) -> tuple[PairRows, Tensor, Tensor]:
    """Rows without anything to ignore, logit scale and logit bias; all embeddings are leaves."""
    generator = torch.Generator().manual_seed(0)
    left, right, negatives = (
        functional.normalize(torch.randn(count, dim, generator=generator), dim=-1).to(dtype).requires_grad_()
        for _ in range(3)
    )
    scale, bias = (torch.tensor([value], dtype=dtype, requires_grad=True) for value in (12.0, -4.0))
    rows = PairRows(left, right, torch.ones(count, dtype=torch.bool), torch.ones(count, dtype=dtype))
    return replace(rows, negatives=negatives, has_negative=torch.ones(count, dtype=torch.bool)), scale, bias


@by_loss
@pytest.mark.parametrize("false_negatives", ["ignore", "positive"])
def test_memory_stays_far_below_that_of_one_matrix_of_the_batch(
    loss_name: str, false_negatives: FalseNegatives
) -> None:
    count = 4096
    rows, scale, bias = random_rows(count, dim=8, dtype=torch.float32)
    rows.takes_part[::5] = False
    rows.false_negatives = false_negatives
    rows.identities = [
        Identity(torch.arange(count) % groups + 1, of_left=groups > 50, of_right=groups < 150) for groups in (99, 999)
    ]
    pair_loss = PAIR_LOSSES[loss_name](tile_size=256)
    with Memory() as memory:
        pair_loss(rows, scale, bias).backward()
    assert memory.peak < count * count / 2  # bytes: half a matrix of bool


@by_loss
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
def test_the_loss_is_computed_in_float32_at_least(loss_name: str, dtype: torch.dtype) -> None:
    rows, scale, bias = random_rows(48, dim=8, dtype=dtype)
    share = PAIR_LOSSES[loss_name]()(rows, scale, bias)
    assert share.dtype == torch.promote_types(dtype, torch.float32)
    exact_rows = replace(rows, left=rows.left.double(), right=rows.right.double(), negatives=rows.negatives.double())
    exact = PAIR_LOSSES[loss_name]()(exact_rows, scale.double(), bias.double())
    torch.testing.assert_close(share.double(), exact, rtol=1e-6, atol=0)


@by_loss
def test_autocast_changes_neither_the_loss_nor_its_gradients(loss_name: str) -> None:
    batch = CASES["all_at_once"].batch()
    fields, *scale_and_bias = (tree_map(Tensor.float, value) for value in Towers()(batch.images, batch.texts))
    leaves = [leaf.detach().requires_grad_() for leaf in (*fields.values(), *scale_and_bias)]
    values = []
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            loss = CASES["all_at_once"].loss(loss_name, 7)(
                dict(zip(fields, leaves, strict=False)), batch.present, batch.identities, batch.score, *leaves[-2:]
            )
        values.append([loss, *torch.autograd.grad(loss, leaves)])
    for autocast, plain in zip(*values, strict=True):
        torch.testing.assert_close(autocast, plain, rtol=0, atol=0)


def whole_batch_loss(case: Case, loss_name: str) -> float:
    batch = case.batch()
    fields, scale, bias = Towers()(batch.images, batch.texts)
    loss = case.loss(loss_name, 7)(fields, batch.present, batch.identities, batch.score, scale, bias)
    return float(loss.detach())


@by_loss
def test_embeddings_of_rows_that_take_no_part_get_no_gradient(loss_name: str) -> None:
    case = replace(CASES["title_image"], missing={"title": [0, 5, 6], "image": [5, 11]})
    batch = case.batch()
    fields, scale, bias = Towers()(batch.images, batch.texts)
    loss = case.loss(loss_name, 7)(fields, batch.present, batch.identities, batch.score, scale, bias)
    absent = torch.tensor([0, 5, 6, 11])
    for gradient in torch.autograd.grad(loss, list(fields.values())):
        has_gradient = gradient.abs().sum(1) > 0
        assert (~has_gradient).nonzero().squeeze(1).equal(absent)


@by_loss
def test_equal_products_are_no_negatives_but_unknown_values_are(loss_name: str) -> None:
    plain = CASES["title_image"]
    unknown = replace(plain, unknown={"item_id": [0, 1], "title": [0, 1]})
    equal = replace(plain, equal={"item_id": [[0, 1]]})
    assert whole_batch_loss(unknown, loss_name) == whole_batch_loss(plain, loss_name)
    assert whole_batch_loss(equal, loss_name) < whole_batch_loss(plain, loss_name)


@by_loss
def test_a_hundred_times_the_weights_on_one_row_pull_its_pair_together(loss_name: str) -> None:
    rows, scale, bias = random_rows(16, dim=8)
    pulls = []
    for factor in (1.0, 100.0):
        rows.weight[3] = factor
        (gradient,) = torch.autograd.grad(PAIR_LOSSES[loss_name]()(rows, scale, bias), rows.left)
        pulls.append(-float(gradient[3] @ rows.right[3].detach()))
    assert pulls[1] > 10 * abs(pulls[0])


def test_fields_of_several_pairs_are_named_once() -> None:
    objective = Objective([Pair({"query": 1.0}, {"image": 0.9, "title": 0.1}), Pair({"title": 1.0}, {"image": 1.0})])
    assert objective.fields == ["query", "image", "title"]
    assert objective.negative_fields(NEGATIVE_FIELDS) == NEGATIVE_FIELDS
    assert objective.identity_fields[0] == "item_id"


def test_negatives_need_some_of_the_right_sides_fields_and_not_all() -> None:
    objective = Objective([Pair({"query": 1.0}, {"image": 0.9, "title": 0.1})])
    assert objective.negative_fields(["image", "negatives.image", "negatives.colour"]) == ["negatives.image"]
    with pytest.raises(UserError, match="negatives.image or negatives.title, which no row has"):
        objective.negative_fields(["image", "title", "negatives.query"])


@pytest.mark.parametrize("weight", [0.0, -1.0, math.inf, math.nan])
def test_a_pair_or_prefix_without_a_weight_above_0_is_refused(weight: float) -> None:
    with pytest.raises(UserError, match="above 0"):
        Pair({"title": 1.0}, {"image": 1.0}, weight)
    with pytest.raises(UserError, match="above 0"):
        Objective([Pair({"title": 1.0}, {"image": 1.0})], {4: weight})


def test_no_rows_are_compared_where_same_is_empty() -> None:
    pair = Pair({"title": 1.0}, {"image": 1.0}, same=[])
    values = torch.tensor([1, 1])
    assert pair.same_fields({"item_id": values, "title": values}) == []
    assert replace(pair, same=None).same_fields({"item_id": values, "title": values}) == ["item_id", "title"]


@pytest.mark.parametrize("side", [{}, {"title": 0.0}, {"title": 1.0, "query": -0.5}, {"title": math.nan}])
def test_a_side_without_weight_is_refused(side: dict[str, float]) -> None:
    with pytest.raises(UserError, match="weight above 0"):
        Objective([Pair(side, {"image": 1.0})])


def test_an_objective_without_pairs_is_refused() -> None:
    with pytest.raises(UserError, match="objective.pairs is empty"):
        Objective([])


def test_a_field_of_neither_side_makes_no_positives() -> None:
    assert Pair({"query": 1.0}, {"image": 1.0}, same=["category"], false_negatives="ignore").same == ["category"]
    Pair({"query": 1.0}, {"image": 1.0}, same=["query", "image.hash", "item_id"], false_negatives="positive")
    with pytest.raises(UserError, match="'category', a field of neither side"):
        Pair({"query": 1.0}, {"image": 1.0}, same=["query", "category"], false_negatives="positive")


def test_images_are_compared_by_their_hash_alone() -> None:
    text_fields = ["item_id", "query", "image.hash"]
    Objective([Pair({"query": 1.0}, {"image": 1.0}, same=["image.hash"])]).check_same(text_fields)
    with pytest.raises(UserError, match="'image', which is no text field; an image is compared by image.hash"):
        Objective([Pair({"query": 1.0}, {"image": 1.0}, same=["image"])]).check_same(text_fields)


@pytest.mark.parametrize("matryoshka", [{0: 1.0}, {-4: 1.0}, {64: 0.0}, {64: -1.0}])
def test_a_prefix_without_dimensions_or_weight_is_refused(matryoshka: dict[int, float]) -> None:
    with pytest.raises(UserError, match="a dimension and a weight above 0"):
        Objective(TITLE_IMAGE, matryoshka)


def test_a_prefix_as_long_as_the_embedding_is_refused() -> None:
    Objective(TITLE_IMAGE, {64: 1.0}).check_dimension(65)
    with pytest.raises(UserError, match="64 dimensions; the model has 64"):
        Objective(TITLE_IMAGE, {64: 1.0}).check_dimension(64)

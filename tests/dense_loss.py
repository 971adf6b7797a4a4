"""The objective as its definition says it, on the whole batch in one process, with every matrix written out."""

from dataclasses import dataclass

import torch
from loss_cases import DIM, Case, Towers
from torch import Tensor
from torch.nn import functional

from gcl.data.batch import Batch
from gcl.losses.pair import Pair

TOLERANCE = 1e-12


def dense_gradients(case: Case, loss_name: str, towers: Towers) -> dict[str, Tensor]:
    """The loss and its gradients by the towers, the scale and the bias."""
    batch = case.batch()
    loss = dense_loss(case, loss_name, batch, *towers(batch.images, batch.texts))
    names, parameters = zip(*towers.named_parameters(), strict=True)
    gradients = torch.autograd.grad(loss, parameters, materialize_grads=True)
    return {"loss": loss.detach(), **dict(zip(names, gradients, strict=True))}


def assert_same(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    """Loss and gradients, each to 1e-12 of its largest entry."""
    assert ours.keys() == theirs.keys()
    for name in theirs:
        largest = float(theirs[name].abs().max())
        difference = float((ours[name] - theirs[name]).abs().max())
        assert difference <= TOLERANCE * largest, f"{name} differs by {difference}; its largest entry is {largest}"


def dense_loss(
    case: Case, loss_name: str, batch: Batch, fields: dict[str, Tensor], scale: Tensor, bias: Tensor
) -> Tensor:
    """The sum over pairs, and over prefixes of their embeddings."""
    weight = batch.score.double() if case.weighted else torch.ones(len(batch), dtype=torch.float64)
    total = 0 * (scale + bias).sum()
    for pair in case.pairs:
        for dim, prefix_weight in {DIM: 1.0, **case.matryoshka}.items():
            logits = dense_logits(pair, batch, fields, weight, dim)
            if loss_name == "sigmoid":
                loss = sigmoid_loss(logits, scale, bias, case.weight_negatives)
            else:
                loss = softmax_loss(logits, scale)
            total = total + pair.weight * prefix_weight * loss
    return total


@dataclass
class Logits:
    """Every row that takes part, against all of them and the explicit negatives: (rows, columns) each."""

    cosine: Tensor
    own: Tensor  # bool
    positive: Tensor  # bool, beside the own
    ignored: Tensor  # bool
    positive_weight: Tensor
    weight: Tensor  # (rows, 1)


def dense_logits(pair: Pair, batch: Batch, fields: dict[str, Tensor], weight: Tensor, dim: int) -> Logits:
    left, has_left = side(pair.left, fields, batch, dim)
    right, has_right = side(pair.right, fields, batch, dim)
    rows = (has_left & has_right).nonzero().squeeze(1)
    columns, negative_rows = right[rows], rows[:0]
    of_negatives = {f"negatives.{name}": factor for name, factor in pair.right.items()}
    if of_negatives.keys() <= fields.keys():
        negatives, has_negative = side(of_negatives, fields, batch, dim)
        negative_rows = has_negative.nonzero().squeeze(1)
        columns = torch.cat([columns, negatives[negative_rows]])
    n = len(rows)

    left_names = {name for field in pair.left for name in (field, f"{field}.hash")}
    right_names = {name for field in pair.right for name in (field, f"{field}.hash")} | {"item_id"}
    same = {"item_id", *pair.left, *pair.right} - {"image"} if pair.same is None else set(pair.same)
    agree = {
        name: equal(batch, names, rows, negative_rows)
        for name, names in {"left": same & left_names, "right": same & right_names, "any": same}.items()
    }
    own = torch.eye(n, len(columns), dtype=torch.bool)
    others = agree["any"] & ~own
    in_batch = torch.arange(len(columns)) < n
    positive = others & in_batch if pair.false_negatives == "positive" else torch.zeros_like(others)

    w_i = weight[rows, None].expand(n, len(columns))
    w_j = torch.zeros_like(w_i).index_copy(1, torch.arange(n), weight[rows].expand(n, n))
    of_both = torch.where(agree["left"] & agree["right"], (w_i + w_j) / 2, torch.where(agree["left"], w_j, w_i))
    return Logits(left[rows] @ columns.T, own, positive, others & ~positive, of_both, weight[rows, None])


def side(weights: dict[str, float], fields: dict[str, Tensor], batch: Batch, dim: int) -> tuple[Tensor, Tensor]:
    """The first dimensions of the normalised weighted sum of what is there, and which rows have any of it."""
    parts = [weight * (batch.present[name][:, None] * fields[name]) for name, weight in weights.items()]
    embedding = functional.normalize(functional.normalize(sum(parts), dim=-1)[:, :dim], dim=-1)
    return embedding, torch.stack([batch.present[name] for name in weights]).any(0)


def equal(batch: Batch, names: set[str], rows: Tensor, negative_rows: Tensor) -> Tensor:
    """Which rows agree with which columns in one of the fields."""
    agree = torch.zeros(len(rows), len(rows) + len(negative_rows), dtype=torch.bool)
    for name in names:
        values = batch.identities[name]
        of_negatives = batch.identities.get(f"negatives.{name}", torch.zeros_like(values))
        columns = torch.cat([values[rows], of_negatives[negative_rows]])
        agree |= (values[rows, None] == columns) & (columns != 0)
    return agree


def sigmoid_loss(logits: Logits, scale: Tensor, bias: Tensor, weight_negatives: bool) -> Tensor:
    """(1/n) sum_ij m_ij v_ij * -logsigmoid(z_ij * (scale * l_i.r_j + bias))."""
    m = (~logits.ignored).double()
    v = logits.weight.expand_as(m) if weight_negatives else torch.ones_like(m)
    v = torch.where(logits.own, logits.weight, torch.where(logits.positive, logits.positive_weight, v))
    z = torch.where(logits.own | logits.positive, 1.0, -1.0)
    return (m * v * -functional.logsigmoid(z * (scale * logits.cosine + bias))).sum() / max(1, len(m))


def softmax_loss(logits: Logits, scale: Tensor) -> Tensor:
    """(1/2n) sum_i w_i (row_i + column_i), each the mean of the positives' -log softmax."""
    n = len(logits.cosine)
    kept = (scale * logits.cosine).masked_fill(logits.ignored, -torch.inf)
    positive = logits.own | logits.positive
    row = -kept.log_softmax(1).where(positive, 0.0).sum(1) / positive.sum(1)
    column = -kept[:, :n].log_softmax(0).where(positive[:, :n], 0.0).sum(0) / positive[:, :n].sum(0)
    return (logits.weight.squeeze(1) * (row + column)).sum() / (2 * max(1, n))

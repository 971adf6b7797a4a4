"""What a run's objective settings do: fields and pairs, weights, the scale's ceiling, the bias a start has or lacks."""

import json
import shutil
from pathlib import Path

import open_clip
import pytest
import torch
from torch.nn import functional
from training_processes import ROOT, Refuse, Run, arguments_for, evaluations, finish, launcher_of, logged, losses, start

from gcl.cli import run_verb
from gcl.config import load_settings
from gcl.data.batch import build_batch_builder
from gcl.data.images import ImageReader
from gcl.data.loader import StepBatches
from gcl.data.mixture import Mixture
from gcl.data.order import SampleOrder
from gcl.data.record import Record
from gcl.data.shard_writer import write_shards
from gcl.data.shards import ShardReader
from gcl.losses.objective import Objective
from gcl.losses.pair import Pair
from gcl.models.open_clip_start import build_open_clip
from gcl.parts import build
from gcl.training.load import load_model
from gcl.training.logit_bias import start_bias
from train import TrainingRun

QUICK = ("train.max_steps=6", "train.eval_every=6", "train.save_every=6")


def tiny_start(file: Path, **changes: float | None) -> str:
    """The tiny architecture with some values changed, or removed where they are None."""
    config = json.loads((ROOT / "gcl" / "models" / "gcl-tiny.json").read_text()) | changes
    file.write_text(json.dumps({name: value for name, value in config.items() if value is not None}))
    return str(file)


def softmax_start(folder: Path) -> str:
    """A tiny start that was made for a softmax loss: without a logit bias, at another logit scale."""
    return tiny_start(folder / "tiny-softmax.json", init_logit_bias=None, init_logit_scale=3.0)


def with_rows(shards: Path, to: Path, change: dict[int, dict[str, object]]) -> Path:
    """A copy of shards where some training rows have other fields."""
    splits = {
        split: [changed(record, change.get(number, {}) if split == "train" else {}) for number, record in rows]
        for split in ("train", "validation")
        for rows in [enumerate(ShardReader(shards, split))]
    }
    write_shards(to, splits, max_samples=50)
    return to


def changed(record: Record, change: dict[str, object]) -> Record:
    fields = {name: value for name, value in (record.fields | change).items() if value is not None}
    return Record(fields, record.images)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["title_image", "query_image_title", "marqo_fashion_siglip"])
def test_an_objective_s_yaml_names_its_pairs(name: str) -> None:
    settings = load_settings("train", TrainingRun, [f"objective={name}", "data.path=x", "output_dir=y"])
    objective: Objective = build(settings["objective"])
    sides = [(pair.left, pair.right) for pair in objective.pairs]
    texts = ["description", "title", "colours", "materials", "categories", "details", "keywords"]
    assert (
        sides
        == {
            "title_image": [({"title": 1.0}, {"image": 1.0})],
            "query_image_title": [({"query": 1.0}, {"image": 0.9, "title": 0.1})],
            "marqo_fashion_siglip": [({text: 1.0}, {"image": 1.0}) for text in texts],
        }[name]
    )


def test_a_run_with_several_pairs_weights_and_prefixes_learns(demo_shards: Path, tmp_path: Path, run_here: Run) -> None:
    run = tmp_path / "run"
    query = "{left: {query: 1.0}, right: {image: 0.9, title: 0.1}}"
    title = "{left: {title: 1.0}, right: {image: 1.0}, weight: 0.5, same: [item_id, image.hash]}"
    more = ["weighting=linear", "weighting.max_score=5", "objective.matryoshka={16: 1.0}", "train.micro_batch_size=10"]
    run_here(
        arguments_for(demo_shards, run, f"objective.pairs=[{query}, {title}]", *more, "tasks.title2image.dimensions=16")
    )
    assert losses(run)[50] < 0.8 * losses(run)[1]
    measured = evaluations(run)
    assert measured["step_00000050/title2image"]["ndcg@10"] > measured["step_00000000/title2image"]["ndcg@10"]


def test_weights_change_the_loss_and_constant_ones_do_not_read_the_score(
    demo_shards: Path, tmp_path: Path, run_here: Run
) -> None:
    spoilt = with_rows(demo_shards, tmp_path / "shards", {number: {"score": None} for number in range(0, 200, 3)})
    whole = with_rows(demo_shards, tmp_path / "whole", {})
    first = {}
    for name, shards, more in (
        ("constant", whole, []),
        ("unscored", spoilt, []),
        ("linear", whole, ["weighting=linear", "weighting.max_score=10"]),
    ):
        run_here(arguments_for(shards, tmp_path / name, "train.max_steps=1", *more))
        first[name] = losses(tmp_path / name)[1]
    assert first["unscored"] == first["constant"]
    assert first["linear"] < 0.9 * first["constant"]


def test_a_row_without_a_score_stops_the_run_or_has_the_default_and_is_counted(
    demo_shards: Path, tmp_path: Path, run_here: Run, refuse: Refuse
) -> None:
    change = {3: {"score": None, "item_id": "odd-one"}, 4: {"score": -2.0}, 5: {"score": float("nan")}}
    shards = with_rows(demo_shards, tmp_path / "shards", change)
    arguments = ["weighting=log", "weighting.max_score=5", "train.max_steps=12"]
    error = refuse(arguments_for(shards, tmp_path / "refused", *arguments))
    assert "data.default_score=NUMBER" in error and "score" in error
    run_here(arguments_for(shards, tmp_path / "run", *arguments, "data.default_score=1"))
    steps_per_epoch = 12 / logged(tmp_path / "run")[-1]["epoch"]
    assert logged(tmp_path / "run")[int(steps_per_epoch) - 1].get("unscored_rows", 0) in (2, 3)  # a tail is dropped


def test_a_ceiling_below_the_start_s_scale_is_refused(demo_shards: Path, tmp_path: Path, refuse: Refuse) -> None:
    error = refuse(arguments_for(demo_shards, tmp_path / "run", "train.max_logit_scale=5"))
    assert "train.max_logit_scale=5" in error and "14.28" in error


def test_the_logit_scale_is_free_unless_it_has_a_ceiling(demo_shards: Path, tmp_path: Path, run_here: Run) -> None:
    # A start whose scale is above open_clip's usual clamp of 100, as SO400M-384's is.
    high = f"model.architecture={tiny_start(tmp_path / 'high.json', init_logit_scale=4.72)}"
    more = [high, "optim.lr_multipliers={logit_scale: 100.0}", "loss=softmax", *QUICK]
    for name, ceiling in (("free", "null"), ("capped", "112.2")):
        run_here(arguments_for(demo_shards, tmp_path / name, *more, f"train.max_logit_scale={ceiling}"))
    free, capped = ([row["logit_scale"] for row in logged(tmp_path / name)] for name in ("free", "capped"))
    assert free[0] == capped[0] == pytest.approx(112.168, rel=1e-4)
    assert max(abs(scale - free[0]) for scale in free) > 1
    assert max(capped) <= 112.2 * (1 + 1e-6)


def test_a_start_without_a_bias_gets_one_that_keeps_its_softmax_probabilities(
    demo_shards: Path, tmp_path: Path, run_here: Run, capfd: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    start = f"model.architecture={softmax_start(tmp_path)}"
    run_here(arguments_for(demo_shards, run, start, "loss=sigmoid", *QUICK))
    said = [line for line in capfd.readouterr().err.splitlines() if "logit bias" in line]
    assert len(said) == 1 and "tiny-softmax" in said[0]
    bias = logged(run)[0]["logit_bias"]
    assert f"{bias:.2f}" in said[0]
    run_verb("export", [f"checkpoint={run}", f"output_dir={tmp_path / 'exported'}"])
    open_clip.add_model_config(tmp_path / "exported" / "tiny-softmax.json")
    exported = open_clip.create_model("tiny-softmax", pretrained=str(tmp_path / "exported" / "tiny-softmax.pt"))
    assert exported.logit_bias.item() == pytest.approx(logged(run)[-1]["logit_bias"], rel=1e-2)
    trained = load_model(str(run), None).model
    assert trained.network.logit_bias.item() == pytest.approx(exported.logit_bias.item())


def test_the_fitted_bias_is_minus_the_log_sum_of_the_negatives(demo_shards: Path, tmp_path: Path) -> None:

    model = build_open_clip(softmax_start(tmp_path))
    reader = ShardReader(demo_shards, "train")
    objective = Objective([Pair({"title": 1.0}, {"image": 1.0})])
    builder = build_batch_builder(reader, objective.fields, [], ImageReader(32, "bicubic", "squash"), model.tokenizer)
    order = SampleOrder(tuple(shard.samples for shard in reader.shards), 32, 32, 4096, 0)
    batches = StepBatches([reader], Mixture((order,), (1.0,)), builder, 0, 0, 1)
    with torch.no_grad():
        fields, scale, _ = model.eval()(batches[0].images, batches[0].texts)
    probabilities = functional.softmax(scale * fields["title"] @ fields["image"].T, dim=1).diagonal().double()
    logits = (scale * (fields["title"] * fields["image"]).sum(1)).double() + start_bias(
        model, objective, batches, torch.device("cpu")
    )
    # The mean over rows of logit(p) is that of the sigmoid's logits.
    torch.testing.assert_close(torch.logit(probabilities).mean(), logits.mean(), rtol=0, atol=1e-5)


def test_a_bias_that_the_loss_does_not_use_stays_as_it_is(
    demo_shards: Path, tmp_path: Path, run_here: Run, capfd: pytest.CaptureFixture[str]
) -> None:
    run_here(arguments_for(demo_shards, tmp_path / "run", "loss=softmax", *QUICK))
    assert "has a logit bias, which this loss has no use for" in capfd.readouterr().err
    assert {row["logit_bias"] for row in logged(tmp_path / "run")} == {-10.0}


def test_rows_negatives_change_the_loss_and_a_resume_without_them_is_refused(
    demo_shards: Path, tmp_path: Path, run_here: Run, refuse: Refuse
) -> None:
    titles = [str(record.fields["title"]) for record in ShardReader(demo_shards, "train")]
    negatives: dict[int, dict[str, object]] = {
        number: {"negatives.title": titles[number - 1], "negatives.item_id": f"other-{number}"}
        for number in range(1, len(titles), 2)
    }
    shards = with_rows(demo_shards, tmp_path / "shards", negatives)
    pairs = ["objective.pairs=[{left: {query: 1.0}, right: {title: 1.0}}]", "train.max_steps=2"]
    for run, setting in (("with", "rows"), ("without", "null")):
        run_here(arguments_for(shards, tmp_path / run, *pairs, f"data.negatives={setting}"))
    assert losses(tmp_path / "with")[1] > losses(tmp_path / "without")[1]
    resumed = [*pairs, "train.max_steps=4", "resume=true", "data.negatives=null"]
    assert "negatives=rows" in refuse(arguments_for(shards, tmp_path / "with", *resumed))


def test_two_processes_train_an_objective_of_texts_alone(demo_shards: Path, tmp_path: Path) -> None:
    pairs = "objective.pairs=[{left: {query: 1.0}, right: {title: 1.0}}]"
    arguments = arguments_for(demo_shards, tmp_path / "run", pairs, *QUICK)
    finish(start(arguments, launcher_of(2), ACCELERATE_USE_CPU="true"))
    assert len(losses(tmp_path / "run")) == 6


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("loss.tile_size=0", ["loss.tile_size 0", "at least 1"]),
        ("train.grad_clip_norm=-1", ["train.grad_clip_norm=-1", "or above"]),
        ("train.max_logit_scale=nan", ["train.max_logit_scale=nan", "above 0"]),
        ("train.micro_batch_size=0", ["train.micro_batch_size=0", "at least 1"]),
        ("objective.matryoshka={64: 1.0}", ["64 dimensions", "the model has 64"]),
        ("objective.matryoshka={8: -1.0}", ["weight above 0"]),
        ("tasks.title2image.dimensions=65", ["dimensions 65", "64"]),
        ("objective.pairs=[{left: {title: 1.0}, right: {image: 1.0}, same: [image]}]", ["image.hash"]),
        (
            "objective.pairs=[{left: {title: 1.0}, right: {image: 1.0}, same: [category], false_negatives: positive}]",
            ["'category'", "neither side"],
        ),
        ("weighting=piecewise", ["weighting.weights must be set"]),
        ("weighting=linaer", ["did you mean linear?"]),
        ("data.default_score=-1", ["data.default_score=-1", "from 0 up"]),
        ("data.negatives=nowhere", ["nowhere", "gcl mine"]),
        ("data.negatives=rows", ["negatives.image"]),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(
    setting: str, said: list[str], demo_shards: Path, tmp_path: Path, refuse: Refuse
) -> None:
    error = refuse(arguments_for(demo_shards, tmp_path / "run", setting))
    assert all(part in error for part in said), error
    shutil.rmtree(tmp_path / "run", ignore_errors=True)

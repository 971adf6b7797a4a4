"""A run learns, writes down what it did, survives being killed, and is the same on several processes."""

import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from training_processes import (
    ROOT,
    SAVE_EVERY,
    STEPS,
    Refuse,
    Run,
    arguments_for,
    evaluations,
    finish,
    kill_after,
    launcher_of,
    logged,
    losses,
    start,
    wandb_files,
    wandb_losses,
)

from gcl.errors import UserError
from gcl.training.run import RunDirectory

WANDB = ("tracking=wandb", "tracking.mode=offline")
HEADLINE = ["map", "mrr", "ndcg@10", "recall@10", "precision@10", "err", "rbp@0.7", "rbp@0.8", "rbp@0.9"]
LAST = f"checkpoints/step_{STEPS:08d}"


@pytest.fixture(scope="module")
def undisturbed(demo_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing happened to."""
    run = tmp_path_factory.mktemp("runs") / "undisturbed"
    output = finish(start(arguments_for(demo_shards, run, *WANDB)))
    assert str(run / "report.html") in output
    return run


@pytest.fixture(scope="module")
def resumed(demo_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run, killed after its second checkpoint and resumed in a new process."""
    run = tmp_path_factory.mktemp("runs") / "resumed"
    kill_after(start(arguments_for(demo_shards, run, *WANDB)), run, 2 * SAVE_EVERY + 4)
    assert max(losses(run)) < STEPS
    finish(start(arguments_for(demo_shards, run, *WANDB, "resume=true")))
    return run


def copied(folder: Path, to: Path) -> Path:
    shutil.copytree(folder, to, ignore=shutil.ignore_patterns("wandb"))
    return to


def test_a_run_directory_explains_itself(undisturbed: Path) -> None:
    settings = yaml.safe_load((undisturbed / "config.yaml").read_text())
    assert settings["train"]["max_steps"] == STEPS
    assert settings["optim"]["beta2"] == 0.98, "defaults are written down too"
    environment = json.loads((undisturbed / "environment.json").read_text())
    assert environment["processes"] == 1
    assert environment["torch"] == torch.__version__.partition("+")[0]
    assert "train.py" in environment["command"]
    assert [row["step"] for row in logged(undisturbed)] == list(range(1, STEPS + 1))
    assert {
        "samples_seen",
        "epoch",
        "loss",
        "lr",
        "logit_scale",
        "logit_bias",
        "grad_norm",
        "samples_per_second",
    } <= set(logged(undisturbed)[0])
    assert sorted(folder.name for folder in (undisturbed / "checkpoints").iterdir()) == ["step_00000040", LAST[-13:]]
    assert all((folder / "COMPLETE").exists() for folder in (undisturbed / "checkpoints").iterdir())
    assert "<html" in (undisturbed / "report.html").read_text()[:1000]


def test_the_start_is_evaluated_beside_every_later_result(undisturbed: Path) -> None:
    measured = evaluations(undisturbed)
    steps = ("step_00000000", "step_00000020", "step_00000040", "step_00000050")
    assert sorted(measured) == [
        f"{step}/{task}" for step in steps for task in ("category2image", "title2image", "validation_loss")
    ]
    metrics = measured["step_00000000/title2image"]
    assert list(metrics) == [*HEADLINE, "queries", "corpus", "by_cutoff"]
    assert all(0 <= metrics[name] <= 1 for name in HEADLINE)
    assert {"ndcg@1", "recall@1", "recall@1000"} <= set(metrics["by_cutoff"])


def test_training_lowers_the_loss(undisturbed: Path) -> None:
    loss = losses(undisturbed)
    assert max(loss[step] for step in range(STEPS - 5, STEPS + 1)) < 0.8 * min(loss[step] for step in (1, 2))
    measured = evaluations(undisturbed)
    assert measured["step_00000050/validation_loss"]["loss"] < 0.8 * measured["step_00000000/validation_loss"]["loss"]


def test_a_killed_run_goes_on_as_if_nothing_had_happened(undisturbed: Path, resumed: Path) -> None:
    assert losses(resumed) == losses(undisturbed)
    assert evaluations(resumed) == evaluations(undisturbed)
    assert_same_weights(resumed, undisturbed)


def assert_same_weights(run: Path, other: Path) -> None:
    ours, theirs = (load_file(folder / LAST / "model.safetensors") for folder in (run, other))
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []


def test_a_checkpoint_that_was_not_finished_is_passed_over(
    undisturbed: Path, demo_shards: Path, run_here: Run, tmp_path: Path
) -> None:
    run = copied(undisturbed, tmp_path / "run")
    (run / LAST / "COMPLETE").unlink()
    (run / LAST / "model.safetensors").write_bytes(b"half")
    (run / "checkpoints/step_00000060.tmp").mkdir()
    run_here(arguments_for(demo_shards, run, "resume=true"))
    assert losses(run) == losses(undisturbed)
    assert_same_weights(run, undisturbed)


def test_resuming_a_finished_run_changes_nothing(
    undisturbed: Path, demo_shards: Path, run_here: Run, tmp_path: Path
) -> None:
    run = copied(undisturbed, tmp_path / "run")
    run_here(arguments_for(demo_shards, run, "resume=true"))
    assert (run / "metrics.jsonl").read_text() == (undisturbed / "metrics.jsonl").read_text()
    assert_same_weights(run, undisturbed)


def test_wandb_holds_the_curves_of_metrics_jsonl(undisturbed: Path) -> None:
    (file,) = wandb_files(undisturbed)
    assert wandb_losses(file) == losses(undisturbed)


def test_a_resumed_run_keeps_its_wandb_id(resumed: Path) -> None:
    first, second = wandb_files(resumed)
    assert first.name == second.name
    again = wandb_losses(second)
    assert min(again) == 2 * SAVE_EVERY + 1
    assert again == {step: loss for step, loss in losses(resumed).items() if step in again}


@pytest.mark.parametrize("loss", ["sigmoid", pytest.param("softmax", marks=pytest.mark.slow)])
def test_two_processes_draw_the_curve_of_one(loss: str, undisturbed: Path, demo_shards: Path, tmp_path: Path) -> None:
    alone, together = undisturbed, tmp_path / "together"
    if loss == "softmax":
        alone = tmp_path / "alone"
        finish(start(arguments_for(demo_shards, alone, "loss=softmax")))
    arguments = arguments_for(demo_shards, together, f"loss={loss}")
    finish(start(arguments, launcher_of(2), ACCELERATE_USE_CPU="true"))
    assert json.loads((together / "environment.json").read_text())["processes"] == 2
    assert_same_curve(together, alone)


def assert_same_curve(run: Path, other: Path) -> None:
    """Within what float32's rounding and Adam make of it."""
    ours, theirs = logged(run), logged(other)
    assert [row["loss"] for row in ours] == pytest.approx([row["loss"] for row in theirs], rel=1e-4)
    assert ours[0]["grad_norm"] == pytest.approx(theirs[0]["grad_norm"], rel=1e-5)
    start, other_start = (evaluations(folder)["step_00000000/validation_loss"]["loss"] for folder in (run, other))
    assert start == pytest.approx(other_start, rel=1e-6)


@pytest.mark.slow
def test_a_run_goes_on_with_another_number_of_processes(undisturbed: Path, demo_shards: Path, tmp_path: Path) -> None:
    run = copied(undisturbed, tmp_path / "run")
    shutil.rmtree(run / LAST)
    finish(start(arguments_for(demo_shards, run, "resume=true"), launcher_of(2), ACCELERATE_USE_CPU="true"))
    assert_same_curve(run, undisturbed)


def test_a_misspelt_setting_ends_the_process_with_one_line_and_exit_code_2(demo_shards: Path, tmp_path: Path) -> None:
    process = start(arguments_for(demo_shards, tmp_path / "run", "train.max_stesp=3"))
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 2
    assert errors.startswith("gcl: error: ") and errors.count("\n") == 1, errors
    assert "train.max_steps" in errors


REFUSED = {  # settings -> what the refusal names
    ("train.batch_size=30", "data.lanes=4"): ["batch_size 30", "4 lanes", "28, 32"],
    ("train.batch_size=512",): ["do not make one batch of 512"],
    ("data.path=nowhere",): ["nowhere does not exist", "gcl prepare"],
    ("data.train_split=trian",): ["trian", "train, validation"],
    ("objective.pairs=[{left: {titel: 1.0}, right: {image: 1.0}}]",): ["titel"],
    ("tasks.title2image.left={titel: 1.0}",): ["titel"],
    ("train.max_steps=0",): ["train.max_steps=0", "at least 1"],
    ("loss=sigmod",): ["loss=sigmod", "sigmoid"],
    ("optim.lr_multipliers={txet: 0.0}",): ["txet"],
}


@pytest.mark.parametrize("settings", REFUSED, ids=" ".join)
def test_what_cannot_work_is_refused(
    settings: tuple[str, ...], demo_shards: Path, tmp_path: Path, refuse: Refuse
) -> None:
    error = refuse(arguments_for(demo_shards, tmp_path / "run", "train.max_steps=1", *settings))
    assert all(word in error for word in REFUSED[settings]), error


def test_a_missing_shard_is_refused(demo_shards: Path, tmp_path: Path, refuse: Refuse) -> None:
    shards = copied(demo_shards, tmp_path / "shards")
    (shards / "train-000001.tar").unlink()
    assert "train-000001.tar is missing" in refuse(arguments_for(shards, tmp_path / "run"))


def test_a_directory_that_holds_a_run_is_refused(undisturbed: Path, demo_shards: Path, refuse: Refuse) -> None:
    error = refuse(arguments_for(demo_shards, undisturbed))
    assert "already holds a run" in error and "resume=true" in error


@pytest.mark.parametrize("setting", ["train.batch_size=64", "seed=1", "data.lanes=16", "data.window=8"])
def test_resuming_with_another_order_of_samples_is_refused_and_changes_nothing(
    setting: str, undisturbed: Path, demo_shards: Path, tmp_path: Path, refuse: Refuse
) -> None:
    run = copied(undisturbed, tmp_path / "run")
    name = setting.partition("=")[0].rpartition(".")[2]
    assert f"{name}=" in refuse(arguments_for(demo_shards, run, "resume=true", setting))
    assert (run / "config.yaml").read_text() == (undisturbed / "config.yaml").read_text()
    assert (run / "metrics.jsonl").read_text() == (undisturbed / "metrics.jsonl").read_text()


def test_resuming_behind_the_last_step_is_refused(
    undisturbed: Path, demo_shards: Path, tmp_path: Path, refuse: Refuse
) -> None:
    run = copied(undisturbed, tmp_path / "run")
    assert "max_steps" in refuse(arguments_for(demo_shards, run, "resume=true", "train.max_steps=20"))


@pytest.mark.parametrize("file", ["model.safetensors", "optimizer.bin", "state.json"])
@pytest.mark.parametrize("damage", ["cut", "gone"])
def test_an_unreadable_checkpoint_is_refused(
    file: str, damage: str, undisturbed: Path, demo_shards: Path, tmp_path: Path, refuse: Refuse
) -> None:
    run = copied(undisturbed, tmp_path / "run")
    content = (run / LAST / file).read_bytes()
    (run / LAST / file).unlink()
    if damage == "cut":
        (run / LAST / file).write_bytes(content[: len(content) // 2])
    error = refuse(arguments_for(demo_shards, run, "resume=true"))
    assert LAST in error and "remove it" in error


@pytest.mark.parametrize("setting", ["optim.lr=1e30", "model.architecture=HUGE"])
def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_step(
    setting: str, demo_shards: Path, tmp_path: Path, refuse: Refuse
) -> None:
    if setting.endswith("HUGE"):
        config = json.loads((ROOT / "gcl/models/gcl-tiny.json").read_text())
        (tmp_path / "huge.json").write_text(json.dumps({**config, "init_logit_scale": 100.0}))
        setting = f"model.architecture={tmp_path / 'huge.json'}"
    error = refuse(arguments_for(demo_shards, tmp_path / "run", "optim.warmup_steps=0", setting))
    assert "at step " in error and "optim.lr" in error
    assert all(row["loss"] < float("inf") for row in logged(tmp_path / "run"))


def test_images_that_do_not_decode_are_counted_and_bounded(
    demo_shards: Path, tmp_path: Path, run_here: Run, refuse: Refuse
) -> None:
    shards = copied(demo_shards, tmp_path / "shards")
    spoil_images(shards / "train-000000.tar", 4)
    run_here(arguments_for(shards, tmp_path / "some", "train.max_steps=6"))
    assert 0 < logged(tmp_path / "some")[-1]["undecodable_images"] <= 4
    spoil_images(shards / "train-000000.tar", 50)
    error = refuse(arguments_for(shards, tmp_path / "many"))
    assert "could not be decoded" in error and "max_undecodable_share" in error


def spoil_images(shard: Path, count: int) -> None:
    """Overwrite the first images of a shard with zeros."""
    with tarfile.open(shard) as archive:
        images = [member for member in archive if member.name.endswith(".jpg")]
    with shard.open("r+b") as file:
        for member in images[:count]:
            file.seek(member.offset_data)
            file.write(bytes(member.size))


def test_processes_that_would_each_train_alone_are_refused(
    demo_shards: Path, tmp_path: Path, refuse: Refuse, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    error = refuse(arguments_for(demo_shards, tmp_path / "run"))
    assert "2 processes" in error and "ACCELERATE_USE_CPU=true accelerate launch --multi_gpu" in error


def test_a_launcher_that_starts_one_process_instead_of_two_is_refused(demo_shards: Path, tmp_path: Path) -> None:
    launcher = [str(Path(sys.executable).with_name("accelerate")), "launch", "--cpu", "--num_processes", "2"]
    process = start(arguments_for(demo_shards, tmp_path / "run", "train.max_steps=1"), launcher)
    _, errors = process.communicate(timeout=120)
    assert process.returncode != 0, "one process trained where two were asked for"
    assert "ACCELERATE_USE_CPU=true accelerate launch --multi_gpu" in errors


@pytest.mark.slow
def test_a_refusal_under_a_launcher_is_one_line_of_ours_and_no_success(demo_shards: Path, tmp_path: Path) -> None:
    command = [str(Path(sys.executable).with_name("torchrun")), "--standalone", "--nproc_per_node", "2"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "ACCELERATE_USE_CPU": "true"}
    arguments = arguments_for(demo_shards, tmp_path / "run", "train.max_stesp=3")
    answer = subprocess.run(
        [*command, str(ROOT / "train.py"), *arguments], env=environment, capture_output=True, text=True, timeout=120
    )
    assert answer.returncode != 0
    assert answer.stderr.count("gcl: error:") == 1


@pytest.mark.parametrize("resume", [False, True])
def test_a_taken_output_dir_is_left_alone(tmp_path: Path, resume: bool) -> None:
    file, folder = tmp_path / "file", tmp_path / "folder"
    file.write_text("precious")
    folder.mkdir()
    (folder / "products.csv").write_text("precious")
    for path, message in ((file, "is a file"), (folder, "holds other files")):
        with pytest.raises(UserError, match=message):
            RunDirectory(path).check({}, resume)
    assert [entry.name for entry in folder.iterdir()] == ["products.csv"]

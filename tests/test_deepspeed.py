"""DeepSpeed takes its settings from the run's, and what says something else is refused before anything is built."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch.distributed
from accelerate.state import AcceleratorState
from training_processes import arguments_for, deepspeed_launcher_of, finish, losses, start
from transformers.integrations import unset_hf_deepspeed_config

from gcl.deepspeed import fill_in
from gcl.distributed import start_processes
from gcl.errors import UserError


def filled(settings: dict, precision: str = "float32", grad_clip_norm: float = 1.0) -> dict:
    """The settings of a run with 256 rows on 2 processes."""
    settings = {"zero_optimization": {"stage": 2}, **settings}
    fill_in(settings, precision, 256, 2, grad_clip_norm)
    return settings


@pytest.mark.parametrize("given", [{}, {"train_micro_batch_size_per_gpu": "auto", "gradient_clipping": "auto"}])
def test_a_user_writes_nothing_that_the_run_knows(given: dict) -> None:
    settings = filled(given)
    assert settings["train_batch_size"] == 256
    assert settings["train_micro_batch_size_per_gpu"] == 128
    assert settings["gradient_accumulation_steps"] == 1
    assert settings["gradient_clipping"] == 1.0
    assert settings["zero_optimization"]["stage"] == 2


def test_no_clipping_is_told_as_a_number() -> None:
    assert filled({}, grad_clip_norm=0.0)["gradient_clipping"] == 0.0


def test_only_matrix_products_are_in_bf16() -> None:
    settings = filled({"bf16": {"enabled": False}}, precision="bf16")
    assert settings["torch_autocast"]["enabled"] and settings["torch_autocast"]["lower_precision_safe_modules"] == []
    assert not settings["bf16"]["enabled"]
    assert "torch_autocast" not in filled({})


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"train_batch_size": 128}, ["train_batch_size=128", "256", "train.batch_size"]),
        ({"train_micro_batch_size_per_gpu": 32}, ["per_gpu=32", "128", "train.batch_size"]),
        ({"gradient_accumulation_steps": 4}, ["gradient_accumulation_steps=4", "train.micro_batch_size"]),
        ({"gradient_clipping": 5.0}, ["gradient_clipping=5.0", "1.0", "train.grad_clip_norm"]),
        ({"optimizer": {"type": "Adam"}}, ["'optimizer'", "optim."]),
        ({"scheduler": {"type": "WarmupLR"}}, ["'scheduler'", "optim."]),
        ({"bf16": {"enabled": True}}, ["'bf16'", "train.precision"]),
        ({"zero_optimization": {"stage": 0}}, ["stage=0", "1, 2 and 3"]),
        ({"zero_optimization": {}}, ["stage=None"]),
        ({"zero_optimization": {"stage": 2, "compute_grad_norm": False}}, ["compute_grad_norm=false"]),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_what_the_run_s_own_settings_decide_is_refused(settings: dict, words: list[str]) -> None:
    with pytest.raises(UserError) as refusal:
        filled(settings)
    assert all(word in str(refusal.value) for word in words), refusal.value


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """The environment of one process under `accelerate launch --use_deepspeed`, and no trace of it afterwards."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setenv("MASTER_PORT", str(free.getsockname()[1]))
    for name, value in (
        ("MASTER_ADDR", "127.0.0.1"),
        ("WORLD_SIZE", "1"),
        ("RANK", "0"),
        ("LOCAL_RANK", "0"),
        ("LOCAL_WORLD_SIZE", "1"),
    ):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    AcceleratorState._reset_state(reset_partial_state=True)
    yield monkeypatch
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    AcceleratorState._reset_state(reset_partial_state=True)
    unset_hf_deepspeed_config()


def test_accelerate_s_switch_to_the_cpu_is_refused_where_it_would_switch_deepspeed_off(
    launched: pytest.MonkeyPatch,
) -> None:
    launched.setenv("ACCELERATE_USE_CPU", "true")
    with pytest.raises(UserError, match="train without it .*unset ACCELERATE_USE_CPU"):
        start_processes("float32")


def test_deepspeed_without_its_launcher_is_refused(launched: pytest.MonkeyPatch) -> None:
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        launched.delenv(name)
    with pytest.raises(UserError, match="accelerate launch --use_deepspeed"):
        start_processes("float32")


def test_gradient_accumulation_is_refused_as_no_larger_batch(launched: pytest.MonkeyPatch) -> None:
    launched.setenv("ACCELERATE_USE_DEEPSPEED", "false")
    launched.setenv("ACCELERATE_USE_CPU", "true")
    launched.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")
    with pytest.raises(UserError, match="gradient_accumulation_steps=4 .*train.micro_batch_size"):
        start_processes("float32")


@pytest.mark.parametrize("content", [None, "{", "{}"], ids=["missing", "no json", "no zero_optimization"])
def test_an_unusable_file_of_settings_is_refused_in_one_line(
    content: str | None, launched: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "deepspeed.json"
    if content is not None:
        file.write_text(content)
    launched.setenv("ACCELERATE_DEEPSPEED_CONFIG_FILE", str(file))
    with pytest.raises(UserError, match="DeepSpeed's settings are not understood: [^\n]+$"):
        start_processes("float32")


@pytest.mark.slow
def test_a_hugging_face_text_tower_keeps_its_weights_under_zero_3(demo_shards: Path, tmp_path: Path) -> None:
    runs = tmp_path / "alone", tmp_path / "together"
    settings = ["model=joined_efficientnet_minilm", "train.batch_size=16", "train.max_steps=2"]
    finish(start(arguments_for(demo_shards, runs[0], *settings)))
    finish(start(arguments_for(demo_shards, runs[1], *settings), deepspeed_launcher_of(2, "--zero_stage", "3")))
    assert losses(runs[1]) == pytest.approx(losses(runs[0]), rel=1e-4)


@pytest.mark.slow
def test_nothing_is_compiled_before_training_on_a_cpu(demo_shards: Path, tmp_path: Path) -> None:
    compiled = tmp_path / "compiled"
    arguments = arguments_for(demo_shards, tmp_path / "run", "train.max_steps=1")
    finish(start(arguments, deepspeed_launcher_of(2, "--zero_stage", "2"), TORCH_EXTENSIONS_DIR=str(compiled)))
    assert not compiled.exists()

"""However a batch is spread over processes, micro-batches and ZeRO's stages, training takes the same steps."""

import json
import subprocess
from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint
from safetensors.torch import load_file
from torch import Tensor
from training_processes import arguments_for, deepspeed_launcher_of, finish, launcher_of, logged, losses, start

from gcl.errors import UserError
from gcl.training.checkpoint import Checkpoints, Fingerprint
from gcl.training.load import load_model

BATCH_SIZE, STEPS = 256, 50


@dataclass
class Spread:
    """How a batch is spread."""

    processes: int = 1
    micro_batch_size: int | None = None
    zero: dict[str, Any] | None = None  # DeepSpeed's zero_optimization
    checkpoints_activations: bool = False

    def start(self, arguments: list[str], folder: Path, script: str = "train.py") -> subprocess.Popen[str]:
        arguments = [
            *arguments,
            f"train.micro_batch_size={self.micro_batch_size or 'null'}",
            f"train.activation_checkpointing={self.checkpoints_activations}",
        ]
        if self.zero:
            file = folder / "deepspeed.json"
            file.write_text(json.dumps({"zero_optimization": self.zero}))
            launcher = deepspeed_launcher_of(self.processes, "--deepspeed_config_file", str(file))
            return start(arguments, launcher, script)
        if self.processes > 1:
            return start(arguments, launcher_of(self.processes), script, ACCELERATE_USE_CPU="true")
        return start(arguments, script=script)


ZERO_1, ZERO_2, ZERO_3 = {"stage": 1}, {"stage": 2}, {"stage": 3}
ZERO_3_ALL = {"stage": 3, "stage3_param_persistence_threshold": 0}  # small parameters in pieces too
OFFLOAD = {"offload_optimizer": {"device": "cpu"}}
ALONE = Spread()
SPREADS = {
    "8 micro-batches": Spread(1, 32),
    "2 processes": Spread(2),
    "2 processes, 4 micro-batches": Spread(2, 32),
    "ZeRO-1": Spread(2, 32, ZERO_1),
    "ZeRO-2": Spread(2, 32, ZERO_2),
    "ZeRO-3": Spread(2, 32, ZERO_3_ALL),
}
FURTHER = {
    "2 processes, recomputed activations": Spread(2, 32, checkpoints_activations=True),
    "ZeRO-2, recomputed activations": Spread(2, 32, ZERO_2, checkpoints_activations=True),
    "ZeRO-1, whole": Spread(2, None, ZERO_1),
    "ZeRO-2, whole": Spread(2, None, ZERO_2),
    "ZeRO-3, whole": Spread(2, None, ZERO_3_ALL),
    "ZeRO-2, offloaded": Spread(2, 32, ZERO_2 | OFFLOAD),
    "ZeRO-3, offloaded": Spread(2, 32, ZERO_3_ALL | OFFLOAD),
}
LOSSES = ("sigmoid", "softmax")
CASES = [*product(SPREADS, LOSSES), *product(FURTHER, ["sigmoid"])]
Train = Callable[..., Path]


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """640 demo products: two batches of 256 to train on."""
    from gcl.data.prepare.command import PrepareSettings, SplitSettings, prepare  # noqa: PLC0415
    from gcl.data.sources.demo import DemoSource  # noqa: PLC0415

    folder = tmp_path_factory.mktemp("demo") / "shards"
    source = DemoSource(products=640, image_size=48)
    prepare(PrepareSettings(str(folder), source, split=SplitSettings(validation=0.1), samples_per_shard=150), facts={})
    return folder


@pytest.fixture(scope="module")
def train(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Train:
    """Train, only once where the same is asked for again; the run's directory."""
    done: dict[str, Path] = {}

    def trained(spread: Spread, *settings: str, variant: str | None = None) -> Path:
        key = repr((spread, settings, variant))
        if key not in done:
            folder = tmp_path_factory.mktemp("run")
            arguments = arguments_for(shards, folder / "run", f"train.batch_size={BATCH_SIZE}")
            arguments += [f"train.max_steps={STEPS}", "train.save_every=1000", "train.eval_every=1000", *settings]
            if variant:
                finish(spread.start([variant, *arguments], folder, "tests/train_otherwise.py"))
            else:
                finish(spread.start(arguments, folder))
            done[key] = folder / "run"
        return done[key]

    return trained


def weights(run: Path, step: int) -> dict[str, Tensor]:
    """The weights of a checkpoint, in float32 as the optimizer has them."""
    checkpoint = run / f"checkpoints/step_{step:08d}"
    if (checkpoint / "latest").exists():  # DeepSpeed's
        return {name: value.detach() for name, value in get_fp32_state_dict_from_zero_checkpoint(checkpoint).items()}
    return load_file(checkpoint / "model.safetensors")


def difference(run: Path, other: Path) -> float:
    """The largest relative difference of two runs' losses."""
    ours, theirs = losses(run), losses(other)
    assert len(ours) == STEPS and ours.keys() == theirs.keys()
    found = max(abs(ours[step] / theirs[step] - 1) for step in ours)
    print(f"losses {found:.1e} apart")
    return found


@pytest.mark.slow
@pytest.mark.parametrize(("name", "loss"), CASES)
def test_the_first_gradient_is_that_of_the_whole_batch(name: str, loss: str, train: Train) -> None:
    norm = 10.0  # to which it is clipped: below the gradient's own, far above the weights' rounding
    settings = (f"loss={loss}", "train.max_steps=1", "optim.lr=1.0", "optim.warmup_steps=0", "optim.weight_decay=0.0")
    alone, run = (
        train(spread, *settings, f"train.grad_clip_norm={norm}", variant="sgd")
        for spread in (ALONE, (SPREADS | FURTHER)[name])
    )
    assert logged(alone)[0]["grad_norm"] > norm
    assert logged(run)[0]["grad_norm"] == pytest.approx(logged(alone)[0]["grad_norm"], rel=1e-6)
    ours, theirs = weights(run, 1), weights(alone, 1)
    assert ours.keys() == theirs.keys()
    apart = float(torch.stack([(ours[key] - theirs[key]).double().norm() for key in ours]).norm()) / norm
    print(f"gradients {apart:.1e} apart")
    assert apart < 1e-6


@pytest.mark.slow
@pytest.mark.parametrize(("name", "loss"), CASES)
def test_the_curve_is_that_of_one_process(name: str, loss: str, train: Train) -> None:
    alone, run = (train(spread, f"loss={loss}") for spread in (ALONE, (SPREADS | FURTHER)[name]))
    assert difference(run, alone) < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize(("name", "loss"), product([name for name in SPREADS if not SPREADS[name].zero], LOSSES))
def test_the_curve_is_that_of_one_process_to_the_ninth_digit_in_float64(name: str, loss: str, train: Train) -> None:
    alone, run = (train(spread, f"loss={loss}", variant="float64") for spread in (ALONE, SPREADS[name]))
    assert difference(run, alone) < 1e-9


@pytest.mark.slow
@pytest.mark.parametrize("zero", [None, ZERO_1, ZERO_2, ZERO_3, ZERO_3_ALL, ZERO_2 | OFFLOAD], ids=str)
def test_the_ceiling_of_the_logit_scale_holds_in_every_copy_of_it(zero: dict[str, Any] | None, train: Train) -> None:
    ceiling = 14.4  # from 14.29 it would rise to 14.78 and fall again
    settings = [f"train.max_logit_scale={ceiling}", "optim.lr_multipliers={logit_scale: 100}", "train.save_every=2"]
    settings += ["train.max_steps=8", "train.keep_checkpoints=4"]
    alone, run = (train(spread, *settings) for spread in (ALONE, Spread(2, 32, zero)))
    scales, expected = ([row["logit_scale"] for row in logged(folder)] for folder in (run, alone))
    assert max(scales) == pytest.approx(ceiling, rel=1e-6) and min(scales) < ceiling - 0.1
    assert scales == pytest.approx(expected, rel=1e-5)
    saved = {step: float(weights(run, step)["network.logit_scale"].exp()) for step in (2, 4, 6)}
    assert saved == pytest.approx({step: scales[step] for step in saved}, rel=1e-6)  # what the next step goes on with


def test_zero_2_with_micro_batches_takes_the_steps_of_one_process(demo_shards: Path, tmp_path: Path) -> None:
    runs = {tmp_path / "alone": ALONE, tmp_path / "together": Spread(2, 8, ZERO_2)}
    processes = [
        spread.start(
            arguments_for(demo_shards, run, "train.max_steps=4", "train.max_logit_scale=14.287"),
            tmp_path,
        )
        for run, spread in runs.items()
    ]
    for process in processes:
        finish(process)
    alone, together = (logged(run) for run in runs)
    assert len(together) == 4
    for name in ("loss", "grad_norm", "logit_scale"):
        assert [row[name] for row in together] == pytest.approx([row[name] for row in alone], rel=1e-5)
    assert together[-1]["logit_scale"] == pytest.approx(14.287, rel=1e-6)
    pieces = load_model(str(tmp_path / "together"), None).model.state_dict()
    for key, whole in load_model(str(tmp_path / "alone"), None).model.state_dict().items():
        torch.testing.assert_close(pieces[key], whole, rtol=0, atol=1e-4, msg=key)


def test_a_checkpoint_in_pieces_is_resumed_by_the_launch_that_saved_it_alone(tmp_path: Path) -> None:
    checkpoint = tmp_path / "step_00000002"
    checkpoint.mkdir()
    fingerprint = Fingerprint(0, 32, 32, [4096], [1.0], ["digest"])
    state = {"step": 2, **asdict(fingerprint), "pieces": "DeepSpeed ZeRO-2 on 2 processes"}
    (checkpoint / "state.json").write_text(json.dumps(state))
    (checkpoint / "COMPLETE").touch()
    with pytest.raises(
        UserError, match="saved under DeepSpeed ZeRO-2 on 2 processes, .* without DeepSpeed; resume with"
    ):
        Checkpoints(tmp_path, fingerprint, keep=1).resume(Accelerator(cpu=True))

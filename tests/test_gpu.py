"""What only a GPU shows: the same steps as on a CPU, under NCCL, with all that the objective can do at once."""

import sys
from pathlib import Path

import pytest
import torch
from training_processes import arguments_for, evaluations, finish, logged, start

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU that torch sees"),
]
TORCHRUN = [str(Path(sys.executable).with_name("torchrun")), "--standalone", "--nproc_per_node", "1"]
PAIRS = (
    "[{left: {query: 1.0}, right: {image: 0.9, title: 0.1}}, {left: {title: 1.0}, right: {image: 1.0}, weight: 0.5}]"
)
SETTINGS = (
    f"objective.pairs={PAIRS}",
    "objective.matryoshka={16: 1.0}",
    "weighting=linear",
    "weighting.max_score=5",
    "train.micro_batch_size=12",
    "train.max_steps=5",
    "train.max_logit_scale=15",
)


@pytest.mark.parametrize("loss", ["sigmoid", "softmax"])
def test_a_gpu_takes_the_steps_of_a_cpu(loss: str, demo_shards: Path, tmp_path: Path) -> None:
    arguments = [*SETTINGS, f"loss={loss}"]
    finish(start(arguments_for(demo_shards, tmp_path / "gpu", *arguments), TORCHRUN))
    finish(start(arguments_for(demo_shards, tmp_path / "cpu", *arguments), CUDA_VISIBLE_DEVICES=""))
    for name in ("loss", "grad_norm", "logit_scale"):
        expected = [row[name] for row in logged(tmp_path / "cpu")]
        assert [row[name] for row in logged(tmp_path / "gpu")] == pytest.approx(expected, rel=1e-3)
    assert evaluations(tmp_path / "gpu").keys() == evaluations(tmp_path / "cpu").keys()


def test_a_softmax_start_gets_its_bias_on_the_gpu(demo_shards: Path, tmp_path: Path) -> None:
    more = ["model.architecture=ViT-B-32", "model.siglip_image=false", "loss=sigmoid", "train.max_steps=2"]
    finish(start(arguments_for(demo_shards, tmp_path / "run", *more, "train.precision=bf16"), TORCHRUN))
    assert logged(tmp_path / "run")[0]["logit_bias"] != 0

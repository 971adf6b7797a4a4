"""What every test runs under: no network, no account, one thread per process.

Set before any test module imports torch or transformers, and inherited by the processes that tests start.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from training_processes import Refuse, Run

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["WANDB_MODE"] = "offline"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
# One thread keeps float sums equal from machine to machine, and two processes from fighting over two cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def demo_shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """240 demo products as shards: about 200 to train on, in several files, the others to validate."""
    from gcl.data.prepare.chunk import SplitSettings  # noqa: PLC0415
    from gcl.data.prepare.command import PrepareSettings, prepare  # noqa: PLC0415
    from gcl.data.sources.demo import DemoSource  # noqa: PLC0415

    folder = tmp_path_factory.mktemp("demo") / "shards"
    source = DemoSource(products=240, image_size=48)
    splits = SplitSettings(validation=0.2)
    prepare(PrepareSettings(str(folder), source, split=splits, samples_per_shard=50, workers=1), facts={})
    return folder


@pytest.fixture
def run_here() -> "Iterator[Run]":
    """Train in this process, as `python train.py ARGUMENTS` does, and leave no trace of it in torch or accelerate."""
    import torch  # noqa: PLC0415
    from accelerate.state import AcceleratorState  # noqa: PLC0415
    from training_processes import one_core  # noqa: PLC0415

    import train  # noqa: PLC0415
    from gcl.cli import run_command  # noqa: PLC0415

    threads = torch.get_num_threads()
    AcceleratorState._reset_state(reset_partial_state=True)
    with one_core():
        yield lambda arguments: run_command(lambda: train.main(arguments))
    AcceleratorState._reset_state(reset_partial_state=True)
    torch.set_num_threads(threads)


@pytest.fixture
def refuse(run_here: "Run", capfd: pytest.CaptureFixture[str]) -> "Refuse":
    """The one line with which a command line is refused."""

    def refusal(arguments: list[str]) -> str:
        with pytest.raises(SystemExit) as exit:
            run_here(arguments)
        assert exit.value.code == 2
        errors = capfd.readouterr().err
        assert "Traceback" not in errors
        lines = [line for line in errors.splitlines() if "gcl: error:" in line]
        assert len(lines) == 1, errors
        return lines[0]

    return refusal

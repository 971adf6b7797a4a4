"""What every test runs under: no network, no account, one thread per process.

Set before any test module imports torch or transformers, and inherited by the processes that tests start.
"""

import os
from pathlib import Path

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["WANDB_MODE"] = "offline"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
# One thread keeps float sums equal from machine to machine, and two processes from fighting over two cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def demo_shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """240 demo products as shards: about 200 to train on, in several files, the others to validate."""
    from gcl.data.prepare import PrepareSettings, SplitSettings, prepare  # noqa: PLC0415
    from gcl.data.sources.demo import DemoSource  # noqa: PLC0415

    folder = tmp_path_factory.mktemp("demo") / "shards"
    source = DemoSource(products=240, image_size=48)
    prepare(PrepareSettings(str(folder), source, SplitSettings(validation=0.2), samples_per_shard=50), facts={})
    return folder

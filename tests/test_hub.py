"""Models come from the Hub by name: a server on loopback speaks the Hub's way of resolving files."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hub_server import hub_server
from safetensors.torch import save_file

from gcl.cli import run_verb
from gcl.export.pt import exported_state
from gcl.models.dual_encoder import DualEncoder
from gcl.models.open_clip_start import SIGLIP_IMAGE, build_open_clip

TINY = "package:gcl/models/gcl-tiny.json"


@pytest.fixture(scope="module")
def start() -> DualEncoder:
    return build_open_clip(TINY, siglip_image=True, seed=5)


@pytest.fixture(scope="module")
def hub(start: DualEncoder, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a Hub with shop/tiny, shop/no-weights and nothing else."""
    folder = tmp_path_factory.mktemp("hub")
    save_file(exported_state(start), folder / "weights")
    config = json.dumps({"model_cfg": start.architecture, "preprocess_cfg": SIGLIP_IMAGE}).encode()
    files = {
        "/shop/tiny/resolve/main/open_clip_config.json": config,
        "/shop/tiny/resolve/main/open_clip_model.safetensors": (folder / "weights").read_bytes(),
        "/shop/no-weights/resolve/main/open_clip_config.json": config,
    }

    with hub_server(files.get, lambda path: True) as address:
        yield address


def gcl(hub: str, cache: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a verb with the loopback Hub; in a process of its own, because the Hub's client reads its address once."""
    environment = {**os.environ, "HF_ENDPOINT": hub, "HF_HUB_OFFLINE": "0", "HF_HOME": str(cache)}
    command = [sys.executable, "-m", "gcl", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)


def test_a_model_is_evaluated_by_its_name_on_the_hub(
    hub: str, start: DualEncoder, demo_shards: Path, tmp_path: Path
) -> None:
    done = gcl(
        hub,
        tmp_path / "cache",
        "evaluate",
        "checkpoint=hf-hub:shop/tiny",
        f"data.path={demo_shards}",
        f"output_dir={tmp_path / 'hub'}",
    )
    assert done.returncode == 0, done.stderr
    save_file(exported_state(start), tmp_path / "start.safetensors")
    local = [f"checkpoint={tmp_path / 'start.safetensors'}", "model=tiny", f"data.path={demo_shards}"]
    run_verb("evaluate", [*local, f"output_dir={tmp_path / 'local'}", "data.workers=0"])
    measured = [json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("hub", "local")]
    assert measured[0] == measured[1]


@pytest.mark.parametrize("name", ["shop/no-weights", "shop/absent"])
def test_a_model_without_weights_on_the_hub_is_refused_in_one_line(
    hub: str, demo_shards: Path, tmp_path: Path, name: str
) -> None:
    done = gcl(hub, tmp_path / "cache", "evaluate", f"checkpoint=hf-hub:{name}", f"data.path={demo_shards}")
    assert done.returncode == 2
    assert done.stderr.startswith("gcl: error: ") and len(done.stderr.splitlines()) == 1, done.stderr
    assert name in done.stderr

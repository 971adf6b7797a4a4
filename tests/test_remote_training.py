"""A run reads its shards from a web server or a bucket as it reads them from disk."""

from pathlib import Path

import pytest
from range_server import RangeServer
from s3_server import ADDRESS, s3_server
from training_processes import Refuse, Run, arguments_for, losses

STEPS = "train.max_steps=8"


@pytest.fixture
def local_losses(demo_shards: Path, tmp_path: Path, run_here: Run) -> dict[int, float]:
    run_here(arguments_for(demo_shards, tmp_path / "local", STEPS))
    return losses(tmp_path / "local")


def test_training_from_a_web_server_has_the_losses_of_training_from_disk(
    demo_shards: Path, tmp_path: Path, run_here: Run, local_losses: dict[int, float]
) -> None:
    with RangeServer(demo_shards) as server:
        server.behaviour.fail_next = 2
        cache = f"data.cache.folder={tmp_path / 'cache'}"
        run_here([*arguments_for(Path("shards"), tmp_path / "run", STEPS, cache), f"data.path={server.address}"])
        fetched = server.behaviour.ranges
        assert losses(tmp_path / "run") == local_losses
        assert len(local_losses) == 8
        assert max(count for (file, _), count in fetched.items() if file.endswith(".tar")) <= 2  # one of them failed


def test_training_from_a_bucket_has_the_losses_of_training_from_disk(
    demo_shards: Path, tmp_path: Path, run_here: Run, local_losses: dict[int, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    with s3_server(demo_shards) as environment:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        run_here([*arguments_for(Path("shards"), tmp_path / "run", STEPS, "data.workers=2"), f"data.path={ADDRESS}"])
    assert losses(tmp_path / "run") == local_losses


def test_a_place_without_shards_is_refused_in_one_line(tmp_path: Path, refuse: Refuse) -> None:
    (tmp_path / "empty").mkdir()
    with RangeServer(tmp_path / "empty") as server:
        line = refuse([*arguments_for(Path("shards"), tmp_path / "run"), f"data.path={server.address}"])
    assert "holds no manifest.json" in line


@pytest.mark.parametrize("address", ["https://x.test/y?signature=SECRET", "https://user:SECRET@x.test/y"])
def test_an_address_with_a_secret_is_refused_without_repeating_it(tmp_path: Path, refuse: Refuse, address: str) -> None:
    line = refuse([*arguments_for(Path("shards"), tmp_path / "run"), f"data.path='{address}'"])
    assert "x.test/y was given with a signature or a password" in line and "SECRET" not in line

"""What is measured is what an encoder takes; out of memory is a row of the table, and mistakes are one line."""

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from rich.progress import Progress
from safetensors.torch import save_file
from torch import Tensor

from gcl.errors import UserError
from gcl.models.open_clip_start import build_open_clip
from gcl.retrieval.latency import main
from gcl.retrieval.timing import Latency, Stopwatch, Timing, measure_latency

CPU = torch.device("cpu")
TEXT, IMAGE, DECODE = 0.020, 0.004, 0.002  # seconds: of a call, of each image in it, of an image decoded


class SleepingEncoder:
    """Takes a known time, and a known amount of memory.

    Args:
        most_images: in a batch; more ask for memory that no machine has.
    """

    name, dimensions = "sleeping", 2

    def __init__(self, most_images: int = 1000) -> None:
        self.most_images = most_images
        self.texts: list[str] = []
        self.image_batches: list[int] = []
        self.dtypes: set[torch.dtype] = set()

    def read_image(self, encoded: bytes) -> Tensor:
        time.sleep(DECODE)
        return torch.zeros(3, 4, 4, dtype=torch.uint8)

    def encode_images(self, images: Tensor) -> Tensor:
        self.image_batches.append(len(images))
        if len(images) > self.most_images:
            torch.empty(2**50)
        time.sleep(IMAGE * len(images))
        return torch.zeros(len(images), self.dimensions)

    def encode_texts(self, texts: list[str], context_length: int | None = None) -> Tensor:
        self.texts += texts
        self.dtypes.add((torch.eye(2) @ torch.eye(2)).dtype)
        time.sleep(TEXT)
        return torch.zeros(len(texts), self.dimensions)

    def identity(self) -> dict[str, str]:
        return {}

    def to(self, device: torch.device) -> "SleepingEncoder":
        return self


def measured(encoder: SleepingEncoder, batch_sizes: list[int], precision: torch.dtype = torch.float32) -> Latency:
    stopwatch = Stopwatch(CPU, precision, seconds=0.15)
    return measure_latency(encoder, CPU, stopwatch, batch_sizes, Progress(disable=True))


def test_milliseconds_are_those_of_one_call() -> None:
    latency = measured(SleepingEncoder(), [1])
    for timing, seconds in ((latency.text, TEXT), (latency.image, IMAGE), (latency.decode, DECODE)):
        assert seconds * 1000 <= timing.median_milliseconds < seconds * 1000 + 8  # a busy machine wakes late
        assert timing.p95_milliseconds >= timing.median_milliseconds
    assert 5 <= len(latency.text.seconds) <= 8  # 0.15 seconds of 0.02


def test_the_middle_of_the_calls_is_reported_and_what_95_of_100_stay_below() -> None:
    timing = Timing([0.001] * 94 + [0.1] * 6)
    assert timing.median_milliseconds == pytest.approx(1)
    assert timing.p95_milliseconds == pytest.approx(100)
    assert Timing([0.001, 0.003]).calls_per_second == pytest.approx(500)


def test_a_slow_encoder_is_called_a_few_times_whatever_the_seconds() -> None:
    stopwatch = Stopwatch(CPU, torch.float32, seconds=0.001)
    assert len(stopwatch.time_calls(lambda: time.sleep(0.02), least_calls=5).seconds) == 5
    assert len(stopwatch.time_calls(lambda: time.sleep(0.02)).seconds) == 1


def test_the_first_calls_warm_up_and_are_not_measured() -> None:
    calls = iter([0.2, *[0.0] * 10_000_000])
    timing = Stopwatch(CPU, torch.float32, seconds=0.02).time_calls(lambda: time.sleep(next(calls)))
    assert max(timing.seconds) < 0.1


def test_throughput_is_rows_by_seconds_for_each_batch_size() -> None:
    encoder = SleepingEncoder()
    found = measured(encoder, [8, 2]).throughput
    assert [row.batch_size for row in found] == [2, 8]
    for row in found:
        assert row.texts_per_second is not None and row.images_per_second is not None
        assert 0.4 * row.batch_size / TEXT < row.texts_per_second <= row.batch_size / TEXT
        assert 0.4 / IMAGE < row.images_per_second <= 1 / IMAGE
    assert set(encoder.image_batches) == {1, 2, 8}


def test_titles_differ_from_call_to_call() -> None:
    encoder = SleepingEncoder()
    measured(encoder, [1])
    assert len(set(encoder.texts)) > 5


def test_the_first_batch_that_does_not_fit_in_memory_is_the_last() -> None:
    encoder = SleepingEncoder(most_images=4)
    found = measured(encoder, [2, 8, 16]).throughput
    assert [row.batch_size for row in found] == [2, 8]
    assert not found[0].is_out_of_memory and found[1].is_out_of_memory
    assert found[1].images_per_second is None and found[1].texts_per_second is not None
    assert 16 not in encoder.image_batches


def test_another_failure_is_not_taken_for_one_of_memory() -> None:
    class Broken(SleepingEncoder):
        def encode_images(self, images: Tensor) -> Tensor:
            if len(images) > 1:
                raise RuntimeError("shapes do not match")
            return super().encode_images(images)

    with pytest.raises(RuntimeError, match="shapes do not match"):
        measured(Broken(), [2])


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_matrix_products_are_of_the_precision_asked_for(precision: torch.dtype) -> None:
    encoder = SleepingEncoder()
    measured(encoder, [1], precision)
    assert encoder.dtypes == {precision}


@pytest.fixture
def command(tmp_path: Path) -> Iterator[list[str]]:
    """A tiny model and short measurements; the number of threads is put back."""
    threads = torch.get_num_threads()
    weights = tmp_path / "weights.safetensors"
    save_file(build_open_clip("package:gcl/models/gcl-tiny.json").network.state_dict(), weights)
    yield [f"checkpoint={weights}", "model=tiny", "device=cpu", "seconds=0.05"]
    torch.set_num_threads(threads)


def test_a_model_is_measured_printed_and_written(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main([*command, "batch_sizes=[1,4]", "threads=1", f"output_dir={tmp_path / 'out'}"])
    found = json.loads((tmp_path / "out" / "latency.json").read_text())
    assert (found["device"], found["precision"], found["threads"]) == ("cpu", "float32", 1)
    assert found["device_name"] and found["versions"]["torch"]
    for name in ("text", "image", "decode"):
        assert 0 < found[f"{name}_milliseconds"] <= found[f"{name}_p95_milliseconds"] < 1000
    assert [row["batch_size"] for row in found["throughput"]] == [1, 4]
    assert all(row["texts_per_second"] > 0 and row["images_per_second"] > 0 for row in found["throughput"])
    page, printed = (tmp_path / "out" / "latency.md").read_text(), capsys.readouterr().out
    for shown in (page, printed):
        assert f"{found['text_milliseconds']:.2f}" in shown
        assert "Marqo-Ecommerce-B" in shown and "5.1" in shown and "5.7" in shown
    assert page.count("\n| ") == 4 + 3 + 2  # headings and their rules, latencies, batch sizes


WRONG = [
    (["device=abacus"], "device=abacus cannot be used here"),
    (["device=meta"], "device=meta computes nothing"),
    (["seconds=0"], "seconds=0.0 must be above 0"),
    (["threads=0"], "threads=0 must be at least 1"),
    (["batch_sizes=[]"], r"batch_sizes=[] must be"),
    (["batch_sizes=[8,0]"], r"batch_sizes=[8, 0] must be"),
    (["output_dir=gcl/cli.py"], "cli.py is a file; give a folder"),
    (["precision=float16"], "precision='float16' does not fit"),
]


@pytest.mark.parametrize(("arguments", "message"), WRONG)
def test_a_mistake_is_one_line(command: list[str], arguments: list[str], message: str) -> None:
    with pytest.raises(UserError) as error:
        main([*command, *arguments])
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_refused(command: list[str]) -> None:
    with pytest.raises(UserError, match="device=cuda:0 cannot be used here; there is cpu"):
        main([*command, "device=cuda:0"])

"""How long an encoder takes: for one text, for one image, and for batches of them."""

import io
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import cycle, islice

import numpy as np
import torch
from PIL import Image
from rich.progress import Progress
from torch import Tensor

from gcl.encoders.encoder import Encoder

PHOTO_PIXELS = 512  # the side of the JPEG that is decoded: the size at which gcl prepare keeps images
LEAST_CALLS = 5  # of a single item, however slow
WARM_UP = 0.25  # of the time of a measurement; the first calls choose kernels and take memory
# Titles as catalogues have them, from short to long: how many tokens a text has decides what some text towers cost.
TITLES = (
    "Women's Floral Print Midi Dress",
    "Nike Air Zoom Pegasus 40 Men's Road Running Shoes, Black/White, 10.5 D(M) US",
    "Stainless Steel Insulated Water Bottle 750 ml with Straw Lid, BPA Free",
    "Oak Bedside Table with 2 Drawers",
    "Apple iPhone 15 Case, Clear, Compatible with MagSafe Wireless Charging, Anti-Yellowing Shockproof Cover",
    "Kids' Dinosaur Rain Boots",
    "Cordless Drill Driver Kit 20V, 2 x 2.0Ah Batteries, Fast Charger, 30-Piece Bit Set and Carrying Bag",
    "Linen Cushion Cover 45 x 45 cm, Sage Green, Set of 2",
    "Vitamin D3 2000 IU Softgels, 360 Count",
    "Mid-Century Modern Velvet Accent Armchair with Gold Legs for Living Room, Bedroom and Reading Corner, Dark Teal",
    "Mechanical Keyboard RGB 75% Hot-Swappable",
    "Sterling Silver Hoop Earrings for Women, Hypoallergenic, 20 mm",
)


@dataclass(frozen=True)
class Timing:
    """The times of calls that did the same work."""

    seconds: list[float]  # of each call

    @property
    def median_milliseconds(self) -> float:
        return float(np.median(self.seconds)) * 1000

    @property
    def p95_milliseconds(self) -> float:
        """What 95 of 100 calls stay below."""
        return float(np.quantile(self.seconds, 0.95)) * 1000

    @property
    def calls_per_second(self) -> float:
        return len(self.seconds) / sum(self.seconds)


@dataclass(frozen=True)
class Throughput:
    """What goes through in batches of one size."""

    batch_size: int
    texts_per_second: float | None  # None: out of memory
    images_per_second: float | None  # None: out of memory

    @property
    def is_out_of_memory(self) -> bool:
        return self.texts_per_second is None or self.images_per_second is None


@dataclass(frozen=True)
class Latency:
    """One encoder's times on one device."""

    text: Timing  # one title to its embedding, tokenised within
    image: Timing  # one image, prepared and on the device, to its embedding
    decode: Timing  # the bytes of a JPEG to a prepared image, on the CPU
    throughput: list[Throughput]  # by batch size, up to the first that is out of memory


class Stopwatch:
    """Times calls on a device for a number of seconds each time, after a warm-up.

    Args:
        seconds: of one measurement; it ends with the call that is under way then.
        precision: of matrix products on the device: torch.float32 or torch.bfloat16.
    """

    def __init__(self, device: torch.device, precision: torch.dtype, seconds: float) -> None:
        self._device, self._precision, self._seconds = device, precision, seconds

    def time_calls(self, call: Callable[[], object], least_calls: int = 1) -> Timing:
        """Call again and again; each time ends when the device has finished."""
        with torch.inference_mode(), torch.autocast(self._device.type, self._precision, self._is_mixed):
            list(self._times(call, self._seconds * WARM_UP, 1))
            return Timing(list(self._times(call, self._seconds, least_calls)))

    @property
    def _is_mixed(self) -> bool:
        return self._precision != torch.float32

    def _times(self, call: Callable[[], object], seconds: float, least_calls: int) -> Iterator[float]:
        begun, calls = time.perf_counter(), 0
        while calls < least_calls or time.perf_counter() - begun < seconds:
            started = time.perf_counter()
            call()
            self._synchronize()
            yield time.perf_counter() - started
            calls += 1

    def _synchronize(self) -> None:
        if self._device.type != "cpu":
            torch.accelerator.synchronize(self._device)


def measure_latency(
    encoder: Encoder, device: torch.device, stopwatch: Stopwatch, batch_sizes: list[int], progress: Progress
) -> Latency:
    """Time an encoder that is on `device`: single items, then batches, up to the first that does not fit in memory."""
    task = progress.add_task("measuring", total=3 + len(batch_sizes))

    def timed(call: Callable[[], object]) -> Timing:
        timing = stopwatch.time_calls(call, LEAST_CALLS)
        progress.advance(task)
        return timing

    photo, titles = photo_jpeg(), cycle(TITLES)
    pixels = encoder.read_image(photo).unsqueeze(0).to(device)
    text = timed(lambda: encoder.encode_texts([next(titles)]))
    image = timed(lambda: encoder.encode_images(pixels))
    decode = timed(lambda: encoder.read_image(photo))
    throughput: list[Throughput] = []
    for size in sorted(batch_sizes):
        throughput.append(measure_throughput(encoder, pixels, size, stopwatch))
        progress.advance(task)
        if throughput[-1].is_out_of_memory:
            break
    return Latency(text, image, decode, throughput)


def measure_throughput(encoder: Encoder, pixels: Tensor, size: int, stopwatch: Stopwatch) -> Throughput:
    """Rows per second in batches of `size`.

    Args:
        pixels: (1, ...), one prepared image on the encoder's device.
    """
    titles = list(islice(cycle(TITLES), size))
    return Throughput(
        size,
        rows_per_second(size, stopwatch, lambda: encoder.encode_texts(titles)),
        rows_per_second(size, stopwatch, lambda: encoder.encode_images(pixels.repeat_interleave(size, 0))),
    )


def rows_per_second(rows: int, stopwatch: Stopwatch, call: Callable[[], object]) -> float | None:
    """Of a call that encodes `rows` rows; None where they do not fit in memory."""
    try:
        return rows * stopwatch.time_calls(call).calls_per_second
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        return None


def is_out_of_memory(error: Exception) -> bool:
    """Also on a CPU, where torch has no error of its own for it."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def photo_jpeg() -> bytes:
    """A drawn photo: smooth colours with grain, so that its JPEG has about the bytes of a real one."""
    rng = np.random.default_rng(0)
    smooth = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).resize((PHOTO_PIXELS, PHOTO_PIXELS))
    grain = rng.normal(0, 6, (PHOTO_PIXELS, PHOTO_PIXELS, 1))
    picture = Image.fromarray((np.array(smooth) + grain).clip(0, 255).astype(np.uint8))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=90)
    return buffer.getvalue()

"""Shards are read alike from a disk, a web server, a bucket and the Hub; whatever goes wrong there ends in one line."""

import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from range_server import Behaviour, RangeServer
from s3_server import ADDRESS, s3_server

from gcl.data.storage import remote_folder
from gcl.data.storage.block_cache import BLOCKS, BlockCache
from gcl.data.storage.folders import CacheSettings, LocalFolder, Storage, build_storage
from gcl.data.storage.patience import Patience
from gcl.data.storage.remote_folder import BLOCK_BYTES, RemoteFolder
from gcl.errors import UserError

SHARD = "train-000000.tar"
SMALL_BLOCK = 64 * 1024
QUICK = Patience(tries=3, try_seconds=20.0, pause_seconds=0.01)
Read = Callable[[], object]


@dataclass
class Web:
    """A folder, and the server it is on."""

    folder: Path
    server: RangeServer
    cache: Path

    @property
    def behaviour(self) -> Behaviour:
        return self.server.behaviour

    def storage(
        self, patience: Patience = QUICK, limit_bytes: int = 10**9, wait_seconds: float = 30.0, query: str = ""
    ) -> RemoteFolder:
        cache = BlockCache(self.cache, limit_bytes, wait_seconds)
        return RemoteFolder(f"{self.server.address}/shards{query}", cache, patience)

    def block_gets(self) -> list[int]:
        """How often each range was asked for."""
        return list(self.behaviour.ranges.values())


def write_shard(folder: Path, size: int, name: str = SHARD, seed: int = 1) -> bytes:
    folder.mkdir(parents=True, exist_ok=True)
    content = random.Random(seed).randbytes(size)
    (folder / name).write_bytes(content)
    return content


@pytest.fixture
def web(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    """One shard of ten small blocks and a bit."""
    monkeypatch.setattr(remote_folder, "BLOCK_BYTES", SMALL_BLOCK)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    write_shard(tmp_path / "served" / "shards", 10 * SMALL_BLOCK + 777)
    with RangeServer(tmp_path / "served") as server:
        yield Web(tmp_path / "served" / "shards", server, tmp_path / "cache")


def refusal(read: Read) -> str:
    """The line with which a read ends; nothing else of it would be printed."""
    with pytest.raises(UserError) as raised:
        read()
    shown = "".join(traceback.format_exception(raised.value))
    assert "hunter2" not in shown, shown
    assert "\n" not in str(raised.value)
    return str(raised.value)


def in_process(target: Callable[..., None], *arguments: object, start: str = "fork") -> multiprocessing.Process:
    process = multiprocessing.get_context(start).Process(target=target, args=arguments)
    process.start()
    return process


def check_all(storage: Storage, content: bytes, seed: int) -> None:
    """Read everything in pieces, in an order of one's own."""
    pieces = [(start, min(start + 50_000, len(content))) for start in range(0, len(content), 50_000)]
    random.Random(seed).shuffle(pieces)
    for start, end in pieces:
        assert storage.read(SHARD, start, end) == content[start:end]


# What is read


def check_random_ranges(storage: Storage, folder: Path, block: int) -> None:
    local, size = LocalFolder(folder), (folder / SHARD).stat().st_size
    generator = random.Random(3)
    ranges = [tuple(sorted(generator.choices(range(size + 1), k=2))) for _ in range(40)]
    borders = [(0, 0), (0, size), (size - 1, size), (block - 1, block + 1), (block, 2 * block), (size, size)]
    for start, end in ranges + borders:
        assert storage.read(SHARD, start, end) == local.read(SHARD, start, end)
    assert storage.size(SHARD) == size and storage.size("absent.tar") is None
    assert storage.read_all(SHARD) == storage.local_file(SHARD).read_bytes() == local.local_file(SHARD).read_bytes()


def test_any_range_of_a_web_server_is_that_of_the_local_file(web: Web) -> None:
    check_random_ranges(web.storage(), web.folder, SMALL_BLOCK)


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("bucket")
    write_shard(folder, 2 * BLOCK_BYTES + 999)
    with s3_server(folder) as environment, pytest.MonkeyPatch.context() as patch:
        for name, value in {**environment, "NO_PROXY": "127.0.0.1"}.items():
            patch.setenv(name, value)
        yield folder


def test_any_range_of_a_bucket_is_that_of_the_local_file(bucket: Path, tmp_path: Path) -> None:
    storage = build_storage(ADDRESS, CacheSettings(str(tmp_path / "cache")))
    check_random_ranges(storage, bucket, BLOCK_BYTES)
    line = refusal(lambda: storage.read("absent.tar", 0, 1))
    assert line.startswith("shard s3://shop/shards/absent.tar is not there;")


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_a_bucket_is_read_on_in_a_process_started_after_reading(bucket: Path, tmp_path: Path, start: str) -> None:
    storage = build_storage(ADDRESS, CacheSettings(str(tmp_path / "cache")))
    content = (bucket / SHARD).read_bytes()
    assert storage.read(SHARD, 0, 10) == content[:10]
    process = in_process(check_all, storage, content, 0, start=start)
    check_all(storage, content, 1)  # the parent's own connections still work
    process.join(40)
    assert process.exitcode == 0


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, bytes]]:
    """The address of a Hub with the data set shop/catalogue, and its shard."""
    content = write_shard(tmp_path / "hub", BLOCK_BYTES + 999)
    prefix = "/api/datasets/shop/catalogue"
    entry = {"type": "file", "oid": "0" * 40, "size": len(content), "path": f"shards/{SHARD}"}
    answers: dict[str, object] = {prefix: {"id": "shop/catalogue"}, f"{prefix}/tree/main/shards": [entry]}

    class Hub(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            body = json.dumps(answers[path]).encode() if path in answers else b""
            if path == f"/datasets/shop/catalogue/resolve/main/shards/{SHARD}":
                start, end = (int(number) for number in self.headers["Range"].removeprefix("bytes=").split("-"))
                body = content[start : end + 1]
            self.send_response(200 if path in answers else 206 if body else 404)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *arguments: object) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}", content
    server.shutdown()
    server.server_close()


def test_a_folder_of_the_hub_is_read_by_range(hub: tuple[str, bytes], tmp_path: Path) -> None:
    endpoint, content = hub
    # The Hub's client reads its environment when it is imported.
    script = f"""
import sys
from gcl.data.storage.folders import CacheSettings, build_storage
storage = build_storage("hf://datasets/shop/catalogue/shards", CacheSettings({str(tmp_path / "cache")!r}))
sys.stdout.buffer.write(storage.read("{SHARD}", {BLOCK_BYTES - 5}, {BLOCK_BYTES + 500}))
assert storage.size("absent.tar") is None
"""
    environment = {**os.environ, "HF_ENDPOINT": endpoint, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, timeout=60)
    assert done.stdout == content[BLOCK_BYTES - 5 : BLOCK_BYTES + 500], done.stderr.decode()


# What is fetched


def test_processes_fetch_each_block_once(web: Web) -> None:
    web.behaviour.delay_seconds = 0.02  # so that they meet
    storage, content = web.storage(), (web.folder / SHARD).read_bytes()
    assert storage.read(SHARD, 0, 5) == content[:5]  # before the fork, so that there are connections
    processes = [in_process(check_all, storage, content, seed) for seed in range(3)]
    check_all(storage, content, 3)
    for process in processes:
        process.join(40)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert web.block_gets() == [1] * 11


def test_threads_of_one_process_fetch_each_block_once(web: Web) -> None:
    web.behaviour.delay_seconds = 0.02
    storage, content = web.storage(), (web.folder / SHARD).read_bytes()
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda seed: check_all(storage, content, seed), range(4)))
    assert web.block_gets() == [1] * 11


def test_blocks_are_kept_for_the_next_run_and_those_of_a_changed_shard_are_not(web: Web) -> None:
    check_all(web.storage(), (web.folder / SHARD).read_bytes(), 0)
    check_all(web.storage(), (web.folder / SHARD).read_bytes(), 1)
    assert web.block_gets() == [1] * 11
    changed = write_shard(web.folder, 10 * SMALL_BLOCK + 777, seed=2)  # of the same size
    check_all(web.storage(), changed, 2)
    assert web.block_gets() == [2] * 11


def test_a_block_that_is_not_whole_is_fetched_again(web: Web) -> None:
    content = (web.folder / SHARD).read_bytes()
    check_all(web.storage(), content, 0)
    for path in (web.cache / BLOCKS).iterdir():
        path.write_bytes(bytes(100))
    assert web.storage().read(SHARD, 0, 5) == content[:5]
    check_all(web.storage(), content, 0)


def test_the_cache_stays_under_its_limit_and_keeps_what_was_used_last(
    web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gcl.data.storage.block_cache.TOUCH_SECONDS", 0.0)
    content, limit = (web.folder / SHARD).read_bytes(), 4 * SMALL_BLOCK
    storage = web.storage(limit_bytes=limit)
    for first in range(0, len(content), SMALL_BLOCK):
        assert storage.read(SHARD, 0, 10) == content[:10]  # used all the time
        assert storage.read(SHARD, first, first + 10) == content[first : first + 10]
        assert sum(path.stat().st_size for path in (web.cache / BLOCKS).iterdir()) <= limit
    assert web.behaviour.ranges[f"shards/{SHARD}", f"bytes=0-{SMALL_BLOCK - 1}"] == 1
    # Several processes that throw out each other's blocks read what is right.
    processes = [in_process(check_all, storage, content, seed) for seed in range(3)]
    for process in processes:
        process.join(40)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert sum(path.stat().st_size for path in (web.cache / BLOCKS).iterdir()) <= limit


def test_reading_ahead_waits_for_nothing_and_saves_the_later_read_its_wait(web: Web) -> None:
    content, storage = (web.folder / SHARD).read_bytes(), web.storage()
    web.behaviour.hang = True
    started = time.monotonic()
    for _ in range(100):
        storage.prefetch([(SHARD, 0, len(content)), ("absent.tar", 0, 10**9)])
    assert time.monotonic() - started < 1.0
    web.behaviour.hang = False
    deadline = time.monotonic() + 20
    while len(list((web.cache / BLOCKS).glob("*-??????"))) < 11:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    check_all(storage, content, 0)
    assert [count for (file, _), count in web.behaviour.ranges.items() if SHARD in file] == [1] * 11


# What goes wrong


@pytest.mark.parametrize(
    "failure", [{"fail_next": 2}, {"fail_next": 2, "failure": 429}, {"cut_next": 2}, {"short_next": 2}]
)
def test_a_read_that_fails_twice_succeeds(web: Web, failure: dict[str, int]) -> None:
    storage = web.storage()
    assert storage.size(SHARD)
    for name, value in failure.items():
        setattr(web.behaviour, name, value)
    assert storage.read(SHARD, 5, 5000) == (web.folder / SHARD).read_bytes()[5:5000]
    assert web.block_gets() == [3]


def test_a_server_that_keeps_failing_is_named_after_all_tries(web: Web) -> None:
    storage = web.storage()
    assert storage.size(SHARD)
    web.behaviour.fail_next = 99
    line = refusal(lambda: storage.read(SHARD, 0, 5))
    assert line.startswith(f"shard {storage.place}/{SHARD} cannot be read (ClientResponseError: 503")
    assert "after 3 tries" in line
    assert web.block_gets() == [3]


@pytest.mark.parametrize("failure, gets", [(403, 1), (503, 3)])
def test_a_server_that_fails_at_the_first_look_does_not_pass_for_one_without_the_file(
    web: Web, failure: int, gets: int
) -> None:
    web.behaviour.fail_heads, web.behaviour.fail_next, web.behaviour.failure = True, 99, failure
    assert f"{failure}" in refusal(lambda: web.storage().size(SHARD))
    assert web.block_gets() == [gets]  # fsspec's second way of asking


def test_a_server_that_does_not_answer_is_given_up_in_time(web: Web) -> None:
    storage = web.storage(Patience(tries=2, try_seconds=0.5, pause_seconds=0.01))
    assert storage.size(SHARD)
    web.behaviour.hang = True
    started = time.monotonic()
    line = refusal(lambda: storage.read(SHARD, 0, 5))
    assert time.monotonic() - started < 5
    assert f"shard {storage.place}/{SHARD}" in line and "(no answer within 0.5 s) after 2 tries" in line


def test_a_server_that_ignores_ranges_is_refused_before_the_shard_is_swallowed(web: Web) -> None:
    write_shard(web.folder, 30_000_000, "large.tar")
    write_shard(web.folder, 5, "small.tar")
    web.behaviour.ignore_ranges = True
    line = refusal(lambda: web.storage().read("large.tar", SMALL_BLOCK, SMALL_BLOCK + 5))
    assert "the server ignores byte ranges" in line
    assert web.behaviour.bytes_sent == 0
    # The whole file is no wrong answer to who asks for all of it.
    assert web.storage().read("small.tar", 1, 5) == (web.folder / "small.tar").read_bytes()[1:]


def test_a_shard_of_another_size_than_was_written_is_refused(web: Web) -> None:
    for storage in (web.storage(), LocalFolder(web.folder)):

        def read(storage: Storage = storage) -> None:
            storage.expect({SHARD: 5})
            storage.read(SHARD, 0, 5)

        assert f"has {10 * SMALL_BLOCK + 777} bytes where 5 were written" in refusal(read)


def test_a_shard_that_changes_while_it_is_read_is_named(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_folder, "CHECK_SECONDS", 0.0)
    storage = web.storage()
    assert storage.read(SHARD, 0, 5) == (web.folder / SHARD).read_bytes()[:5]
    write_shard(web.folder, 10 * SMALL_BLOCK + 777, seed=2)
    assert f"shard {storage.place}/{SHARD} changed" in refusal(lambda: storage.read(SHARD, SMALL_BLOCK, 70_000))


def test_a_read_past_the_end_is_refused(web: Web) -> None:
    size = (web.folder / SHARD).stat().st_size
    for storage in (web.storage(), LocalFolder(web.folder)):
        assert SHARD in refusal(lambda storage=storage: storage.read(SHARD, size - 5, size + 1))


@pytest.mark.parametrize("name", ["../shards/" + SHARD, "/etc/passwd", "..", ".", "", "a/b", "a\\b", "a\nb", "a\0b"])
def test_a_name_that_leads_out_of_the_folder_is_refused(web: Web, name: str) -> None:
    for storage in (web.storage(), LocalFolder(web.folder)):
        calls: list[Read] = [
            lambda storage=storage: storage.read(name, 0, 5),
            lambda storage=storage: storage.read_all(name),
            lambda storage=storage: storage.local_file(name),
            lambda storage=storage: storage.size(name),
        ]
        for call in calls:
            assert "must be a plain name" in refusal(call)
    assert not web.behaviour.paths


def test_odd_names_are_files_as_well(web: Web) -> None:
    name = "a b?c#d%20é.tar"
    content = write_shard(web.folder, 99, name)
    assert web.storage().read(name, 1, 99) == LocalFolder(web.folder).read(name, 1, 99) == content[1:]


# Processes that die


def hold(storage: Storage) -> None:
    storage.read(SHARD, 0, 5)


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_process_killed_while_it_fetches_holds_nobody_up(web: Web) -> None:
    storage = web.storage(wait_seconds=1000.0)
    web.behaviour.hang = True
    process = in_process(hold, storage)
    wait_for(lambda: bool(web.behaviour.ranges))
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join(10)
    web.behaviour.hang = False
    started = time.monotonic()
    assert storage.read(SHARD, 0, 5) == (web.folder / SHARD).read_bytes()[:5]
    assert time.monotonic() - started < 5


def test_a_process_that_fetches_for_too_long_is_not_waited_for(web: Web) -> None:
    storage = web.storage(wait_seconds=0.3)
    web.behaviour.hang = True
    process = in_process(hold, storage)
    wait_for(lambda: bool(web.behaviour.ranges))
    os.kill(process.pid or 0, signal.SIGSTOP)
    web.behaviour.hang = False
    try:
        assert storage.read(SHARD, 0, 5) == (web.folder / SHARD).read_bytes()[:5]
    finally:
        process.kill()
        process.join(10)


def test_a_full_disk_is_named(web: Web) -> None:
    script = f"""
import resource
from gcl.data.storage.block_cache import BlockCache
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
from pathlib import Path
from gcl.errors import UserError
try:
    BlockCache(Path({str(web.cache)!r}), 10**9, 1.0).read("0" * 32, 2000, 0, 5, lambda: bytes(2000))
except UserError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.stdout.startswith(f"the cache {web.cache} cannot be written (File too large); set data.cache.folder")
    assert not list((web.cache / BLOCKS).iterdir())


@pytest.mark.parametrize("killed", [False, True])
def test_the_temporary_cache_ends_with_its_process_or_is_removed_by_the_next(
    web: Web, tmp_path: Path, killed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "temporary").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    wait = "import time; print('ready', flush=True); time.sleep(60)" if killed else ""
    script = f"""
from gcl.data.storage.folders import build_storage
storage = build_storage("{web.server.address}/shards")
storage.read("{SHARD}", 0, 5)
assert build_storage("{web.server.address}/shards").cache.folder == storage.cache.folder
{wait}
"""
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
    if not killed:
        assert process.wait(60) == 0
        assert not list((tmp_path / "temporary").iterdir())
        return
    assert process.stdout and process.stdout.readline() == b"ready\n"
    [left] = (tmp_path / "temporary").iterdir()
    assert list((left / BLOCKS).iterdir())
    # Another process leaves it alone while this one lives.
    program = "from gcl.data.storage.temporary_folder import temporary_folder; temporary_folder()"
    next_one = [sys.executable, "-c", program]
    subprocess.run(next_one, check=True, timeout=60)
    assert left.exists()
    process.kill()
    process.wait(10)
    assert left.exists()
    subprocess.run(next_one, check=True, timeout=60)
    assert not left.exists()


# Addresses


def test_the_query_of_a_signed_address_is_sent_and_never_shown(web: Web) -> None:
    signed = "?signature=hunter2%2Fhunter2&expires=9"
    storage = web.storage(query=signed)
    assert storage.read(SHARD, 0, 5) == (web.folder / SHARD).read_bytes()[:5]
    assert set(web.behaviour.paths) == {f"/shards/{SHARD}{signed}"}
    assert "hunter2" not in storage.place
    web.behaviour.fail_next, web.behaviour.failure = 99, 403
    assert "403" in refusal(lambda: storage.read(SHARD, SMALL_BLOCK, SMALL_BLOCK + 5))
    refusal(lambda: storage.read_all(SHARD))
    refusal(lambda: storage.read("absent.tar", 0, 5))
    # A run that signs anew finds the blocks again.
    assert web.storage(query="?signature=hunter3").read(SHARD, 0, 5) == (web.folder / SHARD).read_bytes()[:5]
    assert web.behaviour.ranges[f"shards/{SHARD}", f"bytes=0-{SMALL_BLOCK - 1}"] == 1


@pytest.mark.parametrize(
    "address", ["https://me:hunter2@host/x", "https://hunter2@host/x?y=hunter2", "s3://k:hunter2@b/x"]
)
def test_an_address_with_a_password_is_refused(address: str, tmp_path: Path) -> None:
    assert "leave them out" in refusal(lambda: build_storage(address, CacheSettings(str(tmp_path))))


@pytest.mark.parametrize("address", ["ftp://me:hunter2@host/x?hunter2"])
def test_an_unknown_kind_of_address_is_refused(address: str, tmp_path: Path) -> None:
    line = refusal(lambda: build_storage(address, CacheSettings(str(tmp_path))))
    assert line.startswith("ftp://host/x must begin with one of s3://, gs://")


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    line = refusal(lambda: build_storage("gs://bucket/x", CacheSettings(str(tmp_path))))
    assert line == "gs://bucket/x cannot be read without gcsfs: pip install 'gcsfs'"


def test_a_cache_that_cannot_be_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert "data.cache.folder" in refusal(lambda: build_storage("http://h/x", CacheSettings(str(tmp_path / "file"))))
    assert "at least 1" in refusal(lambda: CacheSettings(gigabytes=float("nan")))


# Local folders


def test_a_disk_that_fails_once_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content, pread, failures = write_shard(tmp_path, 5000), os.pread, [OSError(116, "Stale file handle")]

    def failing(*arguments: int) -> bytes:
        if failures:
            raise failures.pop()
        return pread(*arguments)

    monkeypatch.setattr(os, "pread", failing)
    assert LocalFolder(tmp_path).read(SHARD, 5, 500) == content[5:500]
    assert not failures


def test_a_local_file_that_is_missing_is_named(tmp_path: Path) -> None:
    storage = build_storage(tmp_path)
    assert storage.size(SHARD) is None
    assert f"{tmp_path / SHARD} cannot be read (No such file" in refusal(lambda: storage.read(SHARD, 0, 5))
    assert "is missing" in refusal(lambda: storage.expect({SHARD: 5}))

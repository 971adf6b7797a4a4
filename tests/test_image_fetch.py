"""Rows with their images: files stay inside their folder; web addresses are answered by a real server on loopback."""

import os
import random
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import certifi
import pytest
from image_server import MAX_BYTES, ImageServer, jpeg
from PIL import Image
from yarl import URL

from gcl.data.fetch import address, download, records
from gcl.data.fetch.address import is_public, parse_address
from gcl.data.fetch.download import GIVE_UP_AFTER, certificates, retry_after
from gcl.data.fetch.error import ImageError
from gcl.data.fetch.records import ImageSettings, fetch_records
from gcl.data.record import Record, Refusal, SourceRow
from gcl.errors import UserError


@pytest.fixture
def shop() -> Iterator[ImageServer]:
    with ImageServer() as server:
        yield server


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "FIRST_PAUSE_SECONDS", 0.05)


@pytest.fixture
def loopback_is_public(monkeypatch: pytest.MonkeyPatch) -> None:
    """127.x stands for the open internet, so that private addresses can be refused while a server here is asked."""
    monkeypatch.setattr(address, "is_public", lambda ip: ip.startswith("127.") or is_public(ip))


def settings(**changed: object) -> ImageSettings:
    given = {"max_megabytes": MAX_BYTES / 1e6, "timeout_seconds": 5.0, "retries": 2, "allow_private_addresses": True}
    return ImageSettings(**(given | changed))  # type: ignore[arg-type]


def row(*candidates: bytes | str, origin: str = "rows:1") -> SourceRow:
    return SourceRow({"item_id": origin}, {"image": candidates}, origin)


def fetch(*candidates: bytes | str, folder: Path | None = None, **changed: object) -> Record | Refusal:
    [result] = fetch_records([row(*candidates)], folder, settings(**changed))
    return result


def refused(*candidates: bytes | str, folder: Path | None = None, **changed: object) -> Refusal:
    result = fetch(*candidates, folder=folder, **changed)
    assert isinstance(result, Refusal)
    return result


def image_of(result: Record | Refusal) -> bytes:
    assert isinstance(result, Record), result
    return result.images["image"]


GOOD = ("good", "slow", "moved", "mislabelled", "packed", "once-busy", "once-reset", "once-hangup")
BAD = {
    "gone": "image not found",
    "forbidden": "image refused by the server",
    "page": "web page instead of an image",
    "text": "not an image",
    "empty": "not an image",
    "damaged": "bad image",
    "huge": "image too large",
    "endless": "image too large",
    "bomb": "image too large",
    "cut": "image download broken off",
    "reset": "image download broken off",
    "hangup": "image server unreachable",
    "failing": "image server failed",
    "busy": "image server failed",
    "holiday": "image server failed",
    "garbage": "image server failed",
    "drip": "image download timed out",
    "loop": "too many redirects",
    "inside": "private address",
    "file": "bad address",
}


def test_every_good_image_arrives_in_order_and_every_bad_one_is_counted_by_reason(loopback_is_public: None) -> None:
    ways = [*BAD, "once-patience", *(GOOD * 8)]
    with ImageServer("127.0.0.1") as one, ImageServer("127.0.0.2") as other:
        rows = []
        for number in range(4 * len(ways)):
            way = ways[number * 37 % len(ways)]
            server = other if number % 3 else one
            rows.append(row(server.url(f"/{way}/{number}.jpg"), origin=f"{way}:{number}"))
        fetched = list(
            fetch_records(
                rows,
                None,
                settings(connections=24, connections_per_host=16, timeout_seconds=1.5, allow_private_addresses=False),
            )
        )
    assert [result.origin for result in fetched] == [row.origin for row in rows]
    wrong = []
    for result in fetched:
        way, _, name = result.origin.partition(":")
        good = isinstance(result, Record) and result.images == {"image": jpeg(f"{name}.jpg")} and way not in BAD
        bad = isinstance(result, Refusal) and result.reason == BAD.get(way)
        if not (good or bad):
            wrong.append(result)
    assert not wrong
    assert Counter(type(result) for result in fetched) == {Record: 4 * (8 * len(GOOD) + 1), Refusal: 4 * len(BAD)}
    assert one.drained == other.drained == 0  # endless bodies were left early
    assert max(one.most_open, other.most_open) <= 20  # one that was broken off here is seen there a moment longer
    for headers in one.headers + other.headers:
        assert headers["User-Agent"].startswith("gcl/") and headers["Accept-Encoding"] == "identity"
        assert "Cookie" not in headers and "Referer" not in headers


def test_rows_of_the_same_product_share_one_download(shop: ImageServer) -> None:
    rows = [row(shop.url(f"/good/{number // 5}.jpg"), origin=f"log:{number}") for number in range(300)]
    rows += [row(shop.url("/gone/x.jpg")) for _ in range(3)]
    results = list(fetch_records(rows, None, settings()))
    assert [image_of(result) for result in results[:300]] == [jpeg(f"{number // 5}.jpg") for number in range(300)]
    assert {result.reason for result in results[300:] if isinstance(result, Refusal)} == {"image not found"}
    assert set(shop.asked.values()) == {1} and len(shop.asked) == 61


def test_all_connections_together_stay_within_their_limit() -> None:
    with ImageServer("127.0.0.1") as one, ImageServer("127.0.0.2") as other:
        rows = [row(server.url(f"/slow/{number}.jpg")) for number in range(20) for server in (one, other)]
        fetched = list(fetch_records(rows, None, settings(connections=8, connections_per_host=6)))
        assert all(isinstance(result, Record) for result in fetched)
        assert one.most_open <= 6 and other.most_open <= 6
        together = {moment: 0 for _, moment in one.times + other.times}
        for moment in together:  # each request takes 0.3 seconds, to be careful a little less
            together[moment] = sum(moment - 0.28 < begun <= moment for _, begun in one.times + other.times)
        assert 6 < max(together.values()) <= 8


def test_workers_share_the_connections(shop: ImageServer) -> None:
    rows = [row(shop.url(f"/slow/{number}.jpg")) for number in range(8)]
    fetched = list(fetch_records(rows, None, settings(connections=16, connections_per_host=8), workers=4))
    assert all(isinstance(result, Record) for result in fetched) and shop.most_open == 2


def test_a_wait_for_a_free_connection_is_no_time_out(shop: ImageServer) -> None:
    rows = [row(shop.url(f"/slow/{number}.jpg")) for number in range(8)]
    limits = settings(connections=1, connections_per_host=1, timeout_seconds=1.0)
    assert all(isinstance(result, Record) for result in fetch_records(rows, None, limits))


def test_only_failures_that_may_pass_are_tried_again(shop: ImageServer) -> None:
    for way in BAD.keys() - {"inside", "loop", "drip"}:
        refused(shop.url(f"/{way}/1.jpg"))
    tries = {path.split("/")[1]: count for path, count in shop.asked.items()}
    again = {"cut", "reset", "failing", "busy"}
    assert tries.pop("hangup") in (3, 6)  # aiohttp itself asks once more when a connection ends without an answer
    assert tries == {way: 3 if way in again else 1 for way in BAD.keys() - {"inside", "loop", "drip", "hangup"}}


def test_the_pause_that_a_busy_server_asks_for_is_kept_by_every_image_of_it(shop: ImageServer) -> None:
    rows = [row(shop.url("/once-patience/1.jpg")), row(shop.url("/slow/2.jpg")), row(shop.url("/good/3.jpg"))]
    fetched = list(fetch_records(rows, None, settings(connections_per_host=2)))
    assert all(isinstance(result, Record) for result in fetched)
    times = dict(shop.times)  # of the last request of each
    asked_for = shop.times[0][1]
    assert times["/once-patience/1.jpg"] - asked_for > 0.95
    assert times["/good/3.jpg"] - asked_for > 0.95


def test_a_pause_may_be_asked_for_by_date() -> None:
    in_a_minute = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + 60))
    assert 55 < (retry_after(in_a_minute) or 0) <= 60
    assert retry_after("7") == 7 and retry_after("Thu, 01 Jan 1998 00:00:00 GMT") == 0
    assert retry_after("soon") is None and retry_after(None) is None


def test_a_host_where_nobody_listens_is_given_up_and_the_others_are_not(shop: ImageServer) -> None:
    with socket.create_server(("127.0.0.2", 0)) as closed:
        port = closed.getsockname()[1]
    rows = []
    for number in range(60):
        silent = f"http://127.0.0.2:{port}/{number}.jpg"
        rows += [row(silent), row(silent, shop.url(f"/good/{number}.jpg"))]
    fetched = list(fetch_records(rows, None, settings(connections_per_host=4)))
    assert [image_of(result) for result in fetched[1::2]] == [jpeg(f"{number}.jpg") for number in range(60)]
    reasons = Counter(result.reason for result in fetched[::2] if isinstance(result, Refusal))
    assert reasons.keys() == {"image server unreachable", "image server given up"}
    assert reasons["image server unreachable"] < GIVE_UP_AFTER + 4 and reasons.total() == 60


def test_the_first_good_candidate_is_taken(shop: ImageServer, tmp_path: Path) -> None:
    (tmp_path / "cut.jpg").write_bytes(jpeg()[:-100])
    candidates = (shop.url("/damaged/1.jpg"), "cut.jpg", b"<html>", shop.url("/good/4.jpg"), shop.url("/good/5.jpg"))
    assert image_of(fetch(*candidates, folder=tmp_path)) == jpeg("4.jpg")
    assert shop.asked["/good/5.jpg"] == 0
    refusal = refused(*candidates[:3], folder=tmp_path)
    assert refusal.reason == "web page instead of an image"
    assert refusal.detail.startswith("image: bad image: ") and refusal.detail.count("bad image") == 2


def test_a_field_without_a_candidate_is_left_out_and_refusals_go_through(shop: ImageServer) -> None:
    empty, bad = row(), Refusal("rows:2", "bad line")
    two = SourceRow({}, {"front": (shop.url("/good/1.jpg"),), "back": (jpeg("2.jpg"),)}, "rows:3")
    assert list(fetch_records([empty, bad, two], None, settings())) == [
        Record(empty.fields, {}, empty.origin),
        bad,
        Record({}, {"front": jpeg("1.jpg"), "back": jpeg("2.jpg")}, "rows:3"),
    ]


def test_a_slow_image_holds_up_no_other_and_rows_are_not_read_without_bound(
    shop: ImageServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(records, "LOOK_AHEAD", 100)
    shop.wanted = 100
    read = 0

    def rows() -> Iterator[SourceRow]:
        nonlocal read
        for number in range(300):
            read += 1
            yield row(shop.url(f"/{'good' if number else 'late'}/{number}.jpg"))

    with closing(fetch_records(rows(), None, settings(connections=4))) as fetched:
        next(fetched)
        assert sum(shop.asked.values()) == 100 and read == 101


def test_files_are_read_as_they_are_wanted() -> None:
    read: list[int] = []

    def rows() -> Iterator[SourceRow]:
        for number in range(100):
            read.append(number)
            yield row(jpeg())

    next(fetch_records(rows(), None, settings()))
    assert len(read) <= 2


MEMORY = """
import sys
from pathlib import Path
from gcl.data.fetch.error import ImageError
from gcl.data.fetch.records import ImageSettings, fetch_records
from gcl.data.record import SourceRow

url, images = sys.argv[1], int(sys.argv[2])
def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6
rows = (SourceRow({}, {"image": (f"{url}/{'large' if n else 'late'}/{n}.jpg",)}, str(n)) for n in range(images))
settings = ImageSettings(short_side=None, allow_private_addresses=True)
megabytes, size = [resident()], 0
for n, record in enumerate(fetch_records(rows, None, settings)):
    size += len(record.images["image"])
    megabytes.append(resident())
print(megabytes[0], megabytes[images // 4], max(megabytes), size / 1e6)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_memory_stays_flat_over_two_thousand_images(shop: ImageServer) -> None:
    shop.wanted = 300  # while the first image is waited for
    command = [sys.executable, "-c", MEMORY, shop.url(""), "2000"]
    printed = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout
    start, after_a_quarter, most, fetched = map(float, printed.split())
    assert fetched > 395
    assert most - start < 160  # 64 MB that wait for a slow first one, and what is at work
    assert most - after_a_quarter < 40


@pytest.mark.skipif(sys.platform != "linux", reason="open files are counted in /proc")
def test_a_caller_that_stops_early_leaves_no_thread_and_no_connection(shop: ImageServer) -> None:
    threads, files = set(threading.enumerate()) - {threading.current_thread()}, len(os.listdir("/proc/self/fd"))
    rows = [row(shop.url(f"/{'drip' if number % 2 else 'good'}/{number}.jpg")) for number in range(50)]
    fetched = fetch_records(rows, None, settings(connections_per_host=10))
    assert image_of(next(fetched)) == jpeg("0.jpg")
    started = time.monotonic()
    fetched.close()
    assert time.monotonic() - started < 2
    wait_until(lambda: shop.open == 0)
    left = {thread.name for thread in set(threading.enumerate()) - threads}
    assert not {name for name in left if name.startswith(("download", "decode"))}
    wait_until(lambda: len(os.listdir("/proc/self/fd")) <= files)


def wait_until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 5
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_an_error_of_the_source_ends_the_fetching(shop: ImageServer) -> None:
    def rows() -> Iterator[SourceRow]:
        yield row(shop.url("/good/1.jpg"))
        raise RuntimeError("the table ends here")

    with pytest.raises(RuntimeError, match="the table ends here"):
        list(fetch_records(rows(), None, settings()))
    assert "download" not in {thread.name for thread in threading.enumerate()}


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "localhost",
        "0x7f000001",
        "[::1]",
        "169.254.169.254",
        "10.0.0.1",
        "192.168.1.1",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "[fe80::1%25eth0]",
        "0.0.0.0",
        "①②⑦.0.0.1",
    ],
)
def test_private_addresses_are_refused_by_default(shop: ImageServer, host: str) -> None:
    assert refused(shop.url("/good/1.jpg", host), allow_private_addresses=False).reason == "private address"
    assert shop.most_open == 0


@pytest.mark.parametrize("host", ["2130706433", "127.1", "0177.0.0.1", "127.0.0.1.", "①②⑦.1", "[::1", "a b", "a..b"])
def test_hosts_that_are_neither_name_nor_address_are_refused(shop: ImageServer, host: str) -> None:
    refusal = refused(shop.url("/good/1.jpg", host), allow_private_addresses=False, retries=0)
    assert refusal.reason in ("bad address", "image server unreachable")
    assert shop.most_open == 0


@pytest.mark.parametrize(
    "address",
    [
        "64:ff9b::7f00:1",
        "2002:7f00:1::",
        "::7f00:1",
        "fe80::1%eth0",
        "fec0::1",
        "fc00::1",
        "100.64.0.1",
        "224.0.0.1",
        "255.255.255.255",
        "ff02::1",
    ],
)
def test_addresses_that_lead_inside_are_not_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", ["8.8.8.8", "2606:4700::1111", "64:ff9b::808:808"])
def test_addresses_of_the_open_internet_are_public(address: str) -> None:
    assert is_public(address)


def answer_with(monkeypatch: pytest.MonkeyPatch, name: str, *answers: list[str]) -> list[str]:
    """Let `name` resolve to each of `answers` in turn, and list the hosts that are looked up."""
    real, left, asked = socket.getaddrinfo, list(answers), []

    def resolve(host: str, port: int, *rest: int, **named: int) -> list[tuple]:
        asked.append(host)
        found = left.pop(0) if host == name else [host]
        return [entry for address in found for entry in real(address, port, *rest, **named)]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    return asked


def test_a_host_with_one_private_address_among_public_ones_is_refused(
    shop: ImageServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer_with(monkeypatch, "shop.example", ["93.184.215.14", "127.0.0.1"])
    refusal = refused(shop.url("/good/1.jpg", "shop.example"), allow_private_addresses=False)
    assert refusal.reason == "private address" and "shop.example is 127.0.0.1" in refusal.detail
    assert shop.most_open == 0


def test_the_connection_goes_to_the_address_that_was_checked(
    shop: ImageServer, monkeypatch: pytest.MonkeyPatch, loopback_is_public: None
) -> None:
    # Asked again, the name server would send us inside; and it is asked once.
    asked = answer_with(monkeypatch, "shop.example", ["127.0.0.1"], ["10.0.0.1"])
    assert image_of(fetch(shop.url("/good/1.jpg", "shop.example"), allow_private_addresses=False)) == jpeg("1.jpg")
    assert asked == ["shop.example"]
    assert shop.headers[0]["Host"] == f"shop.example:{shop.server_port}"


def test_a_name_that_moves_inside_while_it_is_tried_again_is_refused(
    shop: ImageServer, monkeypatch: pytest.MonkeyPatch, loopback_is_public: None
) -> None:
    monkeypatch.setattr(download, "DNS_SECONDS", 0)
    answer_with(monkeypatch, "shop.example", ["127.0.0.1"], ["10.0.0.1"])
    refusal = refused(shop.url("/hangup/1.jpg", "shop.example"), allow_private_addresses=False)
    assert refusal.reason == "private address" and "shop.example is 10.0.0.1" in refusal.detail


def test_the_next_address_is_tried_where_nobody_listens(shop: ImageServer, monkeypatch: pytest.MonkeyPatch) -> None:
    answer_with(monkeypatch, "shop.example", ["127.0.0.2", "127.0.0.1"])  # the server listens on 127.0.0.1 alone
    assert image_of(fetch(shop.url("/good/1.jpg", "shop.example"))) == jpeg("1.jpg")


def test_no_proxy_is_used(shop: ImageServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("all_proxy", "http://127.0.0.1:1")
    assert image_of(fetch(shop.url("/good/1.jpg"))) == jpeg("1.jpg")


@pytest.mark.parametrize(
    "url",
    [
        "ftp://shop.example/a.jpg",
        "file:///etc/passwd",
        "http://",
        "http://name:secret@127.0.0.1/a.jpg",
        "http://secret@127.0.0.1/a.jpg",
        "http://127.0.0.1:99999/a.jpg",
        "http://127.0.0.1\\@secret/a.jpg",
        f"http://{'a' * 70}.example/a.jpg",
    ],
)
def test_other_kinds_of_address_are_refused(url: str) -> None:
    refusal = refused(url)
    assert refusal.reason == "bad address" and "secret" not in refusal.detail


def test_no_address_however_odd_ends_the_run() -> None:
    dice = random.Random(0)
    parts = [
        "http://",
        "https://",
        "[",
        "]",
        ":",
        "@",
        "/",
        "?",
        "#",
        "%",
        "%00",
        "..",
        "1",
        "::1",
        "a",
        "é",
        "\udcff",
        "\n",
    ]
    for _ in range(5000):
        address = "http://" * dice.randrange(2) + "".join(dice.choices(parts, k=dice.randint(1, 8)))
        try:
            url = parse_address(address, URL("http://shop.example/a.jpg"))
            assert url.scheme in ("http", "https") and url.raw_host and not url.user
        except ImageError as error:
            assert error.reason == "bad address"


@pytest.mark.parametrize("way", [way for way in BAD if way not in ("inside", "drip")])
def test_a_refusal_repeats_no_signature(shop: ImageServer, way: str) -> None:
    assert "secret" not in refused(shop.url(f"/{way}/1.jpg?signature=secret"), retries=0).detail


def test_an_address_is_sent_as_it_was_signed(shop: ImageServer) -> None:
    for path in ("/good/a%2fb%41.jpg?sign=a%2Bb+c%2f~", "/good/two words.jpg", "/good/é.jpg"):
        assert isinstance(fetch(shop.url(path)), Record)
    assert shop.paths == ["/good/a%2fb%41.jpg?sign=a%2Bb+c%2f~", "/good/two%20words.jpg", "/good/%C3%A9.jpg"]


def test_a_server_that_never_answers_is_given_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/a.jpg"
        assert refused(url, timeout_seconds=0.2).reason == "image download timed out"


def test_a_name_that_does_not_exist_is_asked_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def unknown(host: str, *_: object, **__: object) -> None:
        asked.append(host)
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    refusal = refused("http://shop.example/a.jpg")
    assert refusal.reason == "image server unreachable" and "not known" in refusal.detail
    assert asked == ["shop.example"]


def test_a_certificate_is_checked_against_the_name_in_the_address(
    shop: ImageServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("no openssl here to write a certificate with")
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=shop.example -days 2"
    more = ["-addext", "subjectAltName=DNS:shop.example", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run([*command.split(), *more], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    shop.socket = context.wrap_socket(shop.socket, server_side=True)
    answer_with(monkeypatch, "shop.example", ["127.0.0.1"], ["127.0.0.1"])
    url = shop.url("/good/1.jpg", "shop.example").replace("http:", "https:")
    assert "self-signed certificate" in refused(url).detail
    monkeypatch.setattr(certifi, "where", lambda: str(certificate))
    certificates.cache_clear()
    try:
        assert image_of(fetch(url)) == jpeg("1.jpg")
        refusal = refused(url.replace("shop.example", "127.0.0.1"))
    finally:
        certificates.cache_clear()
    assert "certificate is not valid for '127.0.0.1'" in refusal.detail
    assert refusal.reason == "image server unreachable"


def test_images_are_scaled_down_to_the_short_side(shop: ImageServer, tmp_path: Path) -> None:
    path = tmp_path / "big.png"
    Image.linear_gradient("L").resize((300, 200)).save(path)
    assert image_of(fetch("big.png", folder=tmp_path)) == path.read_bytes()
    small = tmp_path / "small.jpg"
    small.write_bytes(image_of(fetch("big.png", folder=tmp_path, short_side=100)))
    assert Image.open(small).size == (150, 100)


def test_a_file_inside_the_folder_is_read(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.jpg").write_bytes(jpeg())
    (tmp_path / "link.jpg").symlink_to("images/a.jpg")
    for name in ("images/a.jpg", "images/../images/a.jpg", "link.jpg", str(tmp_path / "images" / "a.jpg")):
        assert image_of(fetch(name, folder=tmp_path)) == jpeg()


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("../secret.jpg", "image outside the source"),
        ("/etc/passwd", "image outside the source"),
        ("link.jpg", "image outside the source"),
        ("absent.jpg", "missing image"),
        (".", "missing image"),
        ("", "missing image"),
        ("zero\0byte.jpg", "missing image"),
        ("x" * 5000, "missing image"),
        ("round.jpg", "missing image"),
        ("empty.jpg", "missing image"),
        ("huge.jpg", "image too large"),
        ("text.jpg", "not an image"),
    ],
)
def test_a_file_that_must_not_or_cannot_be_read_is_refused(tmp_path: Path, name: str, reason: str) -> None:
    folder = tmp_path / "catalogue"
    folder.mkdir()
    (tmp_path / "secret.jpg").write_bytes(jpeg())
    (folder / "link.jpg").symlink_to(tmp_path / "secret.jpg")
    (folder / "round.jpg").symlink_to(folder / "round.jpg")
    (folder / "empty.jpg").touch()
    (folder / "text.jpg").write_text("not an image at all")
    (folder / "huge.jpg").write_bytes(bytes(MAX_BYTES + 1))
    refusal = refused(name, folder=folder)
    assert refusal.reason == reason and len(refusal.detail) < 300


def test_a_source_without_a_folder_reads_no_file() -> None:
    assert refused("/etc/passwd").reason == "image outside the source"


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"short_side": 0}, "short_side is 0"),
        ({"quality": 101}, "quality is 101"),
        ({"max_megabytes": 0.0}, "max_megabytes is 0.0"),
        ({"timeout_seconds": -1.0}, "timeout_seconds is -1.0"),
        ({"retries": -1}, "retries is -1"),
        ({"connections": 0}, "connections is 0"),
        ({"connections_per_host": 0}, "connections_per_host is 0"),
    ],
)
def test_settings_that_make_no_sense_are_refused(changed: dict[str, object], said: str) -> None:
    with pytest.raises(UserError, match=said):
        settings(**changed)

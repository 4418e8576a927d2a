"""What servers send: nothing but the promised file, whole, is ever left; what a connection lost is gone on with."""

from __future__ import annotations

import hashlib
import random
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from web import Answer, Request, Web, claiming, cut, endless, status, whole, without_ranges

from lianet_user.catalog import download as module
from lianet_user.catalog.download import download, read_bytes
from lianet_user.catalog.model import check_address
from lianet_user.errors import CatalogError, DownloadError, LianetError, OutputError

DATA = random.Random(0).randbytes(700_000)
OTHER = random.Random(1).randbytes(700_000)


def get(web: Web, path: Path, *answers: Answer | bytes, listener: Callable[[int, int], None] | None = None) -> None:
    sha256 = hashlib.sha256(DATA).hexdigest()
    download(web.put("/file", *answers), path, size=len(DATA), sha256=sha256, listener=listener)


def test_a_file_arrives_whole_and_tells_how_far_it_is(web: Web, tmp_path: Path) -> None:
    heard: list[tuple[int, int]] = []
    get(web, tmp_path / "part", DATA, listener=lambda *state: heard.append(state))
    assert (tmp_path / "part").read_bytes() == DATA
    assert heard == sorted(heard)
    assert heard[-1] == (len(DATA), len(DATA))
    assert web.asked == [("/file", None)]


def part_of(place: str) -> Answer:
    """An answer that claims to be this part of the file."""
    return status(206, **{"Content-Range": place})


START = DATA[:300_000]
GOING_ON: dict[str, tuple[bytes, list[Answer], list[str | None]]] = {
    "what was received before is not received again": (START, [whole(DATA)], ["bytes=300000-"]),
    "a connection that closes early is gone on with": (
        b"",
        [cut(DATA, 100_000), cut(DATA, 250_000), whole(DATA)],
        [None, "bytes=100000-", "bytes=350000-"],
    ),
    "a server that ignores ranges is read from the start": (START, [without_ranges(DATA)], ["bytes=300000-"]),
    "a file that changed between ranges is read anew": (OTHER[:300_000], [whole(DATA)], ["bytes=300000-", None]),
    "a part that is longer than the file is thrown away": (DATA + b"more", [whole(DATA)], [None]),
    **{
        f"a server that answers {code} is asked again": (b"", [status(code), status(code), whole(DATA)], [None] * 3)
        for code in (500, 503, 429)
    },
    **{
        f"a range that is {place} is not appended": (START, [part_of(place), whole(DATA)], ["bytes=300000-", None])
        for place in ("bytes 5-699999/700000", "bytes 300000-699999/800000", "nonsense")
    },
}


@pytest.mark.parametrize("case", GOING_ON)
def test_a_download_goes_on_from_what_is_really_there(web: Web, tmp_path: Path, case: str) -> None:
    kept, answers, ranges = GOING_ON[case]
    if kept:
        (tmp_path / "part").write_bytes(kept)
    get(web, tmp_path / "part", *answers)
    assert (tmp_path / "part").read_bytes() == DATA
    assert web.asked == [("/file", each) for each in ranges]


LIES: dict[str, tuple[Answer | bytes, type[LianetError], str]] = {
    "another file of that size": (OTHER, DownloadError, "another sha256"),
    "a length that is too large": (
        claiming(10**15, DATA),
        DownloadError,
        "offers 1000000000000000 bytes, expected 700000",
    ),
    "a length that is too small": (claiming(5, DATA), DownloadError, "offers 5 bytes, expected 700000"),
    "a bomb": (endless(), DownloadError, "continues after the promised 700000 bytes"),
    "compressed": (status(200, **{"Content-Encoding": "gzip"}), DownloadError, "sent compressed"),
    "not found": (status(404), DownloadError, "answers 404 (not found)"),
    "forbidden": (status(403), DownloadError, "answers 403 (forbidden)"),
    "no content": (status(204), DownloadError, "answers 204"),
    "to a local file": (status(302, Location="file:///etc/passwd"), DownloadError, "redirects to 'file:///etc/passwd'"),
    "to another machine by http": (status(302, Location="http://example.org/x"), CatalogError, "is not read"),
    "to ftp": (status(302, Location="ftp://example.org/x"), CatalogError, "is not read"),
    "round and round": (status(302, Location="/file"), DownloadError, "which is not followed"),
    "nowhere": (status(302), DownloadError, "redirects to 'nowhere'"),
    "a redirection with escapes": (status(302, Location="https://\x1b[2J"), DownloadError, "answer is not valid HTTP"),
}


@pytest.mark.parametrize("lie", LIES)
def test_nothing_is_left_of_what_a_server_lies_about(web: Web, tmp_path: Path, lie: str) -> None:
    answer, kind, message = LIES[lie]
    with pytest.raises(kind) as error:
        get(web, tmp_path / "part", answer)
    assert message in str(error.value)
    assert str(error.value).isprintable()
    assert not (tmp_path / "part").exists()


def test_a_server_that_withholds_the_rest_is_given_up(web: Web, tmp_path: Path) -> None:
    with pytest.raises(
        DownloadError, match=r"closed early: 200 of 700000 bytes are kept, and the same command resumes"
    ):
        get(web, tmp_path / "part", cut(DATA, 200), cut(DATA, 0))
    assert (tmp_path / "part").read_bytes() == DATA[:200]
    assert len(web.asked) == module.ATTEMPTS


def test_a_server_that_gives_a_byte_at_a_time_is_given_up(web: Web, tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match="closed early"):
        get(web, tmp_path / "part", cut(DATA, 1))
    assert len(web.asked) == module.ATTEMPTS


@pytest.mark.usefixtures("web")  # for its patience
def test_nobody_there_is_said_in_a_line(tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match="could not be downloaded: Connection refused"):
        download("http://127.0.0.1:1/file", tmp_path / "part", size=5, sha256="0" * 64)


def test_a_silent_server_is_not_waited_for_forever(web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TIMEOUT_S", 0.05)
    release = threading.Event()

    def silent(_: Request) -> None:
        release.wait(5)

    with pytest.raises(DownloadError, match="timed out"):
        get(web, tmp_path / "part", silent)
    release.set()


def test_a_folder_that_cannot_be_written_is_our_fault_not_the_server_s(web: Web, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="LIANET_CACHE"):
        get(web, tmp_path / "gone" / "part", DATA)


def test_documents_are_read_to_a_limit(web: Web) -> None:
    assert read_bytes(web.put("/a.json", b"{}"), 100) == b"{}"
    assert len(read_bytes(web.put("/a.json", endless()), 1_000_000)) == 1_000_001
    with pytest.raises(DownloadError, match="closed early"):
        read_bytes(web.put("/a.json", claiming(50, b"{")), 100)


def test_a_token_is_shown_to_no_other_host(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "hub_request", lambda _: (f"{web.url}/hub", {"Authorization": "Bearer secret"}))
    web.put("/hub", status(302, Location=f"{web.url.replace('127.0.0.1', 'localhost')}/elsewhere"))
    web.put("/elsewhere", b"{}")
    assert read_bytes("hf://owner/repository/file.json", 100) == b"{}"
    assert [headers.get("Authorization") for headers in web.headers] == ["Bearer secret", None]


@pytest.mark.parametrize(
    ("address", "before"),
    [
        ("http://example.org/x", None),
        ("http://localhost/x", "https://example.org/"),  # a step down from https, though to this machine
        ("http://127.0.0.1.example.org/x", None),
        ("file:///etc/passwd", None),
        ("ftp://example.org/x", None),
        ("data://x", None),
        ("https:///x", None),
        ("https://user:word@example.org/x", None),
        ("https://example.org:99999/x", None),
        ("https://example.org/a b", None),
        ("https://exämple.org/x", None),
        ("https://[::1/x", None),
        ("hf://owner/repository", None),
    ],
)
def test_addresses_that_are_not_read(address: str, before: str | None) -> None:
    with pytest.raises(CatalogError):
        check_address(address, before)


@pytest.mark.parametrize(
    "address", ["https://example.org/x", "http://localhost:8000/x", "http://[::1]/x", "hf://a/b/c"]
)
def test_addresses_that_are_read(address: str) -> None:
    check_address(address)


def test_the_hub_needs_an_extra_that_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(CatalogError, match=r"pip install 'lianet-user\[hub\]'"):
        read_bytes("hf://owner/repository/catalog.json", 100)


def test_addresses_on_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    hub = pytest.importorskip("huggingface_hub")
    from lianet_user.catalog.download import hub_request

    monkeypatch.setattr(hub, "get_token", lambda: "secret")
    address, headers = hub_request("hf://owner/regions@v2/items/a.json")
    assert address.endswith("/owner/regions/resolve/v2/items/a.json")
    assert address.startswith("https://")
    assert headers == {"Authorization": "Bearer secret"}

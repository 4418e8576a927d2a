"""From names to files: nothing unchecked gets a name in the cache, and what is there needs no network."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from factories import RegionFactory
from web import ROMANIA, Answer, Request, Web, cut, endless, status, whole, without_ranges

from lianet_user.catalog import add, chosen_place, fetch, find_region, open_catalog, publish
from lianet_user.catalog import download as download_module
from lianet_user.catalog import resolve as resolve_module
from lianet_user.catalog.download import cached_file, cached_models
from lianet_user.catalog.resolve import region_of_head
from lianet_user.errors import ArtifactError, CatalogError, CatalogWarning, DownloadError, LianetError, OutputError
from lianet_user.field.weights import save_region
from lianet_user.files.artifact import open_region_file
from lianet_user.files.header import HeadHeader, RegionRef

Document = dict[str, Any]

pytest.importorskip("pystac")


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, which does not exist yet."""
    monkeypatch.setenv("LIANET_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def web(web: Web, original: Path, store: Path, monkeypatch: pytest.MonkeyPatch) -> Web:
    """A server that hosts the catalogue of romania, which is the one in force; the cache is empty."""
    web.host(original)
    monkeypatch.setenv("LIANET_CATALOG", f"{web.url}/catalog.json")
    return web


@pytest.fixture
def item(original: Path) -> Document:
    """What the catalogue says of romania, to be changed."""
    return json.loads((original / "items/romania.json").read_text())


def files(store: Path) -> list[str]:
    """What is in the cache but locks."""
    return sorted(path.name for path in (store / "models").iterdir() if not path.name.endswith(".lock"))


def downloads(web: Web) -> int:
    return sum(path.endswith(".safetensors") for path, _ in web.asked)


def down(web: Web) -> None:
    for path in web.answers:
        web.put(path, status(404))


def test_a_name_brings_the_file_once_and_says_so(web: Web, store: Path) -> None:
    said: list[str] = []
    path = find_region("romania", announce=said.append)
    assert path.read_bytes() == ROMANIA.read_bytes()
    assert said == [f"fetching romania (3.5 MB) from {web.url}/romania.safetensors"]
    assert files(store) == [path.name]
    asked = len(web.asked)
    assert find_region("romania", announce=said.append) == path
    assert (len(web.asked), len(said)) == (asked, 1)


def test_what_is_here_is_found_without_network(web: Web, store: Path) -> None:
    path = find_region("romania")
    down(web)
    assert find_region("romania") == path
    catalog = open_catalog(f"{web.url}/catalog.json")
    assert catalog.as_of is not None
    assert [model.name for model in catalog.models] == ["romania"]
    assert fetch("romania", catalog) == (path, False)
    asked = len(web.asked)
    assert open_catalog(f"{web.url}/catalog.json", offline=True).models == catalog.models
    assert len(web.asked) == asked
    shutil.rmtree(store / "catalogs")
    assert find_region("romania") == path  # the file alone is enough
    with pytest.raises(DownloadError, match="404"):
        open_catalog(f"{web.url}/catalog.json")
    with pytest.raises(DownloadError, match="never read on this machine"):
        open_catalog(f"{web.url}/catalog.json", offline=True)


def test_a_file_wins_over_a_name_and_a_folder_does_not(
    web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("romania").mkdir()
    assert find_region("romania").parent.name == "models"
    Path("romania").rmdir()
    Path("romania").write_bytes(b"mine")
    assert find_region("romania") == Path("romania")
    for path in ("missing.safetensors", "./romania2", "a/b", "-", "", "name with spaces"):
        assert find_region(path) == Path(path)  # no name: whoever opens it says what is wrong


def test_an_unknown_name_is_refused_with_what_there_is(web: Web, store: Path) -> None:
    with pytest.raises(CatalogError, match=r"no file 'rumania', .* has romania; did you mean 'romania'\?$"):
        find_region("rumania")
    assert downloads(web) == 0
    down(web)
    shutil.rmtree(store)
    with pytest.raises(DownloadError, match=r"no file 'rumania', and the name cannot be looked up: .*404"):
        find_region("rumania")


def test_without_a_catalogue_the_message_says_how_to_name_one(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LIANET_CATALOG", raising=False)
    monkeypatch.setattr(resolve_module, "chosen_place", lambda _: None)  # as in an installed wheel
    add(ROMANIA)
    assert find_region("romania").is_file()
    with pytest.raises(CatalogError, match=r"it has romania; did you mean 'romania'\?.*LIANET_CATALOG=https"):
        find_region("rumania")


FAULTS = {
    "another file": without_ranges(bytes(ROMANIA.stat().st_size)),
    "a bomb": endless(),
    "too short": without_ranges(ROMANIA.read_bytes()[:-1]),
    "too long": without_ranges(ROMANIA.read_bytes() + b"x"),
    "gone": status(404),
    "to a local file": status(302, Location=ROMANIA.as_uri()),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_nothing_unverified_is_left_in_the_cache(web: Web, store: Path, fault: str) -> None:
    web.put("/romania.safetensors", FAULTS[fault])
    with pytest.raises(DownloadError):
        find_region("romania")
    assert files(store) == []
    web.put("/romania.safetensors", ROMANIA.read_bytes())
    assert find_region("romania").read_bytes() == ROMANIA.read_bytes()


def test_an_interrupted_download_resumes_and_is_no_model_before(web: Web, store: Path) -> None:
    data = ROMANIA.read_bytes()
    web.put("/romania.safetensors", cut(data, 1_000_000), cut(data, 0))
    with pytest.raises(DownloadError, match="1000000 of 3493512 bytes are kept"):
        find_region("romania")
    (part,) = files(store)
    assert part.endswith(".part")
    assert cached_models() == []
    web.put("/romania.safetensors", whole(data))
    web.asked.clear()
    assert find_region("romania").read_bytes() == data
    assert ("/romania.safetensors", "bytes=1000000-") in web.asked
    assert len(files(store)) == 1


def test_a_region_of_another_name_than_the_catalogues_is_refused(web: Web, store: Path, original: Path) -> None:
    item = (original / "items/romania.json").read_bytes().replace(b"romania", b"rumania")
    web.put("/items/romania.json", item.replace(b"rumania.safetensors", b"romania.safetensors"))
    with pytest.raises(CatalogError, match="is the region 'romania', and the catalogue calls it 'rumania'"):
        find_region("rumania")
    assert files(store) == []


def test_a_file_that_is_as_promised_but_no_region_is_refused(web: Web, store: Path, item: Document) -> None:
    junk = b"PK\x03\x04 no region at all"
    promise = {"file:size": len(junk), "file:checksum": f"1220{hashlib.sha256(junk).hexdigest()}"}
    item["assets"]["model"] |= promise
    web.put("/romania.safetensors", junk)
    web.put("/items/romania.json", json.dumps(item).encode())
    with pytest.raises(CatalogError, match="not a region file"):
        find_region("romania")
    assert files(store) == []


def test_a_file_that_was_damaged_is_fetched_again(web: Web, store: Path) -> None:
    path = find_region("romania")
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.warns(CatalogWarning, match="was damaged"):
        assert find_region("romania") == path
    assert path.read_bytes() == ROMANIA.read_bytes()


def test_a_newer_model_does_not_displace_the_one_of_a_head(
    web: Web, make_region: RegionFactory, tmp_path: Path
) -> None:
    old = find_region("romania")
    newer = make_region(title="newer")
    (tmp_path / "newer").mkdir()
    header = newer.header.model_copy(update={"name": "romania"})
    save_region(tmp_path / "newer" / "romania.safetensors", header, newer.field)
    publish(tmp_path / "newer")
    web.host(tmp_path / "newer")
    assert find_region("romania") == old  # a name keeps its meaning ...
    new, brought = fetch("romania", open_catalog(f"{web.url}/catalog.json"))
    assert brought  # ... until somebody asks for what is new
    assert find_region("romania") == new != old
    assert open_region_file(old).header.title != open_region_file(new).header.title


def test_a_head_finds_its_region_in_the_cache_when_it_lies_nowhere_else(web: Web, tmp_path: Path) -> None:
    path = find_region("romania")
    sha256 = open_region_file(ROMANIA).sha256()
    assert cached_file(sha256) == path
    recorded = RegionRef(name="romania", lineage="0" * 32, sha256=sha256, path=str(tmp_path / "moved.safetensors"))
    header = HeadHeader.model_construct(region=recorded)  # type: ignore[call-arg]  # nothing else is asked for
    assert region_of_head(header, tmp_path / "head.safetensors") == path
    path.unlink()
    with pytest.raises(ArtifactError, match="models fetch"):
        region_of_head(header, tmp_path / "head.safetensors")


def test_a_local_catalogue_is_used_in_place_and_checked(
    store: Path, original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(shutil.copytree(original, tmp_path / "local"))
    model = folder / "romania.safetensors"
    monkeypatch.setenv("LIANET_CATALOG", str(folder))
    assert find_region("romania") == model
    assert not store.exists()
    path, brought = fetch("romania", open_catalog(str(folder / "catalog.json")))
    assert brought
    assert path.read_bytes() == ROMANIA.read_bytes()
    model.unlink()
    assert find_region("romania") == path  # the cache's own
    path.unlink()
    model.write_bytes(bytes(ROMANIA.stat().st_size))
    with pytest.raises(CatalogError, match="another sha256"):
        find_region("romania")
    with pytest.raises(CatalogError, match="another sha256"):
        fetch("romania", open_catalog(str(folder / "catalog.json")))
    model.write_bytes(b"short")
    with pytest.raises(CatalogError, match="it has 5 bytes"):
        find_region("romania")
    assert files(store) == []


def test_a_region_of_one_s_own_is_found_by_its_name(store: Path, make_region: RegionFactory) -> None:
    region = make_region(name="mine")
    assert region.path is not None
    path, model = add(region.path)
    assert add(region.path)[0] == path
    assert find_region("small") == path
    assert model.name == "small"
    other = make_region(name="other", seed=1)
    assert other.path is not None
    with pytest.raises(CatalogError, match="another model named 'small' is here"):
        add(other.path)
    other.path.write_bytes(other.path.read_bytes()[:-1])
    with pytest.raises(ArtifactError):
        add(other.path)
    assert len(files(store)) == 1


def test_two_that_want_one_model_get_it_once(web: Web, store: Path) -> None:
    data = ROMANIA.read_bytes()
    started, release = threading.Event(), threading.Event()

    def slow(request: Request) -> None:
        started.set()
        release.wait(10)
        whole(data)(request)

    web.put("/romania.safetensors", slow)
    open_catalog(f"{web.url}/catalog.json")
    found: list[Path] = []
    said: list[str] = []
    first = threading.Thread(target=lambda: found.append(find_region("romania")))
    first.start()
    assert started.wait(10)

    def notice(line: str) -> None:
        said.append(line)
        release.set()

    found.append(find_region("romania", announce=notice))
    first.join()
    assert found[0] == found[1]
    assert downloads(web) == 1
    assert f"another process ({os.getpid()}) is fetching romania" in said[0]


def test_a_killed_fetch_holds_nobody_up_and_leaves_nothing_wrong(web: Web, store: Path) -> None:
    data = ROMANIA.read_bytes()

    def hang(request: Request) -> None:
        request.head(200, {"Content-Length": len(data)})
        request.send(data[:1_000_000])
        time.sleep(3)

    web.put("/romania.safetensors", hang)
    words = "from lianet_user.catalog import find_region; find_region('romania')"
    process = subprocess.Popen([sys.executable, "-c", words])
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not any(
        path.stat().st_size > 100_000 for path in store.glob("models/*.part")
    ):
        time.sleep(0.02)
    process.kill()
    assert process.wait() == -9
    assert cached_models() == []
    web.put("/romania.safetensors", whole(data))
    assert find_region("romania").read_bytes() == data
    assert web.asked[-1][1] is not None  # gone on with


def test_a_cache_without_room_or_rights_says_what_to_do(
    web: Web, store: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(resolve_module, "SPARE", 2**60)
    with pytest.raises(OutputError, match=r"MB free, and romania needs 3.5 MB: .*LIANET_CACHE"):
        find_region("romania")
    assert downloads(web) == 0
    monkeypatch.undo()
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("LIANET_CACHE", str(tmp_path / "file"))
    monkeypatch.setenv("LIANET_CATALOG", f"{web.url}/catalog.json")
    with pytest.raises(OutputError, match=r"cannot write the cache .*LIANET_CACHE"):
        find_region("romania")


def test_a_disk_that_is_full_leaves_no_model(web: Web, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match=r"No space left on device: make room"):
        find_region("romania")
    assert cached_models() == []


def test_a_damaged_snapshot_is_as_none(web: Web, store: Path) -> None:
    find_region("romania")
    (snapshot,) = (store / "catalogs").iterdir()
    for content in (b"", b"{}", b'{"place": "elsewhere", "read": "2026-01-01T00:00:00Z", "models": []}'):
        snapshot.write_bytes(content)
        assert download_module.read_snapshot(f"{web.url}/catalog.json") is None
    assert find_region("romania").is_file()


@pytest.mark.parametrize(
    ("path", "answer", "kind", "message"),
    [
        pytest.param("/items/romania.json", status(404), DownloadError, "404", id="half of it is none"),
        pytest.param("/catalog.json", endless(b" " * 2**20), CatalogError, "larger than 16 MiB", id="it never ends"),
    ],
)
def test_a_remote_catalogue_is_read_whole_or_not_at_all(
    web: Web, path: str, answer: Answer, kind: type[LianetError], message: str
) -> None:
    web.put(path, answer)
    with pytest.raises(kind, match=message):
        open_catalog(f"{web.url}/catalog.json")


def test_a_remote_catalogue_names_no_local_file(web: Web, item: Document) -> None:
    for href in (ROMANIA.as_uri(), "http://example.org/x", "ftp://example.org/x"):
        item["assets"]["model"]["href"] = href
        web.put("/items/romania.json", json.dumps(item).encode())
        catalog = open_catalog(f"{web.url}/catalog.json")
        assert not catalog.models
        assert "is not read" in catalog.problems[0] or "is not an address" in catalog.problems[0]
    item["assets"]["model"]["href"] = str(ROMANIA)  # on the server, that is
    web.put("/items/romania.json", json.dumps(item).encode())
    (model,) = open_catalog(f"{web.url}/catalog.json").models
    assert model.place == f"{web.url}{ROMANIA}"


@pytest.mark.filterwarnings("ignore::lianet_user.errors.CatalogWarning")
def test_whatever_a_server_answers_for_a_document_is_an_error_of_ours(web: Web) -> None:
    links = (b'{"links": {}}', b'{"type": "Catalog", "links": [[], 1, {}]}')
    for path in ("/catalog.json", "/items/romania.json"):
        kept = web.answers[path]
        for answer in (b"", b"null", b"[]", b"{}", b"\x00" * 100, *links):
            web.put(path, answer)
            with pytest.raises(LianetError):
                find_region("romania")
        web.answers[path] = kept
    assert chosen_place(None) == f"{web.url}/catalog.json"

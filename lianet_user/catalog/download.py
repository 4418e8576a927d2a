"""Downloads, and the folder that keeps them.

    LIANET_CACHE, or the platform's folder for caches/
      models/NAME-DIGEST.safetensors        complete, verified files; DIGEST is the beginning of the file's SHA-256
      models/NAME-DIGEST.safetensors.part   what has arrived of a download
      catalogs/DIGEST.json                  what a remote catalogue said when it was last read

A file is named after its content and never changes, so a head that was trained on it finds it again, whatever the catalogue
says by then. Two processes that want the same file wait for each other.

Servers are not trusted: a download is limited to the size that was promised, resumed where it stopped, and verified by its
SHA-256. pooch does less: it starts again after every interruption, takes whatever number of bytes a server sends before it
looks at the hash, and follows redirections down to http. Python's own client with the handlers below does the rest.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import http.client
import os
import re
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from email.message import Message
from pathlib import Path
from typing import IO, Final
from urllib.parse import urlsplit

from pydantic import Field, ValidationError

from lianet_user.catalog.model import Model, brief, check_address, is_this_machine
from lianet_user.errors import CatalogError, DownloadError, OutputError, printable
from lianet_user.field.config import Schema

# --- Files on the Hugging Face Hub, an optional extra: `huggingface_hub` gives the address and the token, nothing else.


def hub_request(place: str) -> tuple[str, dict[str, str]]:
    """The https address of a file on the Hub, and the headers to ask for it with.

    Raises:
        CatalogError: `huggingface_hub` is not installed, or the place is none.
    """
    try:
        from huggingface_hub import get_token, hf_hub_url
    except ImportError as error:
        raise CatalogError(
            f"{place} is on the Hugging Face Hub, which needs {error.name}: install it with pip install 'lianet-user[hub]'"
        ) from error
    parts = urlsplit(place)
    repository, _, file = parts.path.strip("/").partition("/")
    repository, _, revision = repository.partition("@")
    try:
        address = hf_hub_url(f"{parts.netloc}/{repository}", file, revision=revision or None)
    except ValueError as error:  # a name that the Hub does not allow
        raise CatalogError(f"{place} is no file on the Hugging Face Hub: {error}") from error
    token = get_token()
    return address, {"Authorization": f"Bearer {token}"} if token else {}


# --- Transfers.


TIMEOUT_S: Final = 30.0
"""Without a byte."""
ATTEMPTS: Final = 5
"""In a row that bring nothing new, before a download is given up."""
PAUSE_S: Final = 1.0
"""Before the second attempt; each further one waits twice as long."""
BLOCK: Final = 2**18

Listener = Callable[[int, int], None]


class _InterruptedError(Exception):
    """A transfer ended early, and another attempt may go on from there."""


class _FromStartError(Exception):
    """What was received before is of no use: the server does not go on from there."""


class _Redirections(urllib.request.HTTPRedirectHandler):
    """Follows redirections to places that may be read, and shows no token to other hosts."""

    max_redirections = 5

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Message, newurl: str
    ) -> urllib.request.Request | None:
        try:
            check_address(newurl, before=req.full_url)
        except CatalogError:
            fp.close()
            raise
        further = super().redirect_request(req, fp, code, msg, headers, newurl)  # type: ignore[arg-type]
        if further is not None and urlsplit(newurl).netloc != urlsplit(req.full_url).netloc:
            further.headers = {name: value for name, value in further.headers.items() if name != "Authorization"}
        return further


def download(place: str, path: Path, *, size: int, sha256: str, listener: Listener | None = None) -> None:
    """Receive a file whose size and hash are known, going on from what `path` holds of it already.

    Whatever ends it, `path` never grows beyond `size`; where it returns, `path` holds exactly the file that was promised, on
    disk. After a connection that failed what arrived is kept for the next time; what proves wrong is deleted.

    Args:
        place: an address, https or on the Hub.
        path: of the file in the making. Its folder exists, and nobody else writes it (lock it).
        size: in bytes.
        sha256: of the bytes, in hexadecimal digits.
        listener: told how many bytes are there, of how many.

    Raises:
        CatalogError: the address leads to where it may not lead.
        DownloadError: the server does not give the file, or gives another.
        OutputError: it cannot be written.
    """
    name = _shown(place)
    for _ in range(2):
        resumed = _length(path) > 0
        _receive(place, path, size, listener)
        if hash_of(path) == sha256:
            return
        path.unlink(missing_ok=True)
        if not resumed:
            break
        # Its first part may be of an earlier state of the file: once more, from the start.
    raise DownloadError(
        f"{name} is not the file that the catalogue describes: it has the promised {size} bytes, but another sha256 than"
        f" {sha256[:12]}; it was deleted: tell who runs the catalogue, or try again later"
    )


def read_bytes(place: str, most: int) -> bytes:
    """A document, at most one byte more than `most` of it.

    Raises:
        CatalogError: the address leads to where it may not lead.
        DownloadError: the server does not give it.
    """
    for attempt in range(2):
        try:
            with _response(place) as response:
                with _network():
                    raw = response.read(most + 1)
                promised = response.headers.get("Content-Length", "")
                if promised.isdecimal() and len(raw) < min(int(promised), most):
                    raise _InterruptedError("the connection was closed early")
                return raw
        except _InterruptedError as error:
            if attempt:
                raise DownloadError(f"{_shown(place)} could not be read: {error}: try again later") from error
            time.sleep(PAUSE_S / 2)
    raise AssertionError("unreachable")


def hash_of(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal digits.

    Raises:
        OutputError: it cannot be read.
    """
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise OutputError(f"cannot read {path}: {error.strerror or error}") from error


def _receive(place: str, path: Path, size: int, listener: Listener | None) -> None:
    failures, pause = 0, PAUSE_S
    if _length(path) > size:
        path.unlink()
    while (before := _length(path)) < size:
        try:
            _stream(place, path, before, size, listener)
            continue
        except _FromStartError:
            path.unlink(missing_ok=True)
            failures, problem = failures + 1, "the server does not go on from where it stopped"
        except _InterruptedError as error:
            failures, problem = failures + 1, str(error)
            if _length(path) - before >= BLOCK:  # a server that gives a byte at a time brings nothing new
                failures, pause = 1, PAUSE_S
        if failures >= ATTEMPTS:
            kept = f": {_length(path)} of {size} bytes are kept, and the same command goes on from there"
            raise DownloadError(f"{_shown(place)} could not be downloaded: {problem}{kept}")
        time.sleep(min(pause, 30.0))
        pause *= 2


def _stream(place: str, path: Path, start: int, size: int, listener: Listener | None) -> None:
    """One request: the bytes from `start` on, appended."""
    with _response(place, {"Range": f"bytes={start}-"} if start else {}) as response:
        if response.status == 206:
            place_of = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+|\*)", response.headers.get("Content-Range", ""))
            if not start or place_of is None or int(place_of[1]) != start or place_of[3] not in ("*", str(size)):
                raise _FromStartError
        else:
            start = 0
            promised = response.headers.get("Content-Length")
            if promised is not None and promised != str(size):
                raise DownloadError(
                    f"{_shown(place)} is not the file that the catalogue describes: the server offers"
                    f" {brief(printable(promised), 20)} bytes, expected {size}: tell who runs the catalogue"
                )
        with _writing(path, "r+b" if start else "wb") as file:
            file.seek(start)
            position = start
            while block := _read(response, min(BLOCK, size - position + 1)):
                position += len(block)
                if position > size:
                    break
                file.write(block)
                if listener is not None:
                    listener(position, size)
            file.flush()
            os.fsync(file.fileno())
    if position > size:
        path.unlink(missing_ok=True)
        raise DownloadError(
            f"{_shown(place)} is not the file that the catalogue describes: it goes on after the promised {size} bytes; it was"
            " deleted: tell who runs the catalogue"
        )
    if position < size:
        raise _InterruptedError("the connection was closed early")


@contextmanager
def _writing(path: Path, mode: str) -> Iterator[IO[bytes]]:
    """What fails here is our disk, not the server: the network's errors have become others before they come by."""
    try:
        with open(path, mode) as file:
            yield file
    except OSError as error:
        raise OutputError(
            f"cannot write {path}: {error.strerror or error}: make room, or name another folder with LIANET_CACHE"
        ) from error


def _read(response: http.client.HTTPResponse, most: int) -> bytes:
    with _network():
        return response.read1(most)


@contextmanager
def _response(place: str, headers: dict[str, str] | None = None) -> Iterator[http.client.HTTPResponse]:
    check_address(place)
    address, own = hub_request(place) if place.startswith("hf://") else (place, {})
    request = urllib.request.Request(
        address, headers={"User-Agent": "lianet-user", **own, "Accept-Encoding": "identity", **(headers or {})}
    )
    opener = urllib.request.OpenerDirector()
    # Only these: nothing else (file, ftp, data) can be opened, wherever a redirection leads.
    for handler in (
        urllib.request.ProxyHandler({} if is_this_machine(urlsplit(address).hostname or "") else None),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(context=ssl.create_default_context()),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        _Redirections(),
    ):
        opener.add_handler(handler)
    with _network():
        try:
            response = opener.open(request, timeout=TIMEOUT_S)
        except urllib.error.HTTPError as error:
            with suppress(Exception):
                error.close()
            if error.code == 416 and headers:
                raise _FromStartError from error
            if error.code in (408, 429) or error.code >= 500:
                raise _InterruptedError(f"the server answers {error.code}") from error
            if 300 <= error.code < 400:
                target = brief(printable(error.headers.get("Location") or "nowhere"))
                raise DownloadError(
                    f"{_shown(place)} could not be read: the server leads on to {target!r}, which is not followed: tell who"
                    " runs the catalogue"
                ) from error
            raise DownloadError(
                f"{_shown(place)} could not be read: the server answers {error.code} ({_MEANINGS.get(error.code, 'refused')}):"
                " check the catalogue's address, or tell who runs it"
            ) from error
    with response:
        if response.status not in (200, 206):
            raise DownloadError(f"{_shown(place)} could not be read: the server answers {response.status}")
        encoding = response.headers.get("Content-Encoding", "identity")
        if encoding != "identity":
            raise DownloadError(
                f"{_shown(place)} is sent compressed ({brief(printable(encoding), 20)}), which was not asked for: tell who"
                " runs the catalogue"
            )
        yield response


_MEANINGS = {401: "it wants a login", 403: "forbidden", 404: "not found", 410: "gone"}


@contextmanager
def _network() -> Iterator[None]:
    """Tell what may pass (a connection that broke) from what will not (a certificate that is wrong)."""
    try:
        yield
    except urllib.error.HTTPError:
        raise
    except (OSError, http.client.HTTPException) as error:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        if isinstance(reason, ssl.SSLCertVerificationError):
            raise DownloadError(
                f"the server's certificate is not valid ({brief(reason.verify_message)}): nothing was read from it; behind a"
                " proxy of your own, name its certificates with SSL_CERT_FILE"
            ) from error
        text = getattr(reason, "strerror", None) or str(reason) or type(reason).__name__
        raise _InterruptedError(brief(printable(" ".join(str(text).split())))) from error
    except ValueError as error:  # http.client, of a head that is none
        raise _InterruptedError("the server's answer makes no sense") from error


def _length(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _shown(place: str) -> str:
    """An address without what follows `?`, which may be a key."""
    return brief(place.partition("?")[0])


# --- The cache.


DIGITS: Final = 16
"""Of the hash in a file's name."""
_NAME: Final = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]{0,63})-([0-9a-f]{16})\.safetensors")


@dataclass(frozen=True, order=True)
class Cached:
    """A model that is here.

    Attributes:
        name: of the region.
        digest: how its SHA-256 begins.
        path: of the file.
    """

    name: str
    digest: str
    path: Path


class Snapshot(Schema):
    """What a remote catalogue said."""

    place: str
    read: dt.datetime = Field(strict=False)
    models: tuple[Model, ...] = Field(strict=False)


def cache_folder() -> Path:
    """The cache: LIANET_CACHE, or where the platform wants it. It need not exist."""
    if chosen := os.environ.get("LIANET_CACHE"):
        return Path(chosen).expanduser().absolute()
    from platformdirs import user_cache_path

    return user_cache_path("lianet-user", appauthor=False)


def cached_path(name: str, sha256: str) -> Path:
    """Where the file of a model belongs."""
    return cache_folder() / "models" / f"{name}-{sha256[:DIGITS]}.safetensors"


def cached_models() -> list[Cached]:
    """All models that are here, by name."""
    found = []
    with suppress(OSError):  # no folder, no models
        for path in (cache_folder() / "models").iterdir():
            if match := _NAME.fullmatch(path.name):
                found.append(Cached(match[1], match[2], path))
    return sorted(found)


def cached_file(sha256: str) -> Path | None:
    """The file with this hash, if it is here; by its name, which is given to checked files alone."""
    return next((each.path for each in cached_models() if each.digest == sha256[:DIGITS]), None)


def is_intact(cached: Path, sha256: str) -> bool:
    """Whether a file of the cache still is what it was: disks fail, and people edit."""
    return cached.is_file() and hash_of(cached)[: len(sha256)] == sha256


@contextmanager
def held(path: Path, waiting: Callable[[str], None]) -> Iterator[None]:
    """Keep others from making `path` while the block runs; the system lets go of what a killed process held.

    Args:
        path: of the file to be made; its folder is made.
        waiting: told in a line where another process makes it already.

    Raises:
        OutputError: the cache cannot be written.
    """
    from lianet_user.files.lock import HeldError, locked

    file = path.with_name(f".{path.name}.lock")
    with ExitStack() as stack:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                stack.enter_context(locked(file))
            except HeldError as error:
                process = f" (process {error})" if str(error) else ""
                waiting(f"somebody else{process} is getting {path.name} already: waiting for it")
                stack.enter_context(locked(file, wait=True))
        except OSError as error:
            raise unwritable(path.parent, error) from error
        yield


def unwritable(folder: Path, error: Exception) -> OutputError:
    """What to say of a cache that cannot be written."""
    return OutputError(
        f"cannot write the cache {folder}: {getattr(error, 'strerror', None) or error}: make room there, or name another folder"
        " with LIANET_CACHE"
    )


def remember(place: str, models: tuple[Model, ...]) -> None:
    """Keep what a remote catalogue says, for days without network. A cache that cannot be written is no reason to stop."""
    from lianet_user.files.artifact import replacing

    path = _snapshot_path(place)
    snapshot = Snapshot(place=place, read=dt.datetime.now(dt.UTC).replace(microsecond=0), models=models)
    with suppress(OSError, OutputError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            temporary.write_text(snapshot.model_dump_json(), encoding="utf-8")


def remembered(place: str) -> Snapshot | None:
    """What a remote catalogue said when it was last read, or None."""
    try:
        snapshot = Snapshot.model_validate_json(_snapshot_path(place).read_bytes())
    except (OSError, ValidationError):  # of another version, or damaged: as if there were none
        return None
    return snapshot if snapshot.place == place else None


def _snapshot_path(place: str) -> Path:
    return cache_folder() / "catalogs" / f"{hashlib.sha256(place.encode()).hexdigest()[:DIGITS]}.json"

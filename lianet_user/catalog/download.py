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

from lianet_user.catalog.model import Model, check_address, excerpt, is_this_machine
from lianet_user.errors import CatalogError, DownloadError, OutputError, printable
from lianet_user.field.config import Schema

# --- Files on the Hugging Face Hub, an optional extra: `huggingface_hub` gives the address and the token, nothing else.


def hub_request(place: str) -> tuple[str, dict[str, str]]:
    """The https address of a file on the Hub, and the headers to ask for it with.

    Raises:
        CatalogError: `huggingface_hub` is not installed, or the place is not a file on the Hub.
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
        raise CatalogError(f"{place} is not a file on the Hugging Face Hub: {error}") from error
    token = get_token()
    return address, {"Authorization": f"Bearer {token}"} if token else {}


# --- Transfers.


TIMEOUT_S: Final = 30.0
"""Seconds without a byte after which a request fails."""
ATTEMPTS: Final = 5
"""Attempts in a row that bring nothing new, after which a download fails."""
PAUSE_S: Final = 1.0
"""Seconds before the second attempt; each further one waits twice as long."""
BLOCK: Final = 2**18

Listener = Callable[[int, int], None]


class _InterruptedError(Exception):
    """A transfer ended early, and another attempt may resume it."""


class _FromStartError(Exception):
    """What was received before is of no use: the server does not resume from there."""


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
    """Download a file whose size and hash are known, resuming from what `path` already holds.

    However it ends, `path` never grows beyond `size`; when it returns, `path` holds exactly the file that was promised, on
    disk. After a failed connection, what arrived is kept for the next time; what proves wrong is deleted.

    Args:
        place: an address, https or on the Hub.
        path: of the partial file. Its folder exists, and no other process writes it (lock it).
        size, sha256: of the promised file: bytes, and hexadecimal digits.
        listener: called with the number of bytes so far and in total.

    Raises:
        CatalogError: the address, or one that it redirects to, is not allowed.
        DownloadError: the server does not deliver the file, or delivers another.
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
        f" {sha256[:12]}; it was deleted: tell whoever runs the catalogue, or try again later"
    )


def read_bytes(place: str, most: int) -> bytes:
    """Read a document: at most `most` + 1 of its bytes.

    Raises:
        CatalogError: the address, or one that it redirects to, is not allowed.
        DownloadError: the server does not deliver it.
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
            failures, problem = failures + 1, "the server does not resume where it stopped"
        except _InterruptedError as error:
            failures, problem = failures + 1, str(error)
            if _length(path) - before >= BLOCK:  # a server that sends a byte at a time brings nothing new
                failures, pause = 1, PAUSE_S
        if failures >= ATTEMPTS:
            kept = f": {_length(path)} of {size} bytes are kept, and the same command resumes from there"
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
                    f" {excerpt(printable(promised), 20)} bytes, expected {size}: tell whoever runs the catalogue"
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
            f"{_shown(place)} is not the file that the catalogue describes: it continues after the promised {size} bytes; it"
            " was deleted: tell whoever runs the catalogue"
        )
    if position < size:
        raise _InterruptedError("the connection was closed early")


@contextmanager
def _writing(path: Path, mode: str) -> Iterator[IO[bytes]]:
    """Open a file to write to. An OSError in it is one of this machine's disk: network errors were converted before."""
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
                target = excerpt(printable(error.headers.get("Location") or "nowhere"))
                raise DownloadError(
                    f"{_shown(place)} could not be read: the server redirects to {target!r}, which is not followed:"
                    " tell whoever runs the catalogue"
                ) from error
            raise DownloadError(
                f"{_shown(place)} could not be read: the server answers {error.code} ({_MEANINGS.get(error.code, 'refused')}):"
                " check the catalogue's address, or tell whoever runs it"
            ) from error
    with response:
        if response.status not in (200, 206):
            raise DownloadError(f"{_shown(place)} could not be read: the server answers {response.status}")
        encoding = response.headers.get("Content-Encoding", "identity")
        if encoding != "identity":
            raise DownloadError(
                f"{_shown(place)} is sent compressed ({excerpt(printable(encoding), 20)}), which was not requested: tell"
                " whoever runs the catalogue"
            )
        yield response


_MEANINGS = {401: "login required", 403: "forbidden", 404: "not found", 410: "gone"}


@contextmanager
def _network() -> Iterator[None]:
    """Distinguish errors that may pass (a broken connection) from those that will not (an invalid certificate)."""
    try:
        yield
    except urllib.error.HTTPError:
        raise
    except (OSError, http.client.HTTPException) as error:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        if isinstance(reason, ssl.SSLCertVerificationError):
            raise DownloadError(
                f"the server's certificate is not valid ({excerpt(reason.verify_message)}): nothing was read from it; behind a"
                " proxy of your own, name its certificates with SSL_CERT_FILE"
            ) from error
        text = getattr(reason, "strerror", None) or str(reason) or type(reason).__name__
        raise _InterruptedError(excerpt(printable(" ".join(str(text).split())))) from error
    except ValueError as error:  # http.client, of invalid headers
        raise _InterruptedError("the server's answer is not valid HTTP") from error


def _length(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _shown(place: str) -> str:
    """An address in a message, without what follows `?`, which may be a key."""
    return excerpt(place.partition("?")[0])


# --- The cache.


DIGITS: Final = 16
"""Digits of the hash in a file's name."""
_NAME: Final = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]{0,63})-([0-9a-f]{16})\.safetensors")


@dataclass(frozen=True, order=True)
class CachedModel:
    """A model in the cache.

    Attributes:
        name: of the region.
        digest: the beginning of its SHA-256.
        path: of the file.
    """

    name: str
    digest: str
    path: Path


class Snapshot(Schema):
    """A remote catalogue as it was last read."""

    place: str
    read: dt.datetime = Field(strict=False)
    models: tuple[Model, ...] = Field(strict=False)


def cache_folder() -> Path:
    """The cache: LIANET_CACHE, or the platform's folder for caches. It need not exist."""
    if chosen := os.environ.get("LIANET_CACHE"):
        return Path(chosen).expanduser().absolute()
    from platformdirs import user_cache_path

    return user_cache_path("lianet-user", appauthor=False)


def cached_path(name: str, sha256: str) -> Path:
    """The path of a model's file in the cache, whether it exists or not."""
    return cache_folder() / "models" / f"{name}-{sha256[:DIGITS]}.safetensors"


def cached_models() -> list[CachedModel]:
    """All models in the cache, sorted by name."""
    named = ((_NAME.fullmatch(path.name), path) for path in (cache_folder() / "models").glob("*.safetensors"))
    return sorted(CachedModel(match[1], match[2], path) for match, path in named if match)


def cached_file(sha256: str) -> Path | None:
    """The cached file with this hash, or None. Its name is trusted: only verified files receive one."""
    return next((each.path for each in cached_models() if each.digest == sha256[:DIGITS]), None)


def is_intact(cached: Path, sha256: str) -> bool:
    """Whether a cached file is unchanged: disks fail, and people edit."""
    return cached.is_file() and hash_of(cached)[: len(sha256)] == sha256


@contextmanager
def making(path: Path, waiting: Callable[[str], None]) -> Iterator[None]:
    """Keep other processes from creating `path` while the block runs; the system releases the lock of a killed process.

    Args:
        path: of the file; its folder is created.
        waiting: called with a line of text if another process is creating the file already.

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
                process = f" ({error})" if str(error) else ""
                waiting(f"another process{process} is fetching {path.name} already: waiting for it")
                stack.enter_context(locked(file, wait=True))
        except OSError as error:
            raise cache_error(path.parent, error) from error
        yield


def cache_error(folder: Path, error: Exception) -> OutputError:
    """The error that the cache cannot be written."""
    return OutputError(
        f"cannot write the cache {folder}: {getattr(error, 'strerror', None) or error}: make room there, or name another folder"
        " with LIANET_CACHE"
    )


def write_snapshot(place: str, models: tuple[Model, ...]) -> None:
    """Keep the models of a remote catalogue for use without network. A cache that cannot be written is not an error."""
    from lianet_user.files.artifact import replacing

    path = _snapshot_path(place)
    snapshot = Snapshot(place=place, read=dt.datetime.now(dt.UTC).replace(microsecond=0), models=models)
    with suppress(OSError, OutputError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            temporary.write_text(snapshot.model_dump_json(), encoding="utf-8")


def read_snapshot(place: str) -> Snapshot | None:
    """The models of a remote catalogue when it was last read, or None."""
    try:
        snapshot = Snapshot.model_validate_json(_snapshot_path(place).read_bytes())
    except (OSError, ValidationError):  # of another version, or damaged: as if there were none
        return None
    return snapshot if snapshot.place == place else None


def _snapshot_path(place: str) -> Path:
    return cache_folder() / "catalogs" / f"{hashlib.sha256(place.encode()).hexdigest()[:DIGITS]}.json"

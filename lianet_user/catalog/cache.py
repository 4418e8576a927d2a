"""The folder that holds the models which were fetched or added, and what catalogues said when they were last read.

    LIANET_CACHE, or the platform's folder for caches/
      models/NAME-DIGEST.safetensors        whole files, checked; DIGEST begins the SHA-256 of the file
      models/NAME-DIGEST.safetensors.part   what has arrived of a download
      catalogs/DIGEST.json                  what a remote catalogue said

A file is named after its content and never changes, so a head that was trained on it finds it again, whatever the catalogue
says by then. Two processes that want the same file wait for each other.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import os
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pydantic import Field, ValidationError

from lianet_user.catalog.model import Model
from lianet_user.errors import OutputError
from lianet_user.field.config import Schema

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
    from lianet_user.catalog.download import hash_of

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

"""From a name to a region file: from the cache, or from a catalogue into the cache, verified to the last byte."""

from __future__ import annotations

import os
import re
import shutil
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from lianet_user.catalog.download import (
    DIGITS,
    Listener,
    cache_error,
    cached_file,
    cached_models,
    cached_path,
    download,
    hash_of,
    is_intact,
    making,
)
from lianet_user.catalog.model import Model, excerpt, is_remote
from lianet_user.catalog.read import HOW_TO_NAME_ONE, Catalog, chosen_place, open_catalog
from lianet_user.errors import (
    ArtifactError,
    CatalogError,
    CatalogWarning,
    DownloadError,
    OutputError,
    did_you_mean,
    listed,
)
from lianet_user.files.artifact import free_bytes, open_region_file, region_beside, region_places
from lianet_user.files.header import HeadHeader

SPARE: Final = 64 * 2**20
"""Bytes of the disk that a download leaves free."""
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")

Announce = Callable[[str], None]


def _silent(_: str) -> None:
    pass


def is_name(text: str) -> bool:
    """Whether a text that is no file may be the name of a model: one word, and not the name of a region file."""
    return _NAME.fullmatch(text) is not None and not text.endswith(".safetensors")


def find_region(
    region: str | os.PathLike[str],
    catalog: str | None = None,
    *,
    announce: Announce = _silent,
    listener: Listener | None = None,
) -> Path:
    """The region file that a path or the name of a model means.

    An existing file takes precedence. A name is looked up in the configured catalogue, then among the models in the cache. A
    model that is here already is taken without using the network, so a name keeps its meaning until `models fetch` brings a
    newer one.

    Args:
        region: path or name.
        catalog: as in :func:`~lianet_user.catalog.read.chosen_place`.
        announce: called with a line of text before a download: what, from where, how large.
        listener: called with the number of bytes so far and in total.

    Returns:
        The path; where the text cannot be a name, the path that was given, whether it exists or not.

    Raises:
        CatalogError: no file and no model has that name.
        DownloadError: the model has to be downloaded, and cannot be.
        OutputError: the cache cannot be written.
    """
    path, text = Path(region), os.fspath(region)
    if path.is_file() or not is_name(text):
        return path
    place = chosen_place(catalog)
    known = _known_offline(place)
    if known is not None and (model := known.find(text)) is not None:
        if here := _intact_file(model):
            return here
        # A remote catalogue may have changed since: what is fetched is what it says now.
    elif here := _cached_by_name(text):
        return here
    if place is None:
        names = sorted({each.name for each in cached_models()})
        raise CatalogError(
            f"there is no file {text!r}, and no model of that name on this machine (it has {listed(names)}"
            f"{did_you_mean(text, names)}): give the path of a region file, or {HOW_TO_NAME_ONE}"
        )
    return _look_up(text, place, announce, listener)


def fetch(
    name: str, catalog: Catalog, *, announce: Announce = _silent, listener: Listener | None = None
) -> tuple[Path, bool]:
    """Download a model of a catalogue into the cache, unless it is there.

    Returns:
        Its path, and whether it was downloaded now.

    Raises:
        CatalogError: the catalogue has no such model, or describes it wrongly.
        DownloadError: it cannot be downloaded, or is not what the catalogue describes.
        OutputError: the cache cannot be written.
    """
    return _into_cache(catalog.model(name), announce, listener)


def _into_cache(model: Model, announce: Announce, listener: Listener | None = None) -> tuple[Path, bool]:
    path = cached_path(model.name, model.sha256)
    if is_intact(path, model.sha256):
        return path, False
    with making(path, announce):
        if is_intact(path, model.sha256):  # another process fetched it meanwhile
            return path, False
        shown = model.place.partition("?")[0] if is_remote(model.place) else model.place
        announce(f"fetching {model.name} ({model.megabytes}) from {excerpt(shown)}")
        part = path.with_name(f"{path.name}.part")
        _require_room(part, model)
        if is_remote(model.place):
            download(model.place, part, size=model.size, sha256=model.sha256, listener=listener)
        else:
            _copy(Path(model.place), part, model.size)
        _move_into_cache(part, path, model)
    return path, True


def add(path: Path) -> tuple[Path, Model]:
    """Copy a region file into the cache, so that it is found by the name in its header.

    Returns:
        Its path there, and its entry as a model.

    Raises:
        ArtifactError: it is not a complete region file.
        CatalogError: another model of that name is here already.
        OutputError: the cache cannot be written.
    """
    file = open_region_file(path)
    file.tensors()
    model = Model.of_file(file, file.sha256())
    for other in cached_models():
        if other.name == model.name and other.digest != model.sha256[:DIGITS]:
            raise CatalogError(
                f"another model named {model.name!r} is here already ({other.path}), and a name means one: delete that file"
                " first, or use this one by its path"
            )
    return _into_cache(model, _silent)[0], model


def local_file(model: Model) -> Path | None:
    """A model's file on this machine, or None. Only name and size are compared."""
    for path in (cached_path(model.name, model.sha256), *([] if is_remote(model.place) else [Path(model.place)])):
        with suppress(OSError):
            if path.stat().st_size == model.size:
                return path
    return None


def _known_offline(place: str | None) -> Catalog | None:
    """The catalogue as it is known without network, or None."""
    if place is None:
        return None
    try:
        return open_catalog(place, offline=True)
    except DownloadError:
        return None


def _intact_file(model: Model) -> Path | None:
    """A model's file on this machine if its hash is right, or None."""
    path = local_file(model)
    if path is None:
        return None
    if hash_of(path) == model.sha256:
        return path
    cached = cached_path(model.name, model.sha256)
    if path == cached:
        with suppress(OSError):
            path.unlink()
        warnings.warn(f"{path} was damaged since it was fetched: it is fetched again", CatalogWarning, stacklevel=3)
        return _intact_file(model)
    raise CatalogError(
        f"{path} is not the file that its catalogue describes (another sha256): publish the catalogue again with"
        " lianet-user models publish, or get the file again"
    )


def _cached_by_name(name: str) -> Path | None:
    """The one model of that name in the cache, or None."""
    matches = [each for each in cached_models() if each.name == name]
    if len(matches) > 1:
        raise CatalogError(
            f"{len(matches)} models on this machine are named {name!r}: give the path of one of"
            f" {listed([str(each.path) for each in matches])}"
        )
    if not matches:
        return None
    if not is_intact(matches[0].path, matches[0].digest):
        raise CatalogError(
            f"{matches[0].path} was damaged since it was put there: delete it, and fetch or add it again"
        )
    return matches[0].path


def _look_up(name: str, place: str, announce: Announce, listener: Listener | None) -> Path:
    try:
        catalog = open_catalog(place)
    except DownloadError as error:
        raise DownloadError(f"there is no file {name!r}, and the name cannot be looked up: {error}") from error
    warn_of_problems(catalog)
    if catalog.find(name) is None:
        added = sorted({each.name for each in cached_models()})
        names = [model.name for model in catalog.models]
        raise CatalogError(
            f"there is no file {name!r}, and no model of that name: the catalogue {excerpt(place)} has {listed(names)}"
            f"{did_you_mean(name, [*names, *added])}"
        )
    try:
        return fetch(name, catalog, announce=announce, listener=listener)[0]
    except DownloadError as error:
        if earlier := [str(each.path) for each in cached_models() if each.name == name]:
            raise DownloadError(
                f"{error}; an earlier one is here and can be given by its path: {listed(earlier)}"
            ) from error
        raise


def warn_of_problems(catalog: Catalog) -> None:
    """Warn of items that cannot be used, and of a catalogue that could not be reached.

    Warns:
        CatalogWarning: one for each problem.
    """
    if catalog.as_of is not None:
        warnings.warn(
            f"{excerpt(catalog.place)} cannot be reached: this is what it said on {catalog.as_of:%Y-%m-%d}",
            CatalogWarning,
            stacklevel=3,
        )
    for problem in catalog.problems[:10]:
        warnings.warn(f"left out: {problem}", CatalogWarning, stacklevel=3)
    if len(catalog.problems) > 10:
        warnings.warn(f"left out: {len(catalog.problems) - 10} more", CatalogWarning, stacklevel=3)


def _require_room(part: Path, model: Model) -> None:
    try:
        arrived = part.stat().st_size if part.exists() else 0
        free = free_bytes(part.parent)
    except OSError as error:
        raise cache_error(part.parent, error) from error
    if free < model.size - arrived + SPARE:
        raise OutputError(
            f"{part.parent} has {free / 1e6:.0f} MB free, and {model.name} needs {model.megabytes}: make room there, or name"
            " another folder with LIANET_CACHE"
        )


def _copy(source: Path, part: Path, size: int) -> None:
    """Copy a local file of exactly `size` bytes, flushed to disk like a download."""
    try:
        with open(source, "rb") as file:
            actual = os.fstat(file.fileno()).st_size
            if actual != size:
                raise CatalogError(
                    f"{source} is not the file that its catalogue describes: it has {actual} bytes, expected {size}: publish"
                    " the catalogue again with lianet-user models publish"
                )
            with open(part, "wb") as copy:
                shutil.copyfileobj(file, copy)
                copy.flush()
                os.fsync(copy.fileno())
    except OSError as error:
        raise OutputError(
            f"cannot copy {source} to {part}: {error.strerror or error}: the cache's folder can be named with LIANET_CACHE"
        ) from error


def _move_into_cache(part: Path, path: Path, model: Model) -> None:
    """Verify a file and give it its name in the cache; a wrong one is deleted."""
    place = excerpt(model.place)
    try:
        if hash_of(part) != model.sha256:
            raise CatalogError(
                f"{place} is not the file that the catalogue describes (another sha256): tell whoever runs the catalogue"
            )
        try:
            header = open_region_file(part).header
        except ArtifactError as error:
            raise CatalogError(
                f"{place} is what the catalogue describes, but not a region file ({error}): tell whoever runs the catalogue"
            ) from error
        if header.name != model.name:
            raise CatalogError(
                f"{place} is the region {header.name!r}, and the catalogue calls it {model.name!r}: tell whoever"
                " runs the catalogue"
            )
    except CatalogError:
        part.unlink(missing_ok=True)
        raise
    try:
        part.replace(path)
    except OSError as error:
        raise cache_error(path.parent, error) from error


# --- The region of a head.


def region_of_head(header: HeadHeader, head_path: Path, given: str | os.PathLike[str] | None = None) -> Path:
    """The region file of a head: as given, else where it lay at training, else beside the head under the same name, else
    among the models that were fetched.

    Raises:
        ArtifactError: it is in none of these places.
    """
    if given is not None:
        return Path(given)
    if known := region_beside(header, head_path) or cached_file(header.region.sha256):
        return known
    places = region_places(header, head_path)
    raise ArtifactError(
        f"the region {header.region.name!r} of {head_path} was not found at {' or '.join(map(str, places))}, nor among the"
        " models that were fetched: say where it is with `region`, or get it with lianet-user models fetch"
    )

"""Reading a catalogue, local or remote: its models, and the items that cannot be used."""

from __future__ import annotations

import datetime as dt
import json
import os
import stat
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from lianet_user.catalog.download import read_bytes, read_snapshot, write_snapshot
from lianet_user.catalog.model import ROOT_NAME, Model, excerpt, is_model, is_remote, joined, locate, read_item
from lianet_user.errors import CatalogError, DownloadError, LianetError, did_you_mean, listed

HOW_TO_NAME_ONE: Final = (
    "name the catalogue of whoever provides it, a folder or an https:// address: for all commands with LIANET_CATALOG, for"
    " instance LIANET_CATALOG=https://agency.example/regions, or once with `lianet-user models fetch NAME --catalog PLACE`; an"
    " installed lianet-user brings no catalogue of its own"
)
"""Advice where no catalogue is configured."""
MAX_DOCUMENT_BYTES: Final = 16 * 2**20
"""Of one document of a catalogue: a polygon and a list of dates, never more."""
MAX_DOCUMENTS: Final = 5_000
AT_ONCE: Final = 8
"""Simultaneous requests to a remote catalogue."""


@dataclass(frozen=True)
class Catalog:
    """The models of a catalogue.

    Attributes:
        place: of the first document.
        models: by name.
        problems: a line for each item that cannot be used.
        as_of: when a remote catalogue was last read, where it was not read now.
    """

    place: str
    models: tuple[Model, ...]
    problems: tuple[str, ...] = ()
    as_of: dt.datetime | None = None

    def find(self, name: str) -> Model | None:
        """The model of that name, or None."""
        return next((model for model in self.models if model.name == name), None)

    def model(self, name: str) -> Model:
        """The model of that name.

        Raises:
            CatalogError: there is none.
        """
        if model := self.find(name):
            return model
        names = [model.name for model in self.models]
        raise CatalogError(
            f"the catalogue {excerpt(self.place)} has no model {excerpt(name)!r}: it has {listed(names)}"
            f"{did_you_mean(name, names)}"
        )


def chosen_place(catalog: str | None) -> str | None:
    """The catalogue to read: the one given, else LIANET_CATALOG, else the regions of a checkout of this project, else None.

    An installed wheel has none of its own: the regions that ship with the project are files of its repository, and a list of
    files that are missing would be useless.

    Raises:
        CatalogError: the address is not allowed.
    """
    if chosen := catalog or os.environ.get("LIANET_CATALOG"):
        return locate(chosen)
    root = Path(__file__).resolve().parents[2]
    own = root / "models" / ROOT_NAME
    return str(own) if own.is_file() and (root / "pyproject.toml").is_file() else None


def open_catalog(place: str, *, offline: bool = False) -> Catalog:
    """Read a catalogue, or what a remote one that cannot be reached said last.

    Args:
        place: of its first document (:func:`chosen_place`).
        offline: do not use the network: take what a remote catalogue said last.

    Raises:
        CatalogError: it is not a catalogue, or breaks the rules of :mod:`lianet_user.catalog.model`.
        DownloadError: it cannot be reached, and was never read before.
    """
    if not is_remote(place):
        return _walk(place)
    try:
        if offline:
            raise DownloadError(f"{excerpt(place)} was never read on this machine: read it once with network access")
        catalog = _walk(place)
    except DownloadError:
        if (last := read_snapshot(place)) is None:
            raise
        return Catalog(place, last.models, as_of=last.read)
    write_snapshot(place, catalog.models)
    return catalog


def _walk(root: str) -> Catalog:
    """Read every item that the first document leads to, level by level."""
    models: list[Model] = []
    problems: list[str] = []
    seen = {root}
    level = [root]
    while level:
        further: list[str] = []
        for place, document in zip(level, _documents(level, root), strict=True):
            if isinstance(document, LianetError):
                problems.append(str(document))
                continue
            kind = document.get("type")
            try:
                if kind in ("Catalog", "Collection"):
                    further += [link for link in _links(document, place, root, problems) if link not in seen]
                elif kind == "Feature" and place != root:
                    if is_model(document):
                        models.append(read_item(document, place, root))
                else:
                    raise CatalogError(
                        f"{excerpt(place)} is not a STAC catalogue: its type is {excerpt(repr(kind), 40)}, expected 'Catalog'"
                    )
            except CatalogError as error:
                if place == root:
                    raise
                problems.append(str(error))
        level = list(dict.fromkeys(further))
        seen.update(level)
        if len(seen) > MAX_DOCUMENTS:
            raise CatalogError(
                f"{excerpt(root)} leads to more than {MAX_DOCUMENTS} documents: give a smaller catalogue"
            )
    for name, count in Counter(model.name for model in models).items():
        if count > 1:
            problems.append(
                f"{excerpt(root)} has {count} models named {name!r}, and neither can be selected by its name"
            )
            models = [model for model in models if model.name != name]
    return Catalog(root, tuple(sorted(models, key=lambda model: model.name)), tuple(problems))


def _documents(places: Sequence[str], root: str) -> list[dict[str, Any] | LianetError]:
    """Each document, or the error that it cannot be read. An error of the first document is raised."""

    def read(place: str) -> dict[str, Any] | LianetError:
        try:
            return read_document(place)
        except CatalogError as error:
            if place == root:
                raise
            return error

    # A server that fails in between fails the whole: half a catalogue would mislead.
    if not is_remote(root) or len(places) == 1:
        return [read(place) for place in places]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(read, places))


def _links(document: dict[str, Any], place: str, root: str, problems: list[str]) -> list[str]:
    links = document.get("links")
    if not isinstance(links, list):
        raise CatalogError(f"{excerpt(place)} is not a STAC catalogue: it has no list of links")
    if len(links) > MAX_DOCUMENTS:
        raise CatalogError(
            f"{excerpt(place)} has {len(links)} links, more than {MAX_DOCUMENTS}: give a smaller catalogue"
        )
    places = []
    for link in links:
        if not isinstance(link, dict) or link.get("rel") not in ("child", "item"):
            continue
        href = link.get("href")
        try:
            if not isinstance(href, str):
                raise CatalogError(f"{excerpt(place)} has a link without an address")
            places.append(joined(place, href, root))
        except CatalogError as error:
            problems.append(str(error))
    return places


def read_document(place: str) -> dict[str, Any]:
    """Read one JSON document of a catalogue.

    Raises:
        CatalogError: it cannot be read, is too large, or is not a JSON object whose keys are unique.
        DownloadError: its server does not deliver it.
    """
    raw = read_bytes(place, MAX_DOCUMENT_BYTES) if is_remote(place) else _read_file(place)
    if len(raw) > MAX_DOCUMENT_BYTES:
        raise CatalogError(
            f"{excerpt(place)} is larger than {MAX_DOCUMENT_BYTES // 2**20} MiB: that is not a STAC document"
        )
    return parse_document(raw, place)


def parse_document(raw: bytes, place: str) -> dict[str, Any]:
    """Parse one JSON document of a catalogue.

    Raises:
        CatalogError: it is not a JSON object whose keys are unique.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        document = dict(pairs)
        if len(document) < len(pairs):
            raise ValueError("a key appears twice")
        return document

    try:
        document = json.loads(raw.decode("utf-8"), object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise CatalogError(
            f"{excerpt(place)} is not a STAC document: it is not valid JSON ({excerpt(str(error))})"
        ) from error
    if not isinstance(document, dict):
        raise CatalogError(f"{excerpt(place)} is not a STAC document: it is not a JSON object")
    return document


def _read_file(place: str) -> bytes:
    try:
        # Without waiting: a named pipe would wait for a writer.
        descriptor = os.open(place, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
        with open(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise CatalogError(f"cannot read the catalogue {excerpt(place)}: it is not a regular file")
            return file.read(MAX_DOCUMENT_BYTES + 1)
    except OSError as error:
        raise CatalogError(
            f"cannot read the catalogue {excerpt(place)}: {error.strerror or error}: expected the place of a"
            " catalog.json, where it was given or in LIANET_CATALOG"
        ) from error

"""STAC documents, local or over https: the items that one of them holds, or that a static catalogue leads to."""

from __future__ import annotations

import json
import re
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin, urlsplit
from urllib.request import url2pathname

from lianet_user.errors import ImageryError

if TYPE_CHECKING:
    import pystac

LOCALHOST = ("localhost", "127.0.0.1", "::1")
TIMEOUT_S = 30
LARGEST_JSON = 256 * 2**20
MOST_DOCUMENTS = 10_000


def read_items(location: str) -> tuple[list[pystac.Item], list[str]]:
    """The items of a STAC document, or of all documents a static Collection or Catalog leads to, in its order; and notes
    about what is not read.

    Raises:
        ImageryError: a document cannot be read or is no STAC; a location is neither https nor local; there are none.
    """
    import pystac

    items: list[pystac.Item] = []
    notes: list[str] = []
    waiting, seen = [resolved(location, None)], set[str]()
    while waiting:
        href = waiting.pop()
        if href in seen:
            continue
        seen.add(href)
        if len(seen) > MOST_DOCUMENTS:
            raise ImageryError(
                f"{location} leads to more than {MOST_DOCUMENTS} documents: give the items to be encoded"
            )
        document = fetch_json(href)
        kind = document.get("type")
        if kind in ("Feature", "FeatureCollection"):
            for feature in [document] if kind == "Feature" else document.get("features", []):
                try:
                    items.append(pystac.Item.from_dict(feature, href=href, migrate=True))
                except Exception as error:  # pystac checks little, and fails in many ways on what is no item
                    raise ImageryError(f"{href} holds a feature that is no STAC Item ({error!r})") from error
            if kind == "FeatureCollection" and any(link.get("rel") == "next" for link in _links(document)):
                notes.append(f"{href} is the first page of a search's result: what is on the next is not read")
        elif kind in ("Catalog", "Collection"):
            links = _links(document)
            further = [link["href"] for link in links if link.get("rel") in ("item", "child") and "href" in link]
            if not further and any(link.get("rel") == "items" for link in links):
                raise ImageryError(
                    f"{href} is a STAC API, which has to be searched: save a search's result as an ItemCollection and give that"
                )
            waiting += [resolved(link, href) for link in reversed(further)]
        else:
            raise ImageryError(
                f"{href} has the type {kind!r}: expected a STAC Item (Feature), ItemCollection, Collection or Catalog"
            )
    if not items:
        raise ImageryError(f"{location} leads to no STAC item: expected an Item, or a catalogue with links to some")
    return items, notes


def _links(document: dict[str, Any]) -> list[dict[str, Any]]:
    return [link for link in document.get("links", []) if isinstance(link, dict)]


def is_remote(location: str) -> bool:
    return bool(re.match(r"[a-z][a-z0-9+.-]+://", location, re.IGNORECASE))


def resolved(href: str, base: str | None) -> str:
    """An absolute location, relative to the document that names it.

    Raises:
        ImageryError: neither a local file nor https (or http on this computer), or a remote document names a local file.
    """
    if base is not None and is_remote(base):
        href = urljoin(base, href)
    if not is_remote(href):
        return str((Path(base).parent / href if base else Path(href)).absolute())
    parts = urlsplit(href)
    if parts.scheme == "file" and not (base and is_remote(base)):
        return url2pathname(parts.path)
    if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in LOCALHOST):
        raise ImageryError(
            f"{href} is reached by {parts.scheme}: only https and local files are read here; download it, and give that"
        )
    return href


def fetch_json(href: str) -> dict[str, Any]:
    """
    Raises:
        ImageryError: it cannot be read, or is no JSON object.
    """
    try:
        with urllib.request.urlopen(href, timeout=TIMEOUT_S) if is_remote(href) else open(href, "rb") as source:
            text = source.read(LARGEST_JSON + 1)
    except OSError as error:  # urllib's own errors are OSErrors too
        raise ImageryError(f"cannot read {href}: {error}") from error
    if len(text) > LARGEST_JSON:
        raise ImageryError(f"{href} has more than {LARGEST_JSON >> 20} MiB: that is no STAC document")
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ImageryError(f"{href} is no JSON: {error}") from error
    if not isinstance(document, dict):
        raise ImageryError(f"{href} is no JSON object: expected a STAC Item, ItemCollection, Collection or Catalog")
    return document

"""Where catalogues and their files lie, and which places they may name.

A place is a text: the absolute path of a local file, an `https://` address, or `hf://owner/repository/file` on the Hugging Face
Hub. A catalogue may come from anywhere, so what it names is held to two rules. A local one names files beneath its own
folder, or remote ones; a remote one names remote ones. `http://` is for this machine alone (`localhost`), and nothing that
began with `https://` goes on with it.
"""

from __future__ import annotations

import ipaddress
import json
import os
import stat
from pathlib import Path
from typing import Any, Final
from urllib.parse import urljoin, urlsplit

from lianet_user.errors import CatalogError

MAX_DOCUMENT_BYTES: Final = 16 * 2**20
"""Of one document of a catalogue: a polygon and a list of dates, never more."""
ROOT_NAME: Final = "catalog.json"
MAX_HREF: Final = 2048


def brief(text: str, most: int = 200) -> str:
    """The beginning of a text that somebody else chose, who may have chosen a megabyte of it."""
    return text if len(text) <= most else f"{text[: most - 3]}..."


def is_remote(place: str) -> bool:
    return "://" in place


def locate(text: str) -> str:
    """The place of a catalogue's first document, of what somebody typed: a folder means the `catalog.json` in it.

    Raises:
        CatalogError: an address of a kind that is not read.
    """
    if is_remote(text):
        place = text if text.endswith(".json") else f"{text.rstrip('/')}/{ROOT_NAME}"
        check_address(place)
        return place
    path = Path(text).expanduser().absolute()
    return str(path / ROOT_NAME if path.is_dir() else path)


def joined(document: str, href: str, root: str) -> str:
    """The place that a link of a document means.

    Args:
        document: place of the document.
        href: as it stands there.
        root: place of the catalogue's first document.

    Raises:
        CatalogError: it leads to where this catalogue may not lead.
    """
    if not href or len(href) > MAX_HREF or not href.isprintable() or "\\" in href:
        raise CatalogError(f"{brief(document)} has a link that is no address: {brief(href)!r}")
    # The Hub's scheme is none that joins relative links.
    base = document.replace("hf://", "https://", 1) if document.startswith("hf://") else document
    try:
        scheme = urlsplit(href).scheme
        place = href if scheme or not is_remote(document) else urljoin(base, href)
    except ValueError as error:
        raise CatalogError(f"{brief(document)} has a link that is no address ({error}): {brief(href)!r}") from error
    if is_remote(document):
        if document.startswith("hf://") and not scheme:
            place = place.replace("https://", "hf://", 1)
        check_address(place, before=document)
        return place
    if scheme:
        check_address(href)
        return href
    folder = Path(root).parent.resolve()
    # Resolved, so that neither `..` nor a symbolic link leads out.
    try:
        path = (Path(document).parent / href).resolve()
    except (OSError, RuntimeError) as error:  # links that lead to themselves
        raise CatalogError(f"{brief(document)} has a link that leads nowhere: {brief(href)!r}") from error
    if not path.is_relative_to(folder):
        raise CatalogError(
            f"{brief(document)} has a link out of its folder ({brief(href)!r}): a local catalogue names files beneath {folder},"
            " or https addresses"
        )
    return str(path)


def check_address(address: str, before: str | None = None) -> None:
    """
    Args:
        address: to read from.
        before: the address that led there.

    Raises:
        CatalogError: it is neither https, nor the Hub, nor http on this machine; or it would be a step down from https.
    """
    try:
        parts = urlsplit(address)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise CatalogError(f"{brief(address)!r} is no address: {error}") from error
    shown = brief(f"{parts.scheme}://{host}{parts.path}")
    if not host or not address.isascii() or not address.isprintable() or " " in address:
        raise CatalogError(f"{brief(address)!r} is no address: expected https://host/path")
    if parts.username is not None:
        raise CatalogError(f"the address {shown} carries a user name: addresses with passwords are not read")
    if parts.scheme == "hf":
        if len(parts.path.strip("/").split("/")) < 2:
            raise CatalogError(f"{shown} is no file on the Hugging Face Hub: expected hf://owner/repository/file")
    elif parts.scheme == "http" and is_this_machine(host):
        if before is not None and not before.startswith("http://"):
            raise CatalogError(f"{brief(before)} leads from https to {shown}: that is not followed")
    elif parts.scheme != "https":
        raise CatalogError(f"{shown} is not read: expected an https:// address (http:// only on this machine itself)")


def is_this_machine(host: str) -> bool:
    """Whether a host is this machine by name or by number."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def read_document(place: str) -> dict[str, Any]:
    """One JSON document of a catalogue.

    Raises:
        CatalogError: it cannot be read, is too large, or is not a JSON object whose keys are unique.
        DownloadError: its server does not give it.
    """
    if is_remote(place):
        from lianet_user.catalog.download import read_bytes

        raw = read_bytes(place, MAX_DOCUMENT_BYTES)
    else:
        raw = _read_file(place)
    if len(raw) > MAX_DOCUMENT_BYTES:
        raise CatalogError(f"{brief(place)} is larger than {MAX_DOCUMENT_BYTES // 2**20} MiB: that is no STAC document")
    return parse_document(raw, place)


def parse_document(raw: bytes, place: str) -> dict[str, Any]:
    """
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
        raise CatalogError(f"{brief(place)} is no STAC document: it is not valid JSON ({brief(str(error))})") from error
    if not isinstance(document, dict):
        raise CatalogError(f"{brief(place)} is no STAC document: it is no JSON object")
    return document


def _read_file(place: str) -> bytes:
    try:
        # Without waiting: a named pipe would wait for a writer.
        descriptor = os.open(place, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
        with open(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise CatalogError(f"cannot read the catalogue {brief(place)}: it is not a regular file")
            return file.read(MAX_DOCUMENT_BYTES + 1)
    except OSError as error:
        raise CatalogError(
            f"cannot read the catalogue {brief(place)}: {error.strerror or error}: give the place of a catalog.json with"
            " --catalog or LIANET_CATALOG"
        ) from error

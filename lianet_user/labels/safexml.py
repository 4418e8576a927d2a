"""XML from files that somebody else made: no entities, no more than a few megabytes."""

from __future__ import annotations

from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from lianet_user.errors import LabelError

MAX_BYTES = 16 * 2**20
"""A style with thousands of categories and drawn symbols has a few; embedded images do not belong to classes."""


class _EntitiesError(Exception):
    """A document type that may declare entities, which can grow without bounds or name files."""


def parse_xml(text: str | bytes, source: str, remedy: str) -> Element:
    """The root of a document.

    Args:
        text: of the document. A document type that only names itself, as QGIS writes it, is fine.
        source: where it comes from, for messages.
        remedy: what to do if it cannot be read, for messages.

    Raises:
        LabelError: it is too large, declares entities, or is no XML.
    """
    if len(text) > MAX_BYTES:
        raise LabelError(f"{source} is larger than {MAX_BYTES // 2**20} MB: {remedy}")
    builder = TreeBuilder()

    def doctype(_name: str, _system: str | None, _public: str | None, has_subset: bool) -> None:
        if has_subset:
            raise _EntitiesError

    parser = expat.ParserCreate()
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data
    parser.StartDoctypeDeclHandler = doctype
    try:
        parser.Parse(text, True)
    except _EntitiesError as error:
        raise LabelError(
            f"{source} declares entities in its document type, which no such file needs: {remedy}"
        ) from error
    except (expat.ExpatError, LookupError, ValueError) as error:
        raise LabelError(f"{source} is no readable XML ({error}): {remedy}") from error
    return builder.close()

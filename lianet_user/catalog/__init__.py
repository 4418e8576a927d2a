"""The models one can get: static STAC catalogues, local or remote, and the cache of what was fetched. No torch here.

    model     what an Item says of a region file, and the places that it may name
    read      a catalogue -> its models                         publish   region files -> a catalogue
    download  bytes from servers that may lie, and the cache    resolve   a name -> a checked region file
    coverage  where models lie, drawn

Nothing is believed of a catalogue but what a file proves: it gets its name in the cache once its size and SHA-256 are those
promised, its header is read, and the region in it has the name that was requested.
"""

from lianet_user.catalog.model import Model, Provider
from lianet_user.catalog.publish import Published, publish
from lianet_user.catalog.read import Catalog, chosen_place, open_catalog
from lianet_user.catalog.resolve import add, fetch, find_region, region_of_head

__all__ = [
    "Catalog",
    "Model",
    "Provider",
    "Published",
    "add",
    "chosen_place",
    "fetch",
    "find_region",
    "open_catalog",
    "publish",
    "region_of_head",
]

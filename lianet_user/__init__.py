"""Maps from your labels and one region file: no imagery, no network, no GPU needed.

A provider has encoded a region's satellite imagery into a neural field (arXiv 2604.07092), one *region file*. Labels of
your own train a small *head* on it, and the head maps any window of the region at any date that the region holds::

    import lianet_user as lianet

    region = lianet.Region.open("region.safetensors")
    labels = lianet.read_labels("labels.gpkg", region.geobox)
    head = lianet.finetune(region, labels)
    classes = head.predict(bbox=(12.55, 52.46, 12.60, 52.50))  # in memory
    lianet.predict(head, "map.tif")  # to a file, whatever its size

Modules import one way only, each from those on its left::

    errors <- field/config <- header <- artifact
              errors <- grid, header <- labels     no torch up to here
              artifact, grid, field <- region <- head
                         head, labels <- training
                         head, labels <- maps <- report
                         everything <- cli

Importing this package imports none of them; a name below is loaded when it is first used.
"""

from __future__ import annotations

import importlib
from importlib.metadata import version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lianet_user.errors import LianetError
    from lianet_user.head import Head
    from lianet_user.labels import read_labels
    from lianet_user.maps import predict
    from lianet_user.region import Region
    from lianet_user.training import finetune, pretrain

__all__ = ["Head", "LianetError", "Region", "__version__", "finetune", "predict", "pretrain", "read_labels"]
__version__ = version("lianet-user")

_HOME = {
    "Head": "lianet_user.head",
    "LianetError": "lianet_user.errors",
    "Region": "lianet_user.region",
    "finetune": "lianet_user.training",
    "predict": "lianet_user.maps",
    "pretrain": "lianet_user.training",
    "read_labels": "lianet_user.labels",
}


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)

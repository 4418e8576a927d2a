"""Maps from your labels and one region file: no imagery, no network, no GPU needed.

A provider has encoded a region's satellite imagery into a neural field (arXiv 2604.07092), one *region file*. Labels of
your own train a small *head* on it, and the head maps any window of the region at any date that the region holds::

    import lianet_user as lianet

    region = lianet.Region.open("region.safetensors")
    labels = lianet.read_labels("labels.gpkg", region.header)
    head = lianet.finetune(region, labels).head
    classes = head.predict(bbox=(12.55, 52.46, 12.60, 52.50))  # in memory
    lianet.predict(head, "map.tif")  # to a file, whatever its size

Providers make region files with the same package::

    imagery = lianet.open_imagery(["imagery/"], lianet.ImageryOptions(mask="SCL"))
    words = lianet.RegionWords(name="mine", title="My region", licence="CC-BY-4.0", attribution="...")
    lianet.pretrain(imagery, Path("region.safetensors"), words)

Packages import one way only, each from those on its left::

    errors <- geo <- files <- field <- labels, imagery, catalog <- region <- head
           <- paper_import, pretraining, finetuning <- evaluation, maps <- datacube, report <- doctor, cli

Importing this package imports none of them; a name below is loaded when it is first used.
"""

from functools import partial
from typing import TYPE_CHECKING, Any

import lazy_loader

if TYPE_CHECKING:
    from lianet_user.datacube import open_datacube
    from lianet_user.errors import LianetError
    from lianet_user.finetuning import finetune, instant
    from lianet_user.head import Head
    from lianet_user.imagery import ImageryOptions, open_imagery
    from lianet_user.labels import LabelOptions, check_labels, read_labels
    from lianet_user.maps import change, predict, reconstruct
    from lianet_user.pretraining import PretrainSettings, RegionWords, UpdateSettings, pretrain, update
    from lianet_user.region import Region

    __version__: str

__all__ = [
    "Head",
    "ImageryOptions",
    "LabelOptions",
    "LianetError",
    "PretrainSettings",
    "Region",
    "RegionWords",
    "UpdateSettings",
    "__version__",
    "change",
    "check_labels",
    "finetune",
    "instant",
    "open_datacube",
    "open_imagery",
    "predict",
    "pretrain",
    "read_labels",
    "reconstruct",
    "update",
]
_loaded, _, _ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "datacube": ["open_datacube"],
        "errors": ["LianetError"],
        "head": ["Head"],
        "imagery": ["ImageryOptions", "open_imagery"],
        "labels": ["LabelOptions", "check_labels", "read_labels"],
        "maps": ["change", "predict", "reconstruct"],
        "region": ["Region"],
        "finetuning": ["finetune", "instant"],
        "pretraining": ["PretrainSettings", "RegionWords", "UpdateSettings", "pretrain", "update"],
    },
)


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version  # which takes as long to import as the command line itself

        return version("lianet-user")
    return _loaded(name)


__dir__ = partial(sorted, __all__)

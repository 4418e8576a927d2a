"""A user's labels -> label maps on the region's grid, with a report of what became of every feature. No torch here.

`formats` tells vectors from rasters; `vector` and `table` read a layer, `features` sorts out its features, `rasterize`
decides each pixel; `raster` resamples a raster; `classes`, `qgis` and `palette` give classes their order, names and
colours, `dates` says when they hold; `labelmap` puts them together, `report` counts. `split` decides which of them are
trained on, from what `blocks` counts and the `testarea` leaves, and `check` looks ahead at the training.

Importing this package imports none of them; a name below is loaded when it is first used.
"""

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from lianet_user.labels.area_of_interest import read_test_area
    from lianet_user.labels.check import Check, check_labels
    from lianet_user.labels.labelmap import LabelMap, Labels
    from lianet_user.labels.options import LabelOptions
    from lianet_user.labels.read import read_labels
    from lianet_user.labels.report import LabelReport
    from lianet_user.labels.split import BLOCK, BUFFER, SHARE, Split, split_folds, split_labels

__all__ = [
    "BLOCK",
    "BUFFER",
    "SHARE",
    "Check",
    "LabelMap",
    "LabelOptions",
    "LabelReport",
    "Labels",
    "Split",
    "check_labels",
    "read_labels",
    "read_test_area",
    "split_folds",
    "split_labels",
]

__getattr__, _, _ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "check": ["Check", "check_labels"],
        "labelmap": ["LabelMap", "Labels"],
        "options": ["LabelOptions"],
        "read": ["read_labels"],
        "report": ["LabelReport"],
        "split": ["BLOCK", "BUFFER", "SHARE", "Split", "split_folds", "split_labels"],
        "area_of_interest": ["read_test_area"],
    },
)


def __dir__() -> list[str]:
    return sorted(__all__)

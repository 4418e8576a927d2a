"""A user's labels -> label maps on the region's grid, with a report of what became of every feature. No torch here.

`read` is the way in, and `label_options` says how. `formats` tells vectors from rasters. `vector` chooses and reads a layer and
its columns, with `point_table` for text; `features` selects what lies in the region, `cover` and `rasterize` decide each pixel.
`raster` opens and resamples a raster. `label_values` spells labels, `class_tables` reads the tables and styles that describe
classes, `classes` puts them in order. The result is a `label_map` with its report. `split` divides what lies outside the test
area (`areas`) for training and validation, and `check` predicts the training.

Importing this package imports none of them; a name below is loaded when it is first used.
"""

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from lianet_user.labels.areas import read_test_area
    from lianet_user.labels.check import Check, check_labels
    from lianet_user.labels.label_map import LabelMap, LabelReport, Labels
    from lianet_user.labels.label_options import LabelOptions
    from lianet_user.labels.read import read_labels
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
        "label_map": ["LabelMap", "LabelReport", "Labels"],
        "label_options": ["LabelOptions"],
        "read": ["read_labels"],
        "split": ["BLOCK", "BUFFER", "SHARE", "Split", "split_folds", "split_labels"],
        "areas": ["read_test_area"],
    },
)


def __dir__() -> list[str]:
    return sorted(__all__)

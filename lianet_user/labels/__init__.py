"""A user's labels -> a label map on the region's grid, with a report of what became of every feature. No torch here.

`vector` reads a layer, `polygons` sorts out its features, `rasterize` decides each pixel, `palette` gives colours,
`report` counts, and `labelmap` puts them together.
"""

from lianet_user.header import IGNORE
from lianet_user.labels.labelmap import LabelMap, read_labels
from lianet_user.labels.report import ClassCount, FeatureCounts, LabelReport

__all__ = ["IGNORE", "ClassCount", "FeatureCounts", "LabelMap", "LabelReport", "read_labels"]

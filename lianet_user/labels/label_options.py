"""How a file of labels is to be read: one object, the same for every command and for Python."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lianet_user.errors import LabelError

Task = Literal["segmentation", "regression", "coverage"]
AskedTask = Literal["auto", "segmentation", "regression", "coverage"]
Rule = Literal["majority", "center", "all-touched"]
OnConflict = Literal["ignore", "last", "first"]

WHOLE_REGION = "region"
"""A value of `labelled_area`: everything in the whole region was mapped."""
EVERY_DATE = "all"
"""A value of `dates`: the labels hold at every date of the region."""


@dataclass(frozen=True, kw_only=True)
class LabelOptions:
    """How a file of labels is to be read; the defaults suit a layer of polygons with one column of classes.

    Raises:
        LabelError: two of them contradict each other, or one is out of range.
    """

    field: str | None = None
    """Column with the classes or numbers; None where only one can be meant."""
    layer: str | None = None
    """Layer of a file that has several."""
    where: str | None = None
    """Condition in OGR SQL: only the features that meet it are read."""
    labels_crs: str | None = None
    """CRS of a file that states none."""
    encoding: str | None = None
    """Encoding of the text in a shapefile or a table; None where the file states it or its content tells."""
    band: int | None = None
    """Band of a raster that has several, counted from 1."""
    nodata: tuple[float, ...] = ()
    """Values of a raster that mean "no data", besides the one that it states."""

    task: AskedTask = "auto"
    classes: Path | None = None
    """A table (CSV with the columns code, name, color) or a QGIS style: order, names and colours of the classes."""
    mapping: tuple[tuple[str, str | None], ...] = ()
    """Labels renamed or merged (old, new), or dropped (old, None): their ground is ignored."""
    background: str | None = None
    """Class of what bears no label inside `labelled_area`."""
    labelled_area: str | None = None
    """File of polygons inside which everything was mapped, or :data:`WHOLE_REGION`."""
    one_class: bool = False
    """Whether a single class is enough: a head can be evaluated with a survey of one class, but not trained on it."""

    rule: Rule = "majority"
    min_coverage: float = 0.5
    """Share of a pixel that its class has to cover, under the rule `majority`."""
    on_conflict: OnConflict = "ignore"
    """Which feature holds where several contradict each other: none, or the last or first of the file."""
    buffer: float = 0.0
    """Metres around points and lines that bear their label."""
    scale: Literal[1, 4] = 1
    """4 puts the labels on a grid of a quarter of the region's pixel."""

    dates: tuple[str, ...] = ()
    """Acquisitions that the labels describe (YYYY-MM-DD), or :data:`EVERY_DATE`; none where the region has only one."""
    date_field: str | None = None
    """Column with the date that each feature describes."""
    date_tolerance: int = 0
    """Days that a date may be away from the acquisition that is taken for it."""

    def __post_init__(self) -> None:
        if not 0 < self.min_coverage <= 1:
            raise LabelError(f"`min_coverage` {self.min_coverage:g}: expected a share above 0 and up to 1")
        if not (self.buffer >= 0 and math.isfinite(self.buffer)):
            raise LabelError(f"`buffer` {self.buffer:g}: expected metres, 0 or more")
        if self.date_tolerance < 0:
            raise LabelError(f"`date_tolerance` {self.date_tolerance}: expected days, 0 or more")
        if self.min_coverage != 0.5 and self.rule != "majority":
            raise LabelError(f"`min_coverage` has no effect with `rule` {self.rule}: omit one of them")
        if self.background is not None and self.labelled_area is None:
            raise LabelError(
                "`background` needs `labelled_area`, the area in which whatever bears no label is background: give a file of"
                f" polygons, or {WHOLE_REGION!r} if the whole region was mapped"
            )
        if self.labelled_area is not None and self.background is None and self.task != "coverage":
            raise LabelError(
                "`labelled_area` needs `background`, the class of what bears no label inside it, or `task` coverage"
            )
        if self.task == "coverage" and self.labelled_area is None:
            raise LabelError(
                "`task` coverage needs `labelled_area`: a file of the polygons inside which everything was mapped, or"
                f" {WHOLE_REGION!r} if the whole region was; without it, ground that nobody mapped would count as empty"
            )
        if self.task in ("regression", "coverage"):
            given = {"classes": self.classes, "background": self.background, "mapping": self.mapping}
            if wrong := [name for name, value in given.items() if value]:
                raise LabelError(f"`{wrong[0]}` names classes, and `task` {self.task} has none: omit one of them")
        if self.dates and self.date_field is not None:
            raise LabelError("`dates` and `date_field` both say when the labels hold: give one of them")

"""Transformation from the CRS of labels to the region's: the best operation that PROJ has here, and its accuracy.

Between two datums there are many operations, and some need a grid file that is not installed. PROJ then silently takes the
next best, which can be metres off: a quarter of a pixel and more. Here the choice is reported, and so is what is missing.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from odc.geo.crs import CRS
from odc.geo.geobox import GeoBox
from pyproj import Transformer
from pyproj.aoi import AreaOfInterest
from pyproj.crs import CoordinateOperation  # type: ignore[attr-defined]  # exported, but not in its stubs
from pyproj.enums import TransformDirection
from pyproj.exceptions import ProjError
from pyproj.transformer import TransformerGroup

from lianet_user.errors import AreaError, LabelError, LabelWarning
from lianet_user.geo.grid import LONLAT, bounds_of, crs_name

Points = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Transformation:
    """A coordinate operation from a source CRS to the region's, and its inverse."""

    accuracy: float | None
    """Metres; 0 where the datum is the same, None where PROJ does not know."""
    missing: tuple[str, ...]
    """More accurate operations that need a grid which is not installed: "de_adv_BETA2007.tif (accurate to 1 m)"."""
    notes: tuple[str, ...]
    """The operation in words; empty where only the projection differs."""
    _transformer: Transformer | None = field(repr=False)
    """None where both CRS are the same."""

    def apply(self, points: Points) -> Points:
        """Transform points (n, 2) x, y from the source CRS to the region's; inf where that is impossible."""
        return self._moved(points, TransformDirection.FORWARD)

    def invert(self, points: Points) -> Points:
        """Transform points (n, 2) x, y from the region's CRS to the source CRS; inf where that is impossible."""
        return self._moved(points, TransformDirection.INVERSE)

    def _moved(self, points: Points, direction: TransformDirection) -> Points:
        if self._transformer is None:
            return np.array(points, np.float64)
        columns = np.asarray(points, np.float64)
        x, y = self._transformer.transform(columns[:, 0], columns[:, 1], direction=direction)
        moved = np.column_stack([x, y])
        moved[~np.isfinite(moved).all(axis=1)] = np.inf
        return moved


def transformation(source: CRS, geobox: GeoBox) -> Transformation:
    """Choose the best available operation from `source` to the CRS of `geobox`, for the area that `geobox` covers.

    Raises:
        LabelError: there is none, because the source's CRS is not tied to the Earth.
    """
    target = geobox.crs
    assert target is not None
    if source == target:
        return Transformation(0.0, (), (), None)
    area = _area_of_interest(geobox)
    group = _operations(source, target, area, allow_ballpark=False)
    missing = group.unavailable_operations
    if not group.transformers:
        group = _operations(source, target, area, allow_ballpark=True)
    if not group.transformers:
        raise LabelError(
            f"there is no transformation from {crs_name(source)} to the region's {crs_name(target)}: assign the labels the"
            " coordinate reference system that their coordinates are in, for instance with QGIS"
        )
    transformer = group.transformers[0]
    accuracy = transformer.accuracy if transformer.accuracy >= 0 else None
    note = _note(source, transformer, accuracy, f"Coordinates: {crs_name(source)} -> {crs_name(target)}")
    return Transformation(accuracy, _better(missing, accuracy), (note,) if note else (), transformer)


def warn_of_missing_grids(path: Path, used: Transformation) -> None:
    """Warn where a grid that is not installed would make the coordinates of a file more accurate.

    Warns:
        LabelWarning: PROJ knows a better operation than the one that it can use here.
    """
    if used.missing:
        accuracy = f"{used.accuracy:g} m" if used.accuracy is not None else "an unknown distance"
        message = (
            f"{path}: its coordinates are only accurate to within {accuracy} on the region's grid, because PROJ lacks"
            f" {', '.join(used.missing)}: if that matters, install it with `projsync --file` or your package of PROJ data"
        )
        warnings.warn(message, LabelWarning, stacklevel=4)


def _operations(source: CRS, target: CRS, area: AreaOfInterest | None, *, allow_ballpark: bool) -> TransformerGroup:
    with warnings.catch_warnings():
        # The missing grid is reported in `missing`, if it would be more accurate.
        warnings.filterwarnings("ignore", "Best transformation is not available", UserWarning)
        return TransformerGroup(
            source.proj,
            target.proj,
            always_xy=True,
            area_of_interest=area,  # type: ignore[arg-type]  # its stubs know the same class by another name
            allow_ballpark=allow_ballpark,
        )


def _area_of_interest(geobox: GeoBox) -> AreaOfInterest | None:
    """The region's box in degrees, with west > east across the antimeridian; None where it cannot be expressed."""
    try:
        west, south, east, north = bounds_of(geobox, LONLAT)
    except (AreaError, ProjError):
        return None
    if east - west >= 360:
        west, east = -180.0, 180.0
    # A grid may count its degrees from 0 to 360.
    west, east = (value if -180 <= value <= 180 else (value + 180) % 360 - 180 for value in (west, east))
    return AreaOfInterest(west, max(south, -90.0), east, min(north, 90.0))


def _note(source: CRS, transformer: Transformer, accuracy: float | None, between: str) -> str:
    """The change of datum in words; empty where there is none."""
    changes = [step for step in transformer.operations or () if step.type_name != "Conversion"]
    ballpark = any(step.has_ballpark_transformation for step in changes)
    # A CRS without a code may state its shift to WGS 84. A shift of nothing is exact, whatever PROJ makes of its datum.
    same = all(step.has_ballpark_transformation or _is_null(step) for step in changes)
    operation = source.proj.coordinate_operation if source.proj.is_bound else None
    unchanged = accuracy is None and same and (not ballpark or (operation is not None and _is_null(operation)))
    if accuracy == 0 or unchanged:
        return ""
    if ballpark:
        return (
            f"{between} without a change of datum, because none is known between the two: if their datums differ, labels"
            " may lie tens or hundreds of metres off"
        )
    name = " + ".join(step.name for step in changes) or transformer.description
    return f"{between} by {name!r}, {'of unknown accuracy' if accuracy is None else f'accurate to {accuracy:g} m'}"


def _is_null(operation: CoordinateOperation) -> bool:
    """Whether its parameters are known and all zero."""
    return bool(operation.towgs84) and not any(operation.towgs84)


def _better(operations: list[CoordinateOperation], accuracy: float | None) -> tuple[str, ...]:
    """The grids that operations more accurate than `accuracy` lack, the most accurate first."""
    limit = math.inf if accuracy is None else accuracy
    better: dict[str, str] = {}
    for operation in sorted(operations, key=lambda operation: operation.accuracy):
        grids = " and ".join(grid.short_name for grid in operation.grids if not grid.available)
        if grids and 0 <= operation.accuracy < limit:
            better.setdefault(grids, f"{grids} (accurate to {operation.accuracy:g} m)")
    return tuple(better.values())

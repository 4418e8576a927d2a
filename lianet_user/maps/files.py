"""The files of a map: what lies beside it, what may be replaced, and how finished ones take their places."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from lianet_user.errors import OutputError
from lianet_user.files.artifact import refuse_existing

SUFFIXES = (".tif", ".tiff")


@dataclass(frozen=True)
class MapFiles:
    """A map and what lies beside it."""

    tif: Path
    pam: Path
    """Class names and attribute table, or statistics, for GDAL."""
    qml: Path
    """Style, for QGIS."""
    png: Path
    """The map at a glance."""

    @classmethod
    def of(cls, tif: Path) -> MapFiles:
        return cls(tif, tif.with_name(f"{tif.name}.aux.xml"), tif.with_suffix(".qml"), tif.with_suffix(".png"))

    @property
    def in_order(self) -> tuple[Path, ...]:
        """In the order in which they are put in place: the map last, so that it never lies there without its names."""
        return self.pam, self.qml, self.png, self.tif

    @property
    def stale(self) -> tuple[Path, ...]:
        """What GDAL would read as part of the map, and what can only belong to an earlier one: overviews and a mask."""
        return self.tif.with_name(f"{self.tif.name}.ovr"), self.tif.with_name(f"{self.tif.name}.msk")


def map_files(path: Path, overwrite: bool) -> MapFiles:
    """The files that a map will be.

    Raises:
        OutputError: the name is no GeoTIFF's, or one of the files exists and may not be replaced.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise OutputError(f"{path}: a map is a GeoTIFF, expected a name that ends in .tif: give one with -o")
    files = MapFiles.of(path)
    for each in reversed(files.in_order):
        refuse_existing(each, overwrite)
    return files


def put_in_place(made: MapFiles, files: MapFiles) -> None:
    """Give finished files their names; what an earlier map had and this one has not goes."""
    finished = [
        (source, target) for source, target in zip(made.in_order, files.in_order, strict=True) if source.exists()
    ]
    for source, _ in finished:
        with open(source, "rb+") as handle:
            os.fsync(handle.fileno())
    for path in {*files.in_order, *files.stale} - {target for _, target in finished}:
        path.unlink(missing_ok=True)
    for source, target in finished:
        source.replace(target)

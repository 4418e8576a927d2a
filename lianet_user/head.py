"""A head: six layers tied to one region, opened, applied and saved."""

from __future__ import annotations

import copy
import datetime as dt
import os
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
import torch
from torch import Tensor

from lianet_user.artifact import open_head_file, write_artifact
from lianet_user.errors import ArtifactError, RegionMismatchError
from lianet_user.field.folding import fold_norms
from lianet_user.field.head import HeadEnsemble
from lianet_user.grid import Bounds, Window, window_geobox
from lianet_user.header import IGNORE, HeadHeader
from lianet_user.region import Region, crop, load_stored, stored

if TYPE_CHECKING:
    import xarray as xr

TILE = 512
"""Pixels along the side of a window: what memory follows, whatever the size of the map."""


class Head:
    """Trained layers in evaluation mode, the region they belong to, and what the file says of them.

    Attributes:
        header: classes, dates, scores, settings.
        path: of the file, None for a head that was not read from one.
        sha256: of the file's bytes, likewise.
        layers: the ensemble as it was trained, which is what a file holds.
        region: the region it was trained on.
    """

    def __init__(
        self,
        header: HeadHeader,
        layers: HeadEnsemble,
        region: Region,
        path: Path | None = None,
        sha256: str | None = None,
    ) -> None:
        self.header = header
        self.path, self.sha256 = path, sha256
        self.layers = layers.eval().requires_grad_(False)
        self.region = region
        self._folded = copy.deepcopy(layers)
        fold_norms(self._folded)

    @classmethod
    def open(
        cls, path: str | os.PathLike[str], region: str | os.PathLike[str] | None = None, device: str = "cpu"
    ) -> Self:
        """Read a head file and open its region.

        Args:
            path: of the head file.
            region: the region file; None looks where it lay when the head was trained, then beside the head.
            device: to compute on.

        Raises:
            ArtifactError: the head or the region cannot be read, or the region was not found.
            RegionMismatchError: the region is not the one the head was trained on.
        """
        file = open_head_file(path)
        header = file.header
        layers = HeadEnsemble(header.head)
        load_stored(layers, file)
        opened = Region.open(find_region(header, Path(path), region), device)
        if opened.sha256 != header.region.sha256:
            raise RegionMismatchError(
                f"{opened.path} is not the region that {path} was trained on ({header.region.name!r}, sha256"
                f" {header.region.sha256[:12]}; found {opened.header.name!r}, {str(opened.sha256)[:12]}): give the right one"
                " with --region, or train again with finetune"
            )
        return cls(header, layers.to(device), opened, Path(path).absolute(), file.sha256())

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the head file.

        Raises:
            OutputError: the place cannot be written.
        """
        write_artifact(path, self.header, {name: tensor.cpu().numpy() for name, tensor in stored(self.layers).items()})

    def acquisition_date(self, date: dt.date | None) -> dt.date:
        """The acquisition to work on: `date`, or with None the one the head was trained on, where that is a single one.

        Raises:
            DateError: the region does not hold `date`, or none was given and there are several.
        """
        if date is None and len(self.header.dates) == 1:
            date = self.header.dates[0]
        return self.region.header.dates[self.region.header.date_index(date)]

    @torch.inference_mode()
    def log_probabilities(self, window: Window, date: dt.date | None = None) -> Tensor:
        """Logarithms of class probabilities at every pixel of a window: float32 (classes, height, width).

        Args:
            window: inside the region.
            date: as in `acquisition_date`.

        Raises:
            DateError: likewise.
        """
        outer = window.expanded(self.layers.halo, 1, self.region.shape)
        features = self.region.head_input(outer, self.acquisition_date(date), self.header.head.inputs)
        scores: Tensor = self._folded(features[None])
        return crop(scores, window, outer)[0]

    def classify(self, window: Window, date: dt.date | None = None) -> np.ndarray:
        """The most probable class at every pixel of a window: uint8 (height, width); arguments as `log_probabilities`."""
        return self.log_probabilities(window, date).argmax(0).to(torch.uint8).cpu().numpy()

    def predict(self, bbox: Bounds | None = None, crs: str = "EPSG:4326", date: dt.date | None = None) -> xr.DataArray:
        """The map over a box, in memory, on the region's grid: for maps larger than memory use `lianet_user.predict`.

        Args:
            bbox: west, south, east, north in `crs`; None maps the whole region.
            crs: of `bbox`.
            date: as in `log_probabilities`.

        Returns:
            uint8 (y, x) with coordinates, CRS, and the class names as attributes.

        Raises:
            AreaError: the box lies outside the region, or its CRS is unknown.

        Warns:
            PartlyOutsideWarning: part of the box lies outside the region and is not mapped.
        """
        from odc.geo.xr import wrap_xr  # brings dask, which nothing else here needs

        window, _ = self.region.window_of(bbox, crs)
        values = np.empty((window.height, window.width), np.uint8)
        for tile in window.tiles(TILE):
            values[tile.within(window).slices] = self.classify(tile, date)
        names = [entry.name for entry in self.header.classes]
        prediction = wrap_xr(values, window_geobox(self.region.geobox, window), nodata=IGNORE)
        return prediction.assign_attrs(  # as CF describes categories
            flag_values=list(range(len(names))), flag_meanings=" ".join(name.replace(" ", "_") for name in names)
        )


def find_region(header: HeadHeader, head_path: Path, given: str | os.PathLike[str] | None = None) -> Path:
    """Where the region of a head is: as given, else where it lay at training, else beside the head under the same name.

    Raises:
        ArtifactError: it is in none of these places.
    """
    if given is not None:
        return Path(given)
    recorded = Path(header.region.path)
    candidates = (recorded, head_path.absolute().parent / recorded.name)
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    raise ArtifactError(
        f"the region {header.region.name!r} of {head_path} was not found at {' or '.join(map(str, candidates))}: say where it"
        " is with --region"
    )

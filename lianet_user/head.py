"""A head: six layers tied to one region, opened, applied and saved."""

from __future__ import annotations

import copy
import datetime as dt
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
import torch
from odc.geo.geobox import GeoBox
from torch import Tensor

from lianet_user.artifact import ArtifactFile, open_head_file, write_artifact
from lianet_user.errors import ArtifactError, RegionMismatchError
from lianet_user.field.folding import fold_norms
from lianet_user.field.head import HeadEnsemble
from lianet_user.grid import Bounds, Window, finer, window_geobox
from lianet_user.header import IGNORE, HeadHeader
from lianet_user.region import Region, built, crop, stored

if TYPE_CHECKING:
    import xarray as xr

TILE = 512
"""Pixels of a map along the side of a tile: what memory follows, whatever the size of the map."""


class Head:
    """Trained layers in evaluation mode, the region they belong to, and what the file says of them.

    Attributes:
        header: classes, dates, scores, settings.
        path: of the file, None for a head that was not read from one.
        sha256: of the file's bytes, likewise.
        layers: the ensemble as it was trained, which is what a file holds.
        region: the region it was trained on, or after :meth:`open_on` that region as it is now.
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
            RegionMismatchError: the region is not the one the head was trained on, or was updated since.
        """
        file = open_head_file(path)
        layers = _read_layers(file)
        opened = Region.open(find_region(file.header, Path(path), region), device)
        head = cls(file.header, layers.to(device), opened, Path(path).absolute(), file.sha256())
        head.check_region()
        head._check_inputs()
        return head

    @classmethod
    def open_on(cls, path: str | os.PathLike[str], region: Region) -> Self:
        """Read a head file to train it on, with its region as it is now: `finetune(region, labels, start=head)`.

        The region may have been updated since; until it is trained on, such a head draws no maps
        (:meth:`check_region`), and the figures in its header are those of the region as it was.

        Raises:
            ArtifactError: the head cannot be read.
            RegionMismatchError: the head is of a region of another lineage.
        """
        file = open_head_file(path)
        head = cls(file.header, _read_layers(file).to(region.device), region, Path(path).absolute(), file.sha256())
        head.check_lineage(region)
        head._check_inputs()
        return head

    def check_lineage(self, region: Region) -> None:
        """Ask whether the head's weights mean anything on a region: it has to be the head's own, updated or not.

        Raises:
            RegionMismatchError: the region has another lineage.
        """
        trained_on, found = self.header.region, region.header
        if found.lineage != trained_on.lineage:
            raise RegionMismatchError(
                f"{self.path or 'the head'} was trained on another region than {region.path} ({trained_on.name!r}, lineage"
                f" {trained_on.lineage[:12]}; found {found.name!r}, {found.lineage[:12]}), where its weights mean nothing:"
                " train without --from"
            )

    def check_region(self) -> None:
        """Ask whether the head may draw maps: its region has to be the very file that it was trained on.

        Raises:
            RegionMismatchError: it is another region, or was updated since.
        """
        trained_on, found = self.header.region, self.region
        if found.sha256 == trained_on.sha256:
            return
        head = self.path or "the head"
        hashes = f"sha256 {trained_on.sha256[:12]}; found"
        if found.header.lineage == trained_on.lineage:
            raise RegionMismatchError(
                f"{found.path} was updated since {head} was trained ({trained_on.name!r}, {hashes}"
                f" {str(found.sha256)[:12]}): `lianet-user finetune {found.path} LABELS --from {head}` trains the head on,"
                " from its weights; or give the region as it was with --region; if nobody updated it, it is damaged: get it"
                " again"
            )
        raise RegionMismatchError(
            f"{found.path} is not the region that {head} was trained on ({trained_on.name!r}, {hashes}"
            f" {found.header.name!r}, {str(found.sha256)[:12]}): give the right one with --region, or train again with"
            " finetune"
        )

    def _check_inputs(self) -> None:
        config = self.header.head
        given = self.region.channels(config.inputs)
        if config.in_channels != given:
            raise ArtifactError(
                f"{self.path} reads {config.in_channels} channels of {', '.join(config.inputs)}, and the region"
                f" {self.region.header.name!r} has {given}: get the file again, or train again with finetune"
            )

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

    @property
    def scale(self) -> int:
        """Pixels of a map per pixel of the region along either axis: 1, or 4 of a head for finer labels."""
        return self.header.head.scale

    @property
    def geobox(self) -> GeoBox:
        """The grid of the head's maps over the whole region: the region's, or one `scale` times as fine."""
        return finer(self.region.geobox, self.scale)

    @torch.inference_mode()
    def answers(self, window: Window, date: dt.date | None = None) -> Tensor:
        """What the layers say of a window: float32 (outputs, scale * height, scale * width).

        Logarithms of class probabilities; or one number, in the unit of the labels.

        Args:
            window: of the region, inside it.
            date: as in `acquisition_date`.

        Raises:
            DateError: likewise.
        """
        outer = window.expanded(self.layers.halo, 1, self.region.shape)
        features = self.region.head_input(outer, self.acquisition_date(date), self.header.head.inputs)
        raw: Tensor = self._folded(features[None])
        cropped = crop(raw, window.scaled(self.scale), outer.scaled(self.scale))[0]
        numbers = self.header.numbers
        return cropped if numbers is None else numbers.offset + numbers.scale * cropped

    def values(self, window: Window, date: dt.date | None = None) -> np.ndarray:
        """What a map holds over a window: (scale * height, scale * width); arguments as `answers`.

        uint8, the most probable class; or float32, the number.
        """
        answers = self.answers(window, date)
        if self.header.classes:
            return answers.argmax(0).to(torch.uint8).cpu().numpy()
        return answers[0].cpu().numpy()

    def tiles(self, window: Window, date: dt.date | None = None) -> Iterator[tuple[Window, np.ndarray]]:
        """The map over a window tile by tile, row by row; arguments as `answers`.

        Yields:
            Where the tile lies in that map, in its own pixels, and its values.
        """
        for tile in window.tiles(TILE // self.scale):
            yield tile.within(window).scaled(self.scale), self.values(tile, date)

    def predict(self, bbox: Bounds | None = None, crs: str = "EPSG:4326", date: dt.date | None = None) -> xr.DataArray:
        """The map over a box, in memory, on :attr:`geobox`: for maps larger than memory use `lianet_user.predict`.

        Args:
            bbox: west, south, east, north in `crs`; None maps the whole region.
            crs: of `bbox`.
            date: as in `answers`.

        Returns:
            uint8 (y, x) with coordinates, CRS, and the class names as attributes; or float32 with the unit.

        Raises:
            AreaError: the box lies outside the region, or its CRS is unknown.
            RegionMismatchError: the region was updated since the head was trained.

        Warns:
            PartlyOutsideWarning: part of the box lies outside the region and is not mapped.
        """
        from odc.geo.xr import wrap_xr  # brings dask, which nothing else here needs

        self.check_region()
        window, _ = self.region.window_of(bbox, crs)
        fine = window.scaled(self.scale)
        values = np.empty((fine.height, fine.width), np.uint8 if self.header.classes else np.float32)
        for place, tile in self.tiles(window, date):
            values[place.slices] = tile
        geobox = window_geobox(self.geobox, fine)
        if self.header.numbers is not None:
            return wrap_xr(values, geobox, nodata=float("nan")).assign_attrs(units=self.header.numbers.unit)
        names = [entry.name for entry in self.header.classes]
        return wrap_xr(values, geobox, nodata=IGNORE).assign_attrs(  # as CF describes categories
            flag_values=list(range(len(names))), flag_meanings=" ".join(name.replace(" ", "_") for name in names)
        )


def _read_layers(file: ArtifactFile[HeadHeader]) -> HeadEnsemble:
    config = file.header.head

    def try_out(layers: HeadEnsemble) -> None:
        layers(torch.empty(1, config.in_channels, 8, 8))

    return built(lambda: HeadEnsemble(config), file, try_out)


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

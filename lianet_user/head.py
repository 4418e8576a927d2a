"""A head: layers and a closed form tied to one region, opened, applied and saved."""

from __future__ import annotations

import copy
import datetime as dt
import math
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
import torch
from odc.geo.geobox import GeoBox
from torch import Tensor

from lianet_user.errors import ArtifactError, RegionMismatchError
from lianet_user.field.config import HeadConfig, HeadInput
from lianet_user.field.head import HeadEnsemble
from lianet_user.field.model import Precision, answering_autocast
from lianet_user.field.norms import fold_norms
from lianet_user.field.weights import built, stored
from lianet_user.files.artifact import ArtifactFile, open_head_file, region_beside, region_places, write_artifact
from lianet_user.files.header import IGNORE, HeadHeader, NumberScores, RegionHeader, Scores, class_flags
from lianet_user.geo.grid import TILE, Bounds, Window, finer, window_geobox
from lianet_user.geo.patches import Axis, Lattice, blended
from lianet_user.region import Region, as_html, crop, notebook_table

if TYPE_CHECKING:
    import xarray as xr

Reader = Callable[[Window, dt.date | None, Sequence[HeadInput]], Tensor]
"""Gives what a head reads of a window at a date; as :meth:`lianet_user.region.Region.head_input`."""

LISTED = 24
"""Classes that a notebook is shown."""


class Head:
    """Trained layers in evaluation mode, the region they belong to, and what the file says of them.

    Attributes:
        header: classes, dates, scores, settings.
        path: of the file, None for a head that was not read from one.
        sha256: of the file's bytes, None for a head that was not read from one.
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
        cls,
        path: str | os.PathLike[str] | ArtifactFile[HeadHeader],
        region: str | os.PathLike[str] | ArtifactFile[RegionHeader] | None = None,
        device: str = "cpu",
        precision: Precision = "auto",
    ) -> Self:
        """Read a head file and open its region.

        Args:
            path: of the head file; or the file, whose header was read already.
            region: the region file, or that file with its header read; None looks where it was when the head was trained, and
                then beside the head. :func:`lianet_user.catalog.region_of_head` also looks among the downloaded models.
            device: to compute on.
            precision: to compute in.

        Raises:
            ArtifactError: the head or the region cannot be read, or the region was not found.
            RegionMismatchError: the region is not the one the head was trained on, or was updated since.
        """
        file = path if isinstance(path, ArtifactFile) else open_head_file(path)
        layers = _read_layers(file)
        own = region or region_beside(file.header, file.path)
        if own is None:
            places = " or ".join(map(str, region_places(file.header, file.path)))
            raise ArtifactError(
                f"the region {file.header.region.name!r} of {file.path} was not found at {places}: say where it is with"
                " `region`"
            )
        opened = Region.open(own, device, precision)
        head = cls(file.header, layers.to(device), opened, file.path.absolute(), file.sha256())
        head.check_region()
        head._check_inputs()
        return head

    @classmethod
    def open_on(cls, path: str | os.PathLike[str] | ArtifactFile[HeadHeader], region: Region) -> Self:
        """Read a head file to train it on, with its region as it is now: `finetune(region, labels, start=head)`.

        The region may have been updated since; until it is trained on, such a head draws no maps
        (:meth:`check_region`), and the figures in its header are those of the region as it was.

        Raises:
            ArtifactError: the head cannot be read.
            RegionMismatchError: the head is of a region of another lineage.
        """
        file = path if isinstance(path, ArtifactFile) else open_head_file(path)
        head = cls(file.header, _read_layers(file).to(region.device), region, file.path.absolute(), file.sha256())
        head.check_lineage(region)
        head._check_inputs()
        return head

    def __repr__(self) -> str:
        header = self.header
        what = ", ".join(entry.name for entry in header.classes) or f"numbers in {header.numbers.unit or 'no unit'}"  # type: ignore[union-attr]  # one of both
        return f"<Head on {header.region.name!r}: {what}; {self.path or 'not saved'}>"

    def _repr_html_(self) -> str:
        header, scores, numbers = self.header, self.header.scores, self.header.numbers
        swatch = "<span style='background:{};border:1px solid #888'>&emsp;</span> {}"
        classes = [swatch.format(entry.color, as_html(entry.name)) for entry in header.classes[:LISTED]]
        more = f", and {len(header.classes) - LISTED} more" if len(header.classes) > LISTED else ""
        score = ""
        if isinstance(scores, NumberScores) and scores.mae is not None:
            score = f"mean absolute error {scores.mae:.3g} {numbers.unit if numbers else ''}".rstrip()
        elif isinstance(scores, Scores) and scores.macro_f1 is not None and scores.accuracy is not None:
            score = f"macro F1 {scores.macro_f1:.3f}, accuracy {scores.accuracy:.3f}"
        dates = [str(date) for date in header.dates]
        shown = (
            ("region", header.region.name),
            ("numbers", f"in {numbers.unit or 'no unit'}" if numbers else ""),
            ("validation", score),
            ("dates", dates[0] if len(dates) == 1 else f"{len(dates)} from {min(dates)} to {max(dates)}"),
            ("trained", f"{header.provenance.created:%Y-%m-%d} on {header.provenance.source}"),
            ("file", str(self.path or "not saved")),
        )
        rows = [(name, as_html(fact)) for name, fact in shown]
        rows.insert(1, ("classes", ", ".join(classes) + more))
        return notebook_table(f"Head on {self.region.header.title}", rows)

    def check_lineage(self, region: Region) -> None:
        """Check that the head's weights mean anything on a region: it has to be the head's own, updated or not.

        Raises:
            RegionMismatchError: the region has another lineage.
        """
        trained_on, given = self.header.region, region.header
        if given.lineage != trained_on.lineage:
            raise RegionMismatchError(
                f"{self.path or 'the head'} was trained on another region than {region.path} ({trained_on.name!r}, lineage"
                f" {trained_on.lineage[:12]}; found {given.name!r}, {given.lineage[:12]}), where its weights mean nothing:"
                " train a new head on it"
            )

    def check_region(self) -> None:
        """Check that the head may draw maps: its region has to be the very file that it was trained on.

        Raises:
            RegionMismatchError: it is another region, or was updated since.
        """
        trained_on, region = self.header.region, self.region
        if region.sha256 == trained_on.sha256:
            return
        head = self.path or "the head"
        hashes = f"sha256 {trained_on.sha256[:12]}; found"
        if region.header.lineage == trained_on.lineage:
            anew = (
                f"--from {head}` trains the head on, from its weights"
                if self.header.head.members
                else "--instant` solves it anew"
            )
            raise RegionMismatchError(
                f"{region.path} was updated since {head} was trained ({trained_on.name!r}, {hashes}"
                f" {str(region.sha256)[:12]}): `lianet-user finetune {region.path} LABELS {anew};"
                " or give the region as it was with `region`; if nobody updated it, it is damaged: get it again"
            )
        raise RegionMismatchError(
            f"{region.path} is not the region that {head} was trained on ({trained_on.name!r}, {hashes}"
            f" {region.header.name!r}, {str(region.sha256)[:12]}): give the right one with `region`, or train again with"
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
    def answers(
        self, window: Window, date: dt.date | None = None, *, read: Reader | None = None, turned: bool = False
    ) -> Tensor:
        """The answers of the layers over a window: float32 (outputs, scale * height, scale * width).

        Logarithms of class probabilities; or one number, in the unit of the labels.

        Args:
            window: of the region, inside it.
            date: as in `acquisition_date`.
            read: gives what the layers read, in place of the region's `head_input`.
            turned: the mean over the eight turns and mirrors of what the layers read.

        Raises:
            DateError: as in `acquisition_date`.
        """
        layers = self._of_turns if turned else self._folded
        (raw,) = self._raw(window, date, read or self.region.head_input, lambda values: (layers(values),))
        if self.header.numbers is None and self._lattice is not None:
            raw = raw.log_softmax(1)  # a mean of logarithms does not sum to one
        return self._in_units(raw)[0]

    @torch.inference_mode()
    def members_answers(self, window: Window, date: dt.date | None = None) -> Tensor:
        """The answers of each member, and of the closed form: float32 (answers, outputs, scale * height, scale * width).

        Numbers in the unit of the labels; or logits. Arguments as in :meth:`answers`.
        """
        raw = self._raw(window, date, self.region.head_input, lambda values: tuple(self._folded.each(values)))
        return self._in_units(torch.cat(raw))

    def _in_units(self, raw: Tensor) -> Tensor:
        numbers = self.header.numbers
        return raw if numbers is None else numbers.offset + numbers.scale * raw

    @property
    def _lattice(self) -> Lattice | None:
        """Where the head is computed in patches at fixed places; None where windows do not change its answers."""
        return head_lattice(self.header.head, self.region.shape)

    def _raw(
        self, window: Window, date: dt.date | None, read: Reader, layers: Callable[[Tensor], tuple[Tensor, ...]]
    ) -> tuple[Tensor, ...]:
        """The raw outputs of layers over a window: (1, outputs, scale * height, scale * width) each."""
        date, inputs, lattice = self.acquisition_date(date), self.header.head.inputs, self._lattice

        def answered(values: Tensor) -> tuple[Tensor, ...]:
            with answering_autocast(self.region.device, self.region.precision):
                return tuple(part.float() for part in layers(values))

        if lattice is None:
            outer = window.expanded(self.layers.halo, 1, self.region.shape)
            own, around = window.scaled(self.scale), outer.scaled(self.scale)
            return tuple(crop(part, own, around) for part in answered(read(outer, date, inputs)[None]))
        outer = lattice.around(window)
        values = read(outer, date, inputs)[None]
        return blended(
            lattice, window, lambda patches: (answered(crop(values, patch, outer)) for patch in patches), self.scale
        )

    def _of_turns(self, read: Tensor) -> Tensor:
        """The mean answer of the layers to inputs (1, C, h, w), turned and mirrored in all eight ways and turned back."""
        answers = []
        for turns in range(4):
            for mirror in ((), (3,)):
                turned = self._folded(read.rot90(turns, (2, 3)).flip(mirror))
                answers.append(turned.flip(mirror).rot90(-turns, (2, 3)))
        stacked = torch.stack(answers)
        return stacked.mean(0) if self.header.numbers else stacked.logsumexp(0) - math.log(len(answers))

    def values(self, window: Window, date: dt.date | None = None) -> np.ndarray:
        """The values of a map over a window: (scale * height, scale * width); arguments as `answers`.

        uint8, the most probable class; or float32, the number.
        """
        return self.map_values(self.answers(window, date))[0]

    def map_answers(
        self, window: Window, date: dt.date | None = None, *, read: Reader | None = None, turned: bool = False
    ) -> Tensor:
        """:meth:`answers` over a window of :attr:`geobox`, which may begin and end inside a pixel of the region."""
        ground = window.coarsened(self.scale)
        return crop(self.answers(ground, date, read=read, turned=turned), window, ground.scaled(self.scale))

    def decided(self, answers: Tensor) -> Tensor:
        """The values of a map from answers (outputs, ...): uint8, the most probable class; or float32, the number."""
        return answers.argmax(0).to(torch.uint8) if self.header.classes else answers[0]

    def map_values(self, answers: Tensor) -> np.ndarray:
        """:meth:`decided` as a map stores it: (1, ...), on the processor."""
        return self.decided(answers)[None].cpu().numpy()

    def map_tiles(self, window: Window, tile: int = TILE) -> Iterator[Window]:
        """The windows of the region that a map over `window` is computed in, row by row: by `predict` and all who count on
        its map, because answers differ by rounding where the same ground is computed in another window.

        Args:
            window: of the region.
            tile: pixels of the map along the side of a tile.
        """
        return window.tiles(max(1, tile // self.scale))

    def predict(
        self, bbox: Bounds | None = None, crs: str = "EPSG:4326", date: dt.date | None = None, *, tile: int = TILE
    ) -> xr.DataArray:
        """The map over a box, in memory, on :attr:`geobox`: for maps larger than memory use `lianet_user.predict`.

        Args:
            bbox: west, south, east, north in `crs`; None maps the whole region.
            crs: of `bbox`.
            date: as in `answers`.
            tile: pixels along the side of what is computed at once.

        Returns:
            `class`, uint8 (y, x), with coordinates, CRS, the date as `time`, and the class names and credits as attributes; or
            `value`, float32, with the unit.

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
        for part in self.map_tiles(window, tile):
            values[part.within(window).scaled(self.scale).slices] = self.values(part, date)
        geobox = window_geobox(self.geobox, fine)
        if self.header.numbers is not None:
            array = wrap_xr(values, geobox, nodata=float("nan")).assign_attrs(units=self.header.numbers.unit)
        else:
            array = wrap_xr(values, geobox, nodata=IGNORE).assign_attrs(class_flags(self.header.classes))
        about = {
            "long_name": f"{self.header.task} by a head of {self.region.header.title}",
            "attribution": self.header.attribution,
        }
        array = array.assign_attrs(about).rename("class" if self.header.classes else "value")
        return array.assign_coords(time=np.datetime64(self.acquisition_date(date), "ns"))


def _read_layers(file: ArtifactFile[HeadHeader]) -> HeadEnsemble:
    config = file.header.head
    channels = set(range(config.in_channels))

    def try_out(layers: HeadEnsemble) -> None:
        if closed := layers.closed_form:
            if file.dtypes["closed_form.channels"] != np.int64 or not set(closed.channels.tolist()) <= channels:
                raise ValueError(f"the closed form reads channels that are none of the {config.in_channels} there are")
            if not 0 <= closed.mix <= 1:
                raise ValueError(f"the kernel's share is {closed.mix:.3g}, expected 0 to 1")
        layers(torch.zeros(1, config.in_channels, 8, 8))

    return built(lambda: HeadEnsemble(config), file, try_out)


def head_lattice(config: HeadConfig, shape: tuple[int, int]) -> Lattice | None:
    """Where a head is computed over a region of `shape` (height, width); None where it is computed window by window."""
    if config.norm != "group":
        return None
    rows, cols = (Axis.of(length, min(config.patch, length)) for length in shape)
    return Lattice(rows, cols)

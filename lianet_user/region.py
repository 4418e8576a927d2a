"""A region: a neural field tied to the Earth.

Everything computed from a field, for training and for maps, goes through :class:`Region`, and obeys one rule: a pixel has
one value, whatever window it is asked in. A window of `lite` is computed with the decoder's halo around it, snapped outward
to the decoder's stride and cropped, and the halo stops at the region's border. Fields that normalise over space are
computed in patches at fixed places, and blended (:mod:`lianet_user.geo.patches`).
"""

from __future__ import annotations

import copy
import datetime as dt
import html
import math
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Self

import torch
from odc.geo.geobox import GeoBox
from torch import Tensor

from lianet_user.errors import PartlyOutsideWarning, printable
from lianet_user.field.config import HeadInput, reads_a_date
from lianet_user.field.decoder import LiteReconstruction, Part
from lianet_user.field.head import CONTEXT_HALO, STATISTICS, context
from lianet_user.field.model import NeuralField, Precision, answering_autocast
from lianet_user.field.norms import fold_norms
from lianet_user.field.weights import read_field
from lianet_user.files.artifact import ArtifactFile, open_region_file
from lianet_user.files.header import RegionHeader
from lianet_user.geo.grid import LONLAT, Bounds, Window, bounds_of, format_bounds, parse_crs, whole, window_of_bounds
from lianet_user.geo.ground_area import pixel_metres
from lianet_user.geo.patches import Axis, Lattice, Parts, PatchCache, blended

BATCH = 16
"""Patches that a graphics card computes together; on processors several are no faster than one."""


class Region:
    """A field in evaluation mode with its header.

    Attributes:
        header: what the file says.
        field: the frozen field, as it is computed: of an opened `lite` region, with its norms folded into its convolutions.
        trained: the field with the weights that its file holds.
        path: of the file, None for a region that was not read from one.
        sha256: of the file's bytes, None for a region that was not read from one.
        lattice: where the field is computed; None where it is computed window by window.
        precision: of what heads read and answer. Features and reflectance that callers ask for are always float32.
    """

    def __init__(
        self,
        header: RegionHeader,
        field: NeuralField,
        path: Path | None = None,
        sha256: str | None = None,
        precision: Precision = "auto",
    ) -> None:
        self.header = header
        self.field = self.trained = field.eval().requires_grad_(False)
        self.path = path
        self.sha256 = sha256
        self.precision = precision
        self.lattice: Lattice | None = None
        if header.field.decoder.spatial_norm:
            # Patches of the size that the field was trained on; in a smaller region as large as fits, in whole strides.
            side = header.field.decoder.patch_within(self.shape)
            self.lattice = Lattice(Axis.of(self.shape[0], side), Axis.of(self.shape[1], side))
        self._patches = PatchCache()

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str] | ArtifactFile[RegionHeader],
        device: str | torch.device = "cpu",
        precision: Precision = "auto",
    ) -> Self:
        """Read a region file.

        Args:
            path: of the file; or the file, whose header was read already.
            device: to compute on.
            precision: of what heads read and answer.

        Raises:
            ArtifactError: it is no region file, or its tensors do not make the field its header describes.
        """
        file = path if isinstance(path, ArtifactFile) else open_region_file(path)
        trained = read_field(file).to(device).eval()
        region = cls(file.header, trained, file.path.absolute(), file.sha256(), precision)
        region.field = _folded(region.trained)
        return region

    def __repr__(self) -> str:
        return f"<Region {self.header.name!r}: {self._size}, {len(self.header.bands)} bands, {self._when}>"

    def _repr_html_(self) -> str:
        header, (across, down) = self.header, pixel_metres(self.geobox)
        height, width = self.shape
        ground = f"{self._size} of {across:.3g} m ({width * across / 1000:,.3g} x {height * down / 1000:,.3g} km)"
        levels = [quality.psnr_db for quality in header.quality if quality.psnr_db is not None]
        rows = (
            ("name", header.name),
            ("where", f"{format_bounds(bounds_of(self.geobox, LONLAT))} (W,S,E,N in degrees)"),
            ("size", ground),
            ("dates", self._when),
            ("bands", f"{len(header.bands)}: {', '.join(band.name for band in header.bands[:16])}"
                      + (", ..." if len(header.bands) > 16 else "")),
            ("remembers", f"{sum(levels) / len(levels):.1f} dB" if levels else ""),
            ("licence", header.licence),
            ("file", str(self.path or "not read from one")),
        )  # fmt: skip
        return notebook_table(header.title, [(name, as_html(fact)) for name, fact in rows])

    @property
    def _size(self) -> str:
        height, width = self.shape
        return f"{width} x {height} px"

    @property
    def _when(self) -> str:
        dates = self.header.dates
        return str(dates[0]) if len(dates) == 1 else f"{len(dates)} dates from {min(dates)} to {max(dates)}"

    @property
    def geobox(self) -> GeoBox:
        return self.header.grid.geobox

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.header.grid.height, self.header.grid.width

    @property
    def window(self) -> Window:
        """The whole region."""
        return whole(self.geobox)

    def window_of(self, bbox: Bounds | None, crs: str = "EPSG:4326") -> tuple[Window, float]:
        """The pixels a box touches, and the share of the box that lies outside the region; None is the whole region.

        Args:
            bbox: west, south, east, north in `crs`.
            crs: anything that names a CRS.

        Raises:
            AreaError: the box lies outside the region, or its CRS is unknown.

        Warns:
            PartlyOutsideWarning: part of the box lies outside the region.
        """
        if bbox is None:
            return self.window, 0.0
        window, outside = window_of_bounds(self.geobox, bbox, parse_crs(crs, "`bbox_crs`"))
        if outside:
            covered = format_bounds(bounds_of(self.geobox, LONLAT))
            message = (
                f"{max(outside, 0.001):.1%} of the box lies outside the region {self.header.name!r} and is not mapped: the"
                f" region covers {covered} (EPSG:4326)"
            )
            warnings.warn(message, PartlyOutsideWarning, stacklevel=3)
        return window, outside

    @property
    def device(self) -> torch.device:
        return self.field.grid.tables.device

    def channels(self, inputs: Sequence[HeadInput]) -> int:
        """Channels of :meth:`head_input`."""
        config = self.field.config
        sizes = {
            "features": config.decoder.features,
            "bands": config.bands,
            "context": STATISTICS * config.bands,
            "encoding": config.encoding.channels,
            "series": len(self.header.dates) * config.bands,
        }
        return sum(sizes[part] for part in inputs)

    @torch.inference_mode()
    def features(self, window: Window, date: dt.date | None = None, *, between: bool = False) -> Tensor:
        """The decoder's features of every pixel of a window: float32 (features, height, width).

        Args:
            window: inside the region.
            date: of an acquisition; None where the region holds only one.
            between: let a field with a continuous time estimate a date between its acquisitions.

        Raises:
            DateError: the region does not hold `date`, or cannot estimate it.
        """
        (features,) = self._computed(window, self.header.time_of(date, between=between), lambda decoded: (decoded,))
        return features[0]

    @torch.inference_mode()
    def reconstruct(
        self, window: Window, date: dt.date | None = None, *, between: bool = False, beyond: bool = False
    ) -> Tensor:
        """The reflectance that the field reconstructs: float32 (bands, height, width); arguments as `features`.

        With `between` and `beyond`, dates before the first acquisition and after the last are estimated too. It is not
        negative, except in fields of the authors' later releases, which end without ReLU.
        """
        time = self.header.time_of(date, between=between, beyond=beyond)
        (bands,) = self._computed(window, time, lambda features: (self.field.reconstruction(features),))
        return bands[0]

    @torch.inference_mode()
    def patch_features(self, patch: Window, date: dt.date | None = None) -> Tensor:
        """The decoder's features of a window by itself: nothing around it is computed, nothing is blended.

        That is what the authors' code computes of a patch. Maps are not made of it: its values depend on where it lies.

        Args:
            patch: its height and width are multiples of the decoder's stride; 128 px for the paper's fields.
            date: as in `features`.

        Returns:
            float32 (features, height, width).

        Raises:
            DateError: as in `features`.
        """
        return self._field_features([patch], self.header.time_of(date))[0]

    @torch.inference_mode()
    def head_input(self, window: Window, date: dt.date | None, inputs: Sequence[HeadInput]) -> Tensor:
        """What a head reads: any of the features, reconstructed bands, their context, encoding and series, in this order.

        Features are ReLU(features) for the paper's decoder and the features themselves for `lite`, whose projected
        encoding has a sign (:attr:`lianet_user.field.config.FieldConfig.rectified`). Bands and context are in the units the
        reconstruction was trained in: reflectance for the paper's, each band's deviation over the region for `lite`. The
        encoding is the hash grid's, which is the same at every date, and the series the reconstructed bands of all dates of the
        region, one after the other: what the place looked like at all of them, before and after the decoder.

        Returns:
            float32 (channels, height, width).
        """
        return torch.cat(list(self.head_parts(window, date, inputs).values()))

    @torch.inference_mode()
    def head_parts(self, window: Window, date: dt.date | None, inputs: Sequence[HeadInput]) -> dict[HeadInput, Tensor]:
        """The parts of :meth:`head_input` by name, float32 (channels, height, width) each, in the order of HEAD_INPUTS."""
        parts: dict[HeadInput, Tensor] = self._dated_parts(window, date, inputs) if reads_a_date(inputs) else {}
        if "encoding" in inputs:
            parts["encoding"] = self.field.grid([(window.row, window.col)], window.height, window.width)[0]
        if "series" in inputs:
            each = [self._dated_parts(window, known, ("bands",))["bands"] for known in self.header.dates]
            parts["series"] = torch.cat(each)
        return parts

    def _dated_parts(
        self, window: Window, date: dt.date | None, inputs: Sequence[HeadInput]
    ) -> dict[HeadInput, Tensor]:
        """The parts of :meth:`head_parts` that a date decides."""
        inner = window.expanded(CONTEXT_HALO, 1, self.shape) if "context" in inputs else window
        wants_features, wants_bands = "features" in inputs, bool({"bands", "context"} & set(inputs))

        def read(decoded: Tensor) -> Parts:
            bands = (self.field.reconstruction.standardized(decoded),) if wants_bands else ()
            return (decoded.float(), *bands) if wants_features else bands

        with answering_autocast(self.device, self.precision):
            *decoded, last = self._computed(inner, self.header.time_of(date), read)
        parts: dict[HeadInput, Tensor] = {}
        if wants_features:
            features = crop(decoded[0] if wants_bands else last, window, inner)[0]
            parts["features"] = features.relu() if self.field.config.rectified else features
        if "bands" in inputs:
            parts["bands"] = crop(last, window, inner)[0]
        if "context" in inputs:
            parts["context"] = crop(context(last), window, inner)[0]
        return parts

    def _computed(self, window: Window, time: int | float, read: Callable[[Tensor], Parts]) -> Parts:
        """The results of `read` on features (1, C, h, w) over a window: (1, channels, height, width) each."""
        if self.lattice is not None:
            return blended(self.lattice, window, lambda patches: map(read, self._decoded_patches(patches, time)))
        decoder = self.field.config.decoder
        outer = window.expanded(decoder.halo, decoder.stride, self.shape)
        inner = window.expanded(LiteReconstruction.halo, decoder.stride, self.shape)
        decoded = self._field_features([outer], time, inner.within(outer).slices)
        return tuple(crop(part, window, inner) for part in read(decoded))

    def _decoded_patches(self, patches: Sequence[Window], time: int | float) -> Iterator[Tensor]:
        """Features (1, C, h, w) of each patch; those that are still in the cache are not computed again."""
        size = BATCH if self.device.type == "cuda" else 1
        for batch in (patches[first : first + size] for first in range(0, len(patches), size)):
            known = {patch: self._patches.get((time, patch)) for patch in batch}
            if missing := [patch for patch, features in known.items() if features is None]:
                for patch, features in zip(missing, self._field_features(missing, time).split(1), strict=True):
                    # A copy: part of a batch would keep all of it in memory.
                    known[patch] = own = features.clone() if len(missing) > 1 else features
                    self._patches.put((time, patch), own)
            for patch in batch:
                features = known[patch]
                assert features is not None
                yield features

    def _field_features(self, windows: Sequence[Window], time: int | float, keep: Part | None = None) -> Tensor:
        """Features (B, C, h, w) of windows of one size, each by itself, or of a part of each."""
        kind = torch.float64 if isinstance(time, float) else torch.int64
        times = torch.tensor([time] * len(windows), dtype=kind, device=self.device)
        corners = [(window.row, window.col) for window in windows]
        return self.field.features(corners, windows[0].height, windows[0].width, times, keep=keep)


def _folded(field: NeuralField) -> NeuralField:
    """A view of a `lite` field that computes the same with its norms folded into its convolutions; it shares all other
    tensors, the tables above all. Other fields have no norms that can be folded and are returned as they are."""
    if field.config.decoder.architecture != "lite":
        return field
    view = copy.copy(field)
    view._modules = dict(field._modules)
    view.decoder, view.reconstruction = copy.deepcopy(field.decoder), copy.deepcopy(field.reconstruction)
    fold_norms(view)
    return view


def notebook_table(title: str, rows: Sequence[tuple[str, str]]) -> str:
    """A table of a few facts as notebooks show it, in HTML.

    Args:
        title: plain text.
        rows: the name of a fact, plain text, and the fact in HTML; rows without a fact are left out.
    """
    shown = "".join(
        f"<tr><th style='text-align:left'>{as_html(name)}</th><td style='text-align:left'>{fact}</td></tr>"
        for name, fact in rows
        if fact
    )
    return f"<table><caption style='text-align:left'><b>{as_html(title)}</b></caption>{shown}</table>"


def as_html(text: str) -> str:
    """A text, perhaps out of somebody else's file, as HTML that shows it as it stands."""
    return html.escape(printable(text))


def crop(values: Tensor, window: Window, outer: Window) -> Tensor:
    """The part of an array over `outer` (its last two axes) that lies in `window`."""
    return values[(..., *window.within(outer).slices)]


def psnr(mse: float) -> float:
    """Peak signal-to-noise ratio in dB for reflectance, whose peak is 1.0."""
    return -10.0 * math.log10(max(mse, 1e-12))

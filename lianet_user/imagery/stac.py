"""STAC items: a single Item, an ItemCollection, or the items of a static Collection or Catalog.

An acquisition is one solar day: items of neighbouring tiles, taken in one pass, are one mosaic. Of every file only the
windows asked for are read, through odc.stac.
"""

from __future__ import annotations

import datetime as dt
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import rasterio
from affine import Affine
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox

from lianet_user.errors import ImageryError, did_you_mean, listed
from lianet_user.files.header import Acquisition
from lianet_user.geo.grid import Window, crs_name, window_geobox
from lianet_user.imagery.file_names import none_left, wanted
from lianet_user.imagery.grids import TOLERANCE, described, same_crs
from lianet_user.imagery.netcdf_zarr import PROVIDER
from lianet_user.imagery.options import ImageryOptions
from lianet_user.imagery.planes import Plane, PlaneImagery, assembled, grid_asked_for
from lianet_user.imagery.sensors import OFFSET_SINCE, scaling, wavelengths
from lianet_user.imagery.stac_assets import (
    ASSET,
    REMOTE,
    Layer,
    band_keys,
    item_of,
    key_of,
    layer_of,
    read_items,
    wavelength_of,
    when_of,
)

if TYPE_CHECKING:
    import pystac


def open_stac(paths: Sequence[Path | str], options: ImageryOptions) -> PlaneImagery:
    """Open STAC items. An acquisition is a solar day; its date and time are those, in UTC, of its first item.

    Args:
        paths: or https URLs, of an Item, an ItemCollection, a static Collection or Catalog.
        options: `bands` are keys of assets, common names (red) or names of bands (B04); without them, all assets of one band
            each that have a wavelength or a common name, but cirrus. `mask` is an asset too, or a path. `grid` is needed where
            items lie in several coordinate reference systems.

    Raises:
        ImageryError: no items, an asset that no item has, items whose grids do not fit, items of one day that are scaled in
            different ways, or Sentinel-2's offset where it has to be said.
    """
    try:
        import odc.stac  # noqa: F401
        import pystac  # noqa: F401
    except ImportError as error:
        raise ImageryError(f"STAC needs {error.name}, which is not installed: install it with {PROVIDER}") from error
    items: list[pystac.Item] = []
    notes: list[str] = []
    for path in paths:
        found, told = read_items(str(path))
        items += found
        notes += told
    days = _days(items)
    kept = [(moment, held) for moment, held in days if wanted(moment, options)]
    if not kept:
        raise none_left([moment for moment, _ in days], options)
    used = [item for _, held in kept for item in held]
    names = _names(used, options)
    mask = options.mask if options.mask is not None and not Path(options.mask).exists() else None
    if mask is not None:
        _must_have([mask], used)
    layers: dict[tuple[int, str], list[Layer]] = defaultdict(list)
    masking: dict[int, list[Layer]] = defaultdict(list)
    for index, (_, held) in enumerate(kept):
        for item in held:
            for name in names:
                if key := key_of(item, name):
                    layers[index, name].append(layer_of(item, key))
            if mask is not None and (key := key_of(item, mask)):
                masking[index].append(layer_of(item, key))
    ground = _Ground([layer for found in (*layers.values(), *masking.values()) for layer in found], options)
    planes: dict[tuple[int, int], Plane] = {}
    for (index, name), found_layers in layers.items():
        scale, offset = _scaling(found_layers, kept[index][0].date, options)
        planes[index, names.index(name)] = StacPlane(
            found_layers,
            *ground.of(found_layers, "bilinear"),
            scale=scale,
            offset=offset,
            nodata=_nodata(found_layers, options),
        )
    masks: dict[int, Plane] = {
        index: StacPlane(found_layers, *ground.of(found_layers, "nearest")) for index, found_layers in masking.items()
    }
    notes += [f"{moment.date} is a mosaic of {len(held)} items" for moment, held in kept if len(held) > 1]
    if applied := sorted(
        {str(kept[index][0].date) for (index, _), found_layers in layers.items() if found_layers[0].applied}
    ):
        notes.append(f"Sentinel-2's offset is subtracted already, say the items of {listed(applied, most=5)}")
    return assembled(
        names=names,
        wavelengths=_wavelengths(names, used),
        acquisitions=[moment for moment, _ in kept],
        planes=planes,
        masks=masks if mask is not None else None,
        options=options,
        source=", ".join(item.id for item in used),
        notes=notes,
    )


class StacPlane:
    """One band of one solar day: a `Plane`, a mosaic of the files of its items. Where they overlap, the earlier counts.

    Args:
        layers: of one band.
        geobox: to read them on.
        resampling: where `geobox` is not the grid of the files.
        scale: digital numbers per reflectance 1.0.
        offset: subtracted from the digital numbers first.
        nodata: digital numbers that are no measurement, beside what the layers declare and NaN.
    """

    def __init__(
        self,
        layers: Sequence[Layer],
        geobox: GeoBox,
        resampling: str,
        *,
        scale: float = 1.0,
        offset: float = 0.0,
        nodata: Sequence[float] = (),
    ) -> None:
        self.geobox, self.scale, self.offset = geobox, scale, offset
        self.name = listed([layer.name for layer in layers], most=3)
        self._items, self._resampling = [item_of(layer) for layer in layers], resampling
        self._nodata = {*nodata, *(layer.nodata for layer in layers if layer.nodata is not None)}

    def read(self, window: Window) -> NDArray[Any]:
        import odc.stac

        try:
            with rasterio.Env(**REMOTE):
                loaded = odc.stac.load(
                    self._items,
                    bands=[ASSET],
                    geobox=window_geobox(self.geobox, window),
                    groupby=lambda *_: 0,
                    resampling=self._resampling,
                )
        except Exception as error:  # odc.stac meets damage with assertions, too
            reason = error.__cause__ or error
            raise ImageryError(f"cannot read {self.name}: {reason}; it is damaged or out of reach") from error
        return np.asarray(loaded[ASSET].values[0])

    def measured(self, values: NDArray[Any]) -> NDArray[np.bool_]:
        result = np.isfinite(values)
        for number in self._nodata:
            result &= values != number
        return result


class _Ground:
    """The ground that all layers cover together, in the pixels of any of them."""

    def __init__(self, layers: Sequence[Layer], options: ImageryOptions) -> None:
        self._wanted = grid_asked_for(options)
        crs = layers[0].geobox.crs
        self._other = next((layer for layer in layers if not same_crs(layer.geobox.crs, crs)), None)
        if self._other is not None and self._wanted is None:
            assert crs is not None
            assert self._other.geobox.crs is not None
            raise ImageryError(
                f"{layers[0].name} lies in {crs_name(crs)}, {self._other.name} in {crs_name(self._other.geobox.crs)}: name a"
                " raster on whose grid to put them with --grid, or give the items of one"
            )
        boxes = [layer.geobox.boundingbox for layer in layers]
        self._corners = (
            (min(box.left for box in boxes), max(box.top for box in boxes)),
            (max(box.right for box in boxes), min(box.bottom for box in boxes)),
        )

    def of(self, layers: Sequence[Layer], method: str) -> tuple[GeoBox, str]:
        """The grid to read a mosaic on, and how to resample its files to it: their own grid, where they share one that goes
        on evenly over all the ground, else the one asked for.

        Raises:
            ImageryError: neither.
        """
        first = layers[0].geobox
        if self._other is None:
            corners = [~first.affine @ corner for corner in self._corners]
            for layer in layers:
                corners += [
                    ~first.affine @ (layer.geobox.affine @ corner) for corner in ((0, 0), layer.geobox.shape.xy)
                ]
            if all(abs(value - round(value)) <= TOLERANCE for corner in corners for value in corner) and all(
                abs(layer.geobox.affine.a / first.affine.a - 1) < TOLERANCE for layer in layers
            ):
                (col, row), (col_end, row_end) = [(round(x), round(y)) for x, y in corners[:2]]
                affine = first.affine @ Affine.translation(col, row)
                return GeoBox((row_end - row, col_end - col), affine, first.crs), "nearest"
        if self._wanted is None:
            raise ImageryError(
                f"{layers[0].name} covers {described(first)}, whose pixels do not go on evenly over the ground of the other"
                " files: name a raster on whose grid to put them with --grid"
            )
        return self._wanted, method


def _days(items: Sequence[pystac.Item]) -> list[tuple[Acquisition, list[pystac.Item]]]:
    """Items by solar day, in order of time.

    One longitude stands for all, as in odc.stac: a solar day must not begin between two neighbouring tiles.
    """
    box = items[0].bbox
    hours = int((box[0] + box[len(box) // 2]) / 2 / 15) if box else 0
    groups: dict[dt.date, list[pystac.Item]] = defaultdict(list)
    for item in sorted(items, key=lambda item: (when_of(item), item.id)):
        groups[(when_of(item) + dt.timedelta(hours=hours)).date()].append(item)
    days = []
    for held in groups.values():
        when = when_of(held[0]).replace(microsecond=0, tzinfo=None)
        days.append((Acquisition(date=when.date(), time=when.time(), id=", ".join(item.id for item in held)), held))
    return days


def _names(items: Sequence[pystac.Item], options: ImageryOptions) -> list[str]:
    if options.bands is not None:
        if twice := sorted({name for name in options.bands if options.bands.count(name) > 1}):
            raise ImageryError(f"--bands names {listed(twice)} twice: name each band once")
        _must_have(options.bands, items)
        return list(options.bands)
    names = list(dict.fromkeys(key for item in items for key in band_keys(item)))
    if not names:
        raise ImageryError(
            f"item {items[0].id} does not say which of its assets are bands: name some of"
            f" {listed([*items[0].assets])} with --bands"
        )
    return names


def _must_have(names: Sequence[str], items: Sequence[pystac.Item]) -> None:
    for name in names:
        if not any(key_of(item, name) for item in items):
            assets = list(dict.fromkeys(key for item in items for key in item.assets))
            raise ImageryError(f"no item has the asset {name}: found {listed(assets)}{did_you_mean(name, assets)}")


def _wavelengths(names: Sequence[str], items: Sequence[pystac.Item]) -> list[float | None]:
    """As the items say, else by the names."""
    result = []
    for name, known in zip(names, wavelengths(names), strict=True):
        keys = ((item, key_of(item, name)) for item in items)
        said = (wavelength_of(item.assets[key]) for item, key in keys if key)
        result.append(next((nm for nm in said if nm is not None), known))
    return result


def _scaling(layers: Sequence[Layer], date: dt.date, options: ImageryOptions) -> tuple[float, float]:
    """Scale and offset of a mosaic.

    Raises:
        ImageryError: its files are scaled in different ways, or Sentinel-2's offset has to be said.
    """
    decided = {}
    for layer in layers:
        # A scale alone does not say whether Sentinel-2's offset is in the numbers.
        unsaid = (
            layer.offset is None and date >= OFFSET_SINCE and options.offset is None and date not in options.offsets
        )
        sentinel2 = layer.sentinel2 and not layer.applied
        told = None if sentinel2 and unsaid else layer.told
        decided[scaling(date, options, told=told, dtype=layer.dtype, name=layer.name, sentinel2=sentinel2)] = layer
    if len(decided) > 1:
        one, other = list(decided.values())[:2]
        raise ImageryError(
            f"{one.name} and {other.name} are of one day, {date}, and scaled in different ways: leave one out, or give"
            " --scale and --offset"
        )
    return next(iter(decided))


def _nodata(layers: Sequence[Layer], options: ImageryOptions) -> list[float]:
    """What is no measurement, beside what files declare: 0 in whole numbers, with which odc.stac fills what no file covers."""
    zero = any(np.dtype(layer.dtype).kind in "iu" and (layer.nodata is None or layer.sentinel2) for layer in layers)
    return [*([0.0] if zero else []), *([] if options.nodata is None else [options.nodata])]

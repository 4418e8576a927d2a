"""STAC items: a single Item, an ItemCollection, or the items of a static Collection or Catalog.

An acquisition is one solar day: items of neighbouring tiles, taken in one pass, are one mosaic. Of every file only the
requested windows are read, through odc.stac.
"""

from __future__ import annotations

import datetime as dt
import json
import math
import re
import urllib.request
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin, urlsplit
from urllib.request import url2pathname

import numpy as np
import rasterio
from affine import Affine
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from rasterio.errors import RasterioError

from lianet_user.errors import ImageryError, did_you_mean, listed
from lianet_user.files.header import Acquisition
from lianet_user.geo.grid import Window, crs_name, parse_crs, same_crs, window_geobox
from lianet_user.imagery.grids import TOLERANCE, describe_grid
from lianet_user.imagery.imagery import ImageryOptions, Plane, in_period, none_in_period
from lianet_user.imagery.netcdf_zarr import PROVIDER
from lianet_user.imagery.planes import PlaneImagery, assemble, requested_grid
from lianet_user.imagery.sensors import OFFSET_SINCE, declared_scaling, scaling, wavelengths

if TYPE_CHECKING:
    import pystac


# --- Documents, local or over https: the items that one holds, or that a static catalogue leads to.


LOCALHOST = ("localhost", "127.0.0.1", "::1")
TIMEOUT_S = 30
LARGEST_JSON = 256 * 2**20
MOST_DOCUMENTS = 10_000


def read_items(location: str) -> tuple[list[pystac.Item], list[str]]:
    """The items of a STAC document, or of all documents a static Collection or Catalog leads to, in its order; and
    notes on what is not read.

    Raises:
        ImageryError: a document cannot be read or is not STAC, a location is neither https nor local, or there are no items.
    """
    import pystac

    items: list[pystac.Item] = []
    notes: list[str] = []
    waiting, seen = [resolved(location, None)], set[str]()
    while waiting:
        href = waiting.pop()
        if href in seen:
            continue
        seen.add(href)
        if len(seen) > MOST_DOCUMENTS:
            raise ImageryError(
                f"{location} leads to more than {MOST_DOCUMENTS} documents: give the items to be encoded"
            )
        document = fetch_json(href)
        kind, links = document.get("type"), [link for link in document.get("links", []) if isinstance(link, dict)]
        if kind in ("Feature", "FeatureCollection"):
            for feature in [document] if kind == "Feature" else document.get("features", []):
                try:
                    items.append(pystac.Item.from_dict(feature, href=href, migrate=True))
                except Exception as error:  # pystac checks little, and fails in many ways on what is not an item
                    raise ImageryError(f"{href} holds a feature that is not a STAC Item ({error!r})") from error
            if kind == "FeatureCollection" and any(link.get("rel") == "next" for link in links):
                notes.append(f"{href} is the first page of a search's result: the next pages are not read")
        elif kind in ("Catalog", "Collection"):
            further = [link["href"] for link in links if link.get("rel") in ("item", "child") and "href" in link]
            if not further and any(link.get("rel") == "items" for link in links):
                raise ImageryError(
                    f"{href} is a STAC API, which has to be searched: save a search's result as an ItemCollection and give that"
                )
            waiting += [resolved(link, href) for link in reversed(further)]
        else:
            raise ImageryError(
                f"{href} has the type {kind!r}: expected a STAC Item (Feature), ItemCollection, Collection or Catalog"
            )
    if not items:
        raise ImageryError(f"{location} leads to no STAC item: expected an Item, or a catalogue with links to some")
    return items, notes


def is_remote(location: str) -> bool:
    return bool(re.match(r"[a-z][a-z0-9+.-]+://", location, re.IGNORECASE))


def resolved(href: str, base: str | None) -> str:
    """An absolute location, relative to the document that names it.

    Raises:
        ImageryError: neither a local file nor https (or http on this computer), or a remote document names a local file.
    """
    if base is not None and is_remote(base):
        href = urljoin(base, href)
    if not is_remote(href):
        return str((Path(base).parent / href if base else Path(href)).absolute())
    parts = urlsplit(href)
    if parts.scheme == "file" and not (base and is_remote(base)):
        return url2pathname(parts.path)
    if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in LOCALHOST):
        raise ImageryError(
            f"{href} is reached by {parts.scheme}: only https and local files are read here; download it, and give that"
        )
    return href


def fetch_json(href: str) -> dict[str, Any]:
    """Read a JSON object from a file or over https.

    Raises:
        ImageryError: it cannot be read, or is not a JSON object.
    """
    try:
        with urllib.request.urlopen(href, timeout=TIMEOUT_S) if is_remote(href) else open(href, "rb") as source:
            text = source.read(LARGEST_JSON + 1)
    except OSError as error:  # urllib's own errors are OSErrors too
        raise ImageryError(f"cannot read {href}: {error}") from error
    if len(text) > LARGEST_JSON:
        raise ImageryError(f"{href} has more than {LARGEST_JSON >> 20} MiB: that is not a STAC document")
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ImageryError(f"{href} is not JSON: {error}") from error
    if not isinstance(document, dict):
        raise ImageryError(f"{href} is not a JSON object: expected a STAC Item, ItemCollection, Collection or Catalog")
    return document


# --- Assets: which of them are bands, and what is known of one before its pixels are read.


ASSET = "band"
"""The one asset of the items that odc.stac is given: which asset of the catalogue it is was decided before."""

REMOTE = {
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
    "GDAL_HTTP_TIMEOUT": str(TIMEOUT_S),
    "GDAL_HTTP_MAX_RETRY": "3",
    "GDAL_HTTP_RETRY_DELAY": "1",
}
"""GDAL must not list a web folder in search of sidecar files, nor wait forever."""

APPLIED = ("earthsearch:boa_offset_applied", "sentinel:boa_offset_applied")
"""Properties by which Earth Search says that Sentinel-2's offset has already been subtracted from the pixels; its
assets still declare it."""

ASIDE = {"thumbnail", "overview", "visual", "metadata"}
"""Roles of assets that are not bands."""


@dataclass(frozen=True)
class AssetFile:
    """One asset of one item.

    Attributes:
        product: the item's identifier.
        key: the asset's.
        href: absolute path, or URL.
        when: the item's, UTC.
        geobox: of the file.
        dtype: of what it stores, as numpy calls it.
        nodata: the number that means "not measured", where one is declared.
        scale, offset: reflectance = number * scale + offset, as STAC means it; None where it is not declared.
        sentinel2: whether the item says that this satellite took it.
        applied: whether the item says that Sentinel-2's offset is subtracted already.
    """

    product: str
    key: str
    href: str
    when: dt.datetime
    geobox: GeoBox
    dtype: str
    nodata: float | None
    scale: float | None
    offset: float | None
    sentinel2: bool
    applied: bool

    @property
    def name(self) -> str:
        return f"{self.href} (asset {self.key} of {self.product})"

    @property
    def declared(self) -> tuple[float, float] | None:
        """Scale and offset as in `Band`; None where nothing is declared.

        Raises:
            ImageryError: they are not usable numbers.
        """
        factor, summand = 1.0 if self.scale is None else self.scale, self.offset or 0.0
        said = declared_scaling(factor, summand, f"{self.name} declares scale {factor:g} and offset {summand:g}")
        return (said[0], 0.0) if said and self.applied else said


def when_of(item: pystac.Item) -> dt.datetime:
    """When an item was taken, or began to be, in UTC.

    Raises:
        ImageryError: it does not say.
    """
    when = item.datetime or item.common_metadata.start_datetime
    if when is None:
        raise ImageryError(f"item {item.id} has no datetime: imagery must say when it was taken")
    return when.astimezone(dt.UTC) if when.tzinfo else when.replace(tzinfo=dt.UTC)


def key_of(item: pystac.Item, name: str) -> str | None:
    """The key of the asset that a name means: its key, its band's common name, or its band's name."""
    if name in item.assets:
        return name
    if same := [key for key in item.assets if key.casefold() == name.casefold()]:
        return same[0]
    matches = [key for key in item.assets if name.casefold() in {said.casefold() for said in _names(item.assets[key])}]
    return min(matches, key=lambda key: _rank(item, key)) if matches else None


def band_keys(item: pystac.Item) -> list[str]:
    """Assets that are bands seen from above: of one band each that has a common name or a wavelength, except cirrus. Of one
    band in several files the best for reading windows is taken: no JPEG2000 beside a GeoTIFF, and the finest pixels."""
    best: dict[str, str] = {}
    for key, asset in item.assets.items():
        names = _names(asset)
        if not names or "cirrus" in names or ASIDE & set(asset.roles or ()):
            continue
        if names[0] not in best or _rank(item, key) < _rank(item, best[names[0]]):
            best[names[0]] = key
    return [key for key in item.assets if key in best.values()]


def wavelength_of(asset: pystac.Asset) -> float | None:
    """Central wavelength in nm."""
    bands = _bands(asset)
    micrometres = _said(bands[0], "eo:center_wavelength", "center_wavelength") if len(bands) == 1 else None
    return None if micrometres is None else round(1000.0 * float(micrometres), 3)


def asset_file(item: pystac.Item, key: str) -> AssetFile:
    """What is known of an asset; where the item does not say all of it, the file's header is read.

    Raises:
        ImageryError: its location is not allowed, or it cannot be read, holds several bands, or is not georeferenced.
    """
    asset = item.assets[key]
    href = resolved(asset.href, item.get_self_href())
    name = f"{href} (asset {key} of {item.id})"
    if not is_remote(href) and not Path(href).is_file():
        raise ImageryError(f"{name} does not exist: get the files beside their item, or give an item that names URLs")
    places = [asset.extra_fields, *_bands(asset)[:1], *asset.extra_fields.get("raster:bands", [])[:1]]
    dtype, nodata = _first(places, "data_type"), _first(places, "nodata")
    scale, offset = _first(places, "raster:scale", "scale"), _first(places, "raster:offset", "offset")
    try:
        geobox = _geobox(item, asset, name)
        numbers = [None if value is None else float(value) for value in (nodata, scale, offset)]
    except (TypeError, ValueError) as error:
        raise ImageryError(f"{name} has an invalid description: {error}") from error
    if geobox is None or dtype not in np.sctypeDict or numbers[0] is None:
        header = _header(href, name)
        geobox, dtype = geobox or header[0], header[1]
        numbers = [own if said is None else said for said, own in zip(numbers, header[2:], strict=True)]
    platform = f"{item.properties.get('platform')} {item.properties.get('constellation')}".casefold()
    return AssetFile(
        product=item.id,
        key=key,
        href=href,
        when=when_of(item),
        geobox=geobox,
        dtype=str(dtype),
        nodata=numbers[0],
        scale=numbers[1],
        offset=numbers[2],
        sentinel2="sentinel-2" in platform,
        applied=any(item.properties.get(said) is True for said in APPLIED),
    )


def item_of(file: AssetFile) -> pystac.Item:
    """An item of one asset, `ASSET`, that says everything odc.stac needs to know."""
    import pystac
    from pystac.extensions.projection import SCHEMA_URI

    assert file.geobox.crs is not None
    fields: dict[str, Any] = {
        "proj:wkt2": file.geobox.crs.to_wkt(),
        "proj:shape": list(file.geobox.shape),
        "proj:transform": list(file.geobox.affine)[:6],
        "data_type": file.dtype,
    }
    if file.nodata is not None:
        fields["nodata"] = file.nodata
    item = pystac.Item(file.product, None, None, file.when, {}, stac_extensions=[SCHEMA_URI])
    item.add_asset(ASSET, pystac.Asset(file.href, media_type="image/tiff", roles=["data"], extra_fields=fields))
    return item


def _geobox(item: pystac.Item, asset: pystac.Asset, name: str) -> GeoBox | None:
    places = [asset.extra_fields, item.properties]
    shape, transform = _first(places, "proj:shape"), _first(places, "proj:transform")
    code, epsg = _first(places, "proj:code"), _first(places, "proj:epsg")
    crs = code or (f"EPSG:{epsg}" if epsg else None) or _first(places, "proj:wkt2", "proj:projjson")
    if shape is None or transform is None or crs is None:
        return None
    height, width = shape
    affine = Affine(*map(float, transform[:6]))
    if affine.is_degenerate or min(height, width) < 1:
        raise ValueError(f"proj:shape {shape} and proj:transform {transform}")
    crs = json.dumps(crs) if isinstance(crs, dict) else crs  # PROJJSON
    return GeoBox((int(height), int(width)), affine, parse_crs(crs, f"{name}: its CRS", ImageryError))


def _header(href: str, name: str) -> tuple[GeoBox, str, float | None, float | None, float | None]:
    """Grid, type, nodata, scale and offset by the file itself."""
    try:
        with rasterio.Env(**REMOTE), rasterio.open(href) as source:
            if source.crs is None or source.count != 1:
                what = "no coordinate reference system" if source.crs is None else f"{source.count} layers"
                raise ImageryError(f"{name} has {what}: expected one georeferenced band")
            crs = parse_crs(source.crs, f"{name}: its CRS", ImageryError)
            geobox = GeoBox(source.shape, source.transform, crs)
            scaling = (source.scales[0], source.offsets[0])
            said = scaling if scaling != (1.0, 0.0) else (None, None)
            return geobox, source.dtypes[0], source.nodata, *said
    except RasterioError as error:
        raise ImageryError(f"cannot read {name}: {error.__cause__ or error}; get the file again") from error


def _bands(asset: pystac.Asset) -> list[dict[str, Any]]:
    """What STAC 1.1, or the extension that was before it, says of an asset's bands."""
    bands = asset.extra_fields.get("bands") or asset.extra_fields.get("eo:bands") or []
    return [band for band in bands if isinstance(band, dict)]


def _names(asset: pystac.Asset) -> list[str]:
    """Common name and name of an asset's band, if it has one band and this is one of the spectrum."""
    bands = _bands(asset)
    if len(bands) != 1 or (wavelength_of(asset) is None and _said(bands[0], "eo:common_name", "common_name") is None):
        return []
    return [str(name) for field in ("name", "eo:common_name", "common_name") if (name := bands[0].get(field))]


def _rank(item: pystac.Item, key: str) -> tuple[bool, float]:
    asset = item.assets[key]
    transform = asset.extra_fields.get("proj:transform")
    size = abs(float(transform[0])) if transform else _first([asset.extra_fields, *_bands(asset)[:1]], "gsd")
    return "jp2" in (asset.media_type or asset.href).casefold(), math.inf if size is None else float(size)


def _first(places: list[dict[str, Any]], *names: str) -> Any:
    """The first value under one of the names in several places."""
    return next((value for place in places if (value := _said(place, *names)) is not None), None)


def _said(place: dict[str, Any], *names: str) -> Any:
    return next((place[name] for name in names if place.get(name) is not None), None)


# --- From items to imagery.


def open_stac(paths: Sequence[Path | str], options: ImageryOptions) -> PlaneImagery:
    """Open STAC items. An acquisition is a solar day; its date and time are those, in UTC, of its first item.

    Args:
        paths: or https URLs, of an Item, an ItemCollection, a static Collection or Catalog.
        options: `bands` are keys of assets, common names (red) or names of bands (B04); without them, all assets of one band
            each that have a wavelength or a common name, but cirrus. `mask` is an asset too, or a path. `grid` is needed where
            items lie in several coordinate reference systems.

    Raises:
        ImageryError: no items, an asset that no item has, items whose grids do not fit, items of one day that are scaled in
            different ways, or Sentinel-2's offset where it has to be given.
    """
    try:
        import odc.stac  # noqa: F401
        import pystac  # noqa: F401
    except ImportError as error:
        raise ImageryError(f"STAC needs {error.name}, which is not installed: install it with {PROVIDER}") from error
    items: list[pystac.Item] = []
    notes: list[str] = []
    for path in paths:
        group, remarks = read_items(str(path))
        items += group
        notes += remarks
    days = _days(items)
    kept = [(moment, held) for moment, held in days if in_period(moment, options)]
    if not kept:
        raise none_in_period([moment for moment, _ in days], options)
    used = [item for _, held in kept for item in held]
    names = _band_names(used, options)
    mask = options.mask if options.mask is not None and not Path(options.mask).exists() else None
    if mask is not None:
        _must_have([mask], used)
    files: dict[tuple[int, str], list[AssetFile]] = defaultdict(list)
    masking: dict[int, list[AssetFile]] = defaultdict(list)
    for index, (_, held) in enumerate(kept):
        for item in held:
            for name in names:
                if key := key_of(item, name):
                    files[index, name].append(asset_file(item, key))
            if mask is not None and (key := key_of(item, mask)):
                masking[index].append(asset_file(item, key))
    extent = _Extent([file for group in (*files.values(), *masking.values()) for file in group], options)
    planes: dict[tuple[int, int], Plane] = {}
    for (index, name), mosaic in files.items():
        scale, offset = _scaling(mosaic, kept[index][0].date, options)
        where, nodata = extent.of(mosaic, "bilinear"), _nodata(mosaic, options)
        planes[index, names.index(name)] = StacPlane(mosaic, *where, scale=scale, offset=offset, nodata=nodata)
    masks = {index: StacPlane(mosaic, *extent.of(mosaic, "nearest")) for index, mosaic in masking.items()}
    notes += [f"{moment.date} is a mosaic of {len(held)} items" for moment, held in kept if len(held) > 1]
    if applied := sorted({str(kept[index][0].date) for (index, _), mosaic in files.items() if mosaic[0].applied}):
        notes.append(f"Sentinel-2's offset is subtracted already, say the items of {listed(applied, most=5)}")
    return assemble(
        names=names,
        wavelengths=_wavelengths(names, used),
        acquisitions=[moment for moment, _ in kept],
        planes=planes,
        masks=masks if mask is not None else None,
        options=options,
        source=", ".join(item.id for item in used),
        notes=notes,
    )


class StacPlane(Plane):
    """One band of one solar day: a mosaic of the files of its items, resampled where `geobox` is not their grid. Where they
    overlap, the earlier takes precedence. `nodata` is in addition to what the files declare."""

    def __init__(
        self,
        files: Sequence[AssetFile],
        geobox: GeoBox,
        resampling: str,
        *,
        scale: float = 1.0,
        offset: float = 0.0,
        nodata: Sequence[float] = (),
    ) -> None:
        declared = [file.nodata for file in files if file.nodata is not None]
        super().__init__(geobox, listed([file.name for file in files], most=3), scale, offset, [*nodata, *declared])
        self._items, self._resampling = [item_of(file) for file in files], resampling

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
        except Exception as error:  # odc.stac fails on damaged files with assertions, too
            reason = error.__cause__ or error
            raise ImageryError(f"cannot read {self.name}: {reason}; it is damaged or out of reach") from error
        return np.asarray(loaded[ASSET].values[0])


class _Extent:
    """The ground that all files cover together, in the pixels of any of them."""

    def __init__(self, files: Sequence[AssetFile], options: ImageryOptions) -> None:
        self._target = requested_grid(options)
        crs = files[0].geobox.crs
        self._other = next((file for file in files if not same_crs(file.geobox.crs, crs)), None)
        if self._other is not None and self._target is None:
            assert crs is not None
            assert self._other.geobox.crs is not None
            raise ImageryError(
                f"{files[0].name} lies in {crs_name(crs)}, {self._other.name} in {crs_name(self._other.geobox.crs)}: give a"
                " raster with the target grid as `grid`, or items in one CRS"
            )
        boxes = [file.geobox.boundingbox for file in files]
        self._corners = (
            (min(box.left for box in boxes), max(box.top for box in boxes)),
            (max(box.right for box in boxes), min(box.bottom for box in boxes)),
        )

    def of(self, files: Sequence[AssetFile], method: str) -> tuple[GeoBox, str]:
        """The grid to read a mosaic on, and how to resample its files to it: their own grid where they share one, else the
        requested one.

        Raises:
            ImageryError: neither.
        """
        first = files[0].geobox
        if self._other is None:
            corners = [~first.affine @ corner for corner in self._corners]
            for file in files:
                corners += [~first.affine @ (file.geobox.affine @ corner) for corner in ((0, 0), file.geobox.shape.xy)]
            if all(abs(value - round(value)) <= TOLERANCE for corner in corners for value in corner) and all(
                abs(file.geobox.affine.a / first.affine.a - 1) < TOLERANCE for file in files
            ):
                (col, row), (col_end, row_end) = [(round(x), round(y)) for x, y in corners[:2]]
                affine = first.affine @ Affine.translation(col, row)
                return GeoBox((row_end - row, col_end - col), affine, first.crs), "nearest"
        if self._target is None:
            raise ImageryError(
                f"{files[0].name} covers {describe_grid(first)}, whose pixels are not aligned with those of the other files:"
                " give a raster with the target grid as `grid`"
            )
        return self._target, method


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


def _band_names(items: Sequence[pystac.Item], options: ImageryOptions) -> list[str]:
    if options.bands is not None:
        if twice := sorted({name for name in options.bands if options.bands.count(name) > 1}):
            raise ImageryError(f"`bands` names {listed(twice)} twice: name each band once")
        _must_have(options.bands, items)
        return list(options.bands)
    names = list(dict.fromkeys(key for item in items for key in band_keys(item)))
    if not names:
        raise ImageryError(
            f"item {items[0].id} does not say which of its assets are bands: name some of"
            f" {listed([*items[0].assets])} with `bands`"
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


def _scaling(files: Sequence[AssetFile], date: dt.date, options: ImageryOptions) -> tuple[float, float]:
    """Scale and offset of a mosaic.

    Raises:
        ImageryError: its files are scaled in different ways, or Sentinel-2's offset has to be given.
    """
    decided = {}
    for file in files:
        # A scale alone does not say whether Sentinel-2's offset is in the numbers.
        unsaid = file.offset is None and date >= OFFSET_SINCE and options.offset is None and date not in options.offsets
        sentinel2 = file.sentinel2 and not file.applied
        declared = None if sentinel2 and unsaid else file.declared
        decided[scaling(date, options, declared=declared, dtype=file.dtype, name=file.name, sentinel2=sentinel2)] = file
    if len(decided) > 1:
        one, other = list(decided.values())[:2]
        raise ImageryError(
            f"{one.name} and {other.name} are of one day, {date}, and scaled in different ways: leave one out, or give"
            " `scale` and `offset`"
        )
    return next(iter(decided))


def _nodata(files: Sequence[AssetFile], options: ImageryOptions) -> list[float]:
    """Nodata in addition to what the files declare: 0 in whole numbers, with which odc.stac fills what no file covers."""
    zero = any(np.dtype(file.dtype).kind in "iu" and (file.nodata is None or file.sentinel2) for file in files)
    return [*([0.0] if zero else []), *([] if options.nodata is None else [options.nodata])]

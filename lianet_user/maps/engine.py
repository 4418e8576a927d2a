"""The engine behind `predict`, `reconstruct` and `change`: from a request over tiles to finished files.

A :class:`MapRequest` holds what every command is asked: where to map, into which file, and how. A :class:`MapGrid` relates
the map's grid to the grids of the regions, and a :class:`TileComputer` computes tiles on it. A :class:`Pass` names the maps
that are computed together; :func:`write_maps` computes and stores the tiles, removes areas below `min_area`, writes and checks
the files, and puts them in place. It can be killed at any time and resumed.
"""

from __future__ import annotations

import hashlib
import math
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from rasterio.features import sieve
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from lianet_user.errors import OutputError
from lianet_user.files.artifact import refuse_existing
from lianet_user.geo.grid import Window, whole
from lianet_user.geo.ground_area import Ground
from lianet_user.geo.resample import Kind, Placement, place
from lianet_user.maps.area import Destination, MapArea, destination
from lianet_user.maps.geotiff import (
    MapFiles,
    RasterProfile,
    check_disk_space,
    checked_options,
    map_files,
    put_in_place,
    read_decimated,
    write_map,
)
from lianet_user.maps.picture import save_png
from lianet_user.maps.product import Product
from lianet_user.maps.resume_store import Fingerprint, ResumeStore, resume_store

Listener = Callable[[int, int], None]
"""Called with the pixels done and in total, at the beginning and after every tile; what it raises ends the run, which can then
be resumed."""

Tiles = Iterator[tuple[Window, np.ndarray]]
"""Windows of a map with their values, (bands, height, width) of its profile's type."""

Index = NDArray[np.intp]

QUICKLOOK_SIDE = 1200
"""Pixels of the map along the longer side of its quick-look."""


@dataclass(frozen=True)
class MapRequest:
    """What every command that writes maps is asked; the arguments are those of :func:`lianet_user.maps.predict.predict`."""

    output: Path
    area: MapArea
    overwrite: bool
    resume: bool
    listener: Listener | None
    creation_options: Mapping[str, str] | None
    tile: int


@dataclass(frozen=True, eq=False)
class MapJob:
    """One map to make."""

    path: Path
    product: Product
    """Before the first tile was added."""
    tags: Mapping[str, str]
    heading: str
    """Title of the quick-look."""
    attribution: str
    """Small print of the quick-look."""
    min_area: float | None = None
    """Hectares of the smallest area of one class that stays; smaller ones take the class of their largest neighbour."""


@dataclass(frozen=True, eq=False)
class Pass:
    """Maps on one grid that are computed together."""

    jobs: tuple[MapJob, ...]
    compute: TileComputer

    @property
    def geobox(self) -> GeoBox:
        return self.compute.grid.geobox

    def tiles(self) -> Iterator[Window]:
        """What is computed at once, and lost if the run is killed meanwhile."""
        return whole(self.geobox).tiles(self.compute.grid.tile)


def write_maps(request: MapRequest, passes: Sequence[Pass], depends_on: Mapping[str, Any]) -> None:
    """Make maps: compute, write, check, draw, and put them all in place when the last one is finished.

    The sidecar files of ``map.tif`` are ``map.tif.aux.xml`` (for GDAL), ``map.qml`` (style for QGIS) and ``map.png`` (the
    quick-look). Until everything is finished and checked, earlier maps stay as they are.

    Args:
        request: where to map, into which file or folder, and how. A missing folder is made.
        passes: the maps to make, in this order.
        depends_on: what the tiles depend on besides the request and the grids, serialisable as JSON.

    Raises:
        OutputError: a map exists, cannot be written, does not fit on the disk, or another run is writing it; with
            `resume`, there is no interrupted run.

    Warns:
        LeftoverWarning: an earlier run was interrupted, and its tiles are discarded.
    """
    jobs = [(run, job) for run in passes for job in run.jobs]
    target = request.output
    with _output_folder(target, needed=all(job.path.parent == target for _, job in jobs)):
        options = [checked_options(request.creation_options or {}, job.product.profile) for _, job in jobs]
        files = [map_files(job.path, request.overwrite) for _, job in jobs]
        parent = target.absolute() if target.is_dir() else target.absolute().parent
        check_disk_space(parent, [(whole(run.geobox).pixels, job.product.profile) for run, job in jobs])
        with resume_store(target, _fingerprint(request, passes, depends_on), request.resume) as store:
            _compute(passes, store, request.listener)
            places = [(number, place) for number, run in enumerate(passes) for place in range(len(run.jobs))]
            made = [
                _write(passes[number], number, place, store, chosen)
                for (number, place), chosen in zip(places, options, strict=True)
            ]
            for finished, final in zip(made, files, strict=True):
                put_in_place(finished, final)


def _fingerprint(request: MapRequest, passes: Sequence[Pass], depends_on: Mapping[str, Any]) -> Fingerprint:
    """Everything that tiles depend on, by the names that a message uses."""
    grids = [run.compute.grid for run in passes]
    grounds = [grid.destination.ground for grid in grids]
    return {
        "version": version("lianet-user"),
        **depends_on,
        "maps": [[job.path.name, job.min_area] for run in passes for job in run.jobs],
        "grids": [
            [box.crs.to_wkt() if box.crs else None, *tuple(box.affine)[:6], *box.shape, grid.tile]
            for grid, box in ((each, each.geobox) for each in grids)
        ],
        "grounds": [None if ground is None else hashlib.sha256(ground.wkb).hexdigest() for ground in grounds],
        "creation options": dict(request.creation_options or {}),
    }


@contextmanager
def _output_folder(target: Path, needed: bool) -> Iterator[None]:
    """Make the folder for several maps where it is missing, and remove it if the run ends without any.

    Raises:
        OutputError: it cannot be made.
    """
    made = needed and not target.exists()
    if made:
        try:
            target.mkdir()
        except OSError as error:
            raise OutputError(f"cannot make the folder {target}: {error.strerror}: choose another `output`") from error
    try:
        yield
    finally:
        if made:
            with suppress(OSError):  # something is in it
                target.rmdir()


@contextmanager
def only_picture(request: MapRequest) -> Iterator[MapRequest]:
    """The request itself; or, for an output that ends in .png, a request for a temporary map whose quick-look is kept.

    Raises:
        OutputError: the picture exists or cannot be written, or `resume` is given, which pictures do not support.
    """
    target = request.output
    if target.suffix.lower() != ".png":
        yield request
        return
    if request.resume:
        raise OutputError(f"{target} is a picture, of which an interrupted run keeps nothing: omit `resume`")
    refuse_existing(target, request.overwrite)
    try:
        with tempfile.TemporaryDirectory(prefix=f".{target.stem}.", dir=target.parent) as folder:
            made = Path(folder) / f"{target.stem}.tif"
            yield replace(request, output=made)
            MapFiles.of(made).png.replace(target)
    except OSError as error:
        raise OutputError(f"cannot write {target}: {error.strerror}: choose another `output`") from error


def _compute(passes: Sequence[Pass], store: ResumeStore, listener: Listener | None) -> None:
    """Compute every tile that is not stored yet."""
    total = sum(whole(run.geobox).pixels for run in passes)
    todo = [
        (run, window, _tile_name(number, window))
        for number, run in enumerate(passes)
        for window in run.tiles()
        if not store.has(_tile_name(number, window))
    ]
    done = total - sum(window.pixels for _, window, _ in todo)
    if listener:
        listener(done, total)
    for run, window, name in todo:
        store.save(name, run.compute(window))
        done += window.pixels
        if listener:
            listener(done, total)


def _tile_name(number: int, window: Window) -> str:
    """The name under which a tile of pass `number` is stored."""
    return f"{number}-{window.row}-{window.col}"


def _write(run: Pass, number: int, place: int, store: ResumeStore, options: Mapping[str, str]) -> MapFiles:
    """Write map `place` of pass `number` and its sidecar files in a folder of their own."""
    job, geobox = run.jobs[place], run.geobox
    product, profile = job.product, job.product.profile
    folder = store.finished / f"{number}-{place}"
    folder.mkdir()
    made = MapFiles.of(folder / job.path.name)

    def stored() -> Tiles:
        for window in run.tiles():
            values = store.load(_tile_name(number, window), place)
            yield window, profile.empty(window) if values is None else values

    def counted(tiles: Tiles) -> Tiles:
        for window, values in tiles:
            product.add(values)
            yield window, values

    tiles = stored()
    if job.min_area is not None:
        tiles = _without_small_areas(tiles, job.min_area, geobox, profile, folder)
    write_map(made.tif, geobox, counted(tiles), profile, job.tags, options)
    for left in folder.glob("*.raw"):
        left.unlink()
    product.write_pam(made.pam)
    product.write_qml(made.qml)
    _draw(job, geobox, made)
    return made


def _draw(job: MapJob, geobox: GeoBox, made: MapFiles) -> None:
    glance = read_decimated(made.tif, QUICKLOOK_SIDE, job.product.profile)
    save_png(job.product.figure(glance, geobox, title=job.heading, attribution=job.attribution), made.png)


def _without_small_areas(tiles: Tiles, min_area: float, geobox: GeoBox, profile: RasterProfile, folder: Path) -> Tiles:
    """Tiles of classes without the areas below `min_area`, to the nearest pixel, which GDAL's sieve removes.

    The class that an area takes depends on the size of its neighbours, wherever they end, so this needs the whole map. It
    lies in memory-mapped files, whose pages the system can drop when it needs the memory.

    GDAL counts pixels, and a pixel's ground differs over a map. What is small even in the largest pixels goes, what is large
    even in the smallest ones stays, and only patches between the two are measured, each where it lies.
    """
    shape, ground = tuple(geobox.shape), Ground(geobox)
    fewest, most = (max(1, math.ceil(min_area / pixel - 0.5)) for pixel in reversed(ground.pixel_range))
    values_before, values_after, values_fewer, mask = (
        _memory_mapped(folder / f"{name}.raw", shape) for name in ("in", "out", "fewer", "mask")
    )
    windows = []
    for window, values in tiles:
        values_before[window.slices] = values[0]
        mask[window.slices] = values[0] != profile.nodata
        windows.append(window)
    sieve(values_before, fewest, out=values_after, mask=mask, connectivity=4)
    if most > fewest:
        sieve(values_before, most, out=values_fewer, mask=mask, connectivity=4)
        rows, cols = _differing(values_after, values_fewer, windows)
        goes = _too_small(rows, cols, values_before[rows, cols], ground, min_area)
        values_after[rows[goes], cols[goes]] = values_fewer[rows[goes], cols[goes]]
    for window in windows:
        yield window, np.array(values_after[window.slices])[None]


def _differing(one: np.ndarray, other: np.ndarray, windows: Sequence[Window]) -> tuple[Index, Index]:
    """Rows and columns of the pixels in which two maps differ, row by row."""
    found = [
        np.argwhere(one[window.slices] != other[window.slices]) + np.array([window.row, window.col])
        for window in windows
    ] or [np.zeros((0, 2), np.intp)]
    places = np.concatenate(found)
    rows, cols = places[np.lexsort((places[:, 1], places[:, 0]))].T
    return rows, cols


def _too_small(rows: Index, cols: Index, values: np.ndarray, ground: Ground, min_area: float) -> np.ndarray:
    """Which pixels lie in a patch that is below `min_area`, or in one that went into such a patch: bool (pixels,).

    Args:
        rows, cols: of whole patches (pixels,), row by row.
        values: the classes (pixels,).
        ground: below the map.
        min_area: hectares.
    """
    width = ground.geobox.shape[1]
    places, count = rows * width + cols, len(rows)
    pairs = []
    for step, inside in ((1, cols < width - 1), (width, np.ones(count, bool))):
        first = np.flatnonzero(inside)
        second = np.searchsorted(places, places[first] + step)
        met = second < count
        first, second = first[met], second[met]
        met = places[second] == places[first] + step
        pairs.append(np.stack([first[met], second[met]]))
    beside = np.concatenate(pairs, axis=1)

    def joined(pairs: np.ndarray) -> np.ndarray:
        graph = coo_array((np.ones(pairs.shape[1], bool), tuple(pairs)), (count, count))
        return np.asarray(connected_components(graph, directed=False)[1])

    patch, group = joined(beside[:, values[beside[0]] == values[beside[1]]]), joined(beside)
    hectares = ground.at(rows, cols)
    sizes = np.bincount(patch, hectares) + hectares.max(initial=0.0) / 2
    largest = np.zeros(group.max(initial=-1) + 1)
    np.maximum.at(largest, group, sizes[patch])
    return np.asarray(largest[group] < min_area)


def _memory_mapped(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """A memory-mapped file of zeros. They are written now: a page without room on the disk would end the process."""
    left, block = math.prod(shape), bytes(2**20)
    with open(path, "wb") as file:
        while left:
            left -= file.write(block[:left])
    return np.memmap(path, np.uint8, "r+", shape=shape)


# --- Tiles: values computed on the grids of the regions, resampled to the grid of the map.


@dataclass(frozen=True, eq=False)
class MapGrid:
    """The grid of a map, and its placement on the grids of the regions or heads that it is computed from."""

    destination: Destination
    placements: tuple[Placement, ...]
    """On the grid of each region or head."""
    tile: int
    """Pixels of the map along the side of a tile."""
    scale: int
    """Pixels of the first grid along a pixel of its region."""

    @classmethod
    def of(cls, request: MapRequest, grids: Sequence[GeoBox], names: Sequence[str], scale: int = 1) -> Self:
        """Derive the grid from a request.

        Args:
            request: the area, and the pixels of a region's or head's grid along the side of a tile.
            grids: of the regions or heads, each over its whole region; the first one decides the CRS and the resolution.
            names: of the regions, for messages.
            scale: pixels of the first grid along a pixel of its region.

        Raises:
            AreaError: as in :func:`lianet_user.maps.area.destination`.
            LabelError: the polygons of the area cannot be read.

        Warns:
            PartlyOutsideWarning: part of the requested area lies outside the regions.
        """
        mapped = destination(request.area, grids, names, scale)
        side = max(scale, request.tile // scale * scale)
        placements = tuple(place(grid, mapped.geobox, side) for grid in grids)
        factor = max(1.0, *(placement.factor for placement in placements))
        return cls(mapped, placements, max(1, int(side / factor)), scale)

    @property
    def geobox(self) -> GeoBox:
        """The grid itself."""
        return self.destination.geobox

    @property
    def window(self) -> Window | None:
        """Pixels of the first region that the map covers; None where the map has a grid of its own."""
        first = self.placements[0]
        if first.offset is None:
            return None
        mapped = whole(self.geobox).shifted(*first.offset).intersection(whole(first.source))
        return mapped and mapped.coarsened(self.scale)


@dataclass(frozen=True)
class ArraySpec:
    """An array that is computed for a window: its bands, how it is resampled, and its nodata value."""

    bands: int
    kind: Kind = "numbers"
    dtype: str = "float32"
    nodata: float = math.nan

    def empty(self, window: Window) -> np.ndarray:
        """(bands, height, width) of nodata."""
        return np.full((self.bands, window.height, window.width), self.nodata, self.dtype)

    def missing(self, values: np.ndarray) -> np.ndarray:
        """Where values are nodata: bool, of the same shape."""
        return np.isnan(values) if math.isnan(self.nodata) else values == self.nodata


Compute = Callable[[Window], Iterable[np.ndarray]]
"""A window of a region's or head's grid -> values: (bands, h, w) for each :class:`ArraySpec` in turn."""


class TileComputer:
    """Computes the tiles of all maps of a pass; call it with a window of their grid.

    Args:
        grid: of the maps.
        computes: one function for each region or head that `grid` is placed on; where several have a value, the first counts.
        specs: the arrays that each of them computes.
        stored: turns these arrays on the maps' grid into what each map stores: (bands, h, w) of its profile's type.
    """

    def __init__(
        self,
        grid: MapGrid,
        computes: Sequence[Compute],
        specs: Sequence[ArraySpec],
        stored: Callable[[list[np.ndarray]], list[np.ndarray]],
    ) -> None:
        self.grid, self.computes, self.specs, self.stored = grid, tuple(computes), tuple(specs), stored

    def __call__(self, window: Window) -> list[np.ndarray] | None:
        """What each map stores for a window; None where nothing is mapped."""
        values = self.read(window)
        return None if values is None else self.stored(values)

    def read(self, window: Window) -> list[np.ndarray] | None:
        """The values on the maps' grid, before they are stored: (bands, h, w) each; None where nothing is mapped."""
        destination = self.grid.destination
        inside = destination.inside(window) if destination.ground is not None else None
        if inside is not None and not inside.any():
            return None
        tiles = [spec.empty(window) for spec in self.specs]
        missing = np.ones((window.height, window.width), bool) if inside is None else inside
        for compute, placement in zip(self.computes, self.grid.placements, strict=True):
            for piece, needed in placement.pieces(window):
                part = piece.within(window).slices
                if not missing[part].any():
                    continue
                for spec, tile, values in zip(self.specs, tiles, compute(needed), strict=True):
                    resampled = placement.resample(values, needed, piece, spec.kind, spec.nodata)
                    before = tile[:, *part]
                    tile[:, *part] = np.where(spec.missing(before), resampled, before)
            if len(self.computes) > 1:
                missing = missing & self.specs[0].missing(tiles[0])[0]
        if inside is not None and destination.masked:
            for spec, tile in zip(self.specs, tiles, strict=True):
                tile[:, ~inside] = spec.nodata
        return tiles

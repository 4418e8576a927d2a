"""Maps from anything that computes tiles: kept as they come, then written, checked and put in place together.

A :class:`MapRequest` says where, into which file and how; a :class:`Pass` names a grid, the maps on it and the function that
computes a tile of all of them; :func:`write_maps` does the rest, and can be killed and taken up again at any time. What is
mapped is the business of `predict`, `reconstruct` and `change`.
"""

from __future__ import annotations

import hashlib
import math
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Self

import numpy as np
from odc.geo.geobox import GeoBox
from rasterio.features import sieve

from lianet_user.errors import OutputError
from lianet_user.files.artifact import refuse_existing
from lianet_user.geo.grid import TILE, Window, whole
from lianet_user.geo.resample import Kind, Placement, place
from lianet_user.maps.area import Destination, MapArea, destination
from lianet_user.maps.geotiff import (
    MapFiles,
    check_disk_space,
    checked_options,
    map_files,
    put_in_place,
    read_decimated,
    write_map,
)
from lianet_user.maps.picture import save_png
from lianet_user.maps.product import Product
from lianet_user.maps.resume_store import Fingerprint, Kept, kept_for

Listener = Callable[[int, int], None]
"""Told the pixels done and in all, at the beginning and after every tile; what it raises ends the run, which can then be
resumed."""

ComputeTile = Callable[[Window], Sequence[np.ndarray] | None]
"""A window of the maps' grid -> the values of each map there, (bands, height, width) of its layer's type; None where none of
them holds anything."""

QUICKLOOK_SIDE = 1200
"""Pixels of the map along the longer side of its quick-look."""


@dataclass(frozen=True, kw_only=True)
class MapRequest:
    """What every command that writes maps is asked: where, into which file, and how."""

    output: Path
    """The one map, or the folder of several."""
    area: MapArea = field(default_factory=MapArea)
    overwrite: bool = False
    """Replace earlier maps and what lies beside them."""
    resume: bool = False
    """Go on from what an interrupted run of the same request left."""
    listener: Listener | None = None
    creation_options: Mapping[str, str] | None = None
    """Of GDAL's COG driver, see :data:`lianet_user.maps.geotiff.OPTIONS`."""
    tile: int = TILE
    """Pixels along the side of what is computed at once: what memory follows, whatever the size of the map."""


@dataclass(frozen=True, eq=False)
class MapJob:
    """One map to make."""

    path: Path
    product: Product
    """Before the first tile."""
    tags: Mapping[str, str]
    heading: str
    """Above the map at a glance."""
    attribution: str
    """Below it."""
    smallest: int = 1
    """Pixels of the smallest patch of one class that is kept; smaller ones become what surrounds them."""


@dataclass(frozen=True, eq=False)
class Pass:
    """Maps on one grid that are computed together."""

    destination: Destination
    jobs: tuple[MapJob, ...]
    compute: ComputeTile
    tile: int
    """Pixels of the grid along the side of a tile: what is computed at once, and lost if the run is killed."""

    @property
    def geobox(self) -> GeoBox:
        return self.destination.geobox


def write_maps(request: MapRequest, passes: Sequence[Pass], depends_on: Mapping[str, Any]) -> None:
    """Make maps: compute, write, check, draw, and put them all in place when the last one is finished.

    Beside ``map.tif`` come what its product writes: ``map.tif.aux.xml`` (for GDAL), ``map.qml`` (style for QGIS) and
    ``map.png`` (the map at a glance). Until everything is finished and checked, earlier maps stay as they are.

    Args:
        request: where, into which file or folder, and how. A folder is made if need be.
        passes: what to make, in this order.
        depends_on: what the tiles depend on beside the request and the grids: JSON can hold it.

    Raises:
        OutputError: a map exists, cannot be written, does not fit on the disk, or another run is writing it; with
            `resume`, there is nothing to go on from.

    Warns:
        LeftoverWarning: an earlier run was interrupted, and what it left is discarded.
    """
    jobs = [(each, job) for each in passes for job in each.jobs]
    target = request.output
    with _output_folder(target, needed=all(job.path.parent == target for _, job in jobs)):
        options = [checked_options(request.creation_options or {}, job.product.layer) for _, job in jobs]
        files = [map_files(job.path, request.overwrite) for _, job in jobs]
        parent = target.absolute() if target.is_dir() else target.absolute().parent
        check_disk_space(parent, [(whole(each.geobox).pixels, job.product.layer) for each, job in jobs])
        with kept_for(target, _fingerprint(request, passes, depends_on), request.resume) as kept:
            _compute(passes, kept, request.listener)
            made = []
            places = [(each, number) for each in range(len(passes)) for number in range(len(passes[each].jobs))]
            for (each, number), chosen in zip(places, options, strict=True):
                made.append(_write(passes[each], f"{each}", number, kept, chosen))
            for finished, final in zip(made, files, strict=True):
                put_in_place(finished, final)


def _fingerprint(request: MapRequest, passes: Sequence[Pass], depends_on: Mapping[str, Any]) -> Fingerprint:
    """Everything that tiles depend on, by the name that a message calls it."""
    grounds = [each.destination.ground for each in passes]
    return {
        "version": version("lianet-user"),
        **depends_on,
        "maps": [[job.path.name, job.smallest] for each in passes for job in each.jobs],
        "grids": [_grid_words(each.geobox, each.tile) for each in passes],
        "grounds": [None if ground is None else hashlib.sha256(ground.wkb).hexdigest() for ground in grounds],
        "creation options": dict(request.creation_options or {}),
    }


def _grid_words(geobox: GeoBox, tile: int) -> list[object]:
    return [geobox.crs.to_wkt() if geobox.crs else None, *tuple(geobox.affine)[:6], *geobox.shape, tile]


@contextmanager
def _output_folder(target: Path, needed: bool) -> Iterator[None]:
    """A folder for several maps, made if need be, and gone again if nothing came of it.

    Raises:
        OutputError: it cannot be made.
    """
    made = needed and not target.exists()
    if made:
        try:
            target.mkdir()
        except OSError as error:
            raise OutputError(f"cannot make the folder {target}: {error.strerror}: choose another with -o") from error
    try:
        yield
    finally:
        if made:
            with suppress(OSError):  # something is in it
                target.rmdir()


@contextmanager
def only_picture(request: MapRequest) -> Iterator[MapRequest]:
    """The request itself; or, of an output that ends in .png, one for a map of which only the picture is kept.

    Raises:
        OutputError: the picture exists or cannot be written, or an interrupted run is to be resumed, of which nothing is kept.
    """
    target = request.output
    if target.suffix.lower() != ".png":
        yield request
        return
    if request.resume:
        raise OutputError(f"{target} is a picture, of which an interrupted run keeps nothing: start without --resume")
    refuse_existing(target, request.overwrite)
    try:
        with tempfile.TemporaryDirectory(prefix=f".{target.stem}.", dir=target.parent) as folder:
            made = Path(folder) / f"{target.stem}.tif"
            yield replace(request, output=made)
            MapFiles.of(made).png.replace(target)
    except OSError as error:
        raise OutputError(f"cannot write {target}: {error.strerror}: choose another place with -o") from error


def _compute(passes: Sequence[Pass], kept: Kept, listener: Listener | None) -> None:
    """Compute every tile that is not there yet."""
    total = sum(whole(each.geobox).pixels for each in passes)
    todo = [
        (each, window, name)
        for number, each in enumerate(passes)
        for window, name in _tiles(each, f"{number}")
        if not kept.has(name)
    ]
    done = total - sum(window.pixels for _, window, _ in todo)
    if listener:
        listener(done, total)
    for each, window, name in todo:
        kept.save(name, each.compute(window))
        done += window.pixels
        if listener:
            listener(done, total)


def _write(run: Pass, name: str, number: int, kept: Kept, options: Mapping[str, str]) -> MapFiles:
    """A map and what lies beside it, finished, in a folder of its own."""
    job = run.jobs[number]
    product, geobox = job.product, run.geobox
    folder = kept.finished / f"{name}-{number}"
    folder.mkdir()
    made = MapFiles.of(folder / job.path.name)
    tiles = _kept_tiles(run, name, number, kept)
    if job.smallest > 1:
        tiles = _sieved(tiles, geobox, job, folder)
    write_map(made.tif, geobox, _counted(tiles, product), product.layer, job.tags, options)
    for left in folder.glob("*.raw"):
        left.unlink()
    product.write_pam(made.pam)
    product.write_qml(made.qml)
    _draw(job, geobox, made)
    return made


def _draw(job: MapJob, geobox: GeoBox, made: MapFiles) -> None:
    glance = read_decimated(made.tif, QUICKLOOK_SIDE, job.product.layer)
    save_png(job.product.figure(glance, geobox, title=job.heading, attribution=job.attribution), made.png)


def _tiles(run: Pass, name: str) -> Iterator[tuple[Window, str]]:
    for window in whole(run.geobox).tiles(run.tile):
        yield window, f"{name}-{window.row}-{window.col}"


def _kept_tiles(run: Pass, name: str, number: int, kept: Kept) -> Iterator[tuple[Window, np.ndarray]]:
    layer = run.jobs[number].product.layer
    for window, tile in _tiles(run, name):
        values = kept.load(tile, number)
        yield window, layer.empty(window) if values is None else values


def _counted(tiles: Iterator[tuple[Window, np.ndarray]], product: Product) -> Iterator[tuple[Window, np.ndarray]]:
    for window, values in tiles:
        product.add(values)
        yield window, values


def _sieved(
    tiles: Iterator[tuple[Window, np.ndarray]], geobox: GeoBox, job: MapJob, folder: Path
) -> Iterator[tuple[Window, np.ndarray]]:
    """Tiles of classes without the patches that are too small.

    What a patch becomes depends on how large its neighbours are, wherever they end, so this looks at the whole map. It
    lies in files that are mapped into memory: the system drops their pages when it needs room for something else.
    """
    nodata = job.product.layer.nodata
    shape = tuple(geobox.shape)
    found, kept, mask = (_mapped(folder / f"{name}.raw", shape) for name in ("in", "out", "mask"))
    windows = []
    for window, values in tiles:
        found[window.slices] = values[0]
        mask[window.slices] = values[0] != nodata
        windows.append(window)
    sieve(found, job.smallest, out=kept, mask=mask, connectivity=4)
    for window in windows:
        yield window, np.array(kept[window.slices])[None]


def _mapped(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """Zeros in a file that is mapped into memory. They are written: a page for which the disk has no room ends the process."""
    left, block = math.prod(shape), bytes(2**20)
    with open(path, "wb") as file:
        while left:
            left -= file.write(block[:left])
    return np.memmap(path, np.uint8, "r+", shape=shape)


# --- A tile of a map: what regions and heads say of the ground under it, brought to the map's grid.
#
# One :class:`TileComputer` serves `predict`, `reconstruct` and `change`: they differ in what a source computes for a window of
# its own grid, and in what is stored of it.


@dataclass(frozen=True, eq=False)
class Site:
    """A map's grid, and how it lies on the grids of what it is computed from."""

    destination: Destination
    placements: tuple[Placement, ...]
    """On the grid of each source."""
    tile: int
    """Pixels of the map along the side of a tile."""

    @classmethod
    def of(cls, area: MapArea, grids: Sequence[GeoBox], names: Sequence[str], *, tile: int, scale: int = 1) -> Self:
        """
        Args:
            area: what was asked for.
            grids: of what is computed, over the whole region of each; the first one leads.
            names: of the regions, for messages.
            tile: pixels of a source along the side of what is computed at once.
            scale: pixels of the first grid along a pixel of its region.

        Raises:
            AreaError: as in :func:`lianet_user.maps.area.destination`.
            LabelError: likewise.

        Warns:
            PartlyOutsideWarning: likewise.
        """
        found = destination(area, grids, names, scale)
        side = max(scale, tile // scale * scale)
        placements = tuple(place(grid, found.geobox, side) for grid in grids)
        factor = max(1.0, *(placement.factor for placement in placements))
        return cls(found, placements, max(1, int(side / factor)))

    @property
    def geobox(self) -> GeoBox:
        """Of the map."""
        return self.destination.geobox

    @property
    def window(self) -> Window | None:
        """Pixels of the first source that the map covers; None where it lies on another grid."""
        first = self.placements[0]
        if first.offset is None:
            return None
        return whole(self.geobox).shifted(*first.offset).intersection(whole(first.source))


@dataclass(frozen=True)
class Values:
    """One of the arrays that a source computes: how it is resampled, and what stands for nothing."""

    bands: int
    kind: Kind = "numbers"
    dtype: str = "float32"
    nodata: float = math.nan

    def empty(self, window: Window) -> np.ndarray:
        """(bands, height, width) of nothing."""
        return np.full((self.bands, window.height, window.width), self.nodata, self.dtype)

    def missing(self, values: np.ndarray) -> np.ndarray:
        """Where nothing is: bool, as `values`."""
        return np.isnan(values) if math.isnan(self.nodata) else values == self.nodata


Compute = Callable[[Window], Iterable[np.ndarray]]
"""A window of a source's grid -> its values there: (bands, h, w) for each of the :class:`Values` in turn."""


class TileComputer:
    """Computes tiles of all maps of a pass; call it with a window of their grid.

    Args:
        site: the maps' grid, and how it lies on the sources'.
        sources: what is computed on each of the site's source grids; where several say something, the first does.
        values: what every source computes.
        stored: makes of these values on the maps' grid what each map holds: (bands, h, w) of its layer's type.
    """

    def __init__(
        self,
        site: Site,
        sources: Sequence[Compute],
        values: Sequence[Values],
        stored: Callable[[list[np.ndarray]], list[np.ndarray]],
    ) -> None:
        self.site, self.sources, self.values, self.stored = site, tuple(sources), tuple(values), stored

    def __call__(self, window: Window) -> list[np.ndarray] | None:
        """What each map holds over a window, as stored; None where nothing is mapped."""
        found = self.read(window)
        return None if found is None else self.stored(found)

    def read(self, window: Window) -> list[np.ndarray] | None:
        """The values on the maps' grid, before they are stored: (bands, h, w) each; None where nothing is mapped."""
        destination = self.site.destination
        inside = destination.inside(window) if destination.ground is not None else None
        if inside is not None and not inside.any():
            return None
        tiles = [each.empty(window) for each in self.values]
        unanswered = np.ones((window.height, window.width), bool) if inside is None else inside
        for compute, placement in zip(self.sources, self.site.placements, strict=True):
            for piece, needed in placement.pieces(window):
                part = piece.within(window).slices
                if not unanswered[part].any():
                    continue
                for each, tile, values in zip(self.values, tiles, compute(needed), strict=True):
                    brought = placement.bring(values, needed, piece, each.kind, each.nodata)
                    before = tile[:, *part]
                    tile[:, *part] = np.where(each.missing(before), brought, before)
            if len(self.sources) > 1:
                unanswered = unanswered & self.values[0].missing(tiles[0])[0]
        if inside is not None and destination.masked:
            for each, tile in zip(self.values, tiles, strict=True):
                tile[:, ~inside] = each.nodata
        return tiles

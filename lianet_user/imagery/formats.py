"""Opening imagery: its format is recognised by content, not by name, and its acquisitions are selected."""

from __future__ import annotations

import datetime as dt
import math
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np

from lianet_user.errors import ImageryError, listed
from lianet_user.imagery.imagery import Imagery, ImageryOptions, Selection
from lianet_user.imagery.sentinel2 import is_sentinel2, open_sentinel2

Answer = TypeVar("Answer")

TILE = 512
"""Side, in pixels, of the windows in which acquisitions are examined."""

STAC, CUBE, BANDS, RASTERS = "STAC", "NetCDF or Zarr", "Sentinel-2 band files", "rasters"
NETCDF_MAGIC = (b"CDF\x01", b"CDF\x02", b"CDF\x05", b"\x89HDF\r\n\x1a\n")
RASTER_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+", b"\0\0\0\x0cjP  ", b"\xffO\xffQ")
ZARR = ("zarr.json", ".zgroup", ".zmetadata")
CATALOGUES = ("catalog.json", "collection.json")


def open_imagery(paths: Sequence[Path | str], options: ImageryOptions) -> Selection:
    """Open imagery: Sentinel-2 band files, stacks, NetCDF or Zarr cubes, or STAC.

    Only headers are read, unless `options.min_clear` asks for the share of clear pixels. Without it, each acquisition is read
    until a valid pixel turns up.

    Args:
        paths: files or folders of one kind; URLs of STAC documents.
        options: what the files do not say themselves.

    Raises:
        ImageryError: no imagery, several formats at once, something that has to be given, a date that appears twice,
            no date left, or a date without any valid pixel.
    """
    imagery = _read(paths, options)
    dates = [held.date for held in imagery.acquisitions]
    if twice := sorted(date for date, count in Counter(dates).items() if count > 1):
        raise ImageryError(
            f"{imagery.source} holds {listed([*map(str, twice)])} more than once: give one acquisition of each date"
        )
    _refuse_unused(options, dates, imagery.source)
    kept, notes = list(range(len(dates))), list(imagery.notes)
    if options.min_clear > 0:
        kept = _clear(imagery, kept, options.min_clear, notes)
    else:
        _refuse_empty(imagery, kept)
    return Selection(imagery, kept, notes)


def _refuse_unused(options: ImageryOptions, dates: Sequence[dt.date], source: str) -> None:
    """Refuse an offset or a scale of a date that the imagery does not have."""
    for what, given in (("offset", options.offsets), ("scale", options.scales)):
        since, until = options.since or dt.date.min, options.until or dt.date.max
        if unused := [str(date) for date in sorted(given) if date not in dates and since <= date <= until]:
            raise ImageryError(
                f"{source} has no acquisition of {listed(unused)}, for which the {what} was given: it has"
                f" {listed([str(date) for date in dates], 6)}"
            )


def _clear(imagery: Imagery, indices: Sequence[int], least: float, notes: list[str]) -> list[int]:
    """The acquisitions with at least that share of clear pixels."""
    shares = _each(partial(_clear_share, imagery), indices)
    kept = [index for index, share in zip(indices, shares, strict=True) if share >= least and share > 0]
    if not kept:
        best = imagery.acquisitions[indices[int(np.argmax(shares))]].date
        raise ImageryError(
            f"none of {len(indices)} acquisitions is clear over {least:.1%} of its pixels: the clearest, {best}, over"
            f" {max(shares):.1%}; lower `min_clear`"
        )
    if len(kept) < len(indices):
        notes.append(
            f"{len(indices) - len(kept)} of {len(indices)} acquisitions left out: clear over less than {least:.1%}"
        )
    return kept


def _clear_share(imagery: Imagery, index: int) -> float:
    """Share of an acquisition's pixels in which all bands that it has are valid."""
    clear, seen = 0, np.zeros(len(imagery.bands), np.bool_)
    for tile in imagery.window.tiles(TILE):
        valid = imagery.read(index, tile).valid
        clear += int(valid.all(0).sum())
        seen |= valid.any((1, 2))
    if clear == 0 and seen.any() and not seen.all():  # some band is missing on that date: judge those that are there
        for tile in imagery.window.tiles(TILE):
            clear += int(imagery.read(index, tile).valid[seen].all(0).sum())
    return clear / imagery.window.pixels


def _refuse_empty(imagery: Imagery, indices: Sequence[int]) -> None:
    any_valid = _each(partial(_any_valid, imagery), indices)
    empty = [
        str(imagery.acquisitions[index].date) for index, valid in zip(indices, any_valid, strict=True) if not valid
    ]
    if empty:
        raise ImageryError(
            f"{len(empty)} of {len(indices)} acquisitions have no valid pixel at all ({listed(empty)}): leave them out with"
            " `min_clear`, `since` or `until`"
        )


def _any_valid(imagery: Imagery, index: int) -> bool:
    # From the middle outward: what a tile does not cover mostly lies along its edges.
    height, width = imagery.shape
    tiles = sorted(
        imagery.window.tiles(TILE),
        key=lambda tile: math.hypot(tile.row + tile.row_end - height, tile.col + tile.col_end - width),
    )
    return any(imagery.read(index, tile).valid.any() for tile in tiles)


def _each(judge: Callable[[int], Answer], indices: Sequence[int]) -> list[Answer]:
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as threads:
        try:
            return list(threads.map(judge, indices))
        except BaseException:
            threads.shutdown(wait=False, cancel_futures=True)
            raise


def _read(paths: Sequence[Path | str], options: ImageryOptions) -> Imagery:
    """Open the paths with the reader of their format."""
    if not paths:
        raise ImageryError("no imagery given: expected files or folders, or the URL of a STAC document")
    # A URL that went through Path has lost a slash.
    given = [re.sub(r"^(\w{2,}):/(?=[^/])", r"\1://", str(path)) for path in paths]
    kinds = {path: _kind(path) for path in given}
    formats = sorted(set(kinds.values()))
    if len(formats) > 1:
        examples = ", ".join(f"{next(path for path in kinds if kinds[path] == kind)} ({kind})" for kind in formats)
        raise ImageryError(f"the imagery has {len(formats)} formats, {examples}: give files of one format")
    # Only the reader that is needed is imported: xarray, and what the extra `provider` installs, take their time.
    (kind,) = formats
    if kind == STAC:
        from lianet_user.imagery.stac import open_stac

        return open_stac(_inside(kinds, STAC), options)
    if kind == CUBE:
        from lianet_user.imagery.netcdf_zarr import open_arrays

        return open_arrays([Path(path) for path in _inside(kinds, CUBE)], options)
    if kind == BANDS:
        return open_sentinel2([*map(Path, kinds)], options)
    from lianet_user.imagery.stacks import open_stacks

    return open_stacks([*map(Path, kinds)], options)


def _kind(given: str) -> str:
    """The format of the imagery at a path, by content.

    Raises:
        ImageryError: it does not exist.
    """
    if "://" in given:
        return STAC
    path = Path(given)
    if not path.exists():
        raise ImageryError(f"{path} does not exist: give files or folders of imagery, or the URL of a STAC document")
    if kind := _kind_of_entry(path):
        return kind
    if not path.is_dir():
        return RASTERS  # GDAL reads many more formats than are recognised here, and reports what it cannot read
    if is_sentinel2([path]):
        return BANDS
    inside = {_kind_of_entry(entry) for entry in path.iterdir()}
    # Rasters have JSON files beside them more often than catalogues have rasters.
    return next((kind for kind in (CUBE, RASTERS, STAC) if kind in inside), RASTERS)


def _kind_of_entry(path: Path) -> str | None:
    """The format of a file or a Zarr store; None if it is not recognised."""
    if path.is_dir():
        if any((path / name).is_file() for name in ZARR):
            return CUBE
        return STAC if any((path / name).is_file() for name in CATALOGUES) else None
    try:
        with open(path, "rb") as file:
            start = file.read(64)
    except OSError as error:
        raise ImageryError(f"cannot read {path}: {error}") from error
    if start.startswith(NETCDF_MAGIC):
        return CUBE
    if start.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"{"):
        return STAC
    if start.startswith(RASTER_MAGIC):
        return BANDS if is_sentinel2([path]) else RASTERS
    return None


def _inside(paths: Iterable[str], kind: str) -> list[str]:
    """Files or stores of a format: those given, and those in the folders given."""
    result: list[str] = []
    for given in paths:
        path = Path(given)
        if "://" in given or _kind_of_entry(path) != kind:
            entries = (
                [str(entry) for entry in sorted(path.iterdir()) if _kind_of_entry(entry) == kind]
                if path.is_dir()
                else []
            )
            result += entries or [given]
        elif path.is_dir() and kind == STAC:
            result.append(str(next(path / name for name in CATALOGUES if (path / name).is_file())))
        else:
            result.append(given)
    return result

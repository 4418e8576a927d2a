"""Stacks: rasters with a layer for each band, one file a date, or all dates after one another in one file; or a file for each
band of each date."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from lianet_user.errors import ImageryError, did_you_mean, listed
from lianet_user.files.header import Acquisition
from lianet_user.imagery.imagery import ImageryOptions, Plane, in_period, none_in_period
from lianet_user.imagery.planes import PlaneImagery, assemble
from lianet_user.imagery.rasters import (
    DATE_PATTERN,
    RASTER_SUFFIXES,
    RasterFile,
    RasterPlane,
    date_of_file,
    rasters_in,
)
from lianet_user.imagery.sensors import (
    CIRRUS,
    SCL,
    WAVELENGTHS_NM,
    band_index,
    band_name,
    canonical,
    scaling,
    wavelengths,
)

NAMELESS = re.compile(r"(?:band|layer)?[ _-]?\d+", re.I)
"""Descriptions that are numbers only, such as "Band 1"."""


@dataclass(frozen=True)
class _Date:
    """One acquisition: its layers, each a file and a number counted from 0, in the order of their names."""

    acquisition: Acquisition
    layers: tuple[tuple[RasterFile, int], ...]
    names: tuple[str, ...]

    @property
    def path(self) -> Path:
        """The file, or the folder of several."""
        paths = {file.path for file, _ in self.layers}
        return paths.pop() if len(paths) == 1 else self.layers[0][0].path.parent


def open_stacks(paths: Sequence[Path], options: ImageryOptions) -> PlaneImagery:
    """Open rasters whose layers are bands.

    Each band counts as measured at the file's pixel size, because that is what the file holds: of a 20 m band that was
    delivered on a 10 m grid, `gsd_m` is 10 and the factor 1.

    Args:
        paths: rasters, or folders of them: one file for each date, with the date in its name, in its folder's, or in
            `options.dates` (in the order of the files); files of one layer, of which those of one date in one folder are its
            bands; or a single file with all layers of the first of `options.dates`, then all of the second and so on.
        options: `bands` chooses among the layers' descriptions; where they have none, it names all layers of one date, but
            where each band has a file, whose name says which it is. `mask` is one of these names, or a path.

    Raises:
        ImageryError: no raster, a date or names of layers that have to be given, a number of layers that is not dates
            times bands, a date twice, a band on none of the dates, or grids that differ.
    """
    dates = _dates(_files(paths, options), options)
    kept = sorted(
        (date for date in dates if in_period(date.acquisition, options)), key=lambda date: date.acquisition.date
    )
    if not kept:
        raise none_in_period([date.acquisition for date in dates], options)
    for one, other in pairwise(kept):
        if one.acquisition.date == other.acquisition.date:
            raise ImageryError(
                f"two acquisitions of {one.acquisition.date}: {one.path} and {other.path}; leave one out, or put"
                " the bands of one date into one file, or each into its own in one folder"
            )
    layer_names = list(dict.fromkeys(name for date in kept for name in date.names))
    masked = _mask_layer(layer_names, options)
    names, notes = _names(layer_names, masked, options)
    nanometres = wavelengths(names)
    planes: dict[tuple[int, int], Plane] = {}
    masks: dict[int, Plane] = {}
    for index, date in enumerate(kept):
        for band, name in enumerate(names):
            if (layer := band_index(name, date.names)) is not None:
                planes[index, band] = _plane(date, layer, options, sentinel2=nanometres[band] is not None)
        if masked is not None and (layer := band_index(masked, date.names)) is not None:
            file, number = date.layers[layer]
            masks[index] = RasterPlane(file, number + 1)
    return assemble(
        names=names,
        wavelengths=nanometres,
        acquisitions=[date.acquisition for date in kept],
        planes=planes,
        masks=None if masked is None else masks,
        options=options,
        source=", ".join(dict.fromkeys(date.path.name for date in kept)),
        notes=notes,
    )


def _files(paths: Sequence[Path], options: ImageryOptions) -> list[RasterFile]:
    """All rasters except masks."""
    mask = None if options.mask is None else Path(options.mask).resolve()
    files = [file for path in paths for file in rasters_in(path)]
    files = [file for file in files if mask is None or not file.resolve().is_relative_to(mask)]
    if not files:
        raise ImageryError(
            f"no rasters ({', '.join(sorted(RASTER_SUFFIXES))}) in {listed([str(path) for path in paths])}"
        )
    return [RasterFile.open(file) for file in files]


def _dates(files: Sequence[RasterFile], options: ImageryOptions) -> list[_Date]:
    """The layers of each acquisition."""
    given = options.dates or ()
    if len(files) == 1 and len(given) > 1:
        return _one_after_another(files[0], given, options)
    if given and len(given) != len(files):
        raise ImageryError(
            f"`dates` gives {len(given)} dates for {len(files)} files: expected one a file, in their order"
            f" ({listed([file.path.name for file in files], most=5)})"
        )
    groups: dict[tuple[Acquisition, Path], list[RasterFile]] = defaultdict(list)
    for n, file in enumerate(files):
        moment = given[n] if given else date_of_file(file.path)
        if moment is None:
            raise ImageryError(
                f"{file.path} has no date in its name or its folder's: expected, for instance, stack_20180429.tif; rename it,"
                " or give `dates`"
            )
        groups[moment, file.path.parent].append(file)
    dates = []
    for (moment, folder), group in groups.items():
        if len(group) > 1 and all(file.layers == 1 for file in group):
            names = _unique(folder, [_band_of(file) for file in group])
            dates.append(_Date(moment, tuple((file, 0) for file in group), names))
            continue
        for file in group:
            names = _layer_names(file, file.names, options)
            dates.append(_Date(_with_id(moment, file), tuple((file, n) for n in range(file.layers)), names))
    return dates


def _band_of(file: RasterFile) -> str:
    """The name of the band that a file of one layer holds: its description, or what its own name says."""
    if not _nameless(file.names):
        return file.names[0]
    parts = [part for part in re.split(r"[^A-Za-z0-9]+", file.path.stem) if part]
    known = [part for part in parts if canonical(part) in WAVELENGTHS_NM or part.upper() == SCL]
    return known[0] if len(known) == 1 else DATE_PATTERN.sub("", file.path.stem).strip(" _-.")


def _one_after_another(file: RasterFile, given: Sequence[Acquisition], options: ImageryOptions) -> list[_Date]:
    """The dates of a file that holds them one after another."""
    count, rest = divmod(file.layers, len(given))
    described = file.names[:count]
    # Names that differ from date to date are not those of bands.
    named = not _nameless(described) and file.names == described * len(given)
    expected = count if named or options.bands is None else len(options.bands)
    if rest or count != expected:
        raise ImageryError(
            f"{file.path} has {file.layers} layers, which are not {len(given)} dates"
            + (f" of {expected} bands" if options.bands and not named else "")
            + ": give all dates with `dates` and the names of all layers of one date with `bands`"
        )
    names = _layer_names(file, described if named else ("",) * count, options)
    return [
        _Date(_with_id(moment, file), tuple((file, n * count + layer) for layer in range(count)), names)
        for n, moment in enumerate(given)
    ]


def _layer_names(file: RasterFile, described: Sequence[str], options: ImageryOptions) -> tuple[str, ...]:
    """The names of one date's layers: their descriptions, or what `options.bands` calls them if they have none.

    Raises:
        ImageryError: neither says them, or not all of them, or a name is given twice.
    """
    names = tuple(described)
    if _nameless(described):
        if options.bands is None or len(options.bands) != len(described):
            raise ImageryError(
                f"{file.path} has {len(described)} layers a date without names, and `bands` gives {len(options.bands or ())}:"
                " name all layers of one date with `bands`, in their order"
            )
        names = options.bands
    return _unique(file.path, names)


def _unique(path: Path, names: Sequence[str]) -> tuple[str, ...]:
    """The names of a file's layers or of a folder's files, which must be unique.

    Raises:
        ImageryError: a name is given twice, or to some layers only.
    """
    if twice := sorted({name for name in names if name and names.count(name) > 1}):
        raise ImageryError(f"{path} has several layers called {listed(twice)}: expected a name for each")
    if "" in names:
        raise ImageryError(
            f"{path} names some of its layers ({listed([name for name in names if name])}) and not the others:"
            " expected names of all, or of none"
        )
    return tuple(names)


def _nameless(described: Sequence[str]) -> bool:
    """Whether descriptions name nothing: they are empty, or numbers only."""
    return all(not text or NAMELESS.fullmatch(text) for text in described)


def _with_id(acquisition: Acquisition, file: RasterFile) -> Acquisition:
    return Acquisition(date=acquisition.date, time=acquisition.time, id=acquisition.id or file.path.stem)


def _mask_layer(layer_names: Sequence[str], options: ImageryOptions) -> str | None:
    """The layer that `options.mask` names; None if it is a path, or no mask is requested."""
    if options.mask is None or Path(options.mask).exists():
        return None
    if (layer := band_index(options.mask, layer_names)) is None:
        raise ImageryError(
            f"`mask` {options.mask} is neither a path nor one of the layers ({listed(layer_names)})"
            f"{did_you_mean(options.mask, layer_names)}"
        )
    return layer_names[layer]


def _names(layer_names: Sequence[str], masked: str | None, options: ImageryOptions) -> tuple[list[str], list[str]]:
    """Bands to take, in their order, and notes on what is left out.

    Raises:
        ImageryError: a band that no layer is called, a band twice, or none at all.
    """
    notes = []
    layers = [name for name in layer_names if name != masked]
    chosen = layers
    if options.bands is not None:
        places = {name: band_index(name, layer_names) for name in options.bands}
        if missing := [name for name, place in places.items() if place is None]:
            raise ImageryError(
                f"no layer is called {listed(missing)}: found {listed(layer_names)}{did_you_mean(missing[0], layer_names)}"
            )
        taken = [layer_names[place] for place in places.values() if place is not None]
        chosen = [band_name(name, layer) for name, layer in zip(places, taken, strict=True) if layer != masked]
        if twice := sorted({layer for layer in taken if taken.count(layer) > 1}):
            raise ImageryError(f"`bands` names layer {listed(twice)} twice: name each band once")
    if SCL in chosen:
        chosen = [name for name in chosen if name != SCL]
        notes.append(
            f"layer {SCL} marks clouds and is not a band: it is left out"
            + ("" if options.mask else f", and clouds are not masked: give {SCL} as the mask to mask them")
        )
    if options.bands is None and any(wavelengths(chosen)) and CIRRUS in map(canonical, chosen):
        chosen = [name for name in chosen if canonical(name) != CIRRUS]
        notes.append(f"band {CIRRUS} is left out: it does not see the ground")
    if not chosen:
        raise ImageryError(f"no bands among the layers ({listed(layer_names)}): expected reflectance in at least one")
    return chosen, notes


def _plane(date: _Date, layer: int, options: ImageryOptions, *, sentinel2: bool) -> RasterPlane:
    file, number = date.layers[layer]
    scale, offset = scaling(
        date.acquisition.date,
        options,
        declared=file.scaling[number],
        dtype=file.dtypes[number],
        name=str(file.path),
        sentinel2=sentinel2,
    )
    nodata = () if options.nodata is None else (options.nodata,)
    return RasterPlane(file, number + 1, scale=scale, offset=offset, nodata=nodata)

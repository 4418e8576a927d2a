"""Sentinel-2 as it is delivered: a file for each band, in folders, of one date or of many."""

from __future__ import annotations

import datetime as dt
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lianet_user.errors import ImageryError, did_you_mean, listed
from lianet_user.files.header import Acquisition
from lianet_user.imagery.imagery import ImageryOptions, Plane, in_period, none_in_period
from lianet_user.imagery.planes import PlaneImagery, assemble
from lianet_user.imagery.rasters import RASTER_SUFFIXES, RasterFile, RasterPlane, files_in
from lianet_user.imagery.sensors import CIRRUS, GSD_M, SCL, WAVELENGTHS_NM, canonical, scaling

FILE = re.compile(
    r"(?P<product>.*?(?P<date>\d{8})T(?P<time>\d{6}))_(?P<what>[A-Z][A-Z0-9]{2,})(?:_(?P<size>\d\d)m)?\.(?:jp2|tiff?)$",
    re.I,
)
METADATA = "MTD_MSIL*.xml"
QUALITY = "MSK_"
"""Prefix of the names of a product's own masks."""
LARGEST_METADATA = 16 * 2**20
EXAMPLE = "..._20170216T102101_B02.jp2"


@dataclass(frozen=True)
class _File:
    """One file of a product: `what` is a band's name, or that of another layer such as SCL."""

    path: Path
    acquisition: Acquisition
    what: str
    size: float | None


def is_sentinel2(paths: Sequence[Path]) -> bool:
    """Whether a file is named as a Sentinel-2 band, or a folder holds one that is. Opens none."""
    return any(
        (match := FILE.search(file.name)) is not None and match["what"].upper() in WAVELENGTHS_NM
        for path in paths
        if path.exists()
        for file in files_in(path)
    )


def open_sentinel2(paths: Sequence[Path], options: ImageryOptions) -> PlaneImagery:
    """Open Sentinel-2 band files of one tile.

    Of a band in several resolutions the one it was measured at is taken. The offset is what the provider says, else what the
    product's metadata file (MTD_MSIL...xml) or the file itself says, else 0, but refused since 2022-01-25. A digital
    number of 0 means "not measured".

    Args:
        paths: files named ``..._YYYYMMDDTHHMMSS_Bnn.jp2`` (or .tif, or ``..._Bnn_10m.jp2``), or folders that hold such files,
            themselves or in folders.
        options: without `bands`, all but the cirrus band; `mask` is part of the names of mask files beside the bands (SCL),
            or a path.

    Raises:
        ImageryError: no band files, no file for a band, a band twice, two acquisitions of one date, bands that do not share a
            grid, or an offset that must be given.
    """
    files, passed = _find(paths, options.mask)
    kept = [file for file in files if in_period(file.acquisition, options)]
    if not kept:
        raise none_in_period(list({file.acquisition.id: file.acquisition for file in files}.values()), options)
    acquisitions = _acquisitions(kept)
    index = {held.id: n for n, held in enumerate(acquisitions)}
    chosen = _chosen(kept)
    names = _names([what for _, what in chosen], options)
    planes: dict[tuple[int, int], Plane] = {}
    declared: dict[str, tuple[float, float] | None] = {}
    for (product, what), file in chosen.items():
        if what in names:
            if product not in declared:
                declared[product] = _declared_by_product(file)
            planes[index[product], names.index(what)] = _plane(file, declared[product], options)
    masks: dict[int, Plane] | None = None
    notes = [f"ignored, since not named as bands of Sentinel-2: {listed(passed, 5)}"] if passed else []
    if options.mask is not None and not Path(options.mask).exists():
        masks = {
            index[product]: RasterPlane(RasterFile.open(file.path))
            for (product, what), file in chosen.items()
            if what == options.mask.upper()
        }
        if not masks:
            others = {what for _, what in chosen} - set(WAVELENGTHS_NM)
            raise ImageryError(
                f"`mask` {options.mask} is neither a path nor part of a file's name ({EXAMPLE.replace('B02', options.mask)}):"
                f" beside bands there is {listed(sorted(others))}{did_you_mean(options.mask, others)}"
            )
    elif options.mask is None and any(what == SCL for _, what in chosen):
        notes.append(f"clouds are not masked, although there are {SCL} files: give {SCL} as the mask to mask them")
    if CIRRUS not in names and any(what == CIRRUS for _, what in chosen) and options.bands is None:
        notes.append(f"band {CIRRUS} is left out: it does not see the ground")
    return assemble(
        names=names,
        wavelengths=[WAVELENGTHS_NM[name] for name in names],
        acquisitions=acquisitions,
        planes=planes,
        masks=masks,
        options=options,
        source=", ".join(held.id for held in acquisitions),
        notes=notes,
    )


def _find(paths: Sequence[Path], mask: str | None) -> tuple[list[_File], list[str]]:
    """All files of products, at least one of them a band; and the names of other rasters, except masks."""
    files, others = [], []
    apart = None if mask is None else Path(mask).resolve()
    for path in paths:
        for file in files_in(path):
            match = FILE.search(file.name)
            # Beside bands and masks a product has pictures (TCI): in a folder they are ignored.
            if match and (file != path or match["what"].upper() in {*WAVELENGTHS_NM, SCL, (mask or SCL).upper()}):
                size = float(match["size"]) if match["size"] else None
                files.append(_File(file, _acquisition(match, file), match["what"].upper(), size))
            elif file == path:
                raise ImageryError(f"{path} is not named as a Sentinel-2 band file ({EXAMPLE})")
            elif (
                file.suffix.lower() in RASTER_SUFFIXES
                and not match
                and not file.name.startswith(QUALITY)
                and not (apart and file.resolve().is_relative_to(apart))
            ):
                others.append(file.name)
    if not any(file.what in WAVELENGTHS_NM for file in files):
        raise ImageryError(f"no Sentinel-2 band files ({EXAMPLE}) in {listed([str(path) for path in paths])}")
    return files, others


def _acquisition(match: re.Match[str], file: Path) -> Acquisition:
    try:
        moment = dt.datetime.strptime(match["date"] + match["time"], "%Y%m%d%H%M%S")
    except ValueError as error:
        raise ImageryError(
            f"{file} has a date in its name that does not exist ({match['date']}T{match['time']}): expected YYYYMMDDTHHMMSS"
        ) from error
    return Acquisition(date=moment.date(), time=moment.time(), id=match["product"])


def _acquisitions(files: Sequence[_File]) -> list[Acquisition]:
    """In order of time, each date once.

    Raises:
        ImageryError: two products of one date.
    """
    held: dict[dt.date, _File] = {}
    for file in files:
        if file.what in WAVELENGTHS_NM and held.setdefault(file.acquisition.date, file).acquisition != file.acquisition:
            other = held[file.acquisition.date]
            raise ImageryError(
                f"two acquisitions of {file.acquisition.date}: {other.acquisition.id} ({other.path}) and"
                f" {file.acquisition.id} ({file.path}); give the files of one tile, and each date once"
            )
    return [held[date].acquisition for date in sorted(held)]


def _chosen(files: Sequence[_File]) -> dict[tuple[str, str], _File]:
    """One file for each product and band: of several sizes of pixels the one that was measured, else the finest.

    Raises:
        ImageryError: a band is given twice in one size.
    """
    products = {file.acquisition.id for file in files if file.what in WAVELENGTHS_NM}
    groups: dict[tuple[str, str], list[_File]] = defaultdict(list)
    for file in files:
        if file.acquisition.id in products:
            groups[file.acquisition.id, file.what].append(file)
    chosen = {}
    for (product, what), group in groups.items():
        sizes = [file.size for file in group]
        if len(group) > 1 and (None in sizes or len(set(sizes)) < len(sizes)):
            if what not in WAVELENGTHS_NM:
                continue  # it may not be needed
            date = group[0].acquisition.date
            raise ImageryError(
                f"band {what} of {date} is given twice: {group[0].path} and {group[1].path}; leave one out"
            )
        native = GSD_M.get(what)
        chosen[product, what] = min(group, key=lambda file: (file.size != native, file.size or 0.0))
    return chosen


def _names(layers: Sequence[str], options: ImageryOptions) -> list[str]:
    """Bands to take, in their order."""
    bands = sorted({what for what in layers if what in WAVELENGTHS_NM}, key=lambda name: WAVELENGTHS_NM[name])
    if options.bands is None:
        names = [name for name in bands if name != CIRRUS]
        if not names:
            raise ImageryError(f"the only band is {CIRRUS}, which does not see the ground: give other bands, too")
        return names
    names = [canonical(name) for name in options.bands]
    if missing := [name for name in names if name not in bands]:
        raise ImageryError(
            f"no file for band {listed(missing)}: found {listed(bands)}{did_you_mean(missing[0], bands)}"
        )
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ImageryError(f"`bands` names {listed(twice)} twice: name each band once")
    return names


def _plane(file: _File, declared: tuple[float, float] | None, options: ImageryOptions) -> RasterPlane:
    """The plane of one band file.

    Raises:
        ImageryError: the file has several layers, or its offset is not known.
    """
    raster = RasterFile.open(file.path)
    if raster.layers != 1:
        raise ImageryError(f"{file.path} has {raster.layers} layers: expected the one of band {file.what}")
    declared = raster.scaling[0] or declared
    scale, offset = scaling(
        file.acquisition.date, options, declared=declared, dtype=raster.dtypes[0], name=str(file.path), sentinel2=True
    )
    nodata = (0.0,) if options.nodata is None else (0.0, options.nodata)
    return RasterPlane(raster, scale=scale, offset=offset, nodata=nodata)


def _declared_by_product(file: _File) -> tuple[float, float] | None:
    """Scale and offset by the metadata file of the product that a file belongs to; None if there is none beside or above it.

    Other products' files may lie in the same folder: it must name this one's moment.
    """
    moment = f"{file.acquisition.date:%Y%m%d}T{file.acquisition.time:%H%M%S}"
    for folder in file.path.resolve().parents[:5]:  # GRANULE/L2A_.../IMG_DATA/R10m is the deepest
        for path in sorted(folder.glob(METADATA)):
            with open(path, errors="replace") as source:
                text = source.read(LARGEST_METADATA)
            if moment not in text:
                continue
            scales = set(re.findall(r"<(?:BOA_)?QUANTIFICATION_VALUE[^>]*>\s*([\d.]+)\s*<", text))
            offsets = set(re.findall(r"<(?:BOA|RADIO)_ADD_OFFSET\b[^>]*>\s*(-?[\d.]+)\s*<", text))
            if len(scales) == 1 and len(offsets) <= 1:
                return float(scales.pop()), -float(offsets.pop()) if offsets else 0.0
    return None

"""What is known about sensors in advance: Sentinel-2's bands, and how digital numbers become reflectance."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Sequence

import numpy as np

from lianet_user.errors import ImageryError
from lianet_user.imagery.imagery import ImageryOptions

WAVELENGTHS_NM = {
    "B01": 442.7, "B02": 492.4, "B03": 559.8, "B04": 664.6, "B05": 704.1, "B06": 740.5, "B07": 782.8,
    "B08": 832.8, "B8A": 864.7, "B09": 945.1, "B10": 1373.5, "B11": 1613.7, "B12": 2202.4,
}  # fmt: skip
"""Central wavelengths of Sentinel-2A's bands."""

GSD_M = {
    "B01": 60.0, "B02": 10.0, "B03": 10.0, "B04": 10.0, "B05": 20.0, "B06": 20.0, "B07": 20.0,
    "B08": 10.0, "B8A": 20.0, "B09": 60.0, "B10": 60.0, "B11": 20.0, "B12": 20.0,
}  # fmt: skip
"""Ground sampling distances at which Sentinel-2 measures its bands. A product may deliver them at others."""

CIRRUS = "B10"
OFFSET_SINCE = dt.date(2022, 1, 25)
"""First day of processing baseline 04.00, which adds 1000 to every digital number."""


SCL = "SCL"
"""Sentinel-2's scene classification, the one mask whose values mean the same everywhere."""
SCL_CLEAR = (4, 5, 6, 7, 11)
"""Its values that show the ground: vegetation, bare, water, unclassified, snow."""


def canonical(name: str) -> str:
    """Sentinel-2's name of a band: B02 for B2, b2 and B02; any other name as it is."""
    match = re.fullmatch(r"B0?(\d|8A|1[0-2])", name.strip(), re.I)
    if match is None:
        return name
    number = match[1].upper()
    return f"B{number}" if number == "8A" or int(number) > 9 else f"B0{number}"


def band_index(band: str, names: Sequence[str]) -> int | None:
    """The index of a band among others: by its exact name, in any case, or as Sentinel-2 spells it. None if that is
    ambiguous."""
    for spelled in (str, str.casefold, canonical):
        matches = [index for index, name in enumerate(names) if spelled(name) == spelled(band)]
        if len(matches) == 1:
            return matches[0]
    return None


def band_name(requested: str, in_file: str) -> str:
    """The name of a requested band: the file's, unless the request spells it as Sentinel-2 does, which says what B2 is."""
    return requested if requested in WAVELENGTHS_NM else in_file


def wavelengths(names: Sequence[str]) -> tuple[float | None, ...]:
    """Central wavelengths (nm) of bands, if their names are certainly Sentinel-2's: all of them are, and one of them
    is no other sensor's. Landsat's B2 to B7 are other bands."""
    spelled = [canonical(name) for name in names]
    # Landsat counts B1 to B11; its harmonised products write B01 to B07 and B09 to B11.
    sure = set(spelled) <= set(WAVELENGTHS_NM) and ("B08" in names or not {"B8A", "B12"}.isdisjoint(spelled))
    return tuple(WAVELENGTHS_NM[name] if sure else None for name in spelled)


def declared_scaling(factor: float, summand: float, words: str) -> tuple[float, float] | None:
    """Scale and offset as in `Band`, from those by which a file multiplies and adds; None where it declares nothing.

    Raises:
        ImageryError: `factor` is not above 0, or one of them not finite; `words` say who declares what.
    """
    if (factor, summand) == (1.0, 0.0):
        return None
    if not (np.isfinite(factor) and np.isfinite(summand) and factor > 0):
        raise ImageryError(f"{words}: expected a scale above 0")
    # Decimal fractions have no exact binary ones: 1 / 0.0001 is 10000, and 0.1 / 0.0001 is 1000.
    return round(1.0 / factor, 9), round(-summand / factor, 9)


def scaling(
    date: dt.date,
    options: ImageryOptions,
    *,
    declared: tuple[float, float] | None,
    dtype: str,
    name: str,
    sentinel2: bool,
) -> tuple[float, float]:
    """Scale and offset of digital numbers, as in `Band`.

    Args:
        date: of acquisition.
        options: what the provider says of that date, or of all, comes first.
        declared: scale and offset by the file or its metadata.
        dtype: of the numbers, as numpy calls it.
        name: of the file, for messages.
        sentinel2: whether these are certainly Sentinel-2's numbers, whose offset came in 2022.

    Raises:
        ImageryError: an offset that has to be given, bytes without a scale, or a scale that is not above 0.
    """
    whole_numbers = np.dtype(dtype).kind != "f"
    unsaid = declared is None and options.offset is None and date not in options.offsets
    if sentinel2 and whole_numbers and unsaid and date >= OFFSET_SINCE:
        raise ImageryError(
            f"imagery of {date} ({name}) may have been processed with or without the offset that came on {OFFSET_SINCE}:"
            " give `offset` 1000 or `offset` 0"
        )
    offset = options.offsets.get(date, declared[1] if declared and options.offset is None else options.offset or 0.0)
    scale = options.scales.get(date, declared[0] if declared and options.scale is None else options.scale)
    if scale is None:
        if np.dtype(dtype).itemsize == 1:
            raise ImageryError(
                f"{name} holds bytes (0 to 255) and does not say which number is a reflectance of 1: give `scale`"
            )
        scale = 10_000.0 if whole_numbers else 1.0
    if not (scale > 0 and np.isfinite(scale) and np.isfinite(offset)):
        raise ImageryError(
            f"scale {scale:g} and offset {offset:g} of {date}: expected a scale above 0 and a finite offset"
        )
    return float(scale), float(offset)

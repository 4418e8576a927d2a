"""Spectral indices by name, from the list Awesome Spectral Indices in the library spyndex (the extra `indices`).

The list names bands by letters (R red, N near infrared, S1 and S2 short-wave infrared, ...) and gives each a range of
wavelengths. A letter stands for the region's band whose wavelength lies in that range, nearest to its middle; bands without a
wavelength are recognised by Sentinel-2's names or by those of colours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType

import numpy as np

from lianet_user.errors import InputError, did_you_mean, listed
from lianet_user.files.header import Band

USUAL_CONSTANTS = {("SAVI", "L"): 0.5}
"""Constants whose default in the list, one for all indices, is not the value that the index's authors use."""


@dataclass(frozen=True)
class SpectralIndex:
    """An index whose bands a region has."""

    name: str
    """Spelt as in the list, for instance NDVI."""
    title: str
    formula: str
    bands: tuple[tuple[str, int], ...]
    """Each letter of the formula, and the index of the region's band."""
    constants: tuple[tuple[str, float], ...]
    reference: str

    def of(self, reflectance: np.ndarray) -> np.ndarray:
        """Compute the index of reflectance (bands, height, width): float32 (height, width), NaN where it is undefined."""
        spyndex = _spyndex()
        inputs = {letter: reflectance[band].astype(np.float64) for letter, band in self.bands}
        with np.errstate(all="ignore"):
            values = np.asarray(spyndex.computeIndex(self.name, inputs | dict(self.constants)))
        return np.where(np.isfinite(values), values, np.nan).astype(np.float32)

    def tags(self, bands: Sequence[Band]) -> dict[str, str]:
        """What the values mean, as TIFF tags."""
        used = [f"{letter} = {bands[band].name}" for letter, band in self.bands]
        used += [f"{name} = {value:g}" for name, value in self.constants]
        return {
            "INDEX": f"{self.name}: {self.title}",
            "INDEX_FORMULA": f"{self.formula}, {', '.join(used)}",
            "INDEX_REFERENCE": self.reference,
        }


def spectral_index(text: str, bands: Sequence[Band]) -> SpectralIndex:
    """Look up an index by its name, with constants where they are given.

    Args:
        text: ``ndvi``, ``savi:L=0.5``.
        bands: of the region.

    Raises:
        InputError: spyndex is not installed, the index or a constant is unknown, or the region lacks a band of it.
    """
    spyndex = _spyndex()
    asked, _, settings = text.partition(":")
    names = {name.casefold(): name for name in spyndex.indices}
    name = names.get(asked.strip().casefold())
    if name is None:
        raise InputError(
            f"`indices` {asked}: no such spectral index is known (the list is at"
            f" https://github.com/awesome-spectral-indices){did_you_mean(asked, names.values())}"
        )
    entry = spyndex.indices[name]
    given = _constants(settings, name)
    letters = [each for each in entry.bands if each in spyndex.bands]
    others = [each for each in entry.bands if each not in spyndex.bands]
    constants = {}
    for each in others:
        if each not in spyndex.constants:
            raise InputError(
                f"`indices` {name} needs {each}, which is not measured in a band of reflectance: choose another"
            )
        default = USUAL_CONSTANTS.get((name, each), spyndex.constants[each].default)
        if each not in given and default is None:
            raise InputError(
                f"`indices` {name} needs {each}, for which there is no usual value: give {name}:{each}=VALUE"
            )
        constants[each] = given.pop(each) if each in given else float(default)
    if given:
        raise InputError(f"`indices` {name} has no constant {', '.join(given)}: it has {listed(others)}")
    held = {letter: _band_of(spyndex, letter, bands) for letter in letters}
    if missing := [letter for letter, band in held.items() if band is None]:
        raise InputError(
            f"`indices` {name} needs {listed([_spelt(spyndex, letter) for letter in missing])}, which the region lacks: it has"
            f" {listed([band.name for band in bands])}"
        )
    return SpectralIndex(
        name=name,
        title=entry.long_name,
        formula=entry.formula,
        bands=tuple((letter, band) for letter, band in held.items() if band is not None),
        constants=tuple(constants.items()),
        reference=entry.reference,
    )


def _constants(text: str, name: str) -> dict[str, float]:
    """Parse constants.

    Raises:
        InputError: they are not KEY=NUMBER, separated by commas.
    """
    constants = {}
    for part in filter(None, text.split(",")):
        key, _, value = part.partition("=")
        try:
            constants[key.strip()] = float(value)
        except ValueError:
            raise InputError(
                f"`indices` {name}:{text}: expected constants as KEY=NUMBER, for instance savi:L=0.5"
            ) from None
    return constants


def _band_of(spyndex: ModuleType, letter: str, bands: Sequence[Band]) -> int | None:
    entry = spyndex.bands[letter]
    low, high = entry.min_wavelength, entry.max_wavelength
    middle = (low + high) / 2
    known = {
        number: abs(band.wavelength_nm - middle)
        for number, band in enumerate(bands)
        if band.wavelength_nm is not None and low <= band.wavelength_nm <= high
    }
    if known:
        return min(known, key=lambda number: known[number])
    platform = getattr(entry, "sentinel2a", None)
    called = {entry.common_name, *([platform.band] if platform is not None else [])}
    unknown = ((number, band.name) for number, band in enumerate(bands) if band.wavelength_nm is None)
    return next((number for number, name in unknown if name.lower() in called or _short(name) in called), None)


def _short(name: str) -> str:
    """Sentinel-2's B02 as spyndex spells it: B2."""
    return f"B{name[1:].lstrip('0')}" if name[:1] in "Bb" else name


def _spelt(spyndex: ModuleType, letter: str) -> str:
    entry = spyndex.bands[letter]
    return f"{letter} ({entry.long_name.lower()}, {entry.min_wavelength:g} to {entry.max_wavelength:g} nm)"


def _spyndex() -> ModuleType:
    """Import the library.

    Raises:
        InputError: it is not installed.
    """
    try:
        import spyndex
    except ImportError as error:
        raise InputError(
            "`indices` needs the library spyndex, which is not installed: pip install 'lianet-user[indices]'"
        ) from error
    module: ModuleType = spyndex
    return module

"""How well a region reconstructs its imagery: compared tile by tile, each band at the resolution it was measured at.

A measured pixel is judged if all of it is valid, and every neighbourhood that SSIM compares is complete whichever tile it
lies in. The figures are therefore those of whole images, however these are cut into tiles, as long as the reconstruction
does not depend on the window it is computed in.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.metrics import structural_similarity

from lianet_user.errors import ImageryError, listed
from lianet_user.files.header import BandQuality, Quality
from lianet_user.geo.grid import Window, crs_name
from lianet_user.imagery.grids import block_all, block_mean, same_grid
from lianet_user.imagery.imagery import Imagery, Patch
from lianet_user.region import Region, psnr

SSIM_WINDOW = 7
"""Pixels along the side of the neighbourhoods that SSIM compares, at the band's own resolution."""

TILE = 256
MOST_PIXELS = 2**23
"""Acquisitions x height x width above which a sample of the tiles is judged."""

Listener = Callable[[int, int], None]
"""Called with the number of tiles that were judged, and the largest number that may be."""

ReadCopy = Callable[[int, Window], NDArray[np.float32]]
"""Gives the reflectance (bands, h, w) that is to be judged, of an acquisition of the imagery and a window of its grid."""


def measure_quality(
    region: Region,
    imagery: Imagery,
    *,
    acquisitions: Sequence[int] | None = None,
    tile: int = TILE,
    most_pixels: int = MOST_PIXELS,
    seed: int = 0,
    listener: Listener | None = None,
) -> tuple[Quality, ...]:
    """Compare a region's reconstruction with imagery of its dates.

    Args:
        region: on the imagery's grid, with its bands in the same order.
        imagery: some or all of the region's dates.
        acquisitions: indices of the imagery's; None judges all.
        tile: as in `compare`, like all further arguments.

    Returns:
        One for each acquisition, in the order asked for.

    Raises:
        ImageryError: another grid, other bands, a date that the region lacks, or a file that cannot be read.
    """
    indices = range(len(imagery.acquisitions)) if acquisitions is None else acquisitions
    require_match(region, imagery, indices)
    return compare(
        imagery,
        reconstructed(region, imagery),
        acquisitions=indices,
        tile=tile,
        most_pixels=most_pixels,
        seed=seed,
        listener=listener,
    )


def require_match(region: Region, imagery: Imagery, acquisitions: Sequence[int]) -> None:
    """Refuse imagery that does not match a region.

    Raises:
        ImageryError: the two differ in their grids, their bands, or one of the imagery's acquisitions.
    """
    if not same_grid(imagery.geobox, region.geobox):
        raise ImageryError(
            f"the imagery's grid ({_grid(imagery)}) is not that of the region {region.header.name!r} ({_grid(region)}): give"
            " imagery of the same pixels, or `grid` with the region file to resample onto them"
        )
    given, expected = [band.name for band in imagery.bands], [band.name for band in region.header.bands]
    if given != expected:
        raise ImageryError(
            f"the imagery has the bands {listed(given)}, the region {region.header.name!r} {listed(expected)}: choose the same"
            " in the same order with `bands`"
        )
    dates = region.header.dates
    lacking = [str(day) for index in acquisitions if (day := imagery.acquisitions[index].date) not in dates]
    if lacking:
        raise ImageryError(
            f"the region {region.header.name!r} does not hold {listed(lacking)} of the imagery: it holds"
            f" {listed([str(day) for day in dates], 6)}: give imagery of these dates only"
        )


def reconstructed(region: Region, imagery: Imagery) -> ReadCopy:
    """A reader of a region's reconstruction of the imagery's acquisitions."""
    return lambda index, window: region.reconstruct(window, imagery.acquisitions[index].date).cpu().numpy()


def compare(
    imagery: Imagery,
    read_copy: ReadCopy,
    *,
    acquisitions: Sequence[int],
    tile: int = TILE,
    most_pixels: int = MOST_PIXELS,
    seed: int = 0,
    listener: Listener | None = None,
) -> tuple[Quality, ...]:
    """Judge any copy of imagery by the same measures.

    Of more than `most_pixels` (acquisitions x height x width) about so many are judged: equally many tiles of every
    acquisition, drawn from the seed among those where anything is valid.

    Args:
        imagery: the truth.
        read_copy: gives the copy's reflectance.
        acquisitions: indices of those to judge.
        tile: pixels along the side of what is judged at once, rounded to whole pixels of every band.
        most_pixels: see above.
        seed: see above.
        listener: called after every tile.

    Raises:
        ImageryError: a file cannot be read.
    """
    step = math.lcm(*imagery.factors)
    tiles = list(imagery.window.tiles(max(1, tile // step) * step))
    count = len(tiles)
    if len(acquisitions) * imagery.window.pixels > most_pixels:
        count = max(1, most_pixels * len(tiles) // (len(acquisitions) * imagery.window.pixels))
    result, judged = [], 0
    for index in acquisitions:
        order = (
            range(len(tiles)) if count == len(tiles) else np.random.default_rng((seed, index)).permutation(len(tiles))
        )
        tally = _Tally(imagery)
        for number in order:
            if tally.tiles == count:
                break
            if tally.judge(index, tiles[number], read_copy) and listener:
                judged += 1
                listener(judged, count * len(acquisitions))
        result.append(tally.quality(index))
    return tuple(result)


def measured_pixels(patch: Patch, factors: Sequence[int]) -> Iterator[tuple[NDArray[np.float64], NDArray[np.bool_]]]:
    """Each band of a patch as it was measured: reflectance and validity (h // factor, w // factor).

    A coarse pixel is valid if all of it is; one that the patch's border cuts is left out.
    """
    for values, valid, factor in zip(patch.reflectance, patch.valid, factors, strict=True):
        whole = tuple(slice(size // factor * factor) for size in values.shape)
        yield block_mean(values[whole].astype(np.float64), factor), block_all(valid[whole], factor)


@dataclass
class _Sums:
    """Sums over the valid measured pixels of one band of one acquisition."""

    count: int = 0
    error: float = 0.0
    """Sum of the squared errors."""
    mean: float = 0.0
    """Mean of the truth."""
    squares: float = 0.0
    """Sum of the truth's squared deviations from its mean."""
    similar: float = 0.0
    neighbourhoods: int = 0

    def add(self, truth: NDArray[np.float64], guess: NDArray[np.float64]) -> None:
        """Merge moments (Chan, Golub and LeVeque 1983): no difference of large sums."""
        mean = float(truth.mean())
        before, self.count = self.count, self.count + truth.size
        step = mean - self.mean
        self.error += float(np.square(truth - guess).sum())
        self.squares += float(np.square(truth - mean).sum()) + step**2 * before * truth.size / self.count
        self.mean += step * truth.size / self.count

    def quality(self, band: str) -> BandQuality:
        if not self.count:
            return BandQuality(band=band, psnr_db=None, rmse=None, rmse_over_std=None, ssim=None)
        rmse = math.sqrt(self.error / self.count)
        deviation = math.sqrt(self.squares / self.count)
        return BandQuality(
            band=band,
            psnr_db=psnr(rmse**2),
            rmse=rmse,
            rmse_over_std=rmse / deviation if deviation else None,
            ssim=self.similar / self.neighbourhoods if self.neighbourhoods else None,
        )


@dataclass
class _Tally:
    """The figures of one acquisition, added up tile by tile."""

    imagery: Imagery
    tiles: int = 0
    bands: list[_Sums] = field(init=False)
    angle: float = 0.0
    """Sum over pixels, in radians."""
    pixels: int = 0

    def __post_init__(self) -> None:
        self.bands = [_Sums() for _ in self.imagery.bands]

    def judge(self, index: int, core: Window, read_copy: ReadCopy) -> bool:
        """Take a tile into account; False, at the price of a read, if nothing in it can be judged."""
        imagery, factors = self.imagery, self.imagery.factors
        # Whole pixels of every band, and for SSIM as many around the tile as a neighbourhood reaches.
        margin = SSIM_WINDOW // 2 * math.lcm(*factors)
        row, col = max(0, core.row - margin), max(0, core.col - margin)
        end, right = min(imagery.shape[0], core.row_end + margin), min(imagery.shape[1], core.col_end + margin)
        outer = Window(row, col, end - row, right - col)
        patch = imagery.read(index, outer)
        truth = list(measured_pixels(patch, factors))
        inner = [_coarse(core.within(outer), factor) for factor in factors]
        if not any(valid[part].any() for (_, valid), part in zip(truth, inner, strict=True)):
            return False
        copy = Patch(read_copy(index, outer), patch.valid)
        guess = [values for values, _ in measured_pixels(copy, factors)]
        for sums, (values, valid), guessed, part in zip(self.bands, truth, guess, inner, strict=True):
            if valid[part].any():
                sums.add(values[part][valid[part]], guessed[part][valid[part]])
                _add_similarity(sums, values, guessed, valid, part)
        where = core.within(outer)
        all_valid = np.logical_and.reduce(
            [_fine(valid, f, where) for (_, valid), f in zip(truth, factors, strict=True)]
        )
        if all_valid.any():
            spectra = [_fine(values, f, where)[all_valid] for (values, _), f in zip(truth, factors, strict=True)]
            copies = [_fine(values, f, where)[all_valid] for values, f in zip(guess, factors, strict=True)]
            self.angle += float(_angles(np.stack(spectra), np.stack(copies)).sum())
            self.pixels += int(all_valid.sum())
        self.tiles += 1
        return True

    def quality(self, index: int) -> Quality:
        height, width = self.imagery.shape
        sizes = [(height // factor) * (width // factor) for factor in self.imagery.factors]
        errors = [sums.error / sums.count for sums in self.bands if sums.count]
        return Quality(
            date=self.imagery.acquisitions[index].date,
            psnr_db=psnr(float(np.mean(errors))) if errors else None,
            bands=tuple(sums.quality(band.name) for sums, band in zip(self.bands, self.imagery.bands, strict=True)),
            spectral_angle_deg=math.degrees(self.angle / self.pixels) if self.pixels else None,
            judged=float(np.mean([s.count / max(1, size) for s, size in zip(self.bands, sizes, strict=True)])),
        )


def _add_similarity(
    sums: _Sums,
    truth: NDArray[np.float64],
    guess: NDArray[np.float64],
    valid: NDArray[np.bool_],
    part: tuple[slice, slice],
) -> None:
    if min(truth.shape) < SSIM_WINDOW:
        return
    # Past the image's border nothing is valid; past the border of what was read lies no neighbourhood of the tile.
    throughout = ndimage.minimum_filter(valid, SSIM_WINDOW, mode="constant", cval=0)[part]
    if throughout.any():
        _, similarity = structural_similarity(truth, guess, win_size=SSIM_WINDOW, data_range=1.0, full=True)
        sums.similar += float(similarity[part][throughout].sum())
        sums.neighbourhoods += int(throughout.sum())


def _angles(first: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.float64]:
    """Between spectra (bands, n), in radians: exact for small ones too (Kahan 2006), which an arc cosine is not."""
    one, other = (values / np.maximum(np.linalg.norm(values, axis=0), 1e-12) for values in (first, second))
    angles: NDArray[np.float64] = 2 * np.arctan2(
        np.linalg.norm(one - other, axis=0), np.linalg.norm(one + other, axis=0)
    )
    return angles


def _coarse(window: Window, factor: int) -> tuple[slice, slice]:
    """The pixels `factor` times as large that lie in a window which begins with one."""
    return (
        slice(window.row // factor, window.row_end // factor),
        slice(window.col // factor, window.col_end // factor),
    )


def _fine(values: NDArray[np.generic], factor: int, window: Window) -> NDArray[np.generic]:
    """Coarse pixels repeated over a window of the grid; False or 0 past the last whole one."""
    fine = np.zeros((window.row_end, window.col_end), values.dtype)
    repeated = values.repeat(factor, 0).repeat(factor, 1)[: window.row_end, : window.col_end]
    fine[: repeated.shape[0], : repeated.shape[1]] = repeated
    return fine[window.slices]


def _grid(of: Region | Imagery) -> str:
    (height, width), crs = of.shape, of.geobox.crs
    left, top = of.geobox.boundingbox.left, of.geobox.boundingbox.top
    name = crs_name(crs) if crs else "no CRS"
    return f"{width} x {height} px of {abs(of.geobox.resolution.x):g} from {left:.10g},{top:.10g}, {name}"

"""What files say by their names: dates, and which of a folder's files are rasters."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from lianet_user.errors import ImageryError
from lianet_user.files.header import Acquisition
from lianet_user.imagery.options import ImageryOptions

RASTER_SUFFIXES = {".tif", ".tiff", ".jp2", ".vrt", ".img"}

MOMENT = re.compile(
    r"(?<!\d)(?P<year>(?:19|20)\d\d)(?P<dash>[-_.]?)(?P<month>\d\d)(?P=dash)(?P<day>\d\d)"
    r"(?:T?(?P<hour>\d\d)[-:]?(?P<minute>\d\d)[-:]?(?P<second>\d\d)Z?)?(?!\d)",
    re.I,
)


def files_in(path: Path) -> Iterator[Path]:
    """A file, or those of a folder and of the folders in it, in order; hidden ones are passed over.

    Raises:
        ImageryError: it does not exist.
    """
    if not path.exists():
        raise ImageryError(f"{path} does not exist: expected imagery, a file or a folder of files")
    if not path.is_dir():
        yield path
        return
    for entry in sorted(path.iterdir()):
        if not entry.name.startswith("."):
            yield from files_in(entry)


def rasters_in(path: Path) -> list[Path]:
    """A file, or the rasters of a folder and of the folders in it, by their suffixes."""
    return [file for file in files_in(path) if file == path or file.suffix.lower() in RASTER_SUFFIXES]


def moment_in(path: Path) -> Acquisition | None:
    """The date in a file's name, with the time of day if there is exactly one; None if there is none.

    Raises:
        ImageryError: the name holds several dates.
    """
    return _moment(path, path.stem)


def moment_of(path: Path) -> Acquisition | None:
    """The date in a file's name as in `moment_in`, or else in that of the folder it lies in.

    Raises:
        ImageryError: the name holds several dates.
    """
    folder = path.absolute().parent
    return moment_in(path) or _moment(folder, folder.name)


def _moment(path: Path, text: str) -> Acquisition | None:
    found = list(dict.fromkeys(_moments(text)))
    dates = list(dict.fromkeys(date for date, _ in found))
    if len(dates) > 1:
        raise ImageryError(
            f"{path} has several dates in its name ({', '.join(map(str, dates))}): rename it after one, or give --dates"
        )
    times = {time for _, time in found if time is not None}
    return Acquisition(date=dates[0], time=times.pop() if len(times) == 1 else None) if dates else None


def _moments(text: str) -> Iterator[tuple[dt.date, dt.time | None]]:
    for match in MOMENT.finditer(text):
        try:
            date = dt.date(int(match["year"]), int(match["month"]), int(match["day"]))
        except ValueError:
            continue  # eight digits that are no date
        try:
            yield (
                date,
                dt.time(int(match["hour"]), int(match["minute"]), int(match["second"])) if match["hour"] else None,
            )
        except ValueError:
            yield date, None


def wanted(acquisition: Acquisition, options: ImageryOptions) -> bool:
    """Whether an acquisition lies between `since` and `until`."""
    date = acquisition.date
    return (options.since is None or date >= options.since) and (options.until is None or date <= options.until)


def none_left(acquisitions: Sequence[Acquisition], options: ImageryOptions) -> ImageryError:
    """No acquisition lies between `since` and `until`."""
    dates = sorted(held.date for held in acquisitions)
    bounds = [f"{name} {bound}" for name, bound in (("--since", options.since), ("--until", options.until)) if bound]
    return ImageryError(
        f"none of {len(dates)} dates ({dates[0]} to {dates[-1]}) is left by {' and '.join(bounds)}: choose others"
    )

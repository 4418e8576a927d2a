"""The typed headers of region and head files. No torch here."""

from __future__ import annotations

import datetime as dt
import json
import math
import re
from collections.abc import Sequence
from typing import Annotated, Any, Final, Literal, Self

import numpy as np
import pyproj
from affine import Affine
from odc.geo.geobox import GeoBox
from pydantic import Field, TypeAdapter, model_validator
from pyproj.exceptions import CRSError

from lianet_user.errors import DateError
from lianet_user.field.config import FieldConfig, HeadConfig, Schema, Words, days_since_epoch
from lianet_user.geo.grid import horizontal

FORMAT_VERSION: Final = 1
IGNORE = 255
"""The value of a pixel that bears no class, in label maps and in class maps: 0 is a class, never nothing."""

Name = Annotated[Words, Field(min_length=1, max_length=128)]
Text = Annotated[Words, Field(max_length=20_000)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Date = Annotated[dt.date, Field(strict=False)]
Count = Annotated[int, Field(ge=0)]
Setting = bool | int | float | Text | None


def parse_date(text: str, argument: str = "`date`") -> dt.date:
    """Read a date.

    Args:
        text: ``YYYY-MM-DD``.
        argument: that it was given for, as the message names it.

    Raises:
        DateError: not a date.
    """
    try:
        return dt.date.fromisoformat(text)
    except ValueError as error:
        raise DateError(f"{argument} {text!r} is not a date: expected YYYY-MM-DD, for instance 2017-02-16") from error


class GridHeader(Schema):
    """Where the pixels lie."""

    crs_wkt: Annotated[Words, Field(min_length=1, max_length=20_000)]
    transform: Annotated[tuple[float, float, float, float, float, float], Field(strict=False)]
    """The affine a, b, c, d, e, f: x = a * col + b * row + c, y = d * col + e * row + f."""
    width: Annotated[int, Field(ge=1, le=2**24)]
    height: Annotated[int, Field(ge=1, le=2**24)]

    @model_validator(mode="after")
    def _is_somewhere(self) -> Self:
        if Affine(*self.transform).is_degenerate:
            raise ValueError("transform cannot be inverted")
        try:
            # Strictly WKT: PROJ's own spelling can name files and servers to read.
            pyproj.CRS.from_wkt(self.crs_wkt)
            crs = horizontal(self.crs_wkt)
        except CRSError as error:
            raise ValueError(f"crs_wkt is not a coordinate reference system of places on a map: {error}") from error
        corners = [Affine(*self.transform) @ (col, row) for col in (0, self.width) for row in (0, self.height)]
        x, y = ([corner[axis] for corner in corners] for axis in (0, 1))
        lonlat = pyproj.Transformer.from_crs(crs.proj, 4326, always_xy=True).transform(x, y)
        if not all(math.isfinite(value) for axis in lonlat for value in axis):
            raise ValueError("the grid's corners lie nowhere on Earth")
        try:
            resolution = self.geobox.resolution
        # Pixels so oblique that they have none; LinAlgError is a ValueError.
        except (ArithmeticError, ValueError) as error:
            raise ValueError("transform makes no pixels") from error
        if not all(math.isfinite(side) and side for side in (resolution.x, resolution.y)):
            raise ValueError("transform makes no pixels")
        return self

    @classmethod
    def of(cls, geobox: GeoBox) -> Self:
        height, width = geobox.shape
        crs = geobox.crs
        assert crs is not None
        transform = tuple(float(value) for value in tuple(geobox.affine)[:6])
        return cls(crs_wkt=crs.to_wkt(), transform=transform, width=width, height=height)  # type: ignore[arg-type]

    @property
    def geobox(self) -> GeoBox:
        return GeoBox((self.height, self.width), Affine(*self.transform), horizontal(self.crs_wkt))


class Band(Schema):
    """One band of the imagery: reflectance = (digital number - offset) / scale."""

    name: Name
    wavelength_nm: float | None = None
    gsd_m: Annotated[float, Field(gt=0)]
    """Ground sampling distance at which the band was measured."""
    offset: float = 0.0
    scale: Annotated[float, Field(gt=0)] = 10_000.0


class Acquisition(Schema):
    """One date the region holds."""

    date: Date
    time: Annotated[dt.time, Field(strict=False)] | None = None
    """Time of day in UTC, where it is known."""
    id: Text = ""

    @model_validator(mode="after")
    def _is_utc(self) -> Self:
        if self.time is not None and self.time.tzinfo is not None:
            raise ValueError("time is in UTC and names no time zone")
        return self

    @property
    def days(self) -> float:
        """Since the epoch of continuous times; from midnight on where the time of day is not known."""
        return days_since_epoch(dt.datetime.combine(self.date, self.time or dt.time()))


def acquisition_of(value: object) -> object:
    """The fields of an :class:`Acquisition`, from `2018-02-16`, `2018-02-16T10:20:21`, `20180216T102021` or a date of TOML."""
    if isinstance(value, str):
        try:
            value = dt.date.fromisoformat(value)
        except ValueError:
            try:
                value = dt.datetime.fromisoformat(str(value))
            except ValueError:
                raise ValueError(
                    f"{value!r} is not a date: expected YYYY-MM-DD or YYYY-MM-DDTHH:MM:SS in UTC"
                ) from None
    if isinstance(value, dt.datetime):
        moment = value if value.tzinfo is None else value.astimezone(dt.UTC)
        return {"date": moment.date(), "time": moment.time()}
    return {"date": value} if isinstance(value, dt.date) else value


class BandQuality(Schema):
    """How well one band of one acquisition is reconstructed: valid pixels at the band's own resolution.

    Figures are None where there was nothing to compare: the acquisition lacks the band, or it is valid nowhere.
    """

    band: Name
    psnr_db: float | None
    """Peak = reflectance 1.0."""
    rmse: float | None
    """In reflectance."""
    rmse_over_std: float | None
    """Deviation of the truth over the same pixels; None also where that is 0."""
    ssim: float | None
    """Over neighbourhoods of 7 x 7 pixels that are valid throughout; None also where there are none."""


class Quality(Schema):
    """Fidelity of one acquisition."""

    date: Date
    psnr_db: float | None
    """From the mean over the bands of their mean squared errors; None where no band could be judged."""
    bands: tuple[BandQuality, ...] = Field(strict=False)
    spectral_angle_deg: float | None = None
    """Mean over the grid's pixels in which every band is valid, coarser bands repeated."""
    judged: float | None = None
    """Share, as a mean over the bands, of the pixels that were judged: valid, and drawn where a sample was."""


class Provenance(Schema):
    """How a file came to be."""

    created: Annotated[dt.datetime, Field(strict=False)]
    source: Text
    """The imagery or labels, in words or product identifiers."""
    settings: dict[Name, Setting]
    software: dict[Name, Name]
    seconds: float | None = None


class RegionHeader(Schema):
    """The header of a region file: a field tied to the Earth."""

    format: Literal["lianet-region"] = "lianet-region"
    format_version: Literal[1] = FORMAT_VERSION
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    title: Text
    description: Text = ""
    grid: GridHeader
    bands: tuple[Band, ...] = Field(strict=False, min_length=1)
    acquisitions: tuple[Acquisition, ...] = Field(strict=False, min_length=1)
    field: FieldConfig
    quality: tuple[Quality, ...] = Field(strict=False, default=())
    licence: Text
    attribution: Text
    provenance: Provenance
    lineage: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
    """Drawn when a region is first encoded; an update keeps it."""
    parents: tuple[Sha256, ...] = Field(strict=False, default=())
    """SHA-256 of the files that an updated region was before, the oldest first."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.field.bands != len(self.bands):
            raise ValueError(f"field has {self.field.bands} bands, header names {len(self.bands)}")
        time = self.field.time
        if time.kind in ("index", "kriged") and time.count != len(self.acquisitions):
            raise ValueError(f"field has {time.count} dates, header names {len(self.acquisitions)}")
        if time.kind == "kriged" and time.days != tuple(held.days for held in self.acquisitions):
            raise ValueError("field and header do not agree on when the acquisitions were taken")
        for what, names in (("date", self.dates), ("band", [band.name for band in self.bands])):
            if len(set(names)) != len(names):
                raise ValueError(f"a {what} appears twice")
        own = tuple(band.name for band in self.bands)
        for measured in self.quality:
            if measured.date not in self.dates or tuple(each.band for each in measured.bands) != own:
                raise ValueError(f"quality of {measured.date} is not that of an acquisition and its bands")
        if len({measured.date for measured in self.quality}) < len(self.quality):
            raise ValueError("a date's quality appears twice")
        rows, cols = self.field.encoding.shape
        stride = self.field.decoder.stride
        if not (0 <= rows - self.grid.height < stride and 0 <= cols - self.grid.width < stride):
            raise ValueError(f"field encodes {rows} x {cols} px, grid is {self.grid.height} x {self.grid.width} px")
        return self

    @property
    def dates(self) -> tuple[dt.date, ...]:
        return tuple(acquisition.date for acquisition in self.acquisitions)

    def time_of(self, date: dt.date | None, *, between: bool = False, beyond: bool = False) -> int | float:
        """What the field's time encoding reads for a date: an acquisition's index (int), or days since the epoch (float).

        Args:
            date: as in `date_index`.
            between: let the field estimate dates between its acquisitions, which a continuous time can.
            beyond: with `between`, before the first and after the last too.

        Raises:
            DateError: as in `date_index`; with `between`, a date before the first acquisition or after the last, or a field
                that knows its acquisitions by number only.
        """
        if not between or date is None or date in self.dates:
            index = self.date_index(date)
            return index if self.field.time.kind == "index" else self.acquisitions[index].days
        if self.field.time.kind == "index":
            raise DateError(f"region {self.name!r} knows its {len(self.dates)} dates only, and {date} is none of them")
        if not beyond and not min(self.dates) <= date <= max(self.dates):
            raise DateError(
                f"region {self.name!r} holds {min(self.dates)} to {max(self.dates)}, and {date} does not lie between"
            )
        nearest = min(self.acquisitions, key=lambda held: abs(held.date - date))
        return Acquisition(date=date, time=nearest.time).days

    def date_index(self, date: dt.date | None) -> int:
        """Index of the acquisition of a date; with None, of the only one there is.

        Raises:
            DateError: the region does not hold that date, or holds several and none was given.
        """
        if date is None:
            if len(self.acquisitions) == 1:
                return 0
            raise DateError(
                f"region {self.name!r} holds {len(self.dates)} dates ({self.dates[0]} to {self.dates[-1]})"
                " and none was chosen: give one with `date`"
            )
        if date in self.dates:
            return self.dates.index(date)
        nearest = sorted(self.dates, key=lambda held: abs(held - date))[:3]
        raise DateError(
            f"region {self.name!r} does not hold {date}: the nearest dates it holds are"
            f" {', '.join(map(str, sorted(nearest)))}"
        )


class ClassEntry(Schema):
    """One class of a segmentation: its value in maps is its index in the head's list."""

    name: Name
    color: Annotated[str, Field(pattern=r"^#[0-9a-f]{6}$")]
    code: Annotated[Words, Field(max_length=128)] = ""
    """What the labels call it, where that is not its name."""


class RegionRef(Schema):
    """The region a head belongs to: the one file whose bytes have this hash."""

    name: Name
    lineage: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
    sha256: Sha256
    path: Annotated[Words, Field(max_length=4096)]
    """Absolute path of the file when the head was trained."""


Places = Annotated[float, Field(gt=0)] | None
"""How many independent places, as large as each other, would tell as much as the pixels do; None where nobody counted."""


class ClassScore(Schema):
    """Figures of one class; None where there is nothing to divide by."""

    name: Name
    pixels: Count
    """Pixels of the reference."""
    iou: float | None
    accuracy: float | None
    """Share of the class's reference pixels that were found (recall, producer's accuracy)."""
    f1: float | None
    precision: float | None = None
    """Share of the pixels mapped as the class that are of it (user's accuracy)."""
    places: Places = None


class Scores(Schema):
    """Figures of a segmentation. Macro figures are means over the classes that have reference pixels."""

    pixels: Count
    accuracy: float | None
    """Share of all pixels that are right: with one class a pixel also micro F1, precision and recall."""
    macro_iou: float | None
    macro_f1: float | None
    macro_precision: float | None = None
    macro_recall: float | None = None
    micro_iou: float | None = None
    classes: tuple[ClassScore, ...] = Field(strict=False)
    confusion: tuple[tuple[Count, ...], ...] = Field(strict=False)
    """Rows reference, columns predicted."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if len(self.confusion) != len(self.classes) or {len(row) for row in self.confusion} != {len(self.classes)}:
            raise ValueError(f"the confusion of {len(self.classes)} classes is no square of their counts")
        return self


class NumberScores(Schema):
    """Figures of numbers, in the unit of the labels; None where there is nothing to divide by."""

    pixels: Count
    mae: float | None
    mse: float | None
    rmse: float | None
    r2: float | None
    """Share of the reference's variance that is explained; None also where it has none."""
    bias: float | None
    """Mean of predicted minus reference."""
    places: Places = None
    median_mae: float | None = None
    """The mae of answering the median of the training labels everywhere."""


AnyScores = Scores | NumberScores


def scores_from_json(values: object) -> AnyScores:
    """The scores whose `model_dump(mode="json")` is given."""
    either: TypeAdapter[AnyScores] = TypeAdapter(AnyScores)
    return either.validate_json(json.dumps(values))


class DatedScores(Schema):
    """Figures at one acquisition."""

    date: Date
    scores: AnyScores


class Numbers(Schema):
    """What a head's answers mean where they are numbers: value = offset + scale * answer."""

    unit: Annotated[Words, Field(max_length=32)] = ""
    offset: float = 0.0
    scale: Annotated[float, Field(gt=0)] = 1.0
    low: float
    """Lowest and highest number of the labels that were trained on: the range that a picture spans."""
    high: float

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.low > self.high:
            raise ValueError(f"the lowest label, {self.low:g}, is above the highest, {self.high:g}")
        return self


class HeadHeader(Schema):
    """The header of a head file: layers and pixel models tied to one region."""

    format: Literal["lianet-head"] = "lianet-head"
    format_version: Literal[1] = FORMAT_VERSION
    task: Literal["segmentation", "regression", "coverage"]
    """Classes, numbers, or the share of a pixel that is covered."""
    classes: tuple[ClassEntry, ...] = Field(strict=False, max_length=254, default=())
    """None for numbers."""
    numbers: Numbers | None = None
    """None for classes."""
    head: HeadConfig
    region: RegionRef
    dates: tuple[Date, ...] = Field(strict=False, min_length=1)
    """Acquisitions the labels described."""
    scores: AnyScores | None
    """On the ground that was kept for validation, over all dates."""
    scores_by_date: tuple[DatedScores, ...] = Field(strict=False, default=())
    """Scores of each date, where there are several."""
    scores_of_mean: AnyScores | None = None
    """Scores of the answers averaged over the dates, where labels describe several: those of one map for all dates."""
    test_scores: AnyScores | None = None
    """In the area that was set aside as a test area, where nothing was trained or chosen on."""
    provenance: Provenance
    attribution: Text
    """Credit for the region and for the labels."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.task == "segmentation":
            if len(self.classes) < 2 or self.numbers is not None:
                raise ValueError("a segmentation has two classes or more, and no numbers")
            if self.head.outputs != len(self.classes):
                raise ValueError(f"head has {self.head.outputs} outputs, header names {len(self.classes)} classes")
            if self.head.output != "logits":
                raise ValueError("a segmentation's head answers with logits")
            if len({entry.name for entry in self.classes}) < len(self.classes):
                raise ValueError("two classes have the same name")
        else:
            if self.classes or self.numbers is None:
                raise ValueError(f"a {self.task} has no classes, and says what its numbers mean")
            if self.head.output == "logits" or self.head.outputs != 1:
                raise ValueError(f"a {self.task}'s head answers with one number")
        names = [entry.name for entry in self.classes]
        for scores in (
            self.scores,
            *(each.scores for each in self.scores_by_date),
            self.scores_of_mean,
            self.test_scores,
        ):
            if scores is not None and isinstance(scores, Scores) != bool(self.classes):
                raise ValueError(f"its figures are not those of a {self.task}")
            if isinstance(scores, Scores) and [each.name for each in scores.classes] != names:
                raise ValueError("its figures are of other classes than the head's")
        if not {each.date for each in self.scores_by_date} <= set(self.dates):
            raise ValueError("it has figures at a date that its labels did not describe")
        return self


Header = RegionHeader | HeadHeader


# --- Classes in the CF conventions: attributes that xarray, Panoply and others read.

_NOT_IN_A_WORD = re.compile(r"[^\w.+@-]+")


def class_flags(classes: Sequence[ClassEntry]) -> dict[str, Any]:
    """The attributes of an array whose values are indices of classes.

    `flag_meanings` is one text in which blanks part the meanings (CF 3.5), so a name becomes a word, and of names that
    become the same word each later one ends with its value. `flag_colors` are their colours, separated in the same way.
    """
    words: list[str] = []
    for value, entry in enumerate(classes):
        word = _NOT_IN_A_WORD.sub("_", entry.name).strip("_") or "class"
        words.append(f"{word}_{value}" if word in words else word)
    return {
        "flag_values": np.arange(len(classes), dtype=np.uint8),
        "flag_meanings": " ".join(words),
        "flag_colors": " ".join(entry.color for entry in classes),
    }

"""What region and head files say of themselves: the typed headers. No torch here."""

from __future__ import annotations

import datetime as dt
from typing import Annotated, Final, Literal, Self

from affine import Affine
from odc.geo.crs import CRS
from odc.geo.geobox import GeoBox
from pydantic import Field, model_validator
from pyproj.exceptions import CRSError

from lianet_user.errors import DateError
from lianet_user.field.config import FieldConfig, HeadConfig, Schema

FORMAT_VERSION: Final = 1
IGNORE = 255
"""The value of a pixel that bears no class, in label maps and in class maps: 0 is a class, never nothing."""

Name = Annotated[str, Field(min_length=1, max_length=128)]
Text = Annotated[str, Field(max_length=20_000)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Date = Annotated[dt.date, Field(strict=False)]
Setting = bool | int | float | str | None


class GridHeader(Schema):
    """Where the pixels lie."""

    crs_wkt: Annotated[str, Field(min_length=1, max_length=20_000)]
    transform: Annotated[tuple[float, float, float, float, float, float], Field(strict=False)]
    """The affine a, b, c, d, e, f: x = a * col + b * row + c, y = d * col + e * row + f."""
    width: Annotated[int, Field(ge=1, le=2**24)]
    height: Annotated[int, Field(ge=1, le=2**24)]

    @model_validator(mode="after")
    def _is_somewhere(self) -> Self:
        if Affine(*self.transform).is_degenerate:
            raise ValueError("transform cannot be inverted")
        try:
            CRS(self.crs_wkt)
        except CRSError as error:
            raise ValueError("crs_wkt is no coordinate reference system") from error
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
        return GeoBox((self.height, self.width), Affine(*self.transform), self.crs_wkt)


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
    id: Text = ""


class BandQuality(Schema):
    """How well one band of one acquisition is remembered: valid pixels at the band's own resolution."""

    band: Name
    psnr_db: float
    """Peak = reflectance 1.0."""
    rmse: float
    """In reflectance."""
    rmse_over_std: float
    ssim: float


class Quality(Schema):
    """Fidelity of one acquisition."""

    date: Date
    psnr_db: float
    """From the mean over the bands of their mean squared errors."""
    bands: tuple[BandQuality, ...] = Field(strict=False)


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

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.field.bands != len(self.bands):
            raise ValueError(f"field has {self.field.bands} bands, header names {len(self.bands)}")
        if self.field.time.count != len(self.acquisitions):
            raise ValueError(f"field has {self.field.time.count} dates, header names {len(self.acquisitions)}")
        for what, names in (("date", self.dates), ("band", [band.name for band in self.bands])):
            if len(set(names)) != len(names):
                raise ValueError(f"a {what} appears twice")
        rows, cols = self.field.encoding.shape
        stride = self.field.decoder.stride
        if not (0 <= rows - self.grid.height < stride and 0 <= cols - self.grid.width < stride):
            raise ValueError(f"field encodes {rows} x {cols} px, grid is {self.grid.height} x {self.grid.width} px")
        return self

    @property
    def dates(self) -> tuple[dt.date, ...]:
        return tuple(acquisition.date for acquisition in self.acquisitions)

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
                " and none was chosen: give one with --date"
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
    code: Annotated[str, Field(max_length=128)] = ""
    """What the labels called it, where that is not its name."""


class RegionRef(Schema):
    """The region a head belongs to: the one file whose bytes have this hash."""

    name: Name
    lineage: str
    sha256: Sha256
    path: Annotated[str, Field(max_length=4096)]
    """Where it lay when the head was trained: absolute."""


class ClassScore(Schema):
    """Validation figures of one class; None where the class has no validation pixels."""

    name: Name
    pixels: int
    iou: float | None
    accuracy: float | None
    """Share of the class's reference pixels that were found (recall, producer's accuracy)."""
    f1: float | None


class Scores(Schema):
    """Validation figures over blocks that were not trained on."""

    pixels: int
    accuracy: float | None
    macro_iou: float | None
    macro_f1: float | None
    classes: tuple[ClassScore, ...] = Field(strict=False)
    confusion: tuple[tuple[int, ...], ...] = Field(strict=False)
    """Rows reference, columns predicted."""


class HeadHeader(Schema):
    """The header of a head file: six layers tied to one region."""

    format: Literal["lianet-head"] = "lianet-head"
    format_version: Literal[1] = FORMAT_VERSION
    task: Literal["segmentation"]
    classes: tuple[ClassEntry, ...] = Field(strict=False, min_length=2, max_length=254)
    head: HeadConfig
    region: RegionRef
    dates: tuple[Date, ...] = Field(strict=False, min_length=1)
    """Acquisitions the labels described."""
    scores: Scores | None
    provenance: Provenance
    attribution: Text
    """Of the region and of the labels."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.head.outputs != len(self.classes):
            raise ValueError(f"head has {self.head.outputs} outputs, header names {len(self.classes)} classes")
        if len({entry.name for entry in self.classes}) < len(self.classes):
            raise ValueError("two classes have the same name")
        return self


Header = RegionHeader | HeadHeader

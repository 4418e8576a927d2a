"""What a checkpoint does not say and its provider has to: where its pixels lie, its dates and bands, its conventions."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from affine import Affine
from odc.geo.geobox import GeoBox
from pydantic import BeforeValidator, Field, ValidationError, field_validator, model_validator
from pyproj.exceptions import CRSError

from lianet_user.errors import InputError
from lianet_user.field.config import Schema
from lianet_user.files.container import read_toml
from lianet_user.files.header import Acquisition, Band, Text, acquisition_of
from lianet_user.geo.grid import horizontal
from lianet_user.imagery.sensors import GSD_M, WAVELENGTHS_NM


def _band(value: object) -> object:
    """Look up a Sentinel-2 band by its name; other bands are tables with `name` and `gsd_m`."""
    if not isinstance(value, str):
        return value
    if value not in GSD_M:
        raise ValueError(
            f"{value!r} is not a band of Sentinel-2 (B01 to B12, B8A): write it as a table with name and gsd_m"
        )
    return {"name": value, "wavelength_nm": WAVELENGTHS_NM[value], "gsd_m": GSD_M[value]}


def _pair(value: object) -> object:
    return (value, value) if isinstance(value, int | float) else value


class About(Schema):
    """A region as its provider describes it. What has no default has to be given."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    title: Text = ""
    description: Text = ""
    licence: Annotated[Text, Field(min_length=1)]
    attribution: Annotated[Text, Field(min_length=1)]
    source: Text = ""
    """The imagery, in words or product identifiers."""
    crs: str
    origin: Annotated[tuple[float, float], Field(strict=False)]
    """x and y of the upper-left corner of the field's first pixel."""
    pixel_size: Annotated[
        tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]], BeforeValidator(_pair), Field(strict=False)
    ]
    """Width and height of a pixel, in units of the CRS."""
    width: Annotated[int, Field(ge=1, le=2**24)]
    height: Annotated[int, Field(ge=1, le=2**24)]
    dates: tuple[Annotated[Acquisition, BeforeValidator(acquisition_of)], ...] = Field(strict=False, min_length=1)
    """In the order of the checkpoint's numbers; with a continuous time, to the second."""
    bands: tuple[Annotated[Band, BeforeValidator(_band)], ...] = Field(strict=False, min_length=1)
    """In the order of the checkpoint's outputs."""
    offset: float
    """Subtracted from the digital numbers before the field learned them."""
    scale: Annotated[float, Field(gt=0)] = 10_000.0
    """Digital numbers per reflectance 1.0."""
    pixel_origin: Literal["center", "corner"]
    """Where in a pixel the release that wrote the checkpoint evaluates the field."""
    extent: Annotated[int, Field(ge=1, le=2**24)] | None = None
    """Pixels the grid's cells span (`complete_tile_size`, `mosaic_width`); needed where the checkpoint does not say."""
    interpolation: Literal["bilinear", "mean"] | None = None
    """How the four nodes around a point are weighted; needed where the checkpoint does not say."""
    region_index: Annotated[int, Field(ge=0)] | None = None
    """Which of several regions' tables to take; needed where there are several."""

    @field_validator("crs")
    @classmethod
    def _is_a_crs(cls, value: str) -> str:
        try:
            horizontal(value)
        except CRSError as error:
            raise ValueError(f"{error}: expected one of places on a map, for instance EPSG:32632") from None
        return value

    @model_validator(mode="after")
    def _names_each_once(self) -> Self:
        for what, names in (
            ("date", [str(held.date) for held in self.dates]),
            ("band", [band.name for band in self.bands]),
        ):
            if twice := [name for name in names if names.count(name) > 1]:
                raise ValueError(f"{what} {twice[0]} appears twice")
        return self

    @property
    def geobox(self) -> GeoBox:
        (x, y), (across, down) = self.origin, self.pixel_size
        return GeoBox((self.height, self.width), Affine(across, 0.0, x, 0.0, -down, y), horizontal(self.crs))

    @property
    def scaled_bands(self) -> tuple[Band, ...]:
        """The bands, with the region's offset and scale where they have none of their own."""
        common = {"offset": self.offset, "scale": self.scale}
        return tuple(
            band.model_copy(update={key: value for key, value in common.items() if key not in band.model_fields_set})
            for band in self.bands
        )


def read_about(path: Path | None = None, *, fallback_name: str | None = None, **given: Any) -> About:
    """Read a TOML file with the fields of :class:`About`; fields given as arguments (not None) take precedence.

    Args:
        path: of the file, if there is one.
        fallback_name: the region's name where neither the file nor the arguments say it.
        given: fields of :class:`About`.

    Raises:
        InputError: the file cannot be read, or something is missing, unknown or wrong.
    """
    document = {} if path is None else read_toml(path)
    document |= {key: value for key, value in given.items() if value is not None}
    if fallback_name is not None:
        document.setdefault("name", fallback_name)
    try:
        return About.model_validate(document)
    except ValidationError as error:
        problems = error.errors()
        if missing := [
            f"`{each['loc'][0]}`" for each in problems if each["type"] == "missing" and len(each["loc"]) == 1
        ]:
            hint = " (pixel_origin is center for checkpoints of release v1.0.1, corner for those of v1.1.0 and later)"
            raise InputError(
                f"{', '.join(missing)} missing: the checkpoint does not say, so give it, or a TOML file that says it,"
                f" `about`{hint if '`pixel_origin`' in missing else ''}"
            ) from error
        first = problems[0]
        field, *inside = map(str, first["loc"] or ("",))
        if given.get(field) is not None:
            name = ".".join((f"`{field}`", *inside))
        else:
            name = ": ".join(filter(None, (str(path or ""), ".".join((field, *inside))))) or "the description"
        raise InputError(f"{name} cannot be used: {first['msg'].removeprefix('Value error, ')}") from error

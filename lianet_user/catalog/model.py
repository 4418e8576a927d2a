"""What a catalogue says of one model: the place and dates it is valid for, whose it is, and where its file lies.

A catalogue is a STAC one, and a model is an Item of it. Items may come from anywhere: they are read by a schema of exactly
what is used, with bounds on everything, and what they claim of the file is believed only once the file has proved it.

A place is a text: the absolute path of a local file, an `https://` address, or `hf://owner/repository/file` on the Hugging
Face Hub. A local catalogue names files beneath its own folder, or remote ones; a remote one names remote ones only. `http://`
is for this machine alone (`localhost`), and no `https://` address may lead to it.
"""

from __future__ import annotations

import datetime as dt
import ipaddress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, Self
from urllib.parse import urljoin, urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from lianet_user.errors import CatalogError, brief, printable
from lianet_user.field.config import Schema
from lianet_user.files.header import Date, RegionHeader, Sha256
from lianet_user.geo.grid import Bounds

if TYPE_CHECKING:
    from shapely.geometry.base import BaseGeometry

    from lianet_user.files.artifact import ArtifactFile


ARTIFACT_TYPE: Final = "lianet-region"
"""`mlm:artifact_type` of a region file: what tells our items from other models in the same catalogue."""
ASSET: Final = "model"
SHA256_MULTIHASH: Final = "1220"
"""Multihash prefix of a SHA-256: function 0x12, 0x20 bytes."""
MAX_POINTS: Final = 10_000
MAX_BYTES: Final = 2**40

ModelName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
"""As of a region; also a file's name, so neither a separator nor a leading dot."""
Line = Annotated[str, Field(max_length=2_000)]


class Provider(Schema):
    """Who made, owns or hosts a model."""

    name: Annotated[str, Field(min_length=1, max_length=200)]
    roles: tuple[Line, ...] = Field(strict=False, default=(), max_length=10)
    url: Annotated[str, Field(max_length=2_000)] | None = None


class Model(Schema):
    """A model that a catalogue offers."""

    name: ModelName
    title: Line
    description: Annotated[str, Field(max_length=20_000)] = ""
    geometry: dict[str, Any]
    """GeoJSON Polygon or MultiPolygon in longitude and latitude: the ground it is valid for."""
    dates: tuple[Date, ...] = Field(strict=False, min_length=1, max_length=10_000)
    """Of its acquisitions, in order of time."""
    between: bool
    """Whether it estimates dates between these."""
    bands: tuple[Line, ...] = Field(strict=False, max_length=1_000)
    psnr_db: float | None = None
    """How well it reconstructs its imagery, as a mean over its dates."""
    architecture: Line
    parameters: Annotated[int, Field(ge=0)]
    licence: Line
    attribution: Line
    providers: tuple[Provider, ...] = Field(strict=False, default=(), max_length=50)
    created: Annotated[dt.datetime, Field(strict=False)]
    size: Annotated[int, Field(ge=1, le=MAX_BYTES)]
    """Of the file, in bytes."""
    sha256: Sha256
    place: Annotated[str, Field(max_length=8_000)]
    """Where the file is: an absolute path, or an address."""

    @field_validator("dates")
    @classmethod
    def _in_order(cls, dates: tuple[dt.date, ...]) -> tuple[dt.date, ...]:
        return tuple(sorted(set(dates)))

    @field_validator("geometry")
    @classmethod
    def _is_ground(cls, geometry: dict[str, Any]) -> dict[str, Any]:
        return checked_geometry(geometry)

    @property
    def ground(self) -> BaseGeometry:
        """The geometry, in longitude and latitude; cut in two where it crosses the antimeridian."""
        from shapely.geometry import shape

        return shape(self.geometry)

    @property
    def megabytes(self) -> str:
        return f"{self.size / 1e6:.1f} MB"

    def touches(self, bounds: Bounds) -> bool:
        """Whether it is valid somewhere in a box: west, south, east, north in degrees."""
        from shapely.geometry import box

        return bool(self.ground.intersects(box(*bounds)))

    def holds(self, first: dt.date, last: dt.date) -> bool:
        """Whether it is valid on a date from `first` to `last`: it holds one, or estimates dates and these lie between."""
        if any(first <= date <= last for date in self.dates):
            return True
        return self.between and self.dates[0] < first and last < self.dates[-1]

    @classmethod
    def of_file(cls, file: ArtifactFile[RegionHeader], sha256: str, providers: tuple[Provider, ...] = ()) -> Self:
        """The model that a region file holds.

        Args:
            file: the region file, whose header was checked.
            sha256: of its bytes.
            providers: which its header does not name.
        """
        header = file.header
        levels = [each.psnr_db for each in header.quality if each.psnr_db is not None]
        return cls(
            name=header.name,
            title=excerpt(header.title, 2_000),
            description=header.description,
            geometry=outline(header),
            dates=header.dates,
            between=header.field.time.kind != "index" and len(header.dates) > 1,
            bands=tuple(band.name for band in header.bands),
            psnr_db=round(sum(levels) / len(levels), 2) if levels else None,
            architecture=f"LIANet {header.field.preset}",
            parameters=file.parameters,
            licence=excerpt(header.licence, 2_000),
            attribution=excerpt(header.attribution, 2_000),
            providers=providers,
            created=header.provenance.created,
            size=file.size_bytes,
            sha256=sha256,
            place=str(file.path.absolute()),
        )


def outline(header: RegionHeader) -> dict[str, Any]:
    """The ground a region covers as GeoJSON in degrees, to six places.

    Its edges are straight on the region's grid, not in degrees: they have points wherever that is more than a metre off.
    """
    geometry = header.grid.geobox.footprint("EPSG:4326", npoints=100, wrapdateline=True).simplify(1e-5).json

    def rounded(value: Any) -> Any:
        return [rounded(each) for each in value] if isinstance(value, list | tuple) else round(value, 6)

    return {"type": geometry["type"], "coordinates": rounded(geometry["coordinates"])}


def checked_geometry(geometry: dict[str, Any]) -> dict[str, Any]:
    """Check a geometry, and keep what was checked.

    Raises:
        ValueError: it is not a valid Polygon or MultiPolygon in degrees, or one of too many points.
    """
    from shapely.geometry import shape

    kind, coordinates = geometry.get("type"), geometry.get("coordinates")
    if kind not in ("Polygon", "MultiPolygon") or not isinstance(coordinates, list | tuple):
        raise ValueError("expected a Polygon or MultiPolygon")
    polygons = [coordinates] if kind == "Polygon" else coordinates
    count = 0
    for ring in _rings(polygons):
        if not isinstance(ring, list | tuple) or not 4 <= len(ring) <= MAX_POINTS:
            raise ValueError("a ring has 4 points or more, and not too many")
        for point in ring:
            count += 1
            if count > MAX_POINTS:
                raise ValueError(f"more than {MAX_POINTS} points")
            if not isinstance(point, list | tuple) or len(point) not in (2, 3):
                raise ValueError("a point has a longitude and a latitude")
            if any(isinstance(value, bool) or not isinstance(value, int | float) for value in point):
                raise ValueError("a longitude or latitude is not a number")
            if not (-180 <= point[0] <= 180 and -90 <= point[1] <= 90):
                raise ValueError("a longitude or latitude is out of range: expected degrees")
    if not count:
        raise ValueError("it is empty")
    # Only what was checked: the rest of the object may be anything.
    plain = {"type": kind, "coordinates": coordinates}
    if not shape(plain).is_valid:
        raise ValueError("its outline crosses itself")
    return plain


def _rings(polygons: list[Any] | tuple[Any, ...]) -> list[Any]:
    rings: list[Any] = []
    for polygon in polygons:
        if not isinstance(polygon, list | tuple) or not 1 <= len(polygon) <= MAX_POINTS:
            raise ValueError("its coordinates are not nested as they should be")
        rings.extend(polygon)
    return rings


class _Part(BaseModel):
    """A part of a STAC document: the fields that are used are validated strictly, all others ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True, allow_inf_nan=False)


class _Asset(_Part):
    href: str
    artifact_type: str = Field(alias="mlm:artifact_type")
    size: int = Field(alias="file:size")
    checksum: Annotated[str, Field(pattern=r"^1220[0-9a-f]{64}$", alias="file:checksum")]


class _Provider(_Part):
    name: str
    roles: list[str] = []
    url: str | None = None


class _Properties(_Part):
    title: str = ""
    description: str = ""
    licence: str = Field(alias="license")
    providers: Annotated[list[_Provider], Field(max_length=50)] = []
    created: Annotated[dt.datetime, Field(strict=False)]
    mlm_name: str = Field(alias="mlm:name")
    architecture: str = Field(alias="mlm:architecture")
    parameters: int = Field(alias="mlm:total_parameters", default=0)
    dates: Annotated[list[Date], Field(alias="lianet:dates")]
    between: bool = Field(alias="lianet:between", default=False)
    bands: list[str] = Field(alias="lianet:bands", default=[])
    psnr_db: float | None = Field(alias="lianet:psnr_db", default=None)
    attribution: str = Field(alias="lianet:attribution", default="")
    own_licence: str = Field(alias="lianet:licence", default="")


class _Item(_Part):
    type: Literal["Feature"]
    stac_version: Annotated[str, Field(pattern=r"^1\.")]
    id: ModelName
    geometry: dict[str, Any]
    properties: _Properties

    @model_validator(mode="after")
    def _named_once(self) -> Self:
        if self.properties.mlm_name != self.id:
            raise ValueError("id and mlm:name differ")
        return self


def is_model(document: dict[str, Any]) -> bool:
    """Whether an Item offers a region file; any other Item may stand in the same catalogue."""
    return _model_asset(document) is not None


def _model_asset(document: dict[str, Any]) -> Any:
    assets = document.get("assets")
    for asset in assets.values() if isinstance(assets, dict) else ():
        if isinstance(asset, dict) and asset.get("mlm:artifact_type") == ARTIFACT_TYPE:
            return asset
    return None


def read_item(document: dict[str, Any], place: str, root: str) -> Model:
    """Read a model from a STAC Item.

    Args:
        document: the Item.
        place: of the Item.
        root: place of the catalogue's first document.

    Raises:
        CatalogError: it is not valid, or names a file that this catalogue may not name.
    """
    try:
        item = _Item.model_validate(document)
        asset = _Asset.model_validate(_model_asset(document))
        told = item.properties
        return Model(
            name=item.id,
            title=told.title,
            description=told.description,
            geometry=item.geometry,
            dates=tuple(told.dates),
            between=told.between,
            bands=tuple(told.bands),
            psnr_db=told.psnr_db,
            architecture=told.architecture,
            parameters=told.parameters,
            licence=told.own_licence or told.licence,
            attribution=told.attribution,
            providers=tuple(Provider(name=one.name, roles=tuple(one.roles), url=one.url) for one in told.providers),
            created=told.created,
            size=asset.size,
            sha256=asset.checksum.removeprefix(SHA256_MULTIHASH),
            place=joined(place, asset.href, root),
        )
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "item"
        raise CatalogError(
            f"{excerpt(place)} describes no model: {excerpt(printable(where))}: {first['msg']}"
        ) from error


# --- Places: what a catalogue may name.


ROOT_NAME: Final = "catalog.json"
MAX_HREF: Final = 2048


def excerpt(text: str, most: int = 200) -> str:
    """A place, or another text that a catalogue chose, in a message."""
    return brief(text, most)


def is_remote(place: str) -> bool:
    return "://" in place


def locate(text: str) -> str:
    """The place of a catalogue's first document, from what a user typed: a folder means the `catalog.json` in it.

    Raises:
        CatalogError: the address is not allowed.
    """
    if is_remote(text):
        place = text if text.endswith(".json") else f"{text.rstrip('/')}/{ROOT_NAME}"
        check_address(place)
        return place
    path = Path(text).expanduser().absolute()
    return str(path / ROOT_NAME if path.is_dir() else path)


def joined(document: str, href: str, root: str) -> str:
    """Resolve a link of a document to a place.

    Args:
        document: place of the document.
        href: as it stands there.
        root: place of the catalogue's first document.

    Raises:
        CatalogError: this catalogue may not name that place.
    """
    if not href or len(href) > MAX_HREF or not href.isprintable() or "\\" in href:
        raise CatalogError(f"{excerpt(document)} has a link that is not an address: {excerpt(href)!r}")
    # urljoin does not join relative links to the Hub's scheme.
    base = document.replace("hf://", "https://", 1) if document.startswith("hf://") else document
    try:
        scheme = urlsplit(href).scheme
        place = href if scheme or not is_remote(document) else urljoin(base, href)
    except ValueError as error:
        raise CatalogError(
            f"{excerpt(document)} has a link that is not an address ({error}): {excerpt(href)!r}"
        ) from error
    if is_remote(document):
        if document.startswith("hf://") and not scheme:
            place = place.replace("https://", "hf://", 1)
        check_address(place, before=document)
        return place
    if scheme:
        check_address(href)
        return href
    folder = Path(root).parent.resolve()
    # Resolved, so that neither `..` nor a symbolic link leads out.
    try:
        path = (Path(document).parent / href).resolve()
    except (OSError, RuntimeError) as error:  # links that lead to themselves
        raise CatalogError(f"{excerpt(document)} has a link that leads nowhere: {excerpt(href)!r}") from error
    if not path.is_relative_to(folder):
        raise CatalogError(
            f"{excerpt(document)} has a link out of its folder ({excerpt(href)!r}): a local catalogue names files beneath"
            f" {folder}, or https addresses"
        )
    return str(path)


def check_address(address: str, before: str | None = None) -> None:
    """Refuse an address that must not be read.

    Args:
        address: to read from.
        before: the address that led there.

    Raises:
        CatalogError: it is neither https, nor the Hub, nor http on this machine; or it would be a step down from https.
    """
    try:
        parts = urlsplit(address)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise CatalogError(f"{excerpt(address)!r} is not an address: {error}") from error
    shown = excerpt(f"{parts.scheme}://{host}{parts.path}")
    if not host or not address.isascii() or not address.isprintable() or " " in address:
        raise CatalogError(f"{excerpt(address)!r} is not an address: expected https://host/path")
    if parts.username is not None:
        raise CatalogError(f"the address {shown} carries a user name: addresses with passwords are not read")
    if parts.scheme == "hf":
        if len(parts.path.strip("/").split("/")) < 2:
            raise CatalogError(f"{shown} is not a file on the Hugging Face Hub: expected hf://owner/repository/file")
    elif parts.scheme == "http" and is_this_machine(host):
        if before is not None and not before.startswith("http://"):
            raise CatalogError(f"{excerpt(before)} leads from https to {shown}: that is not followed")
    elif parts.scheme != "https":
        raise CatalogError(f"{shown} is not read: expected an https:// address (http:// only on this machine itself)")


def is_this_machine(host: str) -> bool:
    """Whether a host is this machine by name or by address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False

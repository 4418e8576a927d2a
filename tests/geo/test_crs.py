"""CRS that are legal and odd: each is taken in as its horizontal part or refused by name, wherever it is said."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from command_line import refusal
from odc.geo.geobox import GeoBox
from pyproj.exceptions import CRSError

from lianet_user.errors import AreaError, ImageryError, LabelError, MapError
from lianet_user.files.header import GridHeader
from lianet_user.geo.grid import horizontal, parse_crs
from lianet_user.imagery.rasters import RasterFile
from lianet_user.labels import LabelOptions
from lianet_user.labels.raster import open_raster
from lianet_user.maps.area import _grid_of
from lianet_user.maps.geotiff import open_finished

UTM = "EPSG:32633"
TOWGS84 = "598.1,73.7,418.2,0.202,0.045,-2.455,6.7"
LOCAL = 'LOCAL_CS["site",UNIT["metre",1]]'
GAUSS = (
    f'PROJCS["p",GEOGCS["g",DATUM["d",SPHEROID["Bessel",6377397.155,299.1528128],TOWGS84[{TOWGS84}]],PRIMEM["Greenwich",0],'
    'UNIT["degree",0.0174532925199433]],PROJECTION["Transverse_Mercator"],PARAMETER["central_meridian",12],'
    'PARAMETER["scale_factor",1],PARAMETER["false_easting",4500000],UNIT["metre",1]{code}]'
)
HEIGHT = 'VERT_CS["v",VERT_DATUM["d",2005],UNIT["metre",1]]'
UNDEFINED = (
    'GEOGCS["Undefined geographic SRS",DATUM["unknown",SPHEROID["unknown",6378137,298.257223563]],PRIMEM["Greenwich",0],'
    'UNIT["degree",0.0174532925199433]]'
)
SHIFTED_GRID = (
    'DERIVEDPROJCRS["shifted",BASEPROJCRS["u",BASEGEOGCRS["WGS 84",DATUM["World Geodetic System 1984",ELLIPSOID["WGS 84",'
    '6378137,298.257223563]]],CONVERSION["UTM zone 33N",METHOD["Transverse Mercator",ID["EPSG",9807]],'
    'PARAMETER["Longitude of natural origin",15,ANGLEUNIT["degree",0.0174532925199433]]]],DERIVINGCONVERSION["Affine",'
    'METHOD["Affine parametric transformation",ID["EPSG",9624]],PARAMETER["A0",3,LENGTHUNIT["metre",1]],PARAMETER["A1",1],'
    'PARAMETER["B2",1]],CS[Cartesian,2],AXIS["x",east],AXIS["y",north],LENGTHUNIT["metre",1]]'
)
TAKEN = {
    "compound by its codes": ("EPSG:25833+7837", 25833),
    "compound with a code": ("EPSG:5555", 25832),
    "geographic with heights": ("EPSG:4979", 4326),
    "a code alone": ("25833", 25833),
    "a URN": ("urn:ogc:def:crs:EPSG::25833", 25833),
    "projected with heights": ("+proj=utm +zone=33 +datum=WGS84 +vunits=m +type=crs", 32633),
    "bound": (f"+proj=tmerc +lon_0=12 +x_0=4500000 +ellps=bessel +towgs84={TOWGS84} +type=crs", None),
    "bound with heights": ("+proj=utm +zone=33 +ellps=WGS84 +towgs84=1,2,3 +geoidgrids=egm96_15.gtx +type=crs", None),
    "bound in a compound": (f'COMPD_CS["c",{GAUSS.format(code="")},{HEIGHT}]', None),
    "bound, of a registered one": (GAUSS.format(code=',AUTHORITY["EPSG","31468"]'), 31468),
    "a rotated pole": ("+proj=ob_tran +o_proj=longlat +o_lon_p=-162 +o_lat_p=39.25 +lon_0=180 +type=crs", None),
    "of another authority": ("ESRI:54009", None),
    "of no authority": ("+proj=laea +lat_0=52 +lon_0=10 +ellps=GRS80", None),
    "deprecated": ("EPSG:4268", 4268),
    "grads": ("EPSG:4807", 4807),
    "axes to the south and west": ("EPSG:2048", 2048),
    "longitude first, with heights": ("OGC:CRS84h", None),
}
NEITHER = r"\) is neither geographic nor projected"
REFUSED = {
    "local": (LOCAL, r"'LOCAL_CS.* \(Engineering CRS" + NEITHER),
    "local with heights": (f'COMPD_CS["mine",{LOCAL},{HEIGHT}]', r"'mine' \(Engineering CRS" + NEITHER),
    "geocentric": ("EPSG:4978", r"'EPSG:4978' \(Geocentric CRS" + NEITHER),
    "vertical": ("EPSG:5773", r"'EPSG:5773' \(Vertical CRS" + NEITHER),
    "a derived grid": (SHIFTED_GRID, r"'shifted' \(Derived Projected CRS" + NEITHER),
    "undefined": (UNDEFINED, "'Undefined geographic SRS' .* says nothing of where"),
    "of the Moon": ("IAU_2015:30100", "'IAU_2015:30100' .* is not tied to the Earth"),
    "a datum": ("EPSG:6326", "'EPSG:6326' is no coordinate reference system"),
    "nothing": ("", "'' is no coordinate reference system"),
    "a megabyte": ("EPSG:" + "9" * 2**20, r"'EPSG:99+\.\.\.' is no coordinate reference system"),
}


@pytest.mark.parametrize("case", TAKEN)
def test_an_odd_crs_is_taken_in_as_its_horizontal_part(case: str) -> None:
    said, code = TAKEN[case]
    crs = horizontal(said)
    assert crs.geographic or crs.projected
    assert len(crs.proj.axis_info) == 2
    assert code is None or crs.epsg == code
    assert horizontal(rasterio.CRS.from_wkt(crs.to_wkt())).geographic == crs.geographic


@pytest.mark.parametrize("case", REFUSED)
def test_a_crs_without_places_on_a_map_is_refused_by_name(case: str) -> None:
    said, message = REFUSED[case]
    with pytest.raises(CRSError, match=message):
        horizontal(said)
    with pytest.raises(
        AreaError, match=f"`crs` {message}.*: expected one of places on a map, for instance EPSG:"
    ) as told:
        parse_crs(said, "`crs`")
    assert len(str(told.value)) < 300


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.parametrize("option", ["--dst-crs", "--bbox-crs"])
def test_a_command_refuses_it_as_its_option(whole_folder: Path, tmp_path: Path, option: str, case: str) -> None:
    box = ["--bbox", "0,0,1,1"] if option == "--bbox-crs" else []
    told = refusal(
        "reconstruct", whole_folder / "region.safetensors", *box, option, REFUSED[case][0], "-o", tmp_path / "map.tif"
    )
    assert f"error: {option} '" in told
    assert not (tmp_path / "map.tif").exists()


def raster(folder: Path, crs: str) -> Path:
    with rasterio.open(
        folder / "2018-05-13.tif",
        "w",
        driver="GTiff",
        width=4,
        height=4,
        count=1,
        dtype="float32",
        crs=rasterio.CRS.from_user_input(crs),
        transform=Affine(10, 0, 330_000, 0, -10, 5_820_000),
    ) as file:
        file.write(np.ones((1, 4, 4), np.float32))
    return folder / "2018-05-13.tif"


READERS: dict[str, tuple[Callable[[Path], GeoBox], type[Exception]]] = {
    "--like": (_grid_of, AreaError),
    "a finished map": (lambda path: open_finished(path).geobox, MapError),
    "imagery": (lambda path: RasterFile.open(path).geobox, ImageryError),
    "labels": (
        lambda path: GeoBox((4, 4), Affine.identity(), open_raster(path, LabelOptions()).crs),
        LabelError,
    ),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("crs", [LOCAL, "EPSG:4978", UNDEFINED], ids=["local", "geocentric", "undefined"])
def test_a_raster_without_places_on_a_map_is_refused(tmp_path: Path, reader: str, crs: str) -> None:
    read, error = READERS[reader]
    with pytest.raises(error, match=r"2018-05-13\.tif.*'(site|WGS 84|Undefined geographic SRS)'"):
        read(raster(tmp_path, crs))


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize(("crs", "code"), [("EPSG:25833+7837", 25833), ("EPSG:4979", 4326)])
def test_a_raster_with_heights_lies_where_it_lies_without(tmp_path: Path, reader: str, crs: str, code: int) -> None:
    found = READERS[reader][0](raster(tmp_path, crs)).crs
    assert found is not None
    assert found.epsg == code


def test_the_unit_of_heights_is_not_that_of_values(tmp_path: Path) -> None:
    assert open_finished(raster(tmp_path, "EPSG:25833+7837")).unit == ""


def test_a_region_with_heights_lies_where_it_lies_without() -> None:
    grid = GridHeader.of(GeoBox((4, 4), Affine(10, 0, 330_000, 0, -10, 5_820_000), UTM))
    other = grid.model_copy(update={"crs_wkt": rasterio.CRS.from_user_input("EPSG:32633+5773").to_wkt()})
    assert other.geobox == grid.geobox

"""Every product as the programs of others see it: GDAL's own tools, rio-cogeo, and QGIS with the style that lies beside it."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from factories import (
    CLASSES,
    FIRST,
    HEIGHTS,
    LAST,
    SENTINEL_BANDS,
    RegionHeaderFactory,
    make_head,
    read_raster,
    saved_region,
)
from rio_cogeo.cogeo import cog_validate

from lianet_user.head import Head
from lianet_user.maps import change, picture, predict, reconstruct

COLORS = [entry.color for entry in CLASSES]
NAMES = [entry.name for entry in CLASSES]


@dataclass(frozen=True)
class Expected:
    """What a product's bands are called, of what type they are, and what says that there is nothing."""

    bands: list[str]
    dtype: str
    nodata: float
    qgis: str
    """The renderer that QGIS takes from the style."""


PRODUCTS = {
    "map.tif": Expected(["class"], "Byte", 255, "paletted"),
    "map_probabilities.tif": Expected(NAMES, "Byte", 255, "singlebandpseudocolor"),
    "map_uncertainty.tif": Expected(["uncertainty"], "Byte", 255, "singlebandpseudocolor"),
    "heights.tif": Expected(["value"], "Float32", math.nan, "singlebandpseudocolor"),
    "finer.tif": Expected(["class"], "Byte", 255, "paletted"),
    "reflectance.tif": Expected(["B02", "B03", "B04", "B08"], "UInt16", 65535, "multibandcolor"),
    "colors.tif": Expected(["red", "green", "blue"], "Byte", 0, "multibandcolor"),
    "ndvi.tif": Expected(["NDVI"], "Float32", math.nan, "singlebandpseudocolor"),
    "change.tif": Expected(["change"], "Float32", math.nan, "singlebandpseudocolor"),
    "transitions.tif": Expected(["change"], "Byte", 255, "paletted"),
}


@pytest.fixture(scope="module")
def folder(region_header: RegionHeaderFactory, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All products of small regions with arbitrary weights; made once, because nothing changes them."""
    folder = tmp_path_factory.mktemp("products")

    def head(name: str, **options: Any) -> Head:
        (folder / name).mkdir()
        return make_head(region_header(dates=2, name=name), folder / name, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(picture, "DPI", 30)
        classes = head("classes")
        predict(classes, folder / "map.tif", dates=(FIRST,), probabilities=True, uncertainty="entropy")
        change(classes, folder / "transitions.tif", first=FIRST, last=LAST)
        predict(head("numbers", numbers=HEIGHTS, classes=()), folder / "heights.tif", dates=(FIRST,))
        predict(head("finer", scale=4), folder / "finer.tif", dates=(FIRST,))
        header = region_header(dates=2, band_count=4, bands=SENTINEL_BANDS)
        region = saved_region(header, folder / "region.safetensors")
        reconstruct(region, folder / "reflectance.tif", dates=(FIRST,))
        reconstruct(region, folder / "colors.tif", dates=(FIRST,), rgb=True)
        reconstruct(region, folder / "ndvi.tif", dates=(FIRST,), indices=("ndvi",))
        change(region, folder / "change.tif", first=FIRST, last=LAST)
    return folder


@pytest.mark.parametrize("name", PRODUCTS)
def test_it_is_a_cloud_optimized_geotiff(name: str, folder: Path) -> None:
    assert cog_validate(folder / name, strict=True, quiet=True) == (True, [], [])


@pytest.mark.parametrize("name", PRODUCTS)
def test_gdal_reads_what_it_is(name: str, folder: Path, gdalinfo: Callable[[Path], Any]) -> None:
    read, expected = gdalinfo(folder / name), PRODUCTS[name]
    assert [band["description"] for band in read["bands"]] == expected.bands
    assert {band["type"] for band in read["bands"]} == {expected.dtype}
    for band in read["bands"]:
        assert float(band["noDataValue"]) == pytest.approx(expected.nodata, nan_ok=True)
    assert read["stac"]["proj:epsg"] == 32633
    assert read["metadata"]["IMAGE_STRUCTURE"]["LAYOUT"] == "COG"
    tags = read["metadata"][""]
    assert tags["TIFFTAG_COPYRIGHT"]
    assert tags["DATE"].startswith("2017-02-16")
    assert tags["TIFFTAG_SOFTWARE"].startswith("lianet-user ")


@pytest.mark.parametrize("name", ["map.tif", "finer.tif"])
def test_gdal_reads_names_colours_and_counts_of_classes(
    name: str, folder: Path, gdalinfo: Callable[[Path], Any]
) -> None:
    read = gdalinfo(folder / name)
    (band,) = read["bands"]
    assert band["categories"] == NAMES
    assert [f"#{red:02x}{green:02x}{blue:02x}" for red, green, blue, _ in band["colorTable"]["entries"][:3]] == COLORS
    counts = np.bincount(read_raster(folder / name, 1).ravel(), minlength=len(CLASSES))
    assert [row["f"][:3] for row in read["rat"]["row"]] == [[n, NAMES[n], counts[n]] for n in range(len(CLASSES))]


def test_gdal_reads_units_scales_and_statistics(folder: Path, gdalinfo: Callable[[Path], Any]) -> None:
    (heights,) = gdalinfo(folder / "heights.tif")["bands"]
    assert heights["unit"] == "m"
    values = read_raster(folder / "heights.tif", 1)
    assert (heights["minimum"], heights["maximum"]) == pytest.approx((values.min(), values.max()), abs=0.001)
    assert heights["mean"] == pytest.approx(values.mean(), abs=0.001)
    for name, scale in (("map_probabilities.tif", 0.005), ("reflectance.tif", 0.0001)):
        assert {band["scale"] for band in gdalinfo(folder / name)["bands"]} == {scale}
    colors = gdalinfo(folder / "colors.tif")["bands"]
    assert [band["colorInterpretation"] for band in colors] == ["Red", "Green", "Blue"]


def test_gdal_puts_a_finer_map_where_the_other_lies(folder: Path, gdalinfo: Callable[[Path], Any]) -> None:
    native, finer = (gdalinfo(folder / name) for name in ("map.tif", "finer.tif"))
    assert native["cornerCoordinates"] == finer["cornerCoordinates"]
    assert finer["size"] == [4 * side for side in native["size"]]


@pytest.mark.heavy
def test_qgis_shows_every_product_in_the_style_beside_it(
    folder: Path, qgis: Callable[[list[Path], Path], dict[str, Any]], tmp_path: Path
) -> None:
    seen = qgis([folder / name for name in PRODUCTS], tmp_path)
    for name, expected in PRODUCTS.items():
        about = seen[name]
        assert about["valid"], name
        assert about["styled"], name
        assert about["crs"] == "EPSG:32633"
        assert about["renderer"] == expected.qgis, name
        assert about["bands"] == [f"Band {number}: {band}" for number, band in enumerate(expected.bands, start=1)]
    for name in ("map.tif", "finer.tif"):
        assert seen[name]["entries"] == [list(pair) for pair in zip(NAMES, COLORS, strict=True)]
        values = read_raster(folder / name, 1)
        shares = np.bincount(values.ravel(), minlength=len(CLASSES)) / values.size
        drawn = {color for color, share in zip(COLORS, shares, strict=True) if share > 0.01}
        assert drawn <= set(seen[name]["colors"]), name
    for name in ("map_probabilities.tif", "map_uncertainty.tif", "heights.tif", "ndvi.tif", "change.tif"):
        colors = [color for _, color in seen[name]["entries"]]
        assert (colors[0], colors[-1]) == ("#440154", "#fde725"), name
        assert len(seen[name]["colors"]) > 1, name
    assert {label.split(" ")[0] for label, _ in seen["transitions.tif"]["entries"]} >= {"water"}


@pytest.fixture
def gdalinfo() -> Callable[[Path], Any]:
    """What GDAL's own program says of a file."""
    program = shutil.which("gdalinfo")
    if program is None:
        pytest.skip("needs gdalinfo (Debian: gdal-bin)")

    def read(path: Path) -> Any:
        return json.loads(subprocess.check_output([program, "-json", str(path)]))

    return read


@pytest.fixture
def qgis() -> Callable[[list[Path], Path], dict[str, Any]]:
    """What QGIS says of files, which it draws into a folder. Its Python is the system's, so it looks in another process."""
    python, look = "/usr/bin/python3", Path(__file__).parent / "gis" / "look.py"
    environment = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/"), "QT_QPA_PLATFORM": "offscreen"}
    found = subprocess.run([python, "-c", "import qgis.core"], env=environment, capture_output=True, check=False)
    if found.returncode:
        pytest.skip("needs QGIS and its Python (Debian: qgis python3-qgis)")

    def read(paths: list[Path], folder: Path) -> dict[str, Any]:
        done = subprocess.run(
            [python, look, folder, *paths], env=environment, capture_output=True, text=True, check=True, timeout=300
        )
        seen: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return seen

    return read

"""Every file of `../shared/cases`, and the right answer that its README states."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import rasterio
from command_line import lianet

from lianet_user import instant
from lianet_user.errors import LabelError, MapError
from lianet_user.files.header import NumberScores
from lianet_user.labels import LabelOptions, read_labels
from lianet_user.labels.vector import read_layer
from lianet_user.maps.zones import zones
from lianet_user.region import Region

CASES = Path(__file__).resolve().parents[2] / "shared" / "cases"
HAVELLAND = Path(__file__).resolve().parents[1] / "models" / "havelland.safetensors"
UTM = "EPSG:32633"

pytestmark = pytest.mark.skipif(not CASES.is_dir(), reason="needs ../shared/cases")


@pytest.fixture(scope="module")
def region() -> Region:
    return Region.open(HAVELLAND)


def test_every_file_of_the_table_is_there_and_is_tested() -> None:
    named = set(re.findall(r"\w+\.(?:tif|gpkg|geojson|csv)", (CASES / "README.md").read_text()))
    present = {path.name for path in CASES.iterdir()} - {"README.md"}
    assert named == present
    here = Path(__file__).read_text()
    assert [name for name in sorted(present) if f'"{name}"' not in here] == []


def test_class_codes_have_no_mean_whatever_their_crs(tmp_path: Path) -> None:
    """GDAL hands on the unit of a compound CRS's heights as the band's."""
    compound, plain = CASES / "compound_classes_uint8.tif", tmp_path / "plain.tif"
    with rasterio.open(compound) as source:
        profile, values = source.profile | {"crs": UTM}, source.read()
    with rasterio.open(plain, "w", **profile) as target:
        target.write(values)
    said = []
    for path in (compound, plain):
        with pytest.raises(MapError) as caught:
            zones(path, CASES / "srs0.gpkg", labels_crs=UTM)
        said.append(str(caught.value).replace(str(path), "MAP"))
    assert said[0] == said[1]
    assert "unit" in said[0]


@pytest.mark.parametrize("name", ["utm_without_crs.geojson", "srs0.gpkg", "no_crs.gpkg"])
def test_what_a_format_assumes_is_no_statement(region: Region, name: str) -> None:
    with pytest.raises(LabelError, match=r"`labels_crs`"):
        read_labels(CASES / name, region.header)
    (found,) = read_labels(CASES / name, region.header, LabelOptions(labels_crs=UTM)).maps
    values, pixels = np.unique(found.values[found.labelled], return_counts=True)
    assert pixels.tolist() == [1600] * len(values)
    assert len(values) > 1


def test_geojson_in_metres_is_said_not_to_fit_its_default(region: Region) -> None:
    with pytest.raises(LabelError, match=r"the default of its format is degrees, and its coordinates are 330600,"):
        read_labels(CASES / "utm_without_crs.geojson", region.header)


def test_whatever_command_advises_the_option_has_it(region: Region, tmp_path: Path) -> None:
    file, head, made = CASES / "no_crs.gpkg", tmp_path / "head.safetensors", tmp_path / "map.tif"
    instant(region, read_labels(file, region.header, LabelOptions(labels_crs=UTM))).save(head)
    box = ("--bbox", "330000,5820000,332000,5822000", "--bbox-crs", UTM)
    lianet("predict", head, "--region", HAVELLAND, *box, "-o", made)
    for words in (
        ("check", HAVELLAND, CASES / "tie_share_055.gpkg", "--test-area", file, "--no-picture"),
        ("predict", head, "--region", HAVELLAND, "--aoi", file, "-o", tmp_path / "other.tif"),
    ):
        said = lianet(*words, code=2).err
        assert "no coordinate reference system: assign it" in said
        assert "--labels-crs" not in said
    table = ("zones", made, file, "-o", tmp_path / "zones.csv")
    assert "--labels-crs" in lianet(*table, code=2).err
    lianet(*table, "--labels-crs", UTM)


def test_a_pixel_column_in_which_two_polygons_meet_is_the_larger_ones(region: Region) -> None:
    """Share .55 of column 500 is class a."""
    read = read_labels(CASES / "tie_share_055.gpkg", region.header)
    values = read.maps[0].values
    assert [entry.name for entry in read.classes] == ["a", "b"]
    assert (values[:, :501] == 0).all()
    assert (values[:, 501:] == 1).all()


def test_years_are_learned_as_well_as_the_years_since(region: Region) -> None:
    errors = []
    for name in ("y0.gpkg", "y1950.gpkg"):
        head = instant(region, read_labels(CASES / name, region.header, LabelOptions(task="regression")))
        assert isinstance(head.header.scores, NumberScores)
        errors.append(head.header.scores.mae)
    assert errors[0] == pytest.approx(errors[1], rel=0.01)


def test_a_table_of_wkt_is_read_and_asks_for_its_crs() -> None:
    with pytest.raises(LabelError, match=r"no coordinate reference system: give it with `labels_crs`, .* EPSG:4326 if"):
        read_layer(CASES / "wkt.csv", LabelOptions())
    layer = read_layer(CASES / "wkt.csv", LabelOptions(labels_crs="EPSG:4326", field="area"))
    assert layer.values is not None
    assert set(layer.values) == {0.5}
    assert {each.geom_type for each in layer.geometries} == {"MultiPolygon"}


def test_a_number_that_may_be_thousands_is_asked_about() -> None:
    with pytest.raises(LabelError, match=r"'1\.100' in the column 'h' is 1100 or 1\.1"):
        read_layer(CASES / "german_thousands.csv", LabelOptions())

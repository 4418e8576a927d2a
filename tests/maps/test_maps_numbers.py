"""Maps of numbers, and maps finer than the region: the same care, and every pixel still where it belongs."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal
from xml.etree import ElementTree

import numpy as np
import pytest
import rasterio
import rasterio.shutil
from affine import Affine
from agreement import assert_same_classes
from factories import (
    CLASSES,
    HEIGHTS,
    NORTH,
    WEST,
    RegionHeaderFactory,
    answer_slope,
    box_of,
    contents,
    make_head,
    predict,
    read_raster,
    slope,
)
from matplotlib import colormaps
from matplotlib.figure import Figure
from odc.geo.geobox import GeoBox
from odc.geo.xr import ODCExtension  # noqa: F401  # gives arrays their `odc`

from lianet_user.cli import _run
from lianet_user.errors import DateError, OutputError
from lianet_user.files.header import IGNORE, Numbers
from lianet_user.geo.grid import Window
from lianet_user.head import Head
from lianet_user.maps import ClassCounts, NumberStatistics, geotiff, picture, style
from lianet_user.maps.product import NumberProduct

HeadFactory = Callable[..., Head]

pytestmark = pytest.mark.usefixtures("coarse_figures")


@pytest.fixture
def made(region_header: RegionHeaderFactory, tmp_path: Path) -> HeadFactory:
    """Makes a head; keywords as in `make_head`."""

    def make(**options: Any) -> Head:
        return make_head(region_header(dates=2), tmp_path, **options)

    return make


# --- in the right place


@pytest.mark.parametrize("scale", [1, 4])
@pytest.mark.parametrize("kind", ["numbers", "classes"])
@pytest.mark.parametrize(
    "window", [Window(0, 0, 96, 128), Window(0, 0, 1, 1), Window(13, 7, 31, 45), Window(95, 127, 1, 1)]
)
def test_every_pixel_lies_where_its_value_belongs(
    made: HeadFactory,
    out: Path,
    monkeypatch: pytest.MonkeyPatch,
    window: Window,
    kind: str,
    scale: Literal[1, 4],
) -> None:
    head = made(scale=scale, numbers=HEIGHTS if kind == "numbers" else None)
    answer_slope(head, monkeypatch)
    box = box_of(head.region, window)
    result = predict(head, out / "map.tif", **box, tile=60)
    with rasterio.open(result.path) as dataset:
        assert (dataset.height, dataset.width) == (scale * window.height, scale * window.width)
        assert tuple(dataset.bounds) == pytest.approx(box["bbox"])
        rows, cols = np.indices(dataset.shape)
        x, y = dataset.transform @ (cols + 0.5, rows + 0.5)
        expected = slope(x, y) if kind == "numbers" else slope(x, y) // 100 % 3
        found = dataset.read(1)
    assert np.array_equal(found, expected)
    assert result.window == window
    assert result.geobox.shape == found.shape
    memory = head.predict(box["bbox"], box["bbox_crs"], tile=60)
    assert memory.dtype == found.dtype
    assert memory.to_numpy().tobytes() == found.tobytes()
    assert memory.odc.geobox == result.geobox


@pytest.mark.parametrize("scale", [1, 4])
@pytest.mark.parametrize("kind", ["numbers", "classes"])
def test_a_file_holds_what_the_layers_answer(made: HeadFactory, out: Path, kind: str, scale: Literal[1, 4]) -> None:
    head = made(scale=scale, numbers=HEIGHTS if kind == "numbers" else None)
    window = Window(3, 50, 90, 71)
    together = head.values(window)
    assert len(np.unique(together)) > 1
    box = box_of(head.region, window)
    progress: list[tuple[int, int]] = []
    predict(head, out / "map.tif", **box, listener=lambda *at: progress.append(at), tile=148)
    found = read_raster(out / "map.tif", 1)
    assert found.tobytes() == head.predict(box["bbox"], box["bbox_crs"], tile=148).to_numpy().tobytes()
    if kind == "numbers":
        np.testing.assert_allclose(found, together, atol=1e-4 * HEIGHTS.scale, rtol=0)
    else:
        assert_same_classes(found, head.answers(window))
    assert progress[-1] == (found.size, found.size)
    assert len(progress) == 1 + math.ceil(90 / (148 // scale)) * math.ceil(71 / (148 // scale))


def test_maps_in_memory_say_what_they_hold(made: HeadFactory) -> None:
    heights = made(numbers=HEIGHTS, scale=4).predict()
    assert (heights.attrs["units"], heights.shape) == ("m", (384, 512))
    assert np.isnan(heights.odc.nodata)
    classes = made(scale=4).predict()
    assert (classes.attrs["flag_values"].tolist(), classes.odc.nodata) == ([0, 1, 2], IGNORE)


def test_a_head_of_several_dates_asks_for_one(made: HeadFactory, out: Path) -> None:
    head = made(numbers=HEIGHTS, dates=2)
    with pytest.raises(DateError, match="none was chosen: give one with `date`"):
        predict(head, out / "map.tif")
    assert contents(out) == {}
    assert predict(head, out / "map.tif", dates=[head.header.dates[1]]).date == head.header.dates[1]


# --- what other programs read


@pytest.mark.parametrize(("task", "unit", "name"), [("regression", "m³/ha", "value"), ("coverage", "", "coverage")])
def test_other_programs_read_type_unit_and_statistics(
    made: HeadFactory, out: Path, task: str, unit: str, name: str
) -> None:
    head = made(numbers=HEIGHTS.model_copy(update={"unit": unit}), task=task)
    result = predict(head, out / "map.tif", tile=50)
    with rasterio.open(result.path) as dataset:
        values = dataset.read(1).astype(np.float64)
        assert (dataset.dtypes, dataset.descriptions, dataset.units[0] or "") == (("float32",), (name,), unit)
        assert math.isnan(dataset.nodata)
        structure = dataset.tags(ns="IMAGE_STRUCTURE")
        assert (structure["LAYOUT"], structure["COMPRESSION"], structure["PREDICTOR"]) == ("COG", "DEFLATE", "3")
        tags, written = dataset.tags(), dataset.tags(1)
    assert (tags["TASK"], tags.get("UNIT", ""), tags["REGION"]) == (task, unit, "small")
    assert (tags["DATE"], tags["REGION_SHA256"]) == ("2017-02-16", head.region.sha256)
    assert tags["TIFFTAG_SOFTWARE"].startswith("lianet-user ")
    assert "CLASSES" not in tags
    expected = values.min(), values.mean(), values.max(), values.std()
    assert values.std() > 0.01
    keys = ("MINIMUM", "MEAN", "MAXIMUM", "STDDEV")
    assert [float(written[f"STATISTICS_{key}"]) for key in keys] == pytest.approx(expected, rel=1e-12)
    found = result.summary
    assert isinstance(found, NumberStatistics)
    assert (found.unit, found.pixels) == (unit, values.size)
    assert (found.minimum, found.mean, found.maximum, found.deviation) == pytest.approx(expected, rel=1e-12)


def test_statistics_of_large_numbers_do_not_cancel() -> None:
    product = NumberProduct(HEIGHTS, "regression")
    values = (1e6 + np.random.default_rng(0).integers(0, 2, (40, 50))).astype(np.float32)
    for rows in (slice(0, 1), slice(1, 30), slice(30, 40)):
        product.add(values[None, rows])
    assert product.summary.deviation == pytest.approx(values.astype(np.float64).std(), rel=1e-12)


def test_a_map_of_numbers_replaces_a_map_of_classes_and_its_sidecars(made: HeadFactory, out: Path) -> None:
    predict(made(), out / "map.tif")
    assert b"Category" in contents(out)["map.tif.aux.xml"]
    predict(made(numbers=HEIGHTS), out / "map.tif", overwrite=True)
    assert b"Category" not in contents(out)["map.tif.aux.xml"]
    assert b"paletted" not in contents(out)["map.qml"]


def test_numbers_have_no_most_frequent_one_and_classes_no_mean(made: HeadFactory, out: Path) -> None:
    with pytest.raises(OutputError, match="OVERVIEW_RESAMPLING=MODE: no such value, expected one of AVERAGE, NEAREST"):
        predict(made(numbers=HEIGHTS), out / "map.tif", creation_options={"OVERVIEW_RESAMPLING": "mode"})
    with pytest.raises(OutputError, match="OVERVIEW_RESAMPLING=AVERAGE: no such value, expected one of MODE, NEAREST"):
        predict(made(), out / "map.tif", creation_options={"OVERVIEW_RESAMPLING": "average"})


@pytest.mark.parametrize(("kind", "size"), [("numbers", 4), ("classes", 1)])
def test_room_on_the_disk_is_that_of_the_finer_map_in_its_type(
    made: HeadFactory, out: Path, monkeypatch: pytest.MonkeyPatch, kind: str, size: int
) -> None:
    head = made(numbers=HEIGHTS if kind == "numbers" else None, scale=4)
    needed = math.ceil(96 * 128 * 16 * size * 11 / 3) + geotiff.SPARE_BYTES
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=needed - 1))
    with pytest.raises(OutputError, match="GB free, a map of 196608 pixels may need"):
        predict(head, out / "map.tif")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=needed))
    predict(head, out / "map.tif")


# --- what people see


def test_the_qgis_style_is_the_ramp_over_what_the_labels_span(tmp_path: Path) -> None:
    numbers = Numbers(unit="t/ha", low=-5.0, high=45.0)
    style.write_ramp_qml(tmp_path / "map.qml", numbers)
    renderer = ElementTree.parse(tmp_path / "map.qml").find("pipe/rasterrenderer")
    assert renderer is not None
    assert (renderer.get("type"), renderer.get("band")) == ("singlebandpseudocolor", "1")
    shader = renderer.find("rastershader/colorrampshader")
    assert shader is not None
    assert (shader.get("colorRampType"), shader.get("clip")) == ("INTERPOLATED", "0")
    for element, low, high in (
        (renderer, "classificationMin", "classificationMax"),
        (shader, "minimumValue", "maximumValue"),
    ):
        assert (float(element.get(low, "")), float(element.get(high, ""))) == (-5.0, 45.0)
    items = shader.findall("item")
    values = [float(item.get("value", "")) for item in items]
    assert values == pytest.approx(np.linspace(-5, 45, len(items)))
    assert [items[0].get("label"), items[1].get("label"), items[-1].get("label")] == ["-5 t/ha", "-2.5 t/ha", "45 t/ha"]
    # What QGIS makes of the items is viridis all along, and the ramp names the same colours.
    colors = np.array([style.rgb(item.get("color", "")) for item in items])
    everywhere = np.linspace(0, 1, 201)
    shown = np.stack([np.interp(everywhere, np.linspace(0, 1, len(items)), channel) for channel in colors.T], 1)
    assert np.abs(shown - colormaps["viridis"](everywhere)[:, :3] * 255).max() < 4
    ramp = {prop.get("k"): prop.get("v", "") for prop in shader.findall("colorramp/prop")}
    between = [stop.split(";")[1] for stop in ramp["stops"].split(":")]
    named = [list(map(int, color.split(","))) for color in (ramp["color1"], *between, ramp["color2"])]
    assert named == [[*color, 255] for color in colors.tolist()]
    legend = shader.find("rampLegendSettings")
    assert legend is not None
    assert legend.get("suffix") == " t/ha"


def test_numbers_are_drawn_in_the_ramps_colours() -> None:
    viridis = (colormaps["viridis"]([0.0, 0.5, 1.0])[:, :3] * 255).round()
    values = np.array([[0.0, 15.0, 30.0], [-99.0, np.nan, 99.0]], np.float32)
    image = picture.number_image(values, HEIGHTS)
    assert image.dtype == np.uint8
    np.testing.assert_allclose(image[0], viridis, atol=1)
    assert np.array_equal(image[1, ::2], image[0, ::2])
    assert tuple(image[1, 1]) == style.rgb(picture.UNCLASSED)


@pytest.mark.parametrize("shape", [(1, 1), (2000, 20), (20, 2000)])
@pytest.mark.parametrize(
    ("low", "high", "pointed"), [(0.0, 30.0, "neither"), (5.0, 30.0, "min"), (0.0, 20.0, "max"), (5.0, 5.0, "both")]
)
def test_a_quicklook_names_unit_and_figures(
    tmp_path: Path, shape: tuple[int, int], low: float, high: float, pointed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    extended: list[str] = []
    draw = Figure.colorbar

    def colorbar(figure: Figure, *arguments: Any, extend: str, **options: Any) -> Any:
        extended.append(extend)
        return draw(figure, *arguments, extend=extend, **options)

    monkeypatch.setattr(Figure, "colorbar", colorbar)
    geobox = GeoBox(shape, Affine(10.0, 0.0, WEST, 0.0, -10.0, NORTH), "EPSG:32633")
    found = NumberStatistics("$ha", 100, 1.25, 12_345.6, 23.5, 0.004567)
    values = np.full(tuple(min(size, 100) for size in shape), 7, np.float32)
    numbers = Numbers(unit="$ha", low=low, high=high)
    figure = picture.number_figure(values, geobox, numbers, found, title="A $ region", attribution="© $ all " * 300)
    picture.save_png(figure, tmp_path / "map.png")
    assert {"$ha", "lowest", "1.25", "12,346", "23.5", "0.004567"} <= {text.get_text() for text in figure.texts}
    assert extended == [pointed]
    assert max(figure.get_size_inches()) < 16


def test_the_command_maps_numbers_on_the_finer_grid(
    made: HeadFactory, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made(numbers=HEIGHTS, scale=4).save(out / "head.safetensors")
    arguments = ["predict", str(out / "head.safetensors"), "-o", str(out / "map.tif")]
    assert _run(arguments) == 0
    values = read_raster(out / "map.tif", 1).astype(np.float64)
    said, told = capsys.readouterr()
    assert "(512 x 384 px, 2017-02-16," in said
    assert f"{values.min():.4g} m to {values.max():.4g} m, mean {values.mean():.4g} m" in said
    assert f"next: open {out / 'map.tif'} in QGIS, which shows its colours and unit" in told
    assert _run([*arguments, "--overwrite", "--json"]) == 0
    (document,) = json.loads(capsys.readouterr().out)["maps"]
    assert (document["width"], document["height"]) == (512, 384)
    assert document["statistics"]["unit"] == "m"
    assert document["statistics"]["pixels"] == 512 * 384
    assert document["statistics"]["mean"] == pytest.approx(values.mean())
    assert "pixels" not in document


def test_summaries_read_as_sentences() -> None:
    found = NumberStatistics("m", 10, 0.0, 12.3456, 1234.5, 3.0)
    assert found.line() == "0 m to 1,234 m, mean 12.35 m, standard deviation 3 m"
    counts = ClassCounts({entry.name: pixels for entry, pixels in zip(CLASSES, (1, 0, 3), strict=True)})
    assert counts.line() == 'water 25%, wood & "scrub" <5 m 0%, Röhricht 75%'

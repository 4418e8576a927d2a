"""Change: what differs between two dates is what their maps differ by, and its areas add up."""

from __future__ import annotations

import csv
import datetime as dt
import json
from pathlib import Path
from typing import Any, Literal
from xml.etree import ElementTree

import numpy as np
import pytest
import rasterio
import rasterio.shutil
from agreement import assert_same_classes
from factories import CLASSES, FIRST, LAST, RegionFactory, RegionHeaderFactory, box_of, make_head, read_raster

from lianet_user.cli import _run
from lianet_user.errors import DateError, InputError, OutputError
from lianet_user.field.config import HeadInput
from lianet_user.files.header import BandQuality, ClassEntry, Numbers, Quality
from lianet_user.geo.grid import Window
from lianet_user.head import Head
from lianet_user.maps import MapArea
from lianet_user.maps.change import ChangeResult, TransitionProduct
from lianet_user.maps.change import change as map_change
from lianet_user.maps.summary import NumberStatistics
from lianet_user.region import Region

COUNT = len(CLASSES)

pytestmark = pytest.mark.usefixtures("coarse_figures")


def change(source: Region | Head, output: Path, **options: Any) -> ChangeResult:
    return map_change(source, output, **({"first": FIRST, "last": LAST} | options))


def styled_span(path: Path) -> tuple[float, float]:
    """The lowest and the highest number that a QGIS style tells apart."""
    style = ElementTree.parse(path).find("pipe/rasterrenderer")
    assert style is not None
    return float(style.attrib["classificationMin"]), float(style.attrib["classificationMax"])


def test_change_of_a_region_is_the_mean_difference_of_its_bands(make_region: RegionFactory, tmp_path: Path) -> None:
    region = make_region(dates=2)
    result = change(region, tmp_path / "change.tif")
    before, after = (region.reconstruct(region.window, date).numpy() for date in (FIRST, LAST))
    with rasterio.open(result.path) as dataset:
        values = dataset.read(1)
        assert "absolute difference in reflectance" in dataset.tags()["QUANTITY"]
        assert dataset.tags()["DATE"] == "2017-02-16, 2017-03-16"
    assert values.max() > 0.01
    assert np.abs(values - np.abs(after - before).mean(0)).max() < 1e-6
    assert isinstance(result.summary, NumberStatistics)
    assert result.table is None
    assert result.noise is None
    low, high = styled_span(tmp_path / "change.qml")
    assert low == 0
    assert 0 < high <= result.summary.maximum


def test_noise_is_what_two_independent_errors_differ_by_on_average(make_region: RegionFactory, tmp_path: Path) -> None:
    def quality(date: dt.date, error: float) -> Quality:
        unknown = {"psnr_db": None, "rmse_over_std": None, "ssim": None}
        bands = tuple(BandQuality(band=f"B{n + 2:02}", rmse=error, **unknown) for n in range(3))
        return Quality(date=date, psnr_db=None, bands=bands)

    region = make_region(dates=2, quality=(quality(FIRST, 0.003), quality(LAST, 0.004)))
    noise = change(region, tmp_path / "change.tif").noise
    draws = np.random.default_rng(0).normal(0, (0.003, 0.004), (100_000, 2))
    assert noise == pytest.approx(np.abs(draws[:, 0] - draws[:, 1]).mean(), rel=0.01)


def test_codes_say_what_a_pixel_was_and_what_it_became(head: Head, tmp_path: Path) -> None:
    result = change(head, tmp_path / "change.tif")
    before, after = (head.values(head.region.window, date).astype(int) for date in (FIRST, LAST))
    with rasterio.open(result.path) as dataset:
        values, tags = dataset.read(1), dataset.tags()
        assert (dataset.dtypes, dataset.nodata) == (("uint8",), 255)
    assert (before != after).any()
    assert np.array_equal(values, before * COUNT + after)
    expected = np.array([[np.sum((before == b) & (after == a)) for a in range(COUNT)] for b in range(COUNT)])
    assert np.array_equal(result.pixels, expected)
    assert np.allclose(result.hectares, expected * 0.01, rtol=2e-4)  # pixels of 10 m
    names = [entry["name"] for entry in json.loads(tags["CLASSES"])]
    assert names[:3] == ["water (unchanged)", 'water -> wood & "scrub" <5 m', "water -> Röhricht"]


def test_the_table_beside_the_map_adds_up(head: Head, tmp_path: Path) -> None:
    result = change(head, tmp_path / "change.tif")
    assert result.table == tmp_path / "change.csv"
    with open(result.table, newline="", encoding="utf-8") as file:
        heading, *rows = csv.reader(file)
    assert heading[1:] == [*(entry.name for entry in CLASSES), "sum"]
    numbers = np.array([row[1:] for row in rows], float)
    assert np.allclose(numbers[:-1, :-1], result.hectares, atol=1e-4)
    assert np.allclose(numbers[:, -1], numbers[:, :-1].sum(1), atol=1e-3)
    assert numbers[-1, -1] == pytest.approx(96 * 128 * 0.01, rel=2e-4)


def test_other_programs_read_the_names_of_changes(head: Head, tmp_path: Path) -> None:
    result = change(head, tmp_path / "change.tif")
    rasterio.shutil.copy(result.path, tmp_path / "change.vrt", driver="VRT")
    names = [element.text for element in ElementTree.parse(tmp_path / "change.vrt").iter("Category")]
    assert names == [f"{b.name} -> {a.name}" if a != b else f"{b.name} (unchanged)" for b in CLASSES for a in CLASSES]
    palette = ElementTree.parse(tmp_path / "change.qml").iter("paletteEntry")
    entries = {int(entry.attrib["value"]): entry.attrib["label"] for entry in palette}
    assert entries == {int(code): names[code] for code in np.flatnonzero(result.pixels.ravel())}
    with rasterio.open(result.path) as dataset:
        colors = dataset.colormap(1)
    kept, changed = colors[0][:3], colors[COUNT][:3]
    assert min(kept) > 200  # pale
    assert max(abs(one - other) for one, other in zip(changed, (43, 123, 186), strict=True)) < 60  # nearly water's


@pytest.mark.parametrize("count", [15, 16, 40])
def test_codes_of_many_classes_come_apart_again(count: int, tmp_path: Path) -> None:
    classes = tuple(ClassEntry(name=f"class {n} {'x' * 100}", color=f"#{n:02x}8000") for n in range(count))
    product = TransitionProduct(classes)
    assert product.profile.dtype == ("uint8" if count == 15 else "uint16")
    before, after = np.divmod(np.arange(count**2), count)
    values = product.codes(before.astype(np.uint8), after.astype(np.uint8)).reshape(1, count, count)
    assert len(np.unique(values)) == count**2
    assert product.profile.nodata not in values
    product.add(values)
    product.add(product.profile.empty(Window(0, 0, 5, 5)))
    assert np.array_equal(product.matrix, np.ones((count, count)))
    product.write_pam(tmp_path / "pam.xml")
    rows = ElementTree.parse(tmp_path / "pam.xml").findall(".//Row")
    assert [int(str(row[0].text)) for row in rows] == list(range(count**2))


def test_areas_are_those_on_the_ground_whatever_the_grid(head: Head, tmp_path: Path) -> None:
    own = change(head, tmp_path / "own.tif")
    degrees = change(head, tmp_path / "degrees.tif", area=MapArea(crs="EPSG:4326"))
    assert degrees.hectares.sum() == pytest.approx(own.hectares.sum(), rel=0.02)
    assert np.allclose(degrees.hectares / degrees.hectares.sum(), own.hectares / own.hectares.sum(), atol=0.03)


def test_a_box_holds_what_the_whole_map_holds_there(head: Head, tmp_path: Path) -> None:
    window = Window(20, 30, 40, 50)
    change(head, tmp_path / "part.tif", area=MapArea(**box_of(head.region, window)))
    change(head, tmp_path / "whole.tif")
    part, full = (read_raster(tmp_path / name, 1) for name in ("part.tif", "whole.tif"))
    found = [np.divmod(part, COUNT), np.divmod(full[window.slices], COUNT)]
    for date, *classes in zip((FIRST, LAST), *found, strict=True):
        answers = head.answers(window, date)
        for each in classes:
            assert_same_classes(each, answers)


@pytest.mark.parametrize("scale", [1, 4])
def test_numbers_differ_by_last_minus_first(
    region_header: RegionHeaderFactory, tmp_path: Path, scale: Literal[1, 4]
) -> None:
    head = make_head(region_header(dates=2), tmp_path, numbers=Numbers(unit="m", scale=30, low=0, high=30), scale=scale)
    result = change(head, tmp_path / "change.tif")
    before, after = (head.values(head.region.window, date) for date in (FIRST, LAST))
    with rasterio.open(result.path) as dataset:
        assert np.abs(dataset.read(1) - (after - before)).max() < 1e-3
        assert dataset.units == ("m",)
    low, high = styled_span(tmp_path / "change.qml")
    assert low == -high
    assert (result.table, result.classes) == (None, ())


def test_a_head_that_reads_no_date_is_refused(head: Head, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs: tuple[HeadInput, ...] = ("encoding",)
    config = head.header.head.model_copy(update={"inputs": inputs})
    monkeypatch.setattr(head, "header", head.header.model_copy(update={"head": config}))
    with pytest.raises(InputError, match="its map is the same at each"):
        change(head, tmp_path / "change.tif")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"first": LAST, "last": FIRST}, "earlier date to a later"),
        ({"first": FIRST, "last": FIRST}, "earlier date to a later"),
        ({"first": "soon"}, "`first` 'soon' is not a date"),
        ({"last": "2017-03-20"}, "`last` 2017-03-20"),
    ],
)
def test_dates_that_cannot_be_are_refused_by_their_option(
    head: Head, tmp_path: Path, options: dict[str, Any], says: str
) -> None:
    for source in (head, head.region):
        with pytest.raises(DateError, match=says):
            change(source, tmp_path / "change.tif", **options)
    assert not list(tmp_path.glob("change*"))


def test_a_table_that_exists_is_not_replaced_unasked(head: Head, tmp_path: Path) -> None:
    (tmp_path / "change.csv").write_text("mine")
    with pytest.raises(OutputError, match="overwrite"):
        change(head, tmp_path / "change.tif")
    assert (tmp_path / "change.csv").read_text() == "mine"
    assert not (tmp_path / "change.tif").exists()


def test_one_command_tells_a_region_from_a_head(head: Head, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def run(source: Path, name: str) -> int:
        dates = ["--from", str(FIRST), "--to", str(LAST)]
        return _run(["change", str(source), *dates, "--json", "-o", str(tmp_path / name)])

    head.save(tmp_path / "head.safetensors")
    assert run(tmp_path / "head.safetensors", "a.tif") == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["classes"] == [entry.name for entry in CLASSES]
    assert np.sum(answer["pixels_from_to"]) == 96 * 128
    assert run(Path(str(head.region.path)), "b.tif") == 0
    assert "statistics" in json.loads(capsys.readouterr().out)
    (tmp_path / "other.safetensors").write_bytes(b"nothing of ours")
    assert run(tmp_path / "other.safetensors", "c.tif") == 2
    assert len(capsys.readouterr().err.splitlines()) == 1

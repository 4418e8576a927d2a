"""Heads: tied to one region, found again with it, and the same map however it is asked for."""

from __future__ import annotations

import datetime as dt
import shutil
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from affine import Affine
from agreement import assert_same_classes
from factories import RegionFactory
from heads import entries, random_head
from odc.geo.crs import CRS
from odc.geo.geobox import GeoBox
from odc.geo.xr import ODCExtension  # noqa: F401  # gives arrays their `odc`

from lianet_user.errors import AreaError, ArtifactError, DateError, RegionMismatchError
from lianet_user.field.config import HeadInput, preset
from lianet_user.files.artifact import open_head_file, write_artifact
from lianet_user.files.header import IGNORE, Numbers
from lianet_user.geo.grid import Window, bounds_of, window_geobox
from lianet_user.head import Head
from lianet_user.region import Region

pytestmark = pytest.mark.numerics

FIRST, SECOND = dt.date(2017, 2, 16), dt.date(2017, 3, 16)


CLASSES = entries(("water", "wood and scrub", "field", "town"))


def make_head(
    region: Region,
    *,
    inputs: tuple[HeadInput, ...] = ("bands", "context"),
    dates: tuple[dt.date, ...] = (FIRST,),
    numbers: Numbers | None = None,
    scale: Literal[1, 4] = 1,
) -> Head:
    """A head of random layers; with `numbers` it answers with a number."""
    classes = () if numbers else CLASSES
    head = random_head(region, inputs, classes=classes, numbers=numbers, members=2, scale=scale, dates=dates, seed=3)
    if numbers:  # above zero, where LeakyReLU lets all of it through
        with torch.no_grad():
            for member in head.layers.members:
                list(member.parameters())[-1].fill_(2.0)
    return Head(head.header, head.layers, region)


@pytest.fixture
def region(make_region: RegionFactory) -> Region:
    return make_region()


@pytest.fixture
def head(region: Region) -> Head:
    return make_head(region)


@pytest.fixture
def saved(head: Head, tmp_path: Path) -> Path:
    """The head's file."""
    head.save(tmp_path / "head.safetensors")
    return tmp_path / "head.safetensors"


@pytest.fixture
def apart(head: Head, tmp_path: Path) -> Path:
    """The head's file in a folder where its region is not."""
    (tmp_path / "elsewhere").mkdir()
    head.save(tmp_path / "elsewhere" / "head.safetensors")
    return tmp_path / "elsewhere" / "head.safetensors"


def path_of(region: Region) -> Path:
    assert region.path is not None
    return region.path


# --- files


def test_an_opened_head_classifies_as_the_saved_one(head: Head, saved: Path) -> None:
    opened, window = Head.open(saved), head.region.window
    classes = head.values(window)
    assert len(np.unique(classes)) >= 3
    assert np.array_equal(opened.values(window), classes)
    assert torch.equal(opened.answers(window), head.answers(window))
    assert opened.header == head.header
    assert opened.region.path == head.region.path


def test_a_head_file_holds_the_layers_as_they_were_trained(head: Head, saved: Path) -> None:
    stored = open_head_file(saved).tensors()
    trained = {n: t.numpy() for n, t in head.layers.state_dict().items() if not n.endswith("num_batches_tracked")}
    assert any(name.endswith("running_var") for name in trained)  # not folded
    assert stored.keys() == trained.keys()
    assert all(np.array_equal(stored[name], trained[name]) for name in trained)


def test_a_head_with_a_missing_tensor_is_refused(head: Head, saved: Path) -> None:
    tensors = open_head_file(saved).tensors()
    del tensors["members.1.3.bias"]
    write_artifact(saved, head.header, tensors)
    with pytest.raises(ArtifactError, match=r"members\.1\.3\.bias"):
        Head.open(saved)


def test_a_head_refuses_a_region_that_it_was_not_trained_on(
    head: Head, saved: Path, make_region: RegionFactory
) -> None:
    other = make_region(name="other", seed=1, lineage="1" * 32)
    with pytest.raises(RegionMismatchError, match=r"other\.safetensors is not the region") as caught:
        Head.open(saved, other.path)
    assert head.header.region.sha256[:12] in str(caught.value)
    assert str(other.sha256)[:12] in str(caught.value)


def test_a_region_encoded_anew_under_the_same_path_is_refused(
    head: Head, saved: Path, make_region: RegionFactory
) -> None:
    assert make_region(seed=1, lineage="1" * 32).path == head.region.path
    with pytest.raises(RegionMismatchError, match="is not the region"):
        Head.open(saved)


def test_a_region_that_moved_is_found_beside_the_head(head: Head, apart: Path) -> None:
    moved = path_of(head.region).rename(apart.with_name(path_of(head.region).name))
    opened = Head.open(apart)
    assert opened.region.path == moved
    assert np.array_equal(opened.values(head.region.window), head.values(head.region.window))


def test_a_region_that_is_given_is_taken_before_the_recorded_one(head: Head, saved: Path) -> None:
    copy = Path(shutil.copy(path_of(head.region), saved.with_name("copy.safetensors")))
    assert Head.open(saved, copy).region.path == copy


def test_a_missing_region_is_one_line_with_the_places_searched(head: Head, apart: Path) -> None:
    recorded = path_of(head.region)
    recorded.unlink()
    with pytest.raises(ArtifactError) as caught:
        Head.open(apart)
    message = str(caught.value)
    assert "\n" not in message
    for place in (str(recorded), str(apart.with_name(recorded.name)), "`region`"):
        assert place in message


# --- windows


def test_answers_are_the_trained_layers_on_the_whole_region(head: Head) -> None:
    inputs = head.region.head_input(head.region.window, None, head.header.head.inputs)
    with torch.inference_mode():
        expected = head.layers(inputs[None])[0]
    found = head.answers(head.region.window)
    assert found.shape == (4, 96, 128)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
    torch.testing.assert_close(found.exp().sum(0), torch.ones(96, 128), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("numbers", "scale"),
    [
        pytest.param(None, 1, id="classes"),
        pytest.param(None, 4, id="classes on a finer grid"),
        pytest.param(Numbers(offset=5.0, scale=2.0, low=0.0, high=10.0), 4, id="numbers on a finer grid"),
    ],
)
def test_answers_of_a_window_are_that_part_of_the_whole(
    make_region: RegionFactory, numbers: Numbers | None, scale: Literal[1, 4]
) -> None:
    geobox = GeoBox((101, 253), Affine(10.0, 0.0, 330_000.0, 0.0, -10.0, 5_820_000.0), "EPSG:32633")
    field = preset("lite", height=101, width=253, dates=1, bands=3, table_size=2**12)
    region = make_region(geobox=geobox, field=field)
    head = make_head(region, inputs=("features", "bands", "context"), numbers=numbers, scale=scale)
    whole = head.answers(region.window)
    assert whole.shape == (1 if numbers else 4, 101 * scale, 253 * scale)
    assert whole.std() > 0.1
    for tile in (Window(0, 0, 50, 83), Window(50, 83, 50, 83), Window(100, 166, 1, 87), Window(31, 120, 1, 1)):
        part = head.answers(tile)
        torch.testing.assert_close(part, whole[(slice(None), *tile.scaled(scale).slices)], atol=1e-4, rtol=0)
        assert np.array_equal(head.values(tile), (part[0] if numbers else part.argmax(0)).numpy())


def test_numbers_are_answered_in_their_unit(region: Region) -> None:
    plain = make_head(region, numbers=Numbers(low=0.0, high=1.0))
    scaled = make_head(region, numbers=Numbers(offset=-3.0, scale=25.0, low=0.0, high=1.0))
    window = Window(10, 20, 30, 40)
    torch.testing.assert_close(scaled.answers(window), 25 * plain.answers(window) - 3)
    values = scaled.values(window)
    assert values.dtype == np.float32
    assert values.shape == (30, 40)
    assert values.std() > 0.1
    assert np.array_equal(values, scaled.answers(window)[0].numpy())


def test_a_finer_head_lies_on_the_same_ground(region: Region) -> None:
    head = make_head(region, scale=4)
    assert head.geobox.shape == (384, 512)
    assert head.geobox.boundingbox == region.geobox.boundingbox
    assert (head.geobox.resolution.x, head.geobox.resolution.y) == (2.5, -2.5)


def test_tiles_are_the_map_row_by_row(region: Region) -> None:
    head = make_head(region, numbers=Numbers(low=0.0, high=1.0), scale=4)
    window = Window(5, 9, 31, 47)
    tiles = list(head.map_tiles(window, tile=83))
    assert [tile.within(window).scaled(4) for tile in tiles][:4] == [
        Window(0, 0, 80, 80),
        Window(0, 80, 80, 80),
        Window(0, 160, 80, 28),
        Window(80, 0, 44, 80),
    ]
    array = np.full((124, 188), np.nan, np.float32)
    for tile in tiles:
        array[tile.within(window).scaled(4).slices] = head.values(tile)
    np.testing.assert_allclose(array, head.values(window), atol=1e-4, rtol=0)


def test_a_head_answers_at_its_own_date_unless_told_otherwise(make_region: RegionFactory) -> None:
    head = make_head(make_region(dates=2), dates=(SECOND,))
    window = Window(10, 10, 20, 20)
    second = head.answers(window, SECOND)
    assert torch.equal(head.answers(window), second)
    assert not torch.equal(head.answers(window, FIRST), second)
    with pytest.raises(DateError, match="2019-01-01"):
        head.values(window, dt.date(2019, 1, 1))


def test_a_head_trained_on_several_dates_asks_for_one(make_region: RegionFactory) -> None:
    head = make_head(make_region(dates=2), dates=(FIRST, SECOND))
    with pytest.raises(DateError, match="none was chosen"):
        head.values(Window(0, 0, 8, 8))


# --- maps in memory


def test_predict_maps_a_box_on_the_regions_grid(head: Head) -> None:
    window = Window(13, 7, 31, 45)
    geobox = window_geobox(head.region.geobox, window)
    array = head.predict(bounds_of(geobox), "EPSG:32633")
    assert array.dims == ("y", "x")
    assert array.shape == (31, 45)
    assert array.dtype == np.uint8
    assert array.odc.crs.epsg == 32633
    assert array.odc.geobox == geobox
    assert np.array_equal(array.x, 330_000 + 10 * (7 + np.arange(45)) + 5)
    assert np.array_equal(array.y, 5_820_000 - 10 * (13 + np.arange(31)) - 5)
    assert np.array_equal(array.to_numpy(), head.values(window))
    assert array.odc.nodata == IGNORE
    assert array.name == "class"
    assert array.time.dt.date.item() == head.acquisition_date(None)
    assert array.attribution == head.header.attribution
    assert array.flag_values.tolist() == [0, 1, 2, 3]
    assert array.flag_meanings.split() == ["water", "wood_and_scrub", "field", "town"]


def test_predict_maps_every_pixel_that_a_box_in_degrees_touches(head: Head) -> None:
    west, south, east, north = bounds_of(head.region.geobox)
    degrees = bounds_of(head.region.geobox, CRS("EPSG:4326"))
    middle = (
        degrees[0] * 0.6 + degrees[2] * 0.4, degrees[1] * 0.6 + degrees[3] * 0.4,
        degrees[0] * 0.4 + degrees[2] * 0.6, degrees[1] * 0.4 + degrees[3] * 0.6,
    )  # fmt: skip
    array = head.predict(middle)
    box = array.odc.geobox.boundingbox
    assert west < box.left < box.right < east
    assert south < box.bottom < box.top < north
    asked = array.odc.geobox.geographic_extent.boundingbox
    assert asked.left <= middle[0] < middle[2] <= asked.right
    assert asked.bottom <= middle[1] < middle[3] <= asked.top


def test_predict_without_a_box_maps_the_region_without_seams(head: Head) -> None:
    whole = head.answers(head.region.window)
    array = head.predict(tile=41)
    assert array.odc.geobox == head.region.geobox
    assert_same_classes(array.to_numpy(), whole)


def test_predict_refuses_a_box_outside_the_region(head: Head) -> None:
    with pytest.raises(AreaError, match="outside the region"):
        head.predict((0.0, 0.0, 1.0, 1.0))

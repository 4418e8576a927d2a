"""Heads: tied to one region, found again with it, and the same map however it is asked for."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import numpy as np
import pytest
import torch
from affine import Affine
from conftest import RegionFactory, randomize
from odc.geo.crs import CRS
from odc.geo.geobox import GeoBox
from odc.geo.xr import ODCExtension  # noqa: F401  # gives arrays their `odc`

from lianet_user.artifact import open_head_file, write_artifact
from lianet_user.errors import AreaError, ArtifactError, DateError, RegionMismatchError
from lianet_user.field.config import HeadConfig, HeadInput, preset
from lianet_user.field.head import HeadEnsemble
from lianet_user.grid import Window, bounds_of, window_geobox
from lianet_user.head import Head
from lianet_user.header import IGNORE, ClassEntry, HeadHeader, Provenance, RegionRef
from lianet_user.region import Region

FIRST, SECOND = dt.date(2017, 2, 16), dt.date(2017, 3, 16)


def make_head(
    region: Region, *, inputs: tuple[HeadInput, ...] = ("bands", "context"), dates: tuple[dt.date, ...] = (FIRST,)
) -> Head:
    """A head of random layers."""
    classes = ("water", "wood and scrub", "field", "town")
    config = HeadConfig(
        inputs=inputs,
        in_channels=region.channels(inputs),
        widths=(16, 8),
        outputs=len(classes),
        norm="batch",
        members=2,
    )
    layers = HeadEnsemble(config)
    randomize(layers, seed=3)
    assert region.sha256 is not None
    header = HeadHeader(
        task="segmentation",
        classes=tuple(ClassEntry(name=name, color=f"#00000{n}") for n, name in enumerate(classes)),
        head=config,
        region=RegionRef(
            name=region.header.name, lineage=region.header.lineage, sha256=region.sha256, path=str(region.path)
        ),
        dates=dates,
        scores=None,
        provenance=Provenance(created=dt.datetime(2025, 1, 1, tzinfo=dt.UTC), source="x", settings={}, software={}),
        attribution="",
    )
    return Head(header, layers, region)


@pytest.fixture
def region(make_region: RegionFactory) -> Region:
    return make_region()


@pytest.fixture
def head(region: Region) -> Head:
    return make_head(region)


# --- files


def test_an_opened_head_classifies_as_the_saved_one(head: Head, tmp_path: Path) -> None:
    head.save(tmp_path / "head.safetensors")
    opened = Head.open(tmp_path / "head.safetensors")
    window = head.region.window
    classes = head.classify(window)
    assert len(np.unique(classes)) >= 3
    assert np.array_equal(opened.classify(window), classes)
    assert torch.equal(opened.log_probabilities(window), head.log_probabilities(window))
    assert opened.header == head.header
    assert opened.region.path == head.region.path


def test_a_head_file_holds_the_layers_as_they_were_trained(head: Head, tmp_path: Path) -> None:
    head.save(tmp_path / "head.safetensors")
    stored = open_head_file(tmp_path / "head.safetensors").tensors()
    trained = {n: t.numpy() for n, t in head.layers.state_dict().items() if not n.endswith("num_batches_tracked")}
    assert any(name.endswith("running_var") for name in trained)  # not folded
    assert stored.keys() == trained.keys()
    assert all(np.array_equal(stored[name], trained[name]) for name in trained)


def test_a_head_with_a_missing_tensor_is_refused(head: Head, tmp_path: Path) -> None:
    path = tmp_path / "head.safetensors"
    head.save(path)
    tensors = open_head_file(path).tensors()
    del tensors["members.1.3.bias"]
    write_artifact(path, head.header, tensors)
    with pytest.raises(ArtifactError, match=r"members\.1\.3\.bias"):
        Head.open(path)


def test_a_head_refuses_a_region_that_it_was_not_trained_on(
    head: Head, make_region: RegionFactory, tmp_path: Path
) -> None:
    head.save(tmp_path / "head.safetensors")
    other = make_region(name="other", seed=1)
    with pytest.raises(RegionMismatchError, match=r"other\.safetensors is not the region") as caught:
        Head.open(tmp_path / "head.safetensors", other.path)
    assert head.header.region.sha256[:12] in str(caught.value)
    assert str(other.sha256)[:12] in str(caught.value)


def test_a_region_encoded_anew_under_the_same_path_is_refused(
    head: Head, make_region: RegionFactory, tmp_path: Path
) -> None:
    head.save(tmp_path / "head.safetensors")
    assert make_region(seed=1).path == head.region.path
    with pytest.raises(RegionMismatchError):
        Head.open(tmp_path / "head.safetensors")


def test_the_region_is_found_beside_the_head_when_it_is_gone_from_the_recorded_path(head: Head, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    head.save(elsewhere / "head.safetensors")
    assert head.region.path is not None
    head.region.path.rename(elsewhere / head.region.path.name)
    opened = Head.open(elsewhere / "head.safetensors")
    assert opened.region.path == elsewhere / head.region.path.name
    assert np.array_equal(opened.classify(head.region.window), head.classify(head.region.window))


def test_a_region_that_is_given_is_taken_before_the_recorded_one(head: Head, tmp_path: Path) -> None:
    head.save(tmp_path / "head.safetensors")
    assert head.region.path is not None
    copy = tmp_path / "copy.safetensors"
    copy.write_bytes(head.region.path.read_bytes())
    assert Head.open(tmp_path / "head.safetensors", copy).region.path == copy


def test_a_region_that_is_nowhere_is_one_line_that_says_where_it_was_looked_for(head: Head, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    head.save(elsewhere / "head.safetensors")
    assert head.region.path is not None
    head.region.path.unlink()
    with pytest.raises(ArtifactError) as caught:
        Head.open(elsewhere / "head.safetensors")
    message = str(caught.value)
    assert "\n" not in message
    assert str(head.region.path) in message
    assert str(elsewhere / head.region.path.name) in message
    assert "--region" in message


# --- windows


def test_log_probabilities_are_the_trained_layers_on_the_whole_region(head: Head) -> None:
    inputs = head.region.head_input(head.region.window, None, head.header.head.inputs)
    with torch.inference_mode():
        expected = head.layers(inputs[None])[0]
    found = head.log_probabilities(head.region.window)
    assert found.shape == (4, 96, 128)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
    torch.testing.assert_close(found.exp().sum(0), torch.ones(96, 128), atol=1e-5, rtol=0)


def test_log_probabilities_of_a_window_are_that_part_of_the_whole(make_region: RegionFactory) -> None:
    geobox = GeoBox((101, 253), Affine(10.0, 0.0, 330_000.0, 0.0, -10.0, 5_820_000.0), "EPSG:32633")
    field = preset("lite", height=101, width=253, dates=1, bands=3, table_size=2**12)
    head = make_head(make_region(geobox=geobox, field=field), inputs=("features", "bands", "context"))
    whole = head.log_probabilities(head.region.window)
    assert whole.std() > 0.1
    for tile in (Window(0, 0, 50, 83), Window(50, 83, 50, 83), Window(100, 166, 1, 87), Window(31, 120, 1, 1)):
        part = head.log_probabilities(tile)
        torch.testing.assert_close(part, whole[(slice(None), *tile.slices)], atol=1e-4, rtol=0)
        assert np.array_equal(head.classify(tile), part.argmax(0).numpy())


def test_a_head_answers_for_the_date_it_was_trained_on_unless_told_otherwise(make_region: RegionFactory) -> None:
    head = make_head(make_region(dates=2), dates=(SECOND,))
    window = Window(10, 10, 20, 20)
    second = head.log_probabilities(window, SECOND)
    assert torch.equal(head.log_probabilities(window), second)
    assert not torch.equal(head.log_probabilities(window, FIRST), second)
    with pytest.raises(DateError, match="2019-01-01"):
        head.classify(window, dt.date(2019, 1, 1))


def test_a_head_trained_on_several_dates_asks_for_one(make_region: RegionFactory) -> None:
    head = make_head(make_region(dates=2), dates=(FIRST, SECOND))
    with pytest.raises(DateError, match="none was chosen"):
        head.classify(Window(0, 0, 8, 8))


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
    assert np.array_equal(array.to_numpy(), head.classify(window))
    assert array.odc.nodata == IGNORE
    assert array.flag_values == [0, 1, 2, 3]
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


def test_predict_without_a_box_maps_the_region_without_seams(head: Head, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = head.classify(head.region.window)
    monkeypatch.setattr("lianet_user.head.TILE", 41)
    array = head.predict()
    assert array.odc.geobox == head.region.geobox
    # A pixel whose two best classes are equal within rounding may go either way.
    assert (array.to_numpy() == whole).mean() > 0.999


def test_predict_refuses_a_box_outside_the_region(head: Head) -> None:
    with pytest.raises(AreaError, match="outside the region"):
        head.predict((0.0, 0.0, 1.0, 1.0))

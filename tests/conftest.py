"""Fixtures that several modules' tests share."""

from __future__ import annotations

import datetime as dt
import os
import shutil
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import hypothesis
import numpy as np
import pytest
import rasterio
import torch
from affine import Affine
from factories import (
    SCORES,
    Folder,
    RegionFactory,
    RegionHeaderFactory,
    make_head,
    patchy,
    saved_region,
    write_class_map,
)
from odc.geo.geobox import GeoBox

from lianet_user.field.config import preset
from lianet_user.field.model import answering_autocast
from lianet_user.files.header import Acquisition, Band, GridHeader, Provenance, RegionHeader
from lianet_user.head import Head
from lianet_user.maps import engine, picture
from lianet_user.region import Region

# How long an example takes says how busy the machine is, nothing about the code.
hypothesis.settings.register_profile("lianet", deadline=None)
hypothesis.settings.load_profile("lianet")


@pytest.fixture(scope="session", autouse=True)
def threads() -> None:
    """Several test runs beside each other do not fight for the cores; OMP_NUM_THREADS asks for more threads."""
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))


@pytest.fixture(scope="session", autouse=True)
def float32_answers() -> Iterator[None]:
    """Whatever the processor can, so that tests of what is computed need no room for how; `native_answers` undoes it."""
    with pytest.MonkeyPatch.context() as patch:
        for module in ("region", "head"):
            patch.setattr(f"lianet_user.{module}.answering_autocast", lambda device, precision: nullcontext())
        yield


@pytest.fixture
def native_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers in the precision that users get."""
    for module in ("region", "head"):
        monkeypatch.setattr(f"lianet_user.{module}.answering_autocast", answering_autocast)


@pytest.fixture
def coarse_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes the most time of a small map, and hardly a test looks at the picture."""
    monkeypatch.setattr(picture, "DPI", 30)


@pytest.fixture
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests of many maps whose pictures nobody opens."""
    monkeypatch.setattr(engine, "_draw", lambda job, geobox, made: made.png.touch())


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The real imagery and labels that models are made from; they lie beside the repository and are no part of it."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("needs the imagery and labels of ../shared/data, which are no part of the repository")
    return folder


@pytest.fixture(scope="session")
def small_geobox() -> GeoBox:
    """96 x 128 pixels of 10 m in UTM zone 33: its north-west corner is 330000 E, 5820000 N."""
    return GeoBox((96, 128), Affine(10.0, 0.0, 330_000.0, 0.0, -10.0, 5_820_000.0), "EPSG:32633")


@pytest.fixture(scope="session")
def region_header(small_geobox: GeoBox) -> RegionHeaderFactory:
    """Builds a valid header of a `lite` region on `small_geobox`; keywords replace any of its fields."""

    def build(*, geobox: GeoBox = small_geobox, dates: int = 1, band_count: int = 3, **fields: object) -> RegionHeader:
        height, width = geobox.shape
        document: dict[str, object] = {
            "name": "small",
            "title": "A small region",
            "grid": GridHeader.of(geobox),
            "bands": tuple(Band(name=f"B{n + 2:02}", gsd_m=10.0) for n in range(band_count)),
            "acquisitions": tuple(Acquisition(date=dt.date(2017, 2 + n, 16)) for n in range(dates)),
            "field": preset("lite", height=height, width=width, dates=dates, bands=band_count, table_size=2**10),
            "licence": "CC-BY-4.0",
            "attribution": "contains modified Copernicus Sentinel data 2017",
            "provenance": Provenance(
                created=dt.datetime(2025, 1, 1, tzinfo=dt.UTC),
                source="synthetic",
                settings={"steps": 10, "rate": 1e-3, "compiled": False, "note": None},
                software={"lianet-user": "0.1.0"},
            ),
            "lineage": "0" * 32,
        }
        return RegionHeader.model_validate(document | fields)

    return build


@pytest.fixture
def make_region(region_header: RegionHeaderFactory, small_geobox: GeoBox, tmp_path: Path) -> RegionFactory:
    """Saves a `lite` region with random weights and opens it; `name` is the file's, the rest as in `region_header`."""

    def make(*, geobox: GeoBox = small_geobox, name: str = "region", seed: int = 0, **fields: object) -> Region:
        return saved_region(region_header(geobox=geobox, **fields), tmp_path / f"{name}.safetensors", seed)

    return make


@pytest.fixture(scope="session")
def head(region_header: RegionHeaderFactory, tmp_path_factory: pytest.TempPathFactory) -> Head:
    """Of three classes on a region of two dates; made once, because it takes a second or two and nothing changes it."""
    return make_head(region_header(dates=2), tmp_path_factory.mktemp("head"), scores=SCORES)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """An empty folder for what a test writes."""
    path = tmp_path / "out"
    path.mkdir()
    return path


@pytest.fixture
def class_map(tmp_path: Path, small_geobox: GeoBox) -> Path:
    """A finished map of `patchy` classes, `map.tif`."""
    return write_class_map(tmp_path / "map.tif", small_geobox, patchy((96, 128)))


@pytest.fixture(scope="session")
def whole_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `folder` holds, written once."""
    from lianet_user import self_test

    folder = tmp_path_factory.mktemp("made") / "here"
    folder.mkdir()
    region = self_test.write_region(folder / "region.safetensors")
    self_test.write_head(folder / "head.safetensors", region)
    geobox = region.geobox
    values = (np.indices(geobox.shape).sum(0) // 16 % 2 + 1).astype(np.uint8)
    layout = {"driver": "GTiff", "count": 1, "dtype": "uint8", "nodata": 0, "transform": geobox.affine}
    height, width = geobox.shape
    with rasterio.open(folder / "labels.tif", "w", crs="EPSG:32633", height=height, width=width, **layout) as file:
        file.write(values, 1)
    # Moved, so that the head finds the region beside itself and never where it lay.
    return folder.rename(folder.with_name("whole"))


@pytest.fixture
def folder(whole_folder: Path, tmp_path: Path) -> Folder:
    """A region, a head and labels of a test's own."""
    copied = tmp_path / "files"
    shutil.copytree(whole_folder, copied)
    return Folder(copied)

"""Fixtures that several modules' tests share."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Sequence
from pathlib import Path

import hypothesis
import numpy as np
import pytest
import torch
from affine import Affine
from odc.geo.geobox import GeoBox
from torch import nn

from lianet_user.field.config import preset
from lianet_user.field.model import NeuralField
from lianet_user.grid import Window
from lianet_user.header import IGNORE, Acquisition, Band, ClassEntry, GridHeader, Provenance, RegionHeader
from lianet_user.imagery import Imagery, Patch, Resident
from lianet_user.labels import LabelMap, LabelReport, Labels
from lianet_user.labels.report import ClassCount
from lianet_user.region import Region, save_region

# How long an example takes says how busy the machine is, nothing about the code.
hypothesis.settings.register_profile("lianet", deadline=None)
hypothesis.settings.load_profile("lianet")

RegionHeaderFactory = Callable[..., RegionHeader]
RegionFactory = Callable[..., Region]


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Sums in one order, and several test runs beside each other do not fight for the cores."""
    torch.set_num_threads(1)


@torch.no_grad()
def randomize(module: nn.Module, seed: int = 0) -> None:
    """Weights that leave nothing out: tables and time vectors of order 1, and no norm that happens to do nothing."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(tensor: torch.Tensor, low: float, high: float) -> None:
        tensor.copy_(torch.rand(tensor.shape, generator=generator) * (high - low) + low)

    for name, tensor in module.state_dict().items():
        if name.endswith(("running_var", ".std")):
            uniform(tensor, 0.5, 1.5)
        elif name.endswith(("running_mean", ".mean", "bias")):
            uniform(tensor, -0.2, 0.2)
        elif tensor.dim() == 4:
            bound = (3.0 / tensor[0].numel()) ** 0.5
            uniform(tensor, -bound, bound)
        elif tensor.dim() == 2:
            uniform(tensor, -1.0, 1.0)
        elif tensor.dim() == 1:
            uniform(tensor, 0.5, 1.5)


class _Described(Imagery):
    """What imagery says of itself; `Resident` holds the pixels."""

    def read(self, index: int, window: Window) -> Patch:
        raise NotImplementedError


def resident(patches: Sequence[Patch], *, geobox: GeoBox, bands: tuple[Band, ...], dates: Sequence[dt.date]) -> Imagery:
    """Imagery of patches of a whole grid, one for each date."""
    described = _Described()
    described.geobox, described.bands, described.source = geobox, bands, "synthetic"
    described.factors = tuple(round(band.gsd_m / abs(geobox.resolution.x)) for band in bands)
    described.acquisitions = tuple(Acquisition(date=date) for date in dates)
    return Resident(described, patches)


def labels_on(
    geobox: GeoBox,
    values: np.ndarray,
    classes: Sequence[ClassEntry],
    dates: Sequence[dt.date] = (dt.date(2017, 2, 16),),
) -> Labels:
    """Labels whose one map is `values`, (height, width) index of a class or IGNORE."""
    report = LabelReport(
        source="synthetic",
        task="segmentation",
        notes=(),
        features=None,
        raster=None,
        vanished=0,
        pixels=values.size,
        contradicting=0,
        labelled_ground=0.0,
        contested_ground=0.0,
        classes=tuple(ClassCount(entry.name, 1, int((values == n).sum())) for n, entry in enumerate(classes)),
        numbers=None,
        labelled=int((values != IGNORE).sum()),
    )
    only = LabelMap(values.astype(np.uint8), tuple(dates))
    return Labels(geobox, 1, "segmentation", tuple(classes), (only,), report, "labels: me")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The real imagery and labels that models are made from; they lie beside the repository and are no part of it."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("needs the imagery and labels of ../shared/data, which are no part of the repository")
    return folder


@pytest.fixture
def small_geobox() -> GeoBox:
    """96 x 128 pixels of 10 m in UTM zone 33: its north-west corner is 330000 E, 5820000 N."""
    return GeoBox((96, 128), Affine(10.0, 0.0, 330_000.0, 0.0, -10.0, 5_820_000.0), "EPSG:32633")


@pytest.fixture
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
        header = region_header(geobox=geobox, **fields)
        field = NeuralField(header.field)
        randomize(field, seed)
        path = tmp_path / f"{name}.safetensors"
        save_region(path, header, field)
        return Region.open(path)

    return make

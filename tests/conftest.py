"""Fixtures that several modules' tests share."""

from __future__ import annotations

import contextlib
import datetime as dt
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import hypothesis
import numpy as np
import pytest
import rasterio
import torch
from affine import Affine
from odc.geo.geobox import GeoBox
from torch import nn

from lianet_user import cli, errors
from lianet_user.field.config import preset
from lianet_user.field.model import NeuralField, answering_autocast
from lianet_user.field.weights import save_region
from lianet_user.files.header import IGNORE, Acquisition, Band, ClassEntry, GridHeader, Provenance, RegionHeader
from lianet_user.geo.grid import Window
from lianet_user.imagery import Imagery, Patch, Resident
from lianet_user.labels import LabelMap, LabelReport, Labels
from lianet_user.labels.label_map import ClassCount
from lianet_user.region import Region

# How long an example takes says how busy the machine is, nothing about the code.
hypothesis.settings.register_profile("lianet", deadline=None)
hypothesis.settings.load_profile("lianet")

RegionHeaderFactory = Callable[..., RegionHeader]
RegionFactory = Callable[..., Region]


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


@dataclass(frozen=True)
class Folder:
    """A folder with a small region, a head of it and labels on it, to break copies of.

    Attributes:
        path: of the folder: `region.safetensors`, `head.safetensors`, `labels.tif`.
    """

    path: Path

    def whole(self, name: str) -> bytes:
        """The region or the head as it was written."""
        return (self.path / f"{name}.safetensors").read_bytes()

    def file(self, content: bytes, name: str = "bad.safetensors") -> Path:
        (self.path / name).write_bytes(content)
        return self.path / name

    def run(self, *arguments: object) -> int:
        """The command line, in this process and this folder."""
        from lianet_user.cli import _run

        with contextlib.chdir(self.path):
            return _run([*map(str, arguments)])


def refused(arguments: Sequence[str], folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[errors.LianetError, str]:
    """What a command line raises that must not work, and the one line it prints."""
    lines: list[str] = []
    raised: list[BaseException | None] = []

    def note(message: str) -> None:
        raised.append(sys.exc_info()[1])
        lines.append(message)

    monkeypatch.setattr(cli, "error", note)
    code = Folder(folder).run(*arguments)
    assert len(lines) == 1, lines
    (problem,) = raised
    assert isinstance(problem, errors.LianetError), lines
    assert code == problem.exit_code
    return problem, lines[0]


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

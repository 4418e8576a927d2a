"""What tests of several rooms make: regions, heads, labels and imagery, small and of random numbers."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
import math
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import rasterio
import rasterio.shutil
import torch
from affine import Affine
from matplotlib.figure import Figure
from matplotlib.text import Text
from odc.geo.geobox import GeoBox
from torch import nn

from lianet_user import cli, errors
from lianet_user.cli import _run
from lianet_user.field.config import HeadConfig
from lianet_user.field.head import HeadEnsemble
from lianet_user.field.model import NeuralField
from lianet_user.field.weights import save_region
from lianet_user.files.header import (
    IGNORE,
    Acquisition,
    Band,
    ClassEntry,
    ClassScore,
    HeadHeader,
    Numbers,
    NumberScores,
    Provenance,
    RegionHeader,
    RegionRef,
    Scores,
)
from lianet_user.geo.grid import Window, bounds_of, finer, window_geobox
from lianet_user.head import Head
from lianet_user.imagery import Imagery, Patch, Resident
from lianet_user.imagery.grids import block_mean, refine
from lianet_user.labels import LabelMap, LabelReport, Labels
from lianet_user.labels.label_map import ClassCount, NumberSummary
from lianet_user.labels.split import Split
from lianet_user.maps import MapArea, MapResult, style
from lianet_user.maps import predict as predict_maps
from lianet_user.pretraining import PretrainSettings, RegionWords
from lianet_user.region import Region

RegionHeaderFactory = Callable[..., RegionHeader]
RegionFactory = Callable[..., Region]

FIRST, LAST = dt.date(2017, 2, 16), dt.date(2017, 3, 16)
"""The dates of a region of two."""


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
    dates: Sequence[dt.date] = (FIRST,),
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
        undecided=0,
        labelled_ground=0.0,
        contested_ground=0.0,
        classes=tuple(ClassCount(entry.name, 1, int((values == n).sum())) for n, entry in enumerate(classes)),
        numbers=None,
        labelled=int((values != IGNORE).sum()),
    )
    only = LabelMap(values.astype(np.uint8), tuple(dates))
    return Labels(geobox, 1, "segmentation", tuple(classes), (only,), report, "labels: me")


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


def saved_region(header: RegionHeader, path: Path, seed: int = 0) -> Region:
    """A region with random weights, written and opened."""
    field = NeuralField(header.field)
    randomize(field, seed)
    save_region(path, header, field)
    return Region.open(path)


CLASSES = (
    ClassEntry(name="water", color="#2b7bba"),
    ClassEntry(name='wood & "scrub" <5 m', color="#14532d"),
    ClassEntry(name="Röhricht", color="#f2d64b", code="411"),
)


def make_head(
    header: RegionHeader,
    folder: Path,
    classes: Sequence[ClassEntry] = CLASSES,
    scores: Scores | None = None,
    *,
    numbers: Numbers | None = None,
    task: Literal["regression", "coverage"] = "regression",
    scale: Literal[1, 4] = 1,
    dates: int = 1,
) -> Head:
    """A head with random weights on a region with random weights that is written to `folder` and read from it.

    With `numbers` it answers with numbers, and without `classes`.
    """
    region = saved_region(header, folder / "region.safetensors")
    config = HeadConfig(
        inputs=("features",),
        in_channels=region.channels(("features",)),
        widths=(16, 8),
        outputs=1 if numbers else len(classes),
        norm="batch",
        scale=scale,
        output="number" if numbers else "logits",
    )
    document = HeadHeader(
        task=task if numbers else "segmentation",
        classes=() if numbers else tuple(classes),
        numbers=numbers,
        head=config,
        region=RegionRef(name=header.name, lineage=header.lineage, sha256=str(region.sha256), path=str(region.path)),
        dates=header.dates[:dates],
        scores=scores,
        provenance=Provenance(
            created=dt.datetime(2025, 1, 1, tzinfo=dt.UTC), source="labels.gpkg", settings={}, software={}
        ),
        attribution=f"{header.attribution}; © the people who drew the labels",
    )
    layers = HeadEnsemble(config)
    randomize(layers, seed=1)
    return Head(document, layers, region)


def predict(head: Head, output: Path, *, area: MapArea | None = None, **options: Any) -> MapResult:
    """The one map of a head; other keywords than `predict`'s are those of its area."""
    own = {name: options.pop(name) for name in ("bbox", "bbox_crs") if name in options}
    (result,) = predict_maps(head, output, area=area or MapArea(**own), **options)
    return result


def box_of(region: Region, window: Window) -> dict[str, Any]:
    """A window of a region, as the area of a map."""
    return {"bbox": bounds_of(window_geobox(region.geobox, window)), "bbox_crs": str(region.geobox.crs)}


def windows_asked(owner: object, method: str, monkeypatch: pytest.MonkeyPatch) -> list[Window]:
    """The windows for which a method is called from now on."""
    asked: list[Window] = []
    original = getattr(owner, method)

    def noted(*arguments: Any, **options: Any) -> Any:
        asked.append(next(each for each in arguments if isinstance(each, Window)))
        return original(*arguments, **options)

    monkeypatch.setattr(owner, method, noted)
    return asked


@contextlib.contextmanager
def ignoring(category: type[Warning] = Warning) -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", category)
        yield


def read_raster(path: Path, band: int | None = None) -> np.ndarray:
    """The pixels of one band, (height, width), or of all, (bands, height, width)."""
    with rasterio.open(path) as dataset:
        values: np.ndarray = dataset.read(band)
    return values


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, hidden ones included."""
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


HEIGHTS = Numbers(unit="m", offset=2.0, scale=20.0, low=0.0, high=30.0)
WEST, NORTH = 330_000.0, 5_820_000.0  # corner of the region


def slope(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """A plane over the Earth, exact in float32 at the middle of every pixel."""
    return (x - WEST) - 3 * (y - NORTH)


def answer_slope(head: Head, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a head's layers answer with :func:`slope`, or with three classes that are stripes of it."""
    pixel = 10 / head.scale

    def answers(window: Window, date: object = None, **_: object) -> torch.Tensor:
        x = WEST + pixel * (head.scale * window.col + np.arange(head.scale * window.width) + 0.5)
        y = NORTH - pixel * (head.scale * window.row + np.arange(head.scale * window.height) + 0.5)
        plane = slope(x, y[:, None])
        stripes = plane // 100 % 3
        found = [plane] if head.header.numbers else [stripes == value for value in range(3)]
        return torch.tensor(np.array(found, np.float32))

    monkeypatch.setattr(head, "answers", answers)


SCORES = Scores(
    pixels=100,
    accuracy=0.9,
    macro_iou=0.5,
    macro_f1=0.654,
    classes=tuple(
        ClassScore(name=entry.name, pixels=50, iou=0.5, accuracy=0.5, f1=f1)
        for entry, f1 in zip(CLASSES, (0.876, 0.543, None), strict=True)
    ),
    confusion=((1, 0, 0), (0, 1, 0), (0, 0, 1)),
)


def split_of(region: Region, *, buffer: int = 0, test: np.ndarray | None = None, block: int = 32) -> Split:
    """Every second block of a region is kept for validation."""
    height, width = region.shape
    blocks = np.indices((-(-height // block), -(-width // block))).sum(0) % 2 == 1
    return Split(region.shape, block, blocks, buffer, test)


def numbers_on(region: Region, values: np.ndarray, scale: int = 1) -> Labels:
    """Labels whose one map is `values`: float32, NaN where there is none."""
    blank = labels_on(region.geobox, np.full(region.shape, IGNORE, np.uint8), ())
    found = values[np.isfinite(values)]
    summary = NumberSummary(float(found.min()), float(found.mean()), float(found.max()), float(found.std()))
    report = dataclasses.replace(
        blank.report, task="regression", classes=(), numbers=summary, pixels=values.size, labelled=found.size
    )
    only = LabelMap(values.astype(np.float32), region.header.dates[:1])
    return Labels(finer(region.geobox, scale), scale, "regression", (), (only,), report, "labels: me")


def head_of(head: Head, *, scale: Literal[1, 4] = 1, **header: object) -> Head:
    """A head with random weights on the region of another, that answers with numbers unless `header` names classes."""
    document = head.header.model_dump() | {
        "task": "regression",
        "classes": (),
        "numbers": Numbers(unit="m", offset=10.0, scale=5.0, low=0.0, high=30.0),
        "scores": NumberScores(pixels=90, mae=2.314, mse=9.0, rmse=3.0, r2=0.713, bias=-0.25),
        **header,
    }
    config = HeadConfig(
        inputs=("features",),
        in_channels=head.region.channels(("features",)),
        widths=(16, 8, 8, 8, 8),
        outputs=len(document["classes"]) or 1,
        norm="batch",
        scale=scale,
        output="logits" if document["classes"] else "number",
    )
    torch.manual_seed(1)
    return Head(HeadHeader.model_validate(document | {"head": config}), HeadEnsemble(config), head.region)


def figure_words(figure: Figure) -> set[str]:
    """Every text in a figure."""
    return {text.get_text() for text in figure.findobj(Text) if isinstance(text, Text)}


SENTINEL_BANDS = tuple(
    Band(name=name, gsd_m=10.0, wavelength_nm=wavelength)
    for name, wavelength in (("B02", 492.4), ("B03", 559.8), ("B04", 664.6), ("B08", 832.8))
)


HEIGHT, WIDTH = 96, 132  # the width is no multiple of the stride
GSD = (10, 10, 20, 20, 60)
QUICK_PRETRAINING = PretrainSettings(steps=8, batch=2, window=48, warmup=2, checkpoint_every=3, report_every=4)
REGION_WORDS = RegionWords(name="tiny", title="A tiny region", licence="CC-BY-4.0", attribution="nobody")
DATES = ("2017-02-16", "2017-03-20", "2017-04-20", "2017-06-24", "2018-02-10")


def imagery_of(
    gsd: tuple[int, ...] = GSD, holes: bool = False, height: int = HEIGHT, width: int = WIDTH, dates: int = 1
) -> Imagery:
    """Hills, fields and noise, each band at its own resolution, going through the year; with `holes`, pixels without a
    measurement."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:height, :width]
    days = [dt.date.fromisoformat(text) for text in DATES[:dates]]
    textures = rng.normal(0, 0.02, (len(gsd), height, width))
    patches = []
    for day in days:
        phase = math.sin(2 * math.pi * (day - days[0]).days / 365.25)
        reflectance, valid = [], []
        for index, metres in enumerate(gsd):
            hills = 0.1 * np.sin(y / (9 + index)) * np.cos(x / (7 + 2 * index))
            fields = (0.05 + 0.05 * phase) * ((y // 11 + x // (9 + index)) % 2)
            noise = textures[index] + (rng.normal(0, 0.005, (height, width)) if dates > 1 else 0)
            factor = metres // 10
            measured = np.ones((height // factor, width // factor), bool)
            if holes:
                measured[rng.random(measured.shape) < 0.05] = False
            reflectance.append(refine(block_mean(0.3 + hills + fields + noise, factor).astype(np.float32), factor))
            valid.append(measured.repeat(factor, 0).repeat(factor, 1))
        patches.append(Patch(np.stack(reflectance), np.stack(valid)))
    return resident(
        patches,
        geobox=GeoBox((height, width), Affine(10.0, 0.0, 330_000.0, 0.0, -10.0, 5_820_000.0), "EPSG:32633"),
        bands=tuple(Band(name=f"B{n + 1:02}", gsd_m=float(metres)) for n, metres in enumerate(gsd)),
        dates=days,
    )


def truth(imagery: Imagery, index: int = 0) -> Patch:
    return imagery.read(index, imagery.window)


DEGREES = GeoBox((40, 60), Affine(0.01, 0, 12.0, 0, -0.005, 52.5), "EPSG:4326")


def write_raster(path: Path, geobox: GeoBox, values: np.ndarray, tags: Mapping[str, str], **profile: Any) -> Path:
    """A GeoTIFF of one band; `profile` has more of what rasterio.open takes, or something else."""
    crs = None if geobox.crs is None else rasterio.CRS.from_wkt(geobox.crs.to_wkt())
    height, width = values.shape
    layout = {"driver": "GTiff", "count": 1, "dtype": values.dtype, "crs": crs, "transform": geobox.affine, **profile}
    with rasterio.open(path, "w", height=height, width=width, **layout) as dataset:
        dataset.write(values, 1)
        dataset.update_tags(**tags)
    return path


def write_class_map(
    path: Path, geobox: GeoBox, values: np.ndarray, classes: tuple[ClassEntry, ...] = CLASSES, **more: str
) -> Path:
    """As predict writes it, in the parts that count here."""
    tags = style.class_tags(classes) if classes else {}
    return write_raster(path, geobox, values, {**tags, **more}, nodata=255)


def patchy(shape: tuple[int, int], seed: int = 0) -> np.ndarray:
    """Classes in patches, single pixels, diagonals and a part without any."""
    rng = np.random.default_rng(seed)
    values = rng.integers(0, 3, (shape[0] // 4, shape[1] // 4)).astype(np.uint8).repeat(4, 0).repeat(4, 1)
    single = rng.random(values.shape) < 0.1
    values[single] = rng.integers(0, 3, single.sum())
    values[:7, -9:] = 255
    return values

"""The whole loop in a few seconds, on a region of random numbers: what `lianet-user doctor` ends with.

Apart from :mod:`lianet_user.doctor`, which has to run where torch or rasterio cannot be imported.
"""

from __future__ import annotations

import datetime as dt
import time
from pathlib import Path

import numpy as np
import rasterio
import torch
from affine import Affine
from odc.geo.geobox import GeoBox

from lianet_user.field.config import HeadConfig, HeadInput, preset
from lianet_user.field.head import HeadEnsemble
from lianet_user.field.model import NeuralField
from lianet_user.field.weights import save_region
from lianet_user.files.artifact import software_versions
from lianet_user.files.header import (
    Acquisition,
    Band,
    ClassEntry,
    GridHeader,
    HeadHeader,
    Provenance,
    RegionHeader,
    RegionRef,
)
from lianet_user.head import Head
from lianet_user.maps import predict
from lianet_user.region import Region

SIZE = 128
DATE = dt.date(2017, 2, 16)
INPUTS: tuple[HeadInput, ...] = ("features", "bands")


def run(folder: Path) -> float:
    """Write a region and a head, open them, map with them and compare the map with what the head answers in memory.

    Args:
        folder: for the files.

    Returns:
        pixels of features a second.

    Raises:
        AssertionError: a file does not hold what was written.
    """
    torch.manual_seed(0)
    region = write_region(folder / "region.safetensors")
    started = time.perf_counter()
    region.head_input(region.window, DATE, INPUTS)
    rate = SIZE * SIZE / (time.perf_counter() - started)
    head = write_head(folder / "head.safetensors", region)
    predict(head, folder / "map.tif")
    with rasterio.open(folder / "map.tif") as file:
        mapped, nodata, crs = file.read(1), file.nodata, file.crs
    answered = head.predict(date=DATE).values
    if crs.to_epsg() != 32633 or nodata != 255 or not np.array_equal(mapped, answered):
        raise AssertionError("the map that was written is not the one that the head answers")
    return rate


def write_region(path: Path) -> Region:
    """A region of random numbers, written and opened."""
    bands = tuple(Band(name=name, gsd_m=10.0) for name in ("B02", "B03", "B04"))
    geobox = GeoBox((SIZE, SIZE), Affine(10.0, 0.0, 330_000.0, 0.0, -10.0, 5_800_000.0), "EPSG:32633")
    config = preset("lite", height=SIZE, width=SIZE, bands=len(bands), table_size=2**14)
    field = NeuralField(config)
    with torch.no_grad():
        field.grid.tables.uniform_(-1, 1)
    header = RegionHeader(
        name="small",
        title="random numbers",
        grid=GridHeader.of(geobox),
        bands=bands,
        acquisitions=(Acquisition(date=DATE),),
        field=config,
        licence="CC0-1.0",
        attribution="nobody",
        provenance=_provenance(),
        lineage="0" * 32,
    )
    save_region(path, header, field, torch.float32)
    return Region.open(path)


def write_head(path: Path, region: Region) -> Head:
    """A head of random weights, written and opened."""
    assert region.sha256 is not None
    config = HeadConfig(
        inputs=INPUTS, in_channels=region.channels(INPUTS), widths=(16, 16), outputs=2, norm="batch", members=1
    )
    header = HeadHeader(
        task="segmentation",
        classes=(ClassEntry(name="forest", color="#1b7837"), ClassEntry(name="water", color="#2166ac")),
        head=config,
        region=RegionRef(name="small", lineage="0" * 32, sha256=region.sha256, path=str(region.path)),
        dates=(DATE,),
        scores=None,
        provenance=_provenance(),
        attribution="nobody",
    )
    Head(header, HeadEnsemble(config), region).save(path)
    return Head.open(path)


def _provenance() -> Provenance:
    now = dt.datetime.now(dt.UTC).replace(microsecond=0)
    return Provenance(created=now, source="random numbers", settings={}, software=software_versions("torch"))

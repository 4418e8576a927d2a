"""The region file that ships with the project."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch

from lianet_user.artifact import open_region_file
from lianet_user.field.config import HeadConfig
from lianet_user.field.head import HeadEnsemble
from lianet_user.grid import Window
from lianet_user.head import Head
from lianet_user.header import ClassEntry, HeadHeader, RegionRef
from lianet_user.region import Region

HAVELLAND = Path(__file__).resolve().parents[1] / "models" / "havelland.safetensors"
WHOLE = Window(120, 200, 397, 411)
"""An odd size at an odd place, to be computed in one piece."""
TILES = (97, 128, 250)


@pytest.fixture(scope="module")
def havelland() -> Region:
    return Region.open(HAVELLAND)


@pytest.fixture(scope="module")
def head(havelland: Region) -> Head:
    """Six layers with random weights: their logits are as sensitive to their inputs as trained ones."""
    torch.manual_seed(0)
    config = HeadConfig(
        inputs=("features", "bands", "context"),
        in_channels=havelland.channels(("features", "bands", "context")),
        widths=(128, 128, 64, 64, 32),
        outputs=6,
        norm="batch",
    )
    assert havelland.sha256 is not None
    header = HeadHeader(
        task="segmentation",
        classes=tuple(ClassEntry(name=f"class {i}", color=f"#0000{i:02x}") for i in range(6)),
        head=config,
        region=RegionRef(
            name=havelland.header.name,
            lineage=havelland.header.lineage,
            sha256=havelland.sha256,
            path=str(havelland.path),
        ),
        dates=havelland.header.dates,
        scores=None,
        provenance=havelland.header.provenance,
        attribution="",
    )
    return Head(header, HeadEnsemble(config), havelland)


@pytest.mark.parametrize("tile", TILES)
def test_features_of_tiles_are_those_of_the_whole(havelland: Region, tile: int) -> None:
    whole = havelland.features(WHOLE)
    for window in WHOLE.tiles(tile):
        part = havelland.features(window)
        torch.testing.assert_close(part, whole[(slice(None), *window.within(WHOLE).slices)], atol=1e-4, rtol=0)


@pytest.mark.parametrize("tile", TILES)
def test_logits_of_tiles_are_those_of_the_whole(head: Head, tile: int) -> None:
    whole = head.log_probabilities(WHOLE)
    for window in WHOLE.tiles(tile):
        part = head.log_probabilities(window)
        torch.testing.assert_close(part, whole[(slice(None), *window.within(WHOLE).slices)], atol=1e-4, rtol=0)


def test_it_is_small_and_complete() -> None:
    file = open_region_file(HAVELLAND)
    assert file.size_bytes <= 16e6
    assert [band.name for band in file.header.bands] == "B01 B02 B03 B04 B05 B06 B07 B08 B8A B09 B11 B12".split()
    assert "Copernicus Sentinel data 2017" in file.header.attribution


def test_it_remembers_as_well_as_it_says(havelland: Region, shared_data: Path) -> None:
    """Against the band files themselves, each at its own resolution, without the code that encoded the region."""
    remembered = np.concatenate(
        [havelland.reconstruct(window).numpy() for window in havelland.window.tiles(768)], axis=2
    )
    errors = []
    for index, (band, claimed) in enumerate(
        zip(havelland.header.bands, havelland.header.quality[0].bands, strict=True)
    ):
        (path,) = (shared_data / "havelland").glob(f"*_{band.name}.jp2")
        with rasterio.open(path) as source:
            numbers = source.read(1)
        truth = np.clip(numbers / 10_000, 0, 1)
        rows, cols = truth.shape
        factor = 768 // rows
        guess = remembered[index].reshape(rows, factor, cols, factor).mean((1, 3))
        error = ((guess - truth)[numbers > 0] ** 2).mean()
        assert -10 * np.log10(error) == pytest.approx(claimed.psnr_db, abs=0.01)
        errors.append(error)
    psnr = -10 * np.log10(np.mean(errors))
    assert psnr == pytest.approx(havelland.header.quality[0].psnr_db, abs=0.01)
    assert psnr >= 48

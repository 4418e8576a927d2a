"""What heads are compared with: networks of the stated sizes, inputs that are what was measured, forests that are sklearn's."""

from __future__ import annotations

import datetime as dt
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import torch
from affine import Affine
from factories import RegionFactory, randomize, resident
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from pyproj import Transformer
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor
from sklearn.metrics import accuracy_score, f1_score, mean_absolute_error

from lianet_user.errors import ImageryError, InputError
from lianet_user.evaluation import baselines
from lianet_user.evaluation.baselines import MICRO_UNET, UNET, Forest, ImageryBands, RasterFeatures, UNet, UNetShape
from lianet_user.field.head import context
from lianet_user.files.header import IGNORE, Band, ClassEntry, Numbers, NumberScores, Scores
from lianet_user.finetuning.losses import Goal
from lianet_user.finetuning.samples import Sample, labelled_pixels
from lianet_user.finetuning.settings import FinetuneSettings
from lianet_user.geo.grid import Window
from lianet_user.imagery import Imagery, Patch
from lianet_user.imagery.features import FeatureRaster
from lianet_user.region import Region

FIRST, SECOND = dt.date(2017, 2, 16), dt.date(2017, 3, 16)
WINDOW = Window(7, 11, 40, 52)


# --- U-Nets


@pytest.mark.parametrize(("shape", "parameters"), [(UNET, 17.3e6), (MICRO_UNET, 0.49e6)])
@pytest.mark.parametrize(("channels", "outputs"), [(4, 1), (12, 6), (10, 20)])
def test_u_nets_have_the_papers_sizes(shape: UNetShape, parameters: float, channels: int, outputs: int) -> None:
    with torch.device("meta"):
        network = UNet(channels, outputs, shape)
    assert sum(each.numel() for each in network.parameters()) == pytest.approx(parameters, rel=0.02)


def random_u_net(channels: int, outputs: int) -> UNet:
    network = UNet(channels, outputs, MICRO_UNET)
    randomize(network)
    return network.eval()


@pytest.mark.parametrize(("height", "width"), [(1, 1), (8, 8), (13, 30), (40, 9)])
def test_a_u_net_answers_every_pixel_of_any_window(height: int, width: int) -> None:
    network = random_u_net(3, 5)
    bands = torch.rand(2, 3, height, width)
    padding = ((0, 0), (0, 0), (0, -height % 8), (0, -width % 8))
    padded = torch.from_numpy(np.pad(bands.numpy(), padding, mode="edge"))
    with torch.inference_mode():
        answers = network(bands)
        assert answers.shape == (2, 5, height, width)
        torch.testing.assert_close(answers, network(padded)[..., :height, :width])


def test_a_u_net_sees_far_but_not_everything() -> None:
    bands = torch.rand(1, 2, 256, 256, requires_grad=True)
    random_u_net(2, 1)(bands)[0, 0, 128, 128].backward()
    assert bands.grad is not None
    rows, cols = torch.nonzero(bands.grad[0].abs().sum(0), as_tuple=True)
    reach = max(128 - int(rows.min()), int(rows.max()) - 128, 128 - int(cols.min()), int(cols.max()) - 128)
    assert 20 < reach < 80


def test_every_weight_of_a_u_net_is_trained() -> None:
    network = UNet(3, 2, MICRO_UNET)
    network(torch.rand(4, 3, 24, 24)).square().sum().backward()
    for name, weight in network.named_parameters():
        assert weight.grad is not None, name
        assert weight.grad.abs().sum() > 0, name


# --- imagery


def clouded(geobox: GeoBox, dates: Sequence[dt.date] = (FIRST, SECOND), seed: int = 0) -> Imagery:
    """Noise in three bands, with a cloud over one band of every date that moves from date to date."""
    rng = np.random.default_rng(seed)
    patches = []
    for number in range(len(dates)):
        values = rng.random((3, *geobox.shape), np.float32)
        valid = np.ones(values.shape, bool)
        valid[number % 3, 10 * number : 10 * number + 15, 20:40] = False
        patches.append(Patch(values, valid))
    bands = tuple(Band(name=f"B{n + 2:02}", gsd_m=10.0) for n in range(3))
    return resident(patches, geobox=geobox, bands=bands, dates=dates)


@pytest.fixture
def region(make_region: RegionFactory) -> Region:
    return make_region(dates=2)


@pytest.fixture
def imagery(region: Region) -> Imagery:
    return clouded(region.geobox)


@pytest.fixture
def bands(imagery: Imagery, region: Region) -> ImageryBands:
    return ImageryBands(imagery, region, (FIRST, SECOND))


def test_bands_are_standardised_over_what_is_valid_and_0_elsewhere(imagery: Imagery, bands: ImageryBands) -> None:
    every = [imagery.read(index, imagery.window) for index in range(2)]
    for index, date in enumerate((FIRST, SECOND)):
        found, valid = bands(WINDOW, date).numpy(), bands.valid(WINDOW, date)
        np.testing.assert_array_equal(valid, every[index].valid[(slice(None), *WINDOW.slices)].all(0))
        assert 0 < valid.sum() < valid.size
        assert (found[:, ~valid] == 0).all()
        for band in range(3):
            known = np.concatenate([patch.reflectance[band][patch.valid[band]] for patch in every])
            expected = (every[index].reflectance[band][WINDOW.slices] - known.mean()) / known.std()
            np.testing.assert_allclose(found[band][valid], expected[valid], atol=1e-4)


def test_context_does_not_depend_on_the_window(region: Region, bands: ImageryBands) -> None:
    whole = bands(region.window, SECOND)
    expected = torch.cat([whole, context(whole[None])[0]])[(slice(None), *WINDOW.slices)]
    torch.testing.assert_close(bands.with_context(WINDOW, SECOND), expected, atol=1e-5, rtol=1e-4)


def test_all_dates_at_once_are_one_after_the_other(bands: ImageryBands) -> None:
    stacked = bands.of_all_dates(WINDOW, FIRST)
    torch.testing.assert_close(stacked[:3], bands(WINDOW, FIRST))
    torch.testing.assert_close(stacked[3:], bands(WINDOW, SECOND))


def test_only_the_dates_of_the_labels_are_measured(region: Region, imagery: Imagery, bands: ImageryBands) -> None:
    second = ImageryBands(imagery, region, (SECOND,))
    alone = imagery.read(1, imagery.window)
    known = alone.reflectance[0][alone.valid[0]]
    expected = (alone.reflectance[0][WINDOW.slices] - known.mean()) / known.std()
    valid = second.valid(WINDOW, SECOND)
    np.testing.assert_allclose(second(WINDOW, SECOND)[0].numpy()[valid], expected[valid], atol=1e-4)
    assert not torch.equal(bands(WINDOW, SECOND), second(WINDOW, SECOND))


def test_imagery_that_is_not_the_regions_is_refused_with_the_facts(region: Region) -> None:
    shifted = GeoBox(region.shape, region.geobox.affine @ Affine.translation(3, 0), "EPSG:32633")
    with pytest.raises(ImageryError, match=r"128 x 96 px of 10 m at 330030.*'small' 128 x 96 px.*`grid`"):
        ImageryBands(clouded(shifted), region, (FIRST,))
    with pytest.raises(ImageryError, match=r"lacks 2017-03-16.*it holds 2017-02-16"):
        ImageryBands(clouded(region.geobox, (FIRST,)), region, (FIRST, SECOND))


# --- feature rasters


def write(
    path: Path,
    values: NDArray[Any],
    geobox: GeoBox,
    *,
    nodata: float | None = None,
    mask: NDArray[np.bool_] | None = None,
    crs: bool = True,
) -> Path:
    profile = {"count": len(values), "height": values.shape[1], "width": values.shape[2], "dtype": values.dtype}
    placed = {"crs": str(geobox.crs), "transform": geobox.affine} if crs else {}
    with (
        rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True),
        rasterio.open(path, "w", driver="GTiff", nodata=nodata, **profile, **placed) as file,
    ):
        file.write(values)
        if mask is not None:
            file.write_mask(mask)
    return path


def plane(geobox: GeoBox, target: GeoBox) -> NDArray[np.float32]:
    """Two bands that are linear in the coordinates of `target`, at the pixels of `geobox`: (2, height, width)."""
    height, width = geobox.shape
    cols, rows = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    x, y = geobox.affine.a * cols + geobox.affine.c, geobox.affine.e * rows + geobox.affine.f
    assert geobox.crs is not None
    assert target.crs is not None
    x, y = Transformer.from_crs(geobox.crs.proj, target.crs.proj, always_xy=True).transform(x, y)
    x, y = x - 330_000, y - 5_820_000
    return np.stack([x / 1000, (x - 2 * y) / 1000]).astype(np.float32)


def elsewhere(small: GeoBox, metres: float) -> GeoBox:
    """A grid in another CRS that covers the small one with a margin."""
    return GeoBox.from_bbox(small.extent.to_crs("EPSG:3035").boundingbox.buffered(200), "EPSG:3035", resolution=metres)


@pytest.mark.parametrize("metres", [7.0, 30.0])
def test_features_in_another_crs_and_resolution_are_found_where_they_lie(
    metres: float, small_geobox: GeoBox, tmp_path: Path
) -> None:
    source = elsewhere(small_geobox, metres)
    raster = FeatureRaster(write(tmp_path / "f.tif", plane(source, small_geobox), source), small_geobox)
    values, valid = raster.read(WINDOW)
    assert valid.all()
    # Bilinear interpolation of what is linear is exact, but for the bend of one projection in the other.
    np.testing.assert_allclose(values, plane(small_geobox, small_geobox)[(slice(None), *WINDOW.slices)], atol=2e-3)


def test_features_of_a_window_are_those_of_the_whole(small_geobox: GeoBox, tmp_path: Path) -> None:
    source = elsewhere(small_geobox, 23.0)
    noise = np.random.default_rng(0).normal(size=(4, *source.shape)).astype(np.float32)
    raster = FeatureRaster(write(tmp_path / "f.tif", noise, source), small_geobox)
    whole, _ = raster.read(Window(0, 0, *small_geobox.shape))
    np.testing.assert_allclose(raster.read(WINDOW)[0], whole[(slice(None), *WINDOW.slices)], atol=1e-5)


@pytest.mark.parametrize("how", ["nan", "number", "integers", "mask"])
def test_what_is_no_data_in_any_band_is_not_valid(how: str, small_geobox: GeoBox, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    values = rng.integers(1, 100, (3, *small_geobox.shape)).astype(np.float32)
    holes = rng.random(values.shape) < 0.02
    if how == "mask":
        holes[:] = holes[0]
    else:
        values[holes] = np.nan if how == "nan" else -128
    if how in ("integers", "mask"):
        values = values.astype(np.int16)
    options: dict[str, Any] = {"mask": {"mask": ~holes[0]}, "nan": {}}.get(how, {"nodata": -128})
    raster = FeatureRaster(write(tmp_path / "f.tif", values, small_geobox, **options), small_geobox)
    found, valid = raster.read(Window(0, 0, *small_geobox.shape))
    expected = ~holes.any(0)
    np.testing.assert_array_equal(valid, expected)
    np.testing.assert_array_equal(found[:, expected], values[:, expected])
    assert (found[:, ~expected] == 0).all()
    moments = raster.moments()
    np.testing.assert_allclose(moments.mean, values[:, expected].astype(float).mean(1))
    np.testing.assert_allclose(moments.std, values[:, expected].astype(float).std(1))


def test_features_are_standardised_and_one_value_everywhere_does_no_harm(small_geobox: GeoBox, tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(1e4, 3, (2, *small_geobox.shape)).astype(np.float32)
    values[1] = 7
    source = RasterFeatures(FeatureRaster(write(tmp_path / "f.tif", values, small_geobox), small_geobox))
    found = source(Window(0, 0, *small_geobox.shape), FIRST).numpy()
    assert found[0].mean() == pytest.approx(0, abs=1e-3)
    assert found[0].std() == pytest.approx(1, abs=1e-3)
    assert (found[1] == 0).all()


def test_a_raster_that_covers_too_few_labels_is_refused_with_its_share(small_geobox: GeoBox, tmp_path: Path) -> None:
    labelled = np.zeros(small_geobox.shape, bool)
    labelled[10:20, 30:70] = True  # columns 30 to 69, of which the raster has those up to 59
    part = small_geobox[:, :60]
    values = np.ones((1, *part.shape), np.float32)
    raster = FeatureRaster(write(tmp_path / "f.tif", values, part), small_geobox)
    with pytest.raises(ImageryError, match=r"f\.tif covers 75\.0% of the labelled ground: it lies at 12\.\d+,52\.\d+"):
        raster.require_cover(labelled)
    labelled[:, :60] = False
    with pytest.raises(ImageryError, match="covers none of the labelled ground"):
        raster.require_cover(labelled)
    raster.require_cover(np.roll(labelled, -30, 1))


def test_rasters_that_say_nothing_are_refused(small_geobox: GeoBox, tmp_path: Path) -> None:
    values = np.ones((1, *small_geobox.shape), np.float32)
    with pytest.warns(rasterio.errors.NotGeoreferencedWarning):
        nowhere = write(tmp_path / "nowhere.tif", values, small_geobox, crs=False)
    with pytest.raises(ImageryError, match=r"nowhere\.tif has no coordinate reference system"):
        FeatureRaster(nowhere, small_geobox)
    empty = write(tmp_path / "empty.tif", np.full_like(values, np.nan), small_geobox)
    with pytest.raises(ImageryError, match=r"empty\.tif has no valid pixel in the region"):
        FeatureRaster(empty, small_geobox).moments()
    (tmp_path / "text.tif").write_text("no raster")
    with pytest.raises(ImageryError, match=r"cannot read .*text\.tif"):
        FeatureRaster(tmp_path / "text.tif", small_geobox)


# --- forests

CLASSES = Goal(tuple(ClassEntry(name=name, color="#000000") for name in "abc"), None)
NUMBERS = Goal((), Numbers(unit="m", offset=2.0, scale=30.0, low=0.0, high=60.0))


def samples(goal: Goal, count: int, seed: int) -> list[Sample]:
    """Windows whose own ground is their middle, labelled for the most part, from noisy inputs."""
    rng = np.random.default_rng(seed)
    made = []
    for number in range(count):
        inputs = rng.normal(size=(4, 20, 24)).astype(np.float16)
        noise = rng.normal(scale=0.5, size=(3, 20, 24))
        missing = rng.random((20, 24)) < 0.3
        if goal.classes:
            labels = np.where(missing, IGNORE, (inputs[:3] + noise).argmax(0)).astype(np.uint8)
        else:
            labels = np.where(missing, np.nan, 10 * inputs[0] + noise[0]).astype(np.float32)
        window = Window(0, 24 * number, 20, 24)
        own = Window(4, 24 * number + 4, 12, 16)
        made.append(Sample(FIRST, window, own, torch.from_numpy(labels), torch.from_numpy(inputs)))
    return made


def pixels(made: Sequence[Sample]) -> tuple[NDArray[np.float32], NDArray[Any]]:
    """Inputs and labels of the samples' own ground."""
    inner = slice(4, 16), slice(4, 20)
    values = np.concatenate([each.inputs.numpy()[:, *inner].reshape(4, -1).T for each in made]).astype(np.float32)
    labels = np.concatenate([each.labels.numpy()[inner].ravel() for each in made])
    known = labels != IGNORE if labels.dtype == np.uint8 else np.isfinite(labels)
    return values[known], labels[known]


@pytest.mark.parametrize("goal", [CLASSES, NUMBERS], ids=["of classes", "of numbers in the labels' unit"])
def test_a_forest_is_sklearns_on_the_labelled_pixels_of_own_ground(goal: Goal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(baselines, "TREES", 20)
    training, judged = samples(goal, 5, seed=0), samples(goal, 3, seed=1)
    found = Forest()(training, judged, goal, FinetuneSettings(seed=3), lambda *_: None).scores
    kind = RandomForestClassifier if goal.classes else RandomForestRegressor
    values, reference = pixels(judged)
    predicted = kind(20, min_samples_leaf=2, random_state=3).fit(*pixels(training)).predict(values)
    assert found.pixels == len(reference)
    if goal.classes:
        assert isinstance(found, Scores)
        assert found.accuracy == pytest.approx(accuracy_score(reference, predicted))
        assert found.macro_f1 == pytest.approx(f1_score(reference, predicted, average="macro"))
    else:
        assert isinstance(found, NumberScores)
        assert found.mae == pytest.approx(mean_absolute_error(reference, predicted), rel=1e-5)


def test_no_more_labelled_pixels_are_drawn_than_are_asked_for() -> None:
    made = samples(CLASSES, 4, seed=0)
    _, every = pixels(made)
    values, labels, places = labelled_pixels(made, 200, seed=0)
    assert values.shape == (200, 4)
    assert places.shape == (200, 4)
    assert len(np.unique(places, axis=0)) == 200
    assert len(labels) == 200 < len(every)
    assert np.bincount(labels, minlength=3) / 200 == pytest.approx(np.bincount(every) / len(every), abs=0.1)
    assert not np.array_equal(labels, labelled_pixels(made, 200, seed=1)[1])


def test_without_scikit_learn_a_forest_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(InputError, match=r"pip install 'lianet-user\[compare\]'"):
        Forest()

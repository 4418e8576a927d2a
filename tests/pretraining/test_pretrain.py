"""Encoding a region: it comes close to its imagery, goes on where it stopped, and tells the truth about how close."""

from __future__ import annotations

import dataclasses
import datetime as dt
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from factories import GSD, HEIGHT, QUICK_PRETRAINING, REGION_WORDS, WIDTH, imagery_of, resident, truth

from lianet_user.errors import ArtifactError, DateError, ImageryError, InputError, LianetError, TrainingError
from lianet_user.field.config import KrigedTime, TemporalCovariance, preset
from lianet_user.field.encoding import kriging_weights
from lianet_user.field.model import NeuralField
from lianet_user.files.artifact import open_region_file
from lianet_user.files.header import RegionHeader
from lianet_user.imagery import Imagery
from lianet_user.imagery.grids import block_mean
from lianet_user.imagery.statistics import measure
from lianet_user.pretraining import PretrainProgress, PretrainSettings, pretrain
from lianet_user.pretraining.pyramid import images_without_gaps, start_from_pyramid
from lianet_user.pretraining.quality import measure_quality
from lianet_user.region import Region


def with_patches(imagery: Imagery, **changes: Any) -> Imagery:
    """The same with other reflectance or validity of its only date."""
    patch = dataclasses.replace(imagery.read(0, imagery.window), **changes)
    return resident([patch], geobox=imagery.geobox, bands=imagery.bands, dates=[imagery.acquisitions[0].date])


def encode(
    imagery: Imagery, output: Path, *, stop_after: int | None = None, resume: bool = False, **settings: Any
) -> RegionHeader:
    """With quick settings, of which keywords replace any; interrupted after a step where that is asked for."""

    def listener(progress: PretrainProgress) -> None:
        if progress.step == stop_after:
            raise KeyboardInterrupt

    chosen = dataclasses.replace(QUICK_PRETRAINING, **settings)
    return pretrain(imagery, output, REGION_WORDS, settings=chosen, listener=listener, resume=resume)


def interrupted(imagery: Imagery, output: Path, stop_after: int = 3) -> None:
    with pytest.raises(KeyboardInterrupt):
        encode(imagery, output, stop_after=stop_after)


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "region.safetensors"


def same_tensors(first: Path, second: Path) -> bool:
    one, other = (open_region_file(path).tensors() for path in (first, second))
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


def checkpoint_of(output: Path) -> Path:
    return output.with_name(f".{output.stem}.checkpoint")


def own_psnr(remembered: np.ndarray, imagery: Imagery) -> tuple[list[float], float]:
    """Each band's PSNR over what was measured, pixel by measured pixel, and that of the mean of the squared errors."""
    errors, patch = [], truth(imagery)
    for index, side in enumerate(imagery.factors):
        squares = [
            float(difference[row : row + side, col : col + side].mean()) ** 2
            for difference in [remembered[index].astype(np.float64) - patch.reflectance[index]]
            for row in range(0, patch.reflectance.shape[1], side)
            for col in range(0, patch.reflectance.shape[2], side)
            if patch.valid[index, row, col]
        ]
        errors.append(sum(squares) / len(squares))
    return [-10 * math.log10(error) for error in errors], -10 * math.log10(sum(errors) / len(errors))


# --- how close


@pytest.mark.parametrize("gsd", [GSD, (10, 10, 20)], ids=["five bands", "three bands"])
def test_a_few_steps_come_far_closer_than_the_images_own_variance(gsd: tuple[int, ...], output: Path) -> None:
    imagery = imagery_of(gsd)
    header = encode(imagery, output)
    values = truth(imagery).reflectance
    flat = np.broadcast_to(values.mean((1, 2), keepdims=True), values.shape)
    assert level(header) > own_psnr(flat, imagery)[1] + 12


def level(header: RegionHeader, index: int = 0) -> float:
    found = header.quality[index].psnr_db
    assert found is not None
    return found


def test_starting_from_the_imagery_beats_starting_from_noise(tmp_path: Path) -> None:
    imagery = imagery_of()
    noise = level(encode(imagery, tmp_path / "noise", start="noise"))
    pyramid = level(encode(imagery, tmp_path / "pyramid", start="pyramid"))
    assert pyramid > noise + 6


@pytest.mark.parametrize("bands", [1, 3, 4, 6])
def test_the_pyramid_reproduces_any_number_of_bands_before_any_step(bands: int) -> None:
    imagery = imagery_of((10,) * bands, width=128)
    images = torch.from_numpy(images_without_gaps(imagery, measure(imagery), TemporalCovariance()))
    field = NeuralField(preset("lite", height=HEIGHT, width=128, dates=1, bands=bands)).eval()
    start_from_pyramid(field, images)
    with torch.inference_mode():
        features = field.features([(0, 0)], HEIGHT, 128, torch.tensor([0]))
        error = field.reconstruction.standardized(features)[0] - images[0]
    # Of the finest noise a level holds as many components as it has features.
    assert error.square().mean() < (1e-6 if bands <= 4 else 0.1)


# --- several dates


def test_several_dates_are_remembered_each_as_it_was(output: Path) -> None:
    imagery = imagery_of((10, 10, 20), dates=4, holes=True)
    header = encode(imagery, output)
    assert header.field.time.kind == "kriged"
    assert [quality.date for quality in header.quality] == list(header.dates) == [a.date for a in imagery.acquisitions]
    region = Region.open(output)
    for index, held in enumerate(imagery.acquisitions):
        own = truth(imagery, index)
        errors = [
            float(np.square(region.reconstruct(region.window, other.date).numpy() - own.reflectance)[own.valid].mean())
            for other in imagery.acquisitions
        ]
        assert int(np.argmin(errors)) == index
        assert level(header, index) > 33, held


def test_initial_codes_reproduce_dates_and_interpolate_between() -> None:
    imagery = imagery_of((10, 10), width=128, dates=4)
    images = torch.from_numpy(images_without_gaps(imagery, measure(imagery), TemporalCovariance()))
    days = tuple(held.days for held in imagery.acquisitions)
    time = KrigedTime(kind="kriged", days=days, codes=3)
    field = NeuralField(preset("lite", height=HEIGHT, width=128, bands=2, time=time, features=8)).eval()
    start_from_pyramid(field, images)
    between = torch.tensor([days[1] + 20.0], dtype=torch.float64)
    with torch.inference_mode():
        corners, times = [(0, 0)] * 4, torch.tensor(days, dtype=torch.float64)
        found = field.reconstruction.standardized(field.features(corners, HEIGHT, 128, times))
        estimate = field.reconstruction.standardized(field.features([(0, 0)], HEIGHT, 128, between))[0]
    weights = torch.from_numpy(kriging_weights(days, between, time.covariance)[0]).float()
    assert (found - images).square().mean() < 1e-3
    assert torch.allclose(estimate, torch.einsum("t,tbhw->bhw", weights, found), atol=1e-3)


def test_a_region_of_codes_estimates_dates_between_and_no_others(output: Path) -> None:
    imagery = imagery_of((10, 10), dates=5)
    encode(imagery.only([0, 2, 3, 4]), output)
    region = Region.open(output)
    left_out = imagery.acquisitions[1].date
    with pytest.raises(DateError, match="nearest dates it holds are"):
        region.reconstruct(region.window, left_out)
    estimate = region.reconstruct(region.window, left_out, between=True).numpy()
    error = np.abs(estimate - truth(imagery, 1).reflectance).mean()
    neighbours = [np.abs(truth(imagery, n).reflectance - truth(imagery, 1).reflectance).mean() for n in (0, 2)]
    assert error < min(neighbours)
    for outside in (dt.date(2017, 2, 15), dt.date(2018, 2, 11)):
        with pytest.raises(DateError, match="does not lie between"):
            region.reconstruct(region.window, outside, between=True)


@pytest.mark.parametrize("time", ["index", "sinusoidal", "fourier", "mlp"])
def test_the_other_time_encodings_train_too(time: Any, output: Path) -> None:
    header = encode(imagery_of((10, 20), dates=3), output, time=time)
    assert header.field.time.kind == time
    assert len(header.quality) == 3
    region = Region.open(output)
    if time == "index":
        with pytest.raises(DateError, match="knows its 3 dates only"):
            region.reconstruct(region.window, dt.date(2017, 3, 1), between=True)
    else:
        assert region.reconstruct(region.window, dt.date(2017, 3, 1), between=True).isfinite().all()


def test_an_area_smaller_than_a_window_is_encoded(output: Path) -> None:
    imagery = imagery_of((10, 10), height=50, width=45, dates=3)
    header = encode(imagery, output, window=128)
    assert min(level(header, index) for index in range(3)) > 30


def test_clouds_are_neither_learned_nor_judged(output: Path) -> None:
    imagery = imagery_of((10, 10), dates=2)
    patches = [truth(imagery, index) for index in range(2)]
    clouds = np.zeros((HEIGHT, WIDTH), bool)
    clouds[30:60, 40:90] = True
    cloudy = dataclasses.replace(
        patches[0],
        reflectance=np.where(clouds, np.float32(1.0), patches[0].reflectance),
        valid=patches[0].valid & ~clouds,
    )
    dates = [held.date for held in imagery.acquisitions]
    masked = resident([cloudy, patches[1]], geobox=imagery.geobox, bands=imagery.bands, dates=dates)
    header = encode(masked, output)
    region = Region.open(output)
    under = region.reconstruct(region.window, dates[0]).numpy()[:, clouds]
    assert under.max() < 0.8  # nothing of the cloud is remembered
    assert level(header) > 30


def test_imagery_that_does_not_fit_into_memory_is_read_window_by_window(tmp_path: Path) -> None:
    imagery = imagery_of((10, 10), dates=2).only([0, 1])  # not in memory, as far as anyone can see
    header = encode(imagery, tmp_path / "lazy", memory_gb=0.0)
    assert header.provenance.settings["start"] == "noise"
    encode(imagery, tmp_path / "resident", start="noise")
    assert same_tensors(tmp_path / "lazy", tmp_path / "resident")
    with pytest.raises(InputError, match="needs the imagery in memory"):
        encode(imagery, tmp_path / "region", memory_gb=0.0, start="pyramid")


def test_training_stops_at_its_target(tmp_path: Path) -> None:
    told: list[PretrainProgress] = []
    settings = dataclasses.replace(QUICK_PRETRAINING, target_db=10.0)
    pretrain(imagery_of(), tmp_path / "region", REGION_WORDS, settings=settings, listener=told.append)
    assert told[-1].step == QUICK_PRETRAINING.report_every
    assert not checkpoint_of(tmp_path / "region").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"preset": "huge"}, "expected one of lite, base, large"),
        ({"time": "kriged"}, "two dates or more"),
        ({"preset": "base", "start": "pyramid"}, "made for the preset lite"),
    ],
)
def test_settings_that_contradict_are_refused(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        encode(imagery_of(), tmp_path / "region", **change)


def test_the_papers_presets_take_the_papers_numbers() -> None:
    settings = PretrainSettings(preset="base").completed(imagery_of(), resident=True)
    assert (settings.batch, settings.rate, settings.table_rate, settings.start) == (64, 5e-4, 5e-4, "noise")
    assert settings.time == "index"
    assert settings.steps == math.ceil(225 * 16_000 * HEIGHT * WIDTH / 5000**2)


# --- the figures


@pytest.mark.parametrize("holes", [False, True])
def test_quality_is_measured_at_each_bands_own_resolution(holes: bool, output: Path) -> None:
    imagery = imagery_of(holes=holes)
    spoilt = truth(imagery).reflectance.copy()
    spoilt[~truth(imagery).valid] = 0.0  # must count for nothing below
    header = encode(imagery, output)
    region = Region.open(output)
    (quality,) = header.quality
    bands, overall = own_psnr(region.reconstruct(region.window).numpy(), imagery)
    assert [band.psnr_db for band in quality.bands] == pytest.approx(bands, abs=1e-3)
    assert quality.psnr_db == pytest.approx(overall, abs=1e-3)
    assert [band.band for band in quality.bands] == [band.name for band in imagery.bands]
    for index, band in enumerate(quality.bands):
        side, patch = imagery.factors[index], truth(imagery)
        measured = block_mean(patch.reflectance[index], side)[patch.valid[index][::side, ::side]]
        assert band.psnr_db is not None
        assert band.rmse is not None
        assert band.rmse == pytest.approx(10 ** (-band.psnr_db / 20), rel=1e-4)
        assert band.rmse_over_std == pytest.approx(band.rmse / measured.std(), rel=1e-4)
        assert band.ssim is None or 0.5 < band.ssim <= 1
    (again,) = measure_quality(region, with_patches(imagery, reflectance=spoilt), tile=50)
    assert [band.psnr_db for band in again.bands] == pytest.approx(bands, abs=1e-3)


def test_a_region_file_says_what_was_encoded_and_how(tmp_path: Path, output: Path) -> None:
    imagery = imagery_of()
    header = encode(imagery, output)
    assert open_region_file(output).header == header
    assert header.grid.geobox == imagery.geobox
    assert header.bands == imagery.bands
    assert header.dates == (dt.date(2017, 2, 16),)
    assert header.provenance.source == "synthetic"
    assert header.provenance.settings["steps"] == QUICK_PRETRAINING.steps
    assert [path.name for path in tmp_path.iterdir()] == ["region.safetensors"]  # no checkpoint is left behind


def test_progress_is_told_at_every_step_with_a_figure_every_few(tmp_path: Path) -> None:
    told: list[PretrainProgress] = []
    pretrain(imagery_of(), tmp_path / "r", REGION_WORDS, settings=QUICK_PRETRAINING, listener=told.append)
    training = [progress for progress in told if not progress.judged]
    assert [progress.step for progress in training] == list(range(1, 9))
    assert told[len(training)].judged > 0
    assert told[-1].judged == 1
    assert [progress.step for progress in told if progress.psnr_db is not None] == [4, 8]


# --- going on


@pytest.mark.parametrize("stop_after", [3, 5, 6])
def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(stop_after: int, tmp_path: Path, output: Path) -> None:
    imagery = imagery_of(holes=True)
    encode(imagery, tmp_path / "whole.safetensors")
    interrupted(imagery, output, stop_after)
    assert checkpoint_of(output).exists()
    assert not output.exists()
    encode(imagery, output, resume=True)
    assert not checkpoint_of(output).exists()
    assert same_tensors(tmp_path / "whole.safetensors", output)


def test_another_seed_is_another_field(tmp_path: Path) -> None:
    for seed in (0, 1):
        encode(imagery_of(), tmp_path / f"{seed}", seed=seed)
    first, second = (open_region_file(tmp_path / f"{seed}").tensors() for seed in (0, 1))
    assert not np.array_equal(first["grid.tables"], second["grid.tables"])


@pytest.mark.parametrize(
    "change", [{"steps": 9}, {"seed": 1}, {"rate": 2e-3}, {"start": "noise"}, {"batch": 3}, {"table_size": 2**12}]
)
def test_a_checkpoint_of_other_settings_is_refused(change: dict[str, Any], output: Path) -> None:
    imagery = imagery_of()
    interrupted(imagery, output)
    with pytest.raises(ArtifactError, match="belongs to another run; what differs: "):
        encode(imagery, output, **change, resume=True)


def test_a_checkpoint_of_other_imagery_is_refused(output: Path) -> None:
    imagery = imagery_of()
    interrupted(imagery, output)
    with pytest.raises(ArtifactError, match="belongs to another run; what differs: "):
        encode(imagery_of(holes=True), output, resume=True)
    encode(imagery, output, checkpoint_every=1, report_every=1, resume=True)
    assert output.exists()


def test_a_checkpoint_that_is_not_there_or_cut_off_is_refused(output: Path) -> None:
    imagery = imagery_of()
    with pytest.raises(ArtifactError, match="no checkpoint"):
        encode(imagery, output, resume=True)
    interrupted(imagery, output)
    whole = checkpoint_of(output).read_bytes()
    checkpoint_of(output).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ArtifactError, match="not a whole checkpoint"):
        encode(imagery, output, resume=True)


# --- what cannot be encoded


def test_a_loss_that_is_not_finite_stops_the_training_and_writes_no_region(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="not finite at step"):
        encode(imagery_of(), tmp_path / "region", rate=1e30, table_rate=1e30)
    assert not (tmp_path / "region").exists()


def test_a_band_with_one_value_everywhere_is_refused_by_name(tmp_path: Path) -> None:
    imagery = imagery_of()
    flat = truth(imagery).reflectance.copy()
    flat[3] = 0.25
    with pytest.raises(ImageryError, match="band B04 has one value everywhere"):
        encode(with_patches(imagery, reflectance=flat), tmp_path / "region")


def test_a_name_that_a_region_cannot_bear_is_refused_before_any_step(tmp_path: Path) -> None:
    steps: list[PretrainProgress] = []
    words = dataclasses.replace(REGION_WORDS, name="not a name")
    with pytest.raises(LianetError) as caught:
        pretrain(imagery_of(), tmp_path / "r", words, settings=QUICK_PRETRAINING, listener=steps.append)
    assert isinstance(caught.value, InputError)
    assert steps == []

"""Encoding a region: it comes close to its imagery, goes on where it stopped, and tells the truth about how close."""

from __future__ import annotations

import dataclasses
import datetime as dt
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from affine import Affine
from odc.geo.geobox import GeoBox

from lianet_user.artifact import open_region_file
from lianet_user.errors import ArtifactError, ImageryError, InputError, LianetError, TrainingError
from lianet_user.field.config import preset
from lianet_user.field.model import NeuralField
from lianet_user.header import Band, RegionHeader
from lianet_user.region import Region
from lianet_user.training import PretrainProgress, PretrainSettings, pretrain
from lianet_user.training.imagery import Scene, block_mean, refine
from lianet_user.training.pretrain import measure_quality
from lianet_user.training.pyramid import start_from_pyramid

HEIGHT, WIDTH = 96, 132  # the width is no multiple of the stride
GSD = (10, 10, 20, 20, 60)
QUICK = PretrainSettings(steps=8, batch=2, window=48, warmup=2, checkpoint_every=3, report_every=4)


def scene_of(gsd: tuple[int, ...] = GSD, holes: bool = False, height: int = HEIGHT) -> Scene:
    """Hills, fields and noise, each band at its own resolution; with `holes`, pixels without a measurement."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:height, :WIDTH]
    reflectance, valid = [], []
    for index, metres in enumerate(gsd):
        hills = 0.1 * np.sin(y / (9 + index)) * np.cos(x / (7 + 2 * index))
        fields = 0.05 * ((y // 11 + x // (9 + index)) % 2)
        noise = rng.normal(0, 0.02, (height, WIDTH))
        factor = metres // 10
        measured = np.ones((height // factor, WIDTH // factor), bool)
        if holes:
            measured[rng.random(measured.shape) < 0.05] = False
        reflectance.append(refine(block_mean(0.3 + hills + fields + noise, factor).astype(np.float32), factor))
        valid.append(measured.repeat(factor, 0).repeat(factor, 1))
    return Scene(
        geobox=GeoBox((height, WIDTH), Affine(10.0, 0.0, 330_000.0, 0.0, -10.0, 5_820_000.0), "EPSG:32633"),
        bands=tuple(Band(name=f"B{n + 1:02}", gsd_m=float(metres)) for n, metres in enumerate(gsd)),
        date=dt.date(2017, 2, 16),
        reflectance=np.stack(reflectance),
        valid=np.stack(valid),
        source="synthetic",
    )


def encode(
    scene: Scene,
    output: Path,
    settings: PretrainSettings = QUICK,
    *,
    stop_after: int | None = None,
    resume: bool = False,
) -> RegionHeader:
    def listener(progress: PretrainProgress) -> None:
        if progress.step == stop_after:
            raise KeyboardInterrupt

    return pretrain(
        scene,
        output,
        name="tiny",
        title="A tiny region",
        licence="CC-BY-4.0",
        attribution="nobody",
        settings=settings,
        listener=listener,
        resume=resume,
    )


def checkpoint_of(output: Path) -> Path:
    return output.with_name(f".{output.stem}.checkpoint")


def own_psnr(remembered: np.ndarray, scene: Scene) -> tuple[list[float], float]:
    """Each band's PSNR over what was measured, pixel by measured pixel, and that of the mean of the squared errors."""
    errors = []
    for index, band in enumerate(scene.bands):
        side = int(band.gsd_m) // 10
        squares = [
            float(difference[row : row + side, col : col + side].mean()) ** 2
            for difference in [remembered[index].astype(np.float64) - scene.reflectance[index]]
            for row in range(0, scene.reflectance.shape[1], side)
            for col in range(0, scene.reflectance.shape[2], side)
            if scene.valid[index, row, col]
        ]
        errors.append(sum(squares) / len(squares))
    return [-10 * math.log10(error) for error in errors], -10 * math.log10(sum(errors) / len(errors))


# --- how close


@pytest.mark.parametrize("gsd", [GSD, (10, 10, 20)], ids=["five bands", "three bands"])
def test_a_few_steps_come_far_closer_than_the_images_own_variance(gsd: tuple[int, ...], tmp_path: Path) -> None:
    scene = scene_of(gsd)
    header = encode(scene, tmp_path / "region.safetensors")
    flat = np.broadcast_to(scene.reflectance.mean((1, 2), keepdims=True), scene.reflectance.shape)
    assert header.quality[0].psnr_db > own_psnr(flat, scene)[1] + 12


def test_starting_from_the_imagery_beats_starting_from_noise_after_as_many_steps(tmp_path: Path) -> None:
    scene = scene_of()
    noise, pyramid = (
        encode(scene, tmp_path / start, dataclasses.replace(QUICK, start=start)).quality[0].psnr_db
        for start in ("noise", "pyramid")
    )
    assert pyramid > noise + 6


@pytest.mark.parametrize("bands", [1, 3, 4, 6])
def test_the_pyramid_reproduces_any_number_of_bands_before_any_step(bands: int) -> None:
    scene = scene_of((10,) * bands)
    image = torch.from_numpy(scene.reflectance[:, :, :128])
    std, mean = torch.std_mean(image.flatten(1), dim=1)
    image = (image - mean[:, None, None]) / std[:, None, None]
    field = NeuralField(preset("lite", height=HEIGHT, width=128, dates=1, bands=bands)).eval()
    start_from_pyramid(field, image)
    with torch.inference_mode():
        features = field.features([(0, 0)], HEIGHT, 128, torch.tensor([0]))
        error = field.reconstruction.standardized(features)[0] - image
    # Of the finest noise a level holds as many components as it has features.
    assert error.square().mean() < (1e-6 if bands <= 4 else 0.1)


# --- the figures


@pytest.mark.parametrize("holes", [False, True])
def test_quality_is_measured_at_each_bands_own_resolution_on_measured_pixels_only(holes: bool, tmp_path: Path) -> None:
    scene = scene_of(holes=holes)
    spoilt = scene.reflectance.copy()
    spoilt[~scene.valid] = 0.0  # must count for nothing below
    header = encode(scene, tmp_path / "region.safetensors")
    region = Region.open(tmp_path / "region.safetensors")
    (quality,) = header.quality
    bands, overall = own_psnr(region.reconstruct(region.window).numpy(), scene)
    assert [band.psnr_db for band in quality.bands] == pytest.approx(bands, abs=1e-3)
    assert quality.psnr_db == pytest.approx(overall, abs=1e-3)
    assert [band.band for band in quality.bands] == [band.name for band in scene.bands]
    for index, band in enumerate(quality.bands):
        side = scene.factor(index)
        truth = block_mean(scene.reflectance[index], side)[scene.valid[index][::side, ::side]]
        assert band.rmse == pytest.approx(10 ** (-band.psnr_db / 20), rel=1e-4)
        assert band.rmse_over_std == pytest.approx(band.rmse / truth.std(), rel=1e-4)
        assert 0.5 < band.ssim <= 1
    again = measure_quality(region, dataclasses.replace(scene, reflectance=spoilt), tile=50)
    assert [band.psnr_db for band in again.bands] == pytest.approx(bands, abs=1e-3)


def test_a_region_file_says_what_was_encoded_and_how(tmp_path: Path) -> None:
    scene = scene_of()
    header = encode(scene, tmp_path / "region.safetensors")
    assert open_region_file(tmp_path / "region.safetensors").header == header
    assert header.grid.geobox == scene.geobox
    assert header.bands == scene.bands
    assert header.dates == (scene.date,)
    assert header.acquisitions[0].id == "synthetic"
    assert header.provenance.settings["steps"] == QUICK.steps
    assert [path.name for path in tmp_path.iterdir()] == ["region.safetensors"]  # no checkpoint is left behind


def test_progress_is_told_at_every_step_with_a_figure_every_few(tmp_path: Path) -> None:
    told: list[PretrainProgress] = []
    pretrain(
        scene_of(), tmp_path / "r", name="r", title="", licence="", attribution="", settings=QUICK, listener=told.append
    )
    assert [progress.step for progress in told] == list(range(1, 9))
    assert [progress.step for progress in told if progress.psnr_db is not None] == [4, 8]


# --- going on


@pytest.mark.parametrize("stop_after", [3, 5, 6])
def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(stop_after: int, tmp_path: Path) -> None:
    scene = scene_of(holes=True)
    encode(scene, tmp_path / "whole.safetensors")
    output = tmp_path / "resumed.safetensors"
    with pytest.raises(KeyboardInterrupt):
        encode(scene, output, stop_after=stop_after)
    assert checkpoint_of(output).exists()
    assert not output.exists()
    encode(scene, output, resume=True)
    assert not checkpoint_of(output).exists()
    whole, resumed = (open_region_file(tmp_path / f"{name}.safetensors").tensors() for name in ("whole", "resumed"))
    assert whole.keys() == resumed.keys()
    assert all(np.array_equal(whole[name], resumed[name]) for name in whole)


def test_another_seed_is_another_field(tmp_path: Path) -> None:
    for seed in (0, 1):
        encode(scene_of(), tmp_path / f"{seed}", dataclasses.replace(QUICK, seed=seed))
    first, second = (open_region_file(tmp_path / f"{seed}").tensors() for seed in (0, 1))
    assert not np.array_equal(first["grid.tables"], second["grid.tables"])


@pytest.mark.parametrize(
    "change", [{"steps": 9}, {"seed": 1}, {"rate": 2e-3}, {"start": "noise"}, {"batch": 3}, {"table_size": 2**12}]
)
def test_a_checkpoint_of_other_settings_is_refused(change: dict[str, object], tmp_path: Path) -> None:
    scene, output = scene_of(), tmp_path / "region.safetensors"
    with pytest.raises(KeyboardInterrupt):
        encode(scene, output, stop_after=3)
    with pytest.raises(TrainingError, match="other imagery or settings"):
        encode(scene, output, dataclasses.replace(QUICK, **change), resume=True)  # type: ignore[arg-type]


def test_a_checkpoint_of_other_imagery_is_refused_and_one_told_of_more_often_is_not(tmp_path: Path) -> None:
    scene, output = scene_of(), tmp_path / "region.safetensors"
    with pytest.raises(KeyboardInterrupt):
        encode(scene, output, stop_after=3)
    with pytest.raises(TrainingError, match="other imagery or settings"):
        encode(scene_of(holes=True), output, resume=True)
    encode(scene, output, dataclasses.replace(QUICK, checkpoint_every=1, report_every=1), resume=True)
    assert output.exists()


def test_a_checkpoint_that_is_not_there_or_cut_off_is_refused(tmp_path: Path) -> None:
    scene, output = scene_of(), tmp_path / "region.safetensors"
    with pytest.raises(ArtifactError, match="no checkpoint"):
        encode(scene, output, resume=True)
    with pytest.raises(KeyboardInterrupt):
        encode(scene, output, stop_after=3)
    whole = checkpoint_of(output).read_bytes()
    checkpoint_of(output).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ArtifactError, match="not a whole checkpoint"):
        encode(scene, output, resume=True)


# --- what cannot be encoded


def test_a_loss_that_is_not_finite_stops_the_training_and_writes_no_region(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="not finite at step"):
        encode(scene_of(), tmp_path / "region", dataclasses.replace(QUICK, rate=1e30, table_rate=1e30))
    assert not (tmp_path / "region").exists()


def test_a_band_with_one_value_everywhere_is_refused_by_name(tmp_path: Path) -> None:
    scene = scene_of()
    flat = scene.reflectance.copy()
    flat[3] = 0.25
    with pytest.raises(ImageryError, match="band B04 has one value everywhere"):
        encode(dataclasses.replace(scene, reflectance=flat), tmp_path / "region")


def test_imagery_too_small_to_judge_is_refused_before_any_step(tmp_path: Path) -> None:
    steps: list[PretrainProgress] = []
    with pytest.raises(ImageryError):
        pretrain(
            scene_of(height=6, gsd=(10, 10, 20, 20)), tmp_path / "r", name="r", title="", licence="", attribution="",
            settings=QUICK, listener=steps.append,
        )  # fmt: skip
    assert steps == []


def test_a_name_that_a_region_cannot_bear_is_refused_before_any_step(tmp_path: Path) -> None:
    steps: list[PretrainProgress] = []
    with pytest.raises(LianetError) as caught:
        pretrain(
            scene_of(), tmp_path / "r", name="not a name", title="", licence="", attribution="",
            settings=QUICK, listener=steps.append,
        )  # fmt: skip
    assert isinstance(caught.value, InputError)
    assert steps == []

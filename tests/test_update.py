"""Updating a region: new dates are learned, old ones are not forgotten, and the file says where it comes from."""

from __future__ import annotations

import dataclasses
import datetime as dt
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import resident
from test_pretrain import GSD, QUICK, WORDS, imagery_of, truth

from lianet_user.artifact import open_region_file
from lianet_user.errors import ArtifactError, ImageryError, InputError
from lianet_user.field.model import NeuralField
from lianet_user.region import Region, read_field
from lianet_user.training import PretrainProgress, pretrain
from lianet_user.training.update import UpdateSettings, _grown, update

SHORT = UpdateSettings(steps=6, batch=4, window=48, warmup=2, checkpoint_every=3, report_every=3)


def encoded(folder: Path, dates: list[int], time: str = "kriged") -> Path:
    path = folder / "old.safetensors"
    if not path.exists():
        imagery = imagery_of((10, 20), dates=5).only(dates)
        settings = dataclasses.replace(QUICK, time=time if len(dates) > 1 else "index")  # type: ignore[arg-type]
        pretrain(imagery, path, WORDS, settings=settings)
    return path


def error(path: Path, index: int) -> float:
    region, imagery = Region.open(path), imagery_of((10, 20), dates=5)
    patch = truth(imagery, index)
    remembered = region.reconstruct(region.window, imagery.acquisitions[index].date).numpy()
    return float(np.square(remembered - patch.reflectance)[patch.valid].mean())


@pytest.mark.parametrize("time", ["kriged", "index"])
def test_a_grown_field_computes_the_same_at_the_old_dates(tmp_path: Path, time: str) -> None:
    path, output = encoded(tmp_path, [0, 2, 3], time), tmp_path / "new.safetensors"
    new = update(path, imagery_of((10, 20), dates=5).only([1, 4]), output, settings=SHORT)
    old = open_region_file(path).header
    teacher = read_field(open_region_file(path)).eval()
    student = _grown(teacher, old, new).eval()
    for date in old.dates:
        before, after = compute(teacher, old.time_of(date)), compute(student, new.time_of(date))
        torch.testing.assert_close(before, after, atol=1e-5, rtol=0)


@torch.no_grad()
def compute(field: NeuralField, time: float) -> torch.Tensor:
    times = torch.tensor([time], dtype=torch.float64 if isinstance(time, float) else torch.int64)
    return field([(0, 0)], 64, 64, times)


@pytest.mark.parametrize("time", ["kriged", "index"])
def test_new_dates_are_learned_and_old_ones_kept(tmp_path: Path, time: str) -> None:
    path, output = encoded(tmp_path, [0, 2, 3], time), tmp_path / "new.safetensors"
    before = [error(path, index) for index in (0, 2, 3)]
    header = update(
        path, imagery_of((10, 20), dates=5).only([1, 4]), output, settings=dataclasses.replace(SHORT, steps=40)
    )
    imagery = imagery_of((10, 20), dates=5)
    assert header.dates == tuple(held.date for held in imagery.acquisitions)
    assert [quality.date for quality in header.quality] == [imagery.acquisitions[index].date for index in (1, 4)]
    for index, was in zip((0, 2, 3), before, strict=True):
        assert error(output, index) < max(3 * was, 5e-5)
    variance = float(np.var(truth(imagery, 1).reflectance, axis=(1, 2)).mean())
    assert max(error(output, 1), error(output, 4)) < 0.2 * variance


def test_an_updated_region_says_where_it_comes_from(tmp_path: Path) -> None:
    path, output = encoded(tmp_path, [0, 2]), tmp_path / "new.safetensors"
    old, sha256 = open_region_file(path).header, open_region_file(path).sha256()
    untouched = path.read_bytes()
    header = update(path, imagery_of((10, 20), dates=5).only([1, 2]), output, settings=SHORT)
    assert open_region_file(output).header == header
    assert header.lineage == old.lineage
    assert header.parents == (sha256,)
    # A date it held already was given too: it is judged, and not learned again.
    assert [quality.date for quality in header.quality] == [dt.date(2017, 3, 20), dt.date(2017, 4, 20)]
    assert path.read_bytes() == untouched
    again = update(output, imagery_of((10, 20), dates=5).only([4]), tmp_path / "third", settings=SHORT)
    assert again.parents == (sha256, open_region_file(output).sha256())


def test_an_interrupted_update_goes_on(tmp_path: Path) -> None:
    path, imagery = encoded(tmp_path, [0, 2]), imagery_of((10, 20), dates=5).only([1])

    def stop(progress: PretrainProgress) -> None:
        if progress.step == 4:
            raise KeyboardInterrupt

    update(path, imagery, tmp_path / "whole", settings=SHORT)
    with pytest.raises(KeyboardInterrupt):
        update(path, imagery, tmp_path / "resumed", settings=SHORT, listener=stop)
    with pytest.raises(ArtifactError, match="belongs to another run; what differs: "):
        update(path, imagery, tmp_path / "resumed", settings=dataclasses.replace(SHORT, seed=1), resume=True)
    update(path, imagery, tmp_path / "resumed", settings=SHORT, resume=True)
    whole, resumed = (open_region_file(tmp_path / name).tensors() for name in ("whole", "resumed"))
    assert all(np.array_equal(whole[name], resumed[name]) for name in whole)


def test_what_cannot_be_added_is_refused(tmp_path: Path) -> None:
    path, output = encoded(tmp_path, [0, 2]), tmp_path / "new.safetensors"
    imagery = imagery_of((10, 20), dates=5)
    with pytest.raises(ImageryError, match="holds every date of the imagery already"):
        update(path, imagery.only([0, 2]), output, settings=SHORT)
    with pytest.raises(ImageryError, match="has the bands"):
        update(path, imagery_of(GSD, dates=2).only([1]), output, settings=SHORT)
    elsewhere = resident(
        [truth(imagery, 1)],
        geobox=imagery.geobox.translate_pix(3, 0),
        bands=imagery.bands,
        dates=[imagery.acquisitions[1].date],
    )
    with pytest.raises(ImageryError, match="grid"):
        update(path, elsewhere, output, settings=SHORT)
    with pytest.raises(InputError, match="batch of 3"):
        update(path, imagery.only([1]), output, settings=dataclasses.replace(SHORT, batch=3))
    assert not output.exists()

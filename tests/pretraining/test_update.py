"""Updating a region: new dates are learned, old ones are not forgotten, and the file says where it comes from."""

from __future__ import annotations

import dataclasses
import datetime as dt
import functools
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from factories import QUICK_PRETRAINING, REGION_WORDS, imagery_of, resident, truth

from lianet_user.errors import ArtifactError, ImageryError, InputError
from lianet_user.field.model import NeuralField
from lianet_user.field.weights import read_field
from lianet_user.files.artifact import open_region_file
from lianet_user.files.header import RegionHeader
from lianet_user.imagery import Imagery
from lianet_user.pretraining import PretrainProgress, pretrain
from lianet_user.pretraining.settings import UpdateSettings
from lianet_user.pretraining.update import _grown, update
from lianet_user.region import Region

SHORT = UpdateSettings(steps=6, batch=4, window=48, warmup=2, checkpoint_every=3, report_every=3)


@functools.cache
def five_dates() -> Imagery:
    """A little more than a window, which suffices to learn; the width is no multiple of the stride."""
    return imagery_of((10, 20), height=64, width=76, dates=5)


def encoded(path: Path, dates: list[int], time: Any = "kriged") -> Path:
    pretrain(five_dates().only(dates), path, REGION_WORDS, settings=dataclasses.replace(QUICK_PRETRAINING, time=time))
    return path


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A region of the first and the third date, for any test that leaves it as it is."""
    return encoded(tmp_path_factory.mktemp("two") / "old.safetensors", [0, 2])


@dataclass(frozen=True)
class Updated:
    """A region of three dates, and what became of it with two more."""

    old: Path
    new: Path
    header: RegionHeader


@pytest.fixture(scope="module", params=["kriged", "index"])
def updated(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Updated:
    folder = tmp_path_factory.mktemp("three")
    old, new = encoded(folder / "old.safetensors", [0, 2, 3], request.param), folder / "new.safetensors"
    header = update(old, five_dates().only([1, 4]), new, settings=dataclasses.replace(SHORT, steps=20))
    return Updated(old, new, header)


def errors(path: Path, indices: Sequence[int]) -> list[float]:
    region, imagery = Region.open(path), five_dates()
    found = []
    for index in indices:
        patch = truth(imagery, index)
        remembered = region.reconstruct(region.window, imagery.acquisitions[index].date).numpy()
        found.append(float(np.square(remembered - patch.reflectance)[patch.valid].mean()))
    return found


def test_a_grown_field_computes_the_same_at_the_old_dates(updated: Updated) -> None:
    old, new = open_region_file(updated.old).header, updated.header
    assert len(new.dates) == len(old.dates) + 2
    teacher = read_field(open_region_file(updated.old)).eval()
    student = _grown(teacher, old, new).eval()
    for date in old.dates:
        before, after = compute(teacher, old.time_of(date)), compute(student, new.time_of(date))
        torch.testing.assert_close(before, after, atol=1e-5, rtol=0)


@torch.no_grad()
def compute(field: NeuralField, time: float) -> torch.Tensor:
    times = torch.tensor([time], dtype=torch.float64 if isinstance(time, float) else torch.int64)
    return field([(0, 0)], 64, 64, times)


def test_new_dates_are_learned_and_old_ones_kept(updated: Updated) -> None:
    header, imagery = updated.header, five_dates()
    assert header.dates == tuple(held.date for held in imagery.acquisitions)
    assert [quality.date for quality in header.quality] == [imagery.acquisitions[index].date for index in (1, 4)]
    before = errors(updated.old, (0, 2, 3))
    first, second, third, *learned = errors(updated.new, (0, 2, 3, 1, 4))
    for now, was in zip((first, second, third), before, strict=True):
        assert now < max(3 * was, 5e-5)
    variance = float(np.var(truth(imagery, 1).reflectance, axis=(1, 2)).mean())
    assert max(learned) < 0.2 * variance


def test_an_updated_region_says_where_it_comes_from(tmp_path: Path, two: Path) -> None:
    path, output = tmp_path / "old.safetensors", tmp_path / "new.safetensors"
    shutil.copyfile(two, path)
    old, sha256 = open_region_file(path).header, open_region_file(path).sha256()
    untouched = path.read_bytes()
    settings = dataclasses.replace(SHORT, steps=1)
    header = update(path, five_dates().only([1, 2]), output, settings=settings)
    assert open_region_file(output).header == header
    assert header.lineage == old.lineage
    assert header.parents == (sha256,)
    # A date it held already was given too: it is judged, and not learned again.
    assert [quality.date for quality in header.quality] == [dt.date(2017, 3, 20), dt.date(2017, 4, 20)]
    assert path.read_bytes() == untouched
    again = update(output, five_dates().only([4]), tmp_path / "third", settings=settings)
    assert again.parents == (sha256, open_region_file(output).sha256())


def test_an_interrupted_update_goes_on(tmp_path: Path, two: Path) -> None:
    path, imagery = two, five_dates().only([1])

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


def test_what_cannot_be_added_is_refused(tmp_path: Path, two: Path) -> None:
    path, output, imagery = two, tmp_path / "new.safetensors", five_dates()
    with pytest.raises(ImageryError, match="holds every date of the imagery already"):
        update(path, imagery.only([0, 2]), output, settings=SHORT)
    with pytest.raises(ImageryError, match="has the bands"):
        update(path, imagery_of((10, 10, 20), height=64, width=76, dates=2).only([1]), output, settings=SHORT)
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

"""The paper's tasks are numbers in a table: those of the paper, and each of them trains."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from factories import RegionHeaderFactory, labels_on
from odc.geo.geobox import GeoBox

from lianet_user.errors import InputError
from lianet_user.field.config import DEEP_WIDTHS
from lianet_user.field.head import HeadLayers
from lianet_user.files.header import ClassEntry
from lianet_user.finetuning.settings import (
    CLASSES,
    LOSS_KINDS,
    MANY,
    MANY_PIXELS,
    TASKS,
    settings_for,
)
from lianet_user.labels import LabelMap, Labels
from lianet_user.labels.effort import FEW_PIXELS

TWO = tuple(ClassEntry(name=name, color="#000000") for name in "ab")


@pytest.fixture
def labels(small_geobox: GeoBox) -> Labels:
    height, width = small_geobox.shape
    return labels_on(small_geobox, np.indices((height, width)).sum(0) % 2, TWO)


@pytest.mark.parametrize(
    ("name", "loss", "rate", "epochs", "warmup_epochs"),
    [
        ("land-cover", "cross-entropy", 1e-3, 50, 3),
        ("leaf-type", "cross-entropy", 1e-3, 50, 3),
        ("canopy-height", "l1", 5e-5, 50, 3),
        ("building-density", "huber", 5e-5, 50, 3),
        ("building-mask", "cross-entropy", 1e-3, 50, 3),
        ("crops", "cross-entropy", 1e-4, 60, 0),
        ("burn-scars", "cross-entropy", 1e-4, 50, 0),
    ],
)
def test_a_task_has_the_papers_numbers(name: str, loss: str, rate: float, epochs: int, warmup_epochs: int) -> None:
    settings = TASKS[name].settings
    assert (settings.loss, settings.rate, settings.epochs) == (loss, rate, epochs)
    assert round(settings.warmup * epochs) == warmup_epochs
    assert (settings.batch, settings.crop, settings.weight_decay, settings.clip) == (32, 128, 0.01, 1.0)
    assert (settings.inputs, settings.members, settings.sampling) == (("features",), 1, "windows")
    assert (settings.prior, settings.pixel_share, settings.leaky, settings.keep_best) == ("labels", 0.0, True, True)


def test_every_task_names_a_loss_for_its_kind() -> None:
    assert set(TASKS) == {
        "land-cover", "leaf-type", "canopy-height", "building-density", "building-mask", "crops", "burn-scars",
    }  # fmt: skip
    for task in TASKS.values():
        assert LOSS_KINDS[task.settings.loss] == ("classes" if task.kind == "segmentation" else "numbers")
    assert TASKS["canopy-height"].settings.number_scale == 30
    assert TASKS["building-mask"].scale == 4


def test_auto_chooses_by_the_labels(labels: Labels, region_header: RegionHeaderFactory) -> None:
    assert settings_for("auto", counted(labels, 30_000), region_header()) == CLASSES
    many = counted(labels, 30_000)
    numbers = settings_for("auto", dataclasses.replace(many, classes=(), task="regression"), region_header())
    assert (numbers.loss, numbers.dated, numbers.leaky) == ("l1", True, False)
    shares = settings_for("auto", dataclasses.replace(many, classes=(), task="coverage"), region_header())
    assert shares == dataclasses.replace(numbers, loss="mse")


def counted(labels: Labels, pixels: int) -> Labels:
    """As if so many pixels were labelled."""
    return dataclasses.replace(labels, report=dataclasses.replace(labels.report, labelled=pixels))


def test_few_labels_are_left_to_pixel_models(labels: Labels, region_header: RegionHeaderFactory) -> None:
    header = region_header()
    few = dataclasses.replace(CLASSES, pixel_share=1.0)
    many = dataclasses.replace(CLASSES, **MANY)
    enough, plenty = 1.25 * FEW_PIXELS, 1.25 * MANY_PIXELS  # a fifth is not trained on
    for pixels, expected in (
        (enough - 1, few), (enough, CLASSES), (plenty - 2, CLASSES), (plenty, many)
    ):  # fmt: skip
        assert settings_for("auto", counted(labels, int(pixels)), header) == expected
    # What counts is what is trained on, on ground: sixteen labels of a finer grid are one pixel.
    assert settings_for("auto", counted(labels, int(plenty)), header, 0.2) == CLASSES
    fine = dataclasses.replace(counted(labels, int(plenty)), scale=4)
    assert settings_for("auto", fine, header) == CLASSES
    # Pixel models read no labels finer than the grid.
    assert settings_for("auto", dataclasses.replace(counted(labels, 10), scale=4), header).pixel_share is None


def test_labels_that_last_are_learned_from_what_all_dates_have_in_common(
    labels: Labels, region_header: RegionHeaderFactory
) -> None:
    two = region_header(dates=2)
    lasting = dataclasses.replace(labels, maps=(LabelMap(labels.maps[0].values, two.dates),))
    assert not settings_for("auto", lasting, two).dated
    passing = dataclasses.replace(labels, maps=tuple(LabelMap(labels.maps[0].values, (date,)) for date in two.dates))
    assert settings_for("auto", passing, two).dated


def test_a_task_refuses_other_labels_and_an_unknown_one_names_the_nearest(
    labels: Labels, region_header: RegionHeaderFactory
) -> None:
    assert settings_for("leaf-type", labels, region_header()) == TASKS["leaf-type"].settings
    with pytest.raises(InputError, match=r"canopy-height is for regression .* read as segmentation"):
        settings_for("canopy-height", labels, region_header())
    with pytest.raises(InputError, match=r"building-mask .*`scale` 4"):
        settings_for("building-mask", labels, region_header())
    with pytest.raises(InputError, match="did you mean 'leaf-type'"):
        settings_for("leaftype", labels, region_header())


def test_the_deeper_head_of_base_has_the_published_size() -> None:
    layers = HeadLayers(128, DEEP_WIDTHS, 20, "group")
    assert 0.8e6 < sum(p.numel() for p in layers.parameters()) < 0.9e6
    assert sum(module.__class__.__name__ == "Conv2d" for module in layers) == 11

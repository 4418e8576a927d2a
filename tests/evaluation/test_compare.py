"""Comparing models: all learn from the same labels and are judged by the same, and the table is what came of it."""

from __future__ import annotations

import csv
import dataclasses
import datetime as dt
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from command_line import lianet, refusal
from factories import RegionFactory, labels_on, resident
from heads import entries
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox

from lianet_user.errors import ImageryError, InputError, LabelError
from lianet_user.evaluation import baselines
from lianet_user.evaluation.compare import (
    CLASS_FIGURES,
    NUMBER_FIGURES,
    OF_MEAN,
    Comparison,
    Outcome,
    SplitPlan,
    common_ground,
    compare,
)
from lianet_user.files.header import IGNORE, Band, ClassScore, NumberScores, Scores
from lianet_user.finetuning import FinetuneSettings, finetune
from lianet_user.geo.grid import Window
from lianet_user.imagery import Imagery, Patch
from lianet_user.labels import LabelMap, Labels, split_labels
from lianet_user.labels.label_map import NumberSummary
from lianet_user.region import Region

FIRST, SECOND = dt.date(2017, 2, 16), dt.date(2017, 3, 16)
CLASSES = entries(("water", "field", "forest"))
QUICK = FinetuneSettings(members=1, steps=4, batch=2, crop=16, widths=(8,), inputs=("bands",))
PLAN = SplitPlan(folds=2, buffer=0)
CLOUD = Window(0, 0, 24, 32)


@pytest.fixture(autouse=True)
def few_trees(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(baselines, "TREES", 20)


def scene(geobox: GeoBox, dates: Sequence[dt.date] = (FIRST,), cloud: Window | None = None) -> Imagery:
    """Noise in three bands; on every date a cloud, of which one band sees nothing, in another place."""
    rng = np.random.default_rng(0)
    patches = []
    for number in range(len(dates)):
        values = rng.random((3, *geobox.shape), np.float32)
        valid = np.ones(values.shape, bool)
        if cloud:
            valid[(1, *cloud.shifted(0, 40 * number).slices)] = False
        patches.append(Patch(values, valid))
    bands = tuple(Band(name=f"B{n + 2:02}", gsd_m=10.0) for n in range(3))
    return resident(patches, geobox=geobox, bands=bands, dates=dates)


def seen(imagery: Imagery, index: int = 0) -> NDArray[np.float32]:
    return imagery.read(index, imagery.window).reflectance


def brightest(imagery: Imagery, dates: Sequence[dt.date] = (FIRST,), share: float = 0.7) -> Labels:
    """Labels that say which band is the brightest on the first date, on a share of the pixels."""
    values = seen(imagery).argmax(0)
    values[np.random.default_rng(1).random(values.shape) > share] = IGNORE
    return labels_on(imagery.geobox, values, CLASSES, dates)


def numbers(imagery: Imagery, dates: Sequence[dt.date] = (FIRST,)) -> Labels:
    """Labels that are ten times the first band on the first date."""
    values = 10 * seen(imagery)[0]
    found = labels_on(imagery.geobox, values, CLASSES, dates)
    summary = NumberSummary(float(values.min()), float(values.mean()), float(values.max()), float(values.std()))
    report = dataclasses.replace(found.report, task="regression", classes=(), numbers=summary)
    maps = (LabelMap(values.astype(np.float32), tuple(dates)),)
    return dataclasses.replace(found, task="regression", classes=(), maps=maps, report=report)


@pytest.fixture
def region(make_region: RegionFactory) -> Region:
    return make_region()


@pytest.fixture
def imagery(region: Region) -> Imagery:
    """One date without a cloud."""
    return scene(region.geobox)


@pytest.fixture
def clouded(region: Region) -> Imagery:
    """One date with a cloud."""
    return scene(region.geobox, cloud=CLOUD)


def quickly(region: Region, labels: Labels, *contenders: str, **more: Any) -> Comparison:
    """The comparison, with small trainings; without names all that can be compared."""
    return compare(region, labels, **{"contenders": contenders or None, "plan": PLAN, "settings": QUICK} | more)


def by_contender(comparison: Comparison) -> dict[str, list[Outcome]]:
    return {name: [each for each in comparison.outcomes if each.contender == name] for name in comparison.reads}


def write(path: Path, values: NDArray[Any], geobox: GeoBox, bands: Sequence[str] = (), **more: Any) -> Path:
    count, height, width = values.shape
    profile = {"count": count, "height": height, "width": width, "dtype": values.dtype, "crs": str(geobox.crs)}
    with rasterio.open(path, "w", driver="GTiff", transform=geobox.affine, **profile, **more) as file:
        file.write(values)
        file.descriptions = bands or (None,) * count
    return path


# --- the same ground for all


def test_every_contender_is_judged_by_the_same_clear_labels(region: Region, clouded: Imagery, tmp_path: Path) -> None:
    labels = brightest(clouded)
    holes = seen(clouded).copy()
    holes[:, 60:70, 100:110] = np.nan
    raster = write(tmp_path / "embedding.tif", holes, region.geobox)
    comparison = quickly(region, labels, imagery=clouded, features=[raster])
    names = ["lianet", "bands", "unet", "micro-unet", "forest", "forest-context", "embedding.tif"]
    assert list(comparison.reads) == names
    assert [comparison.reads[name] for name in names] == ["region file", *["imagery"] * 5, "features"]

    counting = np.ones(region.shape, bool)
    counting[CLOUD.slices] = False
    counting[60:70, 100:110] = False
    labelled = labels.maps[0].labelled
    assert comparison.labelled == labelled.sum()
    assert comparison.left_out == (labelled & ~counting).sum() > 0
    reference = np.bincount(labels.maps[0].values[labelled & counting], minlength=3)
    for outcomes in by_contender(comparison).values():
        assert [each.split for each in outcomes] == [0, 1]
        confusion = np.sum([each.scores.confusion for each in outcomes if isinstance(each.scores, Scores)], 0)
        np.testing.assert_array_equal(confusion.sum(1), reference)  # every label that counts, once


def test_labels_under_clouds_teach_nobody_anything(region: Region, clouded: Imagery) -> None:
    labels = brightest(clouded)
    wrong = labels.maps[0].values.copy()
    inside = wrong[CLOUD.slices]
    inside[inside != IGNORE] = (inside[inside != IGNORE] + 1) % 3
    lying = dataclasses.replace(labels, maps=(LabelMap(wrong, labels.dates),))
    one, other = (quickly(region, each, "lianet", "micro-unet", "forest", imagery=clouded) for each in (labels, lying))
    assert [each.scores for each in one.outcomes] == [each.scores for each in other.outcomes]


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_lianet_is_the_head_that_finetune_trains(region: Region, imagery: Imagery, share: float) -> None:
    labels = brightest(imagery)
    # Crops for which finetune cuts the same windows.
    settings = dataclasses.replace(QUICK, members=2, crop=64, inputs=("features", "bands"), pixel_share=share)
    plan = SplitPlan(share_train=0.6, buffer=3)
    comparison = quickly(region, labels, "lianet", "forest", imagery=imagery, plan=plan, settings=settings)
    split = split_labels(labels, share=0.4, seed=0, buffer=3)
    trained = finetune(region, labels, settings=settings, split=split)
    ours, scores = by_contender(comparison)["lianet"][0].scores, trained.head.header.scores
    assert isinstance(ours, Scores)
    assert isinstance(scores, Scores)
    assert ours.confusion == scores.confusion


def test_a_forest_on_the_imagery_learns_what_the_imagery_shows(region: Region, imagery: Imagery) -> None:
    comparison = quickly(region, brightest(imagery), "lianet", "forest", imagery=imagery)
    lianet, forest = comparison.rows()
    assert forest.means["macro_f1"] is not None
    assert lianet.means["macro_f1"] is not None
    assert forest.means["macro_f1"] > 0.85 > lianet.means["macro_f1"]
    assert "forest" in comparison.sentence()
    assert "ahead in 0 of 2 splits" in comparison.sentence()


def test_a_head_learns_from_features_what_they_show(region: Region, imagery: Imagery, tmp_path: Path) -> None:
    raster = write(tmp_path / "embedding.tif", seen(imagery), region.geobox)
    settings = dataclasses.replace(QUICK, steps=120, batch=4, rate=1e-2)
    lianet, embedding = quickly(region, brightest(imagery), features=[raster], settings=settings).rows()
    assert (lianet.contender, embedding.contender) == ("lianet", "embedding.tif")
    assert embedding.means["macro_f1"] is not None
    assert embedding.means["macro_f1"] > 0.7


def test_numbers_are_compared_in_their_unit(region: Region, imagery: Imagery) -> None:
    labels = numbers(imagery)
    comparison = quickly(region, labels, "lianet", "micro-unet", "forest", imagery=imagery)
    assert comparison.figures == NUMBER_FIGURES
    rows = {row.contender: row for row in comparison.rows()}
    assert rows["forest"].means["mae"] is not None
    assert rows["forest"].means["mae"] < 0.2  # of numbers from 0 to 10, whose deviation is 2.9
    assert rows["forest"].means["r2"] == pytest.approx(1.0, abs=0.02)
    assert comparison.best(NUMBER_FIGURES[0]) == rows["forest"].means["mae"]
    for outcomes in by_contender(comparison).values():
        assert sum(each.scores.pixels for each in outcomes) == labels.maps[0].labelled.sum()


# --- several dates


def test_labels_count_at_each_of_their_dates_where_it_is_clear(make_region: RegionFactory) -> None:
    region = make_region(dates=2)
    imagery = scene(region.geobox, (FIRST, SECOND), cloud=CLOUD)
    labels = brightest(imagery, (FIRST, SECOND))
    names = ["lianet", "forest", "forest-dates"]
    comparison = quickly(region, labels, *names, imagery=imagery)
    assert list(comparison.reads) == names  # no mean over dates of which some are clouded
    labelled = labels.maps[0].labelled
    clouds = np.zeros((2, *region.shape), bool)
    clouds[(0, *CLOUD.slices)] = clouds[(1, *CLOUD.shifted(0, 40).slices)] = True
    assert comparison.labelled == 2 * labelled.sum()
    assert comparison.left_out == (labelled & clouds).sum()
    for outcomes in by_contender(comparison).values():
        assert sum(each.scores.pixels for each in outcomes) == comparison.labelled - comparison.left_out


def test_a_forest_on_all_dates_knows_what_each_alone_does_not(make_region: RegionFactory) -> None:
    region = make_region(dates=2)
    imagery = scene(region.geobox, (FIRST, SECOND))
    values = (seen(imagery, 0)[0] > seen(imagery, 1)[0]).astype(np.uint8)  # what became darker
    labels = labels_on(region.geobox, values, CLASSES[:2], (FIRST, SECOND))
    comparison = quickly(region, labels, "lianet", "forest", "forest-dates", imagery=imagery)
    assert list(comparison.reads) == ["lianet", "lianet" + OF_MEAN, "forest", "forest-dates"]
    rows = {row.contender: row.means["macro_f1"] for row in comparison.rows()}
    assert rows["forest-dates"] is not None
    assert rows["forest"] is not None
    assert rows["forest-dates"] > 0.9 > rows["forest"]


def test_common_ground_is_known_for_any_window(small_geobox: GeoBox) -> None:
    geobox = GeoBox((200, 300), small_geobox.affine, small_geobox.crs)
    rng = np.random.default_rng(0)
    clear = {date: rng.random(geobox.shape) > 0.2 for date in (FIRST, SECOND)}
    values = np.where(rng.random(geobox.shape) > 0.5, 1, 0)
    values[128:, :128] = IGNORE  # a block without labels
    ground = common_ground(
        labels_on(geobox, values, CLASSES[:2], (FIRST, SECOND)), [lambda window, date: clear[date][window.slices]]
    )
    expected = (values != IGNORE) & (clear[FIRST] | clear[SECOND])
    np.testing.assert_array_equal(ground.labels.maps[0].labelled, expected)
    for window in (Window(0, 0, 200, 300), Window(100, 90, 60, 190), Window(150, 10, 20, 20)):
        for date in (FIRST, SECOND):
            labelled = expected[window.slices]
            np.testing.assert_array_equal(ground.mask(window, date)[labelled], clear[date][window.slices][labelled])
    assert not ground.everywhere
    assert ground.labelled - ground.left_out == sum(int((expected & each).sum()) for each in clear.values())


# --- what is refused


def test_what_cannot_be_compared_is_refused(region: Region, imagery: Imagery, tmp_path: Path) -> None:
    labels = brightest(imagery)
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        write(tmp_path / folder / "f.tif", seen(imagery), region.geobox)
    twice = [tmp_path / "a" / "f.tif", tmp_path / "b" / "f.tif"]
    part = write(tmp_path / "part.tif", seen(imagery)[:, :48], region.geobox[:48])
    cases: list[tuple[type[Exception], str, dict[str, Any]]] = [
        (InputError, "nothing to compare lianet with: give `imagery`", {}),
        (InputError, "`contenders` unet needs imagery", {"contenders": ["lianet", "unet"]}),
        (InputError, "no 'forrest'.*did you mean 'forest'", {"contenders": ["forrest"], "imagery": imagery}),
        (
            InputError,
            "forest-dates needs labels that hold",
            {"contenders": ["lianet", "forest-dates"], "imagery": imagery},
        ),
        (InputError, r"two feature rasters are called f\.tif", {"features": twice}),
        (ImageryError, r"part\.tif covers \d\d\.\d% of the labelled ground", {"features": [part]}),
    ]
    for kind, message, given in cases:
        with pytest.raises(kind, match=message):
            quickly(region, labels, **given)
    with pytest.raises(LabelError, match="omit `scale`"):
        quickly(region, dataclasses.replace(labels, scale=4), imagery=imagery)
    with pytest.raises(InputError, match="`share_train` 1:"):
        SplitPlan(share_train=1.0)


def test_labels_that_no_imagery_shows_are_refused(region: Region, clouded: Imagery) -> None:
    values = np.full(region.shape, IGNORE)
    values[:20, :10], values[:20, 10:20] = 0, 1
    with pytest.raises(LabelError, match="no label lies where the imagery and the features are valid"):
        quickly(region, labels_on(region.geobox, values, CLASSES[:2]), imagery=clouded)
    values[50:90, 50:90] = 0
    with pytest.raises(LabelError, match="all labels of 'field' lie where"):
        quickly(region, labels_on(region.geobox, values, CLASSES[:2]), imagery=clouded)


# --- the table


def scores(f1: float | None, accuracy: float = 0.5) -> Scores:
    one = ClassScore(name="all", pixels=10, iou=0.25, accuracy=accuracy, f1=f1)
    return Scores(pixels=10, accuracy=accuracy, macro_iou=0.25, macro_f1=f1, classes=(one,), confusion=((10,),))


def test_the_table_holds_means_and_deviations_and_says_who_is_ahead(tmp_path: Path) -> None:
    found = {"lianet": [0.7, 0.8, 0.6], "unet": [0.65, 0.82, 0.5], "forest": [0.5, 0.4, 0.61]}
    outcomes = [
        Outcome(name, split, 10.0 * (split + 1), scores(value))
        for name, values in found.items()
        for split, value in enumerate(values)
    ]
    reads = {"lianet": "region file", "unet": "imagery", "forest": "imagery"}
    comparison = Comparison(CLASS_FIGURES, reads, tuple(outcomes), 100, 7)
    for row in comparison.rows():
        assert row.means["macro_f1"] == pytest.approx(np.mean(found[row.contender]))
        assert row.deviations["macro_f1"] == pytest.approx(np.std(found[row.contender], ddof=1))
        assert row.seconds == 20
    assert comparison.best(CLASS_FIGURES[0]) == pytest.approx(0.7)
    assert comparison.sentence() == (
        "lianet, which needs no imagery, has a mean macro F1 of 0.700, 1.07 times that of the best of the others (unet,"
        " 0.657); it is ahead in 2 of 3 splits."
    )
    comparison.write_csv(tmp_path / "table.csv")
    with (tmp_path / "table.csv").open(newline="") as file:
        written = list(csv.DictReader(file))
    assert [line["contender"] for line in written] == list(found)
    assert float(written[1]["macro_f1"]) == pytest.approx(np.mean(found["unet"]))
    assert float(written[2]["macro_f1_deviation"]) == pytest.approx(np.std(found["forest"], ddof=1))
    assert comparison.as_dict()["left_out"] == 7


def test_the_smallest_error_is_best_and_unmeasured_ones_are_left_out() -> None:
    def errors(mae: float, r2: float | None) -> NumberScores:
        return NumberScores(pixels=5, mae=mae, mse=1.0, rmse=1.0, r2=r2, bias=0.0)

    outcomes = (
        Outcome("lianet", 0, 1.0, errors(2.0, None)),
        Outcome("lianet", 1, 1.0, errors(4.0, 0.5)),
        Outcome("forest", 0, 1.0, errors(1.5, None)),
        Outcome("forest", 1, 1.0, errors(6.0, None)),
    )
    comparison = Comparison(NUMBER_FIGURES, {"lianet": "region file", "forest": "imagery"}, outcomes, 10, 0)
    mae, _, r2 = NUMBER_FIGURES
    assert comparison.best(mae) == 3.0
    assert comparison.best(r2) == 0.5
    lianet, forest = comparison.rows()
    assert (lianet.means["r2"], lianet.deviations["r2"], forest.means["r2"]) == (0.5, None, None)
    assert "3.000, 0.80 times that of the best of the others (forest, 3.750)" in comparison.sentence()
    assert "ahead in 1 of 2 splits" in comparison.sentence()


# --- the command


def test_the_command_writes_the_table(region: Region, imagery: Imagery, tmp_path: Path) -> None:
    labels = brightest(imagery)
    folder, table = tmp_path / "imagery", tmp_path / "table.csv"
    folder.mkdir()
    numbers = (seen(imagery) * 10_000).astype(np.uint16)
    write(folder / "scene_2017-02-16.tif", numbers, region.geobox, ("B02", "B03", "B04"))
    reference = write(tmp_path / "labels.tif", labels.maps[0].values[None], region.geobox, nodata=IGNORE)
    quick = ("--contenders", "lianet,forest", "--folds", 2, "--split-buffer", 0, "--steps", 2, "--members", 1)
    command = ("compare", region.path, reference, "--imagery", folder, *quick, "--task", "segmentation", "-o", table)
    document = json.loads(lianet(*command, "--json").out)
    assert [row["contender"] for row in document["table"]] == ["lianet", "forest"]
    assert document["labelled"] == labels.maps[0].labelled.sum()
    assert len(document["splits"]) == 4
    assert table.read_text().startswith("contender,reads,macro_f1,macro_f1_deviation,accuracy")

    assert "table.csv" in refusal(*command)
    printed = " ".join(lianet(*command, "--overwrite").out.split())
    assert "lianet, which needs no imagery, has a mean macro F1 of" in printed
    assert "--folds and --share-train" in refusal(*command, "--overwrite", "--share-train", 0.5)
    assert Region.open(str(region.path)).shape == (96, 128)

"""The commands that train and judge heads, as processes and in-process, on a small region."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
import rasterio
import torch
from affine import Affine
from command_line import lianet, refusal
from factories import RegionFactory
from odc.geo.geobox import GeoBox
from processes import Child, kept_often
from shapely.geometry import box

from lianet_user.errors import EXIT_FAILURE, EXIT_INTERRUPTED, EXIT_TERMINATED, ArtifactError
from lianet_user.files.artifact import open_head_file
from lianet_user.files.checkpoint import head_checkpoint_path
from lianet_user.files.container import open_container
from lianet_user.files.header import NumberScores, Scores
from lianet_user.finetuning.crops import Batch
from lianet_user.finetuning.trainer import HeadTrainer, Step
from lianet_user.head import Head
from lianet_user.region import Region

GRID = GeoBox((96, 160), Affine(10.0, 0.0, 330_000.0, 0.0, -10.0, 5_820_000.0), "EPSG:32633")
QUICK = ("--steps", 12, "--members", 1, "--batch", 2, "--crop", 16, "--block", 16, "--no-picture", "--no-report")


@pytest.fixture
def region(make_region: RegionFactory) -> Region:
    return make_region(geobox=GRID, dates=2)


def write_raster(path: Path, values: np.ndarray, scale: int = 1, nodata: float | None = None) -> Path:
    transform = GRID.affine @ Affine.scale(1 / scale)
    height, width = values.shape
    profile = {"driver": "GTiff", "height": height, "width": width, "count": 1, "dtype": values.dtype}
    with rasterio.open(path, "w", crs="EPSG:32633", transform=transform, nodata=nodata, **profile) as file:
        file.write(values, 1)
    return path


@pytest.fixture
def brightness(region: Region) -> np.ndarray:
    """How bright the region is at its first date, from 0 to 1: float32 (height, width)."""
    band = region.head_input(region.window, region.header.dates[0], ("context",))[0].numpy()
    scaled: np.ndarray = ((band - band.min()) / np.ptp(band)).astype(np.float32)
    return scaled


@pytest.fixture
def classes(brightness: np.ndarray, tmp_path: Path) -> Path:
    return write_raster(tmp_path / "classes.tif", (brightness > np.median(brightness)).astype(np.uint8) + 1, nodata=0)


@pytest.fixture
def numbers(brightness: np.ndarray, tmp_path: Path) -> Path:
    return write_raster(tmp_path / "numbers.tif", brightness * 40)


def finetuned(region: Region, labels: Path, *options: object, dates: str = "2017-02-16") -> Path:
    """The head that the command trains in a moment, beside the labels."""
    head = labels.with_name("head.safetensors")
    lianet("finetune", region.path, labels, "-o", head, "--date", dates, *QUICK, *options, "--quiet")
    return head


def test_numbers_are_trained_judged_mapped_and_evaluated(region: Region, numbers: Path, tmp_path: Path) -> None:
    head, map_ = tmp_path / "head.safetensors", tmp_path / "map.tif"
    options = ("--task", "regression", "--date", "2017-02-16")
    done = lianet("finetune", region.path, numbers, "-o", head, "--unit", "m", *options, *QUICK, "--steps", 60)
    assert "mean absolute error" in done.out
    header = open_head_file(head).header
    assert header.numbers is not None
    assert (header.numbers.unit, header.task) == ("m", "regression")
    assert isinstance(header.scores, NumberScores)
    assert header.scores.r2 is not None
    assert header.scores.r2 > 0.3
    lianet("predict", head, "-o", map_, "--quiet")
    with rasterio.open(map_) as dataset:
        mapped = dataset.read(1)
    with rasterio.open(numbers) as dataset:
        truth = dataset.read(1)
    assert np.corrcoef(mapped.ravel(), truth.ravel())[0, 1] > 0.6
    done = lianet("evaluate", head, numbers, *options, "--json")
    assert "flatter" in done.err
    assert json.loads(done.out)["scores"]["mae"] == pytest.approx(np.abs(mapped - truth).mean(), rel=0.05)


def test_what_follows_training_has_lines_of_its_own(
    region: Region, classes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lianet_user.cli.console.LINE_AFTER", 0.0)
    monkeypatch.setattr("lianet_user.cli.console.LINES_APART", 0.0)
    head = tmp_path / "head.safetensors"
    told = lianet("finetune", region.path, classes, "-o", head, "--date", "2017-02-16", *QUICK, "--picture", "--report").err
    lines = re.findall(r"fine-tuning: (\d+)% in 0:\d\d(?:, about \d:\d\d left)?,? ?(.*)", told)
    late = [(int(share), note) for share, note in lines if int(share) >= 70]
    assert [note for _, note in late] == ["drawing", "writing the report", ""]
    assert 70 <= late[0][0] < 90 <= late[1][0] < 100 == late[2][0]


def test_labels_on_a_finer_grid_make_a_finer_map(region: Region, brightness: np.ndarray, tmp_path: Path) -> None:
    fine = brightness.repeat(4, 0).repeat(4, 1)
    labels = write_raster(tmp_path / "fine.tif", (fine > np.median(fine)).astype(np.uint8) + 1, scale=4, nodata=0)
    head, map_ = finetuned(region, labels, "--scale", 4), tmp_path / "map.tif"
    assert Head.open(head).scale == 4
    lianet("predict", head, "-o", map_, "--quiet")
    with rasterio.open(map_) as dataset:
        assert dataset.shape == (96 * 4, 160 * 4)
        assert dataset.res == (2.5, 2.5)


def test_labels_that_last_are_learned_once_and_folds_judge_all_of_them(region: Region, classes: Path) -> None:
    header = open_head_file(finetuned(region, classes, "--folds", 3, dates="all")).header
    assert header.dates == region.header.dates
    assert header.head.inputs == ("encoding", "series")
    assert isinstance(header.scores, Scores)
    assert header.scores.pixels == 96 * 160


def test_a_head_that_failed_says_so_and_strict_makes_it_an_error(
    region: Region, brightness: np.ndarray, tmp_path: Path
) -> None:
    spread = np.zeros(brightness.shape, np.uint8)
    spread[::6, ::6] = 1 + (brightness > np.median(brightness))[::6, ::6]
    head, options = tmp_path / "head.safetensors", ("--date", "2017-02-16", *QUICK, "--validation", 0.5, "--strict")
    right = write_raster(tmp_path / "right.tif", spread, nodata=0)
    assert "95 % intervals" in lianet("finetune", region.path, right, "-o", head, *options).out

    wrong = write_raster(tmp_path / "wrong.tif", np.random.default_rng(0).permuted(spread, axis=1), nodata=0)
    words = ("finetune", region.path, wrong, "-o", head, *options, "--json", "--overwrite")
    done = lianet(*words, code=EXIT_FAILURE)
    document = json.loads(done.out)
    assert "is not clearly better than answering" in document["verdict"]
    assert f"error: {head} is written, and fails --strict: {document['verdict']}" in done.err
    low, high = document["intervals"]["macro_f1"]
    assert low < document["scores"]["macro_f1"] < high
    assert open_head_file(head).header.provenance.source == "wrong.tif, band 1"


def test_a_test_area_is_judged_apart(region: Region, classes: Path, tmp_path: Path) -> None:
    area = gpd.GeoDataFrame(geometry=[box(330_000, 5_819_040, 330_400, 5_820_000)], crs="EPSG:32633")
    area.to_file(tmp_path / "area.gpkg")
    tested = open_head_file(finetuned(region, classes, "--test-area", tmp_path / "area.gpkg")).header.test_scores
    assert isinstance(tested, Scores)
    assert tested.pixels == 96 * 40


def test_evaluate_estimates_areas(region: Region, classes: Path, tmp_path: Path) -> None:
    other = Path(shutil.copy(classes, tmp_path / "survey.tif"))
    evaluate = ("evaluate", finetuned(region, classes), other, "--areas", "--date")
    areas = json.loads(lianet(*evaluate, "2017-02-16", "--json").out)["areas"]
    assert sum(each["mapped_ha"] for each in areas["classes"]) == pytest.approx(96 * 160 * 0.01, rel=2e-4)
    lianet(*evaluate, "2017-02-16")
    assert "--areas: the labels describe 2 dates" in refusal(*evaluate, "all")


def test_a_learning_curve_is_a_table_and_a_plot(region: Region, classes: Path, tmp_path: Path) -> None:
    table = tmp_path / "curve.csv"
    options = ("--date", "2017-02-16", "--shares", "0.3,1", "--repeats", 2)
    lianet("learning-curve", region.path, classes, "-o", table, *options, *QUICK[:-2])
    with open(table) as file:
        rows = list(csv.DictReader(file))
    assert [(row["repeat"], row["share"]) for row in rows] == [("0", "0.3"), ("0", "1.0"), ("1", "0.3"), ("1", "1.0")]
    assert all(0 <= float(row["macro_f1"]) <= 1 for row in rows)
    assert table.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


SOON_KEPT = """
from lianet_user.cli import main
from lianet_user.finetuning import trainer as loop

loop.CHECKPOINT_EVERY = 5
main()
"""
"""The command line, whose trainings keep a checkpoint so soon that almost all steps are left to be interrupted in."""


@pytest.mark.usefixtures("native_answers")  # as in the process that is stopped
def test_a_terminated_finetune_can_be_resumed_to_the_same_head(region: Region, classes: Path, tmp_path: Path) -> None:
    command = ("finetune", region.path, classes, "--date", "2017-02-16", *QUICK, "--steps", 150, "-o")
    whole, stopped = tmp_path / "whole.safetensors", tmp_path / "stopped.safetensors"
    lianet(*command, whole)
    process = subprocess.Popen(
        [sys.executable, "-c", SOON_KEPT, *map(str, command), str(stopped), "--overwrite"],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        env=os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())},  # which decides how sums are rounded
    )
    checkpoint = head_checkpoint_path(stopped)
    while not checkpoint.exists():
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode == EXIT_TERMINATED
    assert b"--resume" in said
    assert not stopped.exists()
    assert "--resume" in refusal(*command, stopped)
    assert "rate (then" in refusal(*command, stopped, "--overwrite", "--resume", "--rate", 0.5)
    lianet(*command, stopped, "--overwrite", "--resume")
    assert not checkpoint.exists()
    one, other = (Head.open(path).layers.state_dict() for path in (whole, stopped))
    assert all(torch.equal(one[name], other[name]) for name in one)


def finished_runs(checkpoint: Path) -> int:
    """How many trainings of a study are finished."""
    try:
        return len(json.loads(open_container(checkpoint, "checkpoint").metadata["state"]))
    except (ArtifactError, OSError):
        return 0


@pytest.mark.usefixtures("native_answers")  # as in the process that is stopped
@pytest.mark.parametrize(
    ("command", "number", "code"),
    [
        ("learning-curve", signal.SIGTERM, EXIT_TERMINATED),
        ("compare", signal.SIGINT, EXIT_INTERRUPTED),
        ("compare", signal.SIGKILL, -signal.SIGKILL),
    ],
)
def test_a_study_that_was_stopped_goes_on_with_the_step_it_was_at(
    command: str,
    number: int,
    code: int,
    region: Region,
    classes: Path,
    brightness: np.ndarray,
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    steps, trainings = 25, 2
    options: tuple[object, ...] = ("--shares", "0.5,1", "--repeats", 1)
    if command == "compare":
        trainings = 4
        options = ("--features", write_raster(tmp_path / "features.tif", brightness), "--folds", 2)
    quick = ("--steps", steps, "--members", 1, "--batch", 2, "--crop", 16, "--block", 16, "--date", "2017-02-16")
    words = (command, region.path, classes, *quick, *options, "-o")
    whole, stopped = tmp_path / "whole.csv", tmp_path / "stopped.csv"
    lianet(*words, whole)

    child = Child(tmp_path_factory.mktemp("said"), kept_often, *map(str, (*words, stopped)))
    checkpoint = head_checkpoint_path(stopped)
    said = child.stop(number, lambda: finished_runs(checkpoint) >= 1)
    assert child.code == code
    assert ("with --resume goes on" in said) == (number != signal.SIGKILL)
    assert not stopped.exists()
    assert "an unfinished run" in refusal(*words, stopped)

    made: list[Step | None] = []
    real = HeadTrainer.advance

    def counted(run: HeadTrainer) -> Step | None:
        step = real(run)
        made.append(step)
        return step

    monkeypatch.setattr(HeadTrainer, "advance", counted)
    lianet(*words, stopped, "--resume")
    assert 0 < sum(step is not None for step in made) <= (trainings - 1) * steps
    one, other = (list(csv.DictReader(path.read_text().splitlines())) for path in (whole, stopped))
    assert [{**row, "seconds": ""} for row in one] == [{**row, "seconds": ""} for row in other]
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_only_a_comparison_with_a_table_can_be_resumed(region: Region, classes: Path) -> None:
    assert "give it with --output" in refusal("compare", region.path, classes, "--resume")


@pytest.mark.parametrize(
    ("command", "options", "mention"),
    [
        ("finetune", ("--loss", "huber"), "huber is for numbers"),
        ("finetune", ("--resume",), "without --resume"),
        ("learning-curve", ("--loss", "huber"), "huber is for numbers"),
    ],
)
def test_what_can_be_refused_is_refused_before_features_are_computed(
    command: str,
    options: tuple[str, ...],
    mention: str,
    region: Region,
    classes: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def computing(*_: object) -> None:
        raise AssertionError("features are computed")

    monkeypatch.setattr(Region, "head_input", computing)
    words = (command, region.path, classes, "--date", "2017-02-16", *options)
    assert mention in refusal(*words, "-o", tmp_path / "x.safetensors")


def test_a_loss_that_is_not_finite_keeps_the_last_good_head(
    region: Region, classes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lianet_user.finetuning import trainer as loop

    calls = {"made": 0}
    real = loop.HeadTrainer._gradients

    def breaking(run: loop.HeadTrainer, batch: Batch) -> float:
        calls["made"] += 1
        return real(run, batch) if calls["made"] <= 110 else float("nan")

    monkeypatch.setattr(loop.HeadTrainer, "_gradients", breaking)
    head = tmp_path / "head.safetensors"
    options = ("--date", "2017-02-16", *QUICK, "--steps", 150)
    said = lianet("finetune", region.path, classes, "-o", head, *options, code=EXIT_FAILURE).err
    assert "not finite at step 110" in said
    assert "last-good.safetensors" in said
    assert not head.exists()
    assert open_head_file(tmp_path / "head.last-good.safetensors").header.scores is not None

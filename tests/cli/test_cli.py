"""The command line as people meet it: its output, its exit code; and the whole loop on the shipped region, in processes."""

from __future__ import annotations

import json
import pickle
import re
import shlex
import shutil
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import pyogrio
import pytest
import rasterio
import rasterio.features
import rasterio.transform
import rasterio.warp
from command_line import lianet, process, refusal, refused
from rasterio.errors import NotGeoreferencedWarning
from shapely.geometry import box

from lianet_user.cli import _command_tree
from lianet_user.cli.console import progress
from lianet_user.errors import EXIT_BAD_INPUT
from lianet_user.files.artifact import open_head_file, open_region_file
from lianet_user.files.header import Scores

ROOT = Path(__file__).resolve().parents[2]
REGION = ROOT / "models" / "havelland.safetensors"
LABELS = ROOT / "tutorials" / "data" / "havelland_landcover.gpkg"
SOME_MAP = ROOT / "tutorials" / "data" / "bouconne_2018-07-08.tif"
BBOX = "12.55,52.46,12.60,52.49"


AREA = box(334_000, 5_815_000, 338_000, 5_818_000)
"""Twelve square kilometres of the shipped region, so that training on them takes seconds."""


@pytest.fixture(scope="module")
def few_labels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's polygons in AREA, which still have all six classes, with what the demo's file says of itself."""
    said = pyogrio.read_info(LABELS)["layer_metadata"]
    path = tmp_path_factory.mktemp("few") / "landcover.gpkg"
    gpd.read_file(LABELS).clip(AREA).to_file(path, layer_metadata=said)
    return path


@pytest.fixture(scope="module")
def finetuned(few_labels: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which a head was trained on the shipped region, briefly."""
    folder = tmp_path_factory.mktemp("loop")
    process("finetune", REGION, few_labels, "--field", "class", "--steps", 60, "--members", 1, cwd=folder)
    return folder


def imported_by(*arguments: object, cwd: Path) -> set[str]:
    """Every module that a command imports."""
    return imported_and_told(*arguments, cwd=cwd, code=0)[0]


def imported_and_told(*arguments: object, cwd: Path, code: int) -> tuple[set[str], str]:
    """Every module that a command imports, and what it says on standard error before it ends with a code."""
    words = [sys.executable, "-X", "importtime", "-m", "lianet_user", *map(str, arguments)]
    done = subprocess.run(words, cwd=cwd, capture_output=True, text=True, timeout=60)
    assert done.returncode == code
    lines = done.stderr.splitlines()
    imported = {line.rpartition("|")[2].strip() for line in lines if line.startswith("import time:")}
    assert "lianet_user.cli" in imported
    return imported, "\n".join(line for line in lines if not line.startswith("import time:"))


HEAVY = {"torch", "segmentation_models_pytorch", "geopandas", "matplotlib", "dask", "pandas", "scipy"}


@pytest.mark.parametrize(
    ("line", "unneeded", "needed"),
    [
        ("--help", HEAVY | {"numpy", "pydantic", "importlib.metadata"}, set()),
        ("finetune --help", HEAVY, set()),
        (f"info {REGION}", HEAVY, set()),
        (f"info {REGION} --json", HEAVY, set()),
        ("models --help", HEAVY | {"pystac", "lianet_user.catalog"}, {"lianet_user.cli.models"}),
        ("models list --json", HEAVY | {"pystac"}, {"lianet_user.cli.models"}),
        (f"check {REGION} {LABELS} --field class --no-picture", {"torch"}, set()),
    ],
)
def test_a_command_imports_no_more_than_it_needs(
    line: str, unneeded: set[str], needed: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIANET_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("LIANET_CATALOG", raising=False)
    imported = imported_by(*line.split(), cwd=tmp_path)
    assert not imported & unneeded
    assert imported >= needed
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (f"finetune nothing.safetensors {LABELS}", "nothing.safetensors"),
        (f"finetune {LABELS} {LABELS}", "not a region file"),
        (f"finetune {REGION} nothing.gpkg", "nothing.gpkg"),
        (f"finetune {REGION} table.csv", "table.csv"),
        (f"finetune {REGION} {LABELS} --field klass", "klass"),
        (f"finetune {REGION} {LABELS} --field class --preset crop", "--preset`? 'crop'"),
        (f"finetune {REGION} {LABELS} --field class --loss focall", "no loss 'focall'"),
        (f"finetune {REGION} {LABELS} --field class --prior often", "--prior 'often'"),
        (f"finetune {REGION} {LABELS} --field class --device gpu", "--device 'gpu'"),
        (f"finetune {REGION} {LABELS} --field class --test-area nothing.gpkg", "nothing.gpkg"),
        (f"update {REGION} nothing.tif", "nothing.tif"),
        ("pretrain nothing.tif --licence a --attribution b", "nothing.tif"),
        ("pretrain nothing.tif --licence a --attribution b --preset light", "--preset 'light'"),
        ("pretrain nothing.tif --licence a --attribution b --start noisy", "start cannot be 'noisy'"),
        ("pretrain nothing.tif --licence a", "--attribution missing"),
    ],
)
def test_a_mistake_is_told_before_torch_is_imported(line: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text("class,place\nforest,here\n")
    imported, told = imported_and_told(*line.split(), cwd=tmp_path, code=EXIT_BAD_INPUT)
    assert re.search(said, told)
    assert not imported & {"torch", "segmentation_models_pytorch", "matplotlib"}
    assert [path.name for path in tmp_path.iterdir()] == ["table.csv"]


def test_training_imports_nothing_that_it_does_not_use(tmp_path: Path) -> None:
    code = "import sys, lianet_user.finetuning.finetune, lianet_user.finetuning.trainer; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    imported = set(done.stdout.split())
    assert "torch" in imported
    assert not imported & {
        "torchmetrics",
        "torchvision",
        "torch._dynamo",
        "scipy.signal",
        "dask",
        "pandas",
        "matplotlib",
    }


def test_help_and_info_answer_at_once(tmp_path: Path) -> None:
    def seconds(*arguments: object) -> float:
        started = time.perf_counter()
        process(*arguments, cwd=tmp_path)
        return time.perf_counter() - started

    # The best of three, and twice the promise: what is tested is a slow import, not a busy machine.
    assert min(seconds("--help") for _ in range(3)) < 1.0
    assert min(seconds("info", REGION) for _ in range(3)) < 2.0


def test_a_path_in_the_next_command_can_be_copied_into_a_shell(tmp_path: Path) -> None:
    region = shutil.copy(REGION, tmp_path / "a region's.safetensors")
    step = lianet("info", region).err.partition("next: ")[2]
    assert shlex.split(step) == ["lianet-user", "check", str(region), "LABELS"]


def test_info_tells_where_what_how_good_and_whose(tmp_path: Path) -> None:
    text = process("info", REGION, cwd=tmp_path).out
    for fact in ("EPSG:32633", "1536 x 768 px", "2017-02-16", "lite", "MB", "B8A", "dB", "Copernicus", "CC-BY-4.0"):
        assert fact in text
    document = json.loads(lianet("info", REGION, "--json").out)
    assert document["grid"]["width"] == 1536
    assert document["megabytes"] <= 16
    west, south, east, north = document["bounds_lonlat"]
    assert (west, east) == pytest.approx((12.494, 12.724), abs=1e-3)
    assert (south, north) == pytest.approx((52.453, 52.526), abs=1e-3)
    assert document["quality"][0]["psnr_db"] >= 48


@pytest.fixture(scope="module")
def other_labels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's polygons in AREA as people would have them in other forms: points, lines, a table, a raster."""
    folder = tmp_path_factory.mktemp("labels")
    polygons = gpd.read_file(LABELS)[["class", "geometry"]].clip(AREA).explode()
    polygons = polygons[polygons.geom_type.eq("Polygon") & (polygons.area > 5_000)]
    points = polygons.set_geometry(polygons.representative_point())
    points.to_file(folder / "points.gpkg")
    inner = polygons.set_geometry(polygons.buffer(-12)).explode()
    inner = inner[~inner.is_empty]
    inner.set_geometry(inner.boundary).explode().to_file(folder / "lines.shp")
    lonlat = points.to_crs("EPSG:4326")
    table = pd.DataFrame({"Breite": lonlat.geometry.y, "Länge": lonlat.geometry.x, "Klasse": points["class"]})
    table.to_csv(folder / "points.csv", sep=";", decimal=",", index=False)
    names = sorted(polygons["class"].unique())
    pd.DataFrame({"code": range(1, len(names) + 1), "name": names}).to_csv(folder / "classes.csv", index=False)
    moved = polygons.to_crs("EPSG:3035")
    west, south, east, north = moved.total_bounds
    transform = rasterio.transform.from_origin(west, north, 7, 7)
    shape = (int((north - south) // 7) + 1, int((east - west) // 7) + 1)
    burned = rasterio.features.rasterize(
        [(geometry, names.index(name) + 1) for geometry, name in zip(moved.geometry, moved["class"], strict=True)],
        shape,
        transform=transform,
        dtype="uint8",
    )
    profile = {"driver": "GTiff", "height": shape[0], "width": shape[1], "count": 1, "dtype": "uint8"}
    with rasterio.open(folder / "raster.tif", "w", crs="EPSG:3035", transform=transform, **profile) as file:
        file.write(burned, 1)
    return folder


FORMS: dict[str, tuple[str, ...]] = {
    "points.gpkg": (),
    "lines.shp": (),
    "points.csv": (),
    "raster.tif": ("--nodata", "0", "--classes", "classes.csv"),
}


@pytest.mark.parametrize("name", FORMS)
def test_labels_in_other_forms_are_checked_and_trained_on(name: str, other_labels: Path) -> None:
    checked = lianet("check", REGION, name, *FORMS[name], "--no-picture", "--json", cwd=other_labels)
    report = json.loads(checked.out)["report"]
    quick = ("--steps", 5, "--members", 1, "--no-picture", "--no-report", "--json", "-o", f"{name}.safetensors")
    lianet("finetune", REGION, name, *FORMS[name], *quick, cwd=other_labels)
    header = open_head_file(other_labels / f"{name}.safetensors").header
    named = [entry["name"] for entry in report["classes"] if entry["pixels"]]
    assert [entry.name for entry in header.classes] == named
    assert set(named) <= {"farmland", "forest", "grassland", "residential", "water", "wetland"}
    assert [entry.color for entry in header.classes if entry.name == "forest"] == ["#14532d"]  # as in the demo


def test_check_draws_the_labels_over_the_remembered_image(other_labels: Path) -> None:
    done = lianet("check", REGION, "points.gpkg", "--buffer", 20, "-o", "seen.png", cwd=other_labels)
    assert "wrote seen.png" in done.out
    assert (other_labels / "seen.png").read_bytes().startswith(b"\x89PNG")
    assert "--overwrite" in refusal("check", REGION, "points.gpkg", "-o", "seen.png", cwd=other_labels)


@pytest.mark.parametrize("task", ["regression", "coverage"])
def test_check_draws_numbers_over_the_remembered_image(task: str, tmp_path: Path) -> None:
    west, north = 334_000, 5_818_000
    fields = [box(west + 200 * n, north - 200 * n - 150, west + 200 * n + 150, north - 200 * n) for n in range(15)]
    frame = gpd.GeoDataFrame({"height": np.linspace(1.5, 30.5, 15)}, geometry=fields, crs=32633)
    frame.to_file(tmp_path / "fields.gpkg")
    gpd.GeoDataFrame(geometry=[box(*frame.total_bounds)], crs=32633).to_file(tmp_path / "area.gpkg")
    options = ("--labelled-area", "area.gpkg") if task == "coverage" else ()
    lianet("check", REGION, "fields.gpkg", "--task", task, *options, "-o", "seen.png", cwd=tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(tmp_path / "seen.png") as file:
            pixels = file.read([1, 2, 3]).reshape(3, -1).T
    # The key's patches show the ends of the scale as they are: viridis, of which no photograph is made.
    for end in ((68, 1, 84), (253, 231, 37)):
        assert (np.abs(pixels.astype(int) - end).max(1) <= 1).any()


@pytest.mark.parametrize(
    ("options", "pixels", "task"),
    [
        (("--task", "coverage", "--labelled-area", "region"), 1_179_648, "coverage"),
        (("--scale", "4"), None, "segmentation"),
        (("--background", "other", "--labelled-area", "region"), None, "segmentation"),
    ],
)
def test_check_reads_shares_finer_grids_and_background(
    options: tuple[str, ...], pixels: int | None, task: str, tmp_path: Path
) -> None:
    done = lianet("check", REGION, LABELS, "--field", "class", *options, "--no-picture", "--json", cwd=tmp_path)
    report = json.loads(done.out)["report"]
    assert report["task"] == task
    assert pixels is None or report["labelled"] == pixels


def test_finetune_writes_a_head_and_a_picture_and_prints_scores(finetuned: Path) -> None:
    header = open_head_file(finetuned / "head.safetensors").header
    assert [entry.name for entry in header.classes] == sorted(entry.name for entry in header.classes)
    assert len(header.classes) == 6
    assert header.region.sha256 == open_region_file(REGION).sha256()
    assert "OpenStreetMap" in header.attribution
    assert "Copernicus" in header.attribution
    assert isinstance(header.scores, Scores)
    # 60 steps are few, but far from the 1/6 of guessing.
    assert header.scores.macro_f1 is not None
    assert header.scores.macro_f1 > 0.35
    assert (finetuned / "head.png").read_bytes().startswith(b"\x89PNG")


def test_predict_finds_head_and_region_and_maps_the_box(finetuned: Path) -> None:
    process("predict", "--bbox", BBOX, cwd=finetuned)
    header = open_region_file(REGION).header
    with rasterio.open(finetuned / "map.tif") as map_:
        values = map_.read(1)
        assert map_.crs.to_epsg() == 32633
        assert map_.nodata == 255
        offset = ~header.grid.geobox.affine @ (map_.bounds.left, map_.bounds.top)
        assert offset == pytest.approx(np.round(offset), abs=1e-6)
        west, south, east, north = rasterio.warp.transform_bounds(map_.crs, "EPSG:4326", *map_.bounds)
    assert west <= 12.55 < 12.60 <= east
    assert south <= 52.46 < 52.49 <= north
    assert set(np.unique(values)) <= set(range(6))
    assert len(np.unique(values)) >= 3
    for sidecar in ("map.tif.aux.xml", "map.qml", "map.png"):
        assert (finetuned / sidecar).exists()


def test_a_box_partly_outside_is_mapped_inside_and_says_so(finetuned: Path) -> None:
    done = lianet("predict", "--bbox", "12.48,52.46,12.51,52.47", "-o", "edge.tif", cwd=finetuned)
    assert "outside the region" in done.err


@pytest.fixture(scope="module")
def bad_inputs(finetuned: Path, few_labels: Path) -> Path:
    """The folder of the head, with files beside it of which each is wrong in its own way."""
    folder = finetuned
    whole = REGION.read_bytes()
    (folder / "cut.safetensors").write_bytes(whole[: len(whole) // 2])
    (folder / "note.safetensors").write_text("not a region, just some words that somebody wrote down")
    (folder / "pickle.safetensors").write_bytes(pickle.dumps({"a": 1}))
    for name in ("exists.safetensors", "exists.tif"):
        (folder / name).write_bytes(b"earlier")
    shutil.copy(few_labels, folder / "labels.gpkg")
    squares = gpd.GeoDataFrame(
        {"class": ["a", "b"]}, geometry=[box(335000, 5818000, 335500, 5818500), box(336000, 5818000, 336500, 5818500)]
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # geopandas warns of the very fault that this file is for
        squares.to_file(folder / "nocrs.gpkg")
    moved = squares.set_crs("EPSG:32633")
    corner = open_region_file(REGION).header.grid.geobox.boundingbox
    west, north = corner.left, corner.top
    near = [box(west + x, north - 50, west + x + 40, north - 10) for x in (10, 90)]
    moved.set_geometry(near, crs="EPSG:32633").to_file(folder / "block.gpkg")
    moved.assign(**{"class": "a"}).to_file(folder / "single.gpkg")
    moved.assign(height=[1.5, 2.5])[["height", "geometry"]].to_file(folder / "numbers.gpkg")
    moved.geometry = moved.translate(xoff=100_000)
    moved.to_file(folder / "outside.gpkg")
    return folder


BAD_INPUTS = {
    "not a region file": ("finetune note.safetensors labels.gpkg -o x.safetensors", "not a region file"),
    "a truncated region file": ("finetune cut.safetensors labels.gpkg -o x.safetensors", "cut off"),
    "a pickle": ("finetune pickle.safetensors labels.gpkg -o x.safetensors", "pickle"),
    "a head as region": ("info head.safetensors", "lianet-head"),
    "a region as head": ("predict REGION -o x.tif", "lianet-region"),
    "no such region": ("info nowhere.safetensors", "nowhere.safetensors"),
    "labels without CRS": ("finetune REGION nocrs.gpkg -o x.safetensors", "coordinate reference system"),
    "labels outside": ("finetune REGION outside.gpkg -o x.safetensors", "outside"),
    "no such column": ("finetune REGION labels.gpkg --field clas -o x.safetensors", "class"),
    "labels in one block": ("check REGION block.gpkg --no-picture", "within one block"),
    "labels of one class": ("check REGION single.gpkg --no-picture", "a single class"),
    "an unknown date": ("check REGION labels.gpkg --date 2018-01-01 --no-picture", "2017-02-16"),
    "a typing error in --map": ("check REGION labels.gpkg --map forrest=wood --no-picture", "forest"),
    "background without an area": ("check REGION labels.gpkg --background x", "--labelled-area"),
    "numbers for a task of classes": (
        "finetune REGION numbers.gpkg --task regression --preset leaf-type -o x.safetensors",
        "leaf-type is for segmentation",
    ),
    "an unknown task": ("finetune REGION labels.gpkg --preset leaftype -o x.safetensors", "leaf-type"),
    "a loss of another kind": ("finetune REGION labels.gpkg --loss huber -o x.safetensors", "huber"),
    "nothing to resume": ("finetune REGION labels.gpkg --resume -o x.safetensors", "without --resume"),
    "a test area elsewhere": (
        "finetune REGION labels.gpkg --test-area outside.gpkg -o x.safetensors",
        "outside.gpkg",
    ),
    "shares that are none": ("learning-curve REGION labels.gpkg --shares 0.5,2 -o x.csv", "--shares"),
    "nothing to compare with": ("compare REGION labels.gpkg -o x.csv", "--imagery"),
    "no labels file": ("finetune REGION nowhere.gpkg -o x.safetensors", "nowhere.gpkg"),
    "bbox outside": ("predict --bbox 1,1,2,2 -o x.tif", "outside the region"),
    "bbox inverted": ("predict --bbox 12.6,52.46,12.5,52.49 -o x.tif", "W < E"),
    "bbox as latitude, longitude": ("predict --bbox 52.46,12.5,52.49,12.6 -o x.tif", "with x and y exchanged"),
    "bbox not numbers": ("predict --bbox a,b,c,d -o x.tif", "W,S,E,N"),
    "unknown date": ("predict --date 2018-01-01 -o x.tif", "2017-02-16"),
    "not a date": ("predict --date yesterday -o x.tif", "YYYY-MM-DD"),
    "head exists": ("finetune REGION labels.gpkg -o exists.safetensors", "--overwrite"),
    "map exists": ("predict -o exists.tif", "--overwrite"),
    "no head, and the map exists": ("predict none.safetensors -o exists.tif", "none.safetensors"),
    "no such column, and the head exists": (
        "finetune REGION labels.gpkg --field nothing -o exists.safetensors",
        "nothing",
    ),
    "a place on no disk": ("predict -o /dev/x.tif", "not on a disk"),
    "a cube on no disk": ("datacube REGION -o /dev/x.zarr", "not on a disk"),
    "a long name": (f"check REGION labels.gpkg -o {'x' * 240}.png", "too long by 21 bytes"),
    "a long name of a cube": (f"datacube REGION -o {'x' * 300}.zarr", "too long by 82 bytes"),
    "a condition and more": ("check REGION labels.gpkg --where 1=1;--x --no-picture", "--where"),
    "no such folder": ("predict -o no/such/map.tif", "does not exist"),
    "unknown command": ("frobnicate", "frobnicate"),
    "imagery that is none": ("pretrain . --licence x --attribution y", "cannot read exists.tif"),
    "imagery without credit": ("pretrain .", "--attribution"),
}
AS_PROCESSES = ("unknown command", "labels without CRS", "not a date")
"""Cases that are tried in a process of their own: one that the parser refuses, one of which a library warns beforehand, and
one that is found after everything was imported."""


@pytest.mark.parametrize("case", BAD_INPUTS)
def test_bad_input_gets_one_line_and_exit_code_2(case: str, bad_inputs: Path) -> None:
    line, mention = BAD_INPUTS[case]
    before = sorted(path.name for path in bad_inputs.iterdir())
    run = process if case in AS_PROCESSES else lianet
    done = run(*line.replace("REGION", str(REGION)).split(), code=2, cwd=bad_inputs)
    assert mention in refused(done)
    assert sorted(path.name for path in bad_inputs.iterdir()) == before
    assert (bad_inputs / "exists.tif").read_bytes() == b"earlier"
    assert (bad_inputs / "exists.safetensors").read_bytes() == b"earlier"


WRONG_WITH_OUTPUT = {
    "check": ("check REGION labels.gpkg --field nothing -o OUT.png", "nothing"),
    "finetune": ("finetune REGION labels.gpkg --loss focall -o OUT.safetensors", "focall"),
    "predict": ("predict --date 2018-01-01 -o OUT.tif", "2017-02-16"),
    "polygons": ("polygons none.tif -o OUT.gpkg", "none.tif"),
    "zones": ("zones none.tif labels.gpkg -o OUT.csv", "none.tif"),
    "suggest": ("suggest head.safetensors --bbox 1,1,2,2 -o OUT.gpkg", "outside the region"),
    "learning-curve": ("learning-curve REGION single.gpkg -o OUT.csv", "a single class"),
    "compare": ("compare REGION labels.gpkg --contenders none -o OUT.csv --imagery none.tif", "none.tif"),
    "reconstruct": ("reconstruct REGION --bands B99 -o OUT.tif", "B99"),
    "change": ("change REGION --from 2017-02-16 --to 2017-02-16 -o OUT.tif", "2017-02-16"),
    "datacube": ("datacube REGION --bands B99 -o OUT.nc", "B99"),
    "pretrain": ("pretrain none.tif --licence a --attribution b -o OUT.safetensors", "none.tif"),
    "pretrain without credit": ("pretrain MAP -o OUT.safetensors", "--licence and --attribution missing"),
    "update": ("update none.safetensors MAP -o OUT.safetensors", "none.safetensors"),
    "import-checkpoint": ("import-checkpoint none -o OUT.safetensors", "--attribution"),
    "models list": ("models list --catalog none.json --picture OUT.png", "none.json"),
    "models publish": ("models publish broken", "cut.safetensors"),
}
"""For each command that writes, a mistake of its inputs where its output exists already."""


@pytest.mark.parametrize("case", WRONG_WITH_OUTPUT)
def test_the_mistake_is_told_before_it_is_said_that_the_output_exists(
    case: str, bad_inputs: Path, tmp_path: Path
) -> None:
    outputs = [tmp_path / f"out{ending}" for ending in (".png", ".safetensors", ".tif", ".gpkg", ".csv", ".nc")]
    (tmp_path / "broken").mkdir()
    outputs.append(tmp_path / "broken" / "catalog.json")
    for path in outputs:
        path.write_bytes(b"earlier")
    (tmp_path / "broken" / "cut.safetensors").write_bytes(REGION.read_bytes()[:100_000])
    line, mention = WRONG_WITH_OUTPUT[case]
    places = {"OUT": tmp_path / "out", "broken": tmp_path / "broken", "REGION": REGION, "MAP": SOME_MAP}
    for word, place in places.items():
        line = line.replace(word, str(place))
    said = refusal(*line.split(), cwd=bad_inputs)
    assert mention in said
    assert "--overwrite" not in said
    assert all(path.read_bytes() == b"earlier" for path in outputs)


def test_every_command_that_replaces_files_is_tried_with_a_mistake() -> None:
    commands = app_commands()
    writers = {name for name, command in commands.items() if any(each.name == "overwrite" for each in command.params)}
    assert writers == {re.sub(r" without .*", "", case) for case in WRONG_WITH_OUTPUT}


def app_commands() -> dict[str, Any]:
    """Every command by its name, those of `models` among them."""
    commands: dict[str, Any] = {}
    for name, command in _command_tree().commands.items():
        below = getattr(command, "commands", None)
        commands |= {name: command} if below is None else {f"{name} {each}": below[each] for each in below}
    return commands


def test_every_case_that_is_tried_as_a_process_is_one_of_bad_input() -> None:
    assert set(AS_PROCESSES) < set(BAD_INPUTS)


def test_colours_may_be_forced_where_nobody_watches_but_bars_are_not(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # as Jupyter does for what its cells start
    with progress(quiet=False) as bars:
        bars.task("training")(1, 2, "loss 0.8")
    assert capsys.readouterr().err == ""

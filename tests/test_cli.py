"""The command line as people meet it: a process, its output, its exit code; and the whole loop on the shipped region."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
import time
import warnings
from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
import rasterio
import rasterio.warp
from shapely.geometry import box

from lianet_user.artifact import open_head_file, open_region_file

ROOT = Path(__file__).resolve().parents[1]
REGION = ROOT / "models" / "havelland.safetensors"
LABELS = ROOT / "tutorials" / "data" / "havelland_landcover.gpkg"
BBOX = "12.55,52.46,12.60,52.49"


def lianet(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run the command line in a folder."""
    command = [sys.executable, "-m", "lianet_user", *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=600)


@pytest.fixture(scope="module")
def finetuned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which a head was trained on the shipped region, briefly."""
    folder = tmp_path_factory.mktemp("loop")
    done = lianet("finetune", REGION, LABELS, "--field", "class", "--steps", 60, "--members", 1, cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.parametrize("arguments", [("--help",), ("info", REGION), ("info", REGION, "--json")])
def test_what_needs_no_torch_imports_none(arguments: tuple[object, ...], tmp_path: Path) -> None:
    words = [sys.executable, "-X", "importtime", "-m", "lianet_user", *map(str, arguments)]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "lianet_user.cli" in imported
    assert not imported & {"torch", "segmentation_models_pytorch", "geopandas", "matplotlib"}


def test_help_and_info_answer_at_once(tmp_path: Path) -> None:
    def seconds(*arguments: object) -> float:
        started = time.perf_counter()
        assert lianet(*arguments, cwd=tmp_path).returncode == 0
        return time.perf_counter() - started

    # The best of three, and twice the promise: what is tested is a slow import, not a busy machine.
    assert min(seconds("--help") for _ in range(3)) < 1.0
    assert min(seconds("info", REGION) for _ in range(3)) < 2.0


def test_info_tells_where_what_how_good_and_whose(tmp_path: Path) -> None:
    text = lianet("info", REGION, cwd=tmp_path).stdout
    for fact in ("EPSG:32633", "1536 x 768 px", "2017-02-16", "lite", "MB", "B8A", "dB", "Copernicus", "CC-BY-4.0"):
        assert fact in text
    document = json.loads(lianet("info", REGION, "--json", cwd=tmp_path).stdout)
    assert document["grid"]["width"] == 1536
    assert document["megabytes"] <= 16
    west, south, east, north = document["bounds_lonlat"]
    assert (west, east) == pytest.approx((12.494, 12.724), abs=1e-3)
    assert (south, north) == pytest.approx((52.453, 52.526), abs=1e-3)
    assert document["quality"][0]["psnr_db"] >= 48


def test_finetune_writes_a_head_and_a_picture_and_prints_scores(finetuned: Path) -> None:
    header = open_head_file(finetuned / "head.safetensors").header
    assert [entry.name for entry in header.classes] == sorted(entry.name for entry in header.classes)
    assert len(header.classes) == 6
    assert header.region.sha256 == open_region_file(REGION).sha256()
    assert "OpenStreetMap" in header.attribution
    assert "Copernicus" in header.attribution
    assert header.scores is not None
    # 60 steps are few, but far from the 1/6 of guessing.
    assert header.scores.macro_f1 is not None
    assert header.scores.macro_f1 > 0.35
    assert (finetuned / "head.png").read_bytes().startswith(b"\x89PNG")


def test_predict_finds_head_and_region_and_maps_the_box(finetuned: Path) -> None:
    done = lianet("predict", "--bbox", BBOX, cwd=finetuned)
    assert done.returncode == 0, done.stderr
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
    assert done.returncode == 0
    assert "outside the region" in done.stderr


def _bad_inputs(folder: Path) -> dict[str, tuple[tuple[object, ...], str]]:
    """Commands that must be refused, and what the refusal must mention."""
    whole = REGION.read_bytes()
    (folder / "cut.safetensors").write_bytes(whole[: len(whole) // 2])
    (folder / "note.safetensors").write_text("not a region, just some words that somebody wrote down")
    (folder / "pickle.safetensors").write_bytes(pickle.dumps({"a": 1}))
    (folder / "exists.safetensors").write_bytes(b"earlier")
    (folder / "exists.tif").write_bytes(b"earlier")
    squares = gpd.GeoDataFrame(
        {"class": ["a", "b"]}, geometry=[box(335000, 5818000, 335500, 5818500), box(336000, 5818000, 336500, 5818500)]
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # geopandas warns of the very fault that this file is for
        squares.to_file(folder / "nocrs.gpkg")
    moved = squares.set_crs("EPSG:32633")
    moved.geometry = moved.translate(xoff=100_000)
    moved.to_file(folder / "outside.gpkg")
    return {
        "not a region file": (("finetune", "note.safetensors", LABELS, "-o", "x.safetensors"), "not a region file"),
        "a truncated region file": (("finetune", "cut.safetensors", LABELS, "-o", "x.safetensors"), "cut off"),
        "a pickle": (("finetune", "pickle.safetensors", LABELS, "-o", "x.safetensors"), "pickle"),
        "a head as region": (("info", "head.safetensors"), "lianet-head"),
        "a region as head": (("predict", REGION, "-o", "x.tif"), "lianet-region"),
        "no such region": (("info", "nowhere.safetensors"), "nowhere.safetensors"),
        "labels without CRS": (
            ("finetune", REGION, "nocrs.gpkg", "-o", "x.safetensors"),
            "coordinate reference system",
        ),
        "labels outside": (("finetune", REGION, "outside.gpkg", "-o", "x.safetensors"), "outside"),
        "no such column": (("finetune", REGION, LABELS, "--field", "clas", "-o", "x.safetensors"), "class"),
        "no labels file": (("finetune", REGION, "nowhere.gpkg", "-o", "x.safetensors"), "nowhere.gpkg"),
        "bbox outside": (("predict", "--bbox", "1,1,2,2", "-o", "x.tif"), "outside the region"),
        "bbox inverted": (("predict", "--bbox", "12.6,52.46,12.5,52.49", "-o", "x.tif"), "W < E"),
        "bbox not numbers": (("predict", "--bbox", "a,b,c,d", "-o", "x.tif"), "W,S,E,N"),
        "unknown date": (("predict", "--date", "2018-01-01", "-o", "x.tif"), "2017-02-16"),
        "not a date": (("predict", "--date", "yesterday", "-o", "x.tif"), "YYYY-MM-DD"),
        "head exists": (("finetune", REGION, LABELS, "-o", "exists.safetensors"), "--overwrite"),
        "map exists": (("predict", "-o", "exists.tif"), "--overwrite"),
        "no such folder": (("predict", "-o", "no/such/map.tif"), "does not exist"),
        "unknown command": (("frobnicate",), "frobnicate"),
        "imagery without files": (("pretrain", ".", "--licence", "x", "--attribution", "y"), "Sentinel-2"),
        "imagery without credit": (("pretrain", "."), "--attribution"),
    }


CASES = (
    "not a region file", "a truncated region file", "a pickle", "a head as region", "a region as head", "no such region",
    "labels without CRS", "labels outside", "no such column", "no labels file", "bbox outside", "bbox inverted",
    "bbox not numbers", "unknown date", "not a date", "head exists", "map exists", "no such folder", "unknown command",
    "imagery without files", "imagery without credit",
)  # fmt: skip


@pytest.fixture(scope="module")
def bad_inputs(finetuned: Path) -> dict[str, tuple[tuple[object, ...], str]]:
    return _bad_inputs(finetuned)


@pytest.mark.parametrize("case", CASES)
def test_bad_input_gets_one_line_and_exit_code_2(
    case: str, bad_inputs: dict[str, tuple[tuple[object, ...], str]], finetuned: Path
) -> None:
    arguments, mention = bad_inputs[case]
    before = sorted(path.name for path in finetuned.iterdir())
    done = lianet(*arguments, cwd=finetuned)
    assert done.returncode == 2, done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert len(errors) == 1, done.stderr
    assert mention in errors[0]
    assert "Traceback" not in done.stderr
    assert sorted(path.name for path in finetuned.iterdir()) == before
    assert (finetuned / "exists.tif").read_bytes() == b"earlier"
    assert (finetuned / "exists.safetensors").read_bytes() == b"earlier"


def test_every_bad_input_is_tested(bad_inputs: dict[str, tuple[tuple[object, ...], str]]) -> None:
    assert set(bad_inputs) == set(CASES)

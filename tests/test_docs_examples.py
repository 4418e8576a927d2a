"""Every command line in docs/ and in a command's help works: each is run in a folder that holds what it names.

Heads, regions and figures of that folder mean nothing: trainings take a few steps, the havelland is a stand-in of 120 m pixels
and random weights, and bouconne one of 20 m. What is proved is that a line does what its page says: it ends well, writes what
it names, and says what to do next.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import rasterio
import torch
import typer
import xarray as xr
from affine import Affine
from factories import randomize
from pyproj import CRS
from shapely.geometry import box

from lianet_user import cli
from lianet_user.catalog import publish
from lianet_user.field.config import preset
from lianet_user.field.model import NeuralField
from lianet_user.field.weights import save_region
from lianet_user.files.artifact import open_region_file
from lianet_user.files.header import GridHeader
from lianet_user.region import Region

ROOT = Path(__file__).resolve().parents[1]
MODELS = ROOT / "models"
LABELS = ROOT / "tutorials" / "data" / "havelland_landcover.gpkg"
PAGES = sorted((ROOT / "docs").rglob("*.md"))

PARSED_ONLY = (
    "import-checkpoint",  # needs a checkpoint of the paper's authors (tests/paper_import/test_paper_import.py imports them)
    "--resume",  # needs a run that was interrupted (tests/cli/test_cli_provider.py interrupts one)
    "torchrun",  # several processes (tests/pretraining/test_distributed.py runs them)
)
"""Lines with these words are read by the command line's own parser, up to the call, and not run."""

CHEAP: dict[str, dict[str, Any]] = {
    "finetune": {"steps": 2, "members": 1, "picture": False, "report": False},
    "check": {"picture": False},
    "learning-curve": {"steps": 2, "members": 1, "repeats": 1, "shares": "0.5,1"},
    "compare": {"steps": 2, "members": 1, "folds": 2, "contenders": "lianet,bands"},
    "pretrain": {"steps": 2, "batch": 1, "window": 32},
    "update": {"steps": 2},
    "quality": {"rate": False},
}
"""Defaults of options in place of the command line's own, so that a line takes a second or two; what a line says itself
holds. Pictures and reports are left to other tests."""

INSTEAD = (
    ("change head.safetensors", "july.safetensors", "head.safetensors"),
    ("--config region.toml", "clouded", "imagery"),
)
"""Where a line has these words, this of the folder lies where its name says: pages call many a head `head.safetensors`."""


def commands_of(text: str) -> list[str]:
    """The lines of a page's shell blocks that run lianet-user, continued lines put together."""
    blocks = re.findall(r"^```(?:sh|bash|console)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in re.sub(r"\\\n\s*", " ", block).splitlines()]
    return [line for line in lines if "lianet-user " in line or "lianet_user " in line]


def every_command() -> dict[str, Any]:
    """Typer's commands, by the words that call them."""
    found: dict[str, Any] = {}
    for name, command in typer.main.get_command(cli.app).commands.items():  # type: ignore[attr-defined]  # it is a group
        below = getattr(command, "commands", None)
        found |= {f"{name} {each}": it for each, it in below.items()} if below else {name: command}
    return found


def example_of(command: Any) -> str:
    """The one example in a command's help."""
    examples = re.findall(r"^Example: (.+)$", command.help, re.MULTILINE)
    assert len(examples) == 1, command.help
    return str(examples[0])


EXAMPLES = list(
    dict.fromkeys(
        [
            shlex.join(shlex.split(line, comments=True))
            for page in PAGES
            for line in commands_of(page.read_text("utf-8"))
        ]
        + [shlex.join(shlex.split(example_of(command))) for command in every_command().values()]
    )
)


def words(line: str) -> list[str]:
    """The arguments of lianet-user in a line."""
    every = shlex.split(line)
    return every[next(n for n, word in enumerate(every) if word in ("lianet-user", "lianet_user")) + 1 :]


def test_every_commands_help_has_an_example_and_groups() -> None:
    for name, command in every_command().items():
        arguments = words(example_of(command))
        assert arguments[: len(name.split())] == name.split(), example_of(command)
        ungrouped = [each for each in command.params if each.param_type_name == "option" and not each.rich_help_panel]
        assert len(ungrouped) <= 10, (name, [each.name for each in ungrouped])


def test_help_says_in_words_what_an_option_takes() -> None:
    for name in ("", *every_command()):
        said = lianet(*name.split(), "--help").out
        assert "--help" in said
        assert not re.search(r"<\w+( range)?>|<list", said), name


# --- the folder


def write_region(path: Path, like: str, factor: int, seed: int = 0) -> Region:
    """A shipped region in pixels `factor` times as long, with random weights; with a seed, of another name."""
    header = open_region_file(MODELS / f"{like}.safetensors").header
    geobox = header.grid.geobox.zoom_out(factor)
    height, width = geobox.shape
    config = preset(
        "lite", height=height, width=width, bands=len(header.bands), time=header.field.time, table_size=2**12
    )
    field = NeuralField(config)
    randomize(field, seed)
    with torch.no_grad():  # reflectance of about a quarter
        field.reconstruction.get_buffer("mean").fill_(0.25)
        field.reconstruction.get_buffer("std").fill_(0.01)
    changes = {"name": path.stem if seed else like, "grid": GridHeader.of(geobox), "field": config, "quality": ()}
    save_region(path, header.model_copy(update=changes), field)
    return Region.open(path)


def write_stack(path: Path, region: Region, cloudy: bool = False) -> None:
    """What a region remembers, as imagery: a GeoTIFF with a layer for each band, and with `cloudy` one of classes."""
    path.parent.mkdir(exist_ok=True)
    bands = np.round(region.reconstruct(region.window).numpy() * 1e4).astype(np.uint16)
    names = [band.name for band in region.header.bands]
    if cloudy:
        scene = np.full(bands.shape[1:], 4, np.uint16)
        scene[:20, :20] = 9
        bands, names = np.concatenate([bands, scene[None]]), [*names, "SCL"]
    count, height, width = bands.shape
    layout = {"count": count, "height": height, "width": width, "dtype": "uint16", "transform": region.geobox.affine}
    with rasterio.open(path, "w", driver="GTiff", crs="EPSG:32633", compress="deflate", **layout) as file:
        file.write(bands)
        file.descriptions = names


def write_cube(path: Path, region: Region) -> None:
    """Two dates of four bands and a scene classification, of what bouconne remembers."""
    window = region.window_of((1.22, 43.64, 1.23, 43.65))[0]
    dates = region.header.dates[1:3]
    values = np.stack([region.reconstruct(window, date).numpy() for date in dates])
    names = [band.name for band in region.header.bands]
    scene = np.full((len(dates), window.height, window.width), 4, np.uint8)
    scene[0, :20, :20] = 9
    x = [(region.geobox.affine @ (window.col + n + 0.5, 0))[0] for n in range(window.width)]
    y = [(region.geobox.affine @ (0, window.row + n + 0.5))[1] for n in range(window.height)]
    layers = {
        name: np.round(values[:, names.index(name)] * 1e4).astype(np.uint16) for name in ("B02", "B03", "B04", "B08")
    }
    xr.Dataset(
        {
            name: (("time", "y", "x"), layer, {"grid_mapping": "spatial_ref"})
            for name, layer in {**layers, "SCL": scene}.items()
        },
        coords={
            "time": np.array(dates, "datetime64[ns]"),
            "y": y,
            "x": x,
            "spatial_ref": ((), 0, CRS.from_epsg(32631).to_cf()),
        },
    ).to_netcdf(path, engine="netcdf4")


def squares(region: Path, side: int, **columns: list[Any]) -> gpd.GeoDataFrame:
    """Squares all over a region, `side` pixels each and one apart, whose columns take their values in turn."""
    geobox = open_region_file(region).header.grid.geobox
    height, width = geobox.shape
    step = abs(geobox.resolution.x)
    corners = [(row, col) for row in range(1, height - side, side + 1) for col in range(1, width - side, side + 1)]
    places = [geobox.affine @ (col, row + side) for row, col in corners]
    values = {name: [given[n % len(given)] for n in range(len(places))] for name, given in columns.items()}
    return gpd.GeoDataFrame(
        values, geometry=[box(x, y, x + side * step, y + side * step) for x, y in places], crs=geobox.crs
    )


def write_labels(folder: Path) -> None:
    """Labels and other vectors, by the names that pages give them."""
    polygons = gpd.read_file(LABELS)[["class", "geometry"]]
    for name in ("labels", "landcover", "plots", "survey", "more"):
        polygons.to_file(folder / f"{name}.gpkg")
    polygons.iloc[::3].to_file(folder / "few.gpkg")
    polygons.set_geometry(polygons.representative_point()).to_file(folder / "points.gpkg")
    polygons[polygons["class"] == "water"][["geometry"]].to_file(folder / "ponds.gpkg")
    codes = sorted(polygons["class"].unique())
    colors = [f"#{40 * n:02x}8040" for n in range(len(codes))]
    pd.DataFrame({"code": codes, "name": codes, "color": colors}).to_csv(folder / "classes.csv", index=False)
    area = gpd.GeoDataFrame(geometry=[box(331_000, 5_816_000, 344_000, 5_821_000)], crs="EPSG:32633")
    area.to_file(folder / "area.gpkg")
    squares(folder / "models" / "havelland.safetensors", 10, stand=["a", "b", "c"]).to_file(folder / "stands.gpkg")
    squares(MODELS / "romania.safetensors", 20, stand=["a", "b"]).to_file(folder / "stands-romania.gpkg")
    squares(folder / "models" / "bouconne.safetensors", 5, crop=["maize", "wheat", "forest"]).to_file(
        folder / "crops.gpkg"
    )
    cover = np.indices((50, 50)).sum(0).astype(np.uint8)
    transform = open_region_file(MODELS / "romania.safetensors").header.grid.geobox.affine @ Affine.scale(2)
    layout = {"count": 1, "height": 50, "width": 50, "dtype": "uint8", "transform": transform}
    with rasterio.open(folder / "cover.tif", "w", driver="GTiff", crs="EPSG:3035", **layout) as file:
        file.write(cover, 1)
    layout = {
        "count": 1,
        "height": 20,
        "width": 30,
        "dtype": "uint8",
        "transform": Affine(100, 0, 335_000, 0, -100, 5_819_000),
    }
    with rasterio.open(folder / "grid.tif", "w", driver="GTiff", crs="EPSG:32633", **layout) as file:
        file.write(np.zeros((20, 30), np.uint8), 1)


def cheaply(line: str) -> None:
    """Run a line in the folder that is current, with CHEAP's defaults, and see that it ends as it should."""
    printed, told = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(told), pytest.MonkeyPatch.context() as patch:
        if "--instant" in line:  # it has no layers whose steps could be saved
            own: dict[str, Any] = cli.app.info.context_settings["default_map"]["finetune"]  # type: ignore[index]
            for name in ("steps", "members"):
                patch.delitem(own, name)
        code = cli._run(words(line))
    assert code == 0, f"{line}\n{told.getvalue()}"
    assert re.search(r"^next: ", told.getvalue(), re.MULTILINE), f"{line} does not say what to do next"
    for place, word in enumerate(words(line)):
        if word == "-o":
            output = words(line)[place + 1]
            assert Path(output).exists(), f"{line}: wrote no {output}"
            assert re.search(rf"^wrote {re.escape(output)}", printed.getvalue(), re.MULTILINE), printed.getvalue()


@pytest.fixture(scope="module")
def defaults() -> Any:
    """The command line with CHEAP's defaults, which may replace what lies there already; pictures are small."""
    cheap: dict[str, Any] = {}
    for name, command in every_command().items():
        own = {"overwrite": True} if any(each.name == "overwrite" for each in command.params) else {}
        group, _, below = name.partition(" ")
        (cheap.setdefault(group, {}).setdefault(below, {}) if below else cheap.setdefault(name, {})).update(own)
    for name, values in CHEAP.items():
        cheap[name].update(values)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lianet_user.maps.picture.DPI", 30)
        patch.setitem(cli.app.info.context_settings, "default_map", cheap)  # type: ignore[arg-type]
        yield


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory, defaults: Any) -> Path:
    """The folder that the pages speak of."""
    folder = tmp_path_factory.mktemp("docs") / "here"
    (folder / "models").mkdir(parents=True)
    (folder / "regions").mkdir()
    (folder / "tutorials" / "data").mkdir(parents=True)
    shutil.copy(LABELS, folder / "tutorials" / "data")
    havelland = write_region(folder / "models" / "havelland.safetensors", "havelland", 12)
    write_region(folder / "east-region.safetensors", "havelland", 12, seed=1)
    bouconne = write_region(folder / "models" / "bouconne.safetensors", "bouconne", 2)
    shutil.copy(MODELS / "romania.safetensors", folder / "models")
    shutil.copy(MODELS / "romania.safetensors", folder / "regions")
    publish(folder / "models", name="models", title="models", description="models")
    publish(folder / "regions", name="regions", title="regions", description="regions")
    for name in ("region", "havelland", "mine", "updated"):
        shutil.copy(folder / "models" / "havelland.safetensors", folder / f"{name}.safetensors")
    write_labels(folder)
    write_stack(folder / "imagery" / "S2_20170216.tif", havelland)
    write_stack(folder / "new" / "S2_20180216.tif", havelland)
    for day in ("20211103", "20220313"):
        write_stack(folder / "clouded" / f"S2_{day}.tif", havelland, cloudy=True)
    write_cube(folder / "cube.nc", bouconne)
    (folder / "region.toml").write_text(PAGE_TOML[0], encoding="utf-8")
    (folder / "about.toml").write_text(PAGE_TOML[1], encoding="utf-8")
    with contextlib.chdir(folder):
        for line in (
            "models/havelland.safetensors labels.gpkg",
            "models/havelland.safetensors labels.gpkg -o west.safetensors",
            "east-region.safetensors labels.gpkg -o east.safetensors",
            "models/bouconne.safetensors crops.gpkg --date 2018-07-08 -o july.safetensors",
            "models/romania.safetensors cover.tif --date 2018-07-01 -o cover.safetensors",
        ):
            cheaply(f"lianet-user finetune {line}")
        cheaply("lianet-user predict head.safetensors -o map.tif")
        cheaply("lianet-user predict cover.safetensors --date 2018-07-01 -o cover-map.tif")
    shutil.copy(folder / "models" / "havelland.safetensors", folder / "try.safetensors")
    return folder


PAGE_TOML = re.findall(
    r"^```toml\n(.*?)^```", (ROOT / "docs/how-to/providers.md").read_text("utf-8"), re.MULTILINE | re.DOTALL
)


@pytest.fixture
def here(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """That folder for one line alone, which may write into it."""
    folder = tmp_path / "here"
    shutil.copytree(prepared, folder, copy_function=os.link)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("LIANET_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("LIANET_CATALOG", str(folder / "models" / "catalog.json"))
    monkeypatch.setattr(cli.console.out, "width", 200)
    return folder


@pytest.mark.parametrize("line", [line for line in EXAMPLES if not any(word in line for word in PARSED_ONLY)])
def test_an_example_works(line: str, here: Path) -> None:
    for which, given, name in INSTEAD:
        if which in line:
            shutil.rmtree(here / name) if (here / name).is_dir() else (here / name).unlink()
            (here / given).rename(here / name)
    cheaply(line)


@pytest.mark.parametrize(
    "page", [page for page in PAGES if page.parent.name == "how-to" and "```python" in page.read_text("utf-8")]
)
def test_the_python_of_a_page_works(page: Path, here: Path) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", page.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    exec(compile("\n".join(blocks), str(page), "exec"), {})


@pytest.mark.parametrize("line", [line for line in EXAMPLES if any(word in line for word in PARSED_ONLY)])
def test_an_example_that_takes_long_is_read_by_the_parser(line: str, here: Path) -> None:
    name, *arguments = words(line)
    command = every_command()[name]
    with command.make_context(name, arguments) as context:
        assert context.params


def test_what_is_only_parsed_is_little() -> None:
    assert len([line for line in EXAMPLES if any(word in line for word in PARSED_ONLY)]) <= 4
    assert len(EXAMPLES) > 60

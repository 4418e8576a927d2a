"""The provider's command line: imagery of many kinds in, region files out, and one line for what cannot be."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import socket
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import xarray as xr
from affine import Affine
from command_line import lianet, refusal
from factories import RegionFactory
from processes import Child, kept_often
from processes import lianet as whole_process
from pyproj import CRS

from lianet_user.cli import console
from lianet_user.cli.imagery import checked_settings, read_config
from lianet_user.errors import EXIT_INTERRUPTED, EXIT_TERMINATED
from lianet_user.files.artifact import open_region_file
from lianet_user.files.header import RegionHeader
from lianet_user.imagery import ImageryOptions
from lianet_user.paper_import import read_about
from lianet_user.pretraining import PretrainSettings, RegionWords
from lianet_user.pretraining.settings import checkpoint_path
from lianet_user.region import Region

HEIGHT, WIDTH = 48, 60  # the width is no multiple of the stride
WEST, NORTH = 500_000.0, 5_800_000.0
BANDS = ("B02", "B03", "B08")
OLD, RECENT, LATE = "2021-11-03", "2022-03-13", "2022-06-21"
WORDS = ("--licence", "CC-BY-4.0", "--attribution", "nobody")
CONFIG = f"""
[imagery]
bands = ["B08", "B02"]
offsets = {{ {OLD} = 0, {RECENT} = 1000 }}

[training]
steps = 6
batch = 2
window = 32
warmup = 2
checkpoint_every = 3

[region]
title = "Two dates"
licence = "CC-BY-4.0"
attribution = "nobody"
"""
"""Sentinel-2 of 2022 needs its offset said, which differs from that of the year before."""


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables are printed whole, however narrow the terminal that the tests run in."""
    monkeypatch.setattr(console.out, "width", 160)


def reflectance(date: str, band: int) -> np.ndarray:
    """Fields and hills that change over the year, 0.1 to 0.5."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    season = int(date[5:7]) / 12
    noise = np.random.default_rng(band).normal(0, 0.005, (HEIGHT, WIDTH))
    values: np.ndarray = (
        0.3 + 0.1 * np.sin(y / 9 + band) * np.cos(x / 7) + 0.08 * season * ((y // 11 + x // 9) % 2) + noise
    )
    return values


def write_stack(folder: Path, date: str, offset: int = 0, shift: float = 0.0, valid: bool = True) -> Path:
    """A GeoTIFF of one date whose layers are bands, `shift` metres east."""
    folder.mkdir(exist_ok=True)
    path = folder / f"S2_{date.replace('-', '')}.tif"
    where = {"crs": "EPSG:32633", "transform": Affine(10.0, 0.0, WEST + shift, 0.0, -10.0, NORTH)}
    size = {"height": HEIGHT, "width": WIDTH, "count": len(BANDS), "dtype": "uint16", "nodata": 0}
    with rasterio.open(path, "w", driver="GTiff", compress="deflate", **where, **size) as file:
        for number, name in enumerate(BANDS, 1):
            numbers = np.round(1e4 * reflectance(date, number)) + offset
            file.write((numbers * valid).astype(np.uint16), number)
            file.set_band_description(number, name)
    return path


@pytest.fixture
def stacks(tmp_path: Path) -> Path:
    """A folder with two dates, before and after the offset came."""
    write_stack(tmp_path / "stacks", OLD)
    write_stack(tmp_path / "stacks", RECENT, offset=1000)
    return tmp_path / "stacks"


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """Where a region is to be written."""
    return tmp_path / "region.safetensors"


def config(folder: Path, text: str = CONFIG, **training: Any) -> Path:
    """A configuration file, with other numbers of the training."""
    path = folder / "region.toml"
    for name, value in training.items():
        line = f"{name} = {json.dumps(value)}\n"
        old = [each for each in text.splitlines(keepends=True) if each.startswith(f"{name} =")]
        text = text.replace(old[0], line) if old else text.replace("[training]\n", f"[training]\n{line}")
    path.write_text(text, encoding="utf-8")
    return path


def header_of(path: Path) -> RegionHeader:
    return open_region_file(path).header


# --- encoding


def test_options_override_the_configuration_file_of_pretrain(tmp_path: Path, stacks: Path, output: Path) -> None:
    command = ("pretrain", stacks, "--config", config(tmp_path), "-o", output)
    done = lianet(*command, "--steps", 4)
    assert f"60 x 48 px on 2 dates from {OLD} to {RECENT}, bands B08 B02" in done.out
    assert f"wrote {output}: " in done.out
    assert f"reflectance = (digital number - 1000) / 10000 on {RECENT}" in done.err
    header = header_of(output)
    assert header.name == "region"
    assert header.title == "Two dates"
    assert header.provenance.settings["steps"] == 4
    assert header.provenance.settings["window"] == 32
    assert header.field.time.kind == "kriged"
    region = Region.open(output)
    for held in header.dates:
        remembered = region.reconstruct(region.window, held).numpy()
        for index, number in enumerate((3, 1)):
            assert np.abs(remembered[index] - reflectance(str(held), number)).mean() < 0.03
    assert not checkpoint_path(output).exists()
    assert "--overwrite" in refusal(*command)

    shown = lianet("info", output).out
    assert "continuous time" in shown
    for quality in header.quality:
        assert f"{quality.date} " in shown
        assert f"{quality.psnr_db:.2f} dB" in shown


def test_info_prints_what_a_file_says_and_is_not_steered_by_it(make_region: RegionFactory) -> None:
    title = "Fields [old] [/bold] [2017]"
    assert title in lianet("info", make_region(title=title).path).out


def write_cube(path: Path) -> Path:
    """A NetCDF cube of two bands and a scene classification; clouds cover a quarter of one date and all of another."""
    dates = (OLD, "2021-11-18", "2021-12-08")
    cover = np.full((3, HEIGHT, WIDTH), 4, np.uint8)
    cover[1, : HEIGHT // 2, : WIDTH // 2] = cover[2] = 9
    bands = {
        name: np.where(cover == 9, 9000, np.round(1e4 * np.stack([reflectance(date, number) for date in dates])))
        for number, name in ((1, "B02"), (3, "B08"))
    }
    dataset = xr.Dataset(
        {
            name: (("time", "y", "x"), values.astype(np.uint16), {"grid_mapping": "spatial_ref"})
            for name, values in {**bands, "SCL": cover}.items()
        },
        coords={
            "time": np.array(dates, "datetime64[ns]"),
            "y": NORTH - 10 * (np.arange(HEIGHT) + 0.5),
            "x": WEST + 10 * (np.arange(WIDTH) + 0.5),
            "spatial_ref": ((), 0, CRS.from_epsg(32633).to_cf()),
        },
    )
    dataset.to_netcdf(path, engine="netcdf4")
    return path


def test_clouds_of_a_cube_are_neither_learned_nor_judged(tmp_path: Path, output: Path) -> None:
    pytest.importorskip("netCDF4")
    few = config(tmp_path, "[training]\nsteps = 6\nbatch = 2\nwindow = 32\nwarmup = 2\n")
    masked = ("--mask", "SCL", "--min-clear", 0.5)
    done = lianet("pretrain", write_cube(tmp_path / "cube.nc"), *masked, "--config", few, *WORDS, "-o", output)
    assert "1 of 3 acquisitions left out: clear over less than 50.0%" in done.err
    header = header_of(output)
    assert [band.name for band in header.bands] == ["B02", "B08"]
    assert [str(date) for date in header.dates] == [OLD, "2021-11-18"]
    assert [quality.judged for quality in header.quality] == pytest.approx([1.0, 0.75])
    region = Region.open(output)
    hidden = region.reconstruct(region.window, header.dates[1]).numpy()[:, : HEIGHT // 2, : WIDTH // 2]
    assert hidden.max() < 0.7  # clouds are 0.9


# --- words, settings, and what they cannot be


REFUSED: dict[str, tuple[str, str, list[str]]] = {
    "an unknown table": ("[training]", "[trainings]", ["has 'trainings', expected the tables [imagery]"]),
    "an unknown setting": ("warmup", "warm_up", ["[training] has no 'warm_up'", "did you mean 'warmup'?"]),
    "an unknown option": ("offsets", "ofsets", ["[imagery] has no 'ofsets'", "did you mean 'offsets'?"]),
    "an unknown word": ("title", "titel", ["[region] has no 'titel'", "did you mean 'title'?"]),
    "a text for a number": ("steps = 6", 'steps = "many"', ["[training] steps cannot be 'many'"]),
    "a number for a text": ('"Two dates"', "2", ["[region] title cannot be 2"]),
    "an offset that is none": ("= 1000", "= true_", ["is not valid TOML"]),
    "an offset of no date": (f"{OLD} = 0", "november = 0", ["[imagery] offsets.november"]),
    "an offset that nobody says": (
        f", {RECENT} = 1000",
        "",
        [f"imagery of {RECENT}", "--offset 1000 or --offset 0"],
    ),
    "dates that are none": ("[imagery]", '[imagery]\ndates = ["soon"]', ["dates: "]),
    "no licence": ("licence", "description", ["--licence missing"]),
    "an unknown preset": ("[training]", '[training]\npreset = "lit"', ["preset 'lit'"]),
}
"""What stands in CONFIG, what stands there instead, and what is said of it; a nearer word ends the line."""


@pytest.mark.parametrize("case", REFUSED)
def test_what_a_configuration_file_cannot_say_is_refused_in_one_line(case: str, tmp_path: Path, stacks: Path) -> None:
    said, instead, messages = REFUSED[case]
    text = CONFIG.replace(said, instead)
    refused = refusal("pretrain", stacks, "--config", config(tmp_path, text), "-o", tmp_path / "r.safetensors")
    for message in messages:
        assert refused.endswith(message) if message.startswith("did you mean") else message in refused
    assert not list(tmp_path.glob("*.safetensors"))


def test_the_configuration_files_of_the_documentation_are_understood(tmp_path: Path) -> None:
    page = Path(__file__).resolve().parents[2] / "docs/how-to/providers.md"
    pretraining, importing = re.findall(r"```toml\n(.*?)```", page.read_text(encoding="utf-8"), re.S)
    tables = read_config(config(tmp_path, pretraining))
    settings = checked_settings(PretrainSettings, "training", tables["training"])
    assert (settings.steps, settings.target_db) == (4000, 50)
    options = checked_settings(ImageryOptions, "imagery", tables["imagery"])
    assert {str(date): offset for date, offset in options.offsets.items()} == {OLD: 0, RECENT: 1000}
    assert checked_settings(RegionWords, "region", {"name": "mine"} | tables["region"]).title == "My region"
    assert len(read_about(config(tmp_path, importing), fallback_name="mine").dates) == 2


# --- imagery that cannot be


@pytest.fixture
def encode(tmp_path: Path, stacks: Path, output: Path) -> tuple[object, ...]:
    """The command that encodes the stacks, also those of a third date."""
    text = CONFIG.replace(f"{RECENT} = 1000", f"{RECENT} = 1000, {LATE} = 1000")
    return ("pretrain", stacks, "--config", config(tmp_path, text), "-o", output)


@pytest.mark.parametrize("damage", ["cut off", "overwritten"])
def test_a_damaged_file_is_refused_by_name(
    damage: str, tmp_path: Path, stacks: Path, encode: tuple[object, ...]
) -> None:
    path = write_stack(stacks, LATE, offset=1000)
    whole, half = path.read_bytes(), path.stat().st_size // 2
    path.write_bytes(whole[:half] + (bytes(half) if damage == "overwritten" else b""))
    assert path.name in refusal(*encode)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["region.toml", "stacks"]


def test_a_date_without_a_valid_pixel_is_refused_and_can_be_left_out(
    stacks: Path, encode: tuple[object, ...], output: Path
) -> None:
    write_stack(stacks, LATE, valid=False)
    said = refusal(*encode)
    assert f"1 of 3 acquisitions have no valid pixel at all ({LATE})" in said
    assert "--min-clear" in said
    lianet(*encode, "--min-clear", 0.1, "--steps", 2)
    assert len(header_of(output).dates) == 2


def test_other_grids_are_refused_or_resampled_where_one_is_given(
    stacks: Path, encode: tuple[object, ...], output: Path
) -> None:
    write_stack(stacks, LATE, offset=1000, shift=4.0)
    said = refusal(*encode)
    assert LATE.replace("-", "") in said
    assert "--grid" in said
    lianet(*encode, "--grid", stacks / f"S2_{OLD.replace('-', '')}.tif", "--steps", 2)
    header = header_of(output)
    assert len(header.dates) == 3
    assert (header.grid.width, header.grid.height) == (WIDTH, HEIGHT)
    assert header.grid.geobox.boundingbox.left == WEST


# --- interrupted runs


def process(folder: Path, *arguments: object, **variables: str) -> Child:
    """The command line in a process of its own."""
    return Child(folder, whole_process, *map(str, arguments), **variables)


def test_a_killed_run_ends_as_an_uninterrupted_one(
    tmp_path: Path, stacks: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    output, whole = tmp_path / "killed.safetensors", tmp_path / "whole.safetensors"
    common = ("pretrain", stacks, "--config", config(tmp_path, steps=12))
    child = process(tmp_path_factory.mktemp("said"), *common, "-o", output)
    try:
        deadline = time.monotonic() + 60
        while not checkpoint_path(output).exists() and child.running and time.monotonic() < deadline:
            time.sleep(0.002)
    finally:
        child.kill()
    assert child.code is not None
    assert child.code < 0, child.said  # it did not come to its end
    assert not output.exists()
    said = refusal(*common, "-o", output)
    for word in ("unfinished run", "--resume", "--overwrite"):
        assert word in said
    lianet(*common, "-o", output, "--resume")
    assert not checkpoint_path(output).exists()
    lianet(*common, "-o", whole)
    resumed, expected = open_region_file(output).tensors(), open_region_file(whole).tensors()
    assert resumed.keys() == expected.keys()
    assert all(np.array_equal(resumed[name], expected[name]) for name in expected)
    assert "no checkpoint" in refusal(*common, "-o", tmp_path / "none.safetensors", "--resume")


@pytest.mark.parametrize(
    ("command", "number", "code"),
    [
        ("pretrain", signal.SIGTERM, EXIT_TERMINATED),
        ("pretrain", signal.SIGKILL, -signal.SIGKILL),
        ("update", signal.SIGINT, EXIT_INTERRUPTED),
    ],
)
def test_an_encoding_that_was_stopped_goes_on_with_the_step_it_was_at(
    command: str, number: int, code: int, tmp_path: Path, stacks: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    output, whole = tmp_path / "stopped.safetensors", tmp_path / "whole.safetensors"
    settings = config(tmp_path, steps=100, checkpoint_every=10_000)  # only the clock and the signal keep it
    words: tuple[object, ...] = ("pretrain", stacks, "--config", settings)
    if command == "update":
        old = tmp_path / "old.safetensors"
        lianet(*words, "-o", old, "--steps", 2)
        later = write_stack(tmp_path / "later", LATE, offset=1000)
        words = ("update", old, later, "--bands", "B08,B02", "--offset", 1000, "--steps", 100)
    child = Child(tmp_path_factory.mktemp("said"), kept_often, *map(str, (*words, "-o", output)))
    kept: set[int] = set()

    def kept_twice() -> bool:  # by then the command has begun to listen to signals
        with contextlib.suppress(FileNotFoundError):
            kept.add(checkpoint_path(output).stat().st_mtime_ns)
        return len(kept) > 1

    said = child.stop(number, kept_twice)
    assert child.code == code
    assert ("with --resume goes on" in said) == (number != signal.SIGKILL)
    assert not output.exists()
    lianet(*words, "-o", output, "--resume")
    lianet(*words, "-o", whole)
    resumed, expected = open_region_file(output).tensors(), open_region_file(whole).tensors()
    assert all(np.array_equal(resumed[name], expected[name]) for name in expected)
    assert not checkpoint_path(output).exists()


# --- several processes


def test_torchrun_processes_write_the_file_of_one_process(
    tmp_path: Path, stacks: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        port = str(held.getsockname()[1])
    output, alone = tmp_path / "shared.safetensors", tmp_path / "alone.safetensors"
    common = ("pretrain", stacks, "--config", config(tmp_path, batch=4, rate=2e-4, table_rate=2e-4), "--device", "cpu")
    children = [
        process(
            tmp_path_factory.mktemp("said"),
            *(*common, "-o", output),
            RANK=str(rank),
            WORLD_SIZE="2",
            LOCAL_RANK=str(rank),
            MASTER_ADDR="127.0.0.1",
            MASTER_PORT=port,
        )
        for rank in range(2)
    ]
    try:
        told = [child.wait(120) for child in children]
    finally:
        for child in children:
            child.kill()
    assert [child.code for child in children] == [0, 0], told
    assert f"wrote {output}" in told[0][0]
    assert told[1] == ("", "")  # the first speaks for all
    assert sorted(path.name for path in tmp_path.iterdir()) == ["region.toml", "shared.safetensors", "stacks"]
    lianet(*common, "-o", alone)
    one, other = Region.open(output), Region.open(alone)
    assert (one.header.field, one.header.grid) == (other.header.field, other.header.grid)
    for date in one.header.dates:
        apart = one.reconstruct(one.window, date) - other.reconstruct(other.window, date)
        assert float(apart.abs().max()) < 1e-3


# --- after encoding


def test_a_region_is_updated_and_judged(tmp_path: Path, stacks: Path) -> None:
    old, new, later = tmp_path / "old.safetensors", tmp_path / "new.safetensors", tmp_path / "later"
    lianet("pretrain", stacks, "--config", config(tmp_path), "-o", old)
    before = old.read_bytes()
    stack = write_stack(later, LATE, offset=1000)
    more = tmp_path / "more.toml"
    more.write_text('[imagery]\nbands = ["B08", "B02"]\noffset = 1000\n\n[training]\nbatch = 2\nwindow = 32\n')
    update = ("update", old, later, "--config", more)
    assert f"wrote {new}: " in lianet(*update, "--steps", 4, "-o", new).out
    header = header_of(new)
    assert [str(date) for date in header.dates] == [OLD, RECENT, LATE]
    assert header.lineage == header_of(old).lineage
    assert header.parents == (open_region_file(old).sha256(),)
    assert old.read_bytes() == before
    assert "--overwrite" in refusal(*update, "-o", new)
    assert "every date" in refusal("update", new, later, "--config", more, "-o", tmp_path / "x.safetensors")

    stack.rename(stacks / stack.name)
    offsets = tmp_path / "offsets.toml"
    offsets.write_text(f"[imagery]\noffsets = {{ {RECENT} = 1000, {LATE} = 1000 }}\n")
    quality = ("quality", new, stacks, "--config", offsets, "--no-rate")
    done = lianet(*quality, "--json")
    document = json.loads(done.out)
    assert done.err == ""
    assert list(document) == ["quality"]
    assert [one["date"] for one in document["quality"]] == [OLD, RECENT, LATE]
    assert all(one["psnr_db"] > 20 for one in document["quality"])
    assert document["quality"][2] == header.model_dump(mode="json")["quality"][0]
    printed = lianet(*quality).out
    assert all(date in printed for date in (OLD, RECENT, LATE))


def test_what_a_region_was_not_encoded_from_is_not_judged(tmp_path: Path, stacks: Path, output: Path) -> None:
    lianet("pretrain", stacks, "--config", config(tmp_path), "--steps", 2, "-o", output)
    offsets = ("--offset", 1000, "--no-rate")
    write_stack(tmp_path / "later", LATE)
    assert f"does not hold {LATE}" in refusal("quality", output, tmp_path / "later", *offsets)
    write_stack(tmp_path / "shifted", RECENT, shift=10.0)
    assert "grid" in refusal("quality", output, tmp_path / "shifted", *offsets)


@pytest.mark.parametrize(
    "line", ["workers = 0", "batch = 0", "window = 4", "seed = -1", "steps = 0", "left_out = 2.0", "rate = 0.0"]
)
def test_numbers_that_no_training_can_have_are_refused(tmp_path: Path, line: str) -> None:
    wrong = config(tmp_path, f'[training]\n{line}\n[region]\nlicence = "x"\nattribution = "y"\n')
    assert line.split(" ")[0] in refusal("pretrain", tmp_path, "--config", wrong, "-o", tmp_path / "region")

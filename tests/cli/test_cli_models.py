"""`lianet-user models`, and the names of models wherever a command wants a region."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from command_line import lianet, refusal, refused
from web import MODELS, ROMANIA, Web, cut, editing, serving, without_ranges

from lianet_user.errors import EXIT_BAD_INPUT, EXIT_FAILURE, EXIT_OK
from lianet_user.files.artifact import open_region_file

pytest.importorskip("pystac")
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in, with an empty cache and no catalogue but the project's own."""
    monkeypatch.setenv("LIANET_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("LIANET_CATALOG", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def published(place: Path) -> Path:
    """The folder of a catalogue of romania."""
    folder = place / "published"
    folder.mkdir()
    shutil.copy(ROMANIA, folder)
    lianet("models", "publish", folder)
    return folder


def only_line(*arguments: object) -> str:
    """How a command line refuses its input, which is all that it prints."""
    done = lianet(*arguments, code=EXIT_BAD_INPUT)
    assert not done.out
    (line,) = done.err.strip().splitlines()
    assert line == refused(done)
    return line


@pytest.fixture
def web() -> Iterator[Web]:
    with serving() as web:
        yield web


def test_list_shows_what_there_is() -> None:
    text = lianet("models", "list").out
    for fact in ("havelland", "bouconne", "romania", "15.4 MB", "CC-BY-4.0", "2017-02-16", "64 dates", "59.4 dB"):
        assert fact in text


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ((), ["bouconne", "havelland", "romania"]),
        (("--bbox", "12,52,13,53"), ["havelland"]),
        (("--bbox", "0,43,23,46"), ["bouconne", "romania"]),
        (("--bbox", "-10,-10,-9,-9"), []),
        (("--date", "2017-02-16"), ["havelland", "romania"]),
        (("--date", "2018-01-01/2018-12-31"), ["bouconne", "romania"]),
        (("--date", "2018-07-04", "--bbox", "0,43,3,46"), ["bouconne"]),
    ],
)
def test_list_chooses(options: tuple[str, ...], names: list[str]) -> None:
    found = json.loads(lianet("models", "list", "--json", *options).out)["models"]
    assert [model["name"] for model in found] == names
    for model in found:
        assert Path(model["path"]).is_file()
        assert open_region_file(model["path"]).sha256() == model["sha256"]


def test_a_box_with_exchanged_axes_is_said_to_be_one() -> None:
    told = lianet("models", "list", "--bbox", "52,12,53,13").err
    assert "with x and y exchanged it would, so give 12.00000,52.00000,13.00000,53.00000" in " ".join(told.split())
    assert "exchanged" not in lianet("models", "list", "--bbox", "12,52,13,53").err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("list", "--bbox", "1,2,3"), "expected W,S,E,N"),
        (("list", "--date", "July"), "expected YYYY-MM-DD"),
        (("list", "--date", "2018-02-01/2018-01-01"), "ends before it begins"),
        (("list", "--catalog", "nowhere.json"), "cannot read the catalogue"),
        (("list", "--catalog", "http://example.org"), "is not read: expected an https:// address"),
        (("list", "--picture", "no/such/x.png"), "does not exist"),
        (("fetch", "havelnd"), "did you mean 'havelland'?"),
        (("add", "missing.safetensors"), "No such file"),
        (("publish", "missing"), "is not a folder"),
        (("publish", "."), "holds no region file"),
        (("publish", ".", "--provider", "=x"), "expected NAME or NAME=https://address"),
    ],
)
def test_bad_input_ends_with_a_line(arguments: tuple[str, ...], message: str) -> None:
    assert message in only_line("models", *arguments)


def test_list_draws_a_picture(place: Path) -> None:
    lianet("models", "list", "--picture", "coverage.png")
    assert (place / "coverage.png").read_bytes().startswith(b"\x89PNG")
    assert "--overwrite" in refusal("models", "list", "--picture", "coverage.png")


def test_fetch_add_and_publish(place: Path) -> None:
    done = lianet("models", "fetch", "romania", "--json")
    (fetched,) = json.loads(done.out)
    assert (fetched["name"], fetched["fetched"]) == ("romania", True)
    assert "fetching romania (3.5 MB)" in done.err
    assert Path(fetched["path"]).read_bytes() == ROMANIA.read_bytes()
    done = lianet("models", "fetch", "romania")
    assert done.err == "next: lianet-user finetune romania LABELS\n"
    assert "romania is here" in done.out
    added = lianet("models", "add", ROMANIA, "--json").out
    assert json.loads(added) == {"name": "romania", "path": fetched["path"]}
    (place / "mine").mkdir()
    shutil.copy(ROMANIA, place / "mine")
    published = lianet("models", "publish", "mine", "--provider", "Me=https://me.example").out
    assert "wrote mine/catalog.json: romania" in published
    (mine,) = json.loads(lianet("models", "list", "--catalog", "mine", "--json").out)["models"]
    assert mine["providers"] == [{"name": "Me", "roles": ["processor", "host"], "url": "https://me.example"}]


def test_what_is_only_in_the_cache_is_listed_too(place: Path) -> None:
    lianet("models", "add", ROMANIA)
    (place / "other").mkdir()
    shutil.copy(MODELS / "bouconne.safetensors", place / "other")
    lianet("models", "publish", "other")
    listed = lianet("models", "list", "--catalog", "other", "--json").out
    assert [model["name"] for model in json.loads(listed)["models"]] == ["bouconne", "romania"]


def test_a_name_is_fetched_aloud_and_then_needs_no_network(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving() as web:
        web.host(published(place))
        web.put("/romania.safetensors", cut(ROMANIA.read_bytes(), 2_000_000), ROMANIA.read_bytes())
        monkeypatch.setenv("LIANET_CATALOG", f"{web.url}/catalog.json")
        done = lianet("info", "romania", "--json")
        assert json.loads(done.out)["name"] == "romania"
        assert done.err == f"fetching romania (3.5 MB) from {web.url}/romania.safetensors\n"
        assert "did you mean 'romania'?" in only_line("info", "rumania")
    assert lianet("info", "romania", "--json").err == ""  # nobody is there any more
    done = lianet("models", "list", "--json")
    assert "cannot be reached: this is what it said on" in done.err
    assert [model["name"] for model in json.loads(done.out)["models"]] == ["romania"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("info", "romania", "extra"), "extra"),
        (("finetune", "romania", "labels.gpkg", "--stepps", "3"), "--stepps"),
        (("finetune", "romania"), "LABELS"),
        (("reconstruct", "romania", "--stretch", "0,1"), "no effect without --rgb"),
        (("change", "romania", "--from", "2018-01-01"), "--to"),
        (("predict", "--region", "romania"), "head.safetensors"),
        (("suggest", "--region", "romania", "-o", "x.png"), ".gpkg"),
    ],
)
def test_nothing_is_looked_up_for_a_command_that_is_refused(
    web: Web, place: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], message: str
) -> None:
    monkeypatch.setenv("LIANET_CATALOG", f"{web.url}/catalog.json")
    assert message in only_line(*arguments)
    assert not web.asked


@pytest.mark.parametrize(
    "line",
    [
        "check romania labels.gpkg",
        "finetune romania labels.gpkg",
        "learning-curve romania labels.gpkg",
        "compare romania labels.gpkg",
        "reconstruct romania --date 2019-07-01",
        "change romania --from 2019-07-01 --to 2019-08-01",
        "update romania new.tif",
    ],
)
def test_nothing_is_fetched_for_an_output_that_exists(line: str, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIANET_CATALOG", str(MODELS))
    monkeypatch.setattr(
        "lianet_user.catalog.resolve._intact_file", lambda _: None
    )  # a folder's models need no fetching
    output = place / ("out.tif" if line.startswith(("reconstruct", "change")) else "out.safetensors")
    output.write_bytes(b"earlier")
    assert "--overwrite" in only_line(*line.split(), "-o", output)
    assert not list((place / "cache").rglob("romania*.safetensors*"))


@pytest.mark.parametrize(
    ("arguments", "code"),
    [(("models", "fetch", "romania", "-q"), EXIT_OK), (("check", "romania", "no.gpkg", "-q"), EXIT_BAD_INPUT)],
)
def test_quiet_is_quiet_about_downloads(
    place: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], code: int
) -> None:
    monkeypatch.setenv("LIANET_CATALOG", str(MODELS))
    if arguments[0] == "check":  # a folder's models need no fetching
        monkeypatch.setattr("lianet_user.catalog.resolve._intact_file", lambda _: None)
    done = lianet(*arguments, code=code)
    assert list((place / "cache" / "models").glob("romania-*.safetensors"))
    assert not done.out
    assert "fetching" not in done.err


def test_who_has_no_catalogue_is_told_how_to_name_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """As of an installed wheel."""
    monkeypatch.setattr("lianet_user.catalog.read.ROOT_NAME", "none.json")
    lianet("models", "add", ROMANIA)
    unknown = lianet("info", "rumania", code=EXIT_BAD_INPUT)
    listed = lianet("models", "list")
    for done in (unknown, lianet("models", "fetch", "romania", code=EXIT_BAD_INPUT), listed):
        assert "LIANET_CATALOG=https://agency.example/regions" in done.err
        assert "models fetch NAME --catalog PLACE" in done.err
        assert done.err.partition("next:")[0].count("\n") == 1
    assert "romania" in listed.out
    assert "did you mean 'romania'?" in unknown.err


def test_a_server_that_lies_ends_with_one_and_a_line(web: Web, place: Path) -> None:
    web.host(published(place))
    web.put("/romania.safetensors", without_ranges(bytes(ROMANIA.stat().st_size)))
    done = lianet("models", "fetch", "romania", "--catalog", web.url, code=EXIT_FAILURE)
    assert not done.out
    said, failed = done.err.splitlines()
    assert said.startswith("fetching romania")
    assert failed == refused(done)
    assert "another sha256" in failed
    assert not [path for path in (place / "cache" / "models").iterdir() if not path.name.endswith(".lock")]


def test_what_a_catalogue_says_cannot_steer_the_terminal(place: Path) -> None:
    folder = published(place)
    with editing(folder / "items" / "romania.json") as item:
        item["properties"] |= {"title": "\x1b]0;owned\x07\u202eevil [red]x[/red]", "license": "other\x1b[2J"}
    with editing(folder / "catalog.json") as catalogue:
        catalogue["links"].append({"rel": "item", "href": "\x1b[2J.json"})
    done = lianet("models", "list", "--catalog", folder, "--picture", "evil.png")
    assert "?]0;owned??evil [red]x[/red]" in done.out
    assert "left out" in done.err
    for character in "\x1b\x07\u202e":
        assert character not in done.out + done.err


@pytest.mark.heavy
def test_the_wheel_does_the_whole_loop_by_name_in_an_empty_environment(place: Path) -> None:
    """Built, installed with pip and nothing else into an environment of its own, and given a catalogue on disk."""
    clean = {
        name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV", "LIANET"))
    }

    def do(*words: object, code: int = EXIT_OK, **more: str) -> subprocess.CompletedProcess[str]:
        environment = clean | {"LIANET_CACHE": str(place / "cache")} | more
        done = subprocess.run(
            [*map(str, words)], cwd=work, env=environment, capture_output=True, text=True, timeout=3600
        )
        assert done.returncode == code, done.stderr
        return done

    work, source, binaries = place / "work", place / "source", place / "environment" / "bin"
    work.mkdir()
    ignored = shutil.ignore_patterns(".git", ".venv", "build", "*.egg-info", "models", "tests", ".*_cache")
    shutil.copytree(ROOT, source, ignore=ignored)
    do(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", place, source)
    (wheel,) = place.glob("*.whl")
    do(sys.executable, "-m", "venv", binaries.parent)
    pip = (binaries / "python", "-m", "pip", "--disable-pip-version-check", "--quiet")
    do(*pip, "install", "-c", ROOT / "constraints.txt", wheel)
    shutil.rmtree(source)
    lianet = binaries / "lianet-user"
    where = do(binaries / "python", "-c", "import lianet_user; print(lianet_user.__file__)").stdout
    assert Path(where).is_relative_to(binaries.parent)

    catalogue = Path(shutil.copytree(MODELS, place / "regions"))
    labels = shutil.copy(ROOT / "tutorials/data/havelland_landcover.gpkg", place)
    assert "LIANET_CATALOG=https://" in do(lianet, "info", "havelland", code=EXIT_BAD_INPUT).stderr
    do(lianet, "models", "fetch", "havelland", LIANET_CATALOG=str(catalogue))
    shutil.rmtree(catalogue)
    training = ("--field", "class", "--steps", 5, "--members", 1)
    do(lianet, "finetune", "havelland", labels, *training)
    do(lianet, "predict", "--bbox", "12.55,52.46,12.57,52.48")
    assert (work / "map.tif").stat().st_size > 1_000
    assert (work / "head.html").stat().st_size > 10_000
    do(lianet, "doctor")

"""`lianet-user models`, and the names of models wherever a command wants a region."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from web import cut, serving, without_ranges

from lianet_user.cli import _run
from lianet_user.errors import EXIT_BAD_INPUT, EXIT_FAILURE, EXIT_OK
from lianet_user.files.artifact import open_region_file

pytest.importorskip("pystac")
ROOT = Path(__file__).resolve().parents[2]
MODELS = ROOT / "models"
ROMANIA = MODELS / "romania.safetensors"


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in, with an empty cache and no catalogue but the project's own."""
    monkeypatch.setenv("LIANET_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("LIANET_CATALOG", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of a command."""
    code = _run([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def one_line(text: str) -> str:
    """The one error that a command printed."""
    (line,) = text.strip().splitlines()
    assert line.startswith("error: ")
    return line


def test_list_shows_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    code, text, _ = run(capsys, "models", "list")
    assert code == EXIT_OK
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
def test_list_chooses(capsys: pytest.CaptureFixture[str], options: tuple[str, ...], names: list[str]) -> None:
    code, text, _ = run(capsys, "models", "list", "--json", *options)
    assert code == EXIT_OK
    found = json.loads(text)["models"]
    assert [model["name"] for model in found] == names
    for model in found:
        assert Path(model["path"]).is_file()
        assert open_region_file(model["path"]).sha256() == model["sha256"]


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
def test_bad_input_ends_with_a_line(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], message: str
) -> None:
    code, text, errors = run(capsys, "models", *arguments)
    assert code == EXIT_BAD_INPUT
    assert message in one_line(errors)
    assert not text


def test_list_draws_a_picture(capsys: pytest.CaptureFixture[str], place: Path) -> None:
    assert run(capsys, "models", "list", "--picture", "coverage.png")[0] == EXIT_OK
    assert (place / "coverage.png").read_bytes().startswith(b"\x89PNG")
    code, _, errors = run(capsys, "models", "list", "--picture", "coverage.png")
    assert (code, "--overwrite" in errors) == (EXIT_BAD_INPUT, True)


def test_fetch_add_and_publish(capsys: pytest.CaptureFixture[str], place: Path) -> None:
    code, text, errors = run(capsys, "models", "fetch", "romania", "--json")
    (fetched,) = json.loads(text)
    assert (code, fetched["name"], fetched["fetched"]) == (EXIT_OK, "romania", True)
    assert "fetching romania (3.5 MB)" in errors
    assert Path(fetched["path"]).read_bytes() == ROMANIA.read_bytes()
    code, text, errors = run(capsys, "models", "fetch", "romania")
    assert (code, errors) == (EXIT_OK, "next: lianet-user finetune romania LABELS\n")
    assert "romania is here" in text
    code, text, _ = run(capsys, "models", "add", ROMANIA, "--json")
    assert (code, json.loads(text)) == (EXIT_OK, {"name": "romania", "path": fetched["path"]})
    (place / "mine").mkdir()
    shutil.copy(ROMANIA, place / "mine")
    code, text, _ = run(capsys, "models", "publish", "mine", "--provider", "Me=https://me.example")
    assert (code, "wrote mine/catalog.json: romania" in text) == (EXIT_OK, True)
    code, text, _ = run(capsys, "models", "list", "--catalog", "mine", "--json")
    assert json.loads(text)["models"][0]["providers"] == [
        {"name": "Me", "roles": ["processor", "host"], "url": "https://me.example"}
    ]


def test_what_is_only_in_the_cache_is_listed_too(capsys: pytest.CaptureFixture[str], place: Path) -> None:
    run(capsys, "models", "add", ROMANIA)
    (place / "other").mkdir()
    shutil.copy(MODELS / "bouconne.safetensors", place / "other")
    run(capsys, "models", "publish", "other")
    code, text, _ = run(capsys, "models", "list", "--catalog", "other", "--json")
    assert code == EXIT_OK
    assert [model["name"] for model in json.loads(text)["models"]] == ["bouconne", "romania"]


def test_a_name_is_fetched_aloud_and_then_needs_no_network(
    capsys: pytest.CaptureFixture[str], place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = place / "hosted"
    folder.mkdir()
    shutil.copy(ROMANIA, folder)
    run(capsys, "models", "publish", folder)
    with serving() as web:
        for path in folder.rglob("*.*"):
            web.put(f"/{path.relative_to(folder)}", path.read_bytes())
        web.put("/romania.safetensors", cut(ROMANIA.read_bytes(), 2_000_000), ROMANIA.read_bytes())
        monkeypatch.setenv("LIANET_CATALOG", f"{web.url}/catalog.json")
        code, text, errors = run(capsys, "info", "romania", "--json")
        assert code == EXIT_OK
        assert json.loads(text)["name"] == "romania"
        assert errors == f"fetching romania (3.5 MB) from {web.url}/romania.safetensors\n"
        code, _, errors = run(capsys, "info", "rumania")
        assert code == EXIT_BAD_INPUT
        assert "did you mean 'romania'?" in one_line(errors)
    code, text, errors = run(capsys, "info", "romania", "--json")  # nobody is there any more
    assert (code, errors) == (EXIT_OK, "")
    code, text, errors = run(capsys, "models", "list", "--json")
    assert code == EXIT_OK
    assert "cannot be reached: this is what it said on" in errors
    assert [model["name"] for model in json.loads(text)["models"]] == ["romania"]


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
        (("finetune", "romania", "labels.gpkg", "-o", "here.safetensors"), "--overwrite"),
    ],
)
def test_nothing_is_looked_up_for_a_command_that_is_refused(
    capsys: pytest.CaptureFixture[str],
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    message: str,
) -> None:
    (place / "here.safetensors").touch()
    with serving() as web:
        monkeypatch.setenv("LIANET_CATALOG", f"{web.url}/catalog.json")
        code, text, errors = run(capsys, *arguments)
        assert not web.asked
    assert (code, text) == (EXIT_BAD_INPUT, "")
    assert message in one_line(errors)


@pytest.mark.parametrize("arguments", [("models", "fetch", "romania", "-q"), ("check", "romania", "no.gpkg", "-q")])
def test_quiet_is_quiet_about_downloads(
    capsys: pytest.CaptureFixture[str], place: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    monkeypatch.setenv("LIANET_CATALOG", str(MODELS))
    if arguments[0] == "check":  # a folder's models need no fetching
        monkeypatch.setattr("lianet_user.catalog.resolve._intact_file", lambda _: None)
    _, text, errors = run(capsys, *arguments)
    assert list((place / "cache" / "models").glob("romania-*.safetensors"))
    assert not text
    assert "fetching" not in errors


def test_who_has_no_catalogue_is_told_how_to_name_one(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of an installed wheel."""
    monkeypatch.setattr("lianet_user.catalog.read.ROOT_NAME", "none.json")
    run(capsys, "models", "add", ROMANIA)
    for arguments, code in (
        (("info", "rumania"), EXIT_BAD_INPUT),
        (("models", "fetch", "romania"), EXIT_BAD_INPUT),
        (("models", "list"), EXIT_OK),
    ):
        found, text, errors = run(capsys, *arguments)
        assert found == code
        assert "LIANET_CATALOG=https://agency.example/regions" in errors
        assert "models fetch NAME --catalog PLACE" in errors
        assert errors.partition("next:")[0].count("\n") == 1
    assert "romania" in text
    assert "did you mean 'romania'?" in run(capsys, "info", "rumania")[2]


def test_a_server_that_lies_ends_with_one_and_a_line(
    capsys: pytest.CaptureFixture[str], place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = place / "hosted"
    folder.mkdir()
    shutil.copy(ROMANIA, folder)
    run(capsys, "models", "publish", folder)
    with serving() as web:
        for path in folder.rglob("*.*"):
            web.put(f"/{path.relative_to(folder)}", path.read_bytes())
        web.put("/romania.safetensors", without_ranges(bytes(ROMANIA.stat().st_size)))
        code, text, errors = run(capsys, "models", "fetch", "romania", "--catalog", web.url)
    assert (code, text) == (EXIT_FAILURE, "")
    said, failed = errors.splitlines()
    assert said.startswith("fetching romania")
    assert "another sha256" in one_line(failed)
    assert not [path for path in (place / "cache" / "models").iterdir() if not path.name.endswith(".lock")]


def test_what_a_catalogue_says_cannot_steer_the_terminal(capsys: pytest.CaptureFixture[str], place: Path) -> None:
    folder = place / "evil"
    folder.mkdir()
    shutil.copy(ROMANIA, folder)
    run(capsys, "models", "publish", folder)
    item = folder / "items" / "romania.json"
    document = json.loads(item.read_text())
    document["properties"] |= {"title": "\x1b]0;owned\x07\u202eevil [red]x[/red]", "license": "other\x1b[2J"}
    item.write_text(json.dumps(document))
    links = json.loads((folder / "catalog.json").read_text())
    links["links"].append({"rel": "item", "href": "\x1b[2J.json"})
    (folder / "catalog.json").write_text(json.dumps(links))
    code, text, errors = run(capsys, "models", "list", "--catalog", folder, "--picture", "evil.png")
    assert code == EXIT_OK
    assert "?]0;owned??evil [red]x[/red]" in text
    assert "left out" in errors
    for character in "\x1b\x07\u202e":
        assert character not in text + errors


def test_models_needs_no_torch_and_help_nothing_at_all(place: Path) -> None:
    heavy = {"torch", "segmentation_models_pytorch", "geopandas", "matplotlib", "pystac"}
    for arguments, more in (
        (("models", "--help"), {"lianet_user.catalog"}),
        (("models", "list", "--json"), set[str]()),
    ):
        words = [sys.executable, "-X", "importtime", "-m", "lianet_user", *arguments]
        done = subprocess.run(words, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0
        imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
        assert "lianet_user.cli.models" in imported
        assert not imported & (heavy | more)


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

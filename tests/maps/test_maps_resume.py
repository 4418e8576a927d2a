"""Maps that are interrupted: nothing half-written, and no more than a tile computed twice."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from factories import HEIGHTS, LAST, RegionHeaderFactory, contents, ignoring, make_head, read_raster, windows_asked

from lianet_user.cli import _run
from lianet_user.errors import LeftoverWarning, OutputError
from lianet_user.files.lock import only_run
from lianet_user.geo.grid import Window
from lianet_user.head import Head
from lianet_user.maps import engine as writing
from lianet_user.maps import predict as predict_maps
from lianet_user.maps.resume_store import RUN, store_path

TILES = 12
"""Of 32 pixels, in a region of 96 x 128."""


class Stop(Exception):  # noqa: N818  # what a listener raises is no error of the map
    """Raised by a listener."""


pytestmark = pytest.mark.usefixtures("no_figures")


@pytest.fixture(scope="module")
def head(region_header: RegionHeaderFactory, tmp_path_factory: pytest.TempPathFactory) -> Head:
    return make_head(region_header(dates=2), tmp_path_factory.mktemp("head"), numbers=HEIGHTS)


@pytest.fixture
def computed(head: Head, monkeypatch: pytest.MonkeyPatch) -> list[Window]:
    """The windows that the head is asked for."""
    return windows_asked(head, "answers", monkeypatch)


predict = partial(predict_maps, tile=32)


def interrupted(head: Head, path: Path, tiles: int = 5, **options: Any) -> None:
    """A run that is stopped after so many tiles."""
    calls: list[int] = []

    def listen(done: int, total: int) -> None:
        calls.append(done)
        if len(calls) > tiles:
            raise Stop

    with pytest.raises(Stop):
        predict(head, path, listener=listen, **options)


def test_a_resumed_map_computes_what_is_missing_and_is_the_same(head: Head, out: Path, computed: list[Window]) -> None:
    (whole,) = predict(head, out / "whole.tif")
    assert len(computed) == TILES
    computed.clear()
    interrupted(head, out / "map.tif")
    assert not list(out.glob("map*"))
    assert len(computed) == 5
    progress: list[tuple[int, int]] = []
    (resumed,) = predict(head, out / "map.tif", resume=True, listener=lambda *at: progress.append(at))
    assert len(set(computed)) == len(computed) == TILES
    assert progress[0] == (5 * 32 * 32, 96 * 128)
    assert read_raster(resumed.path).tobytes() == read_raster(whole.path).tobytes()
    assert resumed.summary == whole.summary
    assert not store_path(resumed.path).exists()


def test_a_killed_run_loses_one_tile_at_most(head: Head, out: Path, computed: list[Window]) -> None:
    head.save(out / "head.safetensors")
    script = f"""
import os, signal
from lianet_user.head import Head
from lianet_user.maps import predict
head = Head.open("head.safetensors", {str(head.region.path)!r}, precision="float32")
answers, asked = head.answers, []
def answer(*arguments, **options):
    asked.append(0)
    if len(asked) == 8:  # in the middle of the eighth
        os.kill(os.getpid(), signal.SIGKILL)
    return answers(*arguments, **options)
head.answers = answer
predict(head, "map.tif", tile=32)
"""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", script], cwd=out, env=environment, capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert len(list(store_path(out / "map.tif").glob("*.npz"))) == 7
    assert not (out / "map.tif").exists()
    opened = Head.open(out / "head.safetensors", head.region.path, precision="float32")
    opened.answers = head.answers  # type: ignore[method-assign]  # which counts
    (result,) = predict(opened, out / "map.tif", resume=True)
    assert len(computed) == TILES - 7
    (whole,) = predict(head, out / "whole.tif")
    assert read_raster(result.path).tobytes() == read_raster(whole.path).tobytes()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, with room for a map and little else."""
    path = tmp_path / "disk"
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(path)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a tmpfs")
    yield path
    subprocess.run(["umount", str(path)], check=True)


@pytest.mark.parametrize("tiles", [1, TILES], ids=["while tiles are computed", "while the map is written"])
def test_a_disk_that_fills_up_costs_no_work_and_no_earlier_map(
    tiles: int, head: Head, out: Path, small_disk: Path, computed: list[Window]
) -> None:
    predict(head, small_disk / "map.tif")
    earlier = contents(small_disk)
    (whole,) = predict(head, out / "whole.tif")
    computed.clear()

    def fill(done: int, total: int) -> None:
        if len(computed) == tiles:
            with suppress(OSError), open(small_disk / "others.bin", "wb", buffering=0) as file:
                while file.write(bytes(1024)):
                    pass

    said = r"cannot write .*map\.tif: No space left on device: .*; `resume` goes on from what was computed"
    with pytest.raises(OutputError, match=said):
        predict(head, small_disk / "map.tif", overwrite=True, listener=fill)
    (small_disk / "others.bin").unlink()
    assert {path.name: path.read_bytes() for path in small_disk.iterdir() if path.is_file()} == earlier
    (resumed,) = predict(head, small_disk / "map.tif", overwrite=True, resume=True)
    assert TILES <= len(computed) <= TILES + 1
    assert read_raster(resumed.path).tobytes() == read_raster(whole.path).tobytes()


def test_a_damaged_tile_is_computed_again(head: Head, out: Path, computed: list[Window]) -> None:
    interrupted(head, out / "map.tif")
    first, second, third, *_ = sorted(store_path(out / "map.tif").glob("*.npz"))
    damaged = bytearray(first.read_bytes())
    damaged[len(damaged) // 2] ^= 0xFF
    first.write_bytes(damaged)
    second.write_bytes(second.read_bytes()[:100])
    third.write_bytes(b"")
    computed.clear()
    (resumed,) = predict(head, out / "map.tif", resume=True)
    assert len(computed) == TILES - 5 + 3
    (whole,) = predict(head, out / "whole.tif")
    assert read_raster(resumed.path).tobytes() == read_raster(whole.path).tobytes()


def test_a_run_that_is_another_is_not_gone_on_from(head: Head, out: Path) -> None:
    interrupted(head, out / "map.tif")
    before = contents(out)
    said = r"was another; what differs: dates \(then \[\['2017-02-16'\]\], now \[\['2017-03-16'\]\]\)"
    with pytest.raises(OutputError, match=said):
        predict(head, out / "map.tif", resume=True, dates=[LAST])
    with pytest.raises(OutputError, match=r"what differs: turned \(then False, now True\): give the same"):
        predict(head, out / "map.tif", resume=True, turned=True)
    assert contents(out) == before


def test_there_has_to_be_something_to_resume(head: Head, out: Path) -> None:
    with pytest.raises(OutputError, match=r"no unfinished run towards .*map\.tif to resume: omit `resume`"):
        predict(head, out / "map.tif", resume=True)
    assert contents(out) == {}


def test_without_resume_what_was_left_is_discarded_and_that_is_said(
    head: Head, out: Path, computed: list[Window]
) -> None:
    interrupted(head, out / "map.tif")
    with pytest.raises(LeftoverWarning, match="had computed is discarded: `resume` would have gone on from it"):
        predict(head, out / "map.tif")
    computed.clear()
    with ignoring(LeftoverWarning):
        predict(head, out / "map.tif")
    assert len(computed) == TILES


def test_two_runs_do_not_write_one_map(head: Head, out: Path) -> None:
    interrupted(head, out / "map.tif")
    before = contents(out)
    with only_run(out / "map.tif"):
        for resume in (False, True):
            said = rf"another run \(process {os.getpid()}\) is writing .*map\.tif: wait until"
            with pytest.raises(OutputError, match=said):
                predict(head, out / "map.tif", resume=resume)
    assert contents(out) == before
    predict(head, out / "map.tif", resume=True)


@pytest.mark.skipif(not hasattr(os, "pread"), reason="blocks of files as POSIX systems count them")
def test_files_that_are_mapped_have_their_room_on_disk(tmp_path: Path) -> None:
    """A full disk is then an error; a page of a mapped file without room ends the process."""
    mapped = writing._memory_mapped(tmp_path / "in.raw", (3000, 1000))
    assert mapped.shape == (3000, 1000)
    assert not mapped.any()
    mapped[5, 5] = 1
    assert (tmp_path / "in.raw").stat().st_size == 3_000_000
    assert (tmp_path / "in.raw").stat().st_blocks * 512 >= 3_000_000


def test_a_run_for_several_dates_goes_on_at_the_date_it_came_to(head: Head, out: Path, computed: list[Window]) -> None:
    interrupted(head, out / "maps", TILES + 4, dates=["all"])
    assert [path.name for path in (out / "maps").iterdir()] == [".unfinished"]
    computed.clear()
    results = predict(head, out / "maps", dates=["all"], resume=True)
    assert len(computed) == TILES - 4
    assert sorted(path.name for path in (out / "maps").glob("*.tif")) == sorted(result.path.name for result in results)
    assert not store_path(out / "maps").exists()


def test_an_interrupted_run_leaves_the_earlier_map(head: Head, out: Path) -> None:
    predict(head, out / "map.tif")
    earlier = contents(out)
    interrupted(head, out / "map.tif", overwrite=True)
    assert earlier.items() <= contents(out).items()
    assert (store_path(out / "map.tif") / RUN).exists()


@contextmanager
def files_at_most(size: int) -> Iterator[None]:
    """Let no file grow beyond `size` bytes, as a full disk would."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize(("size", "kept"), [(2_000, False), (20_000, True)])
def test_a_full_disk_ends_the_run_and_costs_no_more_than_the_map(head: Head, out: Path, size: int, kept: bool) -> None:
    # 2 kB: a tile does not fit; 20 kB: what is made of the tiles does not.
    predict(head, out / "map.tif")
    earlier = contents(out)
    with files_at_most(size), pytest.raises(OutputError, match=r"map\.tif"):
        predict(head, out / "map.tif", overwrite=True)
    assert {name: content for name, content in contents(out).items() if name in earlier} == earlier
    assert store_path(out / "map.tif").exists() == kept
    if not kept:
        assert contents(out) == earlier


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_command_says_how_to_go_on_after_a_signal(
    head: Head,
    out: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    number: signal.Signals,
    code: int,
) -> None:
    head.save(out / "head.safetensors")
    monkeypatch.chdir(out)
    where = ["--date", "2017-02-16", "--region", str(head.region.path)]
    arguments = ["predict", "head.safetensors", "-o", "my map.tif", *where]
    monkeypatch.setattr(sys, "argv", ["lianet-user", *arguments])
    asked = windows_asked(Head, "answers", monkeypatch)
    answers = Head.answers

    def answer(self: Head, *given: Any, **options: Any) -> Any:
        if len(asked) == 2:
            os.kill(os.getpid(), number)
        return answers(self, *given, **options)

    monkeypatch.setattr(Head, "answers", answer)
    monkeypatch.setattr("lianet_user.maps.predict", predict)
    assert _run(arguments) == code
    said = capsys.readouterr().err
    assert (
        "my map.tif is not finished: go on from where it stopped with `lianet-user predict head.safetensors -o 'my map.tif'"
        in said
    )
    assert "--resume`" in said
    assert len(list(store_path(out / "my map.tif").glob("*.npz"))) == 3
    assert _run([*arguments, "--resume"]) == 0
    assert len(asked) == TILES
    assert (out / "my map.tif").exists()


def test_tiles_are_compressed(head: Head, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head, "answers", lambda window, *_, **__: torch.ones(1, window.height, window.width))
    interrupted(head, out / "map.tif")
    for path in store_path(out / "map.tif").glob("*.npz"):
        assert path.stat().st_size < 32 * 32 * 4 / 4
        with np.load(path) as arrays:
            assert arrays["arr_0"].shape == (1, 32, 32)

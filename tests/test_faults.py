"""Machines that fail: the final name holds a whole file or the previous one, and the error says what to do.

A row is a fault and a command that meets it, with the exit code and the class of the error.
"""

from __future__ import annotations

import errno
import fcntl
import importlib
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import rasterio.shutil
from factories import Folder, refused
from processes import Child

from lianet_user import cli, errors
from lianet_user.errors import (
    LOG_FOLDER_VARIABLE,
    ArtifactError,
    LianetError,
    LianetWarning,
    OutputError,
    RegionMismatchError,
)
from lianet_user.files import artifact, lock
from lianet_user.files.artifact import open_head_file, open_region_file, replacing
from lianet_user.files.checkpoint import head_checkpoint_path
from lianet_user.files.lock import only_run

training = importlib.import_module("lianet_user.finetuning.finetune")  # the package has a function of this name
QUICK = "--steps 4 --members 1 --batch 2 --crop 16 --block 16 --no-picture --no-report -q".split()
FINETUNE = ["finetune", "region.safetensors", "labels.tif", "-o", "new.safetensors", "--overwrite", *QUICK]
PREDICT = ["predict", "head.safetensors", "-o", "map.tif", "--overwrite", "-q"]
FETCH = ["models", "fetch", "romania", "--catalog", str(Path(__file__).parents[1] / "models")]
EARLIER = b"an earlier file"

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="faults as POSIX systems have them")


Preparation = Callable[[Folder, pytest.MonkeyPatch], list[str]]


def failing_with(number: int) -> Callable[..., Any]:
    """A function that fails as the system does."""

    def fail(*_: Any, **__: Any) -> None:
        raise OSError(number, os.strerror(number))

    return fail


@contextmanager
def failing(monkeypatch: pytest.MonkeyPatch, owner: object, name: str, number: int) -> Iterator[None]:
    """A function of the system that fails."""
    with monkeypatch.context() as patched:
        patched.setattr(owner, name, failing_with(number))
        yield


def commanded(*words: str) -> Preparation:
    """No fault but what the command itself asks for."""
    return lambda folder, patch: list(words)


def written_to(output: str) -> Preparation:
    return commanded(*FINETUNE[:3], "-o", output, *QUICK)


def disk_full_at(name: str, command: list[str]) -> Preparation:
    def prepare(folder: Folder, patch: pytest.MonkeyPatch) -> list[str]:
        patch.setattr(name, failing_with(errno.ENOSPC))
        return command

    return prepare


def disk_full_at_the_write(folder: Folder, patch: pytest.MonkeyPatch) -> list[str]:
    def half(file: Any, *_: object) -> None:
        file.write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    patch.setattr(artifact, "write_container", half)
    return FINETUNE


def failing_call(name: str, number: int) -> Preparation:
    """A call of the system that fails while the head is written."""

    def prepare(folder: Folder, patch: pytest.MonkeyPatch) -> list[str]:
        real = getattr(os, name)

        def fail(*arguments: Any, **more: Any) -> Any:
            # The checkpoint before it is written as it should be; and a folder's flush is no write.
            names = [path.name for path in folder.path.iterdir()]
            if any("new." in name for name in names if ".partial.safetensors" in name):
                raise OSError(number, os.strerror(number))
            return real(*arguments, **more)

        patch.setattr(os, name, fail)
        return FINETUNE

    return prepare


def vanished_folder(folder: Folder, patch: pytest.MonkeyPatch) -> list[str]:
    """Removed while the head is trained."""
    from lianet_user.head import Head

    (folder.path / "gone").mkdir()
    save = Head.save

    def late(self: Head, path: Path) -> None:
        shutil.rmtree(folder.path / "gone")
        save(self, path)

    patch.setattr(Head, "save", late)
    return [*FINETUNE[:3], "-o", "gone/new.safetensors", *QUICK]


def vanished_region(folder: Folder, patch: pytest.MonkeyPatch) -> list[str]:
    (folder.path / "region.safetensors").unlink()
    return PREDICT


def replaced_region(folder: Folder, patch: pytest.MonkeyPatch) -> list[str]:
    """By another between finetune and predict."""
    path = folder.path / "region.safetensors"
    path.write_bytes(path.read_bytes().replace(b"random numbers", b"Random numbers"))
    return PREDICT


def while_read(change: Callable[[Path], object]) -> Preparation:
    """The region's file changes between its header and its tensors."""
    from lianet_user.field import weights

    check = weights.check_stored

    def prepare(folder: Folder, patch: pytest.MonkeyPatch) -> list[str]:
        def late(*arguments: Any) -> None:
            check(*arguments)
            change(folder.path / "region.safetensors")

        patch.setattr(weights, "check_stored", late)
        return FINETUNE

    return prepare


def replace_by_a_copy(path: Path) -> None:
    """As good as the file itself."""
    shutil.copy(path, path.with_name("other"))
    path.with_name("other").rename(path)


def another_run_on(output: str, command: list[str]) -> Preparation:
    def prepare(folder: Folder, patch: pytest.MonkeyPatch) -> list[str]:
        held = only_run(folder.path / output)
        held.__enter__()
        patch.setattr(lock, "_held_by_test", held, raising=False)  # kept until the test ends
        return command

    return prepare


def a_kept_tile_that_is_a_pickle(folder: Folder, patch: pytest.MonkeyPatch) -> list[str]:
    """Left by a run that was stopped, and then exchanged: `pytest.fail` is not called."""
    from lianet_user.maps import engine as writing

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as own:
        own.setattr(writing, "_write", stop)
        assert folder.run(*PREDICT) == errors.EXIT_INTERRUPTED
    (tile,) = (folder.path / ".map.tif.unfinished").glob("*.npz")
    np.savez(tile, np.array([Trap()], dtype=object))
    return [*PREDICT, "--resume"]


class Trap:
    """Fails the test that unpickles it."""

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return pytest.fail, ("a pickle was loaded",)


def disk_fails_in_libtiff(folder: Folder, patch: pytest.MonkeyPatch) -> list[str]:
    """Which prints it, while GDAL says nothing."""
    patch.setattr(rasterio.shutil, "copy", lambda *_, **__: os.write(2, b"_tiffWriteProc: Input/output error.\n"))
    return PREDICT


def no_room_in_the_cache(folder: Folder, patch: pytest.MonkeyPatch) -> list[str]:
    patch.setenv("LIANET_CACHE", str(folder.path / "cache"))
    patch.setattr("lianet_user.catalog.resolve.SPARE", 2**60)
    return FETCH


def cache_that_is_a_file(folder: Folder, patch: pytest.MonkeyPatch) -> list[str]:
    patch.setenv("LIANET_CACHE", str(folder.path / "labels.tif"))
    return FETCH


def resumed(change: Callable[[Folder], object], *options: str) -> Preparation:
    """A run that was stopped at its second step goes on after something has changed."""

    def prepare(folder: Folder, patch: pytest.MonkeyPatch) -> list[str]:
        stop_at_the_second_step(folder)
        change(folder)
        return [*FINETUNE, "--resume", *options]

    return prepare


def turn_the_labels_over(folder: Folder) -> None:
    with rasterio.open(folder.path / "labels.tif", "r+") as file:
        file.write(file.read(1)[::-1], 1)


def checkpoint_with(change: Callable[[bytes], bytes]) -> Preparation:
    """The checkpoint is written over."""

    def rewrite(folder: Folder) -> None:
        path = head_checkpoint_path(folder.path / "new.safetensors")
        path.write_bytes(change(path.read_bytes()))

    return resumed(rewrite)


def stop_at_the_second_step(folder: Folder) -> None:
    """Leave a checkpoint as Ctrl-C does."""
    stops = {"n": 0}
    real = training.FinetuneProgress

    def progress(stage: str, *arguments: Any, **more: Any) -> Any:
        stops["n"] += stage == "training"
        if stops["n"] == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return real(stage, *arguments, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "FinetuneProgress", progress)
        assert folder.run(*FINETUNE) == errors.EXIT_INTERRUPTED
    assert head_checkpoint_path(folder.path / "new.safetensors").exists()


@dataclass(frozen=True)
class Fault:
    """A fault.

    Attributes:
        prepare: makes it and returns the command that meets it.
        error: how it is said.
        says: what the line has to say.
    """

    prepare: Preparation
    error: type[LianetError]
    says: str


ANOTHER_RUN = f"another run (process {os.getpid()}) is writing"
FAULTS: dict[str, Fault] = {
    "the disk is full": Fault(disk_full_at_the_write, OutputError, "No space left on device: make room on that disk"),
    "the disk is full at a checkpoint": Fault(
        disk_full_at("lianet_user.files.checkpoint.write_container", FINETUNE), OutputError, "make room on that disk"
    ),
    "the disk fails to flush": Fault(failing_call("fsync", errno.EIO), OutputError, "that disk fails: choose another"),
    "the disk turns read-only": Fault(failing_call("replace", errno.EROFS), OutputError, "can only be read"),
    "a quota is used up": Fault(failing_call("fsync", errno.EDQUOT), OutputError, "within your quota"),
    # Where even root may not write.
    "a folder that cannot be written": Fault(written_to("/proc/self/new.safetensors"), OutputError, "with --output"),
    "a folder under a file": Fault(written_to("labels.tif/new.safetensors"), OutputError, "does not exist"),
    "the folder vanishes": Fault(vanished_folder, OutputError, "No such file or directory"),
    "the region vanishes": Fault(vanished_region, ArtifactError, "say where it is with --region"),
    "the region is replaced after finetune": Fault(replaced_region, RegionMismatchError, "was updated since"),
    "the region is replaced while it is read": Fault(
        while_read(replace_by_a_copy), ArtifactError, "was replaced or rewritten"
    ),
    # A mapped file would end the process.
    "the region shrinks while it is read": Fault(
        while_read(lambda path: os.truncate(path, 50_000)), ArtifactError, "was replaced or rewritten"
    ),
    "two runs on one output": Fault(another_run_on("new.safetensors", FINETUNE), OutputError, ANOTHER_RUN),
    "two runs on one map": Fault(another_run_on("map.tif", PREDICT), OutputError, f"{ANOTHER_RUN} map.tif"),
    "the disk is full at the tiles": Fault(
        disk_full_at("lianet_user.maps.geotiff.write_raw", PREDICT),
        OutputError,
        "write map.tif: No space left on device",
    ),
    "the disk fails in libtiff": Fault(
        disk_fails_in_libtiff, OutputError, "Input/output error: that disk fails: choose"
    ),
    "a kept tile that is a pickle": Fault(a_kept_tile_that_is_a_pickle, OutputError, "does not read back as it was"),
    "no room in the cache": Fault(no_room_in_the_cache, OutputError, "MB free, and romania needs 3.5 MB: make room"),
    "a cache that is a file": Fault(cache_that_is_a_file, OutputError, "with LIANET_CACHE"),
    "nothing to resume": Fault(commanded(*FINETUNE, "--resume"), ArtifactError, "start without --resume"),
    "resumed with other settings": Fault(
        resumed(lambda folder: None, "--rate", "0.5"), ArtifactError, "what differs: rate (then"
    ),
    "resumed with other labels": Fault(resumed(turn_the_labels_over), ArtifactError, "what differs: labels (then"),
    "a checkpoint that was cut off": Fault(
        checkpoint_with(lambda content: content[:-100]), ArtifactError, "100 bytes are missing"
    ),
    # Whole, and of the same fingerprint, and still not this run's.
    "a checkpoint of other layers": Fault(
        checkpoint_with(lambda content: content.replace(b"member.0.0.weight", b"member.0.0.wEight")),
        ArtifactError,
        "is not a whole checkpoint",
    ),
    "a checkpoint of no step": Fault(
        checkpoint_with(lambda content: content.replace(b'\\"step\\": 2', b'\\"step\\":-2')),
        ArtifactError,
        "step -2 of member 1 is not a step of this run",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_leaves_the_earlier_file_and_says_what_to_do(
    name: str, folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    fault = FAULTS[name]
    for kept in ("new.safetensors", "map.tif"):
        folder.file(EARLIER, kept)
    arguments = fault.prepare(folder, monkeypatch)
    problem, line = refused(arguments, folder.path, monkeypatch)
    monkeypatch.undo()
    assert type(problem) is fault.error, line
    assert problem.exit_code == errors.EXIT_BAD_INPUT
    assert fault.says in line
    assert "Traceback" not in line
    assert (folder.path / "new.safetensors").read_bytes() == EARLIER
    assert (folder.path / "map.tif").read_bytes() == EARLIER
    assert not [path.name for path in folder.path.iterdir() if ".partial" in path.name]


def test_at_least_twelve_faults() -> None:
    assert len(FAULTS) >= 12


# --- the lock


def test_a_lock_is_let_go_of_and_its_file_removed(tmp_path: Path) -> None:
    output = tmp_path / "head.safetensors"
    for _ in range(2):
        with only_run(output):
            assert [path.name for path in tmp_path.iterdir()] == [".head.safetensors.lock"]
            with pytest.raises(OutputError, match=f"another run \\(process {os.getpid()}\\) is writing .*: wait until"):
                only_run(output).__enter__()
        assert not list(tmp_path.iterdir())


def test_a_lock_keeps_nobody_from_another_output(tmp_path: Path) -> None:
    with only_run(tmp_path / "a.tif"), only_run(tmp_path / "b.tif"):
        pass


def test_what_a_killed_run_left_is_no_obstacle_and_is_cleared_away(tmp_path: Path) -> None:
    output = tmp_path / "head.safetensors"
    (tmp_path / ".head.safetensors.lock").write_text("1\n")
    for name in (".head.abcd_123.partial.safetensors", ".head.other.abcd_123.partial.safetensors", "mine.partial.tif"):
        (tmp_path / name).write_bytes(b"half")
    with only_run(output):
        pass
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == [".head.other.abcd_123.partial.safetensors", "mine.partial.tif"]


def test_a_lock_follows_no_link(tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("dear")
    (tmp_path / ".head.safetensors.lock").symlink_to(tmp_path / "victim")
    with pytest.raises(OutputError, match="cannot write"):
        only_run(tmp_path / "head.safetensors").__enter__()
    assert (tmp_path / "victim").read_text() == "dear"


def test_a_file_system_without_locks_is_worked_on_with_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        failing(monkeypatch, fcntl, "flock", errno.ENOLCK),
        pytest.warns(LianetWarning, match="knows no locks"),
        only_run(tmp_path / "head.safetensors"),
    ):
        pass


# --- writing


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EROFS, errno.EACCES, errno.ENOENT])
@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_every_call_that_writes_may_fail(
    call: str, number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(EARLIER)
    with (
        failing(monkeypatch, os, call, number),
        pytest.raises(OutputError, match=r"cannot write .*: .*with `output`"),
        replacing(path) as temporary,
    ):
        temporary.write_bytes(b"new")
    assert path.read_bytes() == EARLIER
    assert [each.name for each in tmp_path.iterdir()] == ["a.safetensors"]


def test_a_folder_that_cannot_be_flushed_does_not_lose_what_was_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.fsync

    def files_only(fd: int) -> None:
        if Path(f"/proc/self/fd/{fd}").is_dir():
            raise OSError(errno.EINVAL, "Invalid argument")
        real(fd)

    monkeypatch.setattr(os, "fsync", files_only)
    with replacing(tmp_path / "a.txt") as temporary:
        temporary.write_bytes(b"new")
    assert (tmp_path / "a.txt").read_bytes() == b"new"


def run_with_small_files(folder: Folder) -> int:
    """In a process of its own, because a limit that was lowered stays low."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
    return folder.run(*FINETUNE)


def test_a_limit_on_the_size_of_files_is_a_full_disk(folder: Folder, tmp_path: Path) -> None:
    folder.file(EARLIER, "new.safetensors")
    child = Child(tmp_path / "said", run_with_small_files, folder)
    try:
        _, told = child.wait(300)
    finally:
        child.kill()
    assert child.code == errors.EXIT_BAD_INPUT, told
    assert "error: cannot write" in told
    assert "ulimit -f" in told
    assert (folder.path / "new.safetensors").read_bytes() == EARLIER
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 4096


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_printing_onto_a_full_disk_is_said(folder: Folder) -> None:
    with open("/dev/full", "w") as full:
        words = [sys.executable, "-m", "lianet_user", "info", "region.safetensors", "--json"]
        done = subprocess.run(words, cwd=folder.path, stdout=full, stderr=subprocess.PIPE, text=True, timeout=120)
    assert done.returncode == errors.EXIT_BAD_INPUT
    assert done.stderr.count("\n") == 1
    assert "No space left on device" in done.stderr


def test_a_reader_that_has_read_enough_is_no_fault(folder: Folder) -> None:
    words = f"{sys.executable} -m lianet_user info region.safetensors --json | head -c 1"
    done = subprocess.run(words, shell=True, cwd=folder.path, capture_output=True, text=True, timeout=120)
    assert (done.stdout, done.stderr) == ("{", "")


# --- ends of a run


@pytest.mark.heavy
def test_every_call_that_writes_fails_in_turn(folder: Folder, tmp_path: Path) -> None:
    """During finetune and predict, with ENOSPC, EIO and EROFS: the earlier output is untouched, or the new one whole."""
    compiler = shutil.which("cc")
    if compiler is None or sys.platform != "linux":
        pytest.skip("needs Linux and a C compiler")
    here, library = Path(__file__).parent / "faults", tmp_path / "failing.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, here / "failing.c", "-ldl"], check=True)
    done = subprocess.run(
        [sys.executable, here / "inject.py", folder.path],
        env={**os.environ, "LD_PRELOAD": str(library), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=14_400,
    )
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert all(each["calls"] > 10 for each in found)


def run_until_the_first_checkpoint(folder: Folder, words: list[str]) -> int:
    """In a process of its own, which SIGKILL ends."""
    from lianet_user.files.checkpoint import save_checkpoint

    def once(*arguments: Any) -> None:
        save_checkpoint(*arguments)
        os.kill(os.getpid(), signal.SIGKILL)

    with pytest.MonkeyPatch.context() as patch:
        for module in ("head", "region"):  # as the run beside it: see float32_answers
            patch.setattr(f"lianet_user.{module}.answering_autocast", lambda device, precision: nullcontext())
        patch.setattr("lianet_user.finetuning.trainer.CHECKPOINT_EVERY", 10)
        patch.setattr("lianet_user.finetuning.trainer.save_checkpoint", once)
        return folder.run(*words)


def test_a_run_that_is_killed_goes_on_where_it_stopped(folder: Folder, tmp_path: Path) -> None:
    """SIGKILL in the middle of the training: no head, the lock is free, and what it left is no obstacle."""
    whole = folder.path / "whole.safetensors"
    steps = ["--steps", "40", *FINETUNE[8:]]
    assert folder.run(*FINETUNE[:3], "-o", whole, "--overwrite", *steps) == 0
    child = Child(tmp_path / "said", run_until_the_first_checkpoint, folder, [*FINETUNE[:6], *steps])
    try:
        told = child.wait(300)
    finally:
        child.kill()
    assert child.code == -signal.SIGKILL, told
    assert not (folder.path / "new.safetensors").exists()
    assert folder.run(*FINETUNE[:6], *steps, "--resume") == 0
    one, other = (open_head_file(path).tensors() for path in (whole, folder.path / "new.safetensors"))
    assert all(np.array_equal(one[name], other[name]) for name in one)
    assert not [path.name for path in folder.path.iterdir() if path.name.startswith(".")]


def test_a_clock_that_jumps_changes_no_duration(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = time.time, iter(range(10**6))
    monkeypatch.setattr(time, "time", lambda: real() - 86_400 * (next(calls) % 2))
    assert folder.run(*FINETUNE) == 0
    seconds = open_head_file(folder.path / "new.safetensors").header.provenance.seconds
    assert seconds is not None
    assert 0 <= seconds < 300


def test_a_region_that_is_replaced_during_a_run_spoils_nothing(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    """The head is of what was read, and is refused with what lies there now."""
    was = open_region_file(folder.path / "region.safetensors").sha256()
    real = training.check_ground

    def late(*arguments: Any) -> None:
        replaced_region(folder, monkeypatch)
        real(*arguments)

    monkeypatch.setattr(training, "check_ground", late)
    assert folder.run(*FINETUNE) == 0
    assert open_head_file(folder.path / "new.safetensors").header.region.sha256 == was
    problem, _ = refused(["predict", "new.safetensors", "-o", "map.tif"], folder.path, monkeypatch)
    assert type(problem) is RegionMismatchError


# --- what nobody foresaw


def run_with(problem: BaseException, monkeypatch: pytest.MonkeyPatch, *options: str) -> int:
    def fail(*_: object, **__: object) -> None:
        raise problem

    monkeypatch.setattr(artifact, "open_region_file", fail)
    return cli._run([*options, "info", "region.safetensors"])


def test_an_unforeseen_error_is_one_line_and_a_log_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(LOG_FOLDER_VARIABLE, str(tmp_path / "logs"))
    assert run_with(KeyError("x\x1b[2J\ny"), monkeypatch) == errors.EXIT_FAILURE
    said = capfd.readouterr().err
    (log,) = (tmp_path / "logs").iterdir()
    assert said.count("\n") == 1
    assert str(log) in said
    assert "--traceback" in said
    assert "Traceback" not in said
    text = log.read_text()
    assert "Traceback (most recent call last)" in text
    assert "info region.safetensors" in text
    assert "pydantic" in text


def test_a_traceback_is_printed_where_it_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(LOG_FOLDER_VARIABLE, str(tmp_path))
    assert run_with(KeyError("x"), monkeypatch, "--traceback") == errors.EXIT_FAILURE
    assert "Traceback (most recent call last)" in capfd.readouterr().err


def test_log_files_do_not_heap_up_and_need_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(LOG_FOLDER_VARIABLE, str(tmp_path))
    for number in range(cli.LOGS_KEPT + 5):
        (tmp_path / f"lianet-user-error-2020-{number:03}.log").touch()
    (tmp_path / "other.log").touch()
    cli.unforeseen(KeyError("x"), [])
    assert len(list(tmp_path.iterdir())) == cli.LOGS_KEPT + 1
    monkeypatch.setenv(LOG_FOLDER_VARIABLE, "/proc/none")
    monkeypatch.setattr(tempfile, "gettempdir", lambda: "/proc/none")
    assert "report what it prints" in cli.unforeseen(KeyError("x"), [])


@pytest.mark.parametrize(
    ("problem", "code", "says"),
    [
        (MemoryError("Unable to allocate 9 GiB"), errors.EXIT_FAILURE, "memory does not suffice (Unable to allocate 9"),
        (OSError(errno.ENOSPC, "No space", "/x/y"), errors.EXIT_BAD_INPUT, "cannot write /x/y: No space"),
        (OSError(errno.EIO, "Input/output error"), errors.EXIT_BAD_INPUT, "that disk fails"),
        (KeyboardInterrupt(), errors.EXIT_INTERRUPTED, "interrupted"),
        (ArtifactError("no"), errors.EXIT_BAD_INPUT, "no"),
        (errors.TrainingError("no"), errors.EXIT_FAILURE, "no"),
    ],
    ids="memory disk io ctrl-c input training".split(),
)
def test_every_error_has_its_exit_code(
    problem: BaseException, code: int, says: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run_with(problem, monkeypatch) == code
    said = capfd.readouterr().err
    assert says in said
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "help_of"),
    [
        (["predict", "--frobnicate"], "lianet-user predict --help"),
        (["finetune"], "lianet-user finetune --help"),
        (["doctor", "a"], "lianet-user doctor --help"),
        (["frobnicate"], "lianet-user --help"),
    ],
)
def test_a_mistyped_command_line_points_to_its_help(
    words: list[str], help_of: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with warnings.catch_warnings():
        assert cli._run(words) == errors.EXIT_BAD_INPUT
    assert capfd.readouterr().err.rstrip().lower().endswith(f"see {help_of}".lower())

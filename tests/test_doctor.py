"""`lianet-user doctor` finds what is broken, says what to do, and is not broken by it."""

from __future__ import annotations

import errno
import importlib.metadata
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from command_line import lianet

from lianet_user import doctor, errors
from lianet_user.doctor import CHECKS, Finding, is_broken
from lianet_user.field import torchvision_ops

FINE = Finding("versions", "fine", "all well")
BROKEN = Finding("disk", "broken", "no room\x1b[2J", "make room")


def looked(name: str) -> list[Finding]:
    return doctor._safely(name, CHECKS[name])


@pytest.fixture(scope="module")
def findings() -> list[Finding]:
    """About this machine, as it is."""
    return doctor.examine()


def test_a_machine_that_runs_the_tests_is_not_broken(findings: list[Finding]) -> None:
    assert {finding.topic for finding in findings} >= set(CHECKS) - {"memory"}
    assert not is_broken(findings), [finding for finding in findings if finding.level == "broken"]
    (tested,) = [finding for finding in findings if finding.topic == "self-test"]
    assert "were written, read and compared" in tested.found


def test_everything_that_is_not_fine_says_what_to_do(findings: list[Finding]) -> None:
    assert all(finding.advice for finding in findings if finding.level != "fine")


def test_what_is_broken_ends_with_1_and_the_rest_is_still_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "CHECKS", {"disk": lambda: [BROKEN], "versions": lambda: [FINE]})
    said = lianet("doctor", code=errors.EXIT_FAILURE).out
    assert "-> make room" in said
    assert "all well" in said
    assert "\x1b[2J" not in said
    told = json.loads(lianet("doctor", "--json", code=errors.EXIT_FAILURE).out)
    assert told["findings"][1]["found"] == "all well"


def test_nothing_broken_ends_with_0(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "CHECKS", {"versions": lambda: [FINE]})
    assert "nothing is broken" in lianet("doctor").out


def test_a_look_that_fails_is_a_finding() -> None:
    def fail() -> list[Finding]:
        raise ImportError("libcudart.so.12: cannot open shared object file\nsecond line")

    (finding,) = doctor._safely("devices", fail)
    assert (finding.level, finding.topic) == ("broken", "devices")
    assert "\n" not in finding.found
    assert finding.advice


def test_missing_or_old_packages_are_named_with_the_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.metadata.version

    def version(name: str) -> str:
        if name == "shapely":
            raise importlib.metadata.PackageNotFoundError(name)
        return "0.1" if name == "rasterio" else real(name)

    monkeypatch.setattr(doctor, "version", version)
    broken = {finding.found: finding.advice for finding in looked("versions") if finding.level == "broken"}
    assert broken["shapely is not installed"].startswith("pip install 'shapely")
    assert any(found.startswith("rasterio 0.1 is older than") for found in broken)


def test_an_nvidia_device_that_torch_does_not_use_is_pointed_out(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(doctor, "_has_nvidia", lambda: True)
    for cuda, advice in ((None, "install torch for CUDA"), ("12.4", "update its driver")):
        monkeypatch.setattr(torch.version, "cuda", cuda)
        assert advice in looked("devices")[-1].advice
    monkeypatch.setattr(doctor, "_has_nvidia", lambda: False)
    assert [finding.found for finding in looked("devices")] == ["cpu"]


def test_threads_that_were_kept_down_are_pointed_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)), raising=False)
    (finding,) = looked("threads")
    assert finding.level == "warning"
    assert "unset OMP_NUM_THREADS" in finding.advice


def test_little_memory_is_pointed_out(monkeypatch: pytest.MonkeyPatch) -> None:
    for free, level in ((10**9, "warning"), (10**11, "fine")):
        monkeypatch.setattr(doctor, "available_memory", lambda free=free: free)
        assert [finding.level for finding in looked("memory")] == [level]


def test_a_missing_driver_breaks_maps(monkeypatch: pytest.MonkeyPatch) -> None:
    import pyogrio

    monkeypatch.setattr(pyogrio, "list_drivers", lambda **_: {"GPKG": "rw"})
    assert any("no driver ESRI Shapefile (shapefiles)" in finding.found for finding in looked("GDAL"))
    monkeypatch.setattr(doctor, "_compresses", lambda codec: codec != "ZSTD")
    assert [each.level for each in looked("GDAL") if "no ZSTD" in each.found] == ["warning"]


def test_variables_that_point_gdal_elsewhere_are_pointed_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GDAL_DRIVER_PATH", "/opt/conda/lib/gdalplugins")
    assert any("GDAL_DRIVER_PATH=/opt/conda" in finding.found for finding in looked("GDAL"))


def test_coordinates_that_come_out_elsewhere_are_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    import rasterio.warp

    monkeypatch.setattr(rasterio.warp, "transform", lambda *_: ([0.0], [0.0]))
    (finding,) = looked("coordinates")
    assert finding.level == "broken"
    assert "rasterio puts Berlin at 0 E" in finding.found
    assert "PROJ_DATA" in finding.advice


def test_folders_that_cannot_be_written_or_are_full_are_pointed_out(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert doctor._place("disk", "this folder", tmp_path / "not" / "yet").level == "fine"
    monkeypatch.setattr(doctor, "ROOM_GB", 1e9)
    assert doctor._place("disk", "this folder", tmp_path).advice == "make room before you map or train"

    def fail(**_: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(tempfile, "TemporaryFile", fail)
    assert doctor._place("disk", "this folder", tmp_path).level == "broken"
    assert doctor._place("cache", "cache", tmp_path).level == "warning"


def test_a_torchvision_of_another_build_is_no_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torchvision_ops, "is_mended", lambda: True)
    (finding,) = looked("torchvision")
    assert finding.level == "fine"
    assert "built for different devices" in finding.found
    monkeypatch.setattr(torchvision_ops, "is_mended", lambda: False)
    assert "fit together" in looked("torchvision")[0].found


def test_doctor_starts_where_torch_and_rasterio_cannot_be_imported() -> None:
    code = "import sys; sys.modules.update(torch=None, rasterio=None); from lianet_user.doctor import examine"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

"""Is this installation able to do the whole loop? What was checked, how it stands, and what to do about it.

Every check is a function of its own that returns findings, and none of them stops the others. Nothing that can be broken
(torch, rasterio, torchvision) is imported before its own check runs.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Literal

from lianet_user import threads
from lianet_user.errors import brief, log_folder, one_line

Level = Literal["fine", "warning", "broken"]
"""`warning`: it works, but something may surprise. `broken`: a command will fail."""

ROOM_GB = 2.0
"""Free disk below which a region and a few maps may not fit."""
MEMORY_GB = 4.0
"""Memory below which training on a region gets tight."""

RASTERS = {"GTiff": "maps and raster labels", "COG": "maps", "VRT": "raster labels", "MEM": "resampling"}
VECTORS = {"GPKG": "GeoPackages", "ESRI Shapefile": "shapefiles", "GeoJSON": "GeoJSON", "FlatGeobuf": "FlatGeobuf"}
CODECS = ("DEFLATE", "ZSTD", "LZW")
EXTRAS = {"compare": "sklearn", "parquet": "pyarrow", "provider": "zarr"}
"""Extras, and a module that each of them brings."""
STEERED = ("GDAL_DATA", "PROJ_DATA", "PROJ_LIB", "GDAL_DRIVER_PATH", "LD_PRELOAD")
"""Variables by which one installation's GDAL and PROJ read another's files."""


@dataclass(frozen=True)
class Finding:
    """The result of one check."""

    topic: str
    level: Level
    found: str
    """How it stands, in words."""
    advice: str = ""
    """What to do; empty where nothing is to be done."""


Check = Callable[[], Iterable[Finding]]


def examine(announce: Callable[[str], None] = lambda topic: None) -> list[Finding]:
    """Run all checks; `announce` is told of each topic before its check."""
    findings: list[Finding] = []
    for topic, check in CHECKS.items():
        announce(topic)
        findings += _safely(topic, check)
    return findings


def _safely(topic: str, check: Check) -> list[Finding]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return list(check())
    except Exception as error:  # what is broken here is the very thing that is checked
        what = one_line(f"{type(error).__name__}: {error}", 300)
        return [Finding(topic, "broken", what, "install lianet-user anew, into an empty environment")]


def _versions() -> Iterator[Finding]:
    from packaging.requirements import Requirement

    yield Finding("versions", "fine", f"lianet-user {version('lianet-user')}, Python {platform.python_version()}")
    good = []
    for text in requires("lianet-user") or ():
        requirement = Requirement(text)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            installed = version(requirement.name)
        except PackageNotFoundError:
            yield Finding("versions", "broken", f"{requirement.name} is not installed", f"pip install '{requirement}'")
            continue
        if requirement.specifier.contains(installed, prereleases=True):
            good.append(f"{requirement.name} {installed}")
        else:
            found = f"{requirement.name} {installed} is older than what this needs ({requirement.specifier})"
            yield Finding("versions", "broken", found, f"pip install -U '{requirement}'")
    yield Finding("versions", "fine", ", ".join(good))


def _extras() -> Iterator[Finding]:
    missing = [extra for extra, module in EXTRAS.items() if importlib.util.find_spec(module) is None]
    held = [extra for extra in EXTRAS if extra not in missing]
    yield Finding("extras", "fine", f"installed: {', '.join(held) or 'none'}")
    if missing:
        install = f"only if you need them: pip install 'lianet-user[{','.join(missing)}]'"
        yield Finding("extras", "fine", f"not installed: {', '.join(missing)}", install)


def _torchvision() -> Iterator[Finding]:
    from lianet_user.field import torchvision_ops

    torchvision_ops.import_torchvision()
    pair = f"torch {version('torch')} with torchvision {version('torchvision')}"
    importlib.import_module("segmentation_models_pytorch")
    if torchvision_ops.is_mended():
        what = f"{pair}: built for different devices; two operators that nothing here uses were declared in their place"
        advice = "nothing for lianet-user; for other programs install both from one index of download.pytorch.org"
        yield Finding("torchvision", "fine", what, advice)
    else:
        yield Finding("torchvision", "fine", f"{pair} fit together")


def _devices() -> Iterator[Finding]:
    import torch

    if torch.cuda.is_available():
        for number in range(torch.cuda.device_count()):
            free, total = torch.cuda.mem_get_info(number)
            name = torch.cuda.get_device_name(number)
            what = f"cuda:{number} {name}, {free / 2**30:.1f} of {total / 2**30:.1f} GiB free"
            tight = free < 2 * 2**30
            advice = "end what else computes there, or compute on the CPU" if tight else ""
            yield Finding("devices", "warning" if tight else "fine", what, advice)
        return
    yield Finding("devices", "fine", "cpu")
    if _has_nvidia():
        if torch.version.cuda is None:
            what = "there is an NVIDIA device, and this torch is built for the CPU only"
            yield Finding("devices", "warning", what, "to use it, install torch for CUDA: pytorch.org/get-started")
        else:
            what = f"there is an NVIDIA device that torch for CUDA {torch.version.cuda} cannot use"
            yield Finding("devices", "warning", what, "update its driver, and see what `nvidia-smi` says")


def _has_nvidia() -> bool:
    return Path("/proc/driver/nvidia/version").exists() or shutil.which("nvidia-smi") is not None


def _threads() -> Iterator[Finding]:
    import torch

    allowed, cores, used = len(threads.processors()), threads.sensible(), torch.get_num_threads()
    # The command itself states what is sensible where nobody states anything.
    said = next((name for name in threads.COUNTS if os.environ.get(name, str(cores)) != str(cores)), "")
    what = f"{used} of {allowed} processors" + (f" ({said}={os.environ[said]})" if said else "")
    if (quota := threads.quota()) is not None:
        what += f"; this container may use the time of {quota:g}"
    passive = os.environ.get("OMP_WAIT_POLICY", "").upper() == "PASSIVE"
    what += "; those that wait sleep" if passive else "; those that wait spin"
    if used < cores / 2:
        yield Finding("threads", "warning", what, f"unset {said or 'what limits them'} to compute with {cores}")
    elif used > allowed:
        advice = f"give --threads {cores}: more threads than processors are slower"
        yield Finding("threads", "warning", what, advice)
    elif not passive:
        yield Finding(
            "threads", "warning", what, "unset OMP_WAIT_POLICY: beside busy programs spinning threads are slow"
        )
    else:
        yield Finding("threads", "fine", what)


def _memory() -> Iterator[Finding]:
    free = available_memory()
    if free is None:
        return
    tight = free < MEMORY_GB * 1e9
    advice = "close other programs, or train with a smaller batch" if tight else ""
    yield Finding("memory", "warning" if tight else "fine", f"{free / 1e9:.1f} GB available", advice)


def available_memory() -> int | None:
    """Bytes that a program can still have; None where the system does not tell."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError):
        return None


def _gdal() -> Iterator[Finding]:
    import pyogrio
    import rasterio
    import rasterio.drivers
    from rasterio.env import GDALVersion

    yield Finding("GDAL", "fine", f"{GDALVersion.runtime()} for rasters, {pyogrio.__gdal_version_string__} for vectors")
    with rasterio.Env() as env:
        rasters = env.drivers()
    for name, purpose in RASTERS.items():
        if name not in rasters and not (name == "MEM" and "Memory" in rasters):
            yield _no_driver(name, purpose, "rasterio")
    vectors = pyogrio.list_drivers(write=True)
    for name, purpose in VECTORS.items():
        if name not in vectors:
            yield _no_driver(name, purpose, "pyogrio")
    if lacking := [codec for codec in CODECS if not _compresses(codec)]:
        advice = "read and write with the creation option COMPRESS=DEFLATE, or take rasterio's wheel from pip"
        level: Level = "broken" if "DEFLATE" in lacking else "warning"
        yield Finding("GDAL", level, f"no {', '.join(lacking)} in GeoTIFFs", advice)
    if said := [name for name in STEERED if os.environ.get(name)]:
        what = ", ".join(f"{name}={brief(os.environ[name], 60)}" for name in said)
        advice = "unset them if CRS or drivers are not found: wheels bring their own files"
        yield Finding("GDAL", "warning", what, advice)


def _no_driver(name: str, purpose: str, package: str) -> Finding:
    advice = f"install {package} from its wheel: pip install {package}"
    return Finding("GDAL", "broken", f"no driver {name} ({purpose})", advice)


def _compresses(codec: str) -> bool:
    import numpy as np
    from rasterio.errors import RasterioError
    from rasterio.io import MemoryFile

    profile = {"driver": "GTiff", "width": 16, "height": 16, "count": 1, "dtype": "uint8", "compress": codec}
    try:
        with MemoryFile() as memory:
            with memory.open(**profile) as file:
                file.write(np.ones((1, 16, 16), np.uint8))
            with memory.open() as file:
                return file.compression is not None
    except RasterioError:
        return False


def _coordinates() -> Iterator[Finding]:
    import pyproj
    from rasterio.crs import CRS
    from rasterio.warp import transform

    expected = (391_779.4, 5_820_072.6)
    berlin = (13.4050, 52.5200)
    by_pyproj = pyproj.Transformer.from_crs(4326, 32633, always_xy=True).transform(*berlin)
    (x,), (y,) = transform(CRS.from_epsg(4326), CRS.from_epsg(32633), [berlin[0]], [berlin[1]])
    for name, found in (("pyproj", by_pyproj), ("rasterio", (x, y))):
        if max(abs(one - other) for one, other in zip(found, expected, strict=True)) > 1:
            what = f"{name} puts Berlin at {found[0]:.0f} E, {found[1]:.0f} N in UTM 33, not at 391779 E, 5820073 N"
            yield Finding("coordinates", "broken", what, f"unset PROJ_DATA and PROJ_LIB, or pip install -U {name}")
            return
    yield Finding(
        "coordinates", "fine", f"PROJ {pyproj.proj_version_str}: pyproj and rasterio agree on where Berlin is"
    )


def _disk() -> Iterator[Finding]:
    for what, folder in (("this folder", Path.cwd()), ("temporary files", Path(tempfile.gettempdir()))):
        yield _place("disk", what, folder)


def _cache() -> Iterator[Finding]:
    import platformdirs

    yield _place("cache", "cache", platformdirs.user_cache_path("lianet-user"))
    yield _place("cache", "log files", log_folder())


def _place(topic: str, what: str, folder: Path) -> Finding:
    """Check that a folder, or the one it will be created in, can be written to and has room."""
    from lianet_user.files.artifact import free_bytes

    there = next((each for each in (folder, *folder.parents) if each.exists()), Path("/"))
    try:
        with tempfile.TemporaryFile(dir=there) as file:
            file.write(b"lianet")
            file.flush()
        free = free_bytes(there)
    except OSError as error:
        advice = "work in a folder that you may write to" if what == "this folder" else "make it writable"
        level: Level = "broken" if topic == "disk" else "warning"
        return Finding(topic, level, f"{what}: {folder} cannot be written ({error.strerror})", advice)
    tight = free < ROOM_GB * 1e9
    where = f"{what}: {folder}, {free / 1e9:.1f} GB free"
    return Finding(topic, "warning" if tight else "fine", where, "make room before you map or train" if tight else "")


def _self_test() -> Iterator[Finding]:
    from lianet_user.self_test import run

    started = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="lianet-doctor-") as folder:
        rate = run(Path(folder))
    seconds = time.perf_counter() - started
    what = f"a region, a head and a map were written, read and compared in {seconds:.1f} s; {rate / 1e3:,.0f} thousand px/s"
    yield Finding("self-test", "fine", what)


CHECKS: dict[str, Check] = {
    "versions": _versions,
    "extras": _extras,
    "torchvision": _torchvision,
    "devices": _devices,
    "threads": _threads,
    "memory": _memory,
    "GDAL": _gdal,
    "coordinates": _coordinates,
    "disk": _disk,
    "cache": _cache,
    "self-test": _self_test,
}


def is_broken(findings: Iterable[Finding]) -> bool:
    """Whether a command will fail here."""
    return any(finding.level == "broken" for finding in findings)

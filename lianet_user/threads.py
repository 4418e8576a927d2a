"""How many threads compute, and how they wait: chosen once, before anything that computes is loaded. No torch here.

By itself OpenMP takes a thread for every processor that it sees, although a container may be allowed less, and lets threads
that have nothing to do spin: beside other busy processes they then take the time that those who work are waiting for. Runtimes
read this from the environment when they are loaded, so :func:`prepare` has to come first; what the user set there stays.
"""

from __future__ import annotations

import math
import os
import sys
from pathlib import Path

SLEEPING = {
    "OMP_WAIT_POLICY": "PASSIVE",  # GNU's runtime, which torch's wheels bring
    "KMP_BLOCKTIME": "0",  # Intel's and LLVM's, in milliseconds; by default a fifth of a second
    "OPENBLAS_THREAD_TIMEOUT": "4",  # numpy's, as a power of two of clock ticks
}
"""What makes waiting threads sleep at once."""

COUNTS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
"""Variables that say how many threads compute; every runtime reads the first unless its own is set."""

TOPOLOGY = Path("/sys/devices/system/cpu")
CGROUPS = Path("/sys/fs/cgroup")


def prepare(count: int | None = None) -> None:
    """Let waiting threads sleep, and compute with so many threads.

    Args:
        count: of threads; None takes what the environment says, or else :func:`sensible`.
    """
    for name, value in SLEEPING.items():
        os.environ.setdefault(name, value)
    if count is not None:
        for name in COUNTS:
            os.environ[name] = str(count)
    elif not any(name in os.environ for name in COUNTS):
        os.environ[COUNTS[0]] = str(sensible())
    if count is not None and "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(count)


def sensible() -> int:
    """The cores that this process may use: by its affinity, each core once however many threads it runs, and by its quota.

    How busy they are at the moment is left out: it may be over in a second, and threads that sleep while they wait do no harm.
    """
    allowed = processors()
    cores = len({_core(number) for number in allowed})
    return max(1, min(cores, math.ceil(quota() or cores)))


def processors() -> set[int]:
    """The processors that this process may run on, by number."""
    if hasattr(os, "sched_getaffinity"):
        return set(os.sched_getaffinity(0))
    return set(range(os.cpu_count() or 1))


def _core(number: int) -> tuple[str, ...]:
    """What is the same for all processors of one core; the processor itself where the system does not tell."""
    folder = TOPOLOGY / f"cpu{number}" / "topology"
    try:
        return tuple((folder / name).read_text().strip() for name in ("physical_package_id", "core_id"))
    except OSError:
        return (str(number),)


def quota() -> float | None:
    """How many processors' time the control groups of this process may use; None where that is not limited."""
    try:
        lines = Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return None
    limits: list[float] = []
    for line in lines:
        _, controllers, group = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        # A container sees its own group as the root, or the path of the host.
        root = CGROUPS if not controllers else CGROUPS / controllers
        places = [root, *(root.joinpath(*Path(group).parts[1:end]) for end in range(2, len(Path(group).parts) + 1))]
        limits += [limit for place in places if (limit := _limit(place)) is not None]
    return min(limits, default=None)


def _limit(place: Path) -> float | None:
    """Processors that one control group allows, in the words of either version of the interface."""
    try:
        if (place / "cpu.max").exists():
            share, period = (place / "cpu.max").read_text().split()
        else:
            share, period = ((place / f"cpu.cfs_{name}_us").read_text().strip() for name in ("quota", "period"))
        return float(share) / float(period) if share != "max" and float(share) > 0 else None
    except (OSError, ValueError):
        return None

"""Encoding a region: a neural field is trained to reproduce its imagery (paper, section 3.3), by the numbers of
:mod:`lianet_user.pretraining.settings`."""

from __future__ import annotations

import dataclasses
import datetime as dt
import hashlib
import json
import math
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import ValidationError

from lianet_user.errors import InputError
from lianet_user.field.config import (
    FieldConfig,
    FourierTime,
    IndexTime,
    KrigedTime,
    MlpTime,
    SinusoidalTime,
    TimeConfig,
    preset,
)
from lianet_user.field.decoder import LiteReconstruction
from lianet_user.field.encoding import YEAR_DAYS, TimeWaves
from lianet_user.field.model import NeuralField
from lianet_user.field.weights import save_region
from lianet_user.files.artifact import replacing, software_versions
from lianet_user.files.checkpoint import Fingerprint
from lianet_user.files.header import GridHeader, Provenance, RegionHeader
from lianet_user.imagery.imagery import Imagery, Resident
from lianet_user.imagery.statistics import Statistics, measure
from lianet_user.pretraining.distributed import Processes
from lianet_user.pretraining.loader import Loader, drawn_from
from lianet_user.pretraining.pyramid import images_without_gaps, start_from_pyramid
from lianet_user.pretraining.quality import measure_quality
from lianet_user.pretraining.settings import FREE_SETTINGS, PretrainSettings, RegionWords, checkpoint_path
from lianet_user.pretraining.trainer import PretrainProgress, Trainer, Windows
from lianet_user.region import Region


def field_config(imagery: Imagery, settings: PretrainSettings) -> FieldConfig:
    """The configuration of the field that completed settings ask for."""
    height, width = imagery.shape
    dates = len(imagery.acquisitions)
    time: TimeConfig
    match settings.time:
        case "kriged":
            days = tuple(acquisition.days for acquisition in imagery.acquisitions)
            codes = min(settings.codes, dates - 1)
            time = KrigedTime(kind="kriged", days=days, codes=codes, covariance=settings.covariance)
        case "sinusoidal":
            time = SinusoidalTime(kind="sinusoidal", frequencies=settings.frequencies)
        case "fourier":
            time = FourierTime(kind="fourier", frequencies=settings.frequencies)
        case "mlp":
            time = MlpTime(kind="mlp", hidden=settings.hidden, layers=3)
        case _:
            time = IndexTime(kind="index", count=dates)
    return preset(
        settings.preset,
        height=height,
        width=width,
        bands=len(imagery.bands),
        time=time,
        features=settings.features,
        table_size=settings.table_size,
        widths=settings.widths,
        patch=settings.window,
    )


# --- The run: from imagery to a region file.

Listener = Callable[[PretrainProgress], None]


def pretrain(
    imagery: Imagery,
    output: Path,
    words: RegionWords,
    *,
    settings: PretrainSettings | None = None,
    listener: Listener | None = None,
    resume: bool = False,
    device: str | None = None,
) -> RegionHeader:
    """Encode imagery into a region file.

    A checkpoint beside `output` (:func:`checkpoint_path`) is kept until the region file is written; with `resume` training
    goes on from it. Steps draw their windows from the seed and their own number, so a resumed run ends as an uninterrupted
    one would. Under torchrun the processes share every step's windows, and rank 0 writes the file.

    Args:
        imagery: what to encode.
        output: region file to write.
        words: about the region.
        settings: of the training.
        listener: called with the progress after every step. What it raises ends the run after the checkpoint was written.
        resume: go on from the checkpoint.
        device: `cpu` or `cuda`; None takes CUDA where there is one.

    Raises:
        InputError: words or settings are invalid.
        ImageryError: a date has no valid pixel, a band one value everywhere, or a file cannot be read.
        TrainingError: the loss stopped being finite.
        ArtifactError: there is no checkpoint to resume from, or it belongs to another run.
        OutputError: `output` cannot be written.
    """
    settings = settings or PretrainSettings()
    imagery = in_memory(imagery, settings.memory_gb)
    settings = settings.completed(imagery, resident=isinstance(imagery, Resident))
    processes = Processes.join(device)
    statistics = measure(imagery)
    config = field_config(imagery, settings)
    # Made before the hours of training, so that whatever is wrong with these words is not found at their end.
    header = _header(imagery, words, config, settings)
    field = _initial_field(imagery, config, settings, statistics).to(processes.device)
    size, stride, shape = drawn_from(config, imagery.shape)
    with Loader(
        imagery,
        size=size,
        stride=stride,
        shape=shape,
        batch=settings.batch or 1,
        seed=settings.seed,
        workers=settings.workers,
        rank=processes.rank,
        world=processes.world,
    ) as loader:
        trainer = Trainer(
            field,
            settings.schedule,
            ImageryWindows(loader, imagery, config, settings, processes),
            mean=torch.from_numpy(statistics.mean).float(),
            std=torch.from_numpy(statistics.std).float(),
            fingerprint=fingerprint(imagery, statistics, dataclasses.asdict(settings)),
            checkpoint=checkpoint_path(output),
            processes=processes,
            waited=lambda: loader.share,
        )
        return finish(trainer, header, imagery, output, tables=settings.tables, listener=listener, resume=resume)


def finish(
    trainer: Trainer,
    header: RegionHeader,
    imagery: Imagery,
    output: Path,
    *,
    tables: Literal["same", "int8"],
    listener: Listener | None,
    resume: bool,
) -> RegionHeader:
    """Train a field to the end and write its region file; of several processes, rank 0 does.

    Args:
        trainer: ready to begin.
        header: of the file; when and for how long it was trained, and how good it is, are added.
        imagery: to judge the field by.
        output: region file to write.
        tables: how they are stored, see :func:`lianet_user.field.weights.save_region`.
        listener: called with the progress after every step.
        resume: go on from the checkpoint.
    """
    if resume:
        trainer.restore()
    for progress in trainer.train():
        if listener:
            try:
                listener(progress)
            except BaseException:
                trainer.save()
                raise
    trainer.release()
    trainer.processes.leave()
    if trainer.processes.rank:
        return header
    now = dt.datetime.now(dt.UTC).replace(microsecond=0)
    provenance = header.provenance.model_copy(update={"created": now, "seconds": round(trainer.seconds)})
    header = header.model_copy(update={"provenance": provenance})
    # Judged as it will be used: through the file, at the file's precision.
    with replacing(output) as temporary:
        save_region(temporary, header, trainer.field, tables=tables)
        quality = measure_quality(Region.open(temporary, trainer.processes.device), imagery)
        header = header.model_copy(update={"quality": quality})
        save_region(temporary, header, trainer.field, tables=tables)
    trainer.checkpoint.unlink(missing_ok=True)
    return header


def in_memory(imagery: Imagery, memory_gb: float) -> Imagery:
    """The imagery, read into memory if it takes no more than `memory_gb`: float32 and a flag of every pixel, band and date."""
    needed = 5 * len(imagery.acquisitions) * len(imagery.bands) * imagery.window.pixels
    return Resident.of(imagery) if needed <= memory_gb * 1e9 else imagery


def fingerprint(imagery: Imagery, statistics: Statistics, settings: dict[str, Any], region: str = "") -> Fingerprint:
    """What a checkpoint must agree with: the imagery, as far as its statistics tell, and every setting that shapes a step.

    Args:
        imagery: to train on.
        statistics: of the imagery.
        settings: of the training.
        region: hash of the region file that is updated.
    """
    pixels = [statistics.mean.tolist(), statistics.std.tolist(), statistics.valid.tolist()]
    return {
        "region": region or None,
        "grid": _digest(GridHeader.of(imagery.geobox).model_dump(mode="json")),
        "bands": _digest([band.model_dump(mode="json") for band in imagery.bands]),
        "acquisitions": _digest([acquisition.model_dump(mode="json") for acquisition in imagery.acquisitions]),
        "pixels": _digest(pixels),
        **{name: str(value) for name, value in settings.items() if name not in FREE_SETTINGS},
    }


def _digest(document: object) -> str:
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()


class ImageryWindows:
    """The windows of every step, with the times that the field reads.

    Args:
        loader: of windows.
        imagery: that it loads from.
        config: of the field.
        settings: completed.
        processes: that share the windows.
    """

    def __init__(
        self, loader: Loader, imagery: Imagery, config: FieldConfig, settings: PretrainSettings, processes: Processes
    ) -> None:
        self._loader, self._settings, self._processes = loader, settings, processes
        index = config.time.kind == "index"
        times = [number if index else acquisition.days for number, acquisition in enumerate(imagery.acquisitions)]
        self._times = torch.tensor(times, dtype=torch.int64 if index else torch.float64)
        self._estimates = config.time.kind == "kriged"

    def __call__(self, step: int) -> Windows:
        batch, device = self._loader.get(step), self._processes.device
        left_out = None
        if self._estimates:
            # Drawn for all processes together, as the windows are; beside the loader's (seed, step) and (seed, step, n).
            draw = np.random.default_rng((self._settings.seed, step, 0, 1)).random(self._settings.batch)
            chosen = (draw < (self._settings.left_out or 0.0))[self._processes.rank :: self._processes.world]
            left_out = torch.from_numpy(chosen).to(device)
        return Windows(
            corners=batch.corners,
            times=self._times[batch.acquisitions].to(device),
            left_out=left_out,
            reflectance=torch.from_numpy(batch.reflectance).to(device, non_blocking=True),
            valid=torch.from_numpy(batch.valid).to(device, non_blocking=True),
        )


def _header(imagery: Imagery, words: RegionWords, config: FieldConfig, settings: PretrainSettings) -> RegionHeader:
    # What is not a plain number is part of the field's configuration.
    apart = ("covariance", "widths")
    shaping = {k: v for k, v in dataclasses.asdict(settings).items() if v is not None and k not in apart}
    try:
        return RegionHeader(
            name=words.name,
            title=words.title,
            description=words.description,
            grid=GridHeader.of(imagery.geobox),
            bands=imagery.bands,
            acquisitions=imagery.acquisitions,
            field=config,
            licence=words.licence,
            attribution=words.attribution,
            provenance=Provenance(
                created=dt.datetime.now(dt.UTC).replace(microsecond=0),
                source=imagery.source,
                settings=shaping,
                software=software_versions("torch"),
            ),
            lineage=uuid.uuid4().hex,
        )
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise InputError(f"the region's {where} cannot be {first['input']!r}: {first['msg']}") from error


def _initial_field(
    imagery: Imagery, config: FieldConfig, settings: PretrainSettings, statistics: Statistics
) -> NeuralField:
    """The field before the first step."""
    torch.manual_seed(settings.seed)
    field = NeuralField(config)
    if isinstance(field.time, TimeWaves) and hasattr(field.time, "frequencies"):
        # From a wave in four years to one in a month: what seasons and weather are made of.
        waves = torch.logspace(math.log2(0.25), math.log2(12.0), len(field.time.frequencies), base=2.0)
        with torch.no_grad():
            field.time.frequencies.copy_(2 * math.pi / YEAR_DAYS * waves)
    reconstruction = field.reconstruction
    if isinstance(reconstruction, LiteReconstruction):
        reconstruction.mean.copy_(torch.from_numpy(statistics.mean))
        reconstruction.std.copy_(torch.from_numpy(statistics.std))
    if settings.start == "pyramid":
        images = images_without_gaps(imagery, statistics, settings.covariance)
        rows, cols = (padded - size for padded, size in zip(config.encoding.shape, imagery.shape, strict=True))
        padded = np.pad(images, ((0, 0), (0, 0), (0, rows), (0, cols)), mode="edge")
        start_from_pyramid(field, torch.from_numpy(padded))
    return field

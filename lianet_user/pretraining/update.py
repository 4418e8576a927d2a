"""Updating a region with new acquisitions, without training it anew and without losing the old ones.

The imagery that a region was encoded from is rarely at hand years later, and is not needed: the region reconstructs it. While
the field learns the new dates from their imagery, a frozen copy of it gives the targets at the old dates, at the same places.
The field already knows what a place looks like, so training on the new dates starts from there, and earlier heads can be
trained on.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lianet_user.errors import ImageryError, InputError, listed
from lianet_user.field.config import FieldConfig
from lianet_user.field.decoder import CodedProjection, LiteReconstruction, LiteUNet
from lianet_user.field.encoding import TimeCodes
from lianet_user.field.model import NeuralField
from lianet_user.files.artifact import software_versions
from lianet_user.files.header import Provenance, RegionHeader
from lianet_user.imagery.imagery import Imagery
from lianet_user.imagery.statistics import measure
from lianet_user.pretraining.distributed import Processes
from lianet_user.pretraining.loader import Loader, drawn_from
from lianet_user.pretraining.pretrain import Listener, fingerprint, finish, in_memory
from lianet_user.pretraining.quality import require_match
from lianet_user.pretraining.settings import UpdateSettings, checkpoint_path
from lianet_user.pretraining.trainer import Trainer, Windows
from lianet_user.region import Region

FITTED_WINDOWS = 64
"""Windows of each new date that its code is fitted to before training."""


def update(
    region_path: Path,
    imagery: Imagery,
    output: Path,
    *,
    settings: UpdateSettings | None = None,
    listener: Listener | None = None,
    resume: bool = False,
    device: str | None = None,
) -> RegionHeader:
    """Write a region file that holds new acquisitions beside the ones it held.

    The new file has the lineage of the old one and names it among its parents. A checkpoint beside `output` is kept until
    it is written.

    Args:
        region_path: of the region file; it is not changed.
        imagery: on the region's grid, with its bands. Dates that the region holds already are not trained on, but judged
            afterwards.
        output: region file to write.
        settings: of the training.
        listener: called with the progress after every step.
        resume: go on from the checkpoint.
        device: `cpu` or `cuda`; None takes CUDA where there is one.

    Raises:
        ArtifactError: the region or the checkpoint cannot be read, or the checkpoint belongs to another run.
        ImageryError: another grid, other bands, no new date, or imagery that cannot be encoded.
        InputError: the batch cannot be halved.
        TrainingError: the loss stopped being finite.
        OutputError: `output` cannot be written.
    """
    settings = settings or UpdateSettings()
    processes = Processes.join(device)
    region = Region.open(region_path, processes.device)
    known = [index for index, each in enumerate(imagery.acquisitions) if each.date in region.header.dates]
    require_match(region, imagery, known)
    fresh = [index for index in range(len(imagery.acquisitions)) if index not in known]
    if not fresh:
        raise ImageryError(
            f"the region {region.header.name!r} holds every date of the imagery already"
            f" ({listed([str(each.date) for each in imagery.acquisitions], 6)}): give new ones"
        )
    new = in_memory(imagery.only(fresh), settings.memory_gb)
    statistics = measure(new)
    teacher = region.trained
    header = _extended(region, new, settings)
    field = _grown(teacher, region.header, header).eval()
    size, stride, shape = drawn_from(field.config, new.shape)
    if not field.config.decoder.spatial_norm:
        size = min(size, settings.window // stride * stride)
    _fit_own_components(field, header, new, size)
    field.to(processes.device)
    if settings.batch % (2 * processes.world):
        raise InputError(
            f"a batch of {settings.batch} windows cannot be halved and shared by {processes.world} processes: give a multiple"
            f" of {2 * processes.world} as `batch`"
        )
    mean, std = torch.zeros(len(new.bands)), torch.ones(len(new.bands))
    if isinstance(field.reconstruction, LiteReconstruction):
        mean, std = field.reconstruction.mean.clone(), field.reconstruction.std.clone()
    with Loader(
        new,
        size=size,
        stride=stride,
        shape=shape,
        batch=settings.batch // 2,
        seed=settings.seed,
        workers=settings.workers,
        rank=processes.rank,
        world=processes.world,
    ) as loader:
        trainer = Trainer(
            field,
            settings.schedule,
            _ReplayedWindows(loader, new, teacher, region.header, header, settings, processes),
            mean=mean,
            std=std,
            fingerprint=fingerprint(new, statistics, dataclasses.asdict(settings), region.sha256 or ""),
            checkpoint=checkpoint_path(output),
            processes=processes,
            waited=lambda: loader.share,
        )
        # The quality of the old dates was that of the old file: the header states only what can be judged now.
        return finish(trainer, header, imagery, output, tables=settings.tables, listener=listener, resume=resume)


def _extended(region: Region, new: Imagery, settings: UpdateSettings) -> RegionHeader:
    """The header with the new acquisitions in their places, in order of time."""
    old = region.header
    merged = tuple(sorted((*old.acquisitions, *new.acquisitions), key=lambda acquisition: acquisition.days))
    time = old.field.time
    if time.kind == "index":
        time = time.model_copy(update={"count": len(merged)})
    elif time.kind == "kriged":
        days = tuple(acquisition.days for acquisition in merged)
        time = time.model_copy(update={"days": days, "codes": time.codes + len(new.acquisitions)})
    config: FieldConfig = old.field.model_copy(update={"time": time})
    assert region.sha256 is not None
    return old.model_copy(
        update={
            "acquisitions": merged,
            "field": config,
            "quality": (),
            "parents": (*old.parents, region.sha256),
            "provenance": Provenance(
                created=dt.datetime.now(dt.UTC).replace(microsecond=0),
                source=f"{old.provenance.source}; {new.source}",
                settings={"updated": True} | {k: v for k, v in dataclasses.asdict(settings).items() if v is not None},
                software=software_versions("torch"),
            ),
        }
    )


@torch.no_grad()
def _grown(teacher: NeuralField, old: RegionHeader, new: RegionHeader) -> NeuralField:
    """A copy of a field with room for more acquisitions, which computes the same at the old ones.

    A new vector starts as the mean of the old ones. A new code starts as their estimate at its time, with an own component
    that none of the others has, for what the date shows and no combination of the others can.
    """
    field = NeuralField(new.field)
    state = teacher.state_dict()
    place = [new.dates.index(date) for date in old.dates]
    fresh = [index for index, date in enumerate(new.dates) if date not in old.dates]
    name = "time.weight"
    if new.field.time.kind == "index":
        grown = state[name].mean(0).repeat(len(new.dates), 1)
        grown[place] = state[name]
        state[name] = grown
    elif new.field.time.kind == "kriged":
        codes = state[name].shape[1]
        grown = torch.zeros(len(new.dates), codes + len(fresh))
        grown[place, :codes] = state[name].cpu()
        days = torch.tensor([new.acquisitions[index].days for index in fresh], dtype=torch.float64)
        grown[fresh, :codes] = teacher.time(days).cpu()
        grown[fresh, codes:] = torch.eye(len(fresh))
        state[name] = grown
        assert isinstance(field.decoder, LiteUNet)
        projection = field.decoder.projection
        assert isinstance(projection, CodedProjection)
        for part in ("weight", "bias"):
            key = f"decoder.projection.{part}"
            state[key] = torch.cat([state[key], state[key].new_zeros(len(fresh), *state[key].shape[1:])])
    field.load_state_dict(state)
    return field


@torch.no_grad()
def _fit_own_components(field: NeuralField, header: RegionHeader, new: Imagery, size: int) -> None:
    """Let the own component of each new code explain, linearly in the encoding, what the estimate from the others misses.

    Least squares over some windows of each date, in closed form, which gives most of what training would have to learn.

    Args:
        field: as :func:`_grown` makes it, in evaluation mode.
        header: of the updated region.
        new: the new acquisitions.
        size: pixels along the side of the windows.
    """
    reconstruction, projection = field.reconstruction, field.decoder.projection
    if not isinstance(reconstruction, LiteReconstruction) or not isinstance(projection, CodedProjection):
        return
    assert isinstance(field.time, TimeCodes)
    shortcut = reconstruction.shortcut.weight[:, field.config.decoder.features - projection.out_channels :, 0, 0]
    to_projection = torch.linalg.pinv(shortcut.double())
    windows = list(new.window.tiles(size))
    chosen = np.random.default_rng(0).permutation(len(windows))[:FITTED_WINDOWS]
    stride = field.config.decoder.stride
    for number, acquisition in enumerate(new.acquisitions):
        times = torch.tensor([acquisition.days], dtype=torch.float64)
        length, bands = field.config.encoding.channels + 1, len(new.bands)
        products, moments = torch.zeros(length, length).double(), torch.zeros(length, bands).double()
        for window in (windows[index] for index in chosen.tolist()):
            outer = window.expanded(0, stride, new.shape)
            patch = new.read(number, window)
            guess = reconstruction.standardized(
                field.features([(outer.row, outer.col)], outer.height, outer.width, times)
            )
            truth = (torch.from_numpy(patch.reflectance) - reconstruction.mean[:, None, None]) / reconstruction.std[
                :, None, None
            ]
            missed = (truth - guess[0, :, : window.height, : window.width]).flatten(1).double()
            encoded = field.grid([(window.row, window.col)], window.height, window.width)[0].flatten(1).double()
            inputs = torch.cat([encoded, encoded.new_ones(1, encoded.shape[1])])
            # A pixel counts where every band is valid: one system for all of them.
            valid = torch.from_numpy(patch.valid.all(0)).flatten()
            products += inputs[:, valid] @ inputs[:, valid].T
            moments += inputs[:, valid] @ missed[:, valid].T
        ridge = 1e-4 * products.diagonal().mean() * torch.eye(length)
        change = (to_projection @ torch.linalg.solve(products + ridge, moments).T).float()
        own = field.time.weight.shape[1] - len(new.acquisitions) + number
        projection.weight[own] = change[:, :-1]
        projection.bias[own] = change[:, -1]


class _ReplayedWindows:
    """Windows of new imagery, and the same places at old dates as the teacher reconstructs them."""

    def __init__(
        self,
        loader: Loader,
        imagery: Imagery,
        teacher: NeuralField,
        old: RegionHeader,
        new: RegionHeader,
        settings: UpdateSettings,
        processes: Processes,
    ) -> None:
        self._loader, self._teacher, self._settings, self._processes = loader, teacher, settings, processes
        self._new = _times(new, [acquisition.date for acquisition in imagery.acquisitions])
        self._old, self._old_in_new = _times(old, list(old.dates)), _times(new, list(old.dates))

    @torch.no_grad()
    def __call__(self, step: int) -> Windows:
        batch, processes = self._loader.get(step), self._processes
        device = processes.device
        draw = np.random.default_rng((self._settings.seed, step, 0, 2)).integers(
            len(self._old), size=self._settings.batch // 2
        )
        chosen = draw[processes.rank :: processes.world]
        size = batch.reflectance.shape[-1]
        replayed: Tensor = self._teacher(batch.corners, size, size, self._old[chosen].to(device))
        counted = torch.full_like(replayed, self._settings.replay, dtype=torch.bool)
        return Windows(
            corners=(*batch.corners, *batch.corners),
            times=torch.cat([self._new[batch.acquisitions], self._old_in_new[chosen]]).to(device),
            left_out=None,
            reflectance=torch.cat([torch.from_numpy(batch.reflectance).to(device), replayed]),
            valid=torch.cat([torch.from_numpy(batch.valid).to(device), counted]),
        )


def _times(header: RegionHeader, dates: list[dt.date]) -> Tensor:
    times = [header.time_of(date) for date in dates]
    return torch.tensor(times, dtype=torch.int64 if header.field.time.kind == "index" else torch.float64)

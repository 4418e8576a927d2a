"""Encoding a region: training a neural field to reproduce its imagery (paper, section 3.3)."""

from __future__ import annotations

import dataclasses
import datetime as dt
import hashlib
import json
import math
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import safetensors
import safetensors.torch
import torch
from pydantic import ValidationError
from skimage.metrics import structural_similarity
from torch import Tensor, nn

from lianet_user.artifact import replacing, software_versions
from lianet_user.errors import ArtifactError, ImageryError, InputError, TrainingError
from lianet_user.field.config import preset
from lianet_user.field.decoder import LiteReconstruction
from lianet_user.field.model import NeuralField
from lianet_user.field.precision import training_autocast
from lianet_user.grid import Window
from lianet_user.header import Acquisition, BandQuality, GridHeader, Provenance, Quality, RegionHeader
from lianet_user.region import Region, psnr, save_region
from lianet_user.training.imagery import Scene, block_mean
from lianet_user.training.pyramid import start_from_pyramid

SSIM_WINDOW = 7
"""Pixels along the side of the neighbourhoods that SSIM compares."""


@dataclass(frozen=True)
class PretrainSettings:
    """How a field is trained. What a shipped region was encoded with stands in the script beside it and in its header."""

    preset: str = "lite"
    steps: int = 3000
    batch: int = 8
    """Windows per step."""
    window: int = 128
    """Pixels along the side of a window."""
    table_rate: float = 3e-3
    rate: float = 1e-3
    warmup: int = 100
    frozen_norm: float = 0.5
    """Share of the steps after which BatchNorm keeps its statistics, so that training ends on what maps are made with."""
    start: str = "pyramid"
    """`pyramid` (tables start from the imagery) or `noise`."""
    table_size: int | None = None
    seed: int = 0
    checkpoint_every: int = 100
    report_every: int = 250


@dataclass(frozen=True)
class PretrainProgress:
    """Where encoding stands."""

    step: int
    steps: int
    seconds: float
    psnr_db: float | None
    """Of the last windows seen, averaged over the last steps."""


Listener = Callable[[PretrainProgress], None]


def pretrain(
    scene: Scene,
    output: Path,
    *,
    name: str,
    title: str,
    licence: str,
    attribution: str,
    description: str = "",
    settings: PretrainSettings | None = None,
    listener: Listener | None = None,
    resume: bool = False,
) -> RegionHeader:
    """Encode one acquisition into a region file.

    A checkpoint beside `output` (:func:`checkpoint_path`) is kept until the region file is written; with `resume` training
    goes on from it. Steps draw their windows from the seed and their own number, so a resumed run ends as an uninterrupted
    one would.

    Raises:
        InputError: name, title, licence or attribution cannot stand in a header.
        ImageryError: a band has one value everywhere, or too few pixels to judge its quality by.
        TrainingError: the loss stopped being finite, or the checkpoint to resume from does not belong to this run.
        ArtifactError: there is no checkpoint to resume from, or it cannot be read.
        OutputError: the place cannot be written.
    """
    settings = settings or PretrainSettings()
    _check_size(scene)
    run = _Run(scene, settings, checkpoint_path(output))
    # Before the hours of training: whatever is wrong with these words must not come out at their end.
    try:
        header = RegionHeader(
            name=name,
            title=title,
            description=description,
            grid=GridHeader.of(scene.geobox),
            bands=scene.bands,
            acquisitions=(Acquisition(date=scene.date, id=scene.source),),
            field=run.field.config,
            licence=licence,
            attribution=attribution,
            provenance=_provenance(scene, settings, 0.0),
            lineage=uuid.uuid4().hex,
        )
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise InputError(f"the region's {where} cannot be {first['input']!r}: {first['msg']}") from error
    if resume:
        run.restore()
    for progress in run.train():
        if listener:
            listener(progress)
    header = header.model_copy(update={"provenance": _provenance(scene, settings, run.seconds)})
    # Judged as it will be used: through the file, at the file's precision.
    with replacing(output) as temporary:
        save_region(temporary, header, run.field)
        quality = measure_quality(Region.open(temporary), scene)
        header = header.model_copy(update={"quality": (quality,)})
        save_region(temporary, header, run.field)
    run.checkpoint.unlink(missing_ok=True)
    return header


def _check_size(scene: Scene) -> None:
    """SSIM, by which the encoded region will be judged, compares neighbourhoods of 7 x 7 measured pixels."""
    for index, band in enumerate(scene.bands):
        side = min(scene.reflectance.shape[1:]) // scene.factor(index)
        if side < SSIM_WINDOW:
            raise ImageryError(
                f"band {band.name} is only {side} pixels of {band.gsd_m:g} m high or wide, expected at least {SSIM_WINDOW}:"
                " encode a larger area, or leave the band out with --bands"
            )


def _provenance(scene: Scene, settings: PretrainSettings, seconds: float) -> Provenance:
    return Provenance(
        created=dt.datetime.now(dt.UTC).replace(microsecond=0),
        source=scene.source,
        settings=dataclasses.asdict(settings),
        software=software_versions("torch", "segmentation-models-pytorch"),
        seconds=round(seconds),
    )


def checkpoint_path(output: Path) -> Path:
    """Where an unfinished run towards `output` keeps its state."""
    return output.with_name(f".{output.stem}.checkpoint")


def measure_quality(region: Region, scene: Scene, tile: int = 256) -> Quality:
    """Compare what a region remembers with a scene, each band at its own resolution, measured pixels only."""
    remembered = np.empty_like(scene.reflectance)
    for window in region.window.tiles(tile):
        remembered[(slice(None), *window.slices)] = region.reconstruct(window, scene.date).cpu().numpy()
    bands, errors = [], []
    for index, band in enumerate(scene.bands):
        factor = scene.factor(index)
        truth, guess = block_mean(scene.reflectance[index], factor), block_mean(remembered[index], factor)
        valid = scene.valid[index][::factor, ::factor]
        mse = float(np.mean((truth - guess)[valid].astype(np.float64) ** 2))
        _, similarity = structural_similarity(truth, guess, win_size=SSIM_WINDOW, data_range=1.0, full=True)
        errors.append(mse)
        bands.append(
            BandQuality(
                band=band.name,
                psnr_db=psnr(mse),
                rmse=math.sqrt(mse),
                rmse_over_std=math.sqrt(mse) / float(truth[valid].std()),
                ssim=float(similarity[valid].mean()),
            )
        )
    return Quality(date=scene.date, psnr_db=psnr(float(np.mean(errors))), bands=tuple(bands))


class _Run:
    """One pretraining: the field, its optimizer, and where it stands."""

    def __init__(self, scene: Scene, settings: PretrainSettings, checkpoint: Path) -> None:
        self.settings, self.checkpoint = settings, checkpoint
        bands, height, width = scene.reflectance.shape
        config = preset(
            settings.preset, height=height, width=width, dates=1, bands=bands, table_size=settings.table_size
        )
        torch.manual_seed(settings.seed)
        self.field = NeuralField(config)
        self.stride = config.decoder.stride
        self.size = min(settings.window, *config.encoding.shape) // self.stride * self.stride
        rows, cols = (padded - size for padded, size in zip(config.encoding.shape, (height, width), strict=True))
        truth = np.pad(scene.reflectance, ((0, 0), (0, rows), (0, cols)), mode="edge")
        valid = np.pad(scene.valid, ((0, 0), (0, rows), (0, cols)))
        self.truth, self.valid = torch.from_numpy(truth), torch.from_numpy(valid)
        std, mean = torch.std_mean(self.truth.flatten(1), dim=1)
        if not (std > 0).all():
            flat = scene.bands[int((std == 0).nonzero()[0])].name
            raise ImageryError(f"band {flat} has one value everywhere: there is nothing to encode, leave it out")
        self.std, self.mean = std, mean
        reconstruction = self.field.reconstruction
        if isinstance(reconstruction, LiteReconstruction):
            reconstruction.mean.copy_(mean)
            reconstruction.std.copy_(std)
            if settings.start == "pyramid":
                start_from_pyramid(self.field, (self.truth - mean[:, None, None]) / std[:, None, None])
        tables = [self.field.grid.tables, self.field.time.weight]
        rest = [p for n, p in self.field.named_parameters() if not n.startswith(("grid.", "time."))]
        self.optimizer = torch.optim.AdamW(
            [{"params": tables, "lr": settings.table_rate}, {"params": rest, "lr": settings.rate}],
            betas=(0.9, 0.99),
            eps=1e-15,
            weight_decay=0.0,
            fused=True,
        )
        self.rates = [group["lr"] for group in self.optimizer.param_groups]
        self.step, self.seconds = 0, 0.0
        self.fingerprint = _fingerprint(scene, settings)

    def train(self) -> Iterator[PretrainProgress]:
        """Train to the end, saying where it stands every `report_every` steps and at every checkpoint."""
        started = time.monotonic() - self.seconds
        errors: list[float] = []
        while self.step < self.settings.steps:
            loss, mse = self._train_step()
            if not math.isfinite(loss):
                raise TrainingError(
                    f"the loss is not finite at step {self.step} (rates {self.rates}): start again with a lower --rate or"
                    " --table-rate"
                )
            self.step += 1
            errors.append(mse)
            self.seconds = time.monotonic() - started
            last = self.step == self.settings.steps
            if last or self.step % self.settings.checkpoint_every == 0:
                self.save()
            reported = last or self.step % self.settings.report_every == 0
            level = psnr(float(np.mean(errors))) if reported else None
            if reported:
                errors.clear()
            yield PretrainProgress(self.step, self.settings.steps, self.seconds, level)

    def _train_step(self) -> tuple[float, float]:
        """One step; its loss and its mean squared error in reflectance."""
        settings = self.settings
        progress = self.step / settings.steps
        scale = min(1.0, (self.step + 1) / settings.warmup) * 0.5 * (1 + math.cos(math.pi * progress))
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * scale
        self.field.train()
        if progress >= settings.frozen_norm:
            freeze_norms(self.field)
        windows = list(self._windows())
        index = torch.zeros(len(windows), dtype=torch.int64)
        truth = torch.stack([self.truth[(slice(None), *window.slices)] for window in windows])
        valid = torch.stack([self.valid[(slice(None), *window.slices)] for window in windows])
        corners = [(window.row, window.col) for window in windows]
        with training_autocast(self.truth.device):
            features = self.field.features(corners, self.size, self.size, index)
            error = self.field.reconstruction.standardized(features) - self._in_training_units(truth)
        error = torch.where(valid, error, 0.0)
        # L1 is the paper's; lite starts so close that squares, which PSNR is made of, pay better.
        lite = self.field.config.decoder.architecture == "lite"
        loss = error.square().mean() if lite else error.abs().mean()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        in_reflectance = error.detach() * self.std[:, None, None] if lite else error.detach()
        return loss.item(), in_reflectance.square().mean().item()

    def _in_training_units(self, truth: Tensor) -> Tensor:
        """Reflectance (B, bands, h, w) as the reconstruction is trained on it: standardized for `lite`."""
        if self.field.config.decoder.architecture != "lite":
            return truth
        return (truth - self.mean[:, None, None]) / self.std[:, None, None]

    def _windows(self) -> Iterator[Window]:
        """The windows of the current step, drawn from the seed and the step's number, on multiples of the stride."""
        generator = np.random.default_rng((self.settings.seed, self.step))
        rows, cols = ((size - self.size) // self.stride + 1 for size in self.truth.shape[1:])
        for _ in range(self.settings.batch):
            row, col = int(generator.integers(rows)), int(generator.integers(cols))
            yield Window(row * self.stride, col * self.stride, self.size, self.size)

    def save(self) -> None:
        """Write the checkpoint: the field, the optimizer's moments, the step and what this run is."""
        tensors = {f"field.{name}": tensor for name, tensor in self.field.state_dict().items()}
        for number, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{number}.{name}": tensor for name, tensor in state.items()}
        metadata = {"fingerprint": self.fingerprint, "step": str(self.step), "seconds": str(self.seconds)}
        with replacing(self.checkpoint) as temporary:
            safetensors.torch.save_file({n: t.contiguous() for n, t in tensors.items()}, temporary, metadata)

    def restore(self) -> None:
        """Go on from the checkpoint.

        Raises:
            ArtifactError: there is none, or it cannot be read.
            TrainingError: it belongs to other imagery or settings.
        """
        if not self.checkpoint.exists():
            raise ArtifactError(f"there is no checkpoint {self.checkpoint} to resume from: start without --resume")
        try:
            with safetensors.safe_open(self.checkpoint, "pt") as file:
                metadata = file.metadata() or {}
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        except safetensors.SafetensorError as error:
            raise ArtifactError(
                f"{self.checkpoint} is not a whole checkpoint ({error}): start without --resume"
            ) from error
        if metadata.get("fingerprint") != self.fingerprint:
            raise TrainingError(
                f"{self.checkpoint} was made from other imagery or settings: give the same ones, or start without --resume"
            )
        split = {key.partition(".")[2]: tensor for key, tensor in tensors.items() if key.startswith("field.")}
        self.field.load_state_dict(split)
        state: dict[int, dict[str, Tensor]] = {}
        for key, tensor in tensors.items():
            if key.startswith("optimizer."):
                _, number, name = key.split(".")
                state.setdefault(int(number), {})[name] = tensor
        # The fused optimizer walks through memory: moments must lie there as their parameters do (channels last).
        for number, parameter in enumerate(p for group in self.optimizer.param_groups for p in group["params"]):
            for name, tensor in state[number].items():
                if tensor.shape == parameter.shape:
                    state[number][name] = torch.empty_like(parameter).copy_(tensor)
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": state, "param_groups": groups})
        self.step, self.seconds = int(metadata["step"]), float(metadata["seconds"])


def freeze_norms(field: NeuralField) -> None:
    """BatchNorm keeps the statistics it has gathered and normalises with them."""
    for module in field.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()


def _fingerprint(scene: Scene, settings: PretrainSettings) -> str:
    """What a checkpoint must agree with: the pixels and every setting that shapes the training."""
    digest = hashlib.sha256(scene.reflectance.tobytes())
    digest.update(scene.valid.tobytes())
    ignored = {"checkpoint_every", "report_every"}
    shaping = {key: value for key, value in dataclasses.asdict(settings).items() if key not in ignored}
    digest.update(json.dumps(shaping, sort_keys=True).encode())
    return digest.hexdigest()

"""Fine-tuning: the six layers of a head, trained on frozen features (paper, section 3.4)."""

from __future__ import annotations

import dataclasses
import datetime as dt
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from lianet_user.artifact import software_versions
from lianet_user.errors import LabelError, TrainingError
from lianet_user.field.config import HeadConfig, HeadInput
from lianet_user.field.head import PAPER_WIDTHS, HeadEnsemble
from lianet_user.field.precision import training_autocast
from lianet_user.head import Head
from lianet_user.header import IGNORE, HeadHeader, Provenance, RegionRef
from lianet_user.labels import LabelMap
from lianet_user.region import Region
from lianet_user.training.metrics import confusion_matrix, scores
from lianet_user.training.samples import Sample, make_samples, split_blocks


@dataclass(frozen=True)
class FinetuneSettings:
    """How a head is trained. The defaults were chosen on splits that the benchmarks do not use."""

    inputs: tuple[HeadInput, ...] = ("features", "bands", "context")
    widths: tuple[int, ...] = PAPER_WIDTHS
    members: int = 2
    """Heads trained from different seeds, whose probabilities are averaged."""
    steps: int = 500
    """Per member."""
    batch: int = 8
    """Crops per step."""
    crop: int = 32
    """Pixels along the side of a crop."""
    rate: float = 3e-3
    weight_decay: float = 1e-2
    class_weight: float = 0.5
    """Classes weigh their frequency to the power of minus this."""
    validation: float = 0.2
    """Share of the labelled blocks that is kept for validation."""
    seed: int = 0


@dataclass(frozen=True)
class FinetuneProgress:
    """Where fine-tuning stands: `done` of `total` blocks ("features") or steps ("training")."""

    stage: str
    done: int
    total: int
    loss: float | None = None


Listener = Callable[[FinetuneProgress], None]


def finetune(
    region: Region,
    labels: LabelMap,
    *,
    date: dt.date | None = None,
    settings: FinetuneSettings | None = None,
    validation_blocks: np.ndarray | None = None,
    listener: Listener | None = None,
) -> Head:
    """Train a head on labels.

    The field is frozen, so what the head reads is computed once for every window that holds labels; the epochs then cost
    only the head.

    Args:
        region: opened from a file: the head is tied to the file's hash.
        labels: on the region's grid.
        date: of the acquisition the labels describe; None where the region holds only one.
        settings: how to train.
        validation_blocks: bool (block rows, block columns), None to draw them from the settings' share and seed.
        listener: told where training stands.

    Raises:
        LabelError: the labels lie on another grid or cannot be split.
        DateError: the region does not hold `date`.
        TrainingError: the loss stopped being finite.
    """
    settings = settings or FinetuneSettings()
    report = listener or (lambda progress: None)
    if region.path is None or region.sha256 is None:
        raise TrainingError("a head can only be trained on a region opened from a file: save the region first")
    if labels.geobox != region.geobox:
        raise LabelError("the labels lie on another grid than the region: read them with region.geobox")
    started = time.monotonic()
    described = region.header.dates[region.header.date_index(date)]
    config = HeadConfig(
        inputs=settings.inputs,
        in_channels=region.channels(settings.inputs),
        widths=settings.widths,
        outputs=len(labels.classes),
        norm="batch" if region.field.config.decoder.architecture == "lite" else "group",
        members=settings.members,
    )
    torch.manual_seed(settings.seed)
    layers = HeadEnsemble(config).to(region.device)
    if validation_blocks is None:
        validation_blocks = split_blocks(labels, settings.validation, settings.seed)
    samples = make_samples(
        lambda window: region.head_input(window, described, settings.inputs),
        labels,
        margin=max(settings.crop // 2, layers.halo),
        listener=lambda done, total: report(FinetuneProgress("features", done, total)),
    )
    training = [sample for sample in samples if not validation_blocks[sample.block]]
    validation = [sample for sample in samples if validation_blocks[sample.block]]
    if not training:
        raise LabelError("every block with labels is kept for validation, which leaves none to train on")
    for number, member in enumerate(layers.members):
        train_member(member, training, len(labels.classes), settings, number, report)
    layers.eval()
    measured = scores(validate(layers, validation, len(labels.classes)), labels.classes) if validation else None
    header = HeadHeader(
        task="segmentation",
        classes=labels.classes,
        head=config,
        region=RegionRef(
            name=region.header.name, lineage=region.header.lineage, sha256=region.sha256, path=str(region.path)
        ),
        dates=(described,),
        scores=measured,
        provenance=Provenance(
            created=dt.datetime.now(dt.UTC).replace(microsecond=0),
            source=labels.source,
            settings={
                k: v if not isinstance(v, tuple) else " ".join(map(str, v))
                for k, v in dataclasses.asdict(settings).items()
            },
            software=software_versions("torch"),
            seconds=round(time.monotonic() - started, 1),
        ),
        attribution="; ".join(filter(None, (region.header.attribution, labels.attribution))),
    )
    return Head(header, layers, region)


def train_member(
    member: nn.Module,
    samples: Sequence[Sample],
    classes: int,
    settings: FinetuneSettings,
    number: int,
    report: Listener,
) -> None:
    """Train one network: class-balanced crops around labelled pixels, turned and mirrored, masked cross-entropy.

    Args:
        member: maps (B, C, crop, crop) to logits (B, classes, crop, crop); left in evaluation mode.
        samples: to train on.
        classes: how many there are.
        settings: of the training.
        number: of the member, which its random draws depend on.
        report: told of every step.

    Raises:
        TrainingError: the loss stopped being finite.
    """
    device = next(member.parameters()).device
    crops = _Crops(samples, classes, settings.crop, np.random.default_rng((settings.seed, number)))
    weights = torch.tensor(crops.class_weights(settings.class_weight), dtype=torch.float32, device=device)
    optimizer = torch.optim.AdamW(member.parameters(), settings.rate, weight_decay=settings.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, settings.rate, settings.steps, pct_start=0.2)
    member.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs forget it
    member.train()
    for step in range(settings.steps):
        inputs, reference = crops.draw(settings.batch)
        with training_autocast(device):
            logits = member(inputs.to(device).contiguous(memory_format=torch.channels_last))
        loss = functional.cross_entropy(logits.float(), reference.to(device), weights, ignore_index=IGNORE)
        if not math.isfinite(loss.item()):
            raise TrainingError(
                f"the loss is not finite at step {step} of member {number + 1} (rate {schedule.get_last_lr()[0]:.2g}):"
                " lower --rate"
            )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
        done = number * settings.steps + step + 1
        report(FinetuneProgress("training", done, settings.members * settings.steps, loss.item()))
    member.eval()


class _Crops:
    """Random crops of the samples, class by class in turn, so that rare classes are seen as often as common ones."""

    def __init__(self, samples: Sequence[Sample], classes: int, size: int, rng: np.random.Generator) -> None:
        self.samples, self.size, self.rng = samples, size, rng
        places = []
        for number, sample in enumerate(samples):
            rows, cols = np.nonzero(sample.labels.numpy() != IGNORE)
            values = sample.labels.numpy()[rows, cols]
            places.append(np.stack([np.full_like(rows, number), rows, cols, values], 1))
        every = np.concatenate(places)
        self.places = [every[every[:, 3] == index, :3] for index in range(classes)]
        self.present = [index for index, places in enumerate(self.places) if len(places)]

    def class_weights(self, power: float) -> np.ndarray:
        """Frequency to the minus `power`, with a mean of 1 over the labelled pixels; 0 for classes without any."""
        counts = np.array([len(places) for places in self.places], float)
        weights = np.where(counts > 0, (np.maximum(counts, 1) / counts.sum()) ** -power, 0.0)
        return np.asarray(weights * counts.sum() / (weights * counts).sum())

    def draw(self, count: int) -> tuple[Tensor, Tensor]:
        """Inputs float32 (count, C, size, size) and labels int64 (count, size, size).

        A crop that a sample is too small for is filled up with zeros, which bear no label.
        """
        channels = self.samples[0].inputs.shape[0]
        inputs = torch.zeros(count, channels, self.size, self.size)
        labels = torch.full((count, self.size, self.size), IGNORE, dtype=torch.int64)
        for index in range(count):
            places = self.places[self.present[self.rng.integers(len(self.present))]]
            number, row, col = places[self.rng.integers(len(places))]
            sample = self.samples[number]
            top, bottom = self._span(int(row), sample.labels.shape[0])
            left, right = self._span(int(col), sample.labels.shape[1])
            turns, mirror = int(self.rng.integers(4)), bool(self.rng.integers(2))
            patch = _turned(sample.inputs[:, top:bottom, left:right], turns, mirror)
            truth = _turned(sample.labels[top:bottom, left:right], turns, mirror)
            inputs[index, :, : patch.shape[1], : patch.shape[2]] = patch
            labels[index, : truth.shape[0], : truth.shape[1]] = truth
        return inputs, labels

    def _span(self, place: int, length: int) -> tuple[int, int]:
        """A random stretch of `size` pixels of an axis that holds `place`."""
        size = min(self.size, length)
        start = min(max(0, place - int(self.rng.integers(size))), length - size)
        return start, start + size


def _turned(values: Tensor, turns: int, mirror: bool) -> Tensor:
    """Quarter turns and a reflection of the last two axes."""
    turned = torch.rot90(values, turns, (-2, -1))
    return turned.flip(-1) if mirror else turned


@torch.inference_mode()
def validate(layers: nn.Module, samples: Sequence[Sample], classes: int) -> np.ndarray:
    """Confusion matrix over the samples' labels."""
    device = next(layers.parameters()).device
    confusion = np.zeros((classes, classes), np.int64)
    for sample in samples:
        predicted = layers(sample.inputs[None].float().to(device)).argmax(1)[0].cpu().numpy()
        confusion += confusion_matrix(sample.labels.numpy(), predicted, classes)
    return confusion

"""The claims that are measured in this process, each beside what it is compared with."""

from __future__ import annotations

import copy
import dataclasses
import datetime as dt
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from unittest import mock

import torch
from torch import Tensor

from benchmarks.bench.measuring import Turns, Work, in_turns, share_of_convolution
from benchmarks.bench.published import PATCH, SETTINGS, PublishedField, PublishedStep, four_gathers, map_of_patches
from benchmarks.large_map import head_on, region_of
from lianet_user.field.config import preset
from lianet_user.field.encoding import HashGrid
from lianet_user.field.head import HeadLayers
from lianet_user.field.model import answering_autocast, computed_in
from lianet_user.field.norms import fold_norms
from lianet_user.files.header import ClassEntry
from lianet_user.finetuning.losses import Goal
from lianet_user.finetuning.samples import Sample
from lianet_user.finetuning.trainer import HeadTrainer  # the very steps that finetune takes
from lianet_user.geo.grid import Window
from lianet_user.head import Head
from lianet_user.region import Region

CLASSES, SIDE = 6, 320
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    claim: str
    work: str
    ours: str
    baseline: str
    ratio: float | None
    """How many times less ours takes; of a share, the share of the ceiling."""
    spread: tuple[float, float] | None
    ceiling: str
    target: str
    reached: bool | None
    """None where there is nothing to reach."""


def compared(claim: str, work: str, turns: Turns, target: float, unit: float = 1.0, of: str = "") -> Row:
    """A row of two things that ran in turns."""
    ours, baseline = (f"{seconds / unit * 1e3:.3g} ms{of}" for seconds in turns.medians)
    at_least = f"{target:g} times less"
    return Row(claim, work, ours, baseline, turns.ratio, turns.spread, "", at_least, turns.ratio >= target)


def encoding(turns: int) -> list[Row]:
    """The hash grid of Base over a patch, forward and with gradients, against four gathers per pixel and level."""
    grid = HashGrid(preset("base", height=5000, width=5000, bands=12).encoding)
    torch.manual_seed(0)
    with torch.no_grad():
        grid.tables.uniform_(-1, 1)
    corner = (2113, 3401)
    upstream = torch.randn(1, grid.config.channels, PATCH, PATCH) / PATCH  # sums of a few thousand pixels near one

    def ours() -> Tensor:
        return grid([corner], PATCH, PATCH)

    def gathers() -> Tensor:
        return four_gathers(grid, grid.tables, corner, PATCH, PATCH)

    def gradients(encode: object) -> Tensor:
        grid.tables.grad = None
        encode().backward(upstream)  # type: ignore[operator]
        assert grid.tables.grad is not None
        return grid.tables.grad

    torch.testing.assert_close(ours(), gathers(), atol=1e-5, rtol=0)
    torch.testing.assert_close(gradients(ours), gradients(gathers), atol=1e-5, rtol=0)
    with torch.inference_mode():
        forward = in_turns(ours, gathers, turns, (8, 2))
    both = in_turns(lambda: gradients(ours), lambda: gradients(gathers), turns, (4, 1))
    work = "44 features of a 128-px patch, equal within 1e-5"
    return [
        compared("hash-grid encoding, forward", work, forward, 5),
        compared("hash-grid encoding, forward and backward", work, both, 4),
    ]


def step(folder: Path, turns: int, batch: int = 4) -> list[Row]:
    """A step of fine-tuning on Base: the paper's head and batch of patches, the trunk cached or computed anew."""
    region = region_of(folder / "base.safetensors", SIDE, "base")
    head = head_on(region, ("features",), "group", 1)
    spots = [(0, 0), (0, 128), (128, 0), (128, 128), (64, 64), (192, 192), (64, 192), (192, 64)][:batch]
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(CLASSES, (batch, PATCH, PATCH), generator=generator, dtype=torch.uint8)
    samples = []
    for spot, found in zip(spots, labels, strict=True):
        window = Window(*spot, PATCH, PATCH)
        inputs = region.patch_features(window).relu().to(torch.float16)
        samples.append(Sample(dt.date(2021, 5, 1), window, window, found, inputs))
    settings = dataclasses.replace(SETTINGS, batch=batch, epochs=None, steps=1_000_000, patience=None)
    classes = tuple(ClassEntry(name=f"class {number}", color="#808080") for number in range(CLASSES))
    training = HeadTrainer([_member(head)], samples, [], Goal(classes, None), settings, ())
    published = PublishedField(copy.deepcopy(region.field))
    steps = PublishedStep(published, _member(head), spots, labels.long())

    def advance() -> None:
        training.step = 0  # the rate of the first step, always
        training.advance()

    exact = torch.autocast("cpu", enabled=False)
    with mock.patch("lianet_user.finetuning.trainer.training_autocast", return_value=exact):
        ours = training._gradients(_batch(training))
    torch.testing.assert_close(ours, steps.loss().item(), atol=1e-3, rtol=0)
    found = in_turns(advance, steps, turns, (2, 1))
    work = f"the paper's six layers on {batch} patches of Base, the same loss within 1e-3"
    row = compared("fine-tuning step, Base", work, found, 8, batch, " a patch")
    steps.field = PublishedField(copy.deepcopy(region.field), train=True)
    trained = in_turns(advance, steps, 1, (2, 1))
    again = compared("the same, trunk in training mode (as published)", work, trained, 8, batch, " a patch")
    return [row, dataclasses.replace(again, target="", reached=None)]


def _member(head: Head) -> HeadLayers:
    """A copy of the first of an ensemble's members."""
    member = copy.deepcopy(head.layers.members[0])
    assert isinstance(member, HeadLayers)
    return member.requires_grad_()


def _batch(training: HeadTrainer) -> tuple[Tensor, Tensor]:
    inputs, labels = training.crops.draw((training.settings.seed, 0), 0)
    return inputs, training.goal.target(labels)


def base_map(folder: Path, turns: int) -> list[Row]:
    """A map from Base, per km2: patches side by side as published, the same with our mechanics, and without seams."""
    region = region_of(folder / "base.safetensors", SIDE, "base")
    head = head_on(region, ("features",), "group", 1)
    published = PublishedField(copy.deepcopy(region.field))
    plain = _member(head).to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    area = (PATCH, 2 * PATCH)
    exact = region.patch_features(Window(0, 0, PATCH, PATCH)).relu()
    torch.testing.assert_close(published.patch((0, 0), 0)[0], exact, atol=1e-4, rtol=1e-4)

    @torch.inference_mode()
    def side_by_side() -> Tensor:
        found = torch.zeros(area, dtype=torch.int64)
        with answering_autocast(CPU, "auto"):
            for patch in Window(0, 0, *area).tiles(PATCH):
                features = region.patch_features(patch).relu()
                found[patch.slices] = head.layers(features[None]).float()[0].argmax(0)
        return found

    def seamless() -> None:
        region._patches = type(region._patches)()  # nothing is known from the turn before
        head.values(region.window)

    work = "128-px patches and the paper's head, from Base"
    turned = in_turns(side_by_side, lambda: map_of_patches(published, plain, area), turns)
    patch_km2 = (PATCH / 100) ** 2
    first = compared("map from Base, side by side", work, turned, 1.8, 2 * patch_km2, " a km2")
    blended = in_turns(seamless, lambda: map_of_patches(published, plain, area), turns)
    assert region.lattice is not None
    patches = len(region.lattice.patches(region.window))
    # In a large region every 96 px have a patch of their own: the edge of a small one costs more.
    km2 = patches * (0.96) ** 2
    scaled = Turns(
        tuple(seconds / km2 for seconds in blended.first),
        tuple(seconds / (2 * patch_km2) for seconds in blended.second),
    )
    work = "patches that overlap and are blended, every 96 px, against patches side by side"
    return [first, compared("map from Base, without seams", work, scaled, 1.1, 1, " a km2")]


def shares(folder: Path, shipped: Path, turns: int) -> list[Row]:
    """What of a convolution's speed the networks reach, at the precision that maps are computed in."""
    base = region_of(folder / "base.safetensors", SIDE, "base").field
    lite = Region.open(shipped)
    kind = computed_in(CPU, "auto")
    precision = torch.bfloat16 if kind == "bfloat16" else torch.float32
    head = copy.deepcopy(head_on(lite).layers).eval()
    fold_norms(head)
    times = torch.zeros(1, dtype=torch.int64)
    rows = []
    with torch.inference_mode(), answering_autocast(CPU, "auto"):
        for name, field, side, target in (("Base", base, PATCH, 0.75), ("lite", lite.field, 384, 0.50)):
            trunk = partial(field.decoder, field.encode([(0, 0)], side, side, times))
            rows.append(_share(f"trunk of {name}", f"a window of {side} px, {kind}", trunk, precision, turns, target))
        inputs = lite.head_input(Window(100, 100, 256, 256), None, head.config.inputs)[None]
        work = f"two members, a window of 256 px, {kind}"
        rows.append(_share("head of lite", work, partial(head, inputs), precision, turns, 0.85))
    return rows


def _share(name: str, work: str, run: Work, precision: torch.dtype, turns: int, target: float) -> Row:
    found = share_of_convolution(run, precision, turns)
    return Row(
        claim=f"share of the convolution ceiling, {name}",
        work=f"{work}, {found.gflop:.1f} GFLOP",
        ours=f"{found.gflop / found.seconds:.0f} GFLOP/s",
        baseline="",
        ratio=found.share,
        spread=None,
        ceiling=f"{found.ceiling:.0f} GFLOP/s",
        target=f"{target:.0%}",
        reached=found.share >= target,
    )


def agreement(head_path: Path, shipped: Path) -> list[Row]:
    """How many pixels of a map come out otherwise in bfloat16 than in float32."""
    window = Window(130, 400, 448, 448)
    exact, fast = (Head.open(head_path, shipped, precision=kind).answers(window) for kind in ("float32", "auto"))
    same = (exact.argmax(0) == fast.argmax(0)).double().mean().item()
    most = (exact.exp() - fast.exp()).abs().max().item()
    return [
        Row(
            claim="classes as in float32",
            work=f"{window.pixels} px of the Havelland, {computed_in(CPU, 'auto')}",
            ours=f"{same:.3%} of the pixels",
            baseline="",
            ratio=None,
            spread=None,
            ceiling=f"probabilities differ by {most:.3f} at most",
            target="",
            reached=None,
        )
    ]

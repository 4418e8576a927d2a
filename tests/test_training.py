"""Training heads: nothing leaks from training into validation, figures are right, and separable classes are told apart."""

from __future__ import annotations

import dataclasses
import datetime as dt
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from affine import Affine
from conftest import RegionFactory, RegionHeaderFactory
from odc.geo.geobox import GeoBox
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score, jaccard_score, recall_score
from torch import Tensor

from lianet_user.errors import DateError, LabelError, TrainingError, TrainingWarning
from lianet_user.field.config import preset
from lianet_user.field.model import NeuralField
from lianet_user.grid import Window
from lianet_user.head import Head
from lianet_user.header import IGNORE, ClassEntry
from lianet_user.labels import ClassCount, FeatureCounts, LabelMap, LabelReport
from lianet_user.region import Region, save_region
from lianet_user.training import FinetuneProgress, FinetuneSettings, finetune, metrics
from lianet_user.training.pyramid import start_from_pyramid
from lianet_user.training.samples import BLOCK, make_samples, split_blocks

WARM = Affine(10.0, 0.0, 330_000.0, 0.0, -10.0, 5_820_000.0)


def grid(height: int, width: int) -> GeoBox:
    return GeoBox((height, width), WARM, "EPSG:32633")


def entries(count: int) -> tuple[ClassEntry, ...]:
    return tuple(ClassEntry(name=f"class {n}", color=f"#0000{n:02x}") for n in range(count))


def label_map(values: np.ndarray, classes: int, geobox: GeoBox | None = None) -> LabelMap:
    report = LabelReport(
        source="synthetic",
        column_choice="given",
        features=FeatureCounts(
            read=classes, used=classes, outside=0, no_geometry=0, not_polygons=0, no_label=0, duplicates=0,
            partly_outside=0, repaired=0,
        ),
        vanished=0,
        region_pixels=values.size,
        contradicting=0,
        classes=tuple(ClassCount(entry.name, 1, int((values == n).sum())) for n, entry in enumerate(entries(classes))),
    )  # fmt: skip
    values = values.astype(np.uint8)
    return LabelMap(geobox or grid(*values.shape), values, entries(classes), report, "labels: me", "synthetic")


def patches(height: int, width: int, classes: int, seed: int, count: int = 60) -> LabelMap:
    """Small labelled rectangles here and there, most of the map without a label."""
    rng = np.random.default_rng(seed)
    values = np.full((height, width), IGNORE)
    for number in range(count):
        row, col = rng.integers(height), rng.integers(width)
        values[row : row + rng.integers(1, 25), col : col + rng.integers(1, 25)] = number % classes
    return label_map(values, classes)


def blocks_of(labels: LabelMap, index: int) -> set[tuple[int, int]]:
    rows, cols = np.nonzero(labels.values == index)
    return set(zip((rows // BLOCK).tolist(), (cols // BLOCK).tolist(), strict=True))


# --- the split


@pytest.mark.parametrize("seed", range(8))
def test_a_split_leaves_every_class_pixels_to_train_on_and_to_validate(seed: int) -> None:
    labels = patches(4 * BLOCK + 17, 6 * BLOCK - 30, 5, seed)
    chosen = split_blocks(labels, 0.25, seed)
    assert chosen.shape == (5, 6)
    validated = chosen.repeat(BLOCK, 0).repeat(BLOCK, 1)[: labels.values.shape[0], : labels.values.shape[1]]
    labelled = sum(len(blocks_of(labels, index)) for index in range(5))
    assert labelled > 10
    shares = []
    for index in range(5):
        pixels = labels.values == index
        assert (pixels & ~validated).any()
        assert (pixels & validated).any()
        shares.append((pixels & validated).sum() / pixels.sum())
    assert np.mean(shares) == pytest.approx(0.25, abs=0.1)


def test_only_blocks_with_labels_are_validated_on() -> None:
    labels = patches(6 * BLOCK, 6 * BLOCK, 2, 0, count=12)
    chosen = split_blocks(labels, 0.3, 0)
    assert {(int(r), int(c)) for r, c in np.argwhere(chosen)} <= blocks_of(labels, 0) | blocks_of(labels, 1)


def test_a_split_is_drawn_from_its_seed() -> None:
    labels = patches(6 * BLOCK, 6 * BLOCK, 3, 0)
    assert np.array_equal(split_blocks(labels, 0.2, 1), split_blocks(labels, 0.2, 1))
    assert any(not np.array_equal(split_blocks(labels, 0.2, 1), split_blocks(labels, 0.2, s)) for s in range(2, 6))


def one_block_each(rows: int, cols: int, common: bool) -> LabelMap:
    """A class of its own in every block but the last row's, and with `common` one class in all blocks."""
    values = np.full((rows * BLOCK, cols * BLOCK), IGNORE)
    classes = 0
    for row in range(rows):
        for col in range(cols):
            corner = slice(row * BLOCK, row * BLOCK + 40), slice(col * BLOCK, col * BLOCK + 40)
            if common:
                values[corner] = 0
            if not common or row < rows - 1:
                classes += 1
                values[corner[0], col * BLOCK : col * BLOCK + 10] = classes - (0 if common else 1)
    return label_map(values, classes + common)


@pytest.mark.parametrize("seed", range(4))
def test_a_class_in_one_block_is_warned_of_and_trained_on(seed: int) -> None:
    # 20 of 25 blocks hold the only labels of a class: nearly every random draw takes one of them.
    labels = one_block_each(5, 5, common=True)
    with pytest.warns(TrainingWarning, match=r"class 1, .*class 20 lie in a single block of 128 px: trained on"):
        chosen = split_blocks(labels, 0.2, seed)
    for index in range(1, 21):
        (block,) = blocks_of(labels, index)
        assert not chosen[block]
    assert chosen.any()


def test_labels_of_which_no_block_can_be_spared_are_refused() -> None:
    labels = one_block_each(1, 3, common=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TrainingWarning)
        with pytest.raises(LabelError):
            split_blocks(labels, 0.3, 0)


def test_labels_within_one_block_are_refused() -> None:
    values = np.full((3 * BLOCK, 3 * BLOCK), IGNORE)
    values[BLOCK : 2 * BLOCK, BLOCK : 2 * BLOCK] = np.arange(BLOCK) % 2
    with pytest.raises(LabelError, match="within one block of 128 x 128 pixels"):
        split_blocks(label_map(values, 2), 0.2, 0)


# --- samples


def coordinates(window: Window) -> Tensor:
    """Row and column of every pixel: numbers that float16 holds exactly."""
    rows, cols = np.mgrid[window.slices]
    return torch.from_numpy(np.stack([rows, cols]).astype(np.float32))


@pytest.mark.parametrize("margin", [0, 7, 40])
def test_every_labelled_pixel_is_in_exactly_one_sample_and_that_is_its_blocks(margin: int) -> None:
    labels = patches(5 * BLOCK + 17, 6 * BLOCK - 30, 4, 0)
    seen = np.full(labels.values.shape, IGNORE, np.uint8)
    told: list[tuple[int, int]] = []
    samples = make_samples(coordinates, labels, margin=margin, listener=lambda *done: told.append(done))
    for sample in samples:
        own = sample.labels.numpy()
        rows, cols = np.nonzero(own != IGNORE)
        rows, cols = rows + sample.window.row, cols + sample.window.col
        assert {*zip((rows // BLOCK).tolist(), (cols // BLOCK).tolist(), strict=True)} == {sample.block}
        assert (seen[rows, cols] == IGNORE).all()
        seen[rows, cols] = own[own != IGNORE]
    assert np.array_equal(seen, labels.values)
    assert told == [(n + 1, len(samples)) for n in range(len(samples))]
    assert len({sample.block for sample in samples}) == len(samples)


def test_a_sample_holds_the_inputs_of_its_own_window_and_a_margin_around_its_labels() -> None:
    labels = patches(5 * BLOCK + 17, 6 * BLOCK - 30, 4, 0)
    height, width = labels.values.shape
    for sample in make_samples(coordinates, labels, margin=9):
        window = sample.window
        assert sample.inputs.dtype == torch.float16
        assert torch.equal(sample.inputs.float(), coordinates(window))
        assert sample.labels.shape == sample.inputs.shape[1:]
        rows, cols = np.nonzero(sample.labels.numpy() != IGNORE)
        assert rows.min() + window.row == max(window.row + 9, 0) or window.row == 0
        assert (int(rows.max()) + 1 + window.row + 9 == window.row_end) or window.row_end == height
        assert cols.min() + window.col == max(window.col + 9, 0) or window.col == 0
        assert (int(cols.max()) + 1 + window.col + 9 == window.col_end) or window.col_end == width


def test_samples_of_a_region_are_what_a_head_reads_there(make_region: RegionFactory) -> None:
    geobox = grid(150, 270)
    field = preset("lite", height=150, width=270, dates=1, bands=2, table_size=2**12)
    region = make_region(geobox=geobox, band_count=2, field=field)
    labels = patches(150, 270, 2, 0, count=8)

    def source(window: Window) -> Tensor:
        return region.head_input(window, None, ("features", "context"))

    samples = make_samples(source, labels, margin=6)
    assert len(samples) > 1
    for sample in samples:
        torch.testing.assert_close(sample.inputs.float(), source(sample.window), atol=1e-3, rtol=1e-3)


# --- figures


@pytest.mark.parametrize("seed", range(4))
def test_figures_are_those_of_scikit_learn(seed: int) -> None:
    rng = np.random.default_rng(seed)
    reference = rng.choice([0, 1, 2, IGNORE], (40, 50), p=[0.5, 0.3, 0.1, 0.1]).astype(np.uint8)
    predicted = np.where(rng.random((40, 50)) < 0.6, reference, rng.integers(0, 4, (40, 50))).astype(np.uint8)
    predicted[reference == IGNORE] = rng.integers(0, 4, (reference == IGNORE).sum())
    # Class 3 has no reference but is predicted; class 4 is neither.
    confusion = metrics.confusion_matrix(reference, predicted, 5)
    truth, guess = reference[reference != IGNORE], predicted[reference != IGNORE]
    assert np.array_equal(confusion, confusion_matrix(truth, guess, labels=range(5)))
    found = metrics.scores(confusion, entries(5))
    present = [0, 1, 2]
    assert found.pixels == len(truth)
    assert found.accuracy == pytest.approx(accuracy_score(truth, guess))
    assert found.macro_iou == pytest.approx(jaccard_score(truth, guess, labels=present, average="macro"))
    assert found.macro_f1 == pytest.approx(f1_score(truth, guess, labels=present, average="macro"))
    for name, score in (("iou", jaccard_score), ("f1", f1_score), ("accuracy", recall_score)):
        expected = score(truth, guess, labels=present, average=None)
        assert [getattr(entry, name) for entry in found.classes[:3]] == pytest.approx(expected)
    assert [entry.pixels for entry in found.classes] == [*np.bincount(truth, minlength=3), 0, 0]
    assert (found.classes[3].iou, found.classes[3].accuracy, found.classes[3].f1) == (0.0, None, 0.0)
    assert (found.classes[4].iou, found.classes[4].accuracy, found.classes[4].f1) == (None, None, None)


def test_figures_of_nothing_are_none_and_not_zero() -> None:
    found = metrics.scores(np.zeros((3, 3), np.int64), entries(3))
    assert (found.pixels, found.accuracy, found.macro_iou, found.macro_f1) == (0, None, None, None)


# --- fine-tuning

HEIGHT, WIDTH = 2 * BLOCK, 2 * BLOCK + 44
QUICK = FinetuneSettings(
    inputs=("bands", "context"), widths=(16, 8), members=1, steps=40, batch=4, crop=24, rate=1e-2, validation=0.3
)


def stripes() -> np.ndarray:
    """Three classes in diagonal stripes, each of them in every block."""
    rows, cols = np.mgrid[:HEIGHT, :WIDTH]
    return ((rows + cols) // 25) % 3


@pytest.fixture
def separable(region_header: RegionHeaderFactory, tmp_path: Path) -> Region:
    """A region that remembers a colour for each of the stripes, set without any training."""
    geobox = grid(HEIGHT, WIDTH)
    field = preset("lite", height=HEIGHT, width=WIDTH, dates=1, bands=4)
    colours = np.random.default_rng(0).normal(size=(4, 3))
    image = torch.from_numpy(colours[:, stripes()]).float()
    rows, cols = (padded - size for padded, size in zip(field.encoding.shape, (HEIGHT, WIDTH), strict=True))
    image = torch.nn.functional.pad(image[None], (0, cols, 0, rows), mode="replicate")[0]
    image += torch.randn(image.shape, generator=torch.Generator().manual_seed(0)) * 0.1
    torch.manual_seed(0)
    made = NeuralField(field)
    start_from_pyramid(made, image)
    save_region(tmp_path / "region.safetensors", region_header(geobox=geobox, band_count=4, field=field), made)
    region = Region.open(tmp_path / "region.safetensors")
    bands = region.head_input(region.window, None, ("bands",))
    assert (bands - image[:, :HEIGHT, :WIDTH]).square().mean().sqrt() < 0.1
    return region


@pytest.fixture
def labels() -> LabelMap:
    """A tenth of the stripes' pixels, in small patches."""
    sparse = patches(HEIGHT, WIDTH, 1, 0, count=60).values != IGNORE
    return label_map(np.where(sparse, stripes(), IGNORE), 3)


def test_separable_classes_are_told_apart_after_a_few_steps_everywhere(separable: Region, labels: LabelMap) -> None:
    told: list[FinetuneProgress] = []
    head = finetune(separable, labels, settings=QUICK, listener=told.append)
    assert (head.classify(separable.window) == stripes()).mean() > 0.95
    scores = head.header.scores
    assert scores is not None
    assert scores.accuracy is not None
    assert scores.accuracy > 0.95
    assert [progress.stage for progress in told][-QUICK.steps :] == ["training"] * QUICK.steps
    assert (told[-1].done, told[-1].total) == (QUICK.steps, QUICK.steps)


def test_a_heads_figures_are_its_classes_on_the_validation_blocks(separable: Region, labels: LabelMap) -> None:
    chosen = np.zeros((2, 3), bool)
    chosen[1, 1] = chosen[0, 2] = True
    settings = dataclasses.replace(QUICK, steps=3)  # too few to be right everywhere
    head = finetune(separable, labels, settings=settings, validation_blocks=chosen)
    inside = chosen.repeat(BLOCK, 0).repeat(BLOCK, 1)[:HEIGHT, :WIDTH] & (labels.values != IGNORE)
    expected = confusion_matrix(labels.values[inside], head.classify(separable.window)[inside], labels=range(3))
    scores = head.header.scores
    assert scores is not None
    assert scores.pixels == inside.sum()
    assert 0 < np.trace(expected) < inside.sum()
    # Inputs are kept as float16, and a sample's margin ends where a map's does not: a few pixels may fall otherwise.
    assert np.abs(np.array(scores.confusion) - expected).sum() <= 0.01 * inside.sum()


def test_a_head_says_what_it_was_trained_on(separable: Region, labels: LabelMap) -> None:
    head = finetune(separable, labels, settings=dataclasses.replace(QUICK, steps=2, members=2))
    header = head.header
    assert header.classes == labels.classes
    assert header.dates == (dt.date(2017, 2, 16),)
    assert (header.region.sha256, header.region.path) == (separable.sha256, str(separable.path))
    assert header.head.norm == "batch"
    assert (header.head.members, header.head.in_channels) == (2, separable.channels(QUICK.inputs))
    assert header.provenance.settings["steps"] == 2
    assert header.provenance.settings["inputs"] == "bands context"
    assert header.attribution == f"{separable.header.attribution}; {labels.attribution}"


def weights(head: Head) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in head.layers.state_dict().items() if tensor.is_floating_point()}


def test_one_seed_gives_one_head_and_another_gives_another(separable: Region, labels: LabelMap) -> None:
    settings = dataclasses.replace(QUICK, steps=4)
    first, again = (weights(finetune(separable, labels, settings=settings)) for _ in range(2))
    other = weights(finetune(separable, labels, settings=dataclasses.replace(settings, seed=1)))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not any(torch.equal(first[name], other[name]) for name in first if name.endswith("0.weight"))


def test_members_of_an_ensemble_differ(separable: Region, labels: LabelMap) -> None:
    head = finetune(separable, labels, settings=dataclasses.replace(QUICK, steps=2, members=2))
    one, two = (member.state_dict() for member in head.layers.members)
    assert not any(torch.equal(one[name], two[name]) for name in one if name.endswith("0.weight"))


def test_a_head_trained_and_saved_is_opened_with_its_figures(
    separable: Region, labels: LabelMap, tmp_path: Path
) -> None:
    head = finetune(separable, labels, settings=dataclasses.replace(QUICK, steps=2))
    head.save(tmp_path / "head.safetensors")
    opened = Head.open(tmp_path / "head.safetensors")
    assert opened.header == head.header
    assert np.array_equal(opened.classify(separable.window), head.classify(separable.window))


def test_a_loss_that_is_not_finite_stops_the_training_and_says_what_to_do(separable: Region, labels: LabelMap) -> None:
    with pytest.raises(TrainingError, match=r"not finite at step \d+ of member 1 .*lower --rate"):
        finetune(separable, labels, settings=dataclasses.replace(QUICK, rate=1e30))


def test_labels_on_another_grid_are_refused(separable: Region, labels: LabelMap) -> None:
    shifted = GeoBox((HEIGHT, WIDTH), WARM @ Affine.translation(1, 0), "EPSG:32633")
    with pytest.raises(LabelError, match="another grid"):
        finetune(separable, dataclasses.replace(labels, geobox=shifted), settings=QUICK)


def test_a_date_the_region_does_not_hold_is_refused(separable: Region, labels: LabelMap) -> None:
    with pytest.raises(DateError, match="2020-01-01"):
        finetune(separable, labels, date=dt.date(2020, 1, 1), settings=QUICK)


def test_a_region_that_was_never_saved_is_refused(separable: Region, labels: LabelMap) -> None:
    unsaved = Region(separable.header, separable.field)
    with pytest.raises(TrainingError, match="save the region first"):
        finetune(unsaved, labels, settings=QUICK)


def test_validation_blocks_that_leave_nothing_to_train_on_are_refused(separable: Region, labels: LabelMap) -> None:
    with pytest.raises(LabelError):
        finetune(separable, labels, settings=QUICK, validation_blocks=np.ones((2, 3), bool))

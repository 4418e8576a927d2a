"""Training heads: nothing leaks from training into validation, figures are right, and separable classes are told apart."""

from __future__ import annotations

import dataclasses
import datetime as dt
from pathlib import Path

import numpy as np
import pytest
import torch
from affine import Affine
from factories import RegionFactory, RegionHeaderFactory, labels_on
from heads import entries
from odc.geo.geobox import GeoBox
from sklearn.metrics import confusion_matrix
from torch import Tensor

from lianet_user.errors import LabelError, TrainingError
from lianet_user.field.config import preset
from lianet_user.field.head import HeadLayers, head_halo
from lianet_user.field.model import NeuralField
from lianet_user.field.weights import save_region
from lianet_user.files.header import IGNORE, Scores
from lianet_user.finetuning import FinetuneProgress, FinetuneSettings, finetune
from lianet_user.finetuning.samples import make_samples
from lianet_user.geo.grid import Window
from lianet_user.head import Head
from lianet_user.labels import BLOCK, LabelMap, Labels, Split
from lianet_user.pretraining.pyramid import start_from_pyramid
from lianet_user.region import Region

FIRST, SECOND = dt.date(2017, 2, 16), dt.date(2017, 3, 16)
WARM = Affine(10.0, 0.0, 330_000.0, 0.0, -10.0, 5_820_000.0)


def grid(height: int, width: int) -> GeoBox:
    return GeoBox((height, width), WARM, "EPSG:32633")


def label_map(values: np.ndarray, classes: int, geobox: GeoBox | None = None) -> Labels:
    return labels_on(geobox or grid(*values.shape), values, entries(classes))


def patches(height: int, width: int, classes: int, seed: int, count: int = 60) -> Labels:
    """Small labelled rectangles here and there, most of the map without a label."""
    rng = np.random.default_rng(seed)
    values = np.full((height, width), IGNORE)
    for number in range(count):
        row, col = rng.integers(height), rng.integers(width)
        values[row : row + rng.integers(1, 25), col : col + rng.integers(1, 25)] = number % classes
    return label_map(values, classes)


# --- samples


def coordinates(window: Window, _: dt.date = FIRST) -> Tensor:
    """Row and column of every pixel: numbers that float16 holds exactly."""
    rows, cols = np.mgrid[window.slices]
    return torch.from_numpy(np.stack([rows, cols]).astype(np.float32))


@pytest.mark.parametrize("margin", [0, 7, 40])
def test_every_labelled_pixel_is_in_exactly_one_sample(margin: int) -> None:
    labels = patches(5 * BLOCK + 17, 6 * BLOCK - 30, 4, 0)
    seen = np.full(labels.maps[0].values.shape, IGNORE, np.uint8)
    told: list[tuple[int, int]] = []
    samples = make_samples(coordinates, labels, margin=margin, listener=lambda *done: told.append(done))
    for sample in samples:
        own = sample.judged().labels.numpy()
        rows, cols = np.nonzero(own != IGNORE)
        rows, cols = rows + sample.window.row, cols + sample.window.col
        assert len({*zip((rows // BLOCK).tolist(), (cols // BLOCK).tolist(), strict=True)}) == 1
        assert np.array_equal(sample.labels.numpy(), labels.maps[0].values[sample.window.slices])
        assert (seen[rows, cols] == IGNORE).all()
        seen[rows, cols] = own[own != IGNORE]
    assert np.array_equal(seen, labels.maps[0].values)
    assert told == [(n + 1, len(samples)) for n in range(len(samples))]
    assert len({sample.own for sample in samples}) == len(samples)


def test_a_sample_holds_its_own_windows_inputs_and_a_margin() -> None:
    labels = patches(5 * BLOCK + 17, 6 * BLOCK - 30, 4, 0)
    height, width = labels.maps[0].values.shape
    for sample in make_samples(coordinates, labels, margin=9):
        window = sample.window
        assert sample.inputs.dtype == torch.float16
        assert torch.equal(sample.inputs.float(), coordinates(window))
        assert sample.labels.shape == sample.inputs.shape[1:]
        rows, cols = np.nonzero(sample.judged().labels.numpy() != IGNORE)
        assert rows.min() + window.row == max(window.row + 9, 0) or window.row == 0
        assert (int(rows.max()) + 1 + window.row + 9 == window.row_end) or window.row_end == height
        assert cols.min() + window.col == max(window.col + 9, 0) or window.col == 0
        assert (int(cols.max()) + 1 + window.col + 9 == window.col_end) or window.col_end == width


@pytest.mark.parametrize(("halo", "windows"), [(None, 1), (20, 2), (400, 1)])
def test_points_far_apart_are_computed_one_by_one_where_that_is_less(halo: int | None, windows: int) -> None:
    values = np.full((3 * BLOCK, 3 * BLOCK), IGNORE)
    values[5, 5], values[2 * BLOCK + 90, 2 * BLOCK + 90] = 0, 1
    asked: list[Window] = []

    def source(window: Window, date: dt.date) -> Tensor:
        asked.append(window)
        return coordinates(window, date)

    samples = make_samples(source, label_map(values, 2), margin=6, halo=halo)
    assert len(asked) == windows
    assert len(samples) == 2
    for sample in samples:
        assert torch.equal(sample.inputs.float(), coordinates(sample.window))


@pytest.mark.parametrize("scale", [1, 4])
def test_a_trimmed_sample_has_the_same_labels_and_the_same_answers_there(scale: int) -> None:
    labels = patches(2 * BLOCK * scale, 3 * BLOCK * scale, 4, 0, count=20)
    torch.manual_seed(0)
    head = HeadLayers(2, (8, 8, 8, 8, 8), 4, "batch", scale).eval()
    halo = head_halo(5, scale)
    saved = 0
    for sample in make_samples(coordinates, labels if scale == 1 else dataclasses.replace(labels, scale=4), margin=16):
        trimmed = sample.trimmed(halo)
        whole, part = sample.judged(), trimmed.judged()
        answers = [head(each.inputs[None].float() / BLOCK)[0] for each in (sample, trimmed)]
        assert torch.equal(trimmed.inputs.float(), coordinates(trimmed.window))
        assert torch.equal(whole.labels[whole.labelled], part.labels[part.labelled])
        assert torch.allclose(answers[0][:, whole.labelled], answers[1][:, part.labelled], atol=1e-4)
        saved += sample.window.pixels - trimmed.window.pixels
    assert saved > 0


def test_samples_of_a_region_are_what_a_head_reads_there(make_region: RegionFactory) -> None:
    geobox = grid(150, 270)
    field = preset("lite", height=150, width=270, dates=1, bands=2, table_size=2**12)
    region = make_region(geobox=geobox, band_count=2, field=field)
    labels = patches(150, 270, 2, 0, count=8)

    def source(window: Window, date: dt.date) -> Tensor:
        return region.head_input(window, date, ("features", "context"))

    samples = make_samples(source, labels, margin=6)
    assert len(samples) > 1
    for sample in samples:
        torch.testing.assert_close(sample.inputs.float(), source(sample.window, sample.date), atol=1e-3, rtol=1e-3)


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
    start_from_pyramid(made, image[None])
    save_region(tmp_path / "region.safetensors", region_header(geobox=geobox, band_count=4, field=field), made)
    region = Region.open(tmp_path / "region.safetensors")
    bands = region.head_input(region.window, None, ("bands",))
    assert (bands - image[:, :HEIGHT, :WIDTH]).square().mean().sqrt() < 0.1
    return region


@pytest.fixture
def labels() -> Labels:
    """A tenth of the stripes' pixels, in small patches."""
    sparse = patches(HEIGHT, WIDTH, 1, 0, count=60).maps[0].values != IGNORE
    return label_map(np.where(sparse, stripes(), IGNORE), 3)


def test_separable_classes_are_told_apart_after_a_few_steps_everywhere(separable: Region, labels: Labels) -> None:
    told: list[FinetuneProgress] = []
    head = finetune(separable, labels, settings=QUICK, listener=told.append).head
    assert (head.values(separable.window) == stripes()).mean() > 0.95
    scores = head.header.scores
    assert isinstance(scores, Scores)
    assert scores.accuracy is not None
    assert scores.accuracy > 0.95
    training = [progress for progress in told if progress.stage == "training"]
    assert [(each.done, each.total) for each in training] == [(n + 1, QUICK.steps) for n in range(QUICK.steps)]
    # Nothing happens that was not among the stages which were told of at first.
    kinds = [kind for kind, _ in told[0].stages]
    assert kinds == ["features", "solving", "training", "judging"]
    assert [each.at for each in told] == sorted(each.at for each in told)
    assert all(each.stages == told[0].stages and each.stage == kinds[each.at] for each in told)
    assert all(seconds > 0 for _, seconds in told[0].stages)


def test_a_heads_figures_are_its_classes_on_the_validation_blocks(separable: Region, labels: Labels) -> None:
    chosen = np.zeros((2, 3), bool)
    chosen[1, 1] = chosen[0, 2] = True
    settings = dataclasses.replace(QUICK, steps=3, pixel_share=0.0)  # too little to be right everywhere
    split = Split((HEIGHT, WIDTH), BLOCK, chosen)
    head = finetune(separable, labels, settings=settings, split=split).head
    inside = chosen.repeat(BLOCK, 0).repeat(BLOCK, 1)[:HEIGHT, :WIDTH] & (labels.maps[0].values != IGNORE)
    expected = confusion_matrix(labels.maps[0].values[inside], head.values(separable.window)[inside], labels=range(3))
    scores = head.header.scores
    assert isinstance(scores, Scores)
    assert scores.pixels == inside.sum()
    assert 0 < np.trace(expected) < inside.sum()
    # Inputs are kept as float16, and a sample's margin ends where a map's does not: a few pixels may fall otherwise.
    assert np.abs(np.array(scores.confusion) - expected).sum() <= 0.01 * inside.sum()


def test_a_head_says_what_it_was_trained_on(separable: Region, labels: Labels) -> None:
    head = finetune(separable, labels, settings=dataclasses.replace(QUICK, steps=2, members=2)).head
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


def test_one_seed_gives_one_head_and_another_gives_another(separable: Region, labels: Labels) -> None:
    settings = dataclasses.replace(QUICK, steps=4)
    first, again = (weights(finetune(separable, labels, settings=settings).head) for _ in range(2))
    other = weights(finetune(separable, labels, settings=dataclasses.replace(settings, seed=1)).head)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not any(torch.equal(first[name], other[name]) for name in first if name.endswith("0.weight"))


def test_members_of_an_ensemble_differ(separable: Region, labels: Labels) -> None:
    head = finetune(separable, labels, settings=dataclasses.replace(QUICK, steps=2, members=2)).head
    one, two = (member.state_dict() for member in head.layers.members)
    assert not any(torch.equal(one[name], two[name]) for name in one if name.endswith("0.weight"))


def test_a_head_trained_and_saved_is_opened_with_its_figures(separable: Region, labels: Labels, tmp_path: Path) -> None:
    head = finetune(separable, labels, settings=dataclasses.replace(QUICK, steps=2)).head
    head.save(tmp_path / "head.safetensors")
    opened = Head.open(tmp_path / "head.safetensors")
    assert opened.header == head.header
    assert np.array_equal(opened.values(separable.window), head.values(separable.window))


def test_a_loss_that_is_not_finite_stops_the_training_and_says_what_to_do(separable: Region, labels: Labels) -> None:
    with pytest.raises(TrainingError, match=r"not finite at step \d+ of member 1 .*lower `rate`"):
        finetune(separable, labels, settings=dataclasses.replace(QUICK, rate=1e30))


def test_labels_on_another_grid_are_refused(separable: Region, labels: Labels) -> None:
    shifted = GeoBox((HEIGHT, WIDTH), WARM @ Affine.translation(1, 0), "EPSG:32633")
    with pytest.raises(LabelError, match="another grid"):
        finetune(separable, dataclasses.replace(labels, geobox=shifted), settings=QUICK)


def test_labels_of_a_date_the_region_does_not_hold_are_refused(separable: Region, labels: Labels) -> None:
    stray = dataclasses.replace(labels, maps=(LabelMap(labels.maps[0].values, (dt.date(2020, 1, 1),)),))
    with pytest.raises(LabelError, match=r"read them with region\.header"):
        finetune(separable, stray, settings=QUICK)


def test_every_date_of_every_map_is_a_sample_of_its_own() -> None:
    one = patches(2 * BLOCK, 2 * BLOCK, 2, 0)
    other = patches(2 * BLOCK, 2 * BLOCK, 2, 1)
    maps = (LabelMap(one.maps[0].values, (FIRST, SECOND)), LabelMap(other.maps[0].values, (SECOND,)))

    def source(window: Window, date: dt.date) -> Tensor:
        return torch.full((1, window.height, window.width), float(date.month))

    samples = make_samples(source, dataclasses.replace(one, maps=maps), margin=0)
    assert all((sample.inputs == sample.date.month).all() for sample in samples)
    for date, described in ((FIRST, maps[:1]), (SECOND, maps)):
        found = sum(int(sample.judged().labelled.sum()) for sample in samples if sample.date == date)
        assert found == sum(each.labelled.sum() for each in described)


def test_a_region_that_was_never_saved_is_refused(separable: Region, labels: Labels) -> None:
    unsaved = Region(separable.header, separable.field)
    with pytest.raises(TrainingError, match="save the region first"):
        finetune(unsaved, labels, settings=QUICK)


def test_validation_blocks_that_leave_nothing_to_train_on_are_refused(separable: Region, labels: Labels) -> None:
    with pytest.raises(LabelError):
        finetune(separable, labels, settings=QUICK, split=Split((HEIGHT, WIDTH), BLOCK, np.ones((2, 3), bool)))

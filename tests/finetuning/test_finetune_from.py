"""Training a head on: from its weights, on its own region as it is now, with its classes, and never by a silent guess."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from affine import Affine
from command_line import lianet, refusal
from factories import RegionFactory, labels_on
from heads import entries
from odc.geo.geobox import GeoBox

from lianet_user.errors import InputError, LabelError, RegionMismatchError, TrainingWarning
from lianet_user.files.artifact import open_head_file
from lianet_user.files.header import IGNORE, AnyScores, ClassEntry, Scores
from lianet_user.finetuning import FinetuneProgress, FinetuneSettings, finetune
from lianet_user.finetuning.finetune import labels_for
from lianet_user.finetuning.priors import Prior, stored_prior
from lianet_user.geo.grid import Window
from lianet_user.head import Head
from lianet_user.labels import BLOCK, Labels
from lianet_user.maps import predict as write_map
from lianet_user.region import Region

GRID = GeoBox((96, 3 * BLOCK), Affine(10.0, 0.0, 330_000.0, 0.0, -10.0, 5_820_000.0), "EPSG:32633")
QUICK = FinetuneSettings(
    inputs=("bands", "context"), widths=(16,), members=2, steps=40, batch=4, crop=24, rate=1e-2, validation=0.3, seed=2,
    pixel_share=0.0,
)  # fmt: skip
CORNER = Window(0, 0, 64, 64)
CLASSES = entries(("dark", "middling", "bright"))


def brightness(region: Region) -> np.ndarray:
    """Three classes by how bright a place's surroundings are, in a quarter of the pixels: uint8 (height, width)."""
    band = region.head_input(region.window, None, ("context",))[0].numpy()
    values = np.digitize(band, np.quantile(band, (1 / 3, 2 / 3)))
    return np.where(np.random.default_rng(0).random(values.shape) < 0.25, values, IGNORE).astype(np.uint8)


@pytest.fixture
def region(make_region: RegionFactory) -> Region:
    return make_region(geobox=GRID)


@pytest.fixture
def labels(region: Region) -> Labels:
    return labels_on(GRID, brightness(region), CLASSES)


@pytest.fixture(scope="module")
def trained() -> list[Head]:
    """The head that tests train on, once the first of them has trained it; nobody changes it."""
    return []


@pytest.fixture
def head(region: Region, labels: Labels, trained: list[Head], tmp_path: Path) -> Head:
    """Trained, and opened from a file of the test's own, which says that its region is the test's."""
    if not trained:
        trained.append(finetune(region, labels, settings=QUICK).head)
    (first,) = trained
    assert first.header.region.sha256 == region.sha256
    here = first.header.region.model_copy(update={"path": str(region.path)})
    Head(first.header.model_copy(update={"region": here}), first.layers, region).save(tmp_path / "head.safetensors")
    return Head.open(tmp_path / "head.safetensors")


@pytest.fixture
def updated(make_region: RegionFactory, head: Head) -> Region:
    """The region of the same lineage in another file, whose field remembers something else."""
    return make_region(geobox=GRID, name="updated", seed=1)


def gentle(head: Head, **changes: object) -> FinetuneSettings:
    """The settings of training on, and the small crops of these tests."""
    quick = {"batch": QUICK.batch, "crop": QUICK.crop, "steps": 1}
    return dataclasses.replace(FinetuneSettings.continuing(head.header), **quick | changes)  # type: ignore[arg-type]


Trained = tuple[Head, Scores, list[FinetuneProgress]]


def train_on(head: Head, region: Region, labels: Labels, **changes: object) -> Trained:
    """The new head, the figures of the old one, and every event, of one step unless `changes` say otherwise."""
    told: list[FinetuneProgress] = []
    new = finetune(region, labels, settings=gentle(head, **changes), start=head, listener=told.append).head
    (before,) = (progress.scores for progress in told if progress.scores is not None)
    assert isinstance(before, Scores)
    return new, before, told


def accuracy(scores: AnyScores | None) -> float:
    assert isinstance(scores, Scores)
    assert scores.accuracy is not None
    return scores.accuracy


# --- where training starts


def test_a_head_of_few_labels_gets_better_on_more(region: Region, labels: Labels, tmp_path: Path) -> None:
    values = labels.maps[0].values.copy()
    values[:, 20:] = IGNORE
    first = labels_on(GRID, values, CLASSES)
    finetune(region, first, settings=dataclasses.replace(QUICK, steps=10)).head.save(tmp_path / "first.safetensors")
    head = Head.open(tmp_path / "first.safetensors")
    new, before, _ = train_on(head, region, labels, steps=40, rate=QUICK.rate)
    assert before.pixels == new.header.scores.pixels  # type: ignore[union-attr]
    assert accuracy(new.header.scores) > accuracy(before) + 0.02
    assert new.header.provenance.settings["from_sha256"] == head.sha256


def test_a_head_trained_on_for_one_step_keeps_its_score(region: Region, labels: Labels, head: Head) -> None:
    new, _, _ = train_on(head, region, labels)
    assert accuracy(head.header.scores) > 0.8
    assert accuracy(new.header.scores) > accuracy(head.header.scores) - 0.03


def test_the_old_figures_are_those_of_the_heads_own_validation(region: Region, labels: Labels, head: Head) -> None:
    # So the split is the same by default, also where the head's share and seed were not the default ones.
    before, own = train_on(head, region, labels)[1], head.header.scores
    assert isinstance(before, Scores)
    assert isinstance(own, Scores)
    assert before.confusion == own.confusion


def test_the_old_figures_are_told_before_any_training(region: Region, labels: Labels, head: Head) -> None:
    stages = [progress.stage for progress in train_on(head, region, labels, steps=2)[2]]
    start = stages.index("start")
    assert set(stages[:start]) == {"features"}
    assert stages[start + 1 :] == ["solving", *["training"] * 4, "judging"]


def test_every_member_starts_from_its_own_weights(region: Region, labels: Labels, head: Head) -> None:
    old = {name: tensor.clone() for name, tensor in head.layers.state_dict().items()}
    still, _, _ = train_on(head, region, labels, rate=0.0)
    assert all(torch.equal(tensor, old[name]) for name, tensor in still.layers.named_parameters())
    moved, _, _ = train_on(head, region, labels)
    weights = {name: tensor for name, tensor in moved.layers.named_parameters() if name.endswith("0.weight")}
    assert not any(torch.equal(tensor, old[name]) for name, tensor in weights.items())
    assert all(torch.equal(tensor, old[name]) for name, tensor in head.layers.state_dict().items())


def test_training_on_is_gentler_by_default_and_keeps_the_layers(head: Head) -> None:
    settings, fresh = FinetuneSettings.continuing(head.header), FinetuneSettings()
    assert (settings.inputs, settings.widths, settings.members) == (QUICK.inputs, QUICK.widths, QUICK.members)
    assert settings.steps < fresh.steps
    assert settings.rate < fresh.rate
    assert settings.prior == fresh.prior
    assert settings.pixel_share == QUICK.pixel_share


@pytest.mark.parametrize(
    ("stated", "kept"),
    [
        ("equal", "equal"),
        (stored_prior((0.5, 0.3, 0.2), CLASSES), (0.5, 0.3, 0.2)),
        *(
            (wrong, FinetuneSettings().prior)
            for wrong in (
                None,
                3,
                True,
                "wide",
                "[1, 2, 3]",
                '{"dark": 1}',
                '{"dark": 1, "middling": "x", "bright": 1}',
            )
        ),
        ('{"dark": NaN, "middling": 1, "bright": 1}', FinetuneSettings().prior),
    ],
)
def test_training_on_keeps_the_prior_that_a_head_states(head: Head, stated: object, kept: Prior) -> None:
    provenance = head.header.provenance.model_copy(update={"settings": {"prior": stated}})
    assert FinetuneSettings.continuing(head.header.model_copy(update={"provenance": provenance})).prior == kept


def test_a_head_says_which_it_was_trained_on_from(region: Region, labels: Labels, head: Head) -> None:
    new, _, _ = train_on(head, region, labels)
    assert head.sha256 is not None
    assert new.header.provenance.settings["from_sha256"] == head.sha256
    assert "from_sha256" not in head.header.provenance.settings
    assert new.header.head == head.header.head
    assert new.header.attribution == head.header.attribution
    others = dataclasses.replace(labels, attribution="labels: you")
    assert train_on(head, region, others)[0].header.attribution == (
        f"{region.header.attribution}; labels: you; labels: me"
    )


# --- an updated region


def test_a_head_of_a_region_that_was_updated_is_refused_with_the_way_out(
    make_region: RegionFactory, region: Region, head: Head
) -> None:
    same_field = make_region(geobox=GRID, title="A small region, updated")
    assert same_field.path == region.path
    assert same_field.sha256 != region.sha256
    with pytest.raises(RegionMismatchError) as caught:
        Head.open(str(head.path))
    message = str(caught.value)
    assert f"{region.path} was updated since {head.path} was trained" in message
    assert f"`lianet-user finetune {region.path} LABELS --from {head.path}`" in message
    assert str(region.sha256)[:12] in message
    assert str(same_field.sha256)[:12] in message


def test_until_it_is_trained_on_a_head_draws_no_map_of_an_updated_region(
    head: Head, updated: Region, tmp_path: Path
) -> None:
    opened = Head.open_on(str(head.path), updated)
    with pytest.raises(RegionMismatchError, match="was updated since"):
        opened.predict()
    with pytest.raises(RegionMismatchError, match="was updated since"):
        write_map(opened, tmp_path / "map.tif")
    assert not (tmp_path / "map.tif").exists()


def test_a_head_is_judged_on_the_region_as_it_is_now_and_then_learns_it(
    region: Region, head: Head, updated: Region, tmp_path: Path
) -> None:
    labels = labels_on(GRID, brightness(updated), CLASSES)
    new, before, _ = train_on(
        Head.open_on(str(head.path), updated), updated, labels, steps=QUICK.steps, rate=QUICK.rate
    )
    assert accuracy(new.header.scores) > max(0.8, accuracy(before))
    assert new.header.region.sha256 == updated.sha256
    new.save(tmp_path / "new.safetensors")
    assert np.array_equal(Head.open(tmp_path / "new.safetensors").values(CORNER), new.values(CORNER))


def test_a_head_of_another_lineage_is_no_start(make_region: RegionFactory, labels: Labels, head: Head) -> None:
    other = make_region(geobox=GRID, name="other", lineage="1" * 32)
    with pytest.raises(
        RegionMismatchError, match=r"another region than .*other\.safetensors .*mean nothing.*train a new head on it"
    ):
        Head.open_on(str(head.path), other)
    with pytest.raises(RegionMismatchError, match="mean nothing"):
        finetune(other, labels, settings=QUICK, start=head)
    with pytest.raises(RegionMismatchError, match=r"other\.safetensors is not the region"):
        Head.open(str(head.path), other.path)


def test_a_region_with_other_bands_is_no_start(make_region: RegionFactory, labels: Labels, head: Head) -> None:
    more = make_region(geobox=GRID, name="more", band_count=4)
    with pytest.raises(RegionMismatchError, match="bands or dates have changed: train a new head without `start`"):
        finetune(more, labels, settings=gentle(head), start=head)


@pytest.mark.parametrize(
    "change",
    [{"members": 3}, {"widths": (16, 8)}, {"inputs": ("features", "bands")}, {"pixel_share": 1.0}],
    ids=lambda each: next(iter(each)),
)
def test_settings_that_ask_for_other_layers_are_refused(
    region: Region, labels: Labels, head: Head, change: dict[str, object]
) -> None:
    with pytest.raises(InputError, match=f"^`{next(iter(change))}` .*keeps its layers: omit it"):
        finetune(region, labels, settings=gentle(head, **change), start=head)


# --- classes


def test_labels_in_another_order_are_put_into_the_heads(region: Region, labels: Labels, head: Head) -> None:
    order = [2, 0, 1]
    values = labels.maps[0].values
    turned = np.where(values == IGNORE, IGNORE, np.argsort(order)[np.minimum(values, 2)])
    recoloured = tuple(CLASSES[index].model_copy(update={"color": "#ffffff"}) for index in order)
    others = labels_on(GRID, turned, recoloured)
    mapped = labels_for(head, others)
    assert mapped.classes == head.header.classes
    assert np.array_equal(mapped.maps[0].values, values)
    new, before, _ = train_on(head, region, others)
    assert new.header.classes == head.header.classes
    assert isinstance(before, Scores)
    assert isinstance(head.header.scores, Scores)
    assert before.confusion == head.header.scores.confusion


def test_a_class_that_the_labels_lack_is_kept_and_told(region: Region, labels: Labels, head: Head) -> None:
    values = labels.maps[0].values
    fewer = labels_on(GRID, np.where(values == 0, IGNORE, np.where(values == IGNORE, IGNORE, values - 1)), CLASSES[1:])
    with pytest.warns(TrainingWarning, match="the labels have no dark: the head keeps"):
        new, before, _ = train_on(head, region, fewer, steps=QUICK.steps)
    assert new.header.classes == head.header.classes
    for scores in (before, new.header.scores):
        assert isinstance(scores, Scores)
        assert [each.pixels > 0 for each in scores.classes] == [False, True, True]
    # Nor is it unlearned because nothing reminds the head of it.
    assert (new.values(region.window)[values == 0] == 0).mean() > 0.5


def test_a_class_that_the_head_lacks_is_refused_by_name(region: Region, labels: Labels, head: Head) -> None:
    others = dataclasses.replace(labels, classes=(*CLASSES[:2], ClassEntry(name="dazzling", color="#ffffff")))
    with pytest.raises(
        LabelError, match=r"have 'dazzling', which .*head\.safetensors lacks .*train a new head on these"
    ):
        finetune(region, others, settings=gentle(head), start=head)


# --- the command


@pytest.fixture
def raster(labels: Labels, tmp_path: Path) -> Path:
    """The labels as a GeoTIFF whose values are codes from 1 on."""
    values = np.where(labels.maps[0].values == IGNORE, 0, labels.maps[0].values + 1).astype(np.uint8)
    form = {"driver": "GTiff", "count": 1, "dtype": "uint8", "nodata": 0, "crs": "EPSG:32633", "transform": GRID.affine}
    with rasterio.open(tmp_path / "labels.tif", "w", height=GRID.shape[0], width=GRID.shape[1], **form) as file:
        file.write(values, 1)
    return tmp_path / "labels.tif"


def test_the_command_trains_on_what_predict_refuses(
    make_region: RegionFactory, region: Region, raster: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lianet_user.finetuning.pixel_models.MIXES", (0.5,))  # layers of two steps would have no share
    old, new, map_ = (tmp_path / name for name in ("old.safetensors", "new.safetensors", "map.tif"))
    finetune_two_steps = ("finetune", region.path, raster, "--steps", 2, "--no-picture", "--no-report")
    said = lianet(*finetune_two_steps, "--members", 1, "--validation", 0.3, "--seed", 5, "-o", old).out
    assert "before" not in said.lower()
    make_region(geobox=GRID, title="A small region, updated")
    assert f"--from {old}" in refusal("predict", old, "-o", map_, "--quiet")

    train_on_old = (*finetune_two_steps, "--from", old, "-o", new)
    said = lianet(*train_on_old).out
    assert said.index(f"Before: {old}") < said.index("Validation, on blocks that were not trained on")
    settings = open_head_file(new).header.provenance.settings
    assert (settings["members"], settings["validation"], settings["seed"]) == (1, 0.3, 5)
    lianet("predict", new, "-o", map_, "--quiet")

    document = json.loads(lianet(*train_on_old, "--overwrite", "--json").out)
    before, then = document["scores_before"], open_head_file(old).header.model_dump(mode="json")["scores"]
    assert before["pixels"] == then["pixels"]
    # Looked at in training's precision, then and now.
    assert before["macro_f1"] == pytest.approx(then["macro_f1"], abs=0.005)
    assert document["scores"]["pixels"] == before["pixels"]
    assert "members 2" in refusal(*train_on_old, "--overwrite", "--members", 2)

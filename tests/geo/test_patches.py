"""Where a network normalises over space, a pixel has one value all the same, and a map no seams."""

from __future__ import annotations

import datetime as dt
import importlib.util
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from affine import Affine
from factories import REGION_WORDS, RegionFactory, imagery_of, randomize
from hypothesis import given
from hypothesis import strategies as st
from odc.geo.geobox import GeoBox
from torch import Tensor

from lianet_user.field.config import DecoderConfig, FieldConfig, HeadConfig, HeadInput, preset
from lianet_user.field.head import STATISTICS, HeadEnsemble
from lianet_user.files.header import ClassEntry, HeadHeader, Numbers, RegionRef
from lianet_user.geo.grid import Window
from lianet_user.geo.patches import Axis, Lattice, PatchCache, blended
from lianet_user.head import Head, head_lattice
from lianet_user.paper_import import import_checkpoint, read_about
from lianet_user.pretraining import PretrainSettings, UpdateSettings, pretrain, update
from lianet_user.pretraining.loader import Batch, Loader, drawn_from
from lianet_user.region import Region, crop

pytestmark = pytest.mark.numerics

PARITY = Path(__file__).resolve().parents[3] / "shared" / "parity"
ALL: tuple[HeadInput, ...] = ("features", "bands", "context", "encoding")
SECOND = dt.date(2017, 3, 16)
SHAPE = (75, 102)
WINDOWS = [
    Window(0, 0, 18, 20),
    Window(31, 47, 2, 2),
    Window(15, 8, 45, 66),
    Window(74, 0, 1, 102),
    Window(20, 101, 55, 1),
]
"""Of a region of this shape, whose patches of 32 px lie as those of 64 px do in one twice as large, at a quarter the cost."""


def grid(height: int, width: int) -> GeoBox:
    return GeoBox((height, width), Affine(10.0, 0.0, 330_000.0, 0.0, -10.0, 5_820_000.0), "EPSG:32633")


def narrow(architecture: str, height: int, width: int, patch: int = 64) -> FieldConfig:
    """A field of two dates and three bands, built as the paper's or the later releases', but much smaller."""
    config = preset("base", height=height, width=width, dates=2, bands=3, table_size=2**10)
    encoding = config.encoding.model_copy(update={"levels": 5})
    if architecture == "resunet":
        small = {"encoder": "resnet18", "widths": (16,) * 4, "projection": 16, "patch": patch}
        decoder = config.decoder.model_copy(update=small)
    else:
        encoding = encoding.model_copy(update={"shape": (height, width)})
        small = {"projection": 16, "widths": (32, 32), "features": 128, "halo": 4, "patch": patch}
        decoder = DecoderConfig(architecture="flat", encoder=None, depth=0, **small)  # type: ignore[arg-type]
    return config.model_copy(update={"decoder": decoder, "encoding": encoding})


MakeNarrow = Callable[..., Region]


@pytest.fixture
def make_narrow(make_region: RegionFactory) -> MakeNarrow:
    def make(architecture: str = "resunet", height: int = SHAPE[0], width: int = SHAPE[1], patch: int = 32) -> Region:
        field = narrow(architecture, height, width, patch)
        return make_region(geobox=grid(height, width), dates=2, field=field)

    return make


def make_head(
    region: Region,
    *,
    inputs: tuple[HeadInput, ...] = ("features",),
    widths: tuple[int, ...] = (16, 8),
    norm: Literal["group", "channel"] = "group",
    scale: Literal[1, 4] = 1,
    numbers: Numbers | None = None,
    patch: int = 24,
) -> Head:
    """A head of random layers: four classes, or a number."""
    config = HeadConfig(
        inputs=inputs,
        in_channels=region.channels(inputs),
        widths=widths,
        outputs=1 if numbers else 4,
        norm=norm,
        scale=scale,
        output="number" if numbers else "logits",
        patch=patch,
    )
    layers = HeadEnsemble(config)
    randomize(layers, seed=3)
    assert region.sha256 is not None
    header = HeadHeader(
        task="regression" if numbers else "segmentation",
        classes=() if numbers else tuple(ClassEntry(name=f"class {n}", color=f"#00000{n}") for n in range(4)),
        numbers=numbers,
        head=config,
        region=RegionRef(name="x", lineage=region.header.lineage, sha256=region.sha256, path=str(region.path)),
        dates=(SECOND if SECOND in region.header.dates else region.header.dates[0],),
        scores=None,
        provenance=region.header.provenance,
        attribution="",
    )
    return Head(header, layers, region)


def parts_equal_the_whole(ask: Callable[[Window], Tensor], whole: Window, scale: int = 1) -> Tensor:
    everything = ask(whole)
    assert everything.shape[1:] == (scale * whole.height, scale * whole.width)
    assert everything.flatten(1).std(1).median() > 0.01
    for window in WINDOWS:
        expected = everything[(slice(None), *window.scaled(scale).slices)]
        torch.testing.assert_close(ask(window), expected, atol=1e-5, rtol=1e-5)
    return everything


# --- where patches lie, and what they count for


@given(length=st.integers(1, 400), patch=st.integers(1, 160), scale=st.sampled_from([1, 4]))
def test_weights_of_all_patches_sum_to_one_at_every_pixel(length: int, patch: int, scale: int) -> None:
    axis = Axis.of(length, patch)
    total = np.zeros(scale * max(length, patch))
    for start in axis.starts:
        weights = axis.weights(start, scale)
        assert (weights > 0).all()
        total[scale * start : scale * (start + patch)] += weights
    np.testing.assert_allclose(total, 1.0, atol=1e-6)
    assert all(later - earlier <= axis.step for earlier, later in zip(axis.starts, axis.starts[1:], strict=False))
    # The last patch ends at the border, unless the axis is shorter than one.
    assert axis.starts[-1] + patch == max(length, patch)


@pytest.mark.parametrize("length", [224, 300, 500])
def test_weights_change_gently_where_patches_begin_and_end(length: int) -> None:
    axis = Axis.of(length, 128)
    assert axis.step == 96
    for start in axis.starts:
        padded = np.pad(axis.weights(start), 1)
        if start == 0:
            padded[0] = 1.0  # at the border of a region there is nothing else
        if start + 128 == length:
            padded[-1] = 1.0
        # A cosine over the 32 px that patches share; the last patch shares more, never less.
        assert np.abs(np.diff(padded)).max() < 0.075


def test_patches_are_those_that_touch_a_window_whatever_else_is_asked() -> None:
    lattice = Lattice(Axis.of(300, 128), Axis.of(500, 128))
    every = lattice.patches(Window(0, 0, 300, 500))
    assert len(every) == 3 * 5
    for window in Window(0, 0, 300, 500).tiles(70):
        touching = [patch for patch in every if patch.intersection(window)]
        assert lattice.patches(window) == touching
        around = lattice.around(window)
        assert window.within(around).row >= 0
        assert around.row_end == max(patch.row_end for patch in touching)
        assert around.col_end == max(patch.col_end for patch in touching)


def test_a_blend_is_the_weighted_mean_of_the_patches() -> None:
    lattice, window = Lattice(Axis.of(40, 16), Axis.of(50, 16)), Window(3, 5, 33, 40)
    ramp = torch.arange(160.0)[:, None] * torch.arange(200.0)

    def compute(patches: list[Window]) -> Iterator[tuple[Tensor, Tensor]]:
        for patch in patches:
            yield ramp[patch.scaled(4).slices][None], torch.full((2, 64, 64), float(patch.col))

    agreed, columns = blended(lattice, window, compute, scale=4)  # type: ignore[arg-type]
    torch.testing.assert_close(agreed[0], ramp[window.scaled(4).slices])
    assert columns.shape == (2, 132, 160)
    weights = {start: lattice.cols.weights(start, 4) for start in lattice.cols.starts}
    at = 4 * 13 + 2  # a column that the patches at 0 and at 12 hold
    expected = 12.0 * weights[12][at - 48]
    assert 0 < expected < 12
    assert columns[:, :, at - 20] == pytest.approx(expected, abs=1e-4)


# --- fields


@pytest.mark.parametrize("architecture", ["resunet", "flat"])
@pytest.mark.parametrize("what", ["reconstruct", "head_input"])
def test_a_window_of_a_normalising_field_is_that_part_of_the_whole(
    make_narrow: MakeNarrow, architecture: str, what: str
) -> None:
    region = make_narrow(architecture)
    ask: dict[str, Callable[[Window], Tensor]] = {
        "reconstruct": lambda window: region.reconstruct(window, SECOND),
        "head_input": lambda window: region.head_input(window, SECOND, ALL),
    }
    region._patches = PatchCache(0)  # every window is computed anew
    everything = parts_equal_the_whole(ask[what], region.window)
    assert len(everything) == {"reconstruct": 3, "head_input": 128 + 3 + 3 * STATISTICS + 20}[what]


@pytest.mark.parametrize("architecture", ["resunet", "flat"])
def test_the_window_decides_where_nothing_is_blended(make_narrow: MakeNarrow, architecture: str) -> None:
    """What the others assert is not true by itself."""
    region = make_narrow(architecture)
    first, second = (region.patch_features(Window(row, 16, 32, 32), SECOND) for row in (16, 32))
    assert (first[:, 24:, 8:24] - second[:, 8:16, 8:24]).abs().mean() > 0.03 * first.std()


def test_ground_that_one_patch_holds_alone_has_that_patchs_values(make_narrow: MakeNarrow) -> None:
    region = make_narrow()
    assert region.lattice is not None
    patch = Window(0, 0, 32, 32)
    assert region.lattice.rows.starts[:2] == region.lattice.cols.starts[:2] == (0, 24)
    alone = region.patch_features(patch, SECOND)[:, :24, :24]
    assert torch.equal(region.features(Window(0, 0, 24, 24), SECOND), alone)
    with torch.inference_mode():
        expected = region.field.features([(0, 0)], 32, 32, torch.tensor([1]))
        bands = region.field.reconstruction(expected)
    assert torch.equal(alone, expected[0, :, :24, :24])
    assert torch.equal(region.reconstruct(Window(0, 0, 24, 24), SECOND), bands[0, :, :24, :24])


@pytest.mark.parametrize(
    ("shape", "side"), [((64, 64), 64), ((50, 104), 32), ((100, 70), 64), ((20, 25), 32), ((20, 70), 32)]
)
def test_a_region_smaller_than_a_patch_is_computed_in_what_fits(
    make_narrow: MakeNarrow, shape: tuple[int, int], side: int
) -> None:
    region = make_narrow("resunet", *shape, patch=64)
    seen: list[tuple[int, ...]] = []
    hook = region.field.decoder.register_forward_hook(lambda module, args, out: seen.append(tuple(out.shape[2:])))
    features = region.features(region.window, SECOND)
    hook.remove()
    assert features.shape == (128, *shape)
    assert features.isfinite().all()
    assert set(seen) == {(side, side)}
    part = Window(shape[0] // 3, shape[1] // 3, 6, 7)
    torch.testing.assert_close(region.features(part, SECOND), features[(slice(None), *part.slices)])


@pytest.mark.parametrize(
    ("field", "shape", "drawn"),
    [
        (narrow("resunet", 150, 203), (150, 203), (64, 1, (150, 203))),
        (narrow("resunet", 50, 203), (50, 203), (32, 1, (50, 203))),
        (preset("lite", height=150, width=203, bands=3), (150, 203), (128, 8, (152, 208))),
        (narrow("resunet", 20, 70), (20, 70), (32, 32, (32, 96))),
    ],
    ids=["large enough for patches", "a smaller patch", "nothing normalises", "no patch fits"],
)
def test_training_draws_windows_where_maps_are_computed(
    field: FieldConfig, shape: tuple[int, int], drawn: tuple[int, int, tuple[int, int]]
) -> None:
    """A field with statistics over space never learned what lies past the border, so no patch may reach there."""
    assert drawn_from(field, shape) == drawn


def test_pretraining_and_updates_meet_no_ground_past_the_border(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Patches of 32 px, of which neither side of the area is a multiple.
    imagery, drawn = imagery_of((10, 10, 20), height=54, width=74, dates=3), list[tuple[int, int]]()
    height, width = imagery.shape
    get = Loader.get

    def recorded(loader: Loader, step: int) -> Batch:
        batch = get(loader, step)
        drawn.extend(batch.corners)
        assert batch.reflectance.shape[2:] == (32, 32)
        return batch

    monkeypatch.setattr(Loader, "get", recorded)
    module = sys.modules["lianet_user.pretraining.pretrain"]  # the package gives its name to the function
    monkeypatch.setattr(module, "field_config", lambda *_: narrow("resunet", height, width, patch=32))
    settings = PretrainSettings(preset="base", steps=2, batch=2, window=32, report_every=2)
    pretrain(imagery.only([0, 1]), tmp_path / "old", REGION_WORDS, settings=settings)
    update(tmp_path / "old", imagery.only([2]), tmp_path / "new", settings=UpdateSettings(steps=2, batch=4))
    assert len(drawn) == 2 * 2 + 2 * 2
    rows, cols = np.array(drawn).T
    assert rows.max() <= height - 32
    assert cols.max() <= width - 32
    assert (rows % 32 > 0).any()
    region = Region.open(tmp_path / "new")
    assert region.reconstruct(region.window, imagery.acquisitions[2].date).isfinite().all()


# --- what is kept


def test_a_tile_does_not_compute_again_what_the_tile_before_it_computed(make_narrow: MakeNarrow) -> None:
    region = make_narrow(height=60, width=100)
    assert region.lattice is not None
    seen: list[int] = []
    hook = region.field.decoder.register_forward_hook(lambda module, args, out: seen.append(len(out)))
    tiles = [Window(0, 0, 60, 50), Window(0, 50, 60, 50)]
    size = 128 * 32 * 32 * 4
    shared = set(region.lattice.patches(tiles[0])) & set(region.lattice.patches(tiles[1]))
    assert len(shared) >= 6
    region._patches = PatchCache(len(shared) * size)  # no more than that
    for tile in tiles:
        region.features(tile, SECOND)
        assert region._patches.bytes <= len(shared) * size
    assert sum(seen) == len(region.lattice.patches(region.window))
    region.features(tiles[1], region.header.dates[0])  # another date is another patch
    hook.remove()
    assert sum(seen) == len(region.lattice.patches(region.window)) + len(region.lattice.patches(tiles[1]))


def test_the_patches_used_last_are_kept_and_no_more_than_allowed() -> None:
    cache = PatchCache(100)
    for key in "abc":
        cache.put(key, torch.zeros(10))
    assert cache.get("a") is None
    assert cache.get("b") is not None
    cache.put("d", torch.zeros(10))  # drops c, since b was used after it
    assert cache.get("c") is None
    assert cache.get("b") is not None
    cache.put("e", torch.zeros(1000))
    assert cache.bytes == 0


# --- heads


@pytest.mark.parametrize(("architecture", "scale"), [("lite", 1), ("lite", 4), ("resunet", 1)])
def test_a_window_of_a_head_with_groupnorm_is_that_part_of_the_whole(
    make_narrow: MakeNarrow, make_region: RegionFactory, architecture: str, scale: Literal[1, 4]
) -> None:
    region = make_region(geobox=grid(*SHAPE), dates=2) if architecture == "lite" else make_narrow(architecture)
    head = make_head(region, scale=scale)
    answers = parts_equal_the_whole(lambda window: head.answers(window, SECOND), region.window, scale)
    torch.testing.assert_close(answers.exp().sum(0), torch.ones(75 * scale, 102 * scale))
    with torch.inference_mode():  # and what its layers say of the whole is another thing
        whole = head.layers(region.head_input(region.window, SECOND, ("features",))[None])[0]
    assert (whole.argmax(0) != answers.argmax(0)).float().mean() > 0.005


def test_a_number_is_blended_in_the_unit_of_the_labels(make_narrow: MakeNarrow) -> None:
    numbers = Numbers(unit="m", offset=3.0, scale=10.0, low=0.0, high=30.0)
    region = make_narrow()
    head = make_head(region, numbers=numbers)
    answers = head.answers(Window(0, 0, 18, 18), SECOND)  # the first patch of the head's lattice alone
    with torch.inference_mode():
        raw = head.layers(region.head_input(Window(0, 0, 24, 24), SECOND, ("features",))[None])[0]
    torch.testing.assert_close(answers, 3.0 + 10.0 * raw[:, :18, :18], atol=1e-4, rtol=1e-4)


def test_a_head_is_computed_in_the_crops_it_was_trained_on_or_in_what_fits() -> None:
    config = HeadConfig(inputs=("features",), in_channels=1, widths=(8,), outputs=2, norm="group")
    assert config.patch == 128
    lattice = head_lattice(config, (50, 200))
    assert lattice is not None
    assert (lattice.rows.patch, lattice.cols.patch) == (50, 128)
    assert head_lattice(config.model_copy(update={"norm": "channel"}), (50, 200)) is None


# --- the paper's field


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Region:
    """The authors' Base with the weights of the parity fixtures, on 256 x 256 px."""
    if not PARITY.is_dir():
        pytest.skip("needs the fixtures of ../shared/parity, which are no part of the repository")
    specification = importlib.util.spec_from_file_location("fill", PARITY / "fill.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    description = json.loads((PARITY / "base.json").read_text())
    folder = tmp_path_factory.mktemp("base")
    state = {
        name: torch.from_numpy(module.fill(name, tuple(shape))).to(getattr(torch, dtype.removeprefix("torch.")))
        for name, (shape, dtype) in description["state_dict"].items()
    }
    torch.save({"model_state_dict": state}, folder / "checkpoint.pt")
    document = {"num_channels": 12, "model": description["model"] | {"out_channels": 12}}
    (folder / "used_parameters.json").write_text(json.dumps(document))
    about = read_about(
        name="base",
        licence="CC-BY-4.0",
        attribution="Copernicus",
        crs="EPSG:32632",
        origin=[600_000.0, 5_300_040.0],
        pixel_size=10.0,
        width=256,
        height=256,
        dates=["2018-02-16", "2018-05-02", "2018-08-21", "2018-10-13"],
        bands="B01,B02,B03,B04,B05,B06,B07,B08,B8A,B09,B11,B12".split(","),
        offset=1000,
        pixel_origin="center",
    )
    import_checkpoint(folder, folder / "base.safetensors", about)
    return Region.open(folder / "base.safetensors")


@torch.inference_mode()
def fit(layers: HeadEnsemble, inputs: Tensor) -> None:
    """Make the last layer answer with the nearest of k means of what the layers before it say of inputs (C, h, w)."""
    *hidden_layers, last = layers.members[0].children()
    hidden = torch.nn.Sequential(*hidden_layers)(inputs[None])[0].flatten(1).T
    assert isinstance(last, torch.nn.Conv2d)
    assert last.bias is not None
    generator = torch.Generator().manual_seed(0)
    means = hidden[torch.randperm(len(hidden), generator=generator)[: last.out_channels]]
    for _ in range(20):
        nearest = torch.cdist(hidden, means).argmin(1)
        means = torch.stack([hidden[nearest == number].mean(0) for number in range(len(means))])
    last.weight.zero_()
    last.weight[:, :, 1, 1] = means
    last.bias.copy_(-means.square().sum(1) / 2)


def class_map(values: Callable[[Window], np.ndarray], shift: int) -> np.ndarray:
    """256 x 256 px, put together from windows of 128 px that are shifted along both axes."""
    found = np.full((256, 256), 255, np.uint8)
    for tile in Window(-shift, -shift, 256 + shift, 256 + shift).tiles(128):
        window = tile.intersection(Window(0, 0, 256, 256))
        if window:
            found[window.slices] = values(window)
    return found


def jumps(features: Tensor, axis: Axis) -> float:
    """How much features (C, n, length) jump where a patch begins or ends, relative to elsewhere, off the region's border."""
    jump = features.diff(dim=2).abs().mean((0, 1)).numpy()
    inner = np.arange(16, axis.length - 17)
    edges = {start - 1 for start in axis.starts} | {start + axis.patch - 1 for start in axis.starts}
    inside = np.isin(inner, list(edges))
    assert inside.sum() == 3
    return float(jump[inner[inside]].max() / jump[inner[~inside]].mean())


@pytest.mark.heavy
def test_features_of_base_have_no_edges_where_patches_begin_and_end(base: Region) -> None:
    assert base.lattice is not None
    features = base.features(base.window, base.header.dates[0])
    found = jumps(features, base.lattice.cols), jumps(features.mT, base.lattice.rows)
    print(f"features jump {found[0]:.2f} and {found[1]:.2f} times as much at patches' edges as elsewhere")
    assert max(found) < 1.3


@pytest.mark.heavy
@pytest.mark.parametrize("norm", ["channel", "group"])
def test_decisions_of_base_do_not_depend_on_the_tiling(base: Region, norm: Literal["group", "channel"]) -> None:
    date = base.header.dates[0]
    widths = (16,) if norm == "channel" else (128, 128, 64, 64, 32)
    head = make_head(base, norm=norm, widths=widths, patch=128)
    fit(head.layers, base.head_input(Window(64, 64, 128, 128), date, ("features",)))
    head = Head(head.header, head.layers, base)

    def naive(window: Window) -> np.ndarray:
        """With statistics over whatever is computed for a window."""
        inner = window.expanded(head.layers.halo, 1, base.shape)
        outer = inner.expanded(64, 32, base.shape)
        features = crop(base.patch_features(outer, date).relu(), inner, outer)
        with torch.inference_mode():
            return crop(head.layers(features[None])[0], window, inner).argmax(0).byte().numpy()

    for name, values in (("blended", lambda window: head.values(window, date)), ("naive", naive)):
        first, second = class_map(values, 0), class_map(values, 64)
        share = float((first != second).mean())
        largest = float(np.bincount(first.ravel()).max() / first.size)
        print(f"{name}, {norm}: {share:.4%} differ; the largest class takes {largest:.0%}")
        assert largest <= 0.6
        assert share < 0.005 if name == "blended" else share > 0.01

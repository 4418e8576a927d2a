"""Regions: what is saved is opened again, and a pixel's answer does not depend on the window it is asked for in."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from affine import Affine
from factories import RegionFactory, RegionHeaderFactory, randomize
from odc.geo.geobox import GeoBox
from torch import Tensor, nn

from lianet_user.errors import ArtifactError, DateError
from lianet_user.field.config import HeadInput, preset
from lianet_user.field.encoding import TimeVectors
from lianet_user.field.head import STATISTICS, context
from lianet_user.field.model import NeuralField
from lianet_user.field.weights import save_region, stored
from lianet_user.files.artifact import open_region_file, write_artifact
from lianet_user.files.header import RegionHeader
from lianet_user.geo.grid import Window
from lianet_user.region import Region, psnr

pytestmark = pytest.mark.numerics

ALL: tuple[HeadInput, ...] = ("features", "bands", "context")
FIRST, SECOND = dt.date(2017, 2, 16), dt.date(2017, 3, 16)


def grid(height: int, width: int) -> GeoBox:
    return GeoBox((height, width), Affine(10.0, 0.0, 330_000.0, 0.0, -10.0, 5_820_000.0), "EPSG:32633")


def saved(path: Path, header: RegionHeader, seed: int = 0) -> NeuralField:
    """A random field, saved; what is returned holds the numbers that float16 kept."""
    field = NeuralField(header.field)
    randomize(field, seed)
    save_region(path, header, field)
    with torch.no_grad():
        for tensor in field.state_dict().values():
            tensor.copy_(tensor.half())
    return field.eval()


# --- files


def test_an_opened_region_answers_as_the_saved_field_at_half_precision(
    region_header: RegionHeaderFactory, tmp_path: Path
) -> None:
    header = region_header(dates=2)
    field = saved(tmp_path / "region.safetensors", header)
    region = Region.open(tmp_path / "region.safetensors")
    with torch.inference_mode():
        for number, date in enumerate((FIRST, SECOND)):
            expected = field.features([(0, 0)], 96, 128, torch.tensor([number]))
            torch.testing.assert_close(region.features(region.window, date), expected[0], atol=1e-4, rtol=0)
            reflectance = field.reconstruction(expected)[0]
            torch.testing.assert_close(region.reconstruct(region.window, date), reflectance, atol=1e-4, rtol=0)
    assert region.header == header
    assert region.geobox == header.grid.geobox
    assert region.shape == (96, 128)
    assert region.path == tmp_path / "region.safetensors"
    assert region.sha256 == open_region_file(tmp_path / "region.safetensors").sha256()


def test_a_region_file_stores_every_tensor_of_the_field_in_half_precision(
    region_header: RegionHeaderFactory, tmp_path: Path
) -> None:
    path = tmp_path / "region.safetensors"
    field = saved(path, region_header())
    tensors = open_region_file(path).tensors()
    expected = {name: t for name, t in field.state_dict().items() if not name.endswith("num_batches_tracked")}
    assert tensors.keys() == expected.keys()
    for name, array in tensors.items():
        assert array.dtype == np.float16
        assert np.array_equal(array, expected[name].half().numpy()), name


def test_the_same_field_saved_twice_is_the_same_file(region_header: RegionHeaderFactory, tmp_path: Path) -> None:
    header = region_header()
    for name in ("a", "b"):
        saved(tmp_path / name, header)
    saved(tmp_path / "c", header, seed=1)
    first, second, other = ((tmp_path / name).read_bytes() for name in "abc")
    assert first == second
    assert first != other


def test_a_region_in_single_precision_is_read_as_it_is(region_header: RegionHeaderFactory, tmp_path: Path) -> None:
    header = region_header()
    field = NeuralField(header.field).eval()
    randomize(field)
    tensors = {n: t.numpy() for n, t in field.state_dict().items() if not n.endswith("num_batches_tracked")}
    write_artifact(tmp_path / "region", header, tensors)
    with torch.inference_mode():
        expected = field.features([(0, 0)], 96, 128, torch.tensor([0]))[0]
    region = Region.open(tmp_path / "region")
    torch.testing.assert_close(region.features(region.window), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        pytest.param("grid.tables", None, id="missing tables"),
        pytest.param("decoder.encoder.bn1.running_var", None, id="missing statistics"),
        pytest.param("time.weight", (1, 21), id="misshapen vector"),
        pytest.param("decoder.encoder.layer3.0.conv1.weight", (3, 3), id="misshapen convolution"),
        pytest.param("decoder.encoder.bn1.num_batches_tracked", (), id="extra counter"),
    ],
)
def test_a_tensor_that_is_missing_extra_or_misshapen_is_refused_by_name(
    region_header: RegionHeaderFactory, tmp_path: Path, name: str, shape: tuple[int, ...] | None
) -> None:
    path = tmp_path / "region.safetensors"
    saved(path, region_header())
    tensors = open_region_file(path).tensors()
    if shape is None:
        del tensors[name]
    else:
        tensors[name] = np.zeros(shape, np.float16)
    write_artifact(path, region_header(), tensors)
    with pytest.raises(ArtifactError, match=rf"1 are missing, extra or misshapen, first '{name}'"):
        Region.open(path)


@pytest.mark.parametrize("value", [1e6, float("nan"), float("-inf")])
def test_a_weight_that_half_precision_cannot_hold_is_not_written(
    region_header: RegionHeaderFactory, tmp_path: Path, value: float
) -> None:
    field = NeuralField(region_header().field)
    assert isinstance(field.time, TimeVectors)
    with torch.no_grad():
        field.time.weight[0, 3] = value
    with pytest.raises(ArtifactError, match=r"'time\.weight' holds values that float16 cannot"):
        save_region(tmp_path / "region.safetensors", region_header(), field)
    assert list(tmp_path.iterdir()) == []


# --- windows

# 173 x 301: no multiple of the stride, and wider than two halos, so that windows inside are cut off from the rest.
ODD = grid(173, 301)
WINDOWS = [
    Window(0, 0, 37, 41),
    Window(77, 139, 1, 1),
    Window(80, 150, 33, 29),
    Window(136, 264, 37, 37),  # the corner past which windows are snapped
    Window(172, 90, 1, 131),
    Window(13, 300, 160, 1),
]


@pytest.fixture
def odd(make_region: RegionFactory) -> Region:
    # The finest two levels are hashed.
    field = preset("lite", height=173, width=301, dates=2, bands=3, table_size=2**13)
    region = make_region(geobox=ODD, dates=2, field=field)
    assert {field.encoding.is_direct(level) for level in range(5)} == {True, False}
    return region


@pytest.mark.parametrize(
    ("what", "more", "channels"),
    [("features", (), 128), ("reconstruct", (), 3), ("head_input", (ALL,), 128 + 3 + 3 * STATISTICS)],
    ids=["features", "reconstruct", "head_input"],
)
def test_a_window_of_a_lite_region_is_that_part_of_the_whole(
    odd: Region, what: str, more: tuple[object, ...], channels: int
) -> None:
    ask: Callable[..., Tensor] = getattr(odd, what)
    whole = ask(odd.window, SECOND, *more)
    assert whole.shape == (channels, 173, 301)
    assert whole.dtype == torch.float32
    assert whole.flatten(1).std(1).median() > 0.05
    for window in WINDOWS:
        part = ask(window, SECOND, *more)
        assert part.shape == (channels, window.height, window.width)
        torch.testing.assert_close(part, whole[(slice(None), *window.slices)], atol=1e-4, rtol=0)


def test_a_small_window_computes_only_its_surroundings(odd: Region) -> None:
    halo = odd.field.config.decoder.halo
    seen: list[tuple[int, ...]] = []
    hook = odd.field.decoder.register_forward_hook(lambda module, args, out: seen.append(tuple(out.shape[2:])))
    odd.features(Window(80, 150, 1, 1), FIRST)
    hook.remove()
    (shape,) = seen
    assert max(shape) <= 1 + 2 * (halo + odd.field.config.decoder.stride)


def test_a_region_of_any_size_agrees_with_the_padded_field(region_header: RegionHeaderFactory, tmp_path: Path) -> None:
    field = saved(tmp_path / "region", region_header(geobox=grid(101, 133)))
    region = Region.open(tmp_path / "region")
    with torch.inference_mode():
        padded = field.features([(0, 0)], 104, 136, torch.tensor([0]))[0]
    torch.testing.assert_close(region.features(region.window), padded[:, :101, :133], atol=1e-4, rtol=0)


@pytest.mark.parametrize("inputs", [("features",), ("bands",), ("context",), ("bands", "context"), ALL])
def test_head_inputs_are_stacked_in_one_order_and_counted(
    make_region: RegionFactory, inputs: tuple[HeadInput, ...]
) -> None:
    region = make_region()
    window = Window(20, 30, 40, 50)
    every = region.head_input(window, None, ALL)
    spans = {"features": slice(0, 128), "bands": slice(128, 131), "context": slice(131, 131 + 3 * STATISTICS)}
    found = region.head_input(window, None, inputs)
    assert len(found) == region.channels(inputs)
    torch.testing.assert_close(found, torch.cat([every[spans[part]] for part in inputs]), atol=1e-5, rtol=0)


def test_the_bands_a_head_reads_are_the_standardised_reconstruction(make_region: RegionFactory) -> None:
    region = make_region()
    bands = region.head_input(region.window, None, ("bands",))
    layer = region.field.reconstruction
    assert isinstance(layer.mean, Tensor)
    assert isinstance(layer.std, Tensor)
    reflectance = (bands * layer.std[:, None, None] + layer.mean[:, None, None]).relu()
    torch.testing.assert_close(region.reconstruct(region.window), reflectance)
    around = region.head_input(region.window, None, ("context",))
    torch.testing.assert_close(around, context(bands[None])[0], atol=1e-5, rtol=0)
    assert bands.min() < 0  # before the ReLU: nothing of the sign is lost


def test_a_papers_head_reads_features_without_their_negative_part(region_header: RegionHeaderFactory) -> None:
    config = preset("base", height=64, width=64, dates=1, bands=3, table_size=2**10)
    small = config.decoder.model_copy(update={"encoder": "resnet18", "widths": (16,) * 4, "projection": 16})
    coarse = config.encoding.model_copy(update={"levels": 4})
    header = region_header(geobox=grid(64, 64), field=config.model_copy(update={"decoder": small, "encoding": coarse}))
    field = NeuralField(header.field)
    randomize(field)
    region = Region(header, field)
    features = region.features(region.window)
    assert features.min() < 0
    assert torch.equal(region.head_input(region.window, None, ("features",)), features.relu())


# --- dates


def test_the_series_is_the_bands_of_every_date_and_the_same_at_each(odd: Region) -> None:
    window = Window(40, 60, 24, 32)
    series = odd.head_input(window, FIRST, ("encoding", "series"))
    bands = [odd.head_input(window, date, ("bands",)) for date in (FIRST, SECOND)]
    assert not torch.allclose(bands[0], bands[1], atol=1e-2)
    encoding = odd.head_input(window, FIRST, ("encoding",))
    torch.testing.assert_close(series, torch.cat([encoding, *bands]), atol=1e-5, rtol=0)
    assert torch.equal(series, odd.head_input(window, SECOND, ("encoding", "series")))
    assert len(series) == odd.channels(("encoding", "series"))


def test_each_date_has_an_answer_of_its_own(make_region: RegionFactory) -> None:
    region = make_region(dates=2)
    window = Window(8, 8, 16, 16)
    assert not torch.equal(region.features(window, FIRST), region.features(window, SECOND))


def test_without_a_date_only_a_region_of_one_date_answers(make_region: RegionFactory) -> None:
    window = Window(8, 8, 16, 16)
    single = make_region(name="single")
    assert torch.equal(single.features(window), single.features(window, FIRST))
    with pytest.raises(DateError, match="2017-02-16 to 2017-03-16"):
        make_region(name="several", dates=2).features(window)


@pytest.mark.parametrize("ask", ["features", "reconstruct", "head_input"])
def test_a_date_the_region_does_not_hold_is_refused_with_those_it_does(make_region: RegionFactory, ask: str) -> None:
    region = make_region(dates=2)
    arguments = (ALL,) if ask == "head_input" else ()
    with pytest.raises(DateError, match=r"does not hold 2018-07-01.* 2017-02-16, 2017-03-16"):
        getattr(region, ask)(region.window, dt.date(2018, 7, 1), *arguments)


def test_psnr_is_ten_decibels_for_a_tenth_and_always_finite() -> None:
    assert psnr(1.0) == 0.0
    assert psnr(1e-4) == pytest.approx(40.0)
    assert psnr(0.0) == pytest.approx(120.0)


def test_an_opened_region_holds_its_file_s_weights_beside_the_folded_ones(make_region: RegionFactory) -> None:
    region = make_region()
    assert region.sha256 is not None
    assert region.path is not None
    held = {name: tuple(tensor.shape) for name, tensor in stored(region.trained).items()}
    assert held == open_region_file(region.path).shapes
    assert region.field.grid is region.trained.grid
    assert not any(isinstance(module, nn.BatchNorm2d) for module in region.field.modules())

"""The neural field: the paper's arithmetic to the letter, and a decoder that looks exactly as far as it says."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from factories import randomize
from torch import Tensor, nn

from lianet_user.field.config import PAPER_WIDTHS, EncodingConfig, FieldConfig, HeadConfig, preset
from lianet_user.field.decoder import LIMIT
from lianet_user.field.encoding import HashGrid, TimeVectors, hash_nodes, level_seed
from lianet_user.field.head import (
    CONTEXT_HALO,
    NEIGHBOURHOODS,
    STATISTICS,
    HeadEnsemble,
    HeadLayers,
    context,
    head_halo,
)
from lianet_user.field.model import NeuralField
from lianet_user.field.norms import fold_norms

pytestmark = pytest.mark.numerics

# --- the hash grid, as the paper's release writes it, pixel by pixel


def signed(value: int) -> int:
    """The low 64 bits of a Python int, read as a signed number."""
    value %= 2**64
    return value - 2**64 if value >= 2**63 else value


def hashed(ix: int, iy: int, level: int, table_size: int) -> int:
    seed = 0xD6E8FEB86659FD93 ^ (level * 0x9E3779B97F4A7C15 % 2**64)
    return signed((ix * 0x9E3779B185EBCA87) ^ (iy * 0xC2B2AE3D27D4EB4F) ^ seed) % table_size


def entry(config: EncodingConfig, ix: int, iy: int, level: int) -> int:
    """Where a node's features lie in the table of its level."""
    offset = 0.5 if config.pixel_origin == "center" else 0.0
    rows, cols = (
        math.floor((size - 1 + offset) * config.n_min * 2**level / config.extent) + 2 for size in config.shape
    )
    if config.sizing == "fitted" and rows * cols <= config.table_size:
        return iy * cols + ix
    return hashed(ix, iy, level, config.table_size)


def naive_encoding(grid: HashGrid, tables: Tensor, row: int, col: int, height: int, width: int) -> Tensor:
    """Four gathers per pixel and level: (L * F, height, width)."""
    config = grid.config
    offset = 0.5 if config.pixel_origin == "center" else 0.0
    levels = []
    for level in range(config.levels):
        cells = config.n_min * 2**level
        own = tables[grid.spans[level]]
        pixels = []
        for y in range(row, row + height):
            for x in range(col, col + width):
                u, v = (x + offset) * cells / config.extent, (y + offset) * cells / config.extent
                ix, iy = math.floor(u), math.floor(v)
                total = own.new_zeros(config.features)
                for dx, dy in ((0, 0), (1, 0), (0, 1), (1, 1)):
                    weight = (u - ix if dx else 1 - (u - ix)) * (v - iy if dy else 1 - (v - iy))
                    if weight:  # a node that counts for nothing need not exist
                        total = total + weight * own[entry(config, ix + dx, iy + dy, level)]
                pixels.append(total)
        levels.append(torch.stack(pixels).view(height, width, config.features).permute(2, 0, 1))
    return torch.cat(levels)


ENCODINGS = {
    # Levels from 20 pixels per cell to 1.6 cells per pixel.
    "hashed-center": {"sizing": "uniform", "pixel_origin": "center", "extent": 100, "n_min": 5, "table_size": 1000},
    "hashed-corner": {"sizing": "uniform", "pixel_origin": "corner", "extent": 100, "n_min": 5, "table_size": 2**9},
    # Everything fits.
    "direct-center": {"sizing": "fitted", "pixel_origin": "center", "extent": 100, "n_min": 5, "table_size": 2**16},
    "direct-corner": {"sizing": "fitted", "pixel_origin": "corner", "extent": 96, "n_min": 6, "table_size": 2**16},
    # The coarse levels fit and the fine ones do not.
    "mixed-corner": {"sizing": "fitted", "pixel_origin": "corner", "extent": 96, "n_min": 6, "table_size": 700},
}


def encoding_config(name: str) -> EncodingConfig:
    return EncodingConfig.model_validate({"levels": 6, "features": 2, "shape": (64, 96), **ENCODINGS[name]})


def random_grid(config: EncodingConfig) -> HashGrid:
    grid = HashGrid(config)
    randomize(grid)
    return grid


def test_the_encodings_under_test_are_hashed_direct_and_both() -> None:
    direct = {name: {encoding_config(name).is_direct(level) for level in range(6)} for name in ENCODINGS}
    assert direct == {
        "hashed-center": {False},
        "hashed-corner": {False},
        "direct-center": {True},
        "direct-corner": {True},
        "mixed-corner": {True, False},
    }


@pytest.mark.parametrize("name", ENCODINGS)
@pytest.mark.parametrize("corner", [(0, 0), (3, 57), (55, 83)])
def test_a_window_is_encoded_as_four_gathers_per_pixel_would(name: str, corner: tuple[int, int]) -> None:
    grid = random_grid(encoding_config(name))
    with torch.inference_mode():
        window = grid([corner], 9, 13)
        expected = naive_encoding(grid, grid.tables, *corner, 9, 13)
    assert window.shape == (1, 12, 9, 13)
    torch.testing.assert_close(window[0], expected, atol=2e-5, rtol=0)


@pytest.mark.parametrize("name", ENCODINGS)
def test_the_gradient_of_windows_is_that_of_four_gathers_per_pixel(name: str) -> None:
    grid = random_grid(encoding_config(name))
    corners = [(2, 5), (6, 8)]
    upstream = torch.randn(2, 12, 7, 10, generator=torch.Generator().manual_seed(1))
    (grid(corners, 7, 10) * upstream).sum().backward()
    tables = grid.tables.detach().clone().requires_grad_()
    naive = torch.stack([naive_encoding(grid, tables, row, col, 7, 10) for row, col in corners])
    (naive * upstream).sum().backward()
    assert grid.tables.grad is not None
    assert tables.grad is not None
    assert tables.grad.abs().max() > 1
    torch.testing.assert_close(grid.tables.grad, tables.grad, atol=5e-5, rtol=0)


def test_a_window_is_encoded_in_float32_whatever_precision_follows() -> None:
    grid = random_grid(encoding_config("hashed-center"))
    exact, upstream = grid([(3, 5)], 16, 16), torch.randn(1, 12, 16, 16)
    (expected,) = torch.autograd.grad(exact, grid.tables, upstream)
    with torch.autocast("cpu", torch.bfloat16):
        encoded = grid([(3, 5)], 16, 16)
        (found,) = torch.autograd.grad(encoded, grid.tables, upstream)
    assert torch.equal(encoded, exact)
    assert torch.equal(found, expected)


@pytest.mark.parametrize("table_size", [1, 1000, 2**17, 2**26])
@pytest.mark.parametrize("level", [0, 1, 10, 23])
def test_hashes_wrap_and_their_remainder_is_never_negative(level: int, table_size: int) -> None:
    rows, cols = [0, 1, 2, 4999, 2**31, 2**40], [0, 1, 7, 16383, 2**33]
    entries = hash_nodes(torch.tensor(rows), torch.tensor(cols), level, table_size)
    assert entries.tolist() == [[hashed(ix, iy, level, table_size) for ix in cols] for iy in rows]
    assert entries.min() >= 0
    assert entries.max() < table_size


def test_every_level_hashes_with_a_seed_of_its_own_that_fits_into_64_bits() -> None:
    seeds = [level_seed(level) for level in range(24)]
    assert len(set(seeds)) == 24
    assert all(-(2**63) <= seed < 2**63 for seed in seeds)


@pytest.mark.parametrize(("height", "width"), [(8, 8), (104, 136), (768, 1536), (5000, 5000), (10980, 16)])
def test_every_pixel_of_a_lite_field_lies_between_nodes_that_have_entries(height: int, width: int) -> None:
    config = preset("lite", height=height, width=width, dates=1, bands=1, table_size=2**26).encoding
    grid = HashGrid(config.model_copy(update={"features": 1, "sizing": "uniform", "table_size": 1}))
    grid.config = config  # the addresses of the full tables, without the tables
    for level in range(config.levels):
        rows, cols = (grid.axes(size - 8, 8)[level] for size in config.shape)
        entries = grid.entries(level, rows, cols).view(cols.count, rows.count).T
        assert config.is_direct(level)
        assert entries.max() < config.entries(level)
        # Along a row of nodes columns only grow: none of them is the next row's first.
        assert ((entries % config.nodes(level)[1]).diff(dim=1) > 0).all()
    assert config.cells(config.levels - 1) == config.extent  # the finest nodes are the pixels
    assert rows.aligned
    assert cols.aligned


@pytest.mark.parametrize("name", ["lite", "base"])
def test_a_window_gathers_at_most_four_nodes_per_pixel(name: str) -> None:
    grid = HashGrid(preset(name, height=64, width=64, dates=1, bands=1, table_size=2**10).encoding)
    for level in range(grid.config.levels):
        rows, cols = grid.axes(8, 4)[level], grid.axes(16, 6)[level]
        assert len(grid.entries(level, rows, cols)) <= (2 * 4) * (2 * 6)


def test_a_date_adds_its_own_vector_to_every_pixel() -> None:
    field = NeuralField(preset("lite", height=32, width=40, dates=3, bands=2, table_size=2**10))
    randomize(field)
    assert isinstance(field.time, TimeVectors)
    with torch.inference_mode():
        plain = field.grid([(0, 0), (8, 16)], 16, 24)
        dated = field.encode([(0, 0), (8, 16)], 16, 24, torch.tensor([2, 1]))
    assert torch.equal(dated[0], plain[0] + field.time.weight[2][:, None, None])
    assert torch.equal(dated[1], plain[1] + field.time.weight[1][:, None, None])
    assert not torch.equal(field.time.weight[1], field.time.weight[2])


# --- decoders


def meta_field(name: str, **numbers: Any) -> NeuralField:
    """A field that has shapes and no numbers."""
    sizes: dict[str, Any] = {"height": 5000, "width": 5000, "dates": 4, "bands": 12} | numbers
    with torch.device("meta"):
        return NeuralField(preset(name, **sizes))


@pytest.mark.parametrize(("name", "millions"), [("base", 74.8), ("large", 132.9)])
def test_the_papers_fields_have_the_papers_number_of_parameters(name: str, millions: float) -> None:
    field = meta_field(name)
    assert round(sum(p.numel() for p in field.parameters()) / 1e6, 1) == millions
    assert field.grid.tables.numel() == 11 * 2**17 * 4
    assert round(field.grid.tables.numel() / 1e6, 1) == 5.8


@pytest.mark.parametrize("name", ["base", "large"])
@pytest.mark.parametrize("size", [64, 128])
def test_the_papers_decoders_answer_at_every_pixel(name: str, size: int) -> None:
    field = meta_field(name)
    features = field.decoder(torch.empty(2, 44, size, size, device="meta"))
    assert features.shape == (2, 128, size, size)
    assert field.reconstruction(features).shape == (2, 12, size, size)


def random_field(name: str, **numbers: int) -> NeuralField:
    """In evaluation mode; built without PyTorch's own initialisation, which takes seconds for a hundred million numbers."""
    field = meta_field(name, **numbers).to_empty(device="cpu").eval()
    randomize(field)
    return field


@pytest.mark.parametrize("name", ["base", "large"])
def test_a_window_is_reconstructed_at_two_dates(name: str) -> None:
    field = random_field(name)
    with torch.inference_mode():
        first, second = field([(32, 64)] * 2, 64, 64, torch.tensor([0, 1]))
    assert first.shape == (12, 64, 64)
    assert first.isfinite().all()
    assert first.min() >= 0
    assert first.std() > 1e-3
    assert not torch.equal(first, second)  # two dates


def test_the_encoder_carries_no_stage_that_the_depth_does_not_reach() -> None:
    def stages(name: str) -> list[str]:
        layers = (key for key in meta_field(name).state_dict() if key.startswith("decoder.encoder.layer"))
        return sorted({key.split(".")[2] for key in layers})

    assert stages("lite") == ["layer1", "layer2"]
    assert stages("base") == stages("large") == ["layer1", "layer2", "layer3", "layer4"]


def test_every_parameter_of_a_lite_field_has_a_say_in_the_reconstruction() -> None:
    field = random_field("lite", height=32, width=32, dates=1, bands=2)
    field([(0, 0)], 32, 32, torch.tensor([0])).square().sum().backward()
    silent = [name for name, p in field.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert silent == []


def test_encodings_past_the_limit_are_clamped() -> None:
    for name in ("lite", "base"):
        decoder = random_field(name, height=64, width=64).decoder
        assert isinstance(decoder.projection, torch.nn.Conv2d)
        encoded = torch.full((1, decoder.projection.in_channels, 32, 32), LIMIT)
        with torch.inference_mode():
            at_limit, past_limit, inside = decoder(encoded), decoder(encoded * 50), decoder(encoded / 2)
        assert torch.equal(at_limit, past_limit)
        assert not torch.equal(at_limit, inside)


def test_a_lite_pixel_depends_on_its_halo_and_on_nothing_beyond() -> None:
    field = random_field("lite", height=256, width=256, dates=1, bands=2)
    halo, stride = field.config.decoder.halo, field.config.decoder.stride
    generator = torch.Generator().manual_seed(0)
    channels = field.config.encoding.channels

    def decoded(encoded: Tensor, turned: bool) -> Tensor:
        features = field.decoder(encoded.mT if turned else encoded)
        both = torch.cat([features, field.reconstruction.standardized(features)], 1)
        return (both.mT if turned else both)[0].float()

    encoded = torch.randn(1, channels, 30 * stride, 2 * stride, generator=generator)
    reach = 0
    with torch.inference_mode():
        for turned in (False, True):
            before = decoded(encoded, turned)
            for edge in range(14 * stride, 15 * stride):  # every place within a stride
                for changed in (slice(edge, None), slice(None, edge)):
                    other = encoded.clone()
                    other[:, :, changed] = torch.randn(other[:, :, changed].shape, generator=generator) * 5
                    rows = (decoded(other, turned) - before).abs().amax((0, 2)).nonzero()[:, 0]
                    distance = edge - int(rows[0]) if changed.start else int(rows[-1]) - edge + 1
                    reach = max(reach, distance)
                    assert distance <= halo
    assert reach > halo - stride  # nor is a wider margin computed than is needed


@pytest.mark.parametrize("rows", [slice(0, 8), slice(24, 40), slice(48, 64)])
@pytest.mark.parametrize("cols", [slice(0, 16), slice(40, 48), slice(64, 96), slice(0, 96)])
def test_a_part_of_a_lite_window_is_what_it_is_in_the_whole(rows: slice, cols: slice) -> None:
    field = NeuralField(preset("lite", height=64, width=96, bands=3, table_size=2**10)).eval()
    randomize(field)
    times = torch.tensor([0, 0])
    with torch.no_grad():
        whole = field.features([(0, 0), (0, 0)], 64, 96, times)
        part = field.features([(0, 0), (0, 0)], 64, 96, times, keep=(rows, cols))
    torch.testing.assert_close(part, whole[..., rows, cols], atol=1e-5, rtol=1e-5)


def test_folding_norms_changes_nothing_and_leaves_none() -> None:
    field = random_field("lite", height=64, width=72, dates=1, bands=3)
    folded = copy.deepcopy(field)
    fold_norms(folded)
    assert any(isinstance(module, nn.BatchNorm2d) for module in field.modules())
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    with torch.inference_mode():
        before = field.features([(0, 0)], 64, 72, torch.tensor([0]))
        after = folded.features([(0, 0)], 64, 72, torch.tensor([0]))
        assert before.std() > 0.1
        torch.testing.assert_close(after, before, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(folded.reconstruction(before), field.reconstruction(before), atol=1e-5, rtol=1e-5)


def test_folding_a_heads_norms_changes_nothing() -> None:
    head = HeadLayers(5, (8, 12), 3, "batch").eval()
    randomize(head)
    folded = copy.deepcopy(head)
    fold_norms(folded)
    features = torch.randn(2, 5, 17, 19, generator=torch.Generator().manual_seed(0))
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    with torch.inference_mode():
        torch.testing.assert_close(folded(features), head(features), atol=1e-5, rtol=1e-5)


# --- heads and their context


def test_the_papers_head_has_the_papers_number_of_parameters() -> None:
    head = HeadLayers(128, PAPER_WIDTHS, 6, "group")
    assert sum(p.numel() for p in head.parameters()) == 426_918


def test_members_answer_with_the_mean_of_their_probabilities() -> None:
    config = HeadConfig(inputs=("bands",), in_channels=4, widths=(8, 8), outputs=3, norm="batch", members=3)
    ensemble = HeadEnsemble(config).eval()
    randomize(ensemble)
    inputs = torch.randn(2, 4, 11, 13, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        probabilities = ensemble(inputs).exp()
        each = torch.stack([member(inputs).softmax(1) for member in ensemble.members])
    assert each.std(0).max() > 0.01
    torch.testing.assert_close(probabilities, each.mean(0), atol=1e-6, rtol=0)
    torch.testing.assert_close(probabilities.sum(1), torch.ones(2, 11, 13), atol=1e-6, rtol=0)


def test_a_head_pixel_depends_on_its_halo_and_on_nothing_beyond() -> None:
    config = HeadConfig(inputs=("bands",), in_channels=3, widths=(8, 8, 8), outputs=2, norm="batch", members=2)
    ensemble = HeadEnsemble(config)
    rows, cols = touched(ensemble, 31)
    assert ensemble.halo == 4
    assert (rows.min(), rows.max(), cols.min(), cols.max()) == (11, 19, 11, 19)


def touched(head: nn.Module, side: int) -> Tensor:
    """Rows and columns of the answers that change with the pixel in the middle of (3, side, side) inputs."""
    head.eval()
    randomize(head)
    inputs = torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(0))
    other = inputs.clone()
    other[..., side // 2, side // 2] += 10.0
    with torch.inference_mode():
        return (head(other) - head(inputs)).abs().amax((0, 1)).nonzero().T


def test_a_finer_heads_answers_depend_on_its_halo_and_on_nothing_beyond() -> None:
    halo = head_halo(5, 4)
    for found in touched(HeadLayers(3, (8, 8, 8, 8, 8), 2, "channel", 4), 41):
        assert (20 - halo) * 4 <= found.min() < found.max() < (20 + halo + 1) * 4
        assert found.max() >= (20 + halo) * 4 - 4  # it is no larger than it has to be, but for a pixel


def test_context_is_the_mean_and_deviation_of_neighbourhoods() -> None:
    bands = torch.randn(1, 2, 20, 24, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = context(bands)
    assert found.shape == (1, 2 * STATISTICS, 20, 24)
    for row, col in ((0, 0), (19, 23), (0, 11), (10, 12), (3, 20)):
        for number, side in enumerate(NEIGHBOURHOODS):
            half = side // 2
            near = bands[0, :, max(0, row - half) : row + half + 1, max(0, col - half) : col + half + 1].flatten(1)
            mean, deviation = found[0, 4 * number : 4 * number + 4, row, col].split(2)
            torch.testing.assert_close(mean, near.mean(1))
            torch.testing.assert_close(deviation, (near.var(1, correction=0) + 1e-4).sqrt())
    assert max(NEIGHBOURHOODS) // 2 == CONTEXT_HALO


def test_a_configuration_names_the_shape_it_encodes_in_whole_strides() -> None:
    config = preset("lite", height=101, width=133, dates=1, bands=1)
    assert config.encoding.shape == (104, 136)
    document = config.model_dump() | {"encoding": config.encoding.model_dump() | {"shape": (101, 133)}}
    with pytest.raises(ValueError, match="no multiple of the stride 8"):
        FieldConfig.model_validate(document)

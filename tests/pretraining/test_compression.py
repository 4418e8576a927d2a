"""Fewer bytes: tables of one byte a number, and image codecs of the same size beside a region file."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from affine import Affine
from factories import RegionHeaderFactory, randomize, resident
from odc.geo.geobox import GeoBox

from lianet_user.errors import ArtifactError, ImageryError
from lianet_user.field.config import DecoderConfig, FieldConfig, preset
from lianet_user.field.model import NeuralField
from lianet_user.field.weights import save_region
from lianet_user.files.artifact import decode_tables, encode_tables, open_region_file, write_artifact
from lianet_user.files.header import Band, RegionHeader
from lianet_user.geo.grid import Window
from lianet_user.imagery.grids import block_mean, refine
from lianet_user.imagery.imagery import Imagery, Patch, Resident
from lianet_user.pretraining.compression import Archive, CodecRow, DigitalNumbers, codec_table, jpeg2000, search, zstd
from lianet_user.pretraining.quality import measure_quality
from lianet_user.region import Region

HEIGHT, WIDTH = 96, 128
GSD = (10, 10, 20)


def imagery(dates: int = 2, gsd: tuple[int, ...] = GSD, height: int = HEIGHT, width: int = WIDTH) -> Imagery:
    """Hills and noise in whole digital numbers, with a cloud of nonsense on every date."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:height, :width]
    patches = []
    for date in range(dates):
        bands = []
        for band, metres in enumerate(gsd):
            scene = 0.2 + 0.1 * np.sin(y / (9 + band + date)) * np.cos(x / 8) + rng.normal(0, 0.01, (height, width))
            factor = metres // 10
            whole = block_mean(scene[: height // factor * factor, : width // factor * factor], factor)
            fine = refine((whole * 10_000).round().astype(np.float32) / np.float32(10_000), factor)
            bands.append(np.pad(fine, [(0, height - fine.shape[0]), (0, width - fine.shape[1])], mode="edge"))
        values, valid = np.stack(bands), np.ones((len(gsd), height, width), np.bool_)
        valid[:, 20:50, 30:60] = False
        values[~valid] = rng.random(int((~valid).sum()))
        patches.append(Patch(values, valid))
    return resident(
        patches,
        geobox=GeoBox((height, width), Affine(10.0, 0.0, 330_000.0, 0.0, -10.0, 5_820_000.0), "EPSG:32633"),
        bands=bands_of(gsd),
        dates=[dt.date(2017, 2 + n, 16) for n in range(dates)],
    )


def bands_of(gsd: tuple[int, ...]) -> tuple[Band, ...]:
    return tuple(Band(name=f"B{n + 2:02}", gsd_m=float(metres)) for n, metres in enumerate(gsd))


# --- one byte a number


def test_a_codebook_beats_equal_steps_and_keeps_few_values_exactly() -> None:
    rng = np.random.default_rng(0)
    heavy = rng.standard_t(3, 50_000)
    few = rng.choice([-3.0, 0.0, 0.125, 70.0], heavy.size)
    tables = np.stack([heavy, few, np.full(heavy.size, 7.25)], 1).astype(np.float32)
    spans = [slice(0, 20_000), slice(20_000, 50_000)]
    codes, values = encode_tables(tables, spans)
    assert (codes.dtype, values.dtype) == (np.dtype(np.int8), np.dtype(np.float32))
    assert (codes.shape, values.shape) == (tables.shape, (2, 3, 256))
    decoded = decode_tables(codes, values, spans)
    assert decoded.dtype == np.float32
    assert np.array_equal(decoded[:, 1:], tables[:, 1:])
    error = decoded[:, 0] - tables[:, 0]
    scale = np.abs(tables[:, 0]).max() / 127
    equal = np.round(tables[:, 0] / scale) * scale - tables[:, 0]
    assert np.std(error) < min(0.02 * np.std(tables[:, 0]), 0.2 * np.std(equal))
    assert (np.diff(values) >= 0).all()


def test_each_number_takes_the_nearest_of_its_values() -> None:
    rng = np.random.default_rng(1)
    tables = rng.normal(0, 1, (3_000, 1)).astype(np.float32)
    codes, values = encode_tables(tables, [slice(0, 3_000)])
    nearest = np.abs(tables - values[0, 0]).min(1)
    np.testing.assert_allclose(
        np.abs(decode_tables(codes, values, [slice(0, 3_000)]) - tables)[:, 0], nearest, atol=1e-6
    )


def saved(path: Path, header: RegionHeader, tables: Literal["same", "int8"] = "int8") -> NeuralField:
    field = NeuralField(header.field)
    randomize(field)
    save_region(path, header, field, tables=tables)
    return field


def test_a_region_with_int8_tables_is_smaller_and_nearly_the_same(
    region_header: RegionHeaderFactory, tmp_path: Path
) -> None:
    config = preset("lite", height=HEIGHT, width=WIDTH, dates=1, bands=3)
    field = saved(tmp_path / "small", region_header(field=config))
    save_region(tmp_path / "half", region_header(field=config), field)
    assert (tmp_path / "small").stat().st_size < (tmp_path / "half").stat().st_size
    file = open_region_file(tmp_path / "small")
    assert [file.dtypes[f"grid.{name}"].name for name in ("tables", "codebook")] == ["int8", "float32"]
    assert file.shapes["grid.codebook"] == (5, 4, 256)
    assert {dtype for name, dtype in file.dtypes.items() if not name.startswith("grid.")} == {np.dtype(np.float16)}
    small, half = (Region.open(tmp_path / name) for name in ("small", "half"))
    assert small.field.grid.tables.dtype == torch.float32
    assert (small.field.grid.tables - field.grid.tables).abs().max() < 0.02
    difference = small.reconstruct(small.window) - half.reconstruct(half.window)
    assert difference.square().mean().sqrt() < 0.02 * half.reconstruct(half.window).std()


def test_what_int8_tables_hold_survives_being_written_again(region_header: RegionHeaderFactory, tmp_path: Path) -> None:
    saved(tmp_path / "once", region_header())
    first = Region.open(tmp_path / "once")
    field = NeuralField(first.header.field)
    randomize(field)
    field.grid.tables = first.field.grid.tables
    save_region(tmp_path / "twice", first.header, field, tables="int8")
    assert torch.equal(Region.open(tmp_path / "twice").field.grid.tables, first.field.grid.tables)


def test_tables_that_all_levels_share_have_one_codebook(region_header: RegionHeaderFactory, tmp_path: Path) -> None:
    header = region_header(field=tiny(1, 3, tables="shared"))
    field = saved(tmp_path / "region", header)
    assert open_region_file(tmp_path / "region").shapes["grid.codebook"] == (1, 2, 256)
    opened = Region.open(tmp_path / "region").field.grid.tables
    assert (opened - field.grid.tables).abs().max() < 0.02


Edit = Callable[[dict[str, np.ndarray]], object]


def replaced(name: str, change: Callable[[np.ndarray], np.ndarray]) -> Edit:
    return lambda tensors: tensors.update({name: change(tensors[name])})


def as_int8(values: np.ndarray) -> np.ndarray:
    return values.astype(np.int8)


CODED: dict[str, tuple[Edit, str]] = {
    "no codebook": (
        lambda t: t.pop("grid.codebook"),
        r"1 are missing, extra or misshapen, first 'grid\.codebook' \(None, expected",
    ),
    "a misshapen codebook": (replaced("grid.codebook", lambda a: a[..., 1:]), r"first 'grid\.codebook'"),
    "too few rows": (replaced("grid.tables", lambda a: a[1:]), r"first 'grid\.tables'"),
    "no codes": (replaced("grid.tables", lambda a: a.astype(np.float16)), r"first 'grid\.codebook' \(.*None\)"),
    "a codebook of codes": (replaced("grid.codebook", as_int8), r"'grid\.codebook' is int8, which only"),
    "coded weights": (replaced("time.weight", as_int8), r"'time\.weight' is int8, which only"),
}
UNCODED: dict[str, tuple[Edit, str]] = {
    "coded weights and no codebook": (
        replaced("time.weight", as_int8),
        r"'time\.weight' is int8, which only a region's grid\.tables may be",
    ),
}


@pytest.mark.parametrize("case", [*CODED, *UNCODED])
def test_coded_tensors_are_read_strictly(region_header: RegionHeaderFactory, tmp_path: Path, case: str) -> None:
    edit, message = (CODED | UNCODED)[case]
    path = tmp_path / "region"
    saved(path, region_header(), tables="int8" if case in CODED else "same")
    tensors = open_region_file(path).tensors()
    edit(tensors)
    write_artifact(path, region_header(), tensors)
    with pytest.raises(ArtifactError, match=message):
        Region.open(path)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_tables_that_are_not_finite_are_not_coded(
    region_header: RegionHeaderFactory, tmp_path: Path, value: float
) -> None:
    field = NeuralField(region_header().field)
    with torch.no_grad():
        field.grid.tables[3, 1] = value
    with pytest.raises(ArtifactError, match=r"'grid\.tables' holds values"):
        save_region(tmp_path / "region", region_header(), field, tables="int8")
    assert not list(tmp_path.iterdir())


# --- codecs


@pytest.mark.parametrize("encode", [jpeg2000(None), zstd], ids=["jpeg2000", "zstd"])
@pytest.mark.parametrize("shape", [(96, 128), (95, 131)])
def test_lossless_codecs_give_back_every_valid_number(
    encode: Callable[[np.ndarray], bytes], shape: tuple[int, int]
) -> None:
    truth = imagery(gsd=(10, 20, 60), height=shape[0], width=shape[1])
    archive = Archive(truth, [DigitalNumbers.of(truth, index) for index in range(2)], encode)
    for index in (1, 0):
        patch = truth.read(index, truth.window)
        copy = archive.read(index, truth.window)
        for band, factor in enumerate(truth.factors):
            whole = tuple(slice(size // factor * factor) for size in shape)
            valid = patch.valid[band][whole].reshape(shape[0] // factor, factor, -1, factor).all((1, 3))
            found, expected = (block_mean(values[band][whole], factor)[valid] for values in (copy, patch.reflectance))
            np.testing.assert_allclose(found, expected, atol=1e-6)
        part = Window(12, 24, 36, 48)
        assert np.array_equal(archive.read(index, part), copy[(slice(None), *part.slices)])


def test_clouds_and_bands_that_a_date_lacks_cost_little() -> None:
    truth = imagery(dates=1)
    patch = truth.read(0, truth.window)
    everything = Resident(truth, [Patch(patch.reflectance, np.ones_like(patch.valid))])
    lacking = patch.valid.copy()
    lacking[2] = False
    without = Resident(truth, [Patch(patch.reflectance, lacking)])
    sizes = [Archive(one, [DigitalNumbers.of(one, 0)], zstd).bytes for one in (everything, truth, without)]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[1] < 0.95 * sizes[0]
    assert not Archive(without, [DigitalNumbers.of(without, 0)], zstd).read(0, truth.window)[2].any()


def test_a_search_ends_where_the_excess_is_none_from_either_side() -> None:
    truth = imagery(dates=1)
    numbers = [DigitalNumbers.of(truth, 0)]
    whole = Archive(truth, numbers, zstd).bytes
    for low, high, make in (
        (10_000.0, 1.0, lambda step: Archive(truth, numbers, zstd, step)),
        (0.02, 100.0, lambda quality: Archive(truth, numbers, jpeg2000(quality))),
    ):
        _, archive = search(make, low, high, lambda one: one.bytes / (whole / 2) - 1, 0.03)
        assert archive.bytes == pytest.approx(whole / 2, rel=0.03)


# --- the table


def tiny(dates: int, bands: int, tables: str = "per-level") -> FieldConfig:
    """A field of some thousand weights, which a codec can be as small as."""
    config = preset("base", height=HEIGHT, width=WIDTH, dates=dates, bands=bands, table_size=2**11)
    encoding = config.encoding.model_copy(
        update={"levels": 2, "features": 2, "tables": tables, "shape": (HEIGHT, WIDTH)}
    )
    decoder = DecoderConfig(
        architecture="flat", encoder=None, depth=0, projection=None, widths=(8, 8), features=8, halo=16
    )
    return config.model_copy(update={"encoding": encoding, "decoder": decoder})


@pytest.fixture
def region_path(region_header: RegionHeaderFactory, tmp_path: Path) -> Path:
    """Three dates, in float32."""
    header = region_header(dates=3, field=tiny(3, 3), bands=bands_of(GSD))
    field = NeuralField(header.field)
    randomize(field)
    with torch.no_grad():  # so that it answers with something like the imagery
        weight, bias = (field.state_dict()[f"reconstruction.layers.3.{name}"] for name in ("weight", "bias"))
        weight.mul_(0.01)
        bias.fill_(0.2)
    save_region(tmp_path / "region", header, field, torch.float32)
    return tmp_path / "region"


@pytest.fixture(scope="module")
def kept() -> dict[str, CodecRow]:
    return {}


@pytest.fixture
def rows(region_path: Path, kept: dict[str, CodecRow]) -> dict[str, CodecRow]:
    """Made once, since the codecs search for a while and `region_path` is the same region in every test."""
    if not kept:
        told: list[str] = []
        table = codec_table(region_path, imagery(), listener=told.append)
        assert {row.codec for row in table} <= {*told}
        kept |= {row.codec: row for row in table}
    return kept


def test_the_table_compares_sizes_of_the_same_imagery(rows: dict[str, CodecRow], region_path: Path) -> None:
    region = rows["region file, float32"]
    assert region.bytes == region_path.stat().st_size
    samples = HEIGHT * WIDTH * 2 + HEIGHT * WIDTH // 4
    assert region.bits == pytest.approx(8 * region.bytes / (3 * samples))  # of three dates, though two are given
    lossless = rows["JPEG 2000, lossless"]
    assert lossless.bits == pytest.approx(8 * lossless.bytes / (2 * samples))
    assert lossless.bits > region.bits
    (step_row,) = (row for name, row in rows.items() if name.startswith("GeoTIFF ZSTD, steps of"))
    for row in (rows["JPEG 2000, same size"], step_row):
        assert row.bits == pytest.approx(region.bits, rel=0.031)
    assert rows["region file, tables in int8"].bytes < rows["region file, float16"].bytes < region.bytes


def test_the_table_judges_everything_as_a_region_is_judged(rows: dict[str, CodecRow], region_path: Path) -> None:
    truth = imagery()
    region = rows["region file, float32"]
    assert region.quality == measure_quality(Region.open(region_path), truth)
    assert region.psnr_db == pytest.approx(
        -10 * math.log10(np.mean([10 ** (-(one.psnr_db or 0) / 10) for one in region.quality]))
    )
    assert rows["region file, float16"].psnr_db == pytest.approx(region.psnr_db, abs=0.1)
    assert rows["JPEG 2000, same PSNR"].psnr_db == pytest.approx(region.psnr_db, abs=0.5)  # so small, it moves in steps
    for name in ("JPEG 2000, lossless", "GeoTIFF ZSTD, lossless"):
        assert (rows[name].psnr_db or 0) > 115
        assert rows[name].spectral_angle_deg == pytest.approx(0, abs=1e-4)
    assert 115 > (rows["JPEG 2000, same size"].psnr_db or 0) > 20


def test_of_much_imagery_some_dates_are_judged(region_path: Path) -> None:
    table = codec_table(region_path, imagery(dates=3), most_pixels=2 * HEIGHT * WIDTH)
    assert [[one.date.month for one in row.quality] for row in table] == [[2, 4]] * len(table)


def test_other_imagery_is_refused_before_anything_is_compressed(region_path: Path) -> None:
    with pytest.raises(ImageryError, match="does not hold 2017-05-16"):
        codec_table(region_path, imagery(dates=4))

"""What the authors' code wrote becomes a region that computes what their code computes, or is refused by name."""

from __future__ import annotations

import datetime as dt
import importlib.util
import json
import math
import pickle
import re
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lianet_user.cli import _run
from lianet_user.errors import ArtifactError, InputError
from lianet_user.field.config import (
    PAPER_WIDTHS,
    FourierTime,
    HeadConfig,
    MlpTime,
    SinusoidalTime,
    days_since_epoch,
    preset,
)
from lianet_user.field.encoding import TimeMlp, TimeWaves
from lianet_user.field.head import HeadEnsemble
from lianet_user.field.model import NeuralField
from lianet_user.files.header import RegionHeader
from lianet_user.geo.grid import Window
from lianet_user.paper_import import import_checkpoint, read_about
from lianet_user.paper_import.checkpoint import published_name
from lianet_user.region import Region

PARITY = Path(__file__).resolve().parents[3] / "shared" / "parity"
BANDS = "B01,B02,B03,B04,B05,B06,B07,B08,B8A,B09,B11,B12"
ABOUT: dict[str, Any] = {
    "name": "munich",
    "licence": "CC-BY-4.0",
    "attribution": "contains modified Copernicus Sentinel data 2018",
    "crs": "EPSG:32632",
    "origin": [600_000.0, 5_300_040.0],
    "pixel_size": 10.0,
    "width": 300,
    "height": 400,
    "dates": ["2018-02-16T10:11:31", "2018-05-02T10:20:21", "20180821T101019"],
    "bands": ["B02", "B03", "B04"],
    "offset": 1000,
    "pixel_origin": "corner",
}


# --- the paper's field, from their folder to the region's answers


Parity = tuple[dict[str, Any], dict[str, np.ndarray], Callable[[str, tuple[int, ...]], np.ndarray]]


@pytest.fixture(scope="module")
def parity() -> Parity:
    """The authors' names and shapes, what their code computed, and the weights it computed with."""
    if not PARITY.is_dir():
        pytest.skip("needs the fixtures of ../shared/parity, which are no part of the repository")
    specification = importlib.util.spec_from_file_location("fill", PARITY / "fill.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    with np.load(PARITY / "base.npz") as arrays:
        return json.loads((PARITY / "base.json").read_text()), dict(arrays), module.fill


def test_base_computes_what_the_authors_code_computes(parity: Parity, tmp_path: Path) -> None:
    description, arrays, fill = parity
    folder = tmp_path / "results"
    state = {
        f"module.{name}": torch.from_numpy(fill(name, tuple(shape))).to(getattr(torch, dtype.removeprefix("torch.")))
        for name, (shape, dtype) in description["state_dict"].items()
    }
    document = {"num_channels": 12, "model": description["model"] | {"out_channels": "${num_channels}"}}
    write(folder / "model_checkpoints", state)
    (folder / "used_parameters.json").write_text(json.dumps(document))
    (tmp_path / "about.toml").write_text(
        'licence = "CC-BY-4.0"\nattribution = "Copernicus"\ncrs = "EPSG:32632"\norigin = [600000, 5300040]\n'
        "pixel_size = 10\nwidth = 5000\nheight = 5000\noffset = 1000\n"
        'dates = ["2018-02-16", 2018-05-02, 2018-08-21T10:10:19, "20181013T101021"]\n'
    )
    arguments = [folder, "--about", tmp_path / "about.toml", "--bands", BANDS, "-o", tmp_path / "munich.safetensors"]
    assert _run(["import-checkpoint", *map(str, arguments), "--pixel-origin", "center"]) == 0
    region = Region.open(tmp_path / "munich.safetensors")
    assert region.header.name == "munich"
    assert region.header.field.preset == "base"
    assert region.header.grid.transform == (10, 0, 600_000, 0, -10, 5_300_040)
    assert region.header.bands[3].wavelength_nm == 664.6
    assert region.header.bands[0].offset == 1000
    heads = {}
    for name, scale in (("head", 1), ("head_4x", 4)):
        heads[name] = HeadEnsemble(head_config(128, PAPER_WIDTHS, outputs=6, scale=scale)).eval()
        weights = {key.removeprefix(f"{name}."): fill(key, tuple(shape)) for key, shape in description[name].items()}
        heads[name].members[0].load_state_dict({key: torch.from_numpy(values) for key, values in weights.items()})
    for number, (date, col, row) in enumerate(zip(*(arrays[k] for k in ("timestamps", "x0", "y0")), strict=True)):
        corner, patch = [(int(row), int(col))], Window(int(row), int(col), 128, 128)
        with torch.inference_mode():
            features = region.patch_features(patch, region.header.dates[int(date)])[None]
            found = {
                "encoding": region.field.grid(corner, 128, 128)[..., ::16, ::16],
                "features": features[..., ::16, ::16],
                "reconstruction": region.field.reconstruction(features)[..., ::4, ::4],
                "head": heads["head"].members[0](features.relu())[..., ::4, ::4],
                "head_4x": heads["head_4x"].members[0](features.relu())[..., ::16, ::16],
            }
        for what, values in found.items():
            expected = arrays[what][number]
            assert expected.std() > 0.01
            np.testing.assert_allclose(values[0].numpy(), expected, atol=1e-4, rtol=0, err_msg=what)
    # The first and the last patch are among those that maps are blended of. In a corner of the region there is no other.
    for number, row, first in ((0, 0, 0), (2, 4928, 4)):
        date = region.header.dates[int(arrays["timestamps"][number])]
        corner_features = region.features(Window(row, row, 72, 72), date)[:, 8 * bool(row) :: 16, 8 * bool(row) :: 16]
        expected = arrays["features"][number][:, first : first + 5, first : first + 5]
        side = expected.shape[-1]
        np.testing.assert_allclose(corner_features[:, :side, :side].numpy(), expected, atol=1e-4, rtol=0)


def head_config(inputs: int, widths: tuple[int, ...], outputs: int, scale: int) -> HeadConfig:
    document = {"inputs": ("features",), "in_channels": inputs, "widths": widths, "outputs": outputs}
    return HeadConfig.model_validate(document | {"norm": "group", "scale": scale})


def test_every_tensor_of_large_has_a_name_of_theirs(parity: Parity) -> None:
    with torch.device("meta"):
        fields = {n: NeuralField(preset(n, height=5000, width=5000, dates=4, bands=12)) for n in ("base", "large")}
    names = {name: {published_name(key, "resunet") for key in field.state_dict()} for name, field in fields.items()}
    assert names["base"] == set(parity[0]["state_dict"])
    # Large is Base with a deeper third stage and wider up-blocks.
    assert names["base"] < names["large"]
    extra = names["large"] - names["base"]
    stages = {match[1] for name in extra if (match := re.match(r"resunet\.encoder\.encoder3\.(\d+)\.", name))}
    assert stages == {str(number) for number in range(6, 23)}
    assert len(extra) == 17 * 18


# --- later releases


def filled(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """Weights drawn from a generator that the tensor's own name seeds."""
    uniform = torch.from_numpy(np.random.default_rng(zlib.crc32(name.encode())).uniform(-1.0, 1.0, shape)).float()
    if len(shape) == 1:
        return 1 + uniform / 2 if name.endswith("weight") else uniform if name.endswith("freqs") else uniform / 10
    if name == "time_encoder.net.0.weight":
        return uniform / 1000  # it reads thousands of days
    return uniform if "tables" in name or ".emb." in name else uniform * math.sqrt(3.0 / math.prod(shape[1:]))


def light_options(**changes: object) -> dict[str, Any]:
    """Options of a small `LIANetLight`; None takes one away, but for the projection, which may be none."""
    options = {
        "_target_": "models.LIANet.LIANetLight",
        "timestamp_dim": 3,
        "time_mode": "index",
        "num_time_frequencies": 8,
        "time_input_dim": 3,
        "time_mlp_hidden": 16,
        "levels": 5,
        "n_min": 16,
        "growth": 2,
        "table_size": 4096,
        "feat_dim": 4,
        "complete_tile_size": 10980,
        "out_channels": 3,
        "preproj_channels": 32,
        "n_blocks": 1,
    } | changes
    return {name: value for name, value in options.items() if value is not None or name == "preproj_channels"}


def light_tensors(options: dict[str, Any], blocks: int) -> dict[str, torch.Tensor]:
    """The tensors of the field that `options` describe, by the authors' names."""
    channels = options["levels"] * options["feat_dim"]
    shapes: dict[str, tuple[int, ...]] = {"encoder.tables": (options["table_size"], options["feat_dim"])}
    if "num_regions" in options:
        shapes["encoder.tables"] = (options["num_regions"], *shapes["encoder.tables"])
    mode, waves, hidden = (options[key] for key in ("time_mode", "num_time_frequencies", "time_mlp_hidden"))
    if mode == "index":
        shapes["time_encoder.emb.weight"] = (options["timestamp_dim"], channels)
    elif mode == "mlp":
        for number, (inputs, outputs) in enumerate(((3, hidden), (hidden, hidden), (hidden, channels))):
            shapes |= convolution(f"time_encoder.net.{2 * number}", outputs, inputs)
    else:
        shapes |= convolution("time_encoder.proj", channels, 2 * waves)
        if mode == "fourier_learned":
            shapes["time_encoder.freqs"] = (waves,)
    inputs = options["preproj_channels"] or channels
    if options["preproj_channels"]:
        shapes |= convolution("preproj", inputs, channels, 1, 1)
    shapes |= {"light_head.stem.0.weight": (256, inputs, 1, 1)} | convolution("light_head.stem.1", 256)
    for number in range(blocks):
        for layer in (0, 3):
            block = f"light_head.blocks.{number}.block"
            shapes |= {f"{block}.{layer}.weight": (256, 256, 3, 3)} | convolution(f"{block}.{layer + 1}", 256)
    shapes |= convolution("light_head.proj", 128, 256, 1, 1) | convolution("final_layer.0", 64, 128, 3, 3)
    shapes |= convolution("final_layer.1", 64) | convolution("final_layer.3", options["out_channels"], 64, 3, 3)
    return {name: filled(name, shape) for name, shape in shapes.items()}


def convolution(name: str, outputs: int, *rest: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (outputs, *rest), f"{name}.bias": (outputs,)}


def write(folder: Path, state: object, name: str = "latest_validation_checkpoint.pt") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    torch.save({"epoch": 1, "global_step": 2, "model_state_dict": state, "loss": torch.tensor(0.5)}, folder / name)


def light_folder(folder: Path, blocks: int = 1, prefix: str = "", **changes: object) -> Path:
    """A folder as the later releases leave it behind."""
    options = light_options(**changes)
    write(folder, {prefix + name: tensor for name, tensor in light_tensors(options, blocks).items()})
    document = {"mode": options["time_mode"], "model": options | {"time_mode": "${mode}"}}
    (folder / "used_parameters.json").write_text(json.dumps(document))
    return folder


RELEASES: dict[str, tuple[dict[str, Any], dict[str, Any], list[float]]] = {
    "v1.1.0": (
        {"n_blocks": None, "final_activation": "ReLU"},
        {},
        [0.468298, 0.331973, 0.496719, 0.554501, 0.0, 0.091326],
    ),
    "v3.0.0": (
        {"n_blocks": None, "time_mode": "sinusoidal", "growth": 1.7},
        {"interpolation": "mean"},
        [-0.974038, -0.270882, -0.472667, -0.013067, -0.477958, -0.63685],
    ),
    "v4.2.0": (
        {"time_mode": "fourier_learned", "preproj_channels": None},
        {},
        [0.402915, 0.721822, -0.47989, 0.099355, -0.321883, 0.260446],
    ),
    "after v4.2.0": (
        {
            "time_mode": "mlp",
            "complete_tile_size": None,
            "num_regions": 2,
            "bilinear": False,
            "n_blocks": None,
        },
        {"extent": 20976, "region_index": 1},
        [0.080869, 0.651199, -0.087721, -0.471446, -0.10672, -0.048828],
    ),
}
"""Release: options, what has to be said beside them, and what the authors' code then computed on a CPU for three bands at
two pixels, (5, 7) and (20, 31), of the 32 x 32 window at row 96, column 200 on 2 May 2018 at 10:20:21."""


@pytest.mark.parametrize("release", RELEASES)
def test_a_later_releases_field_computes_what_their_code_computes(release: str, tmp_path: Path) -> None:
    options, about, expected = RELEASES[release]
    blocks = {"v1.1.0": 2, "v4.2.0": 1}.get(release, 3)
    prefix = {"v1.1.0": "_orig_mod.", "v3.0.0": "module._orig_mod."}.get(release, "")
    folder = light_folder(tmp_path, blocks, prefix, **options)
    header = import_checkpoint(folder, tmp_path / "region.safetensors", read_about(**(ABOUT | about)))
    assert header.field.preset == "flat"
    region = Region.open(tmp_path / "region.safetensors")
    moment = region.header.time_of(dt.date(2018, 5, 2))
    with torch.inference_mode():
        found = region.field([(96, 200)], 32, 32, torch.tensor([moment], dtype=time_type(moment)))[0]
    np.testing.assert_allclose(found[:, [5, 20], [7, 31]].flatten().numpy(), expected, atol=2e-5, rtol=0)
    # And by way of the map's own windows, whatever their size and place: here in the corner that one patch holds alone.
    assert region.reconstruct(Window(321, 225, 79, 75), dt.date(2018, 5, 2)).shape == (3, 79, 75)


def time_type(moment: float) -> torch.dtype:
    return torch.float64 if isinstance(moment, float) else torch.int64


def test_heads_read_what_the_published_ones_read(tmp_path: Path) -> None:
    """They take the reconstruction layer's place: where nothing follows it, nothing rectifies the features."""
    for activation in ("ReLU", "none"):
        folder = light_folder(tmp_path / activation, final_activation=activation)
        import_checkpoint(folder, folder / "region.safetensors", read_about(**ABOUT))
        region = Region.open(folder / "region.safetensors")
        window, date = Window(311, 231, 89, 69), dt.date(2018, 5, 2)  # two patches are blended there
        features = region.features(window, date)
        assert features.min() < 0
        expected = features.relu() if activation == "ReLU" else features
        assert torch.equal(region.head_input(window, date, ["features"]), expected)
        assert (region.reconstruct(window, date).min() < 0) == (activation == "none")


# --- time encodings, against their formulas


MOMENTS = [dt.datetime(2015, 1, 1), dt.datetime(2018, 5, 2, 10, 20, 21), dt.datetime(2024, 12, 31, 23, 59, 59)]


def test_days_count_from_2015_with_their_fractions() -> None:
    assert [days_since_epoch(moment) for moment in MOMENTS[:1]] == [0.0]
    assert days_since_epoch(dt.datetime(2016, 1, 1, 6)) == 365.25
    assert days_since_epoch(dt.datetime(2014, 12, 31, 12)) == -0.5


@pytest.mark.parametrize("learned", [False, True])
def test_waves_are_sines_then_cosines_of_days_times_frequencies(learned: bool) -> None:
    config = FourierTime(kind="fourier", frequencies=6) if learned else SinusoidalTime(kind="sinusoidal", frequencies=6)
    waves = TimeWaves(config, 5)
    weight, bias = filled("proj.weight", (5, 12)), filled("proj.bias", (5,))
    waves.layer.weight.data, waves.layer.bias.data = weight, bias
    frequencies = np.array([1, 2, 4, 8, 16, 32], np.float32)
    if learned:
        waves.frequencies.data = filled("freqs", (6,))
        frequencies = waves.frequencies.detach().numpy()
    days = np.array([days_since_epoch(moment) for moment in MOMENTS])
    angles = (days.astype(np.float32)[:, None] * frequencies).astype(np.float64)
    expected = np.concatenate([np.sin(angles), np.cos(angles)], 1) @ weight.numpy().T + bias.numpy()
    with torch.inference_mode():
        found = waves(torch.from_numpy(days)).numpy()
    np.testing.assert_allclose(found, expected, atol=2e-6, rtol=0)
    assert np.ptp(expected, 0).min() > 0.1


def test_the_mlp_reads_days_and_where_in_the_year_they_lie() -> None:
    mlp = TimeMlp(MlpTime(kind="mlp", hidden=7, layers=3), 5)
    days = [days_since_epoch(moment) for moment in MOMENTS]
    year = [(0 - 0) / 365, (31 + 28 + 31 + 30 + 2 - 1) / 365, (366 - 1) / 365]
    inputs = np.array(
        [[day, math.sin(2 * math.pi * y), math.cos(2 * math.pi * y)] for day, y in zip(days, year, strict=True)]
    )
    values = inputs
    for number, (wide, narrow) in enumerate(((7, 3), (7, 7), (5, 7))):
        layer = mlp.layers[2 * number]
        assert isinstance(layer, torch.nn.Linear)
        layer.weight.data = filled(f"net.{number}", (wide, narrow)) / (1000 if number == 0 else 1)
        layer.bias.data = filled(f"net.{number}.bias", (wide,))
        values = values @ layer.weight.detach().double().numpy().T + layer.bias.detach().double().numpy()
        if number < 2:
            values = values * 0.5 * (1 + np.vectorize(math.erf)(values / math.sqrt(2)))
    with torch.inference_mode():
        found = mlp(torch.tensor(days, dtype=torch.float64)).numpy()
    np.testing.assert_allclose(found, values, atol=1e-5, rtol=0)
    assert np.ptp(values, 0).max() > 0.1


# --- inputs that are wrong

Edit = Callable[[Path], object]


def changed(**changes: object) -> Edit:
    """Other options; the tensors stay as they are."""

    def edit(folder: Path) -> None:
        document = json.loads((folder / "used_parameters.json").read_text())
        document["model"] |= changes
        document["model"] = {name: value for name, value in document["model"].items() if value != "nothing"}
        (folder / "used_parameters.json").write_text(json.dumps(document))

    return edit


def options_as(text: str) -> Edit:
    return lambda folder: (folder / "used_parameters.json").write_text(text)


def tensors(change: Callable[[dict[str, Any]], object]) -> Edit:
    def edit(folder: Path) -> None:
        state = light_tensors(light_options(), 1)
        change(state)
        write(folder, state)

    return edit


def tensor(name: str, value: object) -> Edit:
    """A tensor more, or another in its place."""
    return tensors(lambda state: state.update({name: value}))


CHECKPOINT = "latest_validation_checkpoint.pt"


def document_as(document: object) -> Edit:
    return lambda folder: torch.save(document, folder / CHECKPOINT)


def two_checkpoints(folder: Path) -> None:
    shutil.copy(folder / CHECKPOINT, folder / "checkpoint_Epoch1_Iteration2.pt")


class Executed:
    """A pickle that would make a folder if it were loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.mkdir, (self.path,)


def executable(folder: Path) -> None:
    torch.save({"model_state_dict": {"a": Executed(folder / "executed")}}, folder / CHECKPOINT)


def plain_pickle(folder: Path) -> None:
    (folder / CHECKPOINT).write_bytes(pickle.dumps(Executed(folder / "executed")))


def cut_off(folder: Path) -> None:
    (folder / CHECKPOINT).write_bytes((folder / CHECKPOINT).read_bytes()[:5000])


BAD_FOLDERS: dict[str, tuple[Edit, str]] = {
    "no options": (lambda f: (f / "used_parameters.json").unlink(), r"cannot read .*used_parameters\.json: No such file"),
    "no JSON": (options_as("{"), r"used_parameters\.json is not valid JSON"),
    "no object": (options_as("[]"), "is not a JSON object"),
    "a key twice": (options_as('{"model": {"levels": 1, "levels": 2}}'), "the key 'levels' appears twice"),
    "no number": (options_as('{"model": {"growth": NaN}}'), "NaN is not a number"),
    "no model": (options_as('{"nEpochs": 3}'), "has no object 'model'"),
    "another class": (changed(_target_="os.system"), r"model\._target_ is 'os\.system', expected one of models\.LIANet"),
    "an unknown option": (changed(n_heads=3), r"model\.n_heads is an option that this program does not know"),
    "a missing option": (changed(n_min="nothing"), r"model\.n_min is missing"),
    "a wrong type": (changed(levels="5"), r"model\.levels is '5': .*valid integer"),
    "a wrong activation": (changed(final_activation="Sigmoid"), r"model\.final_activation is 'Sigmoid'"),
    "a wrong time": (changed(time_mode="lunar"), r"model\.time_mode is 'lunar'"),
    "a reference to nothing": (changed(levels="${nothing.here}"), r"model\.levels is '\$\{nothing\.here\}', which refers"),
    "a resolver": (changed(levels="${oc.env:HOME}"), r"model\.levels is '\$\{oc\.env:HOME\}', which refers to nothing"),
    "a reference to itself": (changed(levels="${model.levels}"), r"model\.levels refers to itself"),
    "averaged pixels": (changed(hash_vectorized=False), r"model\.hash_vectorized is false, expected true"),
    "unknown inputs": (changed(time_mode="mlp", time_input_dim=5), r"model\.time_input_dim is 5, expected 3"),
    "too fine": (changed(levels=24, growth=10), r"cannot be built: .*2\*\*40 cells"),
    "wild growth": (changed(growth=0.5), r"cannot be built: growth: Input should be greater than or equal to 1"),
    "other dates": (changed(timestamp_dim=4), r"model\.timestamp_dim is 4, but 3 `dates` were given"),
    "other bands": (changed(out_channels=12), r"model\.out_channels is 12, but 3 `bands` were given"),
    "no extent": (changed(complete_tile_size="nothing"), r"does not say model\.complete_tile_size: give `extent`"),
    "an open interpolation": (changed(n_blocks="nothing"), "does not say which release read model.bilinear"),
    "several regions": (changed(num_regions=2), r"'encoder\.tables', which has shape \(4096, 4\), expected \(2, 4096, 4\)"),
    "more blocks": (changed(n_blocks=2), r"6 tensors are missing, extra or misshapen, first 'light_head\.blocks\.1\.block"),
    "other tables": (changed(table_size=5000), r"'encoder\.tables', which has shape \(4096, 4\), expected \(5000, 4\)"),
    "no checkpoint": (lambda f: (f / CHECKPOINT).unlink(), r"holds no checkpoint \(\*\.pt\)"),
    "two checkpoints": (two_checkpoints, r"holds 2 checkpoints \(checkpoint_Epoch1_Iteration2\.pt, .*`checkpoint`"),
    "code": (executable, "holds more than tensors and numbers"),
    "a plain pickle": (plain_pickle, "holds more than tensors and numbers"),
    "cut off": (cut_off, "is not a whole PyTorch checkpoint"),
    "a list": (document_as([1, 2]), "holds no weights"),
    "no tensors": (document_as({"model_state_dict": {}}), "holds no weights"),
    "a number": (tensor("light_head.proj.bias", 3), r"'light_head\.proj\.bias' is a int, expected tensors by name"),
    "a missing tensor": (tensors(lambda s: s.pop("final_layer.0.bias")), r"first 'final_layer\.0\.bias', which is missing"),
    "an extra tensor": (
        tensor("cr_head.final.bias", torch.zeros(1)),
        r"first 'cr_head\.final\.bias', which is not part of the field",
    ),
    "a misshapen tensor": (
        tensor("preproj.bias", torch.zeros(31)),
        r"1 tensors .* first 'preproj\.bias', which has shape \(31,\), expected \(32,\)",
    ),
    "NaN": (tensors(lambda s: s["preproj.bias"].fill_(math.nan)), r"tensor 'preproj\.bias' holds NaN or infinity"),
    "integers": (
        tensor("preproj.bias", torch.zeros(32, dtype=torch.int64)),
        r"tensor 'preproj\.bias' holds no numbers of its kind \(torch\.int64",
    ),
    "a sparse tensor": (
        tensor("preproj.bias", torch.zeros(32).to_sparse()),
        r"tensor 'preproj\.bias' holds no numbers of its kind \(torch\.float32, torch\.sparse_coo\)",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_FOLDERS)
def test_a_folder_that_is_not_theirs_or_not_whole_is_refused_by_name(case: str, tmp_path: Path) -> None:
    edit, message = BAD_FOLDERS[case]
    folder = light_folder(tmp_path / "results")
    edit(folder)
    with pytest.raises(ArtifactError, match=message) as refused:
        import_checkpoint(folder, tmp_path / "region.safetensors", read_about(**ABOUT))
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "region.safetensors").exists()
    assert not (folder / "executed").exists()


BAD_DESCRIPTIONS: dict[str, tuple[dict[str, Any], str]] = {
    "nothing said": (dict.fromkeys(("offset", "pixel_origin", "crs")), "`crs`, `offset`, `pixel_origin` missing: .*v1.0.1"),
    "no dates": ({"dates": []}, "`dates` cannot be used: .*at least 1 item"),
    "no date": ({"dates": ["16.02.2018"]}, r"`dates`\.0 cannot be used: '16\.02\.2018' is not a date"),
    "a date twice": ({"dates": ["2018-02-16", "20180216T101131"]}, "date 2018-02-16 appears twice"),
    "a band twice": ({"bands": ["B02", "B02"]}, "band B02 appears twice"),
    "an unknown band": ({"bands": ["red"]}, "'red' is not a band of Sentinel-2"),
    "no CRS": ({"crs": "EPSG:0"}, "`crs` cannot be used: 'EPSG:0' is no coordinate reference system"),
    "no place": ({"origin": [1.0]}, "`origin`.* cannot be used"),
    "no size": ({"pixel_size": 0.0}, "`pixel_size`.* cannot be used: .*greater than 0"),
    "an unknown convention": ({"pixel_origin": "middle"}, "`pixel_origin` cannot be used: .*'center' or 'corner'"),
    "an unknown word": ({"resolution": 10}, "`resolution` cannot be used: Extra inputs are not permitted"),
    "a name that is no name": ({"name": "a/b"}, "`name` cannot be used"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_DESCRIPTIONS)
def test_a_description_that_leaves_something_open_is_refused(case: str) -> None:
    changes, message = BAD_DESCRIPTIONS[case]
    with pytest.raises(InputError, match=message) as refused:
        read_about(**(ABOUT | changes))
    assert "\n" not in str(refused.value)


CONTRADICTIONS: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "extent": ({}, {"extent": 5000}, r"complete_tile_size is 10980, but `extent` was given as 5000"),
    "interpolation": ({}, {"interpolation": "mean"}, "describes bilinear interpolation, but `interpolation` was given as mean"),
    "time of day": ({"time_mode": "mlp"}, {"dates": ["2018-02-16"]}, "which reads the time of day, and 2018-02-16 has none"),
    "no region": ({"num_regions": 2}, {}, "holds 2 regions and none was chosen"),
    "another region": ({"num_regions": 2}, {"region_index": 2}, "there is no `region_index` 2"),
}  # fmt: skip


@pytest.mark.parametrize("case", CONTRADICTIONS)
def test_a_description_that_contradicts_the_checkpoint_is_refused(case: str, tmp_path: Path) -> None:
    options, about, message = CONTRADICTIONS[case]
    folder = light_folder(tmp_path, **options)
    with pytest.raises(ArtifactError, match=message):
        import_checkpoint(folder, tmp_path / "region.safetensors", read_about(**(ABOUT | about)))


def test_bands_may_be_others_and_have_offsets_of_their_own() -> None:
    red = {"name": "red", "gsd_m": 3.0, "wavelength_nm": 665.0, "offset": 0.0}
    first, second = read_about(**(ABOUT | {"bands": [red, "B8A"], "pixel_size": [3, 4]})).scaled_bands
    assert (first.name, first.gsd_m, first.offset, first.scale) == ("red", 3.0, 0.0, 10_000.0)
    assert (second.gsd_m, second.wavelength_nm, second.offset) == (20.0, 864.7, 1000.0)


@pytest.mark.parametrize(("content", "message"), [("a =", "is not valid TOML"), ("\xff", "is not valid TOML")])
def test_a_description_that_is_no_toml_is_refused(content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "about.toml").write_text(content, encoding="latin-1")
    with pytest.raises(InputError, match=message):
        read_about(tmp_path / "about.toml")
    with pytest.raises(InputError, match=r"cannot read .*: No such file"):
        read_about(tmp_path / "nowhere.toml")


def test_everything_can_be_said_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = light_folder(tmp_path / "results", time_mode="fourier_learned", complete_tile_size=None, num_regions=2)
    two_checkpoints(folder)
    words = [
        "import-checkpoint", folder, "-o", tmp_path / "munich.safetensors", "--licence", "CC-BY-4.0",
        "--attribution", "Copernicus", "--crs", "EPSG:32632", "--origin", "600000,5300040", "--pixel-size", "10",
        "--width", "300", "--height", "400", "--dates", "2018-02-16T10:11:31,20180502T102021", "--bands", "B02,B03,B04",
        "--offset", "1000", "--pixel-origin", "corner", "--extent", "20976", "--region-index", "1",
        "--checkpoint", folder / CHECKPOINT,
    ]  # fmt: skip
    arguments = [str(word) for word in words]
    assert _run(arguments) == 0
    assert "300 x 400 px, 2 dates, 3 bands" in capsys.readouterr().out
    header = Region.open(tmp_path / "munich.safetensors").header
    assert isinstance(header, RegionHeader)
    assert header.field.encoding.extent == 20976
    assert header.acquisitions[1].time == dt.time(10, 20, 21)
    assert header.provenance.settings["imported_from"] == "latest_validation_checkpoint.pt"
    assert _run(["info", str(tmp_path / "munich.safetensors")]) == 0
    assert _run(arguments) == 2
    assert "exists: choose another name" in capsys.readouterr().err
    arguments[arguments.index("600000,5300040")] = "600000;5300040"
    assert _run([*arguments, "--overwrite"]) == 2
    assert "expected two numbers X,Y" in capsys.readouterr().err

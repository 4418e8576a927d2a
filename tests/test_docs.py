"""The documentation: it builds without a warning, its file format suffices to write a reader, its examples work."""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
import yaml
from factories import randomize

import lianet_user
from lianet_user.field import config
from lianet_user.field.config import EncodingConfig, Schema, preset
from lianet_user.field.model import NeuralField
from lianet_user.field.weights import read_field, save_region
from lianet_user.files import header
from lianet_user.files.artifact import open_region_file

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def reader() -> Any:
    """The format page's own reader, which must not need this package."""
    path = ROOT / "docs" / "read_region.py"
    assert "lianet_user" not in re.sub(r'^""".*?"""', "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    spec = importlib.util.spec_from_file_location("read_region", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def agrees(reader: Any, path: Path, windows: list[tuple[int, int, int, int]]) -> None:
    """The reader's encoding of windows is that of the field which this package reads from the same file."""
    grid = read_field(open_region_file(path)).grid
    other = reader.RegionFile(path)
    for row, col, height, width in windows:
        with torch.inference_mode():
            expected = grid([(row, col)], height, width)[0].numpy()
        found = other.encode(row, col, height, width)
        assert found.shape == expected.shape
        assert np.abs(expected).max() > 1e-3  # an encoding of nothing would agree with everything
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["havelland", "romania", "bouconne"])
def test_a_reader_by_the_format_page_encodes_as_this_package_does(reader: Any, name: str) -> None:
    path = ROOT / "models" / f"{name}.safetensors"
    grid = open_region_file(path).header.grid
    height, width = grid.height, grid.width
    agrees(reader, path, [(0, 0, 16, 40), (33, 21, 50, 7), (height - 9, width - 30, 9, 30)])


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"tables": "shared"},
        {"interpolation": "mean"},
        {"pixel_origin": "corner", "growth": 1.7},
        {"sizing": "fitted", "table_size": 2**9},
    ],
    ids=lambda changed: "-".join(map(str, changed.values())) or "paper",
)
@pytest.mark.parametrize("tables", ["same", "int8"])
def test_the_reader_knows_every_kind_of_grid(
    changed: dict[str, Any], tables: Any, reader: Any, region_header: Any, tmp_path: Path
) -> None:
    described = region_header()
    plain = preset("lite", height=96, width=128, bands=3).model_copy(
        update={"encoding": preset("base", height=96, width=128, bands=3, table_size=2**12).encoding}
    )
    encoding = EncodingConfig.model_validate(plain.encoding.model_dump() | {"levels": 7} | changed)
    field_config = plain.model_copy(update={"encoding": encoding})
    field = NeuralField(field_config)
    randomize(field)
    save_region(
        tmp_path / "region.safetensors", described.model_copy(update={"field": field_config}), field, tables=tables
    )
    agrees(reader, tmp_path / "region.safetensors", [(0, 0, 96, 128), (40, 77, 13, 5)])


SCHEMAS: dict[str, type[Schema]] = {
    "Region header": header.RegionHeader,
    "Grid": header.GridHeader,
    "Band": header.Band,
    "Acquisition": header.Acquisition,
    "Field": config.FieldConfig,
    "Encoding": config.EncodingConfig,
    "Covariance": config.TemporalCovariance,
    "Decoder": config.DecoderConfig,
    "Quality": header.Quality,
    "Band's quality": header.BandQuality,
    "Provenance": header.Provenance,
    "Head header": header.HeadHeader,
    "Class": header.ClassEntry,
    "Numbers": header.Numbers,
    "Layers": config.HeadConfig,
    "Region": header.RegionRef,
    "Scores": header.Scores,
    "Scores of a class": header.ClassScore,
    "Scores of numbers": header.NumberScores,
}
"""Tables of the format page, by the headings above them."""


def test_the_format_page_names_every_field_of_a_header() -> None:
    page = (ROOT / "docs" / "reference" / "file-format.md").read_text(encoding="utf-8")
    sections = dict(re.findall(r"^##+ (.+)\n((?:(?!##).*\n)*)", page, re.MULTILINE))
    for heading, schema in SCHEMAS.items():
        rows = re.findall(r"^\| `(\w+)` \|[^|]*\| (yes|no) \|", sections[heading], re.MULTILINE)
        fields = {name: "yes" if field.is_required() else "no" for name, field in schema.model_fields.items()}
        assert dict(rows) == fields, heading
    kinds = dict(re.findall(r"^\| `(\w+)` \| (.*?) \|", sections["Time"], re.MULTILINE))
    for schema in get_args(get_args(config.TimeConfig)[0]):
        named = set(re.findall(r"`(\w+)`", kinds[get_args(schema.model_fields["kind"].annotation)[0]]))
        assert named == set(schema.model_fields) - {"kind"}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The documentation as built, without a warning."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_the_site_is_whole_and_needs_no_network(site: Path) -> None:
    pages = {page.relative_to(site).as_posix(): page.read_text(encoding="utf-8") for page in site.rglob("*.html")}
    assert {"index.html", "CONTRIBUTING.html", "benchmarks/index.html", "docs/commands/finetune.html"} <= set(pages)
    for tutorial in ROOT.glob("tutorials/[0-9]*.md"):
        assert f"tutorials/{tutorial.stem}.html" in pages
    for name, text in pages.items():
        loaded = re.findall(r"<(?:script|img|iframe)[^>]*\bsrc=\"?(https?:[^\" >]+)", text)
        loaded += re.findall(r"<link[^>]*rel=\"?(?:stylesheet|preconnect|icon)\"?[^>]*href=\"?(https?:[^\" >]+)", text)
        assert not loaded, (name, loaded)
    assert "RegionFile" in pages["docs/reference/file-format.html"]


def test_the_python_reference_has_every_public_name() -> None:
    page = (ROOT / "docs" / "reference" / "python.md").read_text(encoding="utf-8")
    documented = re.findall(r"^::: (\S+)\.(\w+)$", page, re.MULTILINE)
    for module, name in documented:
        assert hasattr(importlib.import_module(module), name)
    assert set(lianet_user.__all__) - {"__version__"} <= {name for _, name in documented}


def test_the_citation_is_of_this_version_and_issue_templates_are_whole() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors"} <= set(citation)  # what the format requires
    assert citation["version"] == lianet_user.__version__
    assert citation["license"] == "Apache-2.0"
    for path in (ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"):
        form = yaml.safe_load(path.read_text(encoding="utf-8"))
        if path.name != "config.yml":
            assert {"name", "description", "body"} <= set(form)
            names = [part["id"] for part in form["body"]]
            assert len(set(names)) == len(names) > 0

"""The tutorials run as written, print what they show, and make the pictures they show."""

import importlib.util
import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
TUTORIALS = ROOT / "tutorials"

_specification = importlib.util.spec_from_file_location("tutorials_run", TUTORIALS / "run.py")
assert _specification is not None
assert _specification.loader is not None
run = importlib.util.module_from_spec(_specification)
_specification.loader.exec_module(run)

HEADER = """---
jupyter:
  kernelspec:
    display_name: Python 3
    language: python
    name: python3
---
"""
QGIS = "images/01_qgis.png"  # its window, taken by tutorials/qgis_window.py where it is installed
PAGES = run.pages(TUTORIALS)


def a_page(folder: Path, text: str) -> Path:
    page = folder / "00_page.md"
    page.write_text(f"{HEADER}\n{text}\n", "utf-8")
    return page


@pytest.mark.slow
@pytest.mark.parametrize("name", [page.name for page in PAGES])
def test_a_tutorial_runs_offline_and_prints_what_it_shows(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIANET_CACHE", str(tmp_path / "cache"))
    for proxy in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(proxy, "http://127.0.0.1:9")  # nobody listens there: a page that wants the network fails
    (tmp_path / "models").symlink_to(ROOT / "models")
    shutil.copytree(TUTORIALS, tmp_path / "tutorials", ignore=shutil.ignore_patterns("images", "out", "*.ipynb"))
    page = tmp_path / "tutorials" / name
    run.execute(page)
    assert [each for each in run.pictures(page) if each != QGIS and not (page.parent / each).is_file()] == []


@pytest.mark.parametrize("name", [page.name for page in PAGES])
def test_the_pictures_of_a_tutorial_are_shipped_and_small(name: str) -> None:
    sizes = {picture: (TUTORIALS / picture).stat().st_size for picture in run.pictures(TUTORIALS / name)}
    assert sizes
    assert {picture: size for picture, size in sizes.items() if size > 300_000} == {}


def test_a_page_that_prints_other_things_than_it_shows_is_refused(tmp_path: Path) -> None:
    run.execute(a_page(tmp_path, "```bash\necho one two 3.14 four\n```\n\n```text\none\ntwo 3... four\n```"))
    with pytest.raises(run.TutorialError, match=r"(?s)shows\none three\n.*echo one two\n"):
        run.execute(a_page(tmp_path, "```bash\necho one two\n```\n\n```text\none three\n```"))


def test_a_line_that_fails_ends_its_cell_and_what_it_said_is_told(tmp_path: Path) -> None:
    with pytest.raises(run.TutorialError, match="echo why >&2") as raised:
        run.execute(a_page(tmp_path, "```bash\necho why >&2\nfalse\necho unreached\n```"))
    assert "why" in str(raised.value).splitlines()


def test_a_warning_that_a_page_does_not_show_is_told(tmp_path: Path) -> None:
    with pytest.raises(run.TutorialError, match="UserWarning: beware"):
        run.execute(a_page(tmp_path, '```python\nimport warnings\n\nwarnings.warn("beware")\n```'))

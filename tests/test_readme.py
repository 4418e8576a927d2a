"""The README runs from top to bottom: every shell block in order, then the Python ones, in an empty copy of the repository."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SHIPPED = ("models", "tutorials", "Makefile")
INSTALLS = ("make test", "make docs", "python3 -m venv", ". .venv", "pip install")
"""How lines begin that this test is itself a part of, or that install what it runs with."""
QUICK = {"finetune": ["--instant"], "pretrain": ["--steps", "2"]}
"""What is added to commands, so that the test takes a minute or two; a later option holds."""


def blocks(language: str) -> list[str]:
    text = (ROOT / "README.md").read_text("utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what ships, and with commands that add what makes them quick."""
    folder = tmp_path_factory.mktemp("readme")
    for name in SHIPPED:
        (folder / name).symlink_to(ROOT / name)
    (folder / "bin").mkdir()
    command = folder / "bin" / "lianet-user"
    command.write_text(
        f"#!{sys.executable}\n"
        "import sys\n"
        "from lianet_user.cli import main\n"
        f"sys.argv += {QUICK!r}.get(sys.argv[1], [])\n"
        "main()\n",
        "utf-8",
    )
    command.chmod(0o755)
    return folder


def run(folder: Path, *command: str) -> None:
    path = os.pathsep.join([str(folder / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "LIANET_CACHE": str(folder / "cache")}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, f"{command[-1]}\n{done.stdout}\n{done.stderr}"


@pytest.mark.slow
def test_the_readme_runs_from_top_to_bottom(checkout: Path) -> None:
    ran: set[str] = set()
    for block in blocks("sh"):
        lines = re.sub(r"\\\n\s*", "", block).splitlines()
        wanted = [line for line in lines if line not in ran and not line.startswith(INSTALLS)]
        ran.update(wanted)  # what a block says once more has been done
        # `make demo` with the commands of this folder, and without the installation that it begins with
        text = "\n".join(wanted).replace("make demo", "make demo BIN=bin -o .venv/.installed")
        run(checkout, "bash", "-euc", text)
    for block in blocks("python"):
        run(checkout, sys.executable, "-c", block)
    made = {path.name for path in (checkout / "demo").iterdir()}
    assert {"head.safetensors", "head.html", "map.tif", "map.png", "check.png", "lakes.csv", "july.png"} <= made
    assert {path.name for path in checkout.iterdir()} <= {*SHIPPED, "bin", "cache", "demo"}

"""torchvision imports with or without its compiled operators, each case in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace

import pytest

from lianet_user.field import torchvision_ops


def run(code: str) -> subprocess.CompletedProcess[str]:
    """Run `code` in a fresh interpreter: what torch has declared cannot be undone within one process."""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False)


@pytest.fixture(scope="module")
def after_a_failure() -> subprocess.CompletedProcess[str]:
    """A process in which torchvision's own import fails, and then succeeds twice; skip where its operators load.

    Starting torch takes seconds, so this one process also says whether there is anything to cure.
    """
    done = run(
        "import sys\n"
        "try:\n"
        "    import torchvision\n"
        "except RuntimeError as error:\n"
        "    print(error, file=sys.stderr)\n"
        "else:\n"
        "    sys.exit('loads')\n"
        "from lianet_user.field import torchvision_ops\n"
        "torchvision_ops.import_torchvision()\n"
        "library = torchvision_ops._library\n"
        "import torchvision\n"
        "torchvision_ops.import_torchvision()\n"
        "assert torchvision_ops._library is library is not None\n"
        "assert sys.modules['torchvision'] is torchvision\n"
    )
    if done.stderr.splitlines()[-1:] == ["loads"]:
        pytest.skip("torchvision's own operators load here, so there is nothing to cure")
    assert "operator torchvision::nms does not exist" in done.stderr
    return done


@pytest.fixture(scope="module")
def cured(after_a_failure: subprocess.CompletedProcess[str]) -> subprocess.CompletedProcess[str]:
    """A process in which the operators are declared before the first import, and one that is missing is then called."""
    return run(
        "from lianet_user.field.torchvision_ops import import_torchvision\n"
        "import_torchvision()\n"
        "import segmentation_models_pytorch, timm, torch, torchvision\n"
        "assert not torchvision.extension._has_ops()\n"
        "print('imported', flush=True)\n"
        "torchvision.ops.nms(torch.zeros(1, 4), torch.zeros(1), 0.5)\n"
    )


def test_segmentation_models_import_once_the_operators_are_declared(cured: subprocess.CompletedProcess[str]) -> None:
    assert cured.stdout == "imported\n", cured.stderr


def test_cure_works_after_a_failed_import_and_twice(after_a_failure: subprocess.CompletedProcess[str]) -> None:
    assert after_a_failure.returncode == 0, after_a_failure.stderr


def test_missing_operator_still_explains_itself(cured: subprocess.CompletedProcess[str]) -> None:
    assert "Couldn't load custom C++ ops" in cured.stderr


def test_nothing_is_declared_where_the_operators_load(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(torchvision_ops, "_library", None)
    monkeypatch.setattr(torchvision_ops, "importlib", SimpleNamespace(import_module=asked.append))
    torchvision_ops.import_torchvision()
    assert asked == ["torchvision"]
    assert torchvision_ops._library is None


@pytest.mark.parametrize("error", [RuntimeError("CUDA driver too old"), ImportError("No module named 'torchvision'")])
def test_another_failure_is_not_hidden(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail(name: str) -> None:
        raise error

    monkeypatch.setattr(torchvision_ops, "_library", None)
    monkeypatch.setattr(torchvision_ops, "importlib", SimpleNamespace(import_module=fail))
    with pytest.raises(type(error), match=str(error)):
        torchvision_ops.import_torchvision()
    assert torchvision_ops._library is None

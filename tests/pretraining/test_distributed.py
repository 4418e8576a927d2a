"""Several processes with their shares of a batch end where one process with all of it does."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from pathlib import Path

import pytest
import safetensors.torch
import torch
from processes import Child
from torch import Tensor, distributed, nn

from lianet_user.errors import InputError
from lianet_user.field.config import preset
from lianet_user.field.model import NeuralField
from lianet_user.pretraining.distributed import VARIABLES, Processes, SyncNorm, synchronize_norms

SIDE, WINDOW, BATCH, STEPS = 64, 48, 4, 6
FROZEN = 4
"""The step from which on norms keep their statistics, as pretraining does it."""

State = dict[str, Tensor]


class Loss(nn.Module):
    """What a process computes of its windows: the mean squared error."""

    def __init__(self, field: NeuralField) -> None:
        super().__init__()
        self.field = field

    def forward(self, corners: Sequence[tuple[int, int]], truth: Tensor) -> Tensor:
        times = torch.zeros(len(corners), dtype=torch.int64)
        error: Tensor = self.field(corners, WINDOW, WINDOW, times) - truth
        return error.square().mean()


def windows(step: int) -> tuple[list[tuple[int, int]], Tensor]:
    """Corners and truth of a step's whole batch."""
    generator = torch.Generator().manual_seed(step)
    places = torch.randint((SIDE - WINDOW) // 8 + 1, (BATCH, 2), generator=generator) * 8
    return [(int(row), int(col)) for row, col in places], torch.rand(BATCH, 2, WINDOW, WINDOW, generator=generator)


def untrained() -> NeuralField:
    torch.manual_seed(0)
    field = NeuralField(preset("lite", height=SIDE, width=SIDE, dates=1, bands=2))
    torch.nn.init.uniform_(field.grid.tables, -1.0, 1.0)
    return field


def train(processes: Processes) -> State:
    """A few steps; all of the field's parameters and buffers, the losses, and the gradients of the first step."""
    field = untrained()
    # Plain descent: steps of AdamW are as long where a gradient is rounding as where it is not. And short steps: with long
    # ones a field this young ends elsewhere as soon as the windows of a batch are summed in another order.
    rest = [parameter for name, parameter in field.named_parameters() if name != "grid.tables"]
    groups = [{"params": [field.grid.tables], "lr": 0.02}, {"params": rest, "lr": 2e-4}]
    optimizer = torch.optim.SGD(groups, momentum=0.9)
    synchronize_norms(field)
    if processes.rank:
        with torch.no_grad():
            field.grid.tables.zero_()  # all begin with the first one's
    loss = processes.wrap(Loss(field))
    losses, gradients = [], {}
    for step in range(STEPS):
        field.train()
        if step >= FROZEN:
            for norm in field.modules():
                if isinstance(norm, nn.BatchNorm2d):
                    norm.eval()
        corners, truth = windows(step)
        mine = slice(processes.rank, None, processes.world)
        value = loss(corners[mine], truth[mine])
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        if step == 0:
            gradients = {f"grad.{n}": p.grad.clone() for n, p in field.named_parameters() if p.grad is not None}
        optimizer.step()
        losses.append(processes.mean(value.item()))
    found = field.state_dict() | gradients | {"losses": torch.tensor(losses)}
    return {name: tensor.contiguous() for name, tensor in found.items()}


def norm_inputs() -> tuple[Tensor, Tensor]:
    """Five small images far from zero, and what their outputs are weighed with."""
    generator = torch.Generator().manual_seed(1)
    values = torch.randn(5, 3, 4, 6, generator=generator) * torch.tensor([1.0, 0.1, 3.0])[:, None, None] + 2.0
    return values, torch.randn(values.shape, generator=generator)


def normed(norm: nn.BatchNorm2d, values: Tensor, weights: Tensor) -> State:
    """Outputs, gradients and running statistics."""
    affine = {"weight": torch.tensor([0.5, 1.5, -1.0]), "bias": torch.tensor([0.1, 0.0, -2.0])}
    norm.load_state_dict(norm.state_dict() | affine)
    values = values.clone().requires_grad_()
    output = norm(values)
    (output * weights).sum().backward()
    assert values.grad is not None
    assert norm.weight.grad is not None
    assert norm.bias.grad is not None
    return {
        "output": output.detach(),
        "grad": values.grad,
        "weight.grad": norm.weight.grad,
        "bias.grad": norm.bias.grad,
        **norm.state_dict(),
        "eval": norm.eval()(values).detach(),
    }


def uneven(rank: int) -> slice:
    """Three images for the first process, two for the second."""
    return slice(0, 3) if rank == 0 else slice(3, 5)


def main(folder: Path) -> None:
    """One of the processes, with torchrun's variables set."""
    processes = Processes.join("cpu")
    results = train(processes)
    values, weights = norm_inputs()
    share = uneven(processes.rank)
    found = normed(SyncNorm.of(nn.BatchNorm2d(3)), values[share], weights[share])
    results |= {f"norm.{name}": tensor for name, tensor in found.items()}
    results["mean"] = torch.tensor(processes.mean(0.1 + processes.rank), dtype=torch.float64)
    processes.leave()
    safetensors.torch.save_file(results, folder / f"{processes.rank}.safetensors")


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[State, State]:
    """What two processes found."""
    folder = tmp_path_factory.mktemp("processes")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    started = []
    try:
        for rank in range(2):
            variables = common | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            started.append(Child(folder / str(rank), main, folder, **variables))
        told = "".join(process.wait(120)[1] for process in started)
    finally:
        for process in started:
            process.kill()
    assert [process.code for process in started] == [0, 0], told
    assert "Warning" not in told
    first, second = (safetensors.torch.load_file(folder / f"{rank}.safetensors") for rank in range(2))
    return first, second


def test_two_processes_train_as_one_does(both: tuple[State, State]) -> None:
    alone = train(Processes.join("cpu"))
    for found in both:
        assert alone.keys() == {name for name in found if not name.startswith(("norm.", "mean"))}
        for name, tensor in alone.items():
            if name.startswith("grad."):
                # Parameters hardly move in a few steps. Not element by element: rounding decides what a ReLU lets pass.
                assert (found[name] - tensor).norm() < 0.01 * tensor.norm(), name
            else:
                torch.testing.assert_close(found[name], tensor, atol=1e-5, rtol=1e-5)
    assert sum(name.startswith("grad.") for name in alone) == len(list(untrained().parameters()))


def test_both_processes_hold_the_very_same_field(both: tuple[State, State]) -> None:
    first, second = both
    names = [name for name in first if not name.startswith("norm.")]
    assert "mean" in names
    assert all(torch.equal(first[name], second[name]) for name in names)
    assert first["mean"].item() == pytest.approx(0.6, abs=1e-15)


def test_a_norm_over_uneven_shares_is_that_of_the_whole(both: tuple[State, State]) -> None:
    values, weights = norm_inputs()
    whole = {n: t.float() for n, t in normed(nn.BatchNorm2d(3).double(), values.double(), weights.double()).items()}
    for rank, found in enumerate(both):
        for name in ("output", "grad", "eval"):
            torch.testing.assert_close(found[f"norm.{name}"], whole[name][uneven(rank)], atol=1e-5, rtol=1e-5)
        for name in ("running_mean", "running_var", "num_batches_tracked"):
            torch.testing.assert_close(found[f"norm.{name}"].float(), whole[name], atol=1e-6, rtol=1e-6)
    for name in ("weight.grad", "bias.grad"):
        total = both[0][f"norm.{name}"] + both[1][f"norm.{name}"]
        torch.testing.assert_close(total, whole[name], atol=2e-5, rtol=1e-5)


# --- alone, and what cannot be joined


def set_variables(monkeypatch: pytest.MonkeyPatch, *values: str) -> None:
    for name, value in zip(VARIABLES, (*values, "127.0.0.1", "29500"), strict=True):
        monkeypatch.setenv(name, value)


def test_without_torchrun_there_is_one_process_and_nothing_is_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    processes = Processes.join("cpu")
    assert (processes.rank, processes.world, processes.local_rank) == (0, 1, 0)
    assert processes.device == torch.device("cpu")
    assert processes.mean(0.1) == 0.1
    field = nn.Sequential(nn.BatchNorm2d(3))
    assert processes.wrap(field) is field
    synchronize_norms(field)
    assert type(field[0]) is nn.BatchNorm2d
    assert not distributed.is_initialized()
    processes.leave()


def test_one_process_started_by_torchrun_needs_no_group(monkeypatch: pytest.MonkeyPatch) -> None:
    set_variables(monkeypatch, "0", "1", "0")
    assert Processes.join("cpu").world == 1
    assert not distributed.is_initialized()


@pytest.mark.parametrize("missing", VARIABLES)
def test_half_of_torchruns_variables_are_refused(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    set_variables(monkeypatch, "0", "2", "0")
    monkeypatch.delenv(missing)
    words = f"some of torchrun's variables but not {missing}: start with torchrun, or unset"
    with pytest.raises(InputError, match=words):
        Processes.join("cpu")


@pytest.mark.parametrize(
    "values", [("2", "2", "0"), ("-1", "2", "0"), ("0", "0", "0"), ("0", "2", "2"), ("0", "two", "0")]
)
def test_ranks_that_are_none_are_refused(values: tuple[str, str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    set_variables(monkeypatch, *values)
    with pytest.raises(InputError, match=f"RANK={values[0]}, WORLD_SIZE={values[1]}, LOCAL_RANK={values[2]}, expected"):
        Processes.join("cpu")


def test_more_processes_than_devices_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    set_variables(monkeypatch, "1", "2", "1")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(InputError, match="process 1 of this machine has no CUDA device of its own, there are 1"):
        Processes.join("cuda")

"""The loop: what was killed goes on to the same bits, the best state is kept, and no step depends on what came before."""

from __future__ import annotations

import dataclasses
import datetime as dt
import itertools
import multiprocessing
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lianet_user.errors import ArtifactError, LabelError, TrainingError, TrainingWarning
from lianet_user.field.head import HeadLayers, head_halo
from lianet_user.files.checkpoint import Checkpoint
from lianet_user.files.header import IGNORE, ClassEntry, Numbers, NumberScores, Scores
from lianet_user.finetuning.crops import BalancedCrops, WindowCrops, class_counts, class_offsets, cut
from lianet_user.finetuning.losses import Goal
from lianet_user.finetuning.priors import Prior
from lianet_user.finetuning.samples import Sample
from lianet_user.finetuning.settings import FinetuneSettings
from lianet_user.finetuning.trainer import NotFiniteError, Step, fit, rate_at
from lianet_user.finetuning.validation import judge
from lianet_user.geo.grid import Window

DATE = dt.date(2017, 2, 16)
CLASSES = Goal(tuple(ClassEntry(name=name, color="#000000") for name in "abc"), None)
NUMBERS = Goal((), Numbers(unit="m", offset=30.0, scale=10.0, low=0.0, high=60.0))
QUICK = FinetuneSettings(
    members=1, steps=30, batch=3, crop=16, rate=1e-2, validate_every=10, inputs=("bands",), widths=(8,)
)


def samples(goal: Goal = CLASSES, count: int = 6, size: int = 40, scale: int = 1, seed: int = 0) -> list[Sample]:
    """Windows whose labels follow from their inputs, a third of them missing."""
    rng = np.random.default_rng(seed)
    made = []
    for number in range(count):
        inputs = rng.normal(size=(3, size, size))
        fine = inputs.repeat(scale, 1).repeat(scale, 2)
        missing = rng.random(fine.shape[1:]) < 1 / 3
        if goal.classes:
            labels = np.where(missing, IGNORE, fine.argmax(0)).astype(np.uint8)
        else:
            labels = np.where(missing, np.nan, 30 + 10 * fine[0]).astype(np.float32)
        window = Window(0, number * size, size, size)
        made.append(Sample(DATE, window, window, torch.from_numpy(labels), torch.from_numpy(inputs).to(torch.float16)))
    return made


def network(goal: Goal = CLASSES, seed: int = 0, scale: int = 1) -> nn.Module:
    torch.manual_seed(seed)
    return HeadLayers(3, (16, 8), goal.outputs, "batch", scale)


def tensors(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


# --- what a step is trained on


@pytest.mark.parametrize("kind", [BalancedCrops, WindowCrops])
def test_a_steps_crops_follow_from_the_seed_and_the_step_alone(kind: type[BalancedCrops | WindowCrops]) -> None:
    settings = dataclasses.replace(QUICK, epochs=3, batch=4)
    one, other = kind(samples(), CLASSES, settings), kind(samples(), CLASSES, settings)
    for step in (5, 0, 3):
        for mine, theirs in zip(one.draw((0, 1), step), other.draw((0, 1), step), strict=True):
            assert torch.equal(mine, theirs)
    assert not torch.equal(one.draw((0, 1), 0)[0], one.draw((0, 2), 0)[0])
    assert not torch.equal(one.draw((0, 1), 0)[0], one.draw((0, 1), 1)[0])


def test_every_class_is_seen_as_often_however_rare_it_is() -> None:
    made = samples()
    labels = made[0].labels
    labels[labels == 2] = 0
    for sample in made[1:]:
        sample.labels[sample.labels == 2] = 1
        sample.labels[sample.labels == 1] = 0
    labels[0, 0] = 1  # three pixels among thousands
    labels[20, 20] = 1
    crops = BalancedCrops(made, CLASSES, dataclasses.replace(QUICK, crop=8))
    seen = np.array([(crops.draw((0,), step)[1] == 1).flatten(1).any(1).numpy() for step in range(60)])
    assert 0.35 < seen.mean() < 0.65


def test_inputs_and_labels_of_a_crop_stay_aligned_when_turned() -> None:
    for scale in (1, 4):
        made = samples(scale=scale)
        crops = BalancedCrops(made, CLASSES, QUICK)
        for step in range(10):
            inputs, labels = crops.draw((0,), step)
            fine = inputs.repeat_interleave(scale, 2).repeat_interleave(scale, 3).half().argmax(1)
            labelled = labels != IGNORE
            assert labelled.any()
            assert torch.equal(fine[labelled], labels[labelled].long())


def test_points_are_cut_around_with_no_more_than_their_answers_depend_on() -> None:
    made = samples()
    for sample in made:
        sample.labels[:] = IGNORE
        sample.labels[20, 24] = 1
    reach = head_halo(len(QUICK.widths), 1)
    large = dataclasses.replace(QUICK, crop=40)
    crops = BalancedCrops(made, CLASSES, large)
    assert 2 * reach + 1 <= crops.size < 2 * reach + 1 + 8
    for step in range(10):
        inputs, labels = crops.draw((0,), step)
        assert inputs.shape[2:] == labels.shape[1:] == (crops.size, crops.size)
        _, rows, cols = (labels != IGNORE).nonzero().T
        assert len(rows) == large.batch
        assert min(rows.min(), cols.min()) >= reach
        assert max(rows.max(), cols.max()) < crops.size - reach
    made[0].labels[:] = 1  # a polygon among points is one patch in many
    made[1].labels[:] = 1
    assert BalancedCrops(made[:2], CLASSES, large).size == 40


def test_every_window_comes_once_an_epoch() -> None:
    made = samples(count=7)
    crops = WindowCrops(made, CLASSES, dataclasses.replace(QUICK, epochs=2, batch=3, crop=40))
    assert (crops.steps_per_epoch, crops.steps) == (3, 6)
    for epoch in range(2):
        drawn = torch.cat([crops.draw((0,), epoch * 3 + step)[0] for step in range(3)])
        found = [next(n for n, s in enumerate(made) if torch.equal(s.inputs.float(), each)) for each in drawn]
        assert sorted(found) == list(range(7))


def test_windows_with_missing_labels_are_left_out_on_request() -> None:
    made = samples(count=3)
    made[1].labels[made[1].labels == IGNORE] = 0
    settings = dataclasses.replace(QUICK, epochs=1, complete_windows=True)
    assert len(WindowCrops(made, CLASSES, settings).samples) == 1
    with pytest.raises(LabelError, match="none of the 2 windows is labelled completely"):
        WindowCrops([made[0], made[2]], CLASSES, settings)


def test_a_crop_beyond_a_sample_is_filled_up_with_what_bears_no_label() -> None:
    for goal in (CLASSES, NUMBERS):
        inputs, labels = cut(samples(goal)[0], 30, 0, 16)
        assert inputs.shape == (3, 16, 16)
        assert (inputs[:, 10:] == 0).all()
        blank = labels[10:] == IGNORE if goal.classes else labels[10:].isnan()
        assert blank.all()


FOUR = Goal(tuple(ClassEntry(name=name, color="#000000") for name in "abcd"), None)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("labels", [0.81, 0.16, 0.03, 0.0]),
        ("tempered", [0.9 / 1.473, 0.4 / 1.473, 0.173 / 1.473, 0.0]),
        ("equal", [1 / 3, 1 / 3, 1 / 3, 0.0]),
        ((1.0, 2.0, 1.0, 4.0), [0.25, 0.5, 0.25, 0.0]),
    ],
)
def test_a_prior_is_of_the_classes_that_have_labels_and_sums_to_one(kind: Prior, expected: list[float]) -> None:
    assert FOUR.prior(np.array([8100, 1600, 300, 0]), kind) == pytest.approx(expected, abs=1e-3)


def test_offsets_turn_what_crops_show_into_the_prior() -> None:
    made = samples()
    for sample in made:
        sample.labels[sample.labels == 2] = 0
    counts = class_counts(made, 4)
    assert counts[2:].tolist() == [0, 0]
    assert counts.sum() == sum(int((sample.labels != IGNORE).sum()) for sample in made)
    crops = BalancedCrops(made, FOUR, QUICK)
    prior = FOUR.prior(counts, (0.1, 0.9, 0.5, 0.5))
    offsets = class_offsets(crops, counts, prior, 0).numpy().ravel()
    shown = np.bincount(torch.cat([crops.draw((0, 3), step)[1].flatten() for step in range(16)]).numpy())[:2]
    assert offsets[0] - offsets[1] == pytest.approx(np.log(shown[0] / shown[1]) - np.log(0.1 / 0.9), abs=1e-5)
    assert offsets[2:].tolist() == [0, 0]


# --- rates


def test_one_cycle_is_torchs() -> None:
    settings = dataclasses.replace(QUICK, steps=57, warmup=0.2)
    optimizer = torch.optim.AdamW(network().parameters(), settings.rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, settings.rate, 57, pct_start=0.2)
    for step in range(57):
        group = optimizer.param_groups[0]
        assert rate_at(settings, step, 57, 57) == pytest.approx((group["lr"], group["betas"][0]), rel=1e-6)
        optimizer.step()
        schedule.step()


def test_the_papers_rate_warms_up_and_ends_near_a_hundredth() -> None:
    settings = dataclasses.replace(QUICK, schedule="cosine", warmup=3 / 50, epochs=50)
    rates = [rate_at(settings, step, 200, 4)[0] / settings.rate for step in range(200)]
    by_epoch = np.array(rates).reshape(50, 4)
    assert (by_epoch == by_epoch[:, :1]).all()
    assert by_epoch[:3, 0] == pytest.approx([0.25, 0.5, 0.75])
    assert by_epoch[3, 0] == 1.0
    assert (np.diff(by_epoch[3:, 0]) < 0).all()
    assert 0.01 < by_epoch[-1, 0] < 0.012


# --- training


@pytest.mark.parametrize(("goal", "scale"), list(itertools.product((CLASSES, NUMBERS), (1, 4))))
def test_what_follows_from_the_inputs_is_learned(goal: Goal, scale: int) -> None:
    settings = dataclasses.replace(QUICK, steps=120)
    member = network(goal, scale=scale)
    (history,) = fit([member], samples(goal, scale=scale), samples(goal, count=2, scale=scale, seed=1), goal, settings)
    found = judge(lambda x: goal.activated(member(x)), samples(goal, count=3, scale=scale, seed=2), goal).scores()
    if isinstance(found, Scores):
        assert found.accuracy is not None
        assert found.accuracy > (0.85 if scale == 1 else 0.7)
    else:
        assert isinstance(found, NumberScores)
        assert found.r2 is not None
        assert found.r2 > (0.9 if scale == 1 else 0.6)
    assert [step for step, _ in history.looks] == list(range(10, 121, 10))
    assert history.losses[-1][1] < history.losses[0][1]


@pytest.mark.parametrize("keep_best", [False, True])
def test_the_last_state_is_kept_or_on_request_the_best(keep_best: bool) -> None:
    validation = samples(count=2, seed=1)
    member = network()
    settings = dataclasses.replace(QUICK, steps=40, rate=0.2, keep_best=keep_best)
    (history,) = fit([member], samples(), validation, CLASSES, settings)
    steps, figures = zip(*history.looks, strict=True)
    chosen = int(np.argmax(figures)) if keep_best else len(figures) - 1
    assert history.best_step == steps[chosen]
    kept = judge(member, validation, CLASSES).scores()
    assert isinstance(kept, Scores)
    assert kept.macro_f1 == pytest.approx(figures[chosen], abs=0.01)  # looks are in the precision of the training


def test_patience_ends_a_member_and_the_next_one_begins() -> None:
    settings = dataclasses.replace(QUICK, steps=400, rate=0.5, members=2, patience=2, validate_every=5)
    told: list[Step] = []
    histories = fit(
        [network(seed=n) for n in (0, 1)], samples(), samples(seed=1), CLASSES, settings, listener=told.append
    )
    assert len(histories) == 2
    for history in histories:
        assert history.looks[-1][0] == history.best_step + 2 * 5
        assert history.looks[-1][0] < 400
    assert len(told) == sum(history.looks[-1][0] for history in histories)


def test_a_class_that_is_not_taught_is_not_unlearned() -> None:
    made = samples()
    for sample in made:
        sample.labels[sample.labels == 2] = IGNORE
    kept, lost = network(), network()
    fit([kept], made, (), CLASSES, QUICK, untaught=[2])
    fit([lost], made, (), CLASSES, QUICK)
    inputs = samples(seed=3)[0].inputs[None].float()
    assert kept(inputs).softmax(1)[:, 2].mean() > 5 * lost(inputs).softmax(1)[:, 2].mean()


def test_a_loss_that_is_not_finite_leaves_the_best_state_so_far() -> None:
    made = samples()
    poisoned = {"after": 25}

    class Breaking(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = network()

        def forward(self, inputs: Tensor) -> Tensor:
            if self.training:
                poisoned["after"] -= 1
            answer: Tensor = self.layers(inputs)
            return answer * float("nan") if poisoned["after"] < 0 else answer

    member = Breaking()
    with pytest.raises(
        NotFiniteError, match=r"not finite at step 25 of member 1 \(rate .*\): give a lower `rate`"
    ) as caught:
        fit([member], made, samples(seed=1), CLASSES, QUICK)
    assert caught.value.usable == 1
    assert all(tensor.isfinite().all() for tensor in member.state_dict().values())
    with pytest.raises(NotFiniteError) as caught:
        fit([network()], made, (), CLASSES, dataclasses.replace(QUICK, rate=1e30))
    assert caught.value.usable == 0


def test_memory_that_does_not_hold_a_batch_is_met_with_smaller_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = dataclasses.replace(QUICK, batch=8, steps=3)

    class Tight(nn.Module):
        """Without BatchNorm, so that pieces compute the same as the whole."""

        def __init__(self, most: int) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.layers, self.most = nn.Conv2d(3, 3, 3, padding=1), most

        def forward(self, inputs: Tensor) -> Tensor:
            if len(inputs) > self.most:
                raise torch.OutOfMemoryError("CUDA out of memory")
            answer: Tensor = self.layers(inputs)
            return answer

    monkeypatch.setattr(
        "lianet_user.finetuning.trainer.training_autocast", lambda device: torch.autocast("cpu", enabled=False)
    )
    roomy, tight = Tight(8), Tight(2)
    fit([roomy], samples(), (), CLASSES, settings)
    with pytest.warns(TrainingWarning) as told:
        fit([tight], samples(), (), CLASSES, settings)
    assert ["2 parts" in str(told[0].message), "4 parts" in str(told[1].message)] == [True, True]
    assert len(told) == 2
    for one, other in zip(roomy.parameters(), tight.parameters(), strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)
    with pytest.raises(TrainingError, match="does not hold a single crop"), pytest.warns(TrainingWarning):
        fit([Tight(0)], samples(), (), CLASSES, settings)


# --- interruptions


class EnoughError(Exception):
    """What a listener ends a run with."""


@pytest.mark.parametrize("goal", [CLASSES, NUMBERS])
def test_a_run_that_was_stopped_anywhere_ends_on_the_same_bits(goal: Goal, tmp_path: Path) -> None:
    settings = dataclasses.replace(QUICK, members=2, dropout=0.2)
    training, validation = samples(goal), samples(goal, count=2, seed=1)
    whole = [network(goal, seed) for seed in (0, 1)]
    expected = fit(whole, training, validation, goal, settings)
    for stops in ([1], [17, 31], [30, 31, 59]):
        path = tmp_path / "run.checkpoint"
        for number, stop in enumerate([*stops, None]):
            members = [network(goal, seed) for seed in (0, 1)]

            def tell(step: Step, stop: int | None = stop) -> None:
                if step.done == stop:
                    raise EnoughError

            run = Checkpoint(path, {"seed": 0}, resume=number > 0)
            try:
                found = fit(members, training, validation, goal, settings, listener=tell, checkpoint=run)
            except EnoughError:
                assert stop is not None
        assert found == expected
        for one, other in zip(whole, members, strict=True):
            assert same(tensors(one), tensors(other))


def settings_of_the_killed() -> FinetuneSettings:
    return dataclasses.replace(QUICK, members=2, steps=150, crop=12)


def run_to_the_end(path: Path, result: Path, steps: Connection) -> None:
    """In a process of its own: say every step, go on where a checkpoint is, write the weights at the end."""
    torch.set_num_threads(1)
    members = [network(seed=seed) for seed in (0, 1)]
    run = Checkpoint(path, {}, resume=path.exists())
    validation = samples(count=2, seed=1)
    tell = lambda step: steps.send(step.done)  # noqa: E731
    fit(members, samples(), validation, CLASSES, settings_of_the_killed(), listener=tell, checkpoint=run)
    torch.save([member.state_dict() for member in members], result)


@pytest.mark.heavy
def test_ten_kills_at_random_do_not_change_a_bit(tmp_path: Path) -> None:
    """SIGKILL leaves no time to write anything: what counts is the checkpoint that was there."""
    whole = [network(seed=seed) for seed in (0, 1)]
    fit(whole, samples(), samples(count=2, seed=1), CLASSES, settings_of_the_killed())
    path, result = tmp_path / "run.checkpoint", tmp_path / "result.pt"
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])  # torch is imported once for all of them
    rng = np.random.default_rng(0)
    for kill in (*rng.integers(1, 60, 10).tolist(), None):
        steps, theirs = context.Pipe(duplex=False)
        process = context.Process(target=run_to_the_end, args=(path, result, theirs))
        process.start()
        theirs.close()
        if kill is None:
            with suppress(EOFError):
                while True:
                    steps.recv()
        else:
            for _ in range(kill):
                steps.recv()
            process.kill()
            assert not result.exists()
        process.join()
    for one, other in zip(whole, torch.load(result, weights_only=True), strict=True):
        assert same(tensors(one), other)


def test_another_runs_checkpoint_is_refused_with_the_differences(tmp_path: Path) -> None:
    path = tmp_path / "run.checkpoint"
    with pytest.raises(ArtifactError, match="there is no checkpoint"):
        fit([network()], samples(), (), CLASSES, QUICK, checkpoint=Checkpoint(path, {"rate": 1}, resume=True))
    fit([network()], samples(), (), CLASSES, QUICK, checkpoint=Checkpoint(path, {"rate": 1, "same": 0}, resume=False))
    with pytest.raises(ArtifactError, match=r"what differs: rate \(then 1, now 2\):"):
        fit(
            [network()], samples(), (), CLASSES, QUICK, checkpoint=Checkpoint(path, {"rate": 2, "same": 0}, resume=True)
        )
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ArtifactError, match="not a whole checkpoint"):
        fit([network()], samples(), (), CLASSES, QUICK, checkpoint=Checkpoint(path, {"rate": 1}, resume=True))

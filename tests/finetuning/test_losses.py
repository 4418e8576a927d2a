"""Losses: each is what its definition says, over the labelled pixels and nothing else."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from lianet_user.errors import InputError
from lianet_user.files.header import IGNORE
from lianet_user.finetuning.losses import FOCAL_GAMMA, HUBER_DELTA, LOSSES, make_loss
from lianet_user.finetuning.settings import LOSS_KINDS

Array = NDArray[np.float64]

CLASSES = 4
OF_CLASSES = ["cross-entropy", "focal", "dice", "lovasz", "cross-entropy+dice", "focal+lovasz+dice"]
OF_NUMBERS = ["l1", "mse", "huber", "l1+mse"]
LABELLED = 0.7
"""Share of the pixels of the drawn batches."""


def batch(name: str, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Answers (2, outputs, 5, 7) and their reference (2, 5, 7), partly without labels; the last class has none."""
    rng = np.random.default_rng(seed)
    labelled = rng.random((2, 5, 7)) < LABELLED
    if name in OF_CLASSES:
        answers = rng.normal(0, 2, (2, CLASSES, 5, 7))
        reference = torch.from_numpy(np.where(labelled, rng.integers(0, CLASSES - 1, labelled.shape), IGNORE))
    else:
        answers = rng.normal(0, 0.2, (2, 1, 5, 7))
        reference = torch.from_numpy(np.where(labelled, rng.normal(0, 0.2, labelled.shape), np.nan)).float()
    return torch.from_numpy(answers).float().requires_grad_(), reference


def labelled_pixels(answers: Tensor, reference: Tensor) -> tuple[Array, NDArray[np.int64]]:
    """Logits float64 (N, classes) and classes (N,), as plain loops find them."""
    places = [place for place in itertools.product(*map(range, reference.shape)) if reference[place] != IGNORE]
    logits = np.array([answers[b, :, row, col].tolist() for b, row, col in places])
    return logits, np.array([int(reference[place]) for place in places])


def softmax(logits: Array) -> Array:
    waves = np.exp(logits - logits.max(1, keepdims=True))
    return waves / waves.sum(1, keepdims=True)


def classes_of(name: str) -> int:
    return CLASSES if name in OF_CLASSES else 0


# --- each loss beside its definition


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_is_the_mean_of_minus_log_probabilities(smoothing: float) -> None:
    answers, reference = batch("cross-entropy")
    logits, truth = labelled_pixels(answers, reference)
    aim = np.eye(CLASSES)[truth] * (1 - smoothing) + smoothing / CLASSES
    expected = -(aim * np.log(softmax(logits))).sum(1).mean()
    loss = make_loss("cross-entropy", classes=CLASSES, label_smoothing=smoothing)
    assert loss(answers, reference).item() == pytest.approx(expected, rel=1e-5)


def test_focal_is_a_class_against_the_rest_with_easy_pixels_weighing_less() -> None:
    answers, reference = batch("focal")
    logits, truth = labelled_pixels(answers, reference)
    of_class = 1 / (1 + np.exp(-logits))
    right = np.where(np.eye(CLASSES)[truth] == 1, of_class, 1 - of_class)
    expected = (-((1 - right) ** FOCAL_GAMMA) * np.log(right)).mean()
    assert FOCAL_GAMMA == 2
    assert make_loss("focal", classes=CLASSES)(answers, reference).item() == pytest.approx(expected, rel=1e-5)


def test_dice_is_one_minus_the_f1_of_probabilities() -> None:
    answers, reference = batch("dice")
    logits, truth = labelled_pixels(answers, reference)
    found, target = softmax(logits), np.eye(CLASSES)[truth]
    # The overlap of a share and a whole: the smaller of the two, pixel by pixel.
    f1 = 2 * np.minimum(found, target).sum(0) / (found.sum(0) + target.sum(0))
    expected = (1 - f1)[target.any(0)].mean()
    assert target.any(0).sum() == CLASSES - 1
    assert make_loss("dice", classes=CLASSES)(answers, reference).item() == pytest.approx(expected, rel=1e-5)


def jaccard_loss(mistaken: NDArray[np.bool_], foreground: NDArray[np.bool_]) -> float:
    """1 - IoU of a class where these pixels are mistaken (Berman et al. 2018, equation 6)."""
    return float(mistaken.sum() / (foreground | mistaken).sum())


def lovasz_extension(errors: Array, foreground: NDArray[np.bool_]) -> float:
    """The integral of the Jaccard loss over all thresholds of the errors: the Choquet form of the extension."""
    levels = np.unique(np.concatenate([[0.0], errors]))
    return sum((high - low) * jaccard_loss(errors >= high, foreground) for low, high in itertools.pairwise(levels))


def test_lovasz_is_the_extension_of_the_jaccard_loss() -> None:
    answers, reference = batch("lovasz")
    logits, truth = labelled_pixels(answers, reference)
    errors = np.abs(np.eye(CLASSES)[truth] - softmax(logits))
    expected = np.mean([lovasz_extension(errors[:, index], truth == index) for index in range(CLASSES - 1)])
    assert make_loss("lovasz", classes=CLASSES)(answers, reference).item() == pytest.approx(expected, rel=1e-5)


DISTANCES: dict[str, Callable[[Array], Array]] = {
    "l1": np.abs,
    "mse": np.square,
    "huber": lambda error: np.where(
        np.abs(error) <= 0.1, error**2 / 2, HUBER_DELTA * (np.abs(error) - HUBER_DELTA / 2)
    ),
}


@pytest.mark.parametrize("name", DISTANCES)
def test_losses_of_numbers_are_means_of_distances(name: str) -> None:
    answers, reference = batch(name)
    errors = (answers.detach().double()[:, 0] - reference).numpy()
    errors = errors[np.isfinite(errors)]
    assert 0 < (np.abs(errors) < HUBER_DELTA).sum() < errors.size
    expected = DISTANCES[name](errors).mean()
    assert make_loss(name, classes=0)(answers, reference).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", ["cross-entropy+dice", "focal + lovasz+dice", "l1+mse"])
def test_a_sum_is_the_sum_and_its_spaces_mean_nothing(name: str) -> None:
    kind = "l1+mse" if name == "l1+mse" else "focal"
    answers, reference = batch(kind)
    parts = [make_loss(part.strip(), classes=classes_of(kind))(answers, reference) for part in name.split("+")]
    found = make_loss(name, classes=classes_of(kind))(answers, reference)
    torch.testing.assert_close(found, sum(parts, torch.tensor(0.0)))


def test_smoothing_of_a_sum_is_cross_entropys() -> None:
    answers, reference = batch("dice")
    both = make_loss("dice+cross-entropy", classes=CLASSES, label_smoothing=0.1)
    alone = make_loss("cross-entropy", classes=CLASSES, label_smoothing=0.1)
    dice = make_loss("dice", classes=CLASSES)
    torch.testing.assert_close(both(answers, reference), alone(answers, reference) + dice(answers, reference))


# --- what bears no label


@pytest.mark.parametrize("fill", [0.0, 1e30, float("inf"), float("nan")])
@pytest.mark.parametrize("name", OF_CLASSES + OF_NUMBERS)
def test_pixels_without_a_label_change_no_bit_of_value_or_gradient(name: str, fill: float) -> None:
    answers, reference = batch(name)
    unlabelled = (reference == IGNORE) if classes_of(name) else reference.isnan()
    assert unlabelled.any()
    loss = make_loss(name, classes=classes_of(name))
    value = loss(answers, reference)
    (gradient,) = torch.autograd.grad(value, answers)
    disturbed = torch.where(unlabelled[:, None], fill, answers.detach()).requires_grad_()
    again = loss(disturbed, reference)
    (gradient_again,) = torch.autograd.grad(again, disturbed)
    assert torch.equal(value, again)
    assert torch.equal(gradient, gradient_again)
    assert gradient.isfinite().all()
    of_pixels = gradient.abs().amax(1)
    assert (of_pixels[unlabelled] == 0).all()
    assert (of_pixels[~unlabelled] > 0).any()


@pytest.mark.parametrize("name", OF_CLASSES + OF_NUMBERS)
def test_unlabelled_pixels_are_as_good_as_not_there(name: str) -> None:
    answers, reference = batch(name)
    nothing = IGNORE if classes_of(name) else float("nan")
    loss = make_loss(name, classes=classes_of(name))
    more = torch.cat([answers, torch.randn_like(answers)]), torch.cat([reference, torch.full_like(reference, nothing)])
    assert torch.equal(loss(*more), loss(answers, reference))


@pytest.mark.parametrize("name", OF_CLASSES + OF_NUMBERS)
def test_nothing_labelled_is_a_loss_of_nothing(name: str) -> None:
    answers, reference = batch(name)
    nothing = torch.full_like(reference, IGNORE if classes_of(name) else float("nan"))
    found = make_loss(name, classes=classes_of(name))(answers, nothing)
    assert found.shape == ()
    assert found.item() == 0
    (gradient,) = torch.autograd.grad(found, answers)
    assert torch.equal(gradient, torch.zeros_like(answers))


@pytest.mark.parametrize("name", OF_CLASSES)
def test_one_labelled_pixel_is_enough(name: str) -> None:
    answers, reference = batch(name)
    one = torch.full_like(reference, IGNORE)
    one[1, 2, 3] = 2
    found = make_loss(name, classes=CLASSES)(answers, one)
    (gradient,) = torch.autograd.grad(found, answers)
    assert found.item() > 0
    assert gradient[1, 2, 2, 3] < 0  # towards the class
    assert gradient.isfinite().all()


@pytest.mark.parametrize("size", [30.0, 300.0])
@pytest.mark.parametrize("name", OF_CLASSES)
def test_answers_that_are_sure_and_wrong_or_right_have_finite_gradients(name: str, size: float) -> None:
    answers, reference = batch(name)
    sure = (answers.detach() * size).requires_grad_()
    found = make_loss(name, classes=CLASSES)(sure, reference)
    assert found.isfinite()
    assert torch.autograd.grad(found, sure)[0].isfinite().all()


@pytest.mark.parametrize("name", OF_CLASSES)
def test_a_class_left_out_is_as_good_as_not_there(name: str) -> None:
    answers, reference = batch(name)
    smoothing = 0.1 if name.startswith("cross-entropy") else 0.0
    # Class 1 is put between those of a head of three, and its answer is absurd.
    wide = torch.cat([answers[:, :1], torch.full_like(answers[:, :1], 50.0), answers[:, 1:3]], 1).detach()
    wide.requires_grad_()
    shifted = torch.where((reference > 0) & (reference != IGNORE), reference + 1, reference)
    loss = make_loss(name, classes=4, label_smoothing=smoothing, left_out=[1])
    found = loss(wide, shifted)
    expected = make_loss(name, classes=3, label_smoothing=smoothing)(answers[:, :3], reference)
    assert torch.equal(found, expected)
    gradient = torch.autograd.grad(found, wide)[0]
    assert (gradient[:, 1] == 0).all()
    assert (gradient[:, 2] != 0).any()


@pytest.mark.parametrize("name", OF_CLASSES)
def test_a_label_of_a_class_left_out_is_refused(name: str) -> None:
    answers, reference = batch(name)
    with pytest.raises(ValueError, match=r"holds a class of \[1\], which are left out"):
        make_loss(name, classes=CLASSES, left_out=[1])(answers, reference)


# --- what is refused


@pytest.mark.parametrize(
    ("name", "classes", "message"),
    [
        ("focl", 4, r"no loss 'focl'; for classes give one of cross-entropy, focal, dice, lovasz.*mean 'focal'\?"),
        ("cross-entropy+dise", 4, r"'cross-entropy\+dise': there is no loss 'dise'.*did you mean 'dice'\?"),
        ("", 4, "there is no loss ''"),
        ("dice+", 4, "there is no loss ''"),
        ("rmse", 0, r"no loss 'rmse'; for numbers give one of l1, mse, huber.*did you mean 'mse'\?"),
        ("dice", 0, "dice is for classes and the labels are numbers: give one of l1, mse, huber"),
        ("cross-entropy+l1", 4, "l1 is for numbers and the labels are classes: give one of cross-entropy, focal"),
    ],
)
def test_a_name_that_is_no_loss_of_these_labels_is_refused(name: str, classes: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make_loss(name, classes=classes)


@pytest.mark.parametrize("name", ["focal", "dice+lovasz", "l1"])
def test_smoothing_is_refused_where_nothing_takes_it(name: str) -> None:
    classes = 0 if name == "l1" else CLASSES
    with pytest.raises(InputError, match="takes no label smoothing: only cross-entropy does"):
        make_loss(name, classes=classes, label_smoothing=0.1)


@pytest.mark.parametrize("smoothing", [-0.1, 1.0, float("nan")])
def test_label_smoothing_that_is_no_share_is_refused(smoothing: float) -> None:
    with pytest.raises(InputError, match="is not a share: expected 0 to below 1"):
        make_loss("cross-entropy", classes=CLASSES, label_smoothing=smoothing)


def test_one_class_cannot_be_told_apart() -> None:
    with pytest.raises(InputError, match="two classes or more to tell apart, and there are 1"):
        make_loss("lovasz", classes=3, left_out=[0, 2])


def test_every_loss_is_tested_here_and_says_what_it_is() -> None:
    tested = {part for name in OF_CLASSES + OF_NUMBERS for part in name.split("+")}
    assert tested == set(LOSSES) == set(LOSS_KINDS)
    assert all(loss.summary for loss in LOSSES.values())

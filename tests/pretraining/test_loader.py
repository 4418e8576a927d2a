"""A step's windows depend on the seed and the step alone, are read ahead, and nothing of it ends in waiting for ever."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from imagery_factories import Held

from lianet_user.errors import ImageryError, InputError
from lianet_user.geo.grid import Window
from lianet_user.imagery.imagery import Imagery, Patch
from lianet_user.pretraining import loader as module
from lianet_user.pretraining.loader import REDRAWS, Batch, Loader

HEIGHT, WIDTH, SHAPE = 90, 117, (96, 120)
BANDS, DATES, SIZE, STRIDE, BATCH = 2, 3, 32, 8, 6


class Numbered(Held):
    """Pixels whose value says which they are; acquisition 1 is valid in one corner only, unless all are.

    `while_reading` is called with the number of each reading, and may take its time or fail.
    """

    def __init__(
        self, while_reading: Callable[[int], object] = lambda number: None, *, all_valid: bool = False
    ) -> None:
        shape = (DATES, BANDS, HEIGHT, WIDTH)
        super().__init__(np.arange(np.prod(shape), dtype=np.float32).reshape(shape), np.ones(shape, np.bool_))
        if not all_valid:
            self.valid[1], self.valid[1, 0, :40, :40] = False, True
        self.while_reading = while_reading

    def read(self, index: int, window: Window) -> Patch:
        patch = super().read(index, window)
        self.while_reading(len(self.reads))
        return patch


def slow(seconds: float) -> Callable[[int], object]:
    return lambda number: time.sleep(seconds)


def load(imagery: Imagery, **arguments: Any) -> Loader:
    given: dict[str, Any] = {"size": SIZE, "stride": STRIDE, "shape": SHAPE, "batch": BATCH, "seed": 5}
    return Loader(imagery, **(given | arguments))


def same(first: Batch, second: Batch) -> bool:
    return first.corners == second.corners and all(
        np.array_equal(getattr(first, name), getattr(second, name)) for name in ("acquisitions", "reflectance", "valid")
    )


def windows(batch: Batch) -> Iterator[tuple[int, tuple[int, int], Any, Any]]:
    return zip(batch.acquisitions.tolist(), batch.corners, batch.reflectance, batch.valid, strict=True)


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.002)
    assert condition()


# --- what a batch is


def test_windows_hold_the_imagery_and_go_on_past_it_with_its_edge() -> None:
    imagery = Numbered()
    rows, cols = SHAPE[0] - HEIGHT, SHAPE[1] - WIDTH
    values = np.pad(imagery.values, ((0, 0), (0, 0), (0, rows), (0, cols)), mode="edge")
    valid = np.pad(imagery.valid, ((0, 0), (0, 0), (0, rows), (0, cols)))
    past = 0
    with load(imagery) as loader:
        for step in range(20):
            batch = loader.get(step)
            assert batch.reflectance.shape == batch.valid.shape == (BATCH, BANDS, SIZE, SIZE)
            kinds = [values.dtype.name for values in (batch.acquisitions, batch.reflectance, batch.valid)]
            assert kinds == ["int64", "float32", "bool"]
            for index, (row, col), reflectance, measured in windows(batch):
                assert row % STRIDE == col % STRIDE == 0
                place = index, slice(None), slice(row, row + SIZE), slice(col, col + SIZE)
                np.testing.assert_array_equal(reflectance, values[place])
                np.testing.assert_array_equal(measured, valid[place])
                past += row + SIZE > HEIGHT or col + SIZE > WIDTH
    assert past > 5


def test_every_acquisition_and_every_place_is_drawn_equally_often() -> None:
    imagery = Numbered(all_valid=True)
    with load(imagery, batch=1000, prefetch=0) as loader:
        batch = loader.get(0)
    shares = np.bincount(batch.acquisitions, minlength=DATES) / 1000
    np.testing.assert_allclose(shares, 1 / DATES, atol=0.05)
    for axis in range(2):
        starts, counts = np.unique([corner[axis] for corner in batch.corners], return_counts=True)
        assert starts.tolist() == list(range(0, SHAPE[axis] - SIZE + 1, STRIDE))
        np.testing.assert_allclose(counts / 1000, 1 / len(starts), atol=0.05)


def test_a_window_without_a_valid_pixel_is_drawn_again_at_the_same_date() -> None:
    imagery = Numbered()
    with load(imagery, batch=300, prefetch=0) as loader:
        batch = loader.get(0)
    assert batch.valid.any((1, 2, 3)).all()
    assert np.mean(batch.acquisitions == 1) == pytest.approx(1 / DATES, abs=0.08)
    assert len(imagery.reads) > 330


def test_drawing_again_ends() -> None:
    imagery = Numbered()
    imagery.valid[:] = False
    with load(imagery, prefetch=0) as loader:
        batch = loader.get(0)
    assert not batch.valid.any()
    assert len(imagery.reads) == BATCH * (1 + REDRAWS)


# --- the same whatever happens


def test_a_step_is_the_same_however_many_threads_read() -> None:
    with load(Numbered()) as one, load(Numbered(slow(0.001)), workers=5, prefetch=0) as other:
        steps = [one.get(step) for step in range(8)]
        for step in (7, 2, 3, 0, 3, 5):
            assert same(steps[step], other.get(step))
    with load(Numbered()) as resumed, load(Numbered(), seed=6) as another:
        assert same(resumed.get(4), steps[4])
        assert not same(another.get(4), steps[4])
    assert not any(same(first, second) for first, second in itertools.combinations(steps, 2))


def test_going_on_at_a_late_step_reads_nothing_of_those_before() -> None:
    imagery = Numbered(all_valid=True)
    with load(imagery, prefetch=0) as loader:
        late = loader.get(100)
    assert len(imagery.reads) == BATCH
    with load(imagery) as loader:
        assert same([loader.get(step) for step in range(101)][-1], late)


@pytest.mark.parametrize("world", [1, 2, 3, 6])
def test_the_shares_of_all_processes_are_the_whole_batch(world: int) -> None:
    with load(Numbered()) as loader:
        whole = [loader.get(step) for step in range(6)]
    for rank in range(world):
        with load(Numbered(), rank=rank, world=world) as loader:
            for step, batch in enumerate(whole):
                mine = slice(rank, None, world)
                share = Batch(batch.corners[mine], batch.acquisitions[mine], batch.reflectance[mine], batch.valid[mine])
                assert same(loader.get(step), share)


def test_shares_that_would_not_be_equal_are_refused() -> None:
    with pytest.raises(
        InputError, match="a batch of 6 windows cannot be shared equally by 4 processes: give a multiple"
    ):
        load(Numbered(), world=4)


# --- ahead


def test_reading_goes_on_while_a_step_is_worked_on() -> None:
    pause, work, steps = 0.02, 0.05, 8
    imagery = Numbered(slow(pause), all_valid=True)
    with load(imagery, batch=4, workers=2, prefetch=2) as loader:
        loader.get(0)
        first = loader.waited
        for step in range(1, steps):
            time.sleep(work)  # reading a step takes 2 x 0.02 s: it fits
            loader.get(step)
    assert first >= 2 * pause
    assert loader.waited - first < (steps - 1) * pause
    assert 0 < loader.share < 0.5


def test_as_many_steps_are_read_ahead_as_was_asked_for_in_their_order() -> None:
    imagery = Numbered(all_valid=True)
    with load(imagery, workers=1, prefetch=3) as loader:
        first = loader.get(10)
        wait_for(lambda: len(imagery.reads) == 4 * BATCH)
        time.sleep(0.02)
        order = list(imagery.reads)
        assert len(order) == 4 * BATCH
        batches = [first, *(loader.get(step) for step in (11, 12, 13))]
    drawn = [(index, corner) for batch in batches for index, corner, _, _ in windows(batch)]
    assert [(index, (window.row, window.col)) for index, window in order] == drawn


# --- errors, and the end


def test_an_error_comes_out_of_the_step_it_belongs_to_and_of_no_other() -> None:
    def fail(number: int) -> None:
        if number == BATCH + 3:
            raise ImageryError("cannot read B02.tif: it is damaged")

    imagery = Numbered(fail, all_valid=True)
    with load(imagery, workers=1) as loader, load(Numbered()) as intact:
        assert loader.get(0).reflectance.any()
        with pytest.raises(ImageryError, match=r"cannot read B02\.tif: it is damaged"):
            loader.get(1)
        assert loader.get(2).corners
        assert loader.get(1).reflectance.shape == intact.get(1).reflectance.shape  # it may be tried again


def test_closing_does_not_wait_for_a_read_that_does_not_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "GRACE_S", 0.1)
    before = threading.active_count()
    released = threading.Event()
    imagery = Numbered(lambda number: released.wait(30))
    loader = load(imagery)
    failures: list[BaseException] = []

    def ask() -> None:
        try:
            loader.get(0)
        except BaseException as error:
            failures.append(error)

    asking = threading.Thread(target=ask)
    asking.start()
    wait_for(lambda: len(imagery.reads) == 2)
    started = time.monotonic()
    loader.close()
    loader.close()
    assert time.monotonic() - started < 1
    released.set()
    wait_for(lambda: threading.active_count() == before)
    assert [str(error) for error in failures] == ["the loader was closed while it was read from"]
    with pytest.raises(RuntimeError, match="is closed"):
        loader.get(0)


def test_closing_ends_the_threads_and_what_was_to_be_read_is_not() -> None:
    before = threading.active_count()
    imagery = Numbered(slow(0.01))
    with load(imagery, batch=40, prefetch=10) as loader:
        loader.get(0)
        assert threading.active_count() == before + 2
    read = len(imagery.reads)
    assert threading.active_count() == before
    assert read < 3 * 40
    time.sleep(0.03)
    assert len(imagery.reads) == read


def test_an_error_where_batches_are_used_closes_the_loader() -> None:
    before = threading.active_count()

    def train() -> None:
        with load(Numbered(slow(0.01))) as loader:
            loader.get(0)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train()
    assert threading.active_count() == before

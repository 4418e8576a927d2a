"""From cells to classes: what a label is, whether numbers are classes, and the legend that the classes make."""

from __future__ import annotations

import decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from skimage.color import deltaE_ciede2000, rgb2lab

from lianet_user.errors import LabelError
from lianet_user.labels.class_tables import ClassTable, TableEntry
from lianet_user.labels.classes import EXPECTED, QUALITATIVE, Legend, class_colors, make_legend
from lianet_user.labels.label_options import LabelOptions
from lianet_user.labels.label_values import (
    A_BYTE,
    EXACT,
    MANY_NUMBERS,
    choose_task,
    plain_labels,
    plain_numbers,
    plain_text,
)

WHERE = "a.gpkg: the column 'x'"
TABLE = ClassTable("table", (TableEntry("2", "water", "#0000ff"), TableEntry("1", "forest"), TableEntry("3", "forest")))


def legend_of(
    present: list[str], *, in_file: list[str] | None = None, table: ClassTable | None = None, **options: Any
) -> Legend:
    numeric = all(label.isdecimal() for label in present)
    return make_legend(present, in_file or present, numeric, LabelOptions(**options), table, {}, WHERE)


def names_of(legend: Legend) -> list[str]:
    return [entry.name for entry in legend.classes]


# --- labels


WHOLE: dict[str, pd.Series] = {
    "int64": pd.Series([10, 9, 9]),
    "uint8": pd.Series([10, 9, 9], dtype="uint8"),
    "Int64": pd.Series([10, None, 9], dtype="Int64"),
    "float": pd.Series([10.0, np.nan, 9.0]),
    "float32": pd.Series([10.0, np.nan, 9.0], dtype="float32"),
    "text": pd.Series(["10", " 9.0 ", "+9"]),
    "string": pd.Series(["10", None, "9."], dtype="string"),
    "object": pd.Series([10, 9.0, "9", None, decimal.Decimal("10.0")], dtype=object),
    "category": pd.Series(pd.Categorical([10, 9, None])),
}


@pytest.mark.parametrize("kind", WHOLE)
def test_whole_numbers_are_one_label_whatever_brings_them(kind: str) -> None:
    values = WHOLE[kind].set_axis([f"row {index}" for index in range(len(WHOLE[kind]))])
    labels = plain_labels(values, WHERE)
    assert labels.numeric
    assert labels.text.dtype == "string"
    assert labels.text.index.equals(values.index)
    assert set(labels.text.dropna()) == {"9", "10"}
    assert labels.text.isna().equals(values.isna())


def test_large_whole_numbers_keep_every_digit() -> None:
    numbers = [2**63 - 1, 2**53 + 1]
    assert plain_labels(pd.Series(numbers), WHERE).text.tolist() == [str(number) for number in numbers]
    assert plain_labels(pd.Series([f"{2**80}.0"]), WHERE).text.tolist() == [str(2**80)]


def test_missing_blank_and_infinite_values_are_no_label() -> None:
    labels = plain_labels(pd.Series(["a", None, np.nan, pd.NA, pd.NaT, "", " \t\u00a0"], dtype=object), WHERE)
    assert labels.text.notna().tolist() == [True] + [False] * 6
    labels = plain_labels(pd.Series([1.0, np.inf, -np.inf]), WHERE)
    assert labels.text.notna().tolist() == [True, False, False]
    assert labels.notes == ("Labels: 2 infinite values count as no label",)


def test_column_without_any_label_is_not_numeric() -> None:
    assert not plain_labels(pd.Series([None, None], dtype=object), WHERE).numeric
    assert not plain_labels(pd.Series([np.nan]), WHERE).numeric


def test_mixed_columns_have_one_spelling_and_it_is_said() -> None:
    labels = plain_labels(pd.Series(["1", 1, 1.0, "1.0", "forest", " forest", "2.50", True], dtype=object), WHERE)
    assert labels.text.tolist() == ["1", "1", "1", "1", "forest", "forest", "2.50", "True"]
    assert not labels.numeric
    assert [note for note in labels.notes if "3 are taken in the spelling that all share ('1.0' as '1')" in note]


def test_control_characters_get_no_farther_than_the_file() -> None:
    labels = plain_labels(pd.Series(["forest\x1b[31m", "wa\x07ter", "\x00", "\u200dzwj"]), WHERE)
    assert labels.text.tolist() == ["forest?[31m", "wa?ter", "?", "\u200dzwj"]
    assert any("control characters" in note for note in labels.notes)


def test_accents_are_one_label_however_they_are_composed() -> None:
    labels = plain_labels(pd.Series(["Wa\u0308lder", "W\u00e4lder"]), WHERE)
    assert labels.text.nunique() == len(labels.notes) == 1


def test_codes_with_leading_zeros_are_text() -> None:
    labels = plain_labels(pd.Series(["0311", "0312", "1E5"]), WHERE)
    assert (labels.text.tolist(), labels.numeric, labels.notes) == (["0311", "0312", "1E5"], False, ())


def test_lookalikes_stay_apart_and_the_merging_option_is_named() -> None:
    labels = plain_labels(pd.Series(["forest", "Forest", "Forest", "FOREST", "07", "7", "x"]), WHERE)
    assert labels.text.nunique() == 6
    assert "'Forest' (2 times) and 'FOREST' (1 times) and 'forest' (1 times) differ" in labels.notes[0]
    assert "`mapping` 'FOREST=Forest' `mapping` 'forest=Forest'" in labels.notes[0]
    assert "`mapping` '7=07'" in labels.notes[1]
    many = plain_labels(pd.Series([f"{letter}{number}" for letter in "aA" for number in range(9)]), WHERE)
    assert many.notes[-1] == "Labels: 4 more groups differ only in case or leading zeros"


def test_plain_columns_need_no_note() -> None:
    for values in (["forest", "water"], [1, 2], [1.0, np.nan], [True, False]):
        assert plain_labels(pd.Series(values), WHERE).notes == ()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([0.5, 1.0], r"holds fractions \(0\.5\).*`task` regression"),
        (["1", "0.25"], r"holds fractions \(0\.25\).*`task` regression"),
        (pd.to_datetime(["2020-01-01"]), r"is of type datetime64\[[a-z]+\]: choose"),
        ([b"x"], "is of type bytes"),
        ([["a", "b"]], "is of type list"),
        ([1j], "is of type complex"),
    ],
)
def test_what_is_no_label_is_refused(values: Any, message: str) -> None:
    with pytest.raises(LabelError, match=message) as caught:
        plain_labels(pd.Series(values), WHERE)
    assert str(caught.value).startswith(WHERE)


cells = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**20), 10**20),
    st.text(max_size=6),
    st.sampled_from(["1", "1.0", " 1", "forest", "Forest", "007", "-0", "", "2.5"]),
    st.floats(width=32),
)


@given(st.lists(cells))
def test_plain_labels_are_total_and_idempotent(values: list[Any]) -> None:
    column = pd.Series(values, dtype=object)
    try:
        labels = plain_labels(column, WHERE)
    except LabelError:
        task, _ = choose_task(column, LabelOptions(), None, WHERE)
        assert task == "regression" or any(isinstance(value, float) and abs(value) >= EXACT for value in values)
        return
    assert len(labels.text) == len(values)
    assert (labels.text.dropna() != "").all()
    again = plain_labels(labels.text, WHERE)
    assert again.text.equals(labels.text)
    assert again.numeric == labels.numeric
    assert all(plain_text(label) == label for label in labels.text.dropna())


# --- classes or numbers


@pytest.mark.parametrize(
    ("values", "task", "reason"),
    [
        (["forest", "water"], "segmentation", r"text \('forest'\).*`task` regression needs"),
        (["forest", "0.5"], "segmentation", r"text \('forest'\)"),
        ([True, False], "segmentation", "true and false"),
        ([None, None], "segmentation", "no feature has a label.*`task` regression"),
        ([1, 2], "segmentation", "2 different whole numbers; give `task` regression"),
        ([1.0, np.nan, 2.0], "segmentation", "2 different whole numbers"),
        (["1", "1.0", " 2"], "segmentation", "2 different whole numbers"),
        (range(MANY_NUMBERS), "segmentation", "32 different whole numbers"),
        (range(MANY_NUMBERS + 1), "regression", "33 different whole numbers, too many for classes; give `task` seg"),
        (map(str, range(101)), "regression", "101 different whole numbers, too many"),
        (range(A_BYTE - 1), "regression", "255 different whole numbers, too many"),
        ([1, 2.5], "regression", r"fractions \(2\.5\); `task` segmentation"),
        (["1", "2.5", None], "regression", r"fractions \(2\.5\)"),
        (["01", "02"], "segmentation", r"text \('01'\)"),
        ([1.0, np.inf], "segmentation", "1 different whole numbers"),
    ],
)
def test_task_follows_from_the_values(values: Any, task: str, reason: str) -> None:
    chosen, why = choose_task(pd.Series(list(values)), LabelOptions(), None, WHERE)
    assert chosen == task
    assert pd.Series([why]).str.contains(reason)[0], why


@pytest.mark.parametrize(
    ("values", "count"),
    [
        (range(A_BYTE), 256),
        (range(-128, 129), 257),
        (map(float, range(300)), 300),
        (map(str, range(256)), 256),
        ([*range(256), None, np.nan], 256),
        ([*range(256), np.inf], 256),
        ([f" {n}.0" for n in range(256)], 256),
        (pd.array([*range(300), None], "Int64"), 300),
        (np.arange(65536, dtype=np.uint16), 65536),
        ([n * 10**12 for n in range(256)], 256),
        ([*range(128), *map(str, range(128, 256))], 256),
    ],
)
def test_what_256_whole_numbers_are_is_asked(values: Any, count: int) -> None:
    with pytest.raises(
        LabelError, match=f"{WHERE} holds {count} different whole numbers, .*: give `task` regression if"
    ):
        choose_task(pd.Series(list(values)), LabelOptions(), None, WHERE)
    assert choose_task(pd.Series(range(300)), LabelOptions(mapping=(("1", "2"),)), None, WHERE)[0] == "segmentation"


@pytest.mark.parametrize(
    ("options", "table", "reason"),
    [
        ({"classes": Path("t.csv")}, None, "`classes` names classes"),
        ({"mapping": (("1", "2"),)}, None, "`mapping` names classes"),
        ({"background": "rest", "labelled_area": "region"}, None, "`background` names classes"),
        ({}, TABLE, "table names classes; give `task` regression"),
    ],
)
def test_what_names_classes_makes_a_segmentation(
    options: dict[str, Any], table: ClassTable | None, reason: str
) -> None:
    task, why = choose_task(pd.Series(range(100)), LabelOptions(**options), table, WHERE)
    assert task == "segmentation"
    assert reason in why


def test_a_task_that_is_given_is_taken() -> None:
    many = pd.Series(range(100))
    assert choose_task(many, LabelOptions(task="regression"), TABLE, WHERE) == ("regression", "as asked")
    assert choose_task(pd.Series([0.5]), LabelOptions(task="segmentation"), None, WHERE)[0] == "segmentation"


def test_numbers_are_read_from_numbers_and_from_text() -> None:
    numbers = plain_numbers(pd.Series([1, 2.5, np.nan, np.inf], index=list("abcd")), WHERE)
    assert numbers.dtype == np.float64
    assert numbers.index.tolist() == list("abcd")
    for values, expected in (
        ([1, 2.5, np.nan, np.inf], [1, 2.5, np.nan, np.nan]),
        ([" 1", "-.5", "1e-05", "007", None, ""], [1, -0.5, 1e-5, 7, np.nan, np.nan]),
        (pd.array([3, None], "Int64"), [3, np.nan]),
    ):
        np.testing.assert_array_equal(plain_numbers(pd.Series(values), WHERE), expected)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (["1", "forest", None], r"holds 1 of 2 values that are not numbers \('forest'\).*`task` segmentation"),
        (["1,5", "2,5"], r"2 of 2 values.*'1,5'.*with a decimal point"),
        (["nan"], "not numbers"),
        ([True], "not numbers"),
        (["1_000"], "not numbers"),
    ],
)
def test_what_is_no_number_is_refused(values: list[Any], message: str) -> None:
    with pytest.raises(LabelError, match=message):
        plain_numbers(pd.Series(values), WHERE)


# --- legends


def test_without_a_table_classes_are_sorted_and_bear_usual_colors() -> None:
    legend = legend_of(["water", "forest", "Zebra"])
    assert names_of(legend) == ["Zebra", "forest", "water"]
    assert [entry.color for entry in legend.classes] == class_colors(["Zebra", "forest", "water"], {})
    assert legend.index_of == {"Zebra": 0, "forest": 1, "water": 2}
    assert {entry.code for entry in legend.classes} == {""}
    assert legend.notes == ()
    assert names_of(legend_of(["10", "9", "-3"])) == ["-3", "9", "10"]
    assert names_of(legend_of(["10", "9", "b", "01", "1", "a"])) == ["01", "1", "9", "10", "a", "b"]


def test_map_renames_merges_and_drops_each_label_once() -> None:
    mapping = (("1.0", "wood"), ("2", "3"), ("3", "4"), ("5", None), ("6 ", "wood"))
    legend = legend_of(["1", "2", "3", "5", "6"], mapping=mapping)
    assert names_of(legend) == ["3", "4", "wood"]
    assert legend.index_of == {"1": 2, "2": 0, "3": 1, "5": None, "6": 2}
    assert [entry.code for entry in legend.classes] == ["2", "3", "1"]
    assert legend.dropped == ("5",)


def test_map_of_what_the_region_lacks_is_said() -> None:
    legend = legend_of(["a", "b"], in_file=["a", "b", "c"], mapping=(("c", "a"),))
    assert legend.notes == ("Classes: `mapping` has no effect on 'c', which the region lacks",)
    # A label that is dropped has been taken out of the region's before.
    assert legend_of(["a", "b"], in_file=["a", "b", "c"], mapping=(("c", None),)).notes == ()


# What a colour looks like to people without red, green or blue cones, in linear RGB: table 1 of Machado, Oliveira and
# Fernandes (2009), doi:10.1109/TVCG.2009.113.
VISION = {
    "usual": [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]],
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}


@pytest.mark.parametrize("vision", VISION)
@pytest.mark.parametrize("colors", [tuple(EXPECTED), QUALITATIVE[:9]], ids=["expected", "qualitative"])
def test_colors_stay_apart_for_every_colour_vision(colors: tuple[str, ...], vision: str) -> None:
    encoded = np.array([[int(color[place : place + 2], 16) / 255 for place in (1, 3, 5)] for color in colors])
    linear = np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)
    seen = np.clip(linear @ np.transpose(VISION[vision]), 0, 1)
    lab = rgb2lab(np.where(seen <= 0.0031308, seen * 12.92, 1.055 * seen ** (1 / 2.4) - 0.055))
    first, second = np.triu_indices(len(colors), 1)
    assert deltaE_ciede2000(lab[first], lab[second]).min() > 7  # two colours side by side differ from about 2


def test_table_gives_order_names_codes_and_colors() -> None:
    legend = legend_of(["1", "2", "3"], table=TABLE)
    assert [(entry.name, entry.code) for entry in legend.classes] == [("water", "2"), ("forest", "1")]
    assert legend.classes[0].color == "#0000ff"
    assert legend.classes[1].color == class_colors(["forest"], {})[0]
    assert legend.index_of == {"1": 1, "2": 0, "3": 1}
    assert legend.notes == ("Classes: named, ordered and coloured by table", "Classes: 'forest' is '1', '3'")


def test_table_is_matched_by_code_then_by_name() -> None:
    swapped = ClassTable("t", (TableEntry("a", "b"), TableEntry("b", "a"), TableEntry("c", "d")))
    legend = legend_of(["a", "b", "d"], table=swapped)
    assert names_of(legend) == ["b", "a", "d"]
    assert legend.index_of == {"a": 0, "b": 1, "d": 2}
    legend = legend_of(["x", "y"], table=TABLE, classes=Path("t.csv"), mapping=(("x", "3"), ("y", "water")))
    assert legend.index_of == {"x": 1, "y": 0}


def test_entries_that_do_not_occur_are_left_out_and_said() -> None:
    table = ClassTable("t", (*TABLE.entries, TableEntry("4", "scrub"), TableEntry("5", "bare")))
    legend = legend_of(["5", "3"], table=table)
    assert names_of(legend) == ["forest", "bare"]
    assert "Classes: left out, since the region lacks them: 'water', 'scrub'" in legend.notes


def test_labels_beside_a_style_come_last_and_beside_a_table_are_refused() -> None:
    legend = legend_of(["1", "2", "10", "9"], table=TABLE)
    assert names_of(legend) == ["water", "forest", "9", "10"]
    assert "Classes: not described there, and put last: '9', '10'" in legend.notes
    with pytest.raises(LabelError, match=r"`classes` t\.csv does not list: '9', '10'; add them .* `mapping` '9='"):
        legend_of(["1", "2", "10", "9"], table=TABLE, classes=Path("t.csv"))
    with pytest.raises(LabelError, match="'Forest'; did you mean 'forest'"):
        legend_of(["1", "2", "Forest"], table=TABLE, classes=Path("t.csv"))
    legend = legend_of(
        ["1", "2", "10", "9"], table=TABLE, classes=Path("t.csv"), mapping=(("9", None), ("10", "forest"))
    )
    assert names_of(legend) == ["water", "forest"]
    assert legend.dropped == ("9",)


def test_background_is_a_class_of_its_own_and_last() -> None:
    legend = legend_of(["z", "a"], background="m", labelled_area="region")
    assert names_of(legend) == ["a", "z", "m"]
    assert legend.background == 2
    assert names_of(legend_of(["z"], background="m", labelled_area="region")) == ["z", "m"]
    assert legend_of(["z", "a"]).background is None


def test_background_that_is_a_class_already_is_that_class() -> None:
    legend = legend_of(["a", "b"], background="a", labelled_area="region")
    assert names_of(legend) == ["a", "b"]
    assert legend.background == 0
    assert "they are one" in legend.notes[0]
    for background in ("2", "water"):
        legend = legend_of(["1"], table=TABLE, classes=Path("t.csv"), background=background, labelled_area="region")
        assert names_of(legend) == ["water", "forest"]
        assert legend.background == 0
    # A background that the table lacks needs no entry: it is no label.
    legend = legend_of(["1", "2"], table=TABLE, classes=Path("t.csv"), background="rest", labelled_area="region")
    assert names_of(legend) == ["water", "forest", "rest"]


def test_colors_of_features_follow_their_labels() -> None:
    colors = {"a": "#111111", "b": "#222222", "c": "#333333", "d": "#333333"}
    options = LabelOptions(mapping=(("b", "a"), ("c", "e"), ("d", "e")))
    legend = make_legend(list("abcd"), list("abcd"), False, options, None, colors, WHERE)
    assert {entry.name: entry.color for entry in legend.classes} == {"a": "#111111", "e": "#333333"}


def test_color_of_two_classes_goes_to_the_first_and_it_is_said() -> None:
    table = ClassTable("t", (TableEntry("b", "b", "#123456"), TableEntry("a", "a", "#123456")))
    legend = legend_of(["a", "b"], table=table)
    assert legend.classes[0].color == "#123456"
    assert legend.classes[1].color in legend.notes[-1]


def test_long_codes_are_cut() -> None:
    legend = legend_of(["a", "b" * 200], mapping=(("b" * 200, "b"),))
    assert legend.classes[1].code == "b" * 127 + "…"


def test_a_single_class_is_enough_for_whoever_says_so() -> None:
    assert [entry.name for entry in legend_of(["a"], one_class=True).classes] == ["a"]
    with pytest.raises(LabelError, match="holds no class"):
        legend_of(["a"], mapping=(("a", None),), one_class=True)


@pytest.mark.parametrize(
    ("present", "options", "message"),
    [
        (["a"], {}, r"holds a single class in the region \('a'\), expected two.*`background` and `labelled_area`"),
        (["a"], {"background": "a", "labelled_area": "region"}, "holds a single class"),
        (["a", "b"], {"mapping": (("a", "b"),)}, "holds a single class"),
        (["a"], {"mapping": (("a", None),)}, "holds no class in the region.*`mapping` drops"),
        (["a", "b"], {"mapping": (("B1", "c"),)}, "holds no 'B1': it holds 'a', 'b'"),
        (["forest", "b"], {"mapping": (("Forrest", "c"),)}, "did you mean 'forest'"),
        (["a", "b"], {"mapping": (("a", "c"), ("a", None))}, r"gives 'a' two meanings \('c' and None\)"),
        (["a", "b"], {"background": " ", "labelled_area": "region"}, "`background` is blank"),
        (["a", "b" * 129], {}, "class name of 129 characters"),
        ([f"c{n}" for n in range(255)], {}, "255 classes in the region, expected at most 254: group them"),
        ([str(n) for n in range(255)], {}, "255 classes .*`task` regression"),
    ],
)
def test_bad_legends_are_one_line(present: list[str], options: dict[str, Any], message: str) -> None:
    with pytest.raises(LabelError, match=message) as caught:
        legend_of(present, **options)
    assert WHERE in str(caught.value) or str(caught.value).startswith("`")
    assert "\n" not in str(caught.value)


def test_254_classes_are_enough_and_regression_is_no_advice_for_text() -> None:
    assert len(legend_of([f"c{n}" for n in range(254)]).classes) == 254
    with pytest.raises(LabelError) as caught:
        legend_of([f"c{n}" for n in range(255)])
    assert "regression" not in str(caught.value)


words = st.sampled_from(["a", "b", "A", "c", "1", "2", "10", "01", "water", "lake"])
hexes = st.sampled_from(["", "#111111", "#222222", "#332288"])


@given(
    present=st.lists(words, min_size=1, unique=True),
    renamed=st.dictionaries(words, st.none() | words),
    entries=st.none() | st.lists(st.builds(TableEntry, words, words, hexes), min_size=1, max_size=8),
    background=st.none() | words,
    colors=st.dictionaries(words, hexes.filter(bool)),
)
def test_legends_are_whole(
    present: list[str],
    renamed: dict[str, str | None],
    entries: list[TableEntry] | None,
    background: str | None,
    colors: dict[str, str],
) -> None:
    mapping = tuple((old, new) for old, new in renamed.items() if old in present)
    options = LabelOptions(mapping=mapping, background=background, labelled_area=background and "region")
    table = ClassTable("t", tuple(entries)) if entries else None
    entry_of = {entry.label: entry for entry in entries or []}

    def named(label: str) -> str:
        return entry_of[label].name if label in entry_of else label

    kept = {named(dict(mapping).get(label, label) or "") for label in present} - {""}
    if len(kept | ({named(background)} if background else set())) < 2:
        with pytest.raises(LabelError, match=r"a single class|no class"):
            make_legend(present, present, False, options, table, colors, WHERE)
        return
    legend = make_legend(present, present, False, options, table, colors, WHERE)
    names = names_of(legend)
    assert set(legend.index_of) == set(present)
    assert len(set(names)) == len(names) >= 2
    assert len({entry.color for entry in legend.classes}) == len(names)
    borne = {index for index in legend.index_of.values() if index is not None}
    assert borne | {legend.background} - {None} == set(range(len(names)))
    assert (legend.background is None) == (background is None)
    assert {label for label, index in legend.index_of.items() if index is None} == set(legend.dropped)
    assert set(legend.dropped) == {old for old, new in mapping if new is None}
    described = [entry.name for entry in entry_of.values()]
    positions = [described.index(name) if name in described else len(described) for name in names]
    assert positions == sorted(positions)

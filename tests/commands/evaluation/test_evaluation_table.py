"""Tables of evaluations: whole numbers of runs side by side, within 80 columns."""

import pytest

from dalle_cli.commands.evaluation.evaluation_table import (
    BEST,
    COLUMNS,
    evaluation_notes,
    evaluation_rows,
    evaluation_table,
)
from dalle_cli.commands.evaluation.figure_labels import FIGURES, shown_as
from dalle_cli.evaluation.evaluation_folder import Evaluation
from dalle_cli.evaluation.measuring import protocol_differences


def evaluation(run: str = "birds", kind: str = "transformer", **figures: float) -> Evaluation:
    named = {name.replace("__", "/"): value for name, value in figures.items()}
    protocol = {"pairs": 3, "split": "all samples", "captions": 5, "candidates": 2}
    return Evaluation(
        run=run, kind=kind, protocol=protocol, figures=named, warnings=["few <pictures>"]
    )


def row(table: str, label: str) -> str:
    return next(line for line in table.splitlines() if line.startswith(label))


def test_every_label_is_there_once_and_fits_beside_two_runs() -> None:
    labels = [shown.label for shown in FIGURES.values()]
    assert len(set(labels)) == len(labels)
    assert max(map(len, labels)) + 2 * 20 + 1 <= COLUMNS


def test_figures_of_one_run_are_listed_without_marks() -> None:
    table = evaluation_table([evaluation(nats_per_image_token=1.23456, clip__score=0.25)])
    assert row(table, "nats per image token").split()[-1] == "1.2346"
    assert row(table, "CLIP score").split()[-1] == "0.2500"
    assert BEST not in table


def test_best_of_several_runs_is_marked_in_each_row() -> None:
    runs = [
        evaluation("first", nats_per_image_token=1.5, clip__score=0.25, psnr=20.0),
        evaluation("second", nats_per_image_token=1.25, clip__score=0.125, psnr=20.0),
    ]
    table = evaluation_table(runs)
    assert row(table, "nats per image token").split()[-2:] == ["1.5000", f"1.2500{BEST}"]
    assert row(table, "CLIP score").split()[-2:] == [f"0.2500{BEST}", "0.1250"]
    assert BEST not in row(table, "PSNR")
    assert table.splitlines()[0].split() == ["first", "second"]


def test_numbers_end_below_the_names_of_their_runs() -> None:
    table = evaluation_table([evaluation(name, psnr=7.0) for name in ("a", "b")])
    heading, values = table.splitlines()[0], row(table, "PSNR")
    assert values.index("7.00") + len("7.00") == heading.index("a") + 1
    assert values.rindex("7.00") + len("7.00") == heading.index("b") + 1


def test_what_a_run_lacks_is_a_dash() -> None:
    table = evaluation_table([evaluation("a", psnr=7.0), evaluation("b", clip__score=0.5)])
    assert row(table, "PSNR").split()[-1] == "-"


@pytest.mark.parametrize("n", [1, 2, 3, 5, 9])
def test_any_number_of_runs_fits_into_80_columns(n: int) -> None:
    runs = [
        evaluation(f"a-rather-long-name-of-run-{i}", nearest__close_by_pixel_distance=i / 10)
        for i in range(n)
    ]
    table = evaluation_table(runs)
    assert max(map(len, table.splitlines())) <= COLUMNS
    assert all(f"run-{i}" in table for i in range(n))
    assert len(table.split("nearer than real ones")) == 1 + len(table.split("\n\n")) - (n > 1)


def test_unknown_figures_are_shown_by_their_names() -> None:
    found = evaluation(psnr=7.0, new__figure=0.123456, inception_score_std__blur_0=0.5)
    assert evaluation_rows(found) == [
        ("PSNR of reconstructions, dB", "7.00"),
        ("new/figure", "0.1235"),
    ]
    assert shown_as("a\x1b[2J").label == "a�[2J"


def test_notes_say_what_was_measured() -> None:
    first, warning = evaluation_notes(evaluation(psnr=7.0))
    assert "3 pairs (all samples)" in first and "5 captions, the best of 2 each" in first
    assert warning == "few <pictures>"


def test_runs_that_were_not_measured_alike_are_told() -> None:
    runs = [evaluation("a"), evaluation("b")]
    assert protocol_differences(runs) == []
    other = runs[1].model_copy(update={"protocol": {**runs[1].protocol, "pairs": 4, "seed": 1}})
    assert protocol_differences([runs[0], other]) == [
        "figures of these runs can't be compared: other pairs, seed"
    ]
    dvae = evaluation("c", kind="dvae").model_copy(update={"protocol": {"pairs": 3}})
    assert protocol_differences([dvae, dvae]) == []

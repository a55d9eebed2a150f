import json

import pytest

from imgnet_mini.config.run_config import RunConfig
from imgnet_mini.errors import DataError
from imgnet_mini.reporting.finder_view import describe_peak_lr, read_finder, was_suggested

RESULT = {
    "name": "a",
    "time": "2025-01-02T03:04:05",
    "start_lr": 1e-7,
    "end_lr": 1.0,
    "num_iter": 100,
    "steps": 90,
    "suggestions": {"steepest": 0.012, "valley": 0.0046, "minimum_over_10": None},
    "recommended": "valley",
    "lr": 0.0046,
    "problem": None,
    "regions": {"flat": [1e-7, 2e-4], "falling": [2e-4, 0.05], "diverging": [0.08, 1.0]},
    "plot": "a b.png",
    "command": ["/home/bob/bin/imgnet-mini", "find-lr"],
}


def write(folder, file="lr_finder_one.json", **changes):
    (folder / file).write_text(json.dumps(RESULT | changes))


def read(folder):
    return read_finder(folder, "a", folder)


def config(**schedule):
    return RunConfig().override({"data": {"batch_size": 64}, "schedule": schedule})


def test_the_regions_of_the_curve_become_sentences(tmp_path):
    write(tmp_path)
    assert " ".join(read(tmp_path).words) == (
        "The learning rate rose from 1e-7 to 1 in 100 steps; the test stopped after 90 of them. "
        "From 1e-7 to 2e-4 the loss is flat: the steps are too small to learn. "
        "From 2e-4 to 0.05 it falls, fastest near 0.012. "
        "From 0.08 on it diverges: the steps are too large."
    )
    assert read(tmp_path).suggestion == (
        "The suggested peak is 0.0046 (valley); other methods suggest 0.012 (steepest descent)."
    )


def test_missing_parts_of_the_curve_are_omitted(tmp_path):
    (tmp_path / "lr_finder_one.json").write_text(
        '{"name": "a", "time": "2025-01-02T03:04:05", "lr": 0.01, "regions": {"flat": null}}'
    )
    finder = read(tmp_path)
    assert finder.words == []
    assert finder.suggestion == "The suggested peak is 0.01."
    assert finder.plot is finder.command is None


def test_the_newest_usable_result_of_the_run_counts(tmp_path):
    write(tmp_path, "lr_finder_z.json", time="2025-01-01T00:00:00", lr=0.1)
    write(tmp_path, "lr_finder_b.json", time="2025-01-03T00:00:00", lr=0.2)
    write(tmp_path, "lr_finder_c.json", time="2025-01-04T00:00:00", lr=None)
    write(tmp_path, "lr_finder_d.json", time="2025-01-05T00:00:00", name="other", lr=0.4)
    assert read(tmp_path).lr == 0.2


def test_no_folder_or_no_result_is_no_finder(tmp_path):
    assert read(tmp_path / "missing") is None
    write(tmp_path, name="other")
    assert read(tmp_path) is None


def test_the_plot_is_linked_only_if_it_lies_beside_the_result(tmp_path):
    write(tmp_path)
    assert read(tmp_path).plot is None
    (tmp_path / "a b.png").touch()
    assert read(tmp_path).plot == "a%20b.png"
    (tmp_path.parent / "outside.png").touch()
    write(tmp_path, plot="../outside.png")
    assert read(tmp_path).plot is None


@pytest.mark.parametrize(
    ("max_lr", "words"),
    [
        (0.0046, "The run peaked at 0.0046, the finder's suggestion."),
        (0.0047, "The run peaked at 0.0047, the finder's suggestion of 0.0046, rounded."),
        (0.046, "The run peaked at 0.046, 10 times the finder's suggestion of 0.0046."),
        (0.0023, "The run peaked at 0.0023, 0.5 times the finder's suggestion of 0.0046."),
        (
            0.025,
            "The run peaked at 0.025 (0.1 x batch size / 256, the default), "
            "5.4 times the finder's suggestion of 0.0046.",
        ),
        (
            None,
            "The run peaked at 0.025 (0.1 x batch size / 256, the default), "
            "5.4 times the finder's suggestion of 0.0046.",
        ),
        (
            0.46,
            "The run peaked at 0.46, 100 times the finder's suggestion of 0.0046: "
            "in the range where the loss diverges.",
        ),
        ("auto", "The run peaked at what the finder suggested then."),
    ],
)
def test_the_peak_is_compared_with_the_suggestion(tmp_path, max_lr, words):
    write(tmp_path)
    assert describe_peak_lr(read(tmp_path), config(max_lr=max_lr)) == words


def test_without_a_finder_the_peak_stands_alone():
    assert describe_peak_lr(None, config(max_lr=0.01)) == "The run peaked at 0.01."


def test_a_rounded_suggestion_counts_as_followed(tmp_path):
    write(tmp_path)
    finder = read(tmp_path)
    assert was_suggested(0.0046, finder)
    assert was_suggested(0.0047, finder)
    assert not was_suggested(0.025, finder)
    assert not was_suggested(0.0046, None)


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        "\xff",
        "[" * 100_000,
        '{"name": "a", "time": "2025-01-02T03:04:05", "lr": "high"}',
        '{"name": "a", "time": "2025-01-02T03:04:05", "lr": 0.1, "suggestions": []}',
        '{"name": "a", "time": "2025-01-02T03:04:05", "lr": 0.1, "suggestions": {"valley": true}}',
        '{"name": "a", "time": "2025-01-02T03:04:05", "lr": 0.1, "regions": {"flat": [1, "x"]}}',
        '{"name": "a", "time": "2025-01-02T03:04:05", "lr": 0.1, "regions": {"flat": [1]}}',
        '{"name": "a", "time": "2025-01-02T03:04:05", "lr": 0.1, "num_iter": 1.5}',
        '{"name": "a", "time": "2025-01-02T03:04:05", "lr": 1' + "0" * 400 + "}",
    ],
)
def test_a_damaged_result_is_named(tmp_path, text):
    (tmp_path / "lr_finder_one.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(DataError, match=r"one\.json"):
        read(tmp_path)

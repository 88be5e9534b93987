"""A benchmark's numbers summed up, and its pictures."""

import pytest
from hostile_names import NAMES

from unicuco_plugin.report.benchmark import describe_benchmark
from unicuco_plugin.report.benchmark_figures import draw_benchmark
from unicuco_plugin.report.benchmark_lines import lines_of, paired_error, total_seconds


def row(method, seed, budget, value, *, seconds=10.0, group="methods", **fields):
    divergence = {
        "prose": {"mean": value, "standard_error": 0.1, "windows": [value - 0.1, value, value + 0.1]},
        "code": {"mean": 3 * value, "standard_error": None, "windows": [2 * value, 3 * value, 4 * value]},
    }
    place = {"group": group, "method": method, "seed": seed, "budget": budget}
    answer = {"units": {}, "sparsity": budget, "tokens": 1000, "seconds": seconds, "shared": False}
    return place | answer | {"divergence": divergence} | fields


OURS = {"shared": True, "answer_seconds": 0.01, "seconds": 100.0, "tokens": 5000}
ROWS = [
    *(
        row("ours", seed, budget, value + 0.1 * seed, **OURS)
        for seed in (0, 1)
        for budget, value in ((0.25, 1), (0.5, 2))
    ),
    row("search", 0, 0.25, 0.9, seconds=40.0),
    row("search", 0, 0.5, 3.0, seconds=80.0),
    row("score", 0, 0.5, 4.0, seconds=0.001),
    row("0.5", 0, 0.25, 1.0, group="kappa", **OURS),
    row("2", 0, 0.25, 1.4, group="kappa", **OURS),
]
RESULT = {
    "model": "tiny", "space": "depth", "budgets": [0.25, 0.5], "requests": [1, 2, 64], "texts": ["prose", "code"],
    "rows": ROWS,
}  # fmt: skip


def test_scores_are_means_over_texts_and_seeds_with_the_deviation_over_seeds():
    ours, search, score = lines_of(ROWS, "methods")
    assert ours.scores[0.25] == (pytest.approx(2.1), pytest.approx(0.2 / 2**0.5))
    assert search.scores == {0.25: (pytest.approx(1.8), None), 0.5: (pytest.approx(6.0), None)}
    assert list(score.scores) == [0.5]
    assert ours.texts["code"][0.5][0] == pytest.approx(6.15)


def test_a_profile_is_paid_once_and_a_search_for_every_request():
    ours, search, _ = lines_of(ROWS, "methods")
    assert (ours.tokens, search.tokens) == (5000, 2000)
    assert total_seconds(ours, 64) == pytest.approx(100.0 + 64 * 0.01)
    assert total_seconds(search, 64) == pytest.approx(64 * 60.0)


def test_what_windows_have_in_common_is_no_noise_between_two_methods():
    ours, search, _ = lines_of(ROWS, "methods")
    # Mean over seeds 1.05 against 0.9: on prose all windows differ alike, on code by 0.3, 0.45 and 0.6.
    assert ours.windows[0.25]["prose"] == pytest.approx([0.95, 1.05, 1.15])
    assert paired_error(ours, search, 0.25) == pytest.approx(0.15 / 3**0.5 / 2)
    alone = [row("a", 0, 0.5, 1.0), row("b", 0, 0.5, 1.0)]
    for one in alone:
        one["divergence"]["prose"]["windows"] = [1.0]
    assert paired_error(*lines_of(alone, "methods"), 0.5) is None


def test_the_table_says_where_a_peer_is_better_and_from_when_we_are_cheaper():
    text = describe_benchmark(RESULT)
    assert "| method | seeds | 25.0% | 50.0% |" in text
    assert "- 25.0%: search 1.8000, ours 2.1000, +16.7% ± 2.4% over windows\n" in text
    assert "- 50.0%: " not in text
    assert "- ours takes less time than search from 2 requests on." in text
    assert "than score" not in text  # which takes a millisecond
    assert "## Ablation: kappa" in text
    assert "| 0.5 | 1 | **2.0000** |" in text


def test_peers_alone_are_not_held_against_ours():
    text = describe_benchmark(RESULT | {"budgets": [0.5], "rows": [row("search", 0, 0.5, 3.0)]})
    assert "Where a peer is better" not in text
    assert "| method | tokens, 1 budget | once |" in text


def test_methods_that_removed_different_shares_are_told_apart():
    assert "removed different shares" not in describe_benchmark(RESULT)
    text = describe_benchmark(RESULT | {"rows": [*ROWS, row("halves", 0, 0.5, 1.0, sparsity=0.6)]})
    assert "- At 50.0% methods reached different budgets: ours 50.0%, search 50.0%, score 50.0%, halves 60.0%." in text
    assert "At 25.0%" not in text


def test_a_search_that_was_broken_off_is_timed_as_a_whole():
    [line] = lines_of([row("search", 0, 0.5, 1.0, seconds=10.0, whole_seconds=100.0, generations=[5, 50])], "methods")
    assert line.extrapolated
    assert total_seconds(line, 64) == pytest.approx(6400.0)
    text = describe_benchmark(
        RESULT | {"rows": [*ROWS, row("official", 0, 0.5, 1.0, whole_seconds=100.0, generations=[5, 50])]}
    )
    name = "official (5 of 50 generations) (time extrapolated to the whole search), 1 of the budgets"
    assert f"| {name} | 1.0 k |" in text
    assert "| official (5 of 50 generations) | 1 | " in text


@pytest.mark.slow
def test_every_picture_is_drawn(tmp_path):
    paths = draw_benchmark(RESULT, tmp_path)
    assert [path.name for path in paths] == ["quality.png", "tokens.png", "requests.png", "ablation-kappa.png"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in paths)


@pytest.mark.slow
@pytest.mark.parametrize("fastest", [1e-7, 1e-3, 90.0])
def test_every_axis_has_numbers_however_far_apart_the_methods_are(fastest, tmp_path, monkeypatch):
    figures = {}
    monkeypatch.setattr(
        "unicuco_plugin.report.benchmark_figures.save_figure", lambda figure, path: figures.update({path.stem: figure})
    )
    rows = [row | {"seconds": fastest} if row["method"] == "score" else row for row in ROWS]
    draw_benchmark(RESULT | {"rows": rows}, tmp_path)
    for name, figure in figures.items():
        figure.draw_without_rendering()
        [axes] = figure.axes
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            ticks = zip(axis.get_ticklocs(), axis.get_ticklabels(), strict=True)
            assert [label for at, label in ticks if low <= at <= high and label.get_text()], (name, axis.axis_name)


def named(name):
    """The result with a stranger's name in every place of one."""
    methods = {"ours": name, "search": f"{name}2"}
    rows = [entry | {"method": methods.get(entry["method"], entry["method"])} for entry in ROWS]
    rows = [entry | {"group": name if entry["group"] == "kappa" else "methods"} for entry in rows]
    rows = [entry | {"divergence": {name: entry["divergence"]["prose"]}, "sparsity": 0.1} for entry in rows[:-1]] + [
        rows[-1] | {"divergence": {name: rows[-1]["divergence"]["prose"]}, "sparsity": 0.9}
    ]
    rows[0]["sparsity"] = 0.5
    return RESULT | {"model": name, "space": name, "texts": [name], "rows": rows}


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_names_of_strangers_are_only_text(name):
    markdown = pytest.importorskip("markdown_it").MarkdownIt("commonmark").enable("table")

    def kinds(text):
        tokens = [child for token in markdown.parse(text) for child in (token, *(token.children or []))]
        return [token.type for token in tokens if token.type not in {"text", "text_special"}]

    text = describe_benchmark(named(name))
    assert kinds(text) == kinds(describe_benchmark(named("usual")))
    assert all(character == "\n" or character.isprintable() for character in text)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_names_of_strangers_are_drawn_as_they_are_written(name, tmp_path, monkeypatch):
    figures = {}
    monkeypatch.setattr(
        "unicuco_plugin.report.benchmark_figures.save_figure", lambda figure, path: figures.update({path.stem: figure})
    )
    draw_benchmark(named(name), tmp_path)
    for figure in figures.values():
        figure.draw_without_rendering()
    assert figures["quality"].axes[0].get_title().isprintable()

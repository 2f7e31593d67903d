"""The report: what its tables, its page and its chart show."""

from xml.etree import ElementTree

from bench.drawing import draw
from bench.report import page
from bench.result import Curve, Figure, Ratio, Results


def test_page_shows_median_quartiles_bar_and_cpu_of_each_ratio() -> None:
    rounds = (0.5, 0.6, 0.7, 0.8, 0.9)
    reached = Ratio("ours", "theirs", rounds, bar=0.7, cpu_us=(450.0, 300.0))
    below = Ratio("ours", "others", rounds, bar=0.75)
    reported = Ratio("ours", "itself", rounds, bar=None)

    shown = [_cells(line) for line in page(Results([reached, below, reported]), "").splitlines()]

    assert [
        "ours",
        "theirs",
        "0.70×",
        "0.60–0.80",
        "≥ 0.7",
        "reached",
        "450 / 300 µs (0.67×)",
    ] in shown
    assert ["ours", "others", "0.70×", "0.60–0.80", "≥ 0.75", "below", ""] in shown
    assert ["ours", "itself", "0.70×", "0.60–0.80", "", "", ""] in shown


def test_page_shows_figures_and_draws_curves_on_one_scale() -> None:
    curve = Curve("a decision", "rules", "µs", ((10, 100.0), (1_000, 200.0)))

    lines = page(Results([], [Figure("memory", 80.0, "MB", "PSS")], [curve]), "").splitlines()

    assert ["memory", "80.00 MB", "PSS"] in map(_cells, lines)
    short, long = (line.count("█") for line in lines if "rules" in line)
    assert 0 < 2 * short - 1 <= long <= 2 * short + 1


def test_drawing_has_a_panel_for_what_grows_and_a_line_for_each_curve() -> None:
    flat = Curve("a page", "events", "ms", ((10, 4.0), (1_000, 4.0)))
    steep = Curve("a <list>", "events", "ms", ((10, 4.0), (1_000, 16.0)))
    alone = Curve("a decision", "rules", "µs", ((10, 100.0), (100, 100.0)))

    drawing = ElementTree.fromstring(draw([flat, alone, steep]))  # noqa: S314 - our own drawing

    svg = "{http://www.w3.org/2000/svg}"
    lines = [line.attrib["points"].split() for line in drawing.iter(f"{svg}polyline")]
    heights = [[float(point.split(",")[1]) for point in line] for line in lines]
    assert [first - last for first, last in heights] == [0, heights[1][0] - heights[1][1], 0]
    assert heights[1][1] < heights[1][0] == heights[0][0]
    words = [text.text for text in drawing.iter(f"{svg}text")]
    assert {"a page", "a <list>", "a decision", "1,000"} <= set(words)


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]

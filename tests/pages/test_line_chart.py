import re

import pytest

from rlhf_core.pages.line_chart import HEIGHT, WIDTH, Line, Marked, line_chart


def chart(points, **changes):
    line = Line("validation", "#1d4ed8", points, dots=True)
    return line_chart([line], x_label="epochs", y_label="loss", **changes)


def test_higher_values_stand_higher_and_later_ones_further_right():
    drawn = chart([(1, 2.0), (2, 1.0), (3, 4.0)])
    places = re.search(r'points="([^"]+)"', drawn)[1].split()
    xs, ys = zip(*(map(float, place.split(",")) for place in places), strict=True)
    assert list(xs) == sorted(xs)
    assert ys[2] < ys[0] < ys[1]  # pixels count downwards
    assert all(0 < x < WIDTH for x in xs)
    assert all(0 < y < HEIGHT for y in ys)


@pytest.mark.parametrize("points", [[(1, 2.0)], [(0, 0.0), (1, 0.0)], [(1, 1e-9), (2, 1e9)]])
def test_any_span_of_values_can_be_drawn(points):
    assert chart(points).count("<circle") == len(points)


def test_what_is_not_finite_is_left_out_and_nothing_at_all_is_said():
    assert chart([(1, float("nan")), (2, 1.0)]).count("<circle") == 1
    assert "nothing to draw" in chart([(1, float("inf"))])


def test_names_are_text():
    drawn = chart([(1, 2.0)], marks=[Marked(1, "<turned>")])
    assert "&lt;turned&gt;" in drawn
    assert "<turned>" not in drawn

import math

import pytest

from rlhf_core.evaluation.course import Course, CoursePoint, law_through
from rlhf_core.evaluation.price_section import course_law_in_words, turn_in_words

START = CoursePoint(0, 0.0, 0.1, 0.2)


def test_gold_that_falls_while_the_score_rises_has_turned():
    points = [
        CoursePoint(10, 2.0, 1.0, 0.5),
        CoursePoint(20, 8.0, 2.0, 0.8),
        CoursePoint(30, 20.0, 3.0, 0.4),
    ]
    course = Course(points, START, None)
    assert course.turned_at == points[1]
    words = turn_in_words(course)
    assert "gold turned after update 20, from 0.800 at 8.00 nats to 0.400 at 20.00 nats" in words


def test_gold_that_falls_together_with_the_score_is_no_over_optimisation():
    points = [CoursePoint(10, 2.0, 2.0, 0.8), CoursePoint(20, 3.0, 1.0, 0.4)]
    assert Course(points, START, None).turned_at is None


def test_gold_that_is_best_at_the_end_has_not_turned():
    points = [CoursePoint(10, 2.0, 1.0, 0.5), CoursePoint(20, 8.0, 2.0, 0.8)]
    assert Course(points, START, None).turned_at is None
    assert "rose" in turn_in_words(Course(points, START, None))


def test_the_law_goes_through_gains_over_the_start():
    distances = [0.5, 1.0, 2.0, 3.0]
    points = [
        CoursePoint(n, d * d, 9.0, 0.2 + d * (0.3 - 0.1 * math.log(d)))
        for n, d in enumerate(distances)
    ]
    law = law_through(START, points)
    assert law is not None
    assert (law.alpha, law.beta) == pytest.approx((0.3, 0.1))
    assert "KL = 54.60 nats" in course_law_in_words(law)  # exp(0.3 / 0.1 - 1) squared = e^4


def test_without_gold_the_law_is_that_of_the_score():
    points = [CoursePoint(n, float(n), 0.1 + math.sqrt(n), None) for n in range(1, 6)]
    law = law_through(CoursePoint(0, 0.0, 0.1, None), points)
    assert law is not None
    assert (law.alpha, law.beta) == pytest.approx((1.0, 0.0), abs=1e-9)

"""Our frozen dataclasses are the library's, but for how they are made."""

from __future__ import annotations

import copy
import dataclasses
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import FrozenInstanceError, field
from functools import cached_property

import pytest

from netc.runtime import records


def declare(dataclass):
    @dataclass(frozen=True)
    class Point:
        """A place."""

        x: int
        y: float = 0.5
        notes: list = field(default_factory=list, compare=False)
        secret: str = field(default="s", repr=False)

        @cached_property
        def double(self):
            return 2 * self.x

    @dataclass(frozen=True)
    class Named(Point):
        name: str = "n"

        def __repr__(self):
            return f"<{self.name}>"

    @dataclass(frozen=True, eq=False)
    class Thing:
        size: int
        half: float = field(init=False)

        def __post_init__(self):
            object.__setattr__(self, "half", self.size / 2)

    @dataclass(frozen=True)
    class Nothing:
        pass

    @dataclass(eq=False)
    class Changing:
        fields: int
        _values: int = 1
    return Point, Named, Thing, Nothing, Changing


Point, Named, Thing, Nothing, Changing = OURS = declare(records.dataclass)


def outcome(compute):
    try:
        return compute()
    except Exception as error:
        return type(error)


@pytest.mark.parametrize("compute", [
    lambda Point, *_: repr(Point(1)), lambda Point, *_: repr(Point(1, y=2, notes=[3], secret="t")),
    lambda Point, *_: Point(), lambda Point, *_: Point(1, z=2), lambda Point, *_: Point(1) == Point(1, notes=[1]),
    lambda Point, *_: Point(1) == Point(2), lambda Point, *_: hash(Point(1)) == hash(Point(1, notes=[1])),
    lambda Point, *_: hash(Point([])), lambda Point, *_: Point(1).notes is Point(1).notes,
    lambda Point, Named, *_: Point(1) == Named(1), lambda Point, Named, *_: repr(Named(1, name="a")),
    lambda Point, Named, *_: [part.name for part in dataclasses.fields(Named)],
    lambda Point, *_: dataclasses.astuple(dataclasses.replace(Point(1), y=3)),
    lambda Point, *_: Point(5).double, lambda Point, *_: Point(float("nan")) == Point(float("nan")),
    lambda Point, *_: (Point.__doc__, Point.__match_args__, Point.__init__.__name__),
    lambda Point, *_: dataclasses.astuple(copy.deepcopy(Point(1, notes=[[1]]))),
    lambda _, __, Thing, *___: (Thing(3).half, Thing(3) == Thing(3), Thing(3, 4)),
    lambda _, __, Thing, *___: (Thing(3).half, Thing(3) == Thing(3), len({Thing(3), Thing(3)})),
    lambda *classes: (repr(classes[3]()), classes[3]() == classes[3](), hash(classes[3]()) == hash(classes[3]())),
    lambda *classes: (repr(classes[4](1)), classes[4](1, 2)._values),
], ids=lambda compute: f"line {compute.__code__.co_firstlineno}")
def test_they_are_as_the_librarys(compute):
    theirs = declare(dataclasses.dataclass)
    assert outcome(lambda: compute(*OURS)) == outcome(lambda: compute(*theirs))


def test_a_class_that_calls_the_initialiser_of_its_base():
    class Twice(declare(records.dataclass)[0]):
        def __init__(self, x):
            super().__init__(2 * x)
    assert (Twice(2).x, Twice(3).y) == (4, 0.5)


def test_threads_that_are_first_at_once():
    switch = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for _ in range(20):
            point = declare(records.dataclass)[0]
            start = threading.Barrier(4)

            def make(number, point=point, start=start):
                start.wait()
                return dataclasses.astuple(point(number)), point(1) == point(1)
            with ThreadPoolExecutor(4) as pool:
                assert list(pool.map(make, range(4))) == [((number, 0.5, [], "s"), True) for number in range(4)]
    finally:
        sys.setswitchinterval(switch)


def test_they_do_not_change():
    point = Point(1)
    with pytest.raises(FrozenInstanceError, match="'x'"):
        point.x = 2
    with pytest.raises(FrozenInstanceError, match="'x'"):
        del point.x
    Changing(1).fields = 2


def test_they_are_copied_with_all_they_hold():
    assert copy.copy(Point(3, notes=[1])).notes == [1] and copy.copy(Thing(4)).half == 2

"""Values: as a frozen dataclass with slots makes them, in all that can be seen of them."""

from dataclasses import dataclass
from typing import Any

import pytest

from codex_bridge.values import replace, value


class Point:
    """A place."""

    x: int
    y: int = 2

    @property
    def sum(self) -> int:
        return self.x + self.y


class Nothing:
    pass


def _twin(cls: type, decorate: Any) -> Any:
    """Return a class of its own with the body of `cls`."""
    return decorate(
        type(cls.__name__, (), {k: v for k, v in vars(cls).items() if k not in ("__dict__", "__weakref__")})
    )


MAKERS = pytest.mark.parametrize(
    "make", [value, dataclass(frozen=True, slots=True)], ids=["value", "dataclass"]
)


@MAKERS
def test_what_a_value_is(make: Any) -> None:
    point = _twin(Point, make)
    one = point(1)
    assert (one.x, one.y, one.sum) == (1, 2, 3)
    assert one == point(x=1, y=2) and hash(one) == hash(point(1, 2)) and one != point(1, 3)
    assert repr(one) == "Point(x=1, y=2)" and point.__doc__ == "A place."
    assert one != (1, 2) and one != _twin(Point, make)(1)
    assert not hasattr(one, "__dict__")
    match one:
        case point(x, y):
            assert (x, y) == (1, 2)


@MAKERS
def test_a_value_without_fields(make: Any) -> None:
    nothing = _twin(Nothing, make)
    assert nothing() == nothing() and hash(nothing()) == hash(nothing()) and repr(nothing()) == "Nothing()"
    assert nothing() != _twin(Nothing, make)()
    with pytest.raises(TypeError):
        nothing(1)


@MAKERS
def test_a_value_never_changes(make: Any) -> None:
    one = _twin(Point, make)(1)
    for name in ("x", "y", "z"):
        with pytest.raises((AttributeError, TypeError)):
            setattr(one, name, 5)
    with pytest.raises(AttributeError):
        del one.x
    assert (one.x, one.y) == (1, 2)


@MAKERS
@pytest.mark.parametrize("wrong", [{}, {"y": 1}, {"x": 1, "z": 2}])
def test_a_wrong_call_is_refused(make: Any, wrong: dict[str, int]) -> None:
    with pytest.raises(TypeError, match=r"Point\.__init__\(\)"):
        _twin(Point, make)(**wrong)


def test_replace_leaves_the_old_one_alone() -> None:
    point = _twin(Point, value)
    old = point(1, 5)
    assert replace(old, x=7) == point(7, 5) and old == point(1, 5)
    with pytest.raises(TypeError):
        replace(old, z=1)

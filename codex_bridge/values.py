"""Values: classes of a few named fields that never change.

They behave as `dataclass(frozen=True, slots=True)` makes them. That writes and compiles six methods for each class whenever
the program starts, which was a third of its start; here a class has one of its own, which makes it, and the rest is shared.
A class that needs `field`, or the fields of a class that it extends, is a dataclass; no value is pickled.
"""

from __future__ import annotations

from operator import attrgetter
from typing import Any, Never, TypeVar, dataclass_transform

Class = TypeVar("Class", bound=type)
Value = TypeVar("Value")


@dataclass_transform(frozen_default=True)
def value(cls: Class) -> Class:
    """Return the class anew, with a slot for each field, equal and hashed by them; their defaults are shared by all."""
    fields = tuple(cls.__annotations__)
    defaults = {name: cls.__dict__[name] for name in fields if name in cls.__dict__}
    body = {
        name: what for name, what in cls.__dict__.items() if name not in (*fields, "__dict__", "__weakref__")
    }
    body |= {"__qualname__": cls.__qualname__, "__slots__": fields, "__match_args__": fields}
    made: Any = type(cls)(cls.__name__, cls.__bases__, {**_SHARED, **body})
    content = attrgetter(*fields) if fields else type

    def is_equal(one: object, other: object) -> bool:
        return content(one) == content(other) if type(other) is made else NotImplemented

    made.__eq__ = is_equal
    made.__hash__ = lambda one: hash(content(one))
    made.__init__ = _write_init(made, fields, defaults)
    return made  # type: ignore[no-any-return]


def replace(old: Value, **changes: Any) -> Value:
    """Return a value like `old` with other fields."""
    fields: tuple[str, ...] = type(old).__match_args__  # type: ignore[attr-defined]
    return type(old)(**{name: getattr(old, name) for name in fields} | changes)


def _write_init(made: type, fields: tuple[str, ...], defaults: dict[str, Any]) -> Any:
    # The setters of the slots pass by `__setattr__`, which refuses.
    names = {f"set_{name}": getattr(made, name).__set__ for name in fields}
    names |= {f"default_{name}": default for name, default in defaults.items()}
    parameters = ["self", *(f"{name}=default_{name}" if name in defaults else name for name in fields)]
    lines = [f" set_{name}(self, {name})" for name in fields] or [" pass"]
    exec(f"def __init__({', '.join(parameters)}):\n" + "\n".join(lines), names)
    names["__init__"].__qualname__ = f"{made.__qualname__}.__init__"  # a wrong call names it
    return names["__init__"]


def _show(one: object) -> str:
    fields: tuple[str, ...] = type(one).__match_args__  # type: ignore[attr-defined]
    return f"{type(one).__qualname__}({', '.join(f'{name}={getattr(one, name)!r}' for name in fields)})"


def _refuse(one: object, name: str, *_: object) -> Never:
    raise AttributeError(f"{name} of a {type(one).__qualname__} cannot be changed: it is a value")


_SHARED = {"__repr__": _show, "__setattr__": _refuse, "__delattr__": _refuse}

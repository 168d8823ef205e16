"""Classes travel by name, and only those that the reader named beforehand are built."""

from __future__ import annotations

import abc
import dataclasses
import enum
import functools
import typing
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Annotated, Any, Generic, Literal, NamedTuple, NewType, TypedDict, TypeVar

import attrs
import msgspec
import pydantic
import pytest

from cachekit.codecs import Registry, returns_of
from cachekit.codecs.data import DataCodec
from cachekit.errors import ConfigurationError, DecodeError, UnencodableError

T = TypeVar("T")


class Color(enum.Enum):
    RED = 1
    BLUE = "b"
    CRIMSON = 1  # noqa: PIE796 - an alias is meant


class Level(enum.IntEnum):
    LOW = 1


class Word(enum.StrEnum):
    YES = "yes"


class Rights(enum.Flag):
    READ = 1
    WRITE = 2


class Bits(enum.IntFlag):
    A = 1
    B = 4


class Point(NamedTuple):
    x: int
    level: Level


@dataclasses.dataclass
class Item:
    name: str
    color: Color
    tags: set[str] = dataclasses.field(default_factory=set)
    parent: Item | None = None


@dataclasses.dataclass(frozen=True, slots=True, order=True)
class Frozen:
    a: int
    point: Point
    made: int = dataclasses.field(init=False, default=5)


@dataclasses.dataclass
class Late:
    """Computes in __post_init__, so running it again would change the value."""

    count: int

    def __post_init__(self) -> None:
        self.count += 1

    @functools.cached_property
    def double(self) -> int:
        """Twice the count."""
        return 2 * self.count


@dataclasses.dataclass
class Page(Generic[T]):
    items: list[T]


@attrs.define
class Slotted:
    x: int
    rights: Rights = Rights.READ


@attrs.frozen(slots=False, kw_only=True)
class Kept:
    x: int = attrs.field(converter=int)
    _private: str = "p"


class Struct(msgspec.Struct, frozen=True, kw_only=True):
    x: int
    bits: Bits = Bits.A | Bits.B


class Counting(msgspec.Struct):
    x: int

    def __post_init__(self) -> None:
        self.x += 1


class Inner(pydantic.BaseModel):
    word: Word


class Model(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="allow")
    x: int
    inner: Inner | None = None
    y: int = 3
    _secret: int = pydantic.PrivateAttr(default=7)


@pydantic.dataclasses.dataclass
class Checked:
    x: int


class Row(TypedDict):
    item: Item


UserId = NewType("UserId", int)


def everything() -> list[  # noqa: D103
    Item
    | Frozen
    | Late
    | Slotted
    | Kept
    | Struct
    | Counting
    | Model
    | Page[Item]
    | Checked
    | HTTPStatus
    | Literal[Bits.A]
]:
    raise NotImplementedError


def _codec(annotation: object = None, registry: Registry | None = None) -> DataCodec:
    return DataCodec(registry or Registry(), annotation if annotation is not None else returns_of(everything))


VALUES: list[Any] = [
    Color.BLUE,
    Color.CRIMSON,
    Level.LOW,
    Rights.READ | Rights.WRITE,
    Rights(0),
    Bits.A | Bits.B,
    Bits(8),
    Word.YES,
    HTTPStatus.NOT_FOUND,
    Point(1, Level.LOW),
    Item("a", Color.RED, {"x"}, Item("b", Color.BLUE)),
    Frozen(1, Point(2, Level.LOW)),
    Late(1),
    Page([Item("a", Color.RED)]),
    Slotted(3, Rights.WRITE),
    Kept(x=4),
    Struct(x=5),
    Counting(6),
    Model(x=1),
    Model(x=1, inner=Inner(word=Word.YES), other=[1]),  # type: ignore[call-arg]
    Checked(3),
    {Color.RED: Level.LOW, (Point(1, Level.LOW),): {Rights.READ}},
    [Level.LOW, 1, Word.YES, "yes"],
]


@pytest.mark.parametrize("index", range(len(VALUES)))
def test_classes_come_back(index: int) -> None:
    """Equal, of the same class, every field of the same type, and without running __init__ or __post_init__ on it."""
    value = VALUES[index]
    back: Any = _codec().decode(_codec().encode(value))
    assert type(back) is type(value)
    assert back == value
    assert repr(back) == repr(value)


def test_fields_keep_their_types() -> None:
    """Types inside instances are kept too: an IntEnum in a NamedTuple in a frozen dataclass."""
    back: Any = _codec().decode(_codec().encode(Frozen(1, Point(2, Level.LOW))))
    assert type(back.point) is Point
    assert type(back.point.level) is Level
    assert back.made == 5
    assert hash(back) == hash(Frozen(1, Point(2, Level.LOW)))


def test_pydantic_state() -> None:
    """A model comes back with its extra fields, its private ones, and which fields were set."""
    value = Model(x=1, other=2)  # type: ignore[call-arg]
    value._secret = 8
    back: Any = _codec().decode(_codec().encode(value))
    assert (back._secret, back.other, back.model_fields_set) == (8, 2, {"x", "other"})


def test_cached_properties_may_go() -> None:
    """What a cached_property keeps is no state: it is computed again."""
    value = Late(1)
    assert value.double == 4
    back: Any = _codec().decode(_codec().encode(value))
    assert "double" not in vars(back)
    assert back.double == 4


def _with_extra(value: Any) -> Any:
    value.__dict__["extra"] = 1
    return value


def _without(value: Any, name: str) -> Any:
    delattr(value, name)
    return value


LOSSY: list[Callable[[], Any]] = [
    lambda: _with_extra(Item("a", Color.RED)),
    lambda: _with_extra(Kept(x=1)),
    lambda: _without(Item("a", Color.RED), "name"),
    lambda: _without(Slotted(1), "x"),
    lambda: _without(Counting(1), "x"),
    lambda: Model.model_construct(),
    lambda: tuple.__new__(Point, (1,)),
    lambda: _with_extra(Model(x=1)),
]


@pytest.mark.parametrize("index", range(len(LOSSY)))
def test_state_beside_the_fields(index: int) -> None:
    """An instance with more or less than its fields would come back as another: refused, with the class named."""
    value = LOSSY[index]()
    with pytest.raises(UnencodableError) as caught:
        _codec().encode([value])
    assert type(value).__name__ in str(caught.value)
    assert " at $[0]" in str(caught.value)


@dataclasses.dataclass
class OnList(list):  # type: ignore[type-arg]
    x: int = 1


@dataclasses.dataclass
class WithProperty:
    x: int

    @property
    def y(self) -> int:
        """No field."""
        return 1


@dataclasses.dataclass
class Owner:
    x: int

    def __del__(self) -> None:
        raise AssertionError("never made blank")


@dataclasses.dataclass
class Abstract(abc.ABC):
    x: int

    @abc.abstractmethod
    def go(self) -> None:
        """To be done."""


class Descriptor:
    def __set__(self, instance: object, value: object) -> None: ...

    def __get__(self, instance: object, owner: type | None = None) -> int:
        return 1


@dataclasses.dataclass
class Described:
    x: Any = Descriptor()


@dataclasses.dataclass
class Watching:
    x: int

    def __getattribute__(self, name: str) -> Any:
        return super().__getattribute__(name)


@attrs.frozen(cache_hash=True)
class Hashed:
    x: int


class Plain:
    pass


@pytest.mark.parametrize("cls", [OnList, Owner, Abstract, Described, Watching, Plain, int, dict, tuple])
def test_classes_that_cannot_be_derived(cls: type) -> None:
    """A class whose instances are more than their fields can't be registered without encode= and decode=."""
    with pytest.raises(ConfigurationError):
        Registry().register(cls)


def test_a_hidden_slot() -> None:
    """Attrs keeps a hash in a slot that is no field: refused, or hash() of the copy would fail."""
    with pytest.raises(UnencodableError, match="Hashed"):
        _codec(Hashed).encode(Hashed(1))


def test_unknown_classes_are_refused_when_stored() -> None:
    """A class that no reader could build is not stored, so that it can't miss for ever."""
    with pytest.raises(UnencodableError, match=r"can't store the .*Item at \$\[0\]: .*cache\.register\(Item"):
        DataCodec().encode([Item("a", Color.RED)])


def test_unknown_classes_are_a_miss_when_read() -> None:
    """A class that moved, or that this reader did not name, is a DecodeError that names it."""
    stored = _codec().encode(Color.RED)
    with pytest.raises(DecodeError, match="Color"):
        DataCodec().decode(stored)


def test_a_changed_class_is_a_miss() -> None:
    """A class with other fields than the stored value is a DecodeError, not an object with a hole."""
    old = Registry()
    old.register(Point, name="thing")
    old.register(Level)
    new = Registry()
    new.register(Frozen, name="thing")
    with pytest.raises(DecodeError, match="thing"):
        DataCodec(new).decode(DataCodec(old).encode(Point(1, Level.LOW)))


def test_a_member_that_is_gone() -> None:
    """A stored enum member that the class no longer has is a DecodeError."""
    old = Registry()
    old.register(Color, name="e")
    new = Registry()
    new.register(Word, name="e")
    with pytest.raises(DecodeError):
        DataCodec(new).decode(DataCodec(old).encode(Color.BLUE))


class Money:
    def __init__(self, cents: int) -> None:
        self.cents = cents

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Money) and other.cents == self.cents

    __hash__ = None  # type: ignore[assignment]


def _money(registry: Registry, name: str | None = "money") -> Registry:
    registry.register(Money, name=name, encode=lambda money: money.cents, decode=Money)
    return registry


def test_register() -> None:
    """An own class travels by its own pair of functions, under its own name, also inside other values."""
    codec = DataCodec(_money(Registry()))
    stored = codec.encode([{1: (Money(5),)}])
    assert codec.decode(stored) == [{1: (Money(5),)}]
    assert b"money" in stored
    assert b"Money" not in stored


def test_register_is_a_decorator() -> None:
    """It gives the class back."""
    assert Registry().register(Item) is Item


def test_decode_that_gives_another_type() -> None:
    """A decode= that gives back something else is found when read."""
    registry = Registry()
    registry.register(Money, encode=lambda money: money.cents, decode=lambda cents: cents)
    with pytest.raises(DecodeError, match="gave a int"):
        DataCodec(registry).decode(DataCodec(registry).encode(Money(1)))


def test_functions_that_raise() -> None:
    """Whatever encode= and decode= raise becomes a codec error that carries their words."""

    def fail(_: object) -> Any:
        raise KeyError("sorry")

    registry = Registry()
    registry.register(Money, encode=fail, decode=fail)
    with pytest.raises(UnencodableError, match="sorry"):
        DataCodec(registry).encode((Money(1),))
    with pytest.raises(DecodeError, match="sorry"):
        DataCodec(registry).decode(DataCodec(_money(Registry(), None)).encode((Money(1),)))


def test_encode_that_gives_itself() -> None:
    """An encode= that gives a value of its own class never ends: refused in words."""
    registry = Registry()
    registry.register(Money, encode=lambda money: [money], decode=lambda parts: parts[0])
    with pytest.raises(UnencodableError):
        DataCodec(registry).encode(Money(1))


def test_bad_registrations() -> None:
    """Half a pair, a taken name, an empty name, a class that is carried already: said at once."""
    registry = _money(Registry())
    for bad in (
        lambda: registry.register(Plain, encode=lambda _: 1),
        lambda: registry.register(Item, name="money"),
        lambda: registry.register(Item, name=""),
        lambda: registry.register(Item, name="x" * 1001),
        lambda: registry.register(Item, name="a#b"),
        lambda: registry.register(list, encode=list, decode=list),
        lambda: registry.register(typing.cast("Any", 7), encode=list, decode=list),
    ):
        with pytest.raises(ConfigurationError):
            bad()


def test_registering_again() -> None:
    """The same class again, or its reloaded self, replaces the entry."""
    registry = _money(_money(Registry()))
    reloaded = type("Money", (Money,), {"__module__": Money.__module__, "__qualname__": Money.__qualname__})
    registry.register(reloaded, name="money", encode=lambda money: money.cents, decode=reloaded)
    assert type(DataCodec(registry).decode(DataCodec(registry).encode(reloaded(1)))) is reloaded


ANNOTATIONS: list[Any] = [
    Item,
    Item | None,
    typing.Optional[Item],  # noqa: UP045
    list[dict[str, tuple[Item, ...]]],
    Annotated[Item, "no type at all ("],
    Awaitable[Item],
    Page[Item],
    Callable[[Item], int],
    Row,
    type[Item],
    NewType("Thing", Item),
    TypeVar("B", bound=Item),
    TypeVar("C", int, Item),
    dict[UserId, "list[int] | Any"] | Item,
    typing.ClassVar[Item],
    typing.Union["int", Item],
]


@pytest.mark.parametrize("annotation", ANNOTATIONS, ids=str)
def test_annotations_are_walked(annotation: Any) -> None:
    """A class is known wherever in the annotation, and the annotations of its fields, it stands."""
    value = Item("a", Color.RED)
    codec = _codec(annotation)
    assert codec.decode(codec.encode(value)) == value


def test_forward_references() -> None:
    """Text is resolved in the function's module and closure, also for classes that are defined after it."""

    def early() -> list[Defined]:
        return [Defined(Color.RED)]

    codec = _codec(returns_of(early))
    with pytest.raises(UnencodableError):
        codec.encode(Color.RED)

    @dataclasses.dataclass
    class Defined:
        color: Color

    assert codec.decode(codec.encode(early())) == early()


def test_unresolvable_annotations() -> None:
    """An annotation that names nothing is no error: its values may still be plain data."""
    codec = _codec("list[Nowhere]")
    assert codec.decode(codec.encode([1])) == [1]
    with pytest.raises(UnencodableError):
        codec.encode([Color.RED])


def test_returns_of_wrapped_functions() -> None:
    """The annotation is the innermost function's, through functools.wraps and methods."""

    class Holder:
        def get(self) -> Item:
            """One."""
            raise NotImplementedError

    @functools.wraps(everything)
    def wrapper() -> int:
        return 1

    for function in (wrapper, Holder().get, Holder.get):
        codec = _codec(returns_of(function))
        assert codec.decode(codec.encode(Color.RED)) is Color.RED


def test_two_classes_of_one_name() -> None:
    """Two classes that stored bytes can't tell apart are both refused, never confused."""

    def make(base: type) -> type:
        @dataclasses.dataclass
        class Same:
            x: int

        return Same

    one, other = make(int), make(str)
    codec = _codec(one | other)
    for cls in (one, other):
        with pytest.raises(UnencodableError):
            codec.encode(cls(1))


def test_subclasses_are_other_classes() -> None:
    """An instance of a subclass of the annotated class is refused: it would come back as its base."""

    @dataclasses.dataclass
    class Special(Item):
        pass

    with pytest.raises(UnencodableError, match="Special"):
        _codec().encode(Special("a", Color.RED))

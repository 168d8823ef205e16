"""Exceptions as plain data: the same type with the same arguments and attributes comes back, or none."""

from __future__ import annotations

import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cachekit.codecs.data import DataCodec
from cachekit.codecs.failure import decode_failure, encode_failure
from cachekit.codecs.registry import Registry
from cachekit.errors import DecodeError, UnencodableError

CODEC = DataCodec(Registry(), None)


class NotFound(LookupError):
    """A plain one."""


class Missing(NotFound):
    """A subclass."""


class Rich(Exception):
    """One with an initializer of its own, whose arguments are not those of ``args``."""

    runs = 0

    def __init__(self, code: int, *, detail: str) -> None:
        type(self).runs += 1
        super().__init__(f"{code}: {detail}")
        self.code, self.detail = code, detail


class Disk(OSError):
    """One of the system's with an initializer of its own."""

    def __init__(self, code: int) -> None:
        super().__init__(code, "disk", "/dev/none")
        self.mark = "mine"


class Slotted(Exception):
    """One whose construction refuses what it is given."""

    def __new__(cls, *args: Any) -> Slotted:
        """Take one argument and no other."""
        if args != ("only this",):
            raise RuntimeError("not so")
        return super().__new__(cls, *args)


def there_and_back(error: Exception, *known: type[Exception]) -> Any:
    """What a reader makes of it who knows these classes."""
    return decode_failure(encode_failure(error), known)


# -- the same comes back -----------------------------------------------------------------------------------------------

DATA = st.none() | st.booleans() | st.integers() | st.text() | st.binary() | st.lists(st.integers())


@given(st.lists(DATA, max_size=4), st.dictionaries(st.text(min_size=1).filter(str.isidentifier), DATA, max_size=3))
def test_type_arguments_and_attributes_come_back(arguments: list[Any], attributes: dict[str, Any]) -> None:
    """Whatever plain data they are."""
    error = NotFound(*arguments)
    error.__dict__.update(attributes)
    back = there_and_back(error, NotFound)
    assert type(back) is NotFound
    assert (back.args, back.__dict__) == (tuple(arguments), attributes)
    assert str(back) == str(error)


@pytest.mark.parametrize("known", [(Missing,), (NotFound,), (LookupError,), (Exception,), (OSError, LookupError)])
def test_a_subclass_of_a_listed_class_is_known(known: tuple[type[Exception], ...]) -> None:
    """errors=(LookupError,) catches its subclasses, so it reads them too."""
    assert type(there_and_back(Missing("x"), *known)) is Missing


def test_an_initializer_is_not_run_again() -> None:
    """Attributes are put back as they were; what an application does in __init__ is its own."""
    error = Rich(7, detail="seven")
    runs = Rich.runs
    back = there_and_back(error, Rich)
    assert (back.code, back.detail, back.args, Rich.runs) == (7, "seven", ("7: seven",), runs)


def test_what_the_interpreter_keeps_beside_the_arguments_comes_back() -> None:
    """OSError's number and file, UnicodeDecodeError's positions, KeyError's quotes, StopIteration's value."""
    for error in (FileNotFoundError(2, "No such file", "/etc/none"), OSError(18, "Other device", "/a", None, "/b")):
        lost = there_and_back(error, OSError)
        assert type(lost) is type(error)
        for name in ("errno", "strerror", "filename", "filename2", "args"):
            assert getattr(lost, name) == getattr(error, name)
        assert str(lost) == str(error)
    disk = there_and_back(Disk(5), OSError)
    assert (type(disk), disk.errno, disk.filename, disk.mark) == (Disk, 5, "/dev/none", "mine")
    garbled = there_and_back(UnicodeDecodeError("utf-8", b"ab\xff", 2, 3, "invalid start byte"), ValueError)
    assert type(garbled) is UnicodeDecodeError
    assert (garbled.object, garbled.start, garbled.end, garbled.reason) == (b"ab\xff", 2, 3, "invalid start byte")
    assert str(there_and_back(KeyError("k"), KeyError)) == "'k'"
    assert there_and_back(StopIteration(5), StopIteration).value == 5
    assert there_and_back(ZeroDivisionError(), ArithmeticError).args == ()


def test_notes_come_along_and_causes_are_left_behind() -> None:
    """Notes are plain data; a cause and a traceback are of the run that raised."""
    error = NotFound("x")
    error.add_note("while looking")
    error.__cause__ = ValueError("private")
    back = there_and_back(error, NotFound)
    assert back.__notes__ == ["while looking"]
    assert (back.__cause__, back.__context__, back.__traceback__) == (None, None, None)


# -- or none -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("known", [(), (OSError,), (Missing,), (KeyError, IndexError)])
def test_a_class_that_is_not_listed_is_refused(known: tuple[type[Exception], ...]) -> None:
    """Not a superclass of a listed one, nor any other."""
    with pytest.raises(DecodeError, match="errors="):
        there_and_back(NotFound("x"), *known)


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("builtins", "KeyboardInterrupt"),
        ("builtins", "eval"),
        ("os", "system"),
        ("tests", "NotFound"),
        ("", ""),
        ("antigravity", "Fly"),
        (__name__, "NotFound.mro"),
        (__name__, "there_and_back"),
    ],
)
def test_a_name_is_looked_up_and_never_imported(module: str, name: str) -> None:
    """Bytes from the network choose among known classes; they load nothing and reach nothing else."""
    before = set(sys.modules)
    with pytest.raises(DecodeError):
        decode_failure(CODEC.encode([module, name, [], {}]), (Exception,))
    assert set(sys.modules) == before


@pytest.mark.parametrize(
    "data",
    [
        [],
        None,
        ["m", "n", []],
        ["m", "n", [], {}, 1],
        [1, "n", [], {}],
        ["m", 2, [], {}],
        ["m", "n", {}, []],
        ("m", "n", [], {}),
        {"m": "n"},
        [__name__, "NotFound", ("x",), {}],
    ],
)
def test_data_of_another_shape_is_refused(data: Any) -> None:
    """Module, name, arguments, attributes, and nothing else."""
    with pytest.raises(DecodeError):
        decode_failure(CODEC.encode(data), (Exception,))


def test_what_can_not_be_built_again_is_refused() -> None:
    """A class that takes other arguments than it did when the failure was stored."""
    assert type(there_and_back(Slotted("only this"), Slotted)) is Slotted
    for arguments in (["another"], []):
        with pytest.raises(DecodeError, match="could not be built"):
            decode_failure(CODEC.encode([__name__, "Slotted", arguments, {}]), (Slotted,))
    with pytest.raises(DecodeError, match="could not be built"):
        decode_failure(CODEC.encode(["builtins", "UnicodeDecodeError", [1], {}]), (ValueError,))


@pytest.mark.parametrize("attributes", [{1: 2}, {"__class__": 3}, {"args": 5}, {"errno": "x"}, {"": 1}])
def test_odd_attributes_do_no_harm(attributes: dict[Any, Any]) -> None:
    """They are put where attributes are kept: nothing of the class is run or changed."""
    try:
        back = decode_failure(CODEC.encode([__name__, "NotFound", ["x"], attributes]), (NotFound,))
    except DecodeError:
        return
    assert type(back) is NotFound
    assert back.args == ("x",)


@pytest.mark.parametrize("error", [NotFound(object()), NotFound([{"deep": object()}]), NotFound(open)])
def test_what_is_no_plain_data_is_not_written(error: Exception) -> None:
    """A failure is stored whole or not at all."""
    with pytest.raises(UnencodableError):
        encode_failure(error)
    odd = NotFound("x")
    odd.connection = object()  # type: ignore[attr-defined]
    with pytest.raises(UnencodableError):
        encode_failure(odd)


@given(st.binary(max_size=200))
def test_garbage_is_a_decode_error(payload: bytes) -> None:
    """Whatever the bytes."""
    with pytest.raises(DecodeError):
        decode_failure(payload, (Exception,))


@given(st.data())
def test_damage_is_a_decode_error_or_a_known_class(data: st.DataObject) -> None:
    """Any bytes of a stored failure changed or missing: never another exception, never an unlisted class."""
    whole = bytearray(encode_failure(data.draw(st.sampled_from(SAMPLES))))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(whole) - 1))
        whole[at : at + 1] = data.draw(st.binary(max_size=2))
        if not whole:
            break
    try:
        back = decode_failure(bytes(whole), (LookupError, OSError, ValueError))
    except DecodeError:
        return
    assert isinstance(back, LookupError | OSError | ValueError)


SAMPLES = [
    NotFound("x", 7),
    KeyError("k"),
    FileNotFoundError(2, "No such file"),
    UnicodeDecodeError("utf-8", b"\xff", 0, 1, "no"),
]

"""From a row to a message: each field from the attribute with its name, compiled when the mapper is defined."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, Generic, TypeAlias, TypeVar

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from protomesh.type.v1.money_pb2 import Money

from chassis.core.moments import timestamp_fields

M = TypeVar("M", bound=Message)

_Convert: TypeAlias = Callable[[Any], Any]
# What fills a field when the attribute with its name does not: another attribute, the mapper of the nested messages,
# or a function of the row.
Source: TypeAlias = "str | Mapper[Any] | Callable[[Any], Any]"


class Mapper(Generic[M]):
    """Converts rows or entities to messages of one class.

    A field is filled from the attribute with its name: a string from text or a UUID ("" for None), an enum from the
    name of its value, a Timestamp from a moment, Money from `<field>_minor` and `currency_code`, and `etag` from the
    row's `version`. A keyword argument overrides the source of the field that it names: the name of another attribute,
    the mapper of the nested messages, or a function of the row. Fields named in `without` are given by each call.

    `source` describes the rows: a model, or the names of their columns. Raises TypeError for a field that nothing
    fills, so that a service does not start when a resource has a new field and its model does not.
    """

    def __init__(
        self,
        message_class: type[M],
        source: type | Collection[str],
        *,
        without: Collection[str] = (),
        **sources: Source,
    ) -> None:
        fields = message_class.DESCRIPTOR.fields_by_name
        if unknown := (sources.keys() | set(without)) - set(fields):
            raise TypeError(f"{message_class.DESCRIPTOR.full_name} has no field {min(unknown)!r}.")
        filled = [_fill(field, sources.get(name)) for name, field in fields.items() if name not in without]
        _require(source, filled)
        self._message_class = message_class
        named = [each for each in filled if each.attribute]
        self._names = [each.field for each in named]
        self._read = _reader([each.attribute for each in named])
        self._texts = [each.field for each in named if each.convert is str]
        self._converted = [
            (each.field, each.convert) for each in named if each.convert and each.convert is not str
        ]
        self._computed = [
            (each.field, each.convert) for each in filled if each.convert and not each.attribute
        ]

    def __call__(self, row: Any, **given: Any) -> M:
        """Returns the message of a row. Fields given by name are used as they are."""
        values = dict(zip(self._names, self._read(row)))  # noqa: B905 (one value for each name, by construction)
        for name in self._texts:
            value = values[name]
            if value.__class__ is not str and value is not None:
                values[name] = str(value)
        for name, convert in self._converted:
            value = values[name]
            # A constructor treats None as a field that is not set.
            if value is not None:
                values[name] = convert(value)
        for name, compute in self._computed:
            values[name] = compute(row)
        return self._message_class(**values, **given)


@dataclass(frozen=True, slots=True)
class _Filled:
    """How a field is filled: from the converted attribute, or from the whole row when `attribute` is ""."""

    field: str
    attribute: str
    convert: _Convert | None
    needs: tuple[str, ...] = ()


def _fill(field: Any, source: Source | None) -> _Filled:
    if source is None and field.message_type is Money.DESCRIPTOR and not field.is_repeated:
        return _money(field.name)
    if source is not None and not isinstance(source, str | Mapper):
        return _Filled(field.name, "", source)
    attribute = source if isinstance(source, str) else "version" if field.name == "etag" else field.name
    convert = _each(field, source) if field.is_repeated else _single(field, source)
    return _Filled(field.name, attribute, convert, (attribute,))


def _single(field: Any, source: Source | None) -> _Convert | None:
    if isinstance(source, Mapper):
        return source
    if field.type == FieldDescriptor.TYPE_STRING:
        return str
    if field.enum_type is not None:
        return {"": 0, **{value.name: value.number for value in field.enum_type.values}}.__getitem__
    if field.message_type is Timestamp.DESCRIPTOR:
        # The fields, since a constructor takes half the time for them that it takes for a Timestamp object.
        return timestamp_fields
    if field.message_type is not None:
        raise TypeError(f"{field.full_name} holds messages: give a mapper or a function for it.")
    return None


def _each(field: Any, source: Source | None) -> _Convert | None:
    convert = _single(field, source)
    # A list of strings needs no conversion: no column holds a list of identifiers.
    return None if convert in (None, str) else lambda values: [convert(value) for value in values]


def _money(field: str) -> _Filled:
    attributes = (f"{field}_minor", "currency_code")
    both = attrgetter(*attributes)

    def convert(row: Any) -> dict[str, Any] | None:
        amount, currency = both(row)
        return None if amount is None else {"amount_minor": amount, "currency_code": currency}

    return _Filled(field, "", convert, attributes)


def _require(source: type | Collection[str], filled: Iterable[_Filled]) -> None:
    known = dir(source) if isinstance(source, type) else source
    for each in filled:
        for missing in set(each.needs) - set(known):
            name = source.__name__ if isinstance(source, type) else "The row"
            raise TypeError(f"{name} has no {missing!r} to fill the field {each.field!r} with.")


def _reader(attributes: list[str]) -> Callable[[Any], tuple[Any, ...]]:
    if len(attributes) > 1:
        return attrgetter(*attributes)
    # attrgetter returns a single attribute without a tuple around it.
    return lambda row: tuple(getattr(row, attribute) for attribute in attributes)

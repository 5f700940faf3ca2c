"""One generator per record type, read from the types themselves: a new field needs no line here.

`values(kind)` makes plain JSON values that the schema must accept; what a field may hold follows
from its type and its limits alone, so that nothing is made that the contract does not allow.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import msgspec
from hypothesis import strategies as st
from msgspec import inspect

Values = st.SearchStrategy[Any]

# Half of 64 bits: a sum of two still fits everywhere.
LARGEST = 2**62
NAMES = st.text(max_size=8)
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers(-LARGEST, LARGEST) | NAMES,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(NAMES, inner, max_size=2),
    max_leaves=4,
)


@cache
def values(kind: type[msgspec.Struct]) -> Values:
    """JSON values of a record, optional keys sometimes left out."""
    return _struct(inspect.type_info(kind))  # type: ignore[arg-type]


def _struct(info: inspect.StructType) -> Values:
    if info.array_like:
        return st.tuples(*(_of(field.type) for field in info.fields)).map(list)
    required = {field.encode_name: _of(field.type) for field in info.fields if field.required}
    optional = {field.encode_name: _of(field.type) for field in info.fields if not field.required}
    head: dict[str, Values] = {}
    if info.tag_field is not None:
        head = {info.tag_field: st.just(info.tag), "schema": optional.pop("schema")}
    return st.fixed_dictionaries(head | required, optional=optional)


def _of(info: inspect.Type) -> Values:
    match info:
        case inspect.Metadata():
            return _of(info.type)
        case inspect.UnionType():
            return st.one_of([_of(one) for one in info.types])
        case inspect.NoneType():
            return st.none()
        case inspect.BoolType():
            return st.booleans()
        case inspect.IntType():
            return st.integers(
                -LARGEST if info.ge is None else info.ge, LARGEST if info.le is None else info.le
            )
        case inspect.FloatType():
            return st.floats(
                info.ge if info.gt is None else info.gt,
                info.le if info.lt is None else info.lt,
                exclude_min=info.gt is not None,
                exclude_max=info.lt is not None,
                allow_nan=False,
                allow_infinity=False,
            )
        case inspect.StrType():
            return st.text(max_size=12)
        case inspect.LiteralType():
            return st.sampled_from(info.values)
        case inspect.ListType():
            return st.lists(_of(info.item_type), max_size=2)
        case inspect.DictType():
            return st.dictionaries(NAMES, _of(info.value_type), max_size=2)
        case inspect.StructType():
            return _struct(info)
        case inspect.AnyType():
            return ANYTHING
    raise NotImplementedError(f"no generator for {info}")

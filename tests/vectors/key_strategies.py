"""Hypothesis strategies for keys: plain values take the fast path, mixed ones may take the careful one."""

from __future__ import annotations

from hypothesis import strategies as st

scalars = st.one_of(
    st.none(), st.booleans(), st.integers(), st.integers(-(2**70), 2**70), st.floats(allow_nan=False), st.binary(),
    st.complex_numbers(allow_nan=False), st.text(st.characters(codec=None)),
)  # fmt: skip
plains = st.recursive(scalars, lambda inner: st.lists(inner) | st.lists(inner).map(tuple), max_leaves=12)
hashables = st.one_of(scalars, st.decimals(allow_nan=False), st.fractions(), st.dates(), st.uuids(), st.tuples(scalars))
mixed = st.recursive(
    hashables,
    lambda inner: (
        st.lists(inner) | st.dictionaries(hashables, inner) | st.frozensets(hashables) | st.lists(inner).map(tuple)
    ),
    max_leaves=12,
)

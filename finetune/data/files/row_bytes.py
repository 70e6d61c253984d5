"""Counts the bytes of each row of a batch before a value is taken out of it."""

from __future__ import annotations

from typing import Any


def row_bytes(array: Any) -> list[int]:
    """Gives the bytes of each value of an Arrow array, written out; of a null, 0."""
    return [size or 0 for size in _sizes(array).to_pylist()]


def _sizes(array: Any) -> Any:
    import pyarrow
    from pyarrow import compute, types

    kind = array.type
    if isinstance(kind, pyarrow.BaseExtensionType):
        return _sizes(array.storage)
    if types.is_dictionary(kind):
        return _sizes(array.dictionary).take(array.indices)
    if types.is_struct(kind):
        return _sum(pyarrow.array([0] * len(array), pyarrow.int64()), map(_sizes, array.flatten()))
    if types.is_fixed_size_list(kind):
        return _sizes(array.cast(pyarrow.list_(kind.value_type)))
    if types.is_list(kind) or types.is_large_list(kind) or types.is_map(kind):
        before = pyarrow.concat_arrays(
            [pyarrow.array([0], pyarrow.int64()), compute.cumulative_sum(compute.fill_null(_sizes(array.values), 0))]
        )
        return compute.subtract(before.take(array.offsets[1:]), before.take(array.offsets[:-1]))
    if types.is_string_view(kind) or types.is_binary_view(kind):
        return _sizes(array.cast(pyarrow.large_binary()))
    if any(of(kind) for of in (types.is_string, types.is_binary, types.is_large_string, types.is_large_binary)):
        return compute.binary_length(array).cast(pyarrow.int64())
    return pyarrow.array([1 if types.is_null(kind) else -(-kind.bit_width // 8)] * len(array), pyarrow.int64())


def _sum(total: Any, parts: Any) -> Any:
    from pyarrow import compute

    for part in parts:
        total = compute.add(total, compute.fill_null(part, 0))
    return total

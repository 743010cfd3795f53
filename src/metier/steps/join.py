"""Records of several sources one after another, all of them, under one set of columns.

The column `source` says where a record came from, and ids carry its name in front. A column that a source lacks is null
there; whole numbers beside broken ones become broken ones. For shares of text instead of everything: `blend`.

Raises: MetierError when a column holds things of two kinds, such as prompts as text and as messages.
"""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from metier.artefacts import Records
from metier.options import MetierError
from metier.store import Work


def run(sources: dict[str, Records], *, work: Work) -> Records:
    if not sources:
        raise MetierError("join: 'sources' names no source")
    joined = pa.schema([])
    tables = []
    for name, data in sources.items():
        table = _named(name, data)
        for field in table.schema:
            place = joined.get_field_index(field.name)
            try:
                column = pa.schema([field] if place < 0 else [joined.field(place)])
                column = pa.unify_schemas([column, pa.schema([field])], promote_options="permissive")
            except pa.ArrowException:
                raise MetierError(f"join: the column '{field.name}' is {_words(field.type)} in '{name}' and "
                                  f"{_words(joined.field(place).type)} before") from None  # fmt: skip
            joined = joined.append(column[0]) if place < 0 else joined.set(place, column[0])
        tables.append(table)
        work.log(event="join", source=name, records=len(data))
    return Records(pa.concat_tables(tables, promote_options="permissive").cast(joined))


def _named(name: str, data: Records) -> pa.Table:
    ids = pc.binary_join_element_wise(f"{name}:", data.table.column("id"), "")
    table = data.table.set_column(data.columns.index("id"), "id", ids)
    source = pa.array([name] * len(data), pa.string())
    if "source" in data.columns:
        return table.set_column(data.columns.index("source"), "source", source)
    return table.append_column("source", source)


def _words(kind: pa.DataType) -> str:
    if pa.types.is_list(kind):
        return "messages" if pa.types.is_struct(kind.value_type) else "a list"
    return "text" if pa.types.is_string(kind) else str(kind)

"""The records whose column has this value.

Options:
    column: name of the column.
    equals: its value, as text.
Raises: MetierError when there is no such column or no such record.
"""

from __future__ import annotations

from metier.artefacts import Records
from metier.options import MetierError

EXAMPLE = {"column": "label", "equals": "open"}


def run(data: Records, *, column: str, equals: str) -> Records:
    kept = data.where([str(v) == equals for v in data.column(column)])
    if not len(kept):
        raise MetierError(f"where: no record has {column} = {equals!r}")
    return kept

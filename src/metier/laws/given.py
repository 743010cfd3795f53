"""The records and the task that methods are tried on."""

from __future__ import annotations

from metier.artefacts import Measure, Records, Row, Task
from metier.laws import toy


def rows(count: int = 24) -> list[Row]:
    """Records that have whatever a method may want: text, messages, label, split, group, heading …"""
    made: list[Row] = []
    for text, asked in zip(toy.texts(count), toy.questions(count, seed=1), strict=True):
        i = len(made)
        made.append({
            "id": f"r{i:02d}", "document": f"d{i // 2:02d}", "title": f"Bridge {i // 2}", "heading": "River > Valve",
            "text": text["text"], "messages": asked["messages"], "label": "open" if i % 2 else "closed",
            "split": ("train", "train", "dev", "test")[i % 4], "group": f"g{i // 2:02d}", "source": f"s{i % 3}",
            "origin": {"file": "toy.txt", "page": None, "line": i + 1, "offset": 0, "kind": "text", "licence": ""},
        })  # fmt: skip
    return made


def task() -> Task:
    """Texts to read and words to choose."""
    shown = {"kind": "retention", "title": "toy", "words": "Toy rows."}
    measures = {
        "bits_per_byte": Measure(ask="read", unit="bits per byte", better="lower", margin=0.02, **shown),  # type: ignore[arg-type]
        "choice": Measure(ask="choose", unit="accuracy", better="higher", margin=0.03, chance=0.5, **shown),  # type: ignore[arg-type]
    }
    found = []
    for row in rows(16):
        asked = {"split": "test", "cluster": row["group"], "prompt": "the river "}
        found.append(asked | {"id": f"read/{row['id']}", "measure": "bits_per_byte", "text": row["text"]})
        found.append(asked | {"id": f"choice/{row['id']}", "measure": "choice", "choices": [" open", " closed"],
                              "gold": int(row["label"] == "closed")})  # fmt: skip
    return Task("toy", "tasks.general", Records.from_rows(found), measures)


def preferences() -> list[Row]:
    """Two replies to a question, of which the first is the better one."""
    return [
        {"id": row["id"], "prompt": row["messages"][:1], "replies": [row["messages"][1]["content"], "valve " * 3],
         "scores": [1.0, 0.0]}
        for row in rows()
    ]  # fmt: skip

"""Every shape read and written back: what is not touched stays, what is edited shows."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metier import shapes

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
VALUE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXT,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(TEXT, inner, max_size=2),
    max_leaves=4,
)
EXTRA = st.dictionaries(
    TEXT.filter(lambda k: all(k not in keys for keys in shapes.CARRIED.values())) | st.sampled_from(["id", "source"]),
    VALUE, max_size=3,
)  # fmt: skip


def maybe(**keys: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional=keys)


@st.composite
def turns(draw: st.DrawFn, role: str = "role", content: str = "content", open_end: bool = True) -> list[dict[str, Any]]:
    """Messages in a file's own way: with extra keys, parts, tools and other names of roles."""
    names = {"user": ["user", "human"], "assistant": ["assistant", "gpt"]}
    length = draw(st.integers(1, 5))
    order = ["user", "assistant"] * 3 if draw(st.booleans()) or not open_end else ["user", "assistant", "tool"]
    roles = order[: length if open_end else length // 2 * 2 + 2]
    found = [{role: "system", content: draw(TEXT)}] if draw(st.booleans()) else []
    for name in roles:
        said: Any = draw(TEXT)
        if role == "role" and draw(st.integers(0, 4)) == 0:
            said = [{"type": "text", "text": said}, {"type": "text", "text": draw(TEXT)}]
        more = draw(maybe(weight=st.sampled_from([0, 1]), name=TEXT, seen=VALUE))
        item = {role: draw(st.sampled_from(names.get(name, [name]))), content: said, **more}
        found.append(dict(draw(st.permutations(list(item.items())))))
    return found


@st.composite
def conversations(draw: st.DrawFn) -> tuple[list[Any], list[Any]]:
    """Two conversations that differ in their last reply."""
    whole = draw(turns(open_end=False))
    other = copy.deepcopy(whole)
    other[-1]["content"] = draw(TEXT)
    return whole, other


SAID = st.fixed_dictionaries({"role": st.just("assistant"), "content": TEXT}).map(lambda m: [m])
ASKED = turns(open_end=True).filter(lambda ts: ts[-1]["role"] in ("user", "human", "tool"))
ROWS: dict[str, st.SearchStrategy[dict[str, Any]]] = {
    "text": st.fixed_dictionaries({"text": TEXT}),
    "messages": st.fixed_dictionaries({"messages": turns()}),
    "sharegpt": st.tuples(
        st.fixed_dictionaries({"conversations": turns("from", "value") | turns()}),
        maybe(system=st.none() | st.just("")),
    ).map(lambda p: p[0] | p[1])
    | st.fixed_dictionaries({
        "system": TEXT, "conversations": turns("from", "value").filter(lambda ts: ts[0]["from"] != "system")
    }),
    "alpaca": st.tuples(
        st.fixed_dictionaries({"instruction": TEXT, "output": TEXT | st.none()}),
        maybe(input=TEXT | st.none(), system=TEXT | st.none(),
              history=st.none() | st.lists(st.lists(TEXT, min_size=2, max_size=2), max_size=2)),
    ).map(lambda p: p[0] | p[1]),
    "prompt_completion": st.fixed_dictionaries({"prompt": TEXT, "completion": TEXT})
    | st.fixed_dictionaries({"prompt": ASKED, "completion": SAID}),
    "preference": st.fixed_dictionaries({"prompt": TEXT, "chosen": TEXT, "rejected": TEXT})
    | st.fixed_dictionaries({"prompt": ASKED, "chosen": SAID, "rejected": SAID})
    | conversations().map(lambda pair: {"chosen": pair[0], "rejected": pair[1]})
    | st.tuples(TEXT, TEXT, TEXT).map(lambda t: {"chosen": f"\n\nHuman: {t[0]}\n\nAssistant: {t[1]}",
                                                 "rejected": f"\n\nHuman: {t[0]}\n\nAssistant: {t[2]}"}),
    "kto": st.fixed_dictionaries({"prompt": TEXT | ASKED, "completion": TEXT | SAID, "label": st.booleans()}),
    "openai": st.fixed_dictionaries({
        "input": st.fixed_dictionaries({"messages": ASKED, "tools": st.just([]), "parallel_tool_calls": st.booleans()}),
        "preferred_output": SAID, "non_preferred_output": SAID,
    }),
}  # fmt: skip


def row_of(shape: str) -> st.SearchStrategy[dict[str, Any]]:
    return st.tuples(EXTRA, ROWS[shape]).flatmap(
        lambda both: st.permutations(list((both[0] | both[1]).items())).map(dict)
    )


def form(record: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in record.items() if name in shapes.FORM}


def edited(record: dict[str, Any], words: str) -> dict[str, Any]:
    """The same record with other words in its first and last part."""
    record = copy.deepcopy(record)
    for name in ("messages", "prompt"):
        for at in (0, -1) if isinstance(record.get(name), list) else ():
            record[name][at]["content"] = words
    for name in ("text", "completion"):
        if name in record:
            record[name] = words
    if "replies" in record:
        record["replies"][0] = words
    return record


@pytest.mark.parametrize("shape", ROWS)
@settings(max_examples=150, deadline=None)
@given(data=st.data(), words=st.text("abc é", min_size=1, max_size=5).filter(lambda w: w.strip() == w))
def test_a_row_comes_back_as_it_stood_and_an_edit_shows(shape: str, data: st.DataObject, words: str) -> None:
    row = data.draw(row_of(shape))
    before = json.dumps(row)
    assert shapes.detect(row) == shape
    record = shapes.read(row, shape)
    assert json.dumps(shapes.write(record, shape, row)) == before
    changed = edited(record, words)
    written = shapes.write(changed, shape, row)
    again = shapes.read(written, shape)
    assert form(again) == form(changed)
    assert list(written)[: len(row)] == list(row) and json.dumps(row) == before
    fresh = shapes.write(record, shape)  # without the row it came from
    assert form(shapes.read(fresh, shape)) == form(record)


@pytest.mark.parametrize(
    ("row", "columns"),
    [
        ({"instruction": "Add.", "input": "1 2", "output": "3"},
         {"messages": [{"role": "user", "content": "Add.\n\n1 2"}, {"role": "assistant", "content": "3"}]}),
        ({"instruction": "Go on.", "output": "c", "history": [["a", "b"]], "system": "s"},
         {"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "a"},
                       {"role": "assistant", "content": "b"}, {"role": "user", "content": "Go on."},
                       {"role": "assistant", "content": "c"}]}),
        ({"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}], "system": "s"},
         {"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "a"},
                       {"role": "assistant", "content": "b"}]}),
        ({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": None, "tool_calls": [
            {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}}]},
            {"role": "tool", "tool_call_id": "1", "content": "2"}, {"role": "assistant", "content": "b", "weight": 0}]},
         {"messages": [{"role": "user", "content": "a"},
                       {"role": "assistant", "content": '{"name": "f", "arguments": {"x": 1}}'},
                       {"role": "tool", "content": "2"}, {"role": "assistant", "content": "b", "weight": 0.0}]}),
        ({"prompt": "a", "completion": "b"}, {"prompt": "a", "completion": "b"}),
        ({"prompt": "p", "chosen": "a", "rejected": "b", "margin": 2},
         {"prompt": [{"role": "user", "content": "p"}], "replies": ["a", "b"], "scores": [1.0, 0.0], "margin": 2}),
        ({"chosen": "The sky is blue.", "rejected": "The sky is black."},
         {"prompt": [{"role": "user", "content": "The sky is"}], "replies": ["blue.", "black."], "scores": [1.0, 0.0]}),
        ({"prompt": "p", "completion": "a", "label": "False"},
         {"prompt": [{"role": "user", "content": "p"}], "replies": ["a"], "scores": [0.0]}),
        ({"prompt": "p", "chosen": [{"role": "user", "content": "p"}, {"role": "assistant", "content": "a"}],
          "rejected": [{"role": "user", "content": "p"}, {"role": "assistant", "content": "b"}]},
         {"prompt": [{"role": "user", "content": "p"}], "replies": ["a", "b"], "scores": [1.0, 0.0]}),
        ({"text": "t", "id": 7, "given_id": "x"}, {"text": "t", "given_id": 7, "given_given_id": "x"}),
    ],
)  # fmt: skip
def test_forms(row: dict[str, Any], columns: dict[str, Any]) -> None:
    shape = shapes.detect(row)
    assert shape is not None and shapes.read(row, shape) == columns


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"messages": [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]},
         "message 2 is from 'user' and should be from 'assistant'"),
        ({"messages": [{"role": "assistant", "content": "a"}]},
         "message 1 is from 'assistant' and should be from 'user'"),
        ({"messages": [{"role": "narrator", "content": "a"}]}, "message 1 is from 'narrator'; known are"),
        ({"messages": []}, "holds no message of a user"),
        ({"messages": [{"role": "user"}]}, "message 1 has no 'content'"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]}, "holds image_url, and"),
        ({"messages": ["hello"]}, "message 1 must be {role, content}, got text"),
        ({"conversations": [{"from": "human"}]}, "message 1 has no 'value'"),
        ({"instruction": None, "output": "a"}, "'instruction' must be text, got nothing"),
        ({"instruction": "a", "output": "b", "history": ["c"]}, "'history' must be pairs"),
        ({"prompt": 3, "completion": "b"}, "'prompt' must be a list of messages, got 3"),
        ({"chosen": "alpha", "rejected": "beta"}, "share no beginning"),
        ({"chosen": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}],
          "rejected": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "b"}]}, "last reply only"),
    ],
)  # fmt: skip
def test_what_does_not_fit_says_why(row: dict[str, Any], reason: str) -> None:
    shape = shapes.detect(row)
    assert shape is not None
    with pytest.raises(shapes.Misfit, match=reason.replace("{", r"\{")):
        shapes.read(row, shape)


def test_an_edit_in_the_middle_leaves_its_neighbours_alone() -> None:
    row = {
        "conversations": [
            {"from": "human", "value": "a", "n": 1},
            {"from": "gpt", "value": "b", "n": 2},
            {"from": "human", "value": "c", "n": 3},
            {"from": "gpt", "value": "d", "n": 4},
        ]
    }
    record = shapes.read(row, "sharegpt")
    record["messages"] = [{"role": "system", "content": "s"}, *record["messages"]]
    record["messages"][2] = {"role": "assistant", "content": "B"}
    assert shapes.write(record, "sharegpt", row)["conversations"] == [
        {"from": "system", "value": "s"}, {"from": "human", "value": "a", "n": 1},
        {"from": "gpt", "value": "B", "n": 2}, *row["conversations"][2:],
    ]  # fmt: skip
    del record["messages"][3:]
    assert [m["value"] for m in shapes.write(record, "sharegpt", row)["conversations"]] == ["s", "a", "B"]


def test_alpaca_keeps_its_input_apart_where_it_can() -> None:
    row = {"instruction": "Add.", "input": "1 2", "output": "3"}
    record = shapes.read(row, "alpaca")

    def after(asked: str) -> dict[str, Any]:
        record["messages"][0]["content"] = asked
        return shapes.write(record, "alpaca", row)

    assert after("Add up.\n\n1 2") == {"instruction": "Add up.", "input": "1 2", "output": "3"}
    assert after("Add.\n\n5") == {"instruction": "Add.", "input": "5", "output": "3"}
    assert after("Sum?") == {"instruction": "Sum?", "input": "", "output": "3"}


def test_scores_that_turned_turn_the_pair() -> None:
    row = {"prompt": "p", "chosen": "a", "rejected": "b"}
    record = shapes.read(row, "preference") | {"scores": [0.2, 0.9]}
    assert shapes.write(record, "preference", row) == {"prompt": "p", "chosen": "b", "rejected": "a"}
    with pytest.raises(shapes.Misfit, match="one with a higher score"):
        shapes.write(record | {"scores": [1.0, 1.0]}, "preference", row)


def test_from_one_shape_to_another() -> None:
    record = shapes.read({"instruction": "Add.", "input": "1 2", "output": "3", "topic": "sums"}, "alpaca")
    said = [{"role": "user", "content": "Add.\n\n1 2"}, {"role": "assistant", "content": "3"}]
    assert shapes.write(record, "messages") == {"messages": said, "topic": "sums"}
    assert shapes.write(record, "openai") == {"messages": said}
    assert shapes.write(record, "prompt_completion") == {"prompt": said[:1], "completion": said[1:], "topic": "sums"}
    assert shapes.write({"id": "1", "prompt": "a", "completion": "b"}, "sharegpt")["conversations"][0]["value"] == "a"
    assert shapes.write(record, "sharegpt")["conversations"][1] == {"from": "gpt", "value": "3"}
    for shape, reason in (("text", "has no text"), ("preference", "two replies"), ("kto", "one reply")):
        with pytest.raises(shapes.Misfit, match=reason):
            shapes.write(record, shape)

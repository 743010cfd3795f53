"""write, order, join, blend, best and through on small records."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from metier.artefacts import Model, Records, Report, Scores
from metier.data.mix import fixed
from metier.data.select import length
from metier.infer.context import passages
from metier.options import MetierError
from metier.steps import best, blend, join, order, through, write
from metier.store import Work

TALK = [{"role": "user", "content": "Where is the valve?"}, {"role": "assistant", "content": "Behind the pump."}]


@pytest.fixture
def work(tmp_path: Path) -> Work:
    return Work(tmp_path / "work")


def texts(*values: str, **columns: list[object]) -> Records:
    return Records.from_rows({"id": f"r{i}", "text": v} | {k: c[i] for k, c in columns.items()}
                             for i, v in enumerate(values))  # fmt: skip


def test_write_leaves_alone_what_is_not_its_own(tmp_path: Path, work: Work) -> None:
    out = tmp_path / "deep" / "out.jsonl"
    data = texts("a", "b")
    assert write.run(data, to=str(out), work=work) is data
    assert out.read_text() == '{"text": "a"}\n{"text": "b"}\n'
    write.run(texts("c"), to=str(out), work=work)
    assert out.read_text() == '{"text": "c"}\n'
    out.write_text('{"text": "edited by hand"}\n')
    for refused in (lambda: write.run(data, to=str(out), work=work), lambda: write.checks["run"](str(out))):
        with pytest.raises(MetierError, match="exists and holds what metier did not write"):
            refused()
    assert out.read_text() == '{"text": "edited by hand"}\n'
    with pytest.raises(MetierError, match=r"'to' must end in \.jsonl, .*got 'out.doc'"):
        write.checks["run"]("out.doc")


def test_write_is_whole_or_not_at_all(tmp_path: Path, work: Work) -> None:
    out = tmp_path / "out.jsonl"
    write.run(texts("a"), to=str(out), work=work)
    mixed = Records.from_rows([{"id": "1", "text": "b"}, {"id": "2", "messages": TALK}])
    with pytest.raises(MetierError, match="records of two shapes, text and messages"):
        write.run(mixed, to=str(out), work=work)
    with pytest.raises(MetierError, match="record '1' holds no conversation, so it cannot be written as alpaca"):
        write.run(mixed, to=str(out), shape="alpaca", work=work)
    assert out.read_text() == '{"text": "a"}\n'
    write.run(texts("again"), to=str(out), work=work)  # what a failed run left does not count as somebody else's
    assert out.read_text() == '{"text": "again"}\n'


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.jsonl.gz", "a.parquet"])
def test_the_same_records_give_the_same_bytes(name: str, tmp_path: Path, work: Work) -> None:
    for folder in ("a", "b"):
        write.run(texts("é", "b", n=[1, 2]), to=str(tmp_path / folder / name), work=work)
    assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_order(work: Work) -> None:
    data = texts("a b c", "a", "a b", "b")
    ids = lambda **o: order.run(data, length.score(data), work=work, **o).column("id")  # noqa: E731
    assert ids() == ["r1", "r3", "r2", "r0"] and ids(first="highest") == ["r0", "r2", "r1", "r3"]
    dropped = order.run(data, length.score(data, shortest=2), work=work)
    assert dropped.column("id") == ["r2", "r0"]
    assert next(r for r in work.rows() if r["event"] == "kept" and r["kept"] == 2)["dropped"] == {"under 2 words": 2}
    with pytest.raises(MetierError, match="record 'r1' has no row in the scores"):
        order.run(data, Scores.from_rows([{"id": "r0", "score": 1.0}]), work=work)


def test_join_keeps_everything_under_one_set_of_columns(work: Work) -> None:
    a = texts("a", "b", n=[1, 2], origin=[{"file": "x", "page": 3}] * 2)
    b = Records.from_rows([{"id": "r0", "messages": TALK, "n": 2.5, "origin": {"file": "y", "given": "{}"}}])
    joined = join.run({"a": a, "b": b}, work=work)
    assert joined.column("id") == ["a:r0", "a:r1", "b:r0"] and joined.column("source") == ["a", "a", "b"]
    assert joined.column("text") == ["a", "b", None] and joined.column("n") == [1.0, 2.0, 2.5]
    assert joined.column("origin")[0] == {"file": "x", "page": 3, "given": None}
    assert joined.column("messages") == [None, None, TALK]
    assert join.run({"x": joined, "y": a}, work=work).column("id")[-1] == "y:r1"
    with pytest.raises(MetierError, match="the column 'text' is int64 in 'b' and text before"):
        join.run({"a": a, "b": Records.from_rows([{"id": "1", "text": 3}])}, work=work)


def test_blend_applies_what_a_mix_method_says(work: Work) -> None:
    sources = {"own": texts(*["aaaa"] * 30), "general": texts(*["bbbb"] * 100), "none": texts("c")}
    shares = fixed.weigh(sources, shares={"own": 3, "general": 1, "none": 1})
    assert {r["id"]: r["score"] for r in shares} == {"own": 0.6, "general": 0.2, "none": 0.2}
    out = Scores.from_rows([{"id": "own", "score": 3.0}, {"id": "general", "score": 1.0},
                            {"id": "none", "reason": "too small"}])  # fmt: skip
    mixed = blend.run(sources, out, work=work)
    assert [mixed.column("source").count(s) for s in ("own", "general", "none")] == [30, 10, 0]
    assert len(set(mixed.column("id"))) == 40 and blend.run(sources, out, work=work).digest == mixed.digest
    assert {r["source"]: r.get("reason") for r in work.rows() if r["event"] == "blend"}["none"] == "too small"
    with pytest.raises(MetierError, match=r"blend: the scores must be of the sources \['a'\]"):
        blend.run({"a": texts("x")}, out, work=work)
    with pytest.raises(MetierError, match=r"data\.mix\.fixed: 'shares' must name the sources"):
        fixed.weigh(sources, shares={"own": 1})
    with pytest.raises(MetierError, match="the source 'a' holds no text"):
        fixed.weigh({"a": texts("")}, shares={"a": 1})


def test_best_goes_by_what_was_measured(work: Work, tmp_path: Path) -> None:
    models = {name: Model(tmp_path, name) for name in ("weak", "strong", "same")}

    def report(values: dict[str, float], measure: str, better: str) -> Report:
        return Report({"totals": {c: {"t": {measure: {"value": v, "n": 9}}} for c, v in values.items()},
                       "tasks": {"t": {"measures": {measure: {"better": better}}, "notes": {}}}})  # fmt: skip

    bits = report({"weak": 1.2, "strong": 0.9, "same": 0.9, "base": 0.1}, "bits", "lower")
    right = [report({"weak": 0.5, "same": 0.2}, "right", "higher"), report({"strong": 0.4}, "right", "higher")]
    assert best.run(models, [bits, *right], measure="t.bits", work=work) is models["strong"]
    assert best.run(models, [bits, *right], measure="t.right", work=work) is models["weak"]
    assert work.rows()[-1]["values"] == {"weak": 0.5, "strong": 0.4, "same": 0.2}
    with pytest.raises(MetierError, match=r"best: has no measure 't\.bit'; did you mean 't\.bits'\?"):
        best.run(models, [bits], measure="t.bit", work=work)
    with pytest.raises(MetierError, match=r"no report tells 't\.right' of strong"):
        best.run(models, right[:1], measure="t.right", work=work)


class Fails:
    """A model that may not be asked."""

    ROLE, access, digest = "artefact", "weights", "x"

    def reply(self, *given: object) -> None:
        raise AssertionError("the model was asked")


def test_through_shows_training_what_the_wrap_will_ask(work: Work) -> None:
    library = texts("The valve is behind the pump.", "Fans cool.")
    chat = passages.wrap(Fails(), library)  # type: ignore[arg-type]
    talk = [*TALK, {"role": "user", "content": "And the fans?"}, {"role": "assistant", "content": "Above."}]
    data = Records.from_rows([
        {"id": "1", "messages": TALK, "n": 1}, {"id": "2", "messages": talk, "n": 2},
        {"id": "3", "messages": [{"role": "user", "content": "Zzz?"}, TALK[1]], "n": 3},
    ])  # fmt: skip
    made = through.run(data, chat, work=work)
    one, two, three = made.column("messages")
    asked: list[list[dict[str, str]]] = []

    class Spy(Fails):
        def reply(self, conversations, sampling=None, advance=None):  # type: ignore[no-untyped-def, override]
            asked.extend(conversations)
            return []

    passages.wrap(Spy(), library).reply([TALK[:1], talk[:3]])  # type: ignore[arg-type]
    plain = [[{k: m[k] for k in ("role", "content")} for m in c] for c in (one, two, three)]
    assert plain[0][:-1] == asked[0] and plain[1][:-1] == asked[1] and plain[2] == data.column("messages")[2]
    assert one[0]["content"] == "The valve is behind the pump.\n\nWhere is the valve?"
    assert [m["weight"] for m in two] == [None, 0.0, None, None] and made.column("n") == [1, 2, 3]
    assert work.rows()[-1] == {"event": "through", "read": 3, "changed": 2}
    assert through.run(data, chat, share=0.0, work=work).digest == data.digest
    pairs = Records.from_rows([{"id": "1", "prompt": "the valve", "completion": " is there"}])
    assert through.run(pairs, chat, work=work).column("prompt") == ["The valve is behind the pump.\n\nthe valve"]
    with pytest.raises(MetierError, match="record 'r0' has no prompt with a reply"):
        through.run(library, chat, work=work)
    with pytest.raises(MetierError, match="the chat is a model, not a wrap"):
        through.run(data, Fails(), work=work)  # type: ignore[arg-type]


def test_json_of_no_records_is_a_list(tmp_path: Path, work: Work) -> None:
    write.run(texts("a").where([False]), to=str(tmp_path / "a.json"), work=work)
    assert json.loads((tmp_path / "a.json").read_text()) == []

"""Nobody is asked the same twice: not after a kill, not by two processes, not within one call."""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import sqlite3
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from answering import Answering
from metier.lm import ask
from metier.lm.chat import GREEDY, Reply, Sampling
from metier.options import MetierError
from metier.store import Work
from metier.worlds import facts
from metier.worlds.writer import Scripted

WORLD = facts.make(40)


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("METIER_HOME", str(tmp_path))
    return tmp_path


def talks(*words: str) -> list[list[dict[str, str]]]:
    return [[{"role": "user", "content": word}] for word in words]


def echo(digest: str = "echo") -> Answering:
    return Answering(digest, says=lambda question: question.upper())


def go(chat: Answering, *words: str, sampling: Sampling = GREEDY, folder: str = "work") -> list[str]:
    work = Work(Path(os.environ["METIER_HOME"]) / folder)
    return [r.text for r in ask.ask(chat, talks(*words), sampling, work=work)]


def test_replies_come_in_order_and_each_conversation_is_asked_once(place: Path) -> None:
    chat = echo()
    assert go(chat, "b", "aaa", "b", "cc") == ["B", "AAA", "B", "CC"]
    assert len(chat.conversations) == 3
    assert go(chat, "cc", "new") == ["CC", "NEW"] and len(chat.conversations) == 4
    first, second = (row for row in Work(place / "work").rows() if row["event"] == "asked")
    assert (first["conversations"], first["calls"], first["cached"], first["tokens"]) == (4, 3, 0, 9)
    assert (second["conversations"], second["calls"], second["cached"], second["tokens"]) == (2, 1, 1, 3)


def test_another_chat_sampling_or_seed_is_another_question() -> None:
    chat = echo()
    for sampling in (Sampling(), Sampling(seed=1), Sampling(max_tokens=5), Sampling(stop=("x",)), Sampling(n=2)):
        go(chat, "a", sampling=sampling)
        go(chat, "a", sampling=sampling)
    assert len(chat.conversations) == 5
    other = echo("other")
    go(other, "a")
    assert len(other.conversations) == 1


def test_several_samples_stay_together_and_a_kept_reply_is_the_reply() -> None:
    class Rich(Answering):
        def reply(self, conversations, sampling=GREEDY, advance=None):  # type: ignore[no-untyped-def]
            self.conversations += conversations
            return [
                Reply(f"{c[0]['content']}{k}", 2, -0.1 / 3, "length", 0.25, k == 1, {"sources": ["ä", "b"]})
                for c in conversations for k in range(sampling.n)
            ]  # fmt: skip

    chat, work = Rich("rich"), Work(Path(os.environ["METIER_HOME"]) / "w")
    first = ask.ask(chat, talks("a", "b"), Sampling(n=3), work=work)
    assert [r.text for r in first] == ["a0", "a1", "a2", "b0", "b1", "b2"]
    assert (
        ask.ask(chat, talks("a", "b"), Sampling(n=3), work=work) == first == chat.reply(talks("a", "b"), Sampling(n=3))
    )


class Slow(Scripted):
    """Writes down whom it is asked, and takes its time."""

    digest = "slow"

    def __init__(self, heard: Path) -> None:
        super().__init__(WORLD, 0.3)
        self.heard = heard

    def reply(self, conversations, sampling=GREEDY, advance=None):  # type: ignore[no-untyped-def]
        for conversation in conversations:
            with self.heard.open("a") as stream:
                stream.write(conversation[0]["content"] + "\n")
            time.sleep(0.001)
        return super().reply(conversations, sampling, advance)


def ask_all(folder: Path) -> None:
    replies = ask.ask(Slow(folder / "heard"), talks(*WORLD.by_question), work=Work(folder / "work"))
    (folder / "told").write_text("\n".join(reply.text for reply in replies))


def started(folder: Path) -> Any:
    folder.mkdir(exist_ok=True)
    process = multiprocessing.get_context("fork").Process(target=ask_all, args=(folder,))
    process.start()
    return process


def test_a_kill_loses_one_chunk_at_most(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METIER_HOME", str(place / "alone"))
    started(place / "one").join()
    monkeypatch.setenv("METIER_HOME", str(place / "killed"))
    folder, kills = place / "two", 0
    (place / "two").mkdir()
    (folder / "heard").touch()
    for enough in (50, 120, 200, 260):
        process = started(folder)
        while len((folder / "heard").read_text().splitlines()) < enough:
            time.sleep(0.001)
        process.kill()
        process.join()
        kills += 1
    started(folder).join()
    assert (folder / "told").read_text() == (place / "one" / "told").read_text()
    heard = (folder / "heard").read_text().splitlines()
    assert set(heard) == set(WORLD.by_question)
    assert 0 < len(heard) - len(set(heard)) <= kills * ask.CHUNK


def test_two_processes_at_once_do_not_harm_each_other(place: Path) -> None:
    both = [started(place / name) for name in "ab"]
    for process in both:
        process.join()
    assert [process.exitcode for process in both] == [0, 0]
    one, two = ((place / name / "told").read_text() for name in "ab")
    assert one == two and len(one.splitlines()) == 390


def test_of_two_answers_to_one_question_the_first_counts(place: Path) -> None:
    kept = ask.Kept()
    assert kept.put({"k": 1}) == {"k": 1} and kept.put({"k": 2, "l": 3}) == {"k": 1, "l": 3}
    told: list[dict[str, int]] = []
    threads = [threading.Thread(target=lambda i=i: told.append(kept.put({"same": i, str(i): i}))) for i in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({t["same"] for t in told}) == 1 and len(kept.get([str(i) for i in range(16)])) == 16


def test_a_torn_entry_is_asked_again_and_a_damaged_file_named(place: Path) -> None:
    chat = echo()
    go(chat, "a", "b")
    path = ask.Kept().path
    with sqlite3.connect(path) as base:
        base.execute("UPDATE kept SET value = substr(value, 1, 5)")
    assert go(chat, "a", "b") == ["A", "B"] and len(chat.conversations) == 4
    assert go(chat, "a", "b") == ["A", "B"] and len(chat.conversations) == 4
    path.write_bytes(b"no database at all" * 99)
    with pytest.raises(MetierError, match=r"replies\.db is damaged; delete it"):
        go(chat, "a")


def fill(said: Any) -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    ask.Kept().put({"a": 1})
    resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))
    try:
        ask.Kept().put({"b": "x" * 200_000})
    except MetierError as error:
        said.put(str(error))
    said.put(ask.Kept().get(["a", "b"]))


def test_a_full_disk_is_one_sentence(place: Path) -> None:
    context = multiprocessing.get_context("fork")
    said = context.SimpleQueue()
    process = context.Process(target=fill, args=(said,))
    process.start()
    process.join()
    sentence = said.get()
    assert sentence.startswith("replies: ") and "replies.db cannot be used" in sentence
    assert said.get() == {"a": 1}


def test_nothing_asked_is_nothing_answered() -> None:
    assert go(echo()) == []

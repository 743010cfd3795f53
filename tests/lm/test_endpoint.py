"""A real server answers, is slow, limits its rate, fails, talks nonsense; it is never asked the same twice."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from endpoint_server import Fault, Server
from metier import access, recipe, runner
from metier.lm import ask, load
from metier.lm.chat import Sampling
from metier.lm.endpoint import Endpoint, Limits
from metier.options import MetierError
from metier.steps import endpoint as step
from metier.store import Store, Work
from metier.worlds import facts
from metier.worlds.writer import Scripted

WORLD = facts.make(40)
QUESTIONS = [[{"role": "user", "content": q}] for fact in WORLD.facts for q in fact.questions]
QUICK = Limits(timeout=5, retries=2, wait=2, parallel=8)
SECRET = "sk-secret-7713"


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("METIER_HOME", str(tmp_path))
    monkeypatch.setattr("metier.lm.endpoint.FIRST_PAUSE", 0.02)
    return tmp_path


def objection(server: Server, limits: Limits = QUICK, **options: object) -> str:
    with pytest.raises(MetierError) as error:
        Endpoint("toy", server.url, limits=limits, **options).reply(QUESTIONS[-1:])
    return str(error.value).replace(server.url, "URL")


def test_replies_are_the_models_own_in_order_side_by_side() -> None:
    writer, sampling = Scripted(WORLD, 0.3), Sampling(temperature=1.0, n=3, seed=4)
    with Server(writer) as server:
        server.delay = 0.02
        chat = Endpoint("toy", server.url, limits=QUICK)
        assert chat.reply(QUESTIONS[:40], sampling) == writer.reply(QUESTIONS[:40], sampling)
        assert len(server.asked) == 40 and 4 <= server.busiest <= 8
        assert Endpoint("toy", server.url, limits=Limits(parallel=1)).reply(QUESTIONS[40:48]) == writer.reply(
            QUESTIONS[40:48]
        )


def test_one_at_a_time_when_told_so() -> None:
    with Server(Scripted(WORLD)) as server:
        server.delay = 0.01
        Endpoint("toy", server.url, limits=Limits(parallel=1)).reply(QUESTIONS[:10])
        assert server.busiest == 1


def test_the_server_is_never_asked_the_same_twice(tmp_path: Path) -> None:
    with Server(Scripted(WORLD)) as server:
        first = Endpoint("toy", server.url).reply([*QUESTIONS[:10], *QUESTIONS[:5]])
        assert len(server.asked) == 10
        heard: list[float] = []
        again = Endpoint("toy", server.url, limits=QUICK).reply([*QUESTIONS[:10], *QUESTIONS[:5]], advance=heard.append)
        assert again == first and len(server.asked) == 10 and sum(heard) == 10
        asked = ask.ask(Endpoint("toy", server.url), QUESTIONS[:12], work=Work(tmp_path / "w"))
        assert asked[:10] == first[:10] and len(server.asked) == 12
        Endpoint("toy", server.url).reply(QUESTIONS[:10], Sampling(max_tokens=7))
        assert len(server.asked) == 22


def test_greedy_samples_are_asked_for_once_and_warm_ones_until_there_are_enough() -> None:
    with Server(Scripted(WORLD, 0.5), many=False) as server:
        chat = Endpoint("toy", server.url)
        assert len(chat.reply(QUESTIONS[:2], Sampling(n=3))) == 6 and len(server.asked) == 2
        warm = chat.reply(QUESTIONS[:20], Sampling(n=3, temperature=1.0, seed=7))
        assert len(warm) == 60 and len(server.asked) == 62
        assert [b["seed"] for b in server.asked if b["messages"] == QUESTIONS[0]][1:] == [7, 8, 9]
        assert sum(len({r.text for r in warm[i : i + 3]}) > 1 for i in range(0, 60, 3)) > 10


def test_log_probabilities_of_replies_and_of_texts_are_the_models_own(toy: object) -> None:
    local = load.open(toy)
    talk = [[{"role": "user", "content": "the river rises"}], [{"role": "user", "content": "valve"}]]
    prompts, texts = ["the river", "north ", "\n", "open"], [" rises before", "bridge", "close the valve", ""]
    with Server(local) as server:
        chat = Endpoint("toy", server.url, access="top-k")
        sampling = Sampling(max_tokens=6)
        for one, other in zip(chat.reply(talk, sampling), local.reply(talk, sampling), strict=True):
            assert (one.text, one.tokens, one.finish) == (other.text, other.tokens, other.finish)
            assert one.logprob == pytest.approx(other.logprob, abs=1e-5)
        found, wanted = chat.logprobs(prompts, texts), local.logprobs(prompts, texts)
        assert [f.tokens for f in found] == [w.tokens for w in wanted]
        assert [f.sum for f in found] == pytest.approx([w.sum for w in wanted], abs=1e-4)
        assert chat.logprobs([""], texts[2:3]) == found[2:3]  # without a prompt: behind a line break
        asked = len(server.asked)
        assert chat.logprobs(prompts, texts) == found and len(server.asked) == asked
    with Server(local) as server:
        Endpoint("toy", server.url).reply(talk, sampling)
        assert not any("logprobs" in body for body in server.asked)  # text access asks for none


def test_what_the_server_cannot_do_is_one_sentence(toy: object) -> None:
    with Server(load.open(toy), echo=False) as server:
        chat = Endpoint("toy", server.url, access="top-k", limits=QUICK)
        with pytest.raises(MetierError, match=r"does not repeat a text .* it can reply but not score"):
            chat.logprobs(["the"], [" river"])
        assert len(server.asked) == 1  # not tried again
        with pytest.raises(MetierError, match="need 'access' top-k, got text"):
            Endpoint("toy", server.url).logprobs(["the"], [" river"])
        with pytest.raises(MetierError, match="'window' cannot be set"):
            chat.logprobs(["the"], [" river"], window=4)
        with pytest.raises(MetierError, match="must end with the user's turn"):
            chat.reply([[{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]])


def test_down_slow_limited_failing_and_talking_nonsense() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    with pytest.raises(MetierError, match="cannot be reached after 3 tries; is 'url' right, and the server up"):
        Endpoint("toy", url, limits=QUICK).reply(QUESTIONS[:1])
    with Server(Scripted(WORLD)) as server:
        server.delay = 0.4
        slow = Limits(timeout=0.1, retries=1)
        assert objection(server, slow) == "endpoint URL: no answer within 'timeout' (0.1 s) after 2 tries"
        server.delay = 0
        server.faults = [Fault(500, {"error": {"message": "out of\nmemory"}})] * 3
        assert objection(server) == "endpoint URL: fails (500) after 3 tries: out of memory"
        server.faults = [Fault(429)] * 3
        assert objection(server) == (
            "endpoint URL: limits its rate (429) after 3 tries; lower 'parallel' or raise 'retries'"
        )
        page = Fault(200, b"<html>hello</html>", Content_Type="text/html")
        torn, empty, hollow = b'{"choices": [{"mess', {"choices": []}, {"choices": [{"index": 0}]}
        for nonsense in (page, Fault(200, torn), Fault(200, empty), Fault(200, hollow), Fault(200, [1])):
            server.faults = [nonsense] * 3
            assert objection(server) == ("endpoint URL: its answer is no chat completion (after 3 tries); "
                                         "is 'url' right? It often ends in /v1")  # fmt: skip
        server.faults = [Fault(400, {"error": {"message": "too long"}})]
        assert objection(server) == "endpoint URL: refuses the request (400): too long"
        assert not server.faults  # nothing was asked again that could not pass


def test_a_fault_that_passes_is_waited_for_as_the_server_asks() -> None:
    with Server(Scripted(WORLD, 0)) as server:
        server.faults = [Fault(429, Retry_After="0.5"), Fault(503), Fault(200, b"{")]
        begun = time.monotonic()
        [reply] = Endpoint("toy", server.url, limits=Limits(retries=3, parallel=1)).reply(QUESTIONS[:1])
        assert 0.5 <= time.monotonic() - begun < 2
        assert reply.text == f"{WORLD.facts[0].value}." and len(server.asked) == 4
        server.faults = [Fault(429, Retry_After="3600")]
        with pytest.raises(MetierError, match="asks for a pause of 3600 s, longer than 'wait' \\(2 s\\)"):
            Endpoint("toy", server.url, limits=QUICK).reply(QUESTIONS[1:2])
        assert len(server.asked) == 5


def test_what_came_before_a_fault_is_kept() -> None:
    with Server(Scripted(WORLD)) as server:
        chat = Endpoint("toy", server.url, limits=Limits(retries=0, parallel=2))
        server.delay = 0.01
        chat.reply(QUESTIONS[:6])
        server.faults = [Fault(500)]
        with pytest.raises(MetierError, match="fails \\(500\\) after 1 try"):
            chat.reply(QUESTIONS[:12])
        assert len(server.asked) < 12  # the failed one, and what was under way beside it
        chat.reply(QUESTIONS[:12])
        assert len(server.asked) == 6 + 1 + 6


def test_unknown_model_and_wrong_page() -> None:
    with Server(Scripted(WORLD), model="llama-3") as server:
        with pytest.raises(MetierError, match="has no model 'lama-3'; did you mean 'llama-3'"):
            Endpoint("lama-3", server.url).reply(QUESTIONS[:1])
        with pytest.raises(MetierError, match="has no such page \\(404\\); is 'url' right"):
            Endpoint("llama-3", server.url.removesuffix("/v1") + "/v2").reply(QUESTIONS[:1])


def test_the_key_comes_from_the_environment_and_is_told_to_nobody_else(
    monkeypatch: pytest.MonkeyPatch, place: Path
) -> None:
    monkeypatch.setenv("OPENAI_ORG_ID", "org-mine")
    monkeypatch.setenv("MY_KEY", SECRET)
    with Server(Scripted(WORLD), key=SECRET) as server:
        chat = Endpoint("toy", server.url, key="MY_KEY")
        chat.reply(QUESTIONS[:2])
        sent = {name.lower(): value for name, value in server.headers[-1].items()}
        assert sent["authorization"] == f"Bearer {SECRET}" and sent["user-agent"] == "metier"
        assert not {"openai-organization", "x-stainless-os", "x-stainless-runtime-version"} & set(sent)
        assert chat.digest == Endpoint("toy", server.url).digest
        monkeypatch.setenv("MY_KEY", "sk-old-99")
        assert objection(server, key="MY_KEY") == "endpoint URL: refuses the key in MY_KEY (401)"
        assert objection(server).endswith(
            "refuses a request without a key; 'key' names the variable that holds it (401)"
        )
        server.key = ""
        server.faults = [Fault(400, {"error": {"message": "bad key sk-old-99 here"}})]
        with pytest.raises(MetierError) as told:
            Endpoint("toy", server.url, key="MY_KEY").reply(QUESTIONS[5:6])
        assert "sk-old" not in str(told.value)
        monkeypatch.delenv("MY_KEY")
        with pytest.raises(MetierError, match="names the environment variable MY_KEY, which is not set"):
            Endpoint("toy", server.url, key="MY_KEY").reply(QUESTIONS[6:7])
    kept = b"".join(path.read_bytes() for path in place.rglob("*") if path.is_file())
    assert b"Where" in kept or b"value" in kept
    assert SECRET.encode() not in kept and b"sk-old" not in kept


def test_a_filtered_conversation_is_refused_and_the_others_go_on() -> None:
    with Server(Scripted(WORLD, 0)) as server:
        server.faults = [Fault(400, {"error": {"message": "filtered", "code": "content_filter"}})]
        replies = Endpoint("toy", server.url, limits=Limits(parallel=1)).reply(QUESTIONS[:3])
        assert [r.refused for r in replies] == [True, False, False]


def test_the_newer_name_of_max_tokens_is_found_out_once() -> None:
    told = Fault(400, {"error": {"message": "Unsupported parameter: use 'max_completion_tokens' instead"}})
    with Server(Scripted(WORLD)) as server:
        server.faults = [told, Fault(500), Fault(500)]
        chat = Endpoint("toy", server.url, limits=Limits(parallel=1, retries=0))
        with pytest.raises(MetierError, match="500"):
            chat.reply(QUESTIONS[:1])
        with pytest.raises(MetierError, match="500"):
            chat.reply(QUESTIONS[:1])
        assert [("max_tokens" in b, "max_completion_tokens" in b) for b in server.asked] == [
            (True, False), (False, True), (False, True)
        ]  # fmt: skip


RECIPE = """
asked: {{use: data.ingest.invented, kind: questions, entities: 40, phrasing: test}}
writer: {{use: endpoint, model: toy, url: "{url}", parallel: 8}}
answers: {{use: data.answer.writer, data: $asked, writer: $writer}}
"""


def test_a_recipe_reaches_it_and_a_changed_pace_asks_nothing_again(place: Path) -> None:
    with Server(Scripted(WORLD, 0)) as server:
        text = RECIPE.format(url=server.url)
        done = runner.run(recipe.check(recipe.parse(text)), Store(place))
        rows = list(done["answers"].open())
        assert len(rows) == len(server.asked) == 130
        assert all(r["messages"][-1]["content"] == f"{r['choices'][r['gold']]}." for r in rows)
        again = runner.run(recipe.check(recipe.parse(text.replace("parallel: 8", "parallel: 2"))), Store(place))
        assert again["answers"].cached
        third = runner.run(recipe.check(recipe.parse(text, changes={"answers.seed": 1})), Store(place / "other"))
        assert not third["answers"].cached and len(server.asked) == 260  # another seed is another question


def test_access_is_known_before_anything_runs() -> None:
    [text], [more] = (
        recipe.check(recipe.parse(f"w: {{use: endpoint, model: m, url: 'http://localhost:1/v1'{extra}}}"))
        for extra in ("", ", access: top-k")
    )
    assert access.of(text, {}) == "text" and access.of(more, {}) == "top-k"
    assert step.gives({"access": "top-k"}) == "top-k"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("url: 'localhost:80'", "'url' must begin with http:// or https://"),
        ("url: 'http://me:pass@host/v1'", "'url' must hold no user, password or parameters"),
        ("url: 'http://host/v1?key=abc'", "'url' must hold no user, password or parameters"),
        (
            "url: 'http://host/v1', key: 'sk-abc-123'",
            "must be the name of an environment variable, never the key itself",
        ),
        ("url: 'http://host/v1', key: NO_SUCH_KEY", "names an environment variable that is not set: NO_SUCH_KEY"),
        ("url: 'http://host/v1', access: weights", "'access' must be one of 'text', 'top-k', got 'weights'"),
        ("url: 'http://host/v1', parallel: 0", "'parallel' must be at least 1, got 0"),
    ],
)
def test_bad_options_are_refused_before_anything_runs(options: str, said: str) -> None:
    with pytest.raises(MetierError) as error:
        recipe.check(recipe.parse(f"w: {{use: endpoint, model: m, {options}}}"))
    assert said in str(error.value) and "\n" not in str(error.value)
    assert "pass@" not in str(error.value) and "abc" not in str(error.value)


@pytest.mark.alone
def test_ctrl_c_stops_at_once_and_keeps_what_came(place: Path) -> None:
    script = (
        "import signal, sys\nfrom metier.lm.endpoint import Endpoint, Limits\n"
        # A shell that runs the tests in its background has them, and all they start, ignore it.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "talks = [[{'role': 'user', 'content': f'question {i}'}] for i in range(12)]\n"
        "print('ready', flush=True)\n"
        "Endpoint('toy', sys.argv[1], limits=Limits(timeout=60, parallel=4)).reply(talks)\n"
    )
    with Server(Scripted(WORLD)) as server:
        process = subprocess.Popen([sys.executable, "-c", script, server.url], stdout=subprocess.PIPE,
                                   stderr=subprocess.PIPE, env=os.environ)  # fmt: skip
        assert process.stdout is not None
        process.stdout.readline()
        while len(server.asked) < 8:
            time.sleep(0.01)
            server.delay = 0.2 if len(server.asked) < 4 else 30
        time.sleep(0.3)
        begun = time.monotonic()
        process.send_signal(signal.SIGINT)
        assert process.wait(10) != 0
        assert time.monotonic() - begun < 3
        server.delay = 0
        asked = len(server.asked)
        talks = [[{"role": "user", "content": f"question {i}"}] for i in range(12)]
        Endpoint("toy", server.url).reply(talks)
        assert len(server.asked) - asked in range(4, 9)  # those that came before are kept

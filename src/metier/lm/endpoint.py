"""A model behind an OpenAI-compatible server: a Chat that gives texts, or also the log-probabilities of its tokens.

Every reply is kept as it comes (`lm.ask`), so a run that was cut off asks only for what is missing, and nobody pays
twice. Requests run side by side; Ctrl-C and the first fault stop them all. The key is read from the environment when
the server is asked, and stands in no digest, log or error.
"""

from __future__ import annotations

import dataclasses
import email.utils
import functools
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal, TypeVar, cast

import openai

from metier.disk import text_digest
from metier.lm import _faults, _parallel, ask
from metier.lm.chat import GREEDY, Access, Advance, Reply, Sampling
from metier.lm.score import LogProb
from metier.lm.tokens import Conversation
from metier.options import MetierError

# What the client would tell about this machine with every request, and what it would take from the environment.
TELLING = ("OpenAI-Organization", "OpenAI-Project", *(
    f"X-Stainless-{name}" for name in ("Lang", "Package-Version", "OS", "Arch", "Runtime", "Runtime-Version", "Async")
))  # fmt: skip
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 8.0  # seconds before the first and before late tries
BEFORE = "\n"  # stands before a text without a prompt, so that its first token is predicted from something
T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Limits:
    """How the server is asked; no reply depends on it."""

    timeout: float = 60.0  # seconds for one answer
    retries: int = 4  # more tries after one that failed for a reason that may pass
    wait: float = 60.0  # longest pause a server may ask for, in seconds
    parallel: int = 4  # requests at a time


class Endpoint(ask.Keeping):
    """``key`` is the name of the environment variable that holds the key."""

    ROLE: ClassVar[str] = "artefact"

    def __init__(
        self, model: str, url: str, key: str | None = None, access: Literal["text", "top-k"] = "text",
        limits: Limits = Limits(),
    ) -> None:  # fmt: skip
        self.model, self.url, self.key, self.limits = model, url.rstrip("/"), key, limits
        self.timeout, self.wait = limits.timeout, limits.wait
        self.access: Access = access
        self.digest = text_digest("endpoint", model, self.url, access)
        self.kept = ask.Kept()
        self._length = "max_tokens"  # some models know it only by its newer name
        self._repeated = False  # whether it was seen to repeat a text with its log-probabilities
        self._opened: openai.OpenAI | None = None

    def reply(
        self, conversations: Sequence[Conversation], sampling: Sampling = GREEDY, advance: Advance | None = None
    ) -> list[Reply]:
        for conversation in conversations:
            if not conversation or conversation[-1]["role"] == "assistant":
                raise MetierError(f"endpoint {self.url}: a conversation must end with the user's turn to be answered")
        keys = [ask.key_of(self, conversation, sampling) for conversation in conversations]
        found = self._each(
            dict(zip(keys, conversations, strict=True)),
            lambda conversation, stopping: ask.packed(self._replies(conversation, sampling, stopping), sampling.n)[0],
            lambda: advance(sampling.n) if advance else None,
        )
        return [reply for key in keys for reply in ask.unpacked(found[key])]

    def logprobs(
        self, prompts: Sequence[str], continuations: Sequence[str], *, window: int | None = None,
        stride: int | None = None, advance: Advance | None = None,
    ) -> list[LogProb]:  # fmt: skip
        """Of texts that the server repeats with the log-probability of each token (``echo`` of its completions).

        A text without a prompt is put behind a line break. Raises MetierError when the server does not repeat, a text
        is longer than its window, or ``window`` is given.
        """
        if self.access == "text":
            raise MetierError(f"endpoint {self.url}: log-probabilities need 'access' top-k, got text")
        if window is not None or stride is not None:
            raise MetierError(f"endpoint {self.url}: reads a text in its own window; 'window' cannot be set")
        if continuations:
            self._repeats()
        pairs = [(p or BEFORE, c) for p, c in zip(prompts, continuations, strict=True)]
        keys = [text_digest(self.digest, "echo", *pair) for pair in pairs]
        found = self._each(
            dict(zip(keys, pairs, strict=True)),
            lambda pair, stopping: list(self._scored(*pair, stopping)),
            lambda: None,
        )
        if advance:
            advance(sum(found[key][1] for key in keys))
        return [LogProb(*found[key]) for key in keys]

    def models(self) -> list[str]:
        """The names the server knows, as far as it tells them."""
        try:
            return sorted(str(model.id) for model in self._client.models.list().data)
        except (openai.OpenAIError, ValueError, AttributeError, TypeError):
            return []

    def close(self) -> None:
        if self._opened is not None:
            self._opened.close()
            self._opened = None

    @property
    def _client(self) -> openai.OpenAI:
        if self._opened is None:
            nothing = cast(str, openai.Omit())  # in a header's place it takes the header away
            self._opened = openai.OpenAI(
                api_key=_faults.key_in(self.key), base_url=self.url, timeout=self.limits.timeout, max_retries=0,
                default_headers=dict.fromkeys(TELLING, nothing) | {"User-Agent": "metier"},
            )  # fmt: skip
        return self._opened

    def _each(
        self, wanted: dict[str, T], one: Callable[[T, threading.Event], Any], done: Callable[[], None]
    ) -> dict[str, Any]:
        """What is kept of the wanted, and the rest asked for and kept."""
        found = self.kept.get(list(wanted))
        for _ in found:
            done()
        missing = {key: value for key, value in wanted.items() if key not in found}
        if missing:
            _ = self._client  # opened once, before threads need it
        for key, value in _parallel.side_by_side(missing, one, self.limits.parallel):
            found |= self.kept.put({key: value})
            done()
        return found

    def _replies(self, conversation: Conversation, sampling: Sampling, stopping: threading.Event) -> list[Reply]:
        """``n`` replies; servers that give one at a time are asked again, with the next seeds."""
        greedy = sampling.temperature == 0
        replies: list[Reply] = []
        while len(replies) < (1 if greedy else sampling.n):
            options: dict[str, Any] = {
                "model": self.model, "messages": conversation, "n": 1 if greedy else sampling.n - len(replies),
                "temperature": sampling.temperature, "top_p": sampling.top_p, "seed": sampling.seed + len(replies),
            }  # fmt: skip
            if sampling.stop:
                options["stop"] = list(sampling.stop)
            if self.access == "top-k":
                options["logprobs"] = True
            try:
                told = self._tried(functools.partial(self._chat, options, sampling), stopping)
            except _faults.Filtered:
                told = [Reply("", 0, None, "stop", refused=True)]
            replies += told[: sampling.n - len(replies)]
        return replies * sampling.n if greedy else replies

    def _chat(self, options: dict[str, Any], sampling: Sampling) -> list[Reply]:
        try:
            create: Any = self._client.chat.completions.create
            answer = create(**options, **{self._length: sampling.max_tokens})
        except openai.BadRequestError as error:
            if self._length == "max_tokens" and "max_completion_tokens" in str(error):
                self._length = "max_completion_tokens"
                return self._chat(options, sampling)
            raise
        return read(answer, sampling)

    def _scored(self, prompt: str, continuation: str, stopping: threading.Event) -> tuple[float, int]:
        if not continuation:
            return 0.0, 0

        def request() -> tuple[float, int]:
            answer = self._client.completions.create(
                model=self.model, prompt=prompt + continuation, max_tokens=1, echo=True, logprobs=1, temperature=0
            )
            return echoed(answer, prompt, continuation)

        return self._tried(request, stopping)

    def _repeats(self) -> None:
        try:
            self._repeated = self._repeated or self._scored("One two", " three", threading.Event())[1] > 0
        except _faults.Unfit:
            raise MetierError(f"endpoint {self.url}: does not repeat a text with the log-probabilities of its tokens, "
                              "so it can reply but not score") from None  # fmt: skip

    def _tried(self, request: Callable[[], T], stopping: threading.Event) -> T:
        """Asks, and asks again while the fault may pass; then the fault in one sentence."""
        for attempt in range(self.limits.retries + 1):
            try:
                return request()
            except (openai.OpenAIError, _faults.Odd, ValueError) as error:
                fault: Exception = error
            if _faults.stays(fault):
                break
            pause = asked_to_wait(fault)
            if pause is not None and pause > self.limits.wait:
                raise _faults.too_long(self, pause)
            if attempt < self.limits.retries:
                pause = pause if pause is not None else min(FIRST_PAUSE * 2**attempt, LONGEST_PAUSE)
                if stopping.wait(pause):
                    break
        raise _faults.sentence(self, fault, attempt + 1) from None


def read(answer: Any, sampling: Sampling) -> list[Reply]:
    """The replies in a chat completion. Raises Odd when it is none."""
    choices = getattr(answer, "choices", None)
    if not choices or not all(getattr(choice, "message", None) is not None for choice in choices):
        raise _faults.Odd("no chat completion")
    used = getattr(getattr(answer, "usage", None), "completion_tokens", None) or 0
    replies = []
    for i, choice in enumerate(choices):
        scored = getattr(choice.logprobs, "content", None) if getattr(choice, "logprobs", None) else None
        refusal = getattr(choice.message, "refusal", None)
        text = choice.message.content or refusal or ""
        cuts = [at for stop in sampling.stop if (at := text.find(stop)) >= 0]
        # Several replies share one count of tokens; it is split evenly where the tokens are not listed.
        tokens = len(scored) if scored else used // len(choices) + (i < used % len(choices))
        replies.append(Reply(
            text[: min(cuts)] if cuts else text, tokens, sum(t.logprob for t in scored) if scored else None,
            "length" if choice.finish_reason == "length" and not cuts else "stop",
            refused=bool(refusal) or choice.finish_reason == "content_filter",
        ))  # fmt: skip
    return replies


def echoed(answer: Any, prompt: str, continuation: str) -> tuple[float, int]:
    """Sum and number of the tokens of the continuation in a repeated text; one across the border counts.

    Servers list a mark of beginning before the text, or not, and one token of their own behind it.
    Raises Unable when the answer does not hold the text with its log-probabilities.
    """
    text = prompt + continuation
    choices = getattr(answer, "choices", None)
    listed = getattr(choices[0], "logprobs", None) if choices else None
    tokens, values, places = (getattr(listed, n, None) or [] for n in ("tokens", "token_logprobs", "text_offset"))
    if len(tokens) != len(places) or len(tokens) != len(values) or len(tokens) < 2:
        raise _faults.Unable("the text is not repeated")
    ends = [*places[1:], places[-1] + len(tokens[-1])]
    before = 0 if text.startswith(tokens[0]) else ends[0]
    if ends[-1] - before < len(text):
        raise _faults.Unable("the text is not repeated whole")
    spans = zip(values, places, ends, strict=True)
    counted = [v for v, at, to in spans if to - before > len(prompt) and at - before < len(text)]
    if not counted or None in counted:
        raise _faults.Unable("a token has no log-probability")
    return sum(counted), len(counted)


def asked_to_wait(fault: Exception) -> float | None:
    """Seconds the server wants to be left alone (Retry-After: seconds, or a date)."""
    response = getattr(fault, "response", None)
    text = response.headers.get("retry-after") if response is not None else None
    if not text:
        return None
    try:
        return max(0.0, float(text))
    except ValueError:
        date = email.utils.parsedate_tz(text)
        return None if date is None else max(0.0, email.utils.mktime_tz(date) - time.time())

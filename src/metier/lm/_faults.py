"""What may go wrong with an endpoint, each in one sentence that names the url and the option to change."""

from __future__ import annotations

import os
import re
from typing import Protocol

import openai

from metier.options import MetierError, unknown

PASSING = (408, 409, 425, 429)  # and whatever the server itself failed at
UNFIT = (400, 404, 405, 422, 501)


class Odd(Exception):
    """The answer is not what was asked for; it may be next time."""


class Unable(Odd):
    """The answer lacks what was asked for, and will the next time."""


class Unfit(MetierError):
    """The server is well, and does not do this."""


class Filtered(MetierError):
    """The server's filter will not have this conversation; the others go on."""


class Asked(Protocol):
    """What a sentence needs of an endpoint."""

    model: str
    url: str
    key: str | None
    timeout: float
    wait: float

    def models(self) -> list[str]: ...


def key_in(name: str | None) -> str:
    """The key that the environment holds; a word in its place where none is needed."""
    if name is None:
        return "none"
    value = os.environ.get(name, "").strip()
    if not value:
        raise MetierError(f"endpoint: 'key' names the environment variable {name}, which is not set")
    return value


def stays(fault: Exception) -> bool:
    """Whether asking again would change nothing."""
    if isinstance(fault, openai.APIStatusError):
        status = fault.status_code
        return fault.code == "insufficient_quota" or status == 501 or not (status in PASSING or status >= 500)
    return isinstance(fault, Unable) or not isinstance(fault, openai.APIConnectionError | Odd | ValueError)


def sentence(chat: Asked, fault: Exception, tries: int) -> MetierError:
    """What to tell of a fault, the same words for the same fault."""
    here, tried = f"endpoint {chat.url}", f"after {tries} {'try' if tries == 1 else 'tries'}"
    if isinstance(fault, openai.APITimeoutError):
        return MetierError(f"{here}: no answer within 'timeout' ({chat.timeout:g} s) {tried}")
    if isinstance(fault, openai.APIConnectionError):
        return MetierError(f"{here}: cannot be reached {tried}; is 'url' right, and the server up?")
    if isinstance(fault, openai.APIStatusError):
        return _status(chat, fault, here, tried)
    if isinstance(fault, Unable):
        return Unfit(f"{here}: its answer is of no use: {fault}")
    if isinstance(fault, Odd | ValueError):
        return MetierError(f"{here}: its answer is no chat completion ({tried}); is 'url' right? It often ends in /v1")
    return MetierError(f"{here}: {plain(chat, str(fault))}")


def too_long(chat: Asked, pause: float) -> MetierError:
    return MetierError(f"endpoint {chat.url}: limits its rate and asks for a pause of {pause:.0f} s, "
                       f"longer than 'wait' ({chat.wait:g} s)")  # fmt: skip


def _status(chat: Asked, fault: openai.APIStatusError, here: str, tried: str) -> MetierError:
    status, words = fault.status_code, plain(chat, _message(fault))
    if status in (401, 403):
        named = (
            f"the key in {chat.key}" if chat.key else "a request without a key; 'key' names the variable that holds it"
        )
        return MetierError(f"{here}: refuses {named} ({status})")
    if status == 429 and fault.code == "insufficient_quota":
        return MetierError(f"{here}: the quota of the key in {chat.key} is used up (429)")
    if status == 429:
        return MetierError(f"{here}: limits its rate (429) {tried}; lower 'parallel' or raise 'retries'")
    if status == 404:
        known = chat.models()
        if known and chat.model not in known:
            return unknown(here, chat.model, known, "model")
        return Unfit(f"{here}: has no such page (404); is 'url' right? It often ends in /v1")
    if fault.code == "content_filter":
        return Filtered(f"{here}: filters the conversation ({status})")
    if status in UNFIT:
        return Unfit(f"{here}: refuses the request ({status}): {words}")
    return MetierError(f"{here}: fails ({status}) {tried}: {words}")


def _message(fault: openai.APIStatusError) -> str:
    body = fault.body
    inner = body.get("error", body) if isinstance(body, dict) else body
    found = inner.get("message") if isinstance(inner, dict) else inner
    return found if isinstance(found, str) and found.strip() else "no reason given"


def plain(chat: Asked, text: str) -> str:
    """A server's words on one line, cut, and without the key should it repeat it."""
    secret = os.environ.get(chat.key, "").strip() if chat.key else ""
    text = text.replace(secret, "…") if secret else text
    text = re.sub(r"\s+", " ", text).strip()
    return text if len(text) <= 200 else f"{text[:199]}…"

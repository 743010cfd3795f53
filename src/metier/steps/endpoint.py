"""A model behind an OpenAI-compatible server (vLLM, llama.cpp, a provider) as a chat.

As writer, judge or black box: what asks for texts works with it. Replies are kept, so a run that is repeated asks only
for what is new. The key itself never stands in a recipe: the environment holds it. Requests go to ``url`` and nowhere
else, and tell nothing of this machine.

Options:
    model: what the server calls it.
    url: where the server's interface begins; often ends in /v1.
    key: name of the environment variable that holds the key, such as OPENAI_API_KEY; none for a server of your own.
    access: *text*, or *top-k* where the server also gives the log-probabilities of tokens.
    timeout: longest time for one answer.
    retries: more tries after one that failed for a reason that may pass.
    wait: longest pause the server may ask for when it limits its rate.
    parallel: requests at a time.
Raises: MetierError, in one sentence, when the server is down, slow, limits its rate, fails, or knows no such model.
"""

from __future__ import annotations

import os
import re
import urllib.parse
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from metier.disk import text_digest
from metier.lm.chat import Access, Chat
from metier.lm.endpoint import Endpoint, Limits
from metier.options import Count, Duration, MetierError, Natural, Outside, Place

EXAMPLE = {"model": "some-model", "url": "http://localhost:8000/v1"}
EXEMPT = {
    "the_same_again_gives_the_same": "needs a server; tests/lm/test_endpoint.py has one",
    "inputs_stay_as_they_were": "needs a server",
}
VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")


def run(
    *,
    model: str,
    url: Place,
    key: Annotated[str | None, Outside()] = None,
    access: Literal["text", "top-k"] = "text",
    timeout: Annotated[Duration, Outside()] = 60.0,
    retries: Annotated[Natural, Outside()] = 4,
    wait: Annotated[Duration, Outside()] = 60.0,
    parallel: Annotated[Count, Outside()] = 4,
) -> Chat:
    refuse(url, key)
    return Endpoint(model, url, key, access, Limits(timeout, retries, wait, parallel))


def gives(options: Mapping[str, Any]) -> Access:
    return "top-k" if options["access"] == "top-k" else "text"


def refuse(url: str, key: str | None, **others: Any) -> None:
    """Raises MetierError for an address that is none or holds a secret, and for a key that is not there.

    What stands in 'key' is not repeated: it may be the key itself.
    """
    parts = urllib.parse.urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise MetierError(f"endpoint: 'url' must begin with http:// or https://, got {url!r}")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise MetierError("endpoint: 'url' must hold no user, password or parameters; 'key' names the key's variable")
    if key is not None and not VARIABLE.fullmatch(key):
        raise MetierError("endpoint: 'key' must be the name of an environment variable, never the key itself")
    if key is not None and not os.environ.get(key, "").strip():
        raise MetierError(f"endpoint: 'key' names an environment variable that is not set{_named(key)}")


def fingerprint(url: str, **others: Any) -> str:
    """Its replies depend on where it is, not on how fast it is asked."""
    return text_digest(url.rstrip("/"))


def _named(key: str) -> str:
    return f": {key}" if key.isupper() else ""


checks = {"run": refuse}
fingerprints = {"run": fingerprint}

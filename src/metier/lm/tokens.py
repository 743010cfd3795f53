"""One place for chat templates, label masks and token budgets.

What is trained on is what is served: the tokens before a supervised reply are exactly those of ``prompt``, which the
model is given when it has to answer. Both are cut where a reply begins, so that no token straddles that border, and
words of a message that look like a special token of the model are text to it.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import re
from collections.abc import Iterator, Sequence
from typing import Any, cast

from transformers import PreTrainedTokenizerBase

from metier import shapes
from metier.artefacts import Row
from metier.lm.loss import IGNORED
from metier.lm.pieces import CUT, cut_up, encode, pieces_ids
from metier.options import MetierError

Conversation = list[dict[str, str]]
ROLES = ("system", "user", "assistant", "tool")
DOCUMENT_END = "<|endoftext|>"
# For models without a chat template. Headings on lines of their own: no token can straddle the border of a turn.
PLAIN = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] == 'system' %}{{ message['content'] + '\n\n' }}"
    "{% elif message['role'] == 'user' %}{{ 'User:\n' + message['content'] + '\n\n' }}"
    "{% else %}{{ 'Assistant:\n' + message['content'] + eos_token + '\n\n' }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ 'Assistant:\n' }}{% endif %}"
)
# Some templates write the date of today; a prompt must not change overnight. Llama 3 names this day without a clock.
DAY = (
    "{%- macro strftime_now(layout) -%}{{ layout.replace('%d', '26').replace('%b', 'Jul').replace('%B', 'July')"
    ".replace('%m', '07').replace('%Y', '2024').replace('%y', '24') }}{%- endmacro -%}"
)


def render(tokenizer: PreTrainedTokenizerBase, conversation: Conversation, *, reply: bool) -> str:
    """The text of a conversation in the model's chat template (``PLAIN`` where it has none), for reading.

    ``reply``: the prompt of the next reply, or, when the last turn is the assistant's, of its continuation;
    otherwise the finished conversation. Raises MetierError when the template refuses the conversation.
    """
    if reply and conversation and conversation[-1]["role"] == "assistant":
        return _text(tokenizer, conversation[:-1], True) + conversation[-1]["content"]
    return _text(tokenizer, conversation, reply)


def prompt(tokenizer: PreTrainedTokenizerBase, conversation: Conversation) -> list[int]:
    """The token ids a model is given to reply, or, when the last turn is the assistant's, to go on with it."""
    guarded = _guarded(tokenizer, conversation)
    going_on = [guarded.pop()["content"]] if guarded and guarded[-1]["role"] == "assistant" else []
    text = _text(tokenizer, guarded, True)
    cuts = [at for at, _ in _borders(tokenizer, guarded, text) if at is not None]
    return list(itertools.chain(*pieces_ids(tokenizer, [*cut_up(text, cuts), *going_on])))


def first_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """What the tokenizer puts before every text: [bos] for Llama 3, nothing for SmolLM2."""
    bos = tokenizer.bos_token_id
    return [bos] if bos is not None and tokenizer("a")["input_ids"][0] == bos else []


def separator(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The token between two documents of the pre-training: <|endoftext|> if there is one, or else eos."""
    found = tokenizer.convert_tokens_to_ids(DOCUMENT_END)
    if found is not None and tokenizer.convert_ids_to_tokens(found) == DOCUMENT_END:
        return found
    return cast("int | None", tokenizer.eos_token_id)


def start_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """What stands before a text that has no prompt, so that its first token has something to be predicted from."""
    end = separator(tokenizer)
    return first_ids(tokenizer) or ([end] if end is not None else [])


def end_of_turn(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Tokens that end a reply: eos, the separator, and the special token a template puts after a reply."""
    return sorted(_signs_of(tokenizer).ends)


def supervised(tokenizer: PreTrainedTokenizerBase, record: Row) -> tuple[list[int], list[int]]:
    """Token ids of a record and their labels (same length; −100 where nothing is to be learnt).

    ``text``: every token, and the end of text. ``messages``: the assistant's turns with the token that ends them, but
    for those with a ``weight`` of 0.
    ``prompt`` (text, or messages) and ``completion``: the completion and its end.
    Raises MetierError for a record of none of these shapes, for roles that do not alternate, and for a template that
    refuses the conversation, changes a turn when more follow, or ends a reply with no token of its own.
    A record without a reply comes back with no label at all.
    """
    name = named(record)
    if (messages := messages_of(record)) is not None:
        return _turns(tokenizer, messages, name)
    if record.get("completion") is not None:
        asked = first_ids(tokenizer) + encode(tokenizer, record["prompt"])
        ends = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
        reply = (
            pieces_ids(tokenizer, [record["prompt"], _words(record["completion"], f"{name}: its completion")])[1] + ends
        )
        return asked + reply, [IGNORED] * len(asked) + reply
    if record.get("text") is not None:
        end = separator(tokenizer)
        ids = encode(tokenizer, _words(record["text"], f"{name}: its text"))
        ids = first_ids(tokenizer) + ids + ([] if end is None else [end])
        return ids, list(ids)
    raise MetierError(f"{name}: has no text, messages or prompt with completion to learn from")


def named(record: Row) -> str:
    """What error sentences call a record."""
    origin = record.get("origin") or {}
    where = f" ({origin['file']}, line {origin['line']})" if origin.get("line") else ""
    return f"record {record.get('id')!r}{where}"


def messages_of(record: Row) -> Any:
    """The turns of a record that is a conversation, or whose prompt is one; None for texts."""
    if record.get("messages"):
        return record["messages"]
    if record.get("completion") is None or isinstance(record.get("prompt"), str):
        return None
    before = record.get("prompt") or []
    turn = {"role": "assistant", "content": record["completion"]}
    return [*before, turn] if isinstance(before, list) else before


def unlearnable(labels: Sequence[int], length: int) -> str | None:
    """Why a record cut to ``length`` tokens teaches nothing, or None. Nothing could predict its first token."""
    if any(label != IGNORED for label in labels[1:length]):
        return None
    return f"no reply within {length} tokens" if any(b != IGNORED for b in labels[length:]) else "nothing to learn from"


def batches(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Indices in batches of similar length, longest first; padded to its longest row a batch has ≤ ``budget`` tokens.

    A row longer than the budget stands alone. Ties keep their order, so the result is a function of the lengths.
    """
    found: list[list[int]] = []
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if found and lengths[found[-1][0]] * (len(found[-1]) + 1) <= budget:
            found[-1].append(i)
        else:
            found.append([i])
    return found


def turns(tokenizer: PreTrainedTokenizerBase, messages: Any, name: str) -> tuple[str, list[str], Conversation]:
    """A finished conversation as text, cut where a reply begins, and its messages as the template was given them.

    ``name`` is for error sentences. Raises MetierError for roles that do not alternate, and for a template as
    ``supervised`` says.
    """
    signs, guarded = _signs_of(tokenizer), _guarded(tokenizer, _alternating(messages, name))
    try:
        whole = _text(tokenizer, guarded, False)
        cuts = []
        for at, number in _borders(tokenizer, guarded, whole):
            if at is None:
                raise MetierError(f"the chat template rewrites what stands before message {number}")
            last = _text(tokenizer, guarded[:number], False) if number < len(guarded) else whole
            end = signs.end.search(last, at)
            if end is None:
                raise MetierError("the chat template ends a reply with no token that could tell a model to stop")
            if not whole.startswith(last[: end.end()]):
                raise MetierError(f"the chat template rewrites message {number} when more follow it")
            cuts.append(at)
    except MetierError as error:
        raise MetierError(f"{name}: {error}") from None
    return whole, cut_up(whole, cuts), guarded


def _turns(tokenizer: PreTrainedTokenizerBase, messages: Any, name: str) -> tuple[list[int], list[int]]:
    _, pieces, _ = turns(tokenizer, messages, name)
    signs = _signs_of(tokenizer)
    muted = [m.get("weight") == 0 for m in messages if m["role"] == "assistant"]
    first, *replies = pieces_ids(tokenizer, pieces)
    ids, labels = first, [IGNORED] * len(first)
    for piece, silent in zip(replies, muted, strict=True):
        learnt = 0 if silent else next(k for k, token in enumerate(piece, start=1) if token in signs.ends)
        ids += piece
        labels += piece[:learnt] + [IGNORED] * (len(piece) - learnt)
    return ids, labels


def _alternating(messages: Any, name: str) -> Conversation:
    if not isinstance(messages, list) or not all(isinstance(m, dict) and m.get("role") in ROLES for m in messages):
        raise MetierError(f"{name}: messages must be a list of {{role, content}}, with the roles {', '.join(ROLES)}")
    for number, message in enumerate(messages, start=1):
        _words(message.get("content"), f"{name}: the content of message {number}")
    try:
        shapes.alternate(messages)
    except shapes.Misfit as error:
        raise MetierError(f"{name}: {error}") from None
    return [{"role": m["role"], "content": m["content"]} for m in messages]


def _words(value: Any, what: str) -> str:
    if not isinstance(value, str):
        raise MetierError(f"{what} must be text, got {value!r}")
    return value


def _text(tokenizer: PreTrainedTokenizerBase, conversation: Conversation, reply: bool) -> str:
    template, known = tokenizer.chat_template or PLAIN, tokenizer.special_tokens_map
    missing = {name: "" for name in ("bos_token", "eos_token", "unk_token", "pad_token") if name not in known}
    if not tokenizer.chat_template and not first_ids(tokenizer):
        missing["bos_token"] = ""
    if isinstance(template, str) and "strftime_now" in template:
        template = DAY + template
    try:
        text = tokenizer.apply_chat_template(
            conversation, chat_template=template if isinstance(template, str) else None, tokenize=False,
            add_generation_prompt=reply, **missing,
        )  # fmt: skip
    except Exception as error:  # jinja's own errors and what a template raises share no class
        reason = " ".join(str(error).split()) or type(error).__name__
        whose = f" (the template of {tokenizer.name_or_path})" if tokenizer.name_or_path else ""
        raise MetierError(f"the chat template refuses the conversation: {reason}{whose}") from error
    return cast(str, text)


def _borders(
    tokenizer: PreTrainedTokenizerBase, conversation: Conversation, text: str
) -> Iterator[tuple[int | None, int]]:
    """(where it begins in the text, number of its message) for each reply; None where its prompt reads otherwise."""
    done = 0
    for i, message in enumerate(conversation):
        if message["role"] == "assistant":
            before = _text(tokenizer, conversation[:i], True)
            found = text.startswith(before) and len(before) >= done
            done = len(before) if found else done
            yield (len(before) if found else None), i + 1


@dataclasses.dataclass(frozen=True)
class _Signs:
    """The tokens that end a reply, what finds them in a text, and what finds every special token."""

    ends: frozenset[int]
    end: re.Pattern[str]
    special: re.Pattern[str]


def _signs_of(tokenizer: PreTrainedTokenizerBase) -> _Signs:
    return _signs(tokenizer, str(tokenizer.chat_template), len(tokenizer), tokenizer.eos_token_id)


@functools.lru_cache(maxsize=16)
def _signs(tokenizer: PreTrainedTokenizerBase, template: str, size: int, eos: int | None) -> _Signs:
    """Of a tokenizer as it is now: the other arguments are what somebody may have changed in it since."""
    turn = [{"role": "user", "content": "7613"}, {"role": "assistant", "content": "8492"}]
    after = encode(tokenizer, _text(tokenizer, turn, False).rpartition("8492")[2])
    added = tokenizer.added_tokens_decoder
    special = {*tokenizer.all_special_ids, *(i for i, token in added.items() if token.special)}
    marked = (i for i in after if i in special or i in added)
    ends = {i for i in (eos, separator(tokenizer), next(marked, None)) if i is not None}
    return _Signs(frozenset(ends), _any_of(tokenizer, ends), _any_of(tokenizer, special | ends))


def _any_of(tokenizer: PreTrainedTokenizerBase, ids: set[int]) -> re.Pattern[str]:
    words = sorted((tokenizer.convert_ids_to_tokens(i) for i in ids), key=lambda word: (-len(word), word))
    return re.compile("|".join(map(re.escape, words)) or "(?!)")  # which matches nothing


def _guarded(tokenizer: PreTrainedTokenizerBase, conversation: Conversation) -> Conversation:
    """The conversation with a cut in every word that would otherwise become a special token of the model."""
    special = _signs_of(tokenizer).special
    return [
        m | {"content": special.sub(lambda found: CUT.join(found[0]), m["content"].replace(CUT, ""))}
        for m in conversation
    ]

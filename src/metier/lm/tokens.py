"""One place for chat templates, label masks and token budgets.

What is trained on is what is served: the tokens before a supervised reply are exactly the tokens of the prompt that
``render(…, reply=True)`` gives the model when it has to answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from transformers import PreTrainedTokenizerBase

from metier.artefacts import Row
from metier.lm.loss import IGNORED
from metier.options import MetierError

Conversation = list[dict[str, str]]
DOCUMENT_END = "<|endoftext|>"
# For models without a chat template. Headings on lines of their own: no token can straddle the border of a turn.
PLAIN = (
    "{% for message in messages %}"
    "{% if message['role'] == 'system' %}{{ message['content'] + '\n\n' }}"
    "{% elif message['role'] == 'user' %}{{ 'User:\n' + message['content'] + '\n\n' }}"
    "{% else %}{{ 'Assistant:\n' + message['content'] + eos_token + '\n\n' }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ 'Assistant:\n' }}{% endif %}"
)


def render(tokenizer: PreTrainedTokenizerBase, conversation: Conversation, *, reply: bool) -> str:
    """The text of a conversation in the model's chat template (``PLAIN`` where it has none).

    ``reply``: the prompt of the next reply, or, when the last turn is the assistant's, of its continuation;
    otherwise the finished conversation. Raises MetierError when the template refuses the conversation.
    """
    if reply and conversation and conversation[-1]["role"] == "assistant":
        return render(tokenizer, conversation[:-1], reply=True) + conversation[-1]["content"]
    template = tokenizer.chat_template or PLAIN
    extra = {} if tokenizer.eos_token else {"eos_token": ""}
    try:
        text = tokenizer.apply_chat_template(
            conversation, chat_template=template, tokenize=False, add_generation_prompt=reply, **extra
        )
    except Exception as error:  # jinja's own errors and what a template raises share no class
        raise MetierError(f"the chat template refuses the conversation: {error}") from error
    return cast(str, text)


def encode(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Tokens of a text, without the special tokens a tokenizer puts around it; those written in it are kept."""
    return cast(list[int], tokenizer(text, add_special_tokens=False)["input_ids"])


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
    turn = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    ends = {tokenizer.eos_token_id, separator(tokenizer)}
    after = render(tokenizer, turn, reply=False)[len(render(tokenizer, turn, reply=True)) :]
    special = set(tokenizer.all_special_ids) | set(tokenizer.added_tokens_decoder)
    ends |= {i for i in encode(tokenizer, after)[:1] if i in special}
    return sorted(i for i in ends if i is not None)


def supervised(tokenizer: PreTrainedTokenizerBase, record: Row) -> tuple[list[int], list[int]]:
    """Token ids of a record and their labels (same length; −100 where nothing is to be learnt).

    ``text``: every token, and the end of text. ``messages``: the assistant's turns with the token that ends them.
    ``prompt`` (text, or messages) and ``completion``: the completion and its end.
    Raises MetierError for roles that do not alternate and for a record of none of these shapes.
    A record without a reply comes back with no label at all.
    """
    if record.get("messages"):
        return _turns(tokenizer, record["messages"], str(record.get("id")))
    if record.get("completion") is not None:
        if not isinstance(record.get("prompt"), str):
            turn = {"role": "assistant", "content": record["completion"]}
            return _turns(tokenizer, [*(record.get("prompt") or []), turn], str(record.get("id")))
        prompt = first_ids(tokenizer) + encode(tokenizer, record["prompt"])
        ends = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
        reply = encode(tokenizer, record["completion"]) + ends
        return prompt + reply, [IGNORED] * len(prompt) + reply
    if record.get("text") is not None:
        end = separator(tokenizer)
        ids = first_ids(tokenizer) + encode(tokenizer, record["text"]) + ([] if end is None else [end])
        return ids, list(ids)
    raise MetierError(f"record {record.get('id')!r}: has no text, messages or prompt with completion to learn from")


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


def _turns(tokenizer: PreTrainedTokenizerBase, messages: Any, name: str) -> tuple[list[int], list[int]]:
    messages = [{"role": m["role"], "content": m["content"]} for m in messages]
    wanted = "user"
    for number, message in enumerate(messages):
        if number == 0 and message["role"] == "system":
            continue
        if message["role"] != wanted:
            raise MetierError(
                f"record {name!r}: message {number + 1} is from '{message['role']}' and should be from '{wanted}'"
            )
        wanted = "assistant" if wanted == "user" else "user"
    ids: list[int] = []
    labels: list[int] = []
    whole = render(tokenizer, messages, reply=False)
    special = set(tokenizer.all_special_ids) | set(tokenizer.added_tokens_decoder)
    done = 0
    for i, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        prompt, turn = (render(tokenizer, messages[: i + 1 - r], reply=bool(r)) for r in (1, 0))
        if not (whole.startswith(prompt) and len(prompt) >= done):
            raise MetierError(f"record {name!r}: the chat template rewrites what stands before message {i + 1}")
        # Prompt and reply are tokenised apart, as they are when the model answers.
        before = encode(tokenizer, whole[done : len(prompt)])
        reply = encode(tokenizer, whole[len(prompt) : len(turn)])
        ends = [k for k, token in enumerate(reply) if token in special]
        learnt = ends[-1] + 1 if ends else len(reply)  # the line break behind the end of turn is the template's
        ids += before + reply
        labels += [IGNORED] * len(before) + reply[:learnt] + [IGNORED] * (len(reply) - learnt)
        done = len(turn)
    rest = encode(tokenizer, whole[done:])
    return ids + rest, labels + [IGNORED] * len(rest)

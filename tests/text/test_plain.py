from __future__ import annotations

from metier.text.plain import plain

ASKED = [{"role": "user", "content": "Which river?"}]


def test_every_form_as_plain_text() -> None:
    assert plain({"text": "as it is"}) == "as it is"
    talk = [{"role": "system", "content": "Be short."}, *ASKED, {"role": "assistant", "content": "The Gru."}]
    assert plain({"messages": talk, "text": None}) == "Be short.\nWhich river?\nThe Gru."
    assert plain({"prompt": "The river is", "completion": " the Gru"}) == "The river is the Gru"
    assert plain({"prompt": ASKED, "completion": "The Gru."}) == "Which river?\nThe Gru."
    assert plain({"prompt": ASKED, "replies": ["None.", "The Gru."], "scores": [0.0, 1.0]}) == "Which river?\nThe Gru."


def test_a_bad_or_missing_reply_is_no_text() -> None:
    assert plain({"messages": ASKED}) == "" and plain({"prompt": ASKED}) == "" and plain({"id": "1"}) == ""
    assert plain({"prompt": ASKED, "replies": ["None."], "scores": [0.0]}) == ""
    assert plain({"prompt": ASKED, "replies": ["The Gru."], "scores": [1.0]}) == "Which river?\nThe Gru."

"""A real HTTP server that answers like an OpenAI-compatible one, with any Chat behind it, and counts what it is asked.

Switches stand for a bad day: ``faults`` are given to the next requests in turn, ``delay`` makes it slow.
"""

from __future__ import annotations

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import torch

from metier.lm import pieces, tokens
from metier.lm.chat import Sampling


class Fault:
    """An answer that is none: a status, headers and a body."""

    def __init__(self, status: int, body: Any = None, **headers: str) -> None:
        self.status, self.headers = status, {k.replace("_", "-"): v for k, v in headers.items()}
        self.body = body if isinstance(body, bytes) else json.dumps(body or {"error": {"message": "a fault"}}).encode()


class Server:
    """``with Server(chat) as server:`` … ``server.url``. ``asked`` holds the body of every request, in order."""

    def __init__(self, chat: Any, model: str = "toy", echo: bool = True, many: bool = True, key: str = "") -> None:
        self.chat, self.model, self.echo, self.many, self.key = chat, model, echo, many, key
        self.asked: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.faults: list[Fault] = []
        self.delay = 0.0
        self.busy = self.busiest = 0
        self.lock, self.thinking = threading.Lock(), threading.Lock()
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self.answer(Fault(200, {"object": "list", "data": [{"id": server.model, "object": "model"}]}))

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with server.lock:
                    server.asked.append(body)
                    server.headers.append(dict(self.headers))
                    server.busy += 1
                    server.busiest = max(server.busiest, server.busy)
                    fault = server.faults.pop(0) if server.faults else None
                try:
                    time.sleep(server.delay)
                    self.answer(fault or server.say(self.path, body, self.headers.get("Authorization", "")))
                finally:
                    with server.lock:
                        server.busy -= 1

            def answer(self, said: Fault) -> None:
                try:
                    self.send_response(said.status)
                    for name, value in {"Content-Type": "application/json", **said.headers}.items():
                        self.send_header(name, value)
                    self.send_header("Content-Length", str(len(said.body)))
                    self.end_headers()
                    self.wfile.write(said.body)
                except (BrokenPipeError, ConnectionResetError):
                    pass  # whoever asked has gone

            def log_message(self, *words: Any) -> None: ...

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}/v1"

    def __enter__(self) -> Server:
        threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self.http.shutdown()
        self.http.server_close()

    def say(self, path: str, body: dict[str, Any], authorization: str) -> Fault:
        if self.key and authorization != f"Bearer {self.key}":
            said = f"Incorrect API key provided: {authorization.removeprefix('Bearer ')}"
            return Fault(401, {"error": {"message": said, "code": "invalid_api_key"}})
        if body["model"] != self.model:
            return Fault(404, {"error": {"message": "The model does not exist", "code": "model_not_found"}})
        if path == "/v1/chat/completions":
            return self.chatting(body)
        if path == "/v1/completions" and self.echo:
            return self.repeating(body)
        return Fault(404, {"error": {"message": "Not Found"}})

    def chatting(self, body: dict[str, Any]) -> Fault:
        n = body.get("n", 1) if self.many else 1
        with self.thinking:
            replies = self.chat.reply([body["messages"]], Sampling(
                body["max_tokens"], body["temperature"], body["top_p"], n, body["seed"], tuple(body.get("stop", ()))
            ))  # fmt: skip
        choices = []
        for i, reply in enumerate(replies):
            choice = {"index": i, "finish_reason": reply.finish,
                      "message": {"role": "assistant", "content": reply.text}}  # fmt: skip
            if body.get("logprobs") and reply.logprob is not None:
                share = reply.logprob / reply.tokens
                choice["logprobs"] = {"content": [{"token": "x", "logprob": share, "top_logprobs": []}] * reply.tokens}
            choices.append(choice)
        usage = {"completion_tokens": sum(r.tokens for r in replies), "prompt_tokens": 1, "total_tokens": 1}
        return Fault(200, {"id": "1", "object": "chat.completion", "created": 1, "model": self.model,
                           "choices": choices, "usage": usage})  # fmt: skip

    def repeating(self, body: dict[str, Any]) -> Fault:
        network, tokenizer = self.chat.loaded
        with self.thinking, torch.no_grad():
            ids = [*tokens.start_ids(tokenizer), *pieces.encode(tokenizer, body["prompt"])]
            scores = torch.log_softmax(network(input_ids=torch.tensor([ids])).logits[0].float(), -1)
        words = [tokenizer.decode([i]) for i in ids]
        starts = [sum(map(len, words[:k])) for k in range(len(words) + 1)]
        values = [None, *(float(scores[k, ids[k + 1]]) for k in range(len(ids) - 1))]
        best = int(scores[-1].argmax())
        listed = {"tokens": [*words, tokenizer.decode([best])], "token_logprobs": [*values, float(scores[-1, best])],
                  "text_offset": starts, "top_logprobs": None}  # fmt: skip
        choice = {"index": 0, "text": body["prompt"], "logprobs": listed, "finish_reason": "length"}
        return Fault(200, {"id": "1", "object": "text_completion", "created": 1, "model": self.model,
                           "choices": [choice]})  # fmt: skip

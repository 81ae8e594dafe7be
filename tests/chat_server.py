"""A real server of OpenAI's chat protocol for tests: it looks at each request and answers as it is told."""

import base64
import contextlib
import dataclasses
import http.server
import io
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import PIL.Image


@dataclasses.dataclass(frozen=True)
class Reply:
    """Instead of a text. body: bytes as they are, or an object for JSON. seconds: before it comes."""

    status: int = 200
    body: Any = None
    headers: Mapping[str, str] = dataclasses.field(default_factory=dict)
    seconds: float = 0.0


@dataclasses.dataclass(frozen=True)
class Asked:
    """A request as it came in, names of headers in small letters."""

    body: Mapping[str, Any]
    headers: Mapping[str, str]

    @property
    def text(self) -> str:
        return self.parts("text")[0]["text"]

    @property
    def fields(self) -> Mapping[str, list[str]] | None:
        """Names and values of the schema that the answer shall have."""
        form = self.body.get("response_format")
        if form is None:
            return None
        assert form["type"] == "json_schema"
        assert form["json_schema"]["strict"] is True
        schema = form["json_schema"]["schema"]
        assert schema["required"] == list(schema["properties"])
        assert schema["additionalProperties"] is False
        return {name: each["enum"] for name, each in schema["properties"].items()}

    def parts(self, kind: str) -> list[Mapping[str, Any]]:
        (message,) = self.body["messages"]
        assert message["role"] == "user"
        return [part for part in message["content"] if part["type"] == kind]

    def frames(self) -> list[np.ndarray]:
        found = []
        for part in self.parts("image_url"):
            head, _, data = part["image_url"]["url"].partition(",")
            assert head == "data:image/jpeg;base64"
            image = PIL.Image.open(io.BytesIO(base64.b64decode(data, validate=True)))
            assert image.format == "JPEG"
            found.append(np.asarray(image))
        return found


def chosen(content: str | None, ending: str = "stop", **message: Any) -> Mapping[str, Any]:
    """The body of an answer."""
    said = {"role": "assistant", "content": content, **message}
    choice = {"index": 0, "message": said, "finish_reason": ending}
    return {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}


def busy(status: int = 500, message: str = "busy") -> Reply:
    """An error that may pass, and that asks for the shortest pause."""
    return Reply(status, {"error": {"message": message}}, {"retry-after-ms": "1"})


class Served:
    """url: of the server. asked: all that came in, in order."""

    def __init__(self, url: str):
        self.url, self.asked = url, []


@contextlib.contextmanager
def serving(answer: Callable[[Asked], str | Reply], models: Reply | None = None) -> Iterator[Served]:
    """A server for the time of the block. answer: called with each request, one at a time. models: the reply to who
    asks for their list."""
    lock = threading.Lock()

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            self._reply(models or Reply(body={"object": "list", "data": []}))

        def do_POST(self):
            assert self.path == "/v1/chat/completions"
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            asked = Asked(body, {name.lower(): value for name, value in self.headers.items()})
            with lock:
                served.asked.append(asked)
                found = answer(asked)
            self._reply(Reply(body=chosen(found)) if isinstance(found, str) else found)

        def _reply(self, reply: Reply):
            time.sleep(reply.seconds)
            data = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
            with contextlib.suppress(OSError):  # who waits no longer
                self.send_response(reply.status)
                for name, value in {"Content-Type": "application/json", **reply.headers}.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    served = Served(f"http://127.0.0.1:{server.server_address[1]}/v1")
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield served
    finally:
        server.shutdown()
        server.server_close()
        thread.join()

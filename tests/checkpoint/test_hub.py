"""A checkpoint from a folder, or from a hub: a real HTTP server on this machine that speaks its protocol."""

import hashlib
import http.server
import json
import threading
import urllib.parse

import pytest

from lcv_jax.checkpoint.hub import resolve
from lcv_jax.errors import InputError

COMMIT = "0123456789abcdef0123456789abcdef01234567"
FILES = {
    "dit/config.json": b'{"depth": 1}',
    "dit/diffusion_pytorch_model.safetensors": b"weights",
    "dit/pytorch_model.bin": b"a pickle",
    "vae/params/encoder.conv_in.bias/0": b"zarr",
    "tokenizer/spiece.model": b"pieces",
    "lora/cfg_step_lora.safetensors": b"lora",
    "assets/picture.png": b"png",
    "README.md": b"hello",
}


class Hub(http.server.BaseHTTPRequestHandler):
    """The repository org/tiny at branch main; org/gated wants terms accepted; nothing else exists."""

    def _send(self, status, body=b"", **headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def do_GET(self):
        path = urllib.parse.unquote(urllib.parse.urlparse(self.path).path)
        self.server.asked.append(path)
        if "org/gated" in path:
            return self._send(403, b"{}", X_Error_Code="GatedRepo", X_Error_Message="accept the terms")
        if "org/broken" in path:
            return self._send(418, b"{}")
        if "org/tiny" not in path:
            return self._send(404, b"{}", X_Error_Code="RepoNotFound")
        if "/nothing" in path:
            return self._send(404, b"{}", X_Error_Code="RevisionNotFound")
        if path.startswith("/api/models/org/tiny/tree/"):
            tree = [
                {"type": "file", "path": n, "size": len(b), "oid": hashlib.sha1(b).hexdigest()}
                for n, b in FILES.items()
            ]
            return self._send(200, json.dumps(tree).encode(), Content_Type="application/json")
        if path.startswith("/api/models/org/tiny"):
            info = {"id": "org/tiny", "sha": COMMIT, "siblings": [{"rfilename": name} for name in FILES]}
            return self._send(200, json.dumps(info).encode(), Content_Type="application/json")
        body = FILES[path.removeprefix(f"/org/tiny/resolve/{COMMIT}/")]
        return self._send(200, body, ETag=f'"{hashlib.sha1(body).hexdigest()}"', X_Repo_Commit=COMMIT)

    do_HEAD = do_GET

    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def hub():
    """The running server; .endpoint is its address, .asked the paths asked for."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        server.asked = []
        server.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_folder_as_it_is(checkpoint_dir):
    assert resolve(checkpoint_dir) == checkpoint_dir
    assert resolve(str(checkpoint_dir)) == checkpoint_dir


def test_snapshot_of_what_we_need_only(hub, tmp_path):
    folder = resolve("org/tiny", endpoint=hub.endpoint, cache_dir=tmp_path)
    got = {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    unwanted = ("dit/pytorch_model.bin", "assets/picture.png", "README.md")
    assert got == {name: body for name, body in FILES.items() if name not in unwanted}
    assert not any(name in path for path in hub.asked for name in unwanted)
    assert folder.name == COMMIT
    assert resolve("org/tiny", endpoint=hub.endpoint, cache_dir=tmp_path) == folder


@pytest.mark.parametrize(
    ("repo", "revision", "message"),
    [
        ("org/none", None, r"org/none: no such folder, and no such repository on the hub"),
        ("org/tiny", "nothing", r"org/tiny: revision 'nothing' does not exist on the hub"),
        ("org/gated", None, r"org/gated: the hub wants you to accept terms"),
        ("org/broken", None, r"org/broken: no such folder, and downloading it from the hub failed"),
    ],
)
def test_what_the_hub_refuses(hub, tmp_path, repo, revision, message):
    with pytest.raises(InputError, match=message) as error:
        resolve(repo, revision, endpoint=hub.endpoint, cache_dir=tmp_path)
    assert "\n" not in str(error.value)


def test_no_network(tmp_path):
    with pytest.raises(InputError, match=r"downloading it from the hub failed .*check the network"):
        resolve("org/tiny", endpoint="http://127.0.0.1:9", cache_dir=tmp_path)


@pytest.mark.parametrize("path", ["nowhere", "/no/such/folder", "a b/c", "../x", "a/b/c", "org/", ".hidden/x"])
def test_neither_folder_nor_id(path):
    with pytest.raises(InputError, match=r"no such folder, and not a hub id like 'organisation/name'"):
        resolve(path)


def test_file_instead_of_folder(checkpoint_dir):
    with pytest.raises(InputError, match=r"config.json: a file, expected a checkpoint's folder"):
        resolve(checkpoint_dir / "dit" / "config.json")

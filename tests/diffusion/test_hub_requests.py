"""What is asked of the hub, by its own client: a server of ours stands for it."""

from __future__ import annotations

import http.server
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from tiny_models import pickled_trap

COMMIT = "0123456789abcdef0123456789abcdef01234567"
CODE = """
import json, sys, warnings
warnings.simplefilter("ignore")
from dragwidget.diffusion.loading import load_model
options = json.loads(sys.argv[1])
try:
    model = load_model(device="cpu", **options)
    print(json.dumps({"fingerprint": model.fingerprint}))
except (OSError, ValueError) as error:
    print(json.dumps({"kind": type(error).__name__, "error": str(error)}))
"""


class Hub:
    """A hub of one model, ``someone/tiny``, in a folder; it counts what is asked for."""

    def __init__(self, folder):
        self.folder, self.asked = folder, []
        hub = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                path = self.path.partition("?")[0]
                hub.asked.append(path)
                prefix = f"/someone/tiny/resolve/{COMMIT}/"
                file = hub.folder / path.removeprefix(prefix)
                if path.startswith("/api/models/someone/tiny/revision/"):
                    names = [{"rfilename": name} for name in hub.names()]
                    body = {"id": "someone/tiny", "sha": COMMIT, "siblings": names}
                    self.answer(json.dumps(body).encode())
                elif path.startswith("/api/models/someone/tiny/tree/"):
                    body = [
                        {"type": "file", "path": name, "oid": "0" * 40,
                         "size": (hub.folder / name).stat().st_size}
                        for name in hub.names()
                    ]  # fmt: skip
                    self.answer(json.dumps(body).encode())
                elif path.startswith(prefix) and file.is_file():
                    self.answer(file.read_bytes(), etag=path)
                else:
                    self.answer(b"{}", 404, {"X-Error-Code": "RepoNotFound"})

            do_HEAD = do_GET  # noqa: N815 - so the server calls it

            def answer(self, body, status=200, headers=None, etag=""):
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.send_header("X-Repo-Commit", COMMIT)
                self.send_header("ETag", f'"{abs(hash(etag)):x}"')
                for name, value in (headers or {}).items():
                    self.send_header(name, value)
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(body)

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()
        self.address = f"http://127.0.0.1:{self.server.server_port}"

    def names(self):
        files = (p for p in self.folder.rglob("*") if p.is_file())
        return sorted(p.relative_to(self.folder).as_posix() for p in files)

    def weights(self):
        """The names of the weights that were fetched."""
        return sorted({Path(p).name for p in self.asked if p.endswith((".safetensors", ".bin"))})

    def close(self):
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture
def hub(broken, tmp_path):
    for part, stem in (("unet", "diffusion_pytorch_model"), ("text_encoder", "model")):
        plain = broken / part / f"{stem}.safetensors"
        (broken / part / f"{stem}.fp16.safetensors").write_bytes(plain.read_bytes())
        (broken / part / f"{stem}.bin").write_bytes(pickled_trap(tmp_path / "canary"))
    made = Hub(broken)
    yield made
    made.close()


@pytest.fixture
def load(hub, tmp_path):
    def call(address=hub.address, **options):
        environment = {
            **os.environ,
            "HF_ENDPOINT": address,
            "HF_HUB_OFFLINE": "0",
            "HF_HOME": str(tmp_path / "hf"),
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_XET": "1",
            "no_proxy": "127.0.0.1",
            "OMP_NUM_THREADS": "1",
        }
        run = subprocess.run(
            [sys.executable, "-c", CODE, json.dumps({"source": "someone/tiny", **options})],
            env=environment, capture_output=True, text=True, check=False, timeout=300,
        )  # fmt: skip
        assert run.returncode == 0, run.stderr
        return json.loads(run.stdout)

    return call


@pytest.mark.slow
def test_in_half_precision_the_half_weights_are_fetched_and_nothing_twice(hub, load):
    assert "fingerprint" in load(dtype="float16")
    assert hub.weights() == [
        "diffusion_pytorch_model.fp16.safetensors",  # of the UNet
        "diffusion_pytorch_model.safetensors",  # of the autoencoder, which has no other
        "model.fp16.safetensors",
    ]


@pytest.mark.slow
def test_in_full_precision_the_plain_weights_are_fetched_and_then_found_without_a_network(
    hub, load, tiny
):
    assert load() == {"fingerprint": tiny.fingerprint}
    assert hub.weights() == ["diffusion_pytorch_model.safetensors", "model.safetensors"]
    hub.close()
    assert load() == {"fingerprint": tiny.fingerprint}


@pytest.mark.slow
def test_a_model_of_another_kind_is_refused_before_its_weights_are_fetched(hub, load):
    config = hub.folder / "unet" / "config.json"
    content = {**json.loads(config.read_text()), "class_embed_type": "timestep"}
    config.write_text(json.dumps(content))
    assert "class labels" in load()["error"]
    assert hub.weights() == []


@pytest.mark.slow
def test_a_name_that_the_hub_does_not_have_is_said_to_be_so(load):
    answer = load(source="someone/else")
    assert answer["kind"] == "FileNotFoundError"
    assert "no public model of this name" in answer["error"]
    assert "cannot be reached" not in answer["error"]


@pytest.mark.slow
def test_without_a_network_that_is_said_before_anything_about_the_name(load):
    answer = load(address="http://127.0.0.1:9", source="someone/else")
    assert answer["kind"] == "FileNotFoundError"
    assert answer["error"].startswith("the Hugging Face hub cannot be reached")
    assert "someone/else" in answer["error"]

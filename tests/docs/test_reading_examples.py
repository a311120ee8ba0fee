"""The examples run, and readers work inside other programs' loaders."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from reading_data import key_of, same_bits, write_dataset

import readers

EXAMPLES = Path(__file__).parents[2] / "examples"


def run(program: str, *arguments: str, **env: str) -> str:
    done = subprocess.run(
        [sys.executable, program, *arguments],
        cwd=EXAMPLES,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2", **env},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout + (done.stderr if "auto-shard" in done.stderr.lower() else "")


def needs(package: str) -> pytest.MarkDecorator:
    missing = importlib.util.find_spec(package) is None
    return pytest.mark.skipif(missing, reason=f"{package} is not installed")


def test_keras_learns() -> None:
    found = re.search(r"accuracy (\S+), (\d+) predictions", run("keras_fit.py"))
    assert found
    assert float(found[1]) > 0.95
    assert 50 < int(found[2]) < 120


def test_a_distributed_loop_learns() -> None:
    found = re.fullmatch(r"loss (\S+) at first, (\S+) after 60 steps\n", run("distributed_loop.py"))
    assert found
    assert float(found[2]) < float(found[1])


@pytest.mark.parametrize("backend", [pytest.param(name, marks=needs(name)) for name in ("jax", "torch")])
def test_keras_learns_with_another_backend(backend: str) -> None:
    out = run("keras_fit.py", KERAS_BACKEND=backend, JAX_PLATFORMS="cpu")
    assert re.search(rf"accuracy (0\.9|1\.0).* with {backend}", out)


@needs("torch")
def test_pytorch_learns() -> None:
    assert re.search(r"after 5 epochs of \d{3} examples", run("pytorch_loader.py"))


@needs("grain")
def test_grain_reads() -> None:
    assert "batches of (32, 8, 8)" in run("grain_loader.py")


_WORKER = """
import json, os, sys
index = int(sys.argv[1])
os.environ["TF_CONFIG"] = json.dumps(
    {"cluster": {"worker": sys.argv[3:5]}, "task": {"type": "worker", "index": index}}
)
import tensorflow as tf
import readers
strategy = tf.distribute.MultiWorkerMirroredStrategy()
dataset = strategy.distribute_datasets_from_function(
    lambda context: readers.load_dataset(sys.argv[2], features="key", batch_size=4, shuffle=True, worker=context)
)
iterator = iter(dataset)
print([key.decode() for _ in range(5) for key in strategy.experimental_local_results(next(iterator))[0].numpy()])
"""


def test_two_processes_of_tf_distribute_read_disjoint_shares(tmp_path: Path) -> None:
    import socket

    path = write_dataset(tmp_path / "set", [np.zeros(3)] * 40)
    ports = []
    for _ in range(2):
        with socket.socket() as free:
            free.bind(("localhost", 0))
            ports.append(f"localhost:{free.getsockname()[1]}")
    program = tmp_path / "worker.py"
    program.write_text(_WORKER)
    workers = [
        subprocess.Popen(
            [sys.executable, str(program), str(i), str(path), *ports],
            env={**os.environ, "PYTHONPATH": str(EXAMPLES.parent), "CUDA_VISIBLE_DEVICES": ""},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for i in range(2)
    ]
    outputs = [worker.communicate(timeout=240) for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0], outputs[0][1][-2000:]
    keys = [re.findall(r"'(k/\d+)'", out) for out, _ in outputs]
    assert sorted(keys[0] + keys[1]) == [key_of(i) for i in range(40)]
    assert not any("auto-shard" in error.lower() or "autoshard" in error.lower() for _, error in outputs)


@needs("torch")
@pytest.mark.parametrize("workers", [0, 2])
def test_a_torch_data_loader_gets_every_example_once(workers: int, tmp_path: Path) -> None:
    import torch

    arrays = [np.full((2, 2), i, "f4") for i in range(50)]
    source: Any = readers.ArraySource(write_dataset(tmp_path, arrays))
    context = "spawn" if workers else None
    loader: Any = torch.utils.data.DataLoader(
        source, batch_size=8, shuffle=True, num_workers=workers, multiprocessing_context=context
    )
    seen = {key: array for batch in loader for key, array in zip(batch["key"], batch["array"], strict=True)}
    assert sorted(seen) == [key_of(i) for i in range(50)]
    assert all(same_bits(seen[key_of(i)], arrays[i]) for i in range(50))

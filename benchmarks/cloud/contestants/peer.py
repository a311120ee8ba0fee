"""The peers: `peer.py convert KIND PREFIX OUT LIMIT` or `peer.py read KIND PREFIX DIRECTORY BATCH`.

Objects are fetched by 32 threads in each of two processes, by what the peer itself uses for S3, so that the peers wait
for the server no more than they must. `read` prints the seconds of an epoch, the number of arrays and the sum of their
first values.
"""

from __future__ import annotations

import io
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import Pool
from pathlib import Path
from typing import Any

import numpy as np

sys.path.append(str(Path(__file__).parents[2] / "convert" / "contestants"))

BUCKET, PROCESSES, THREADS = "test", 2, 32
GROUP = 256  # objects that a process takes at a time
CHUNK_BYTES, SHARD_BYTES = 64 * 10**6, 128 * 10**6  # as in `benchmarks/run convert`


def client() -> Any:
    import boto3
    from botocore.config import Config

    return boto3.client("s3", config=Config(max_pool_connections=THREADS))


def keys_below(prefix: str) -> list[str]:
    pages = client().get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=f"{prefix}/")
    return sorted(each["Key"] for page in pages for each in page.get("Contents", []))


def fetched(keys: list[str]) -> Iterator[tuple[str, np.ndarray]]:
    """Key without suffix, below the prefix, and array of each object, in order."""
    s3 = client()

    def get(key: str) -> tuple[str, np.ndarray]:
        data = s3.get_object(Bucket=BUCKET, Key=key)["Body"].read()
        return key.partition("/")[2].removesuffix(".npy"), np.load(io.BytesIO(data))

    with ThreadPoolExecutor(THREADS) as pool:
        for start in range(0, len(keys), GROUP):  # what was fetched and isn't written yet is in memory
            yield from pool.map(get, keys[start : start + GROUP])


# --- converting --------------------------------------------------------------------------------------


def write_mds(keys: list[str], out: str) -> None:
    from streaming import MDSWriter

    shape = next(fetched(keys[:1]))[1].shape
    columns = {"key": "str", "array": "ndarray:float32:" + ",".join(map(str, shape))}
    with MDSWriter(out=out, columns=columns, size_limit=SHARD_BYTES) as writer:
        for key, array in fetched(keys):
            writer.write({"key": key, "array": array})


def convert_mds(prefix: str, out: str, limit: int) -> None:
    from streaming.base.util import merge_index

    keys = keys_below(prefix)[:limit]
    with Pool(PROCESSES) as pool:
        pool.starmap(write_mds, [(keys[i::PROCESSES], f"{out}/{i}") for i in range(PROCESSES)])
    merge_index(out, keep_local=True)


def litdata_group(keys: list[str]) -> Iterator[dict[str, Any]]:
    for key, array in fetched(keys):
        yield {"key": key, "array": array}


def convert_litdata(prefix: str, out: str, limit: int) -> None:
    from litdata import optimize

    keys = keys_below(prefix)[:limit]
    groups = [keys[start : start + GROUP] for start in range(0, len(keys), GROUP)]
    optimize(litdata_group, groups, out, num_workers=PROCESSES, chunk_bytes=CHUNK_BYTES, verbose=False)


def file_system() -> Any:
    import s3fs

    return s3fs.S3FileSystem(endpoint_url=os.environ["AWS_ENDPOINT_URL"], use_listings_cache=False)


def write_by_hand(keys: list[str], prefix: str, out: str) -> None:
    import tensorflow as tf
    from by_hand import serialized

    files = file_system()
    with tf.io.TFRecordWriter(out) as writer:
        for start in range(0, len(keys), GROUP):
            part = keys[start : start + GROUP]
            for key, data in files.cat(part, batch_size=THREADS).items():
                name = key.removeprefix(f"{BUCKET}/{prefix}/").removesuffix(".npy")
                writer.write(serialized(name, np.load(io.BytesIO(data))))


def convert_by_hand(prefix: str, out: str, limit: int) -> None:
    from joblib import Parallel, delayed

    keys = sorted(file_system().find(f"{BUCKET}/{prefix}"))[:limit]
    os.makedirs(out)
    tasks = [(keys[i::PROCESSES], prefix, f"{out}/train-{i:05}.tfrecord") for i in range(PROCESSES)]
    Parallel(n_jobs=PROCESSES)(delayed(write_by_hand)(*task) for task in tasks)


# --- reading: batches of arrays ----------------------------------------------------------------------


def stack(examples: list[dict[str, Any]]) -> np.ndarray:
    return np.stack([np.asarray(example["array"]) for example in examples])


def read_mds(prefix: str, directory: str, batch: int) -> Iterable[np.ndarray]:
    import torch
    from streaming import StreamingDataset

    os.environ["S3_ENDPOINT_URL"] = os.environ["AWS_ENDPOINT_URL"]
    dataset = StreamingDataset(remote=f"s3://{BUCKET}/{prefix}", local=directory, shuffle=False, batch_size=batch)
    loader = torch.utils.data.DataLoader(dataset, batch_size=batch, num_workers=PROCESSES, collate_fn=stack)
    return iter(loader)


def read_litdata(prefix: str, directory: str, batch: int) -> Iterable[np.ndarray]:
    from litdata import StreamingDataLoader, StreamingDataset
    from litdata.streaming import downloader

    # Chunks come by a client that refuses a server without TLS, whatever `storage_options` say; it has no option.
    downloader._OBSTORE_CLIENT_OPTIONS["allow_http"] = True
    dataset: Any = StreamingDataset(
        f"s3://{BUCKET}/{prefix}",
        cache_dir=directory,
        shuffle=False,
        storage_options={"endpoint_url": os.environ["AWS_ENDPOINT_URL"]},
    )
    return iter(StreamingDataLoader(dataset, batch_size=batch, num_workers=PROCESSES, collate_fn=stack))


def read_by_hand(prefix: str, directory: str, batch: int) -> Iterable[np.ndarray]:
    import tensorflow as tf

    files = file_system()
    keys = sorted(files.find(f"{BUCKET}/{prefix}"))
    paths = [f"{directory}/{key.rpartition('/')[2]}" for key in keys]
    files.get(keys, paths)
    held: list[np.ndarray] = []
    for record in tf.data.TFRecordDataset(paths, num_parallel_reads=tf.data.AUTOTUNE).as_numpy_iterator():
        feature = tf.train.Example.FromString(record).features.feature
        shape = list(feature["array/shape"].int64_list.value)
        held.append(np.frombuffer(feature["array"].bytes_list.value[0], np.float32).reshape(shape))
        if len(held) == batch:
            yield np.stack(held)
            held = []
    if held:
        yield np.stack(held)


CONVERT: dict[str, Callable[[str, str, int], None]] = {
    "litdata": convert_litdata,
    "mds": convert_mds,
    "by-hand": convert_by_hand,
}
READ: dict[str, Callable[[str, str, int], Iterable[np.ndarray]]] = {
    "litdata": read_litdata,
    "mds": read_mds,
    "by-hand": read_by_hand,
}
IMPORTS = {"litdata": "litdata", "mds": "streaming", "by-hand": "tensorflow"}


def main() -> None:
    work, kind, prefix, directory, *numbers = sys.argv[1:]
    if work == "convert":
        CONVERT[kind](prefix, directory, int(numbers[0]))
        return
    __import__(IMPORTS[kind])  # as with ours, loading the library is no part of the epoch
    os.makedirs(directory)
    count, total, started = 0, 0.0, time.perf_counter()
    for each in READ[kind](prefix, directory, int(numbers[0])):
        count += len(each)
        total += float(each.reshape(len(each), -1)[:, 0].astype(np.float64).sum())
    print("\n" + json.dumps({"epochs": [time.perf_counter() - started], "count": count, "sum": total}), flush=True)


if __name__ == "__main__":
    main()

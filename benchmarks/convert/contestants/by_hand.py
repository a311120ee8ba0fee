"""What a good engineer writes by hand: joblib, np.load, tf.train.Example, TFRecordWriter; shuffled, a task a shard."""

from __future__ import annotations

import os
import random

import numpy as np
from contestant import arguments, key_of, paths_of
from joblib import Parallel, delayed

SHARD_BYTES = 128 * 10**6


def serialized(key: str, array: np.ndarray) -> bytes:
    """An array as an example's bytes."""
    import tensorflow as tf  # in the workers alone: the parent starts two seconds earlier

    bytes_list, int64_list, feature = tf.train.BytesList, tf.train.Int64List, tf.train.Feature
    example = tf.train.Example(
        features=tf.train.Features(
            feature={
                "key": feature(bytes_list=bytes_list(value=[key.encode()])),
                "array": feature(bytes_list=bytes_list(value=[array.tobytes()])),
                "array/shape": feature(int64_list=int64_list(value=array.shape)),
                "array/dtype": feature(bytes_list=bytes_list(value=[array.dtype.name.encode()])),
            }
        )
    )
    data: bytes = example.SerializeToString()
    return data


def write_shard(paths: list[str], source: str, out: str, compressed: bool) -> int:
    import tensorflow as tf

    options = tf.io.TFRecordOptions(compression_type="GZIP", compression_level=1) if compressed else None
    with tf.io.TFRecordWriter(out, options) as writer:
        for path in paths:
            writer.write(serialized(key_of(path, source), np.load(path)))
    return len(paths)


def main() -> None:
    given = arguments()
    paths = paths_of(given.source)[: given.limit]
    random.Random(0).shuffle(paths)
    size = sum(os.path.getsize(path) for path in paths[:100]) / min(100, len(paths)) * len(paths)
    shards = max(given.jobs, round(size / SHARD_BYTES))
    shards = min(len(paths), -(-shards // given.jobs) * given.jobs)  # no job ends early
    os.makedirs(given.out)
    names = [f"{given.out}/train-{k:05}-of-{shards:05}.tfrecord" for k in range(shards)]
    tasks = [delayed(write_shard)(paths[k::shards], given.source, names[k], given.gzip) for k in range(shards)]
    written = Parallel(n_jobs=given.jobs)(tasks)
    assert sum(written) == len(paths)


if __name__ == "__main__":
    main()

"""One tool: writes a data set of `.npy` files, or says what can be read of one. Runs in the environment of the tool.

python tool.py NAME write SOURCE OUT
python tool.py NAME read SOURCE OUT...
"""

from __future__ import annotations

import glob
import hashlib
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

SHARD_BYTES = 2 * 10**6
FLOATS = 50_000
Records = Iterator[tuple[str, np.ndarray]]


def arrays(source: str) -> Records:
    for path in sorted(glob.glob(f"{source}/*.npy")):
        yield Path(path).stem, np.load(path)


# --- npy2tfrecord -------------------------------------------------------------------------------


def write_npy2tfrecord(source: str, out: str) -> None:
    from npy2tfrecord.commands import main

    code = main.main(["convert", "--quiet", "--jobs=1", "--no-shuffle", f"--shard-size={SHARD_BYTES}", source, out])
    if code:
        sys.exit(code)


def read_npy2tfrecord(out: str) -> Records:
    import readers

    for example in readers.load_dataset(out).as_numpy_iterator():
        yield example["key"].decode(), example["array"]


# --- tensorflow-datasets ------------------------------------------------------------------------


def builder(source: str, out: str) -> Any:
    import tensorflow_datasets as tfds

    class Arrays(tfds.core.GeneratorBasedBuilder):  # type: ignore[misc]
        pkg_dir_path = Path(__file__).parent
        VERSION = tfds.core.Version("1.0.0")

        def _info(self) -> Any:
            tensor = tfds.features.Tensor(shape=(FLOATS,), dtype=np.float32, encoding=tfds.features.Encoding.BYTES)
            features = tfds.features.FeaturesDict({"key": tfds.features.Text(), "array": tensor})
            return self.dataset_info_from_configs(features=features, disable_shuffling=True)

        def _split_generators(self, dl_manager: Any) -> Any:
            return {"train": self._generate_examples()}

        def _generate_examples(self) -> Any:
            for number, (key, array) in enumerate(arrays(source)):
                yield number, {"key": key, "array": array}

    return Arrays(data_dir=out)


def write_tfds(source: str, out: str) -> None:
    import tensorflow_datasets as tfds

    builder(source, out).download_and_prepare(download_config=tfds.download.DownloadConfig(num_shards=8))


def read_tfds(out: str) -> Records:
    import tensorflow_datasets as tfds

    made = tfds.builder_from_directory(f"{out}/arrays/1.0.0")
    for example in made.as_dataset(split="train", shuffle_files=False).as_numpy_iterator():
        yield example["key"].decode(), example["array"]


# --- MDSWriter ----------------------------------------------------------------------------------


def write_mds(source: str, out: str) -> None:
    from streaming import MDSWriter

    columns = {"key": "str", "array": f"ndarray:float32:{FLOATS}"}
    with MDSWriter(out=out, columns=columns, size_limit=SHARD_BYTES) as writer:
        for key, array in arrays(source):
            writer.write({"key": key, "array": array})


def read_mds(out: str) -> Records:
    from streaming import LocalDataset

    dataset = LocalDataset(out)
    for i in range(len(dataset)):
        yield dataset[i]["key"], dataset[i]["array"]


# --- webdataset ---------------------------------------------------------------------------------


def write_webdataset(source: str, out: str) -> None:
    import webdataset

    os.makedirs(out, exist_ok=True)
    with webdataset.ShardWriter(f"{out}/train-%05d.tar", maxsize=SHARD_BYTES, verbose=0) as writer:
        for path in sorted(glob.glob(f"{source}/*.npy")):
            writer.write({"__key__": Path(path).stem, "npy": Path(path).read_bytes()})


def read_webdataset(out: str) -> Records:
    import webdataset

    shards = sorted(glob.glob(f"{out}/*.tar"))
    if not shards:
        raise FileNotFoundError(out)
    for example in webdataset.WebDataset(shards, shardshuffle=False, empty_check=False).decode():
        yield example["__key__"], example["npy"]


def judge(records: Records, expected: dict[str, str]) -> str:
    """What reading gives: an error, all, less in silence, or something wrong in silence."""
    found: dict[str, str] = {}
    wrong = False
    try:
        for key, array in records:
            digest = hashlib.sha256(np.ascontiguousarray(array)).hexdigest()
            wrong |= expected.get(key) != digest or key in found
            found[key] = digest
    except (Exception, SystemExit):
        return "error"
    return "wrong" if wrong else "all" if len(found) == len(expected) else "fewer"


def main() -> None:
    name, action, source, *outs = sys.argv[1:]
    if action == "write":
        globals()[f"write_{name}"](source, outs[0])
        return
    expected = {key: hashlib.sha256(array).hexdigest() for key, array in arrays(source)}
    told = [judge(globals()[f"read_{name}"](out), expected) for out in outs]
    sys.stdout.write(f"\n{json.dumps(told)}\n")


if __name__ == "__main__":
    main()

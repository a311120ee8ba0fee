"""The files beside a shard: what is written is read back, and nothing else is taken for it."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from npy2tfrecord import syscalls
from npy2tfrecord.errors import DamageError
from npy2tfrecord.formats.manifest import Hash, ShardInfo
from npy2tfrecord.formats.shard import (
    ContentHash,
    content_of,
    decode_index,
    decode_keys,
    encode_index,
    encode_keys,
    load_index,
    load_keys,
)

KEYS = st.lists(st.binary(max_size=12) | st.text(alphabet="a\\\nn", max_size=6).map(str.encode), max_size=12)


@given(KEYS)
def test_keys_come_back(keys: list[bytes]) -> None:
    data = encode_keys(keys)
    assert decode_keys(data) == keys
    assert data.count(b"\n") == len(keys)


@given(st.lists(st.sampled_from([b"a", b"\\", b"\\\\", b"\\n", b"\n"]), max_size=8).map(b"".join))
def test_what_no_keys_make_is_refused(data: bytes) -> None:
    try:
        keys = decode_keys(data)
    except DamageError:
        return
    assert encode_keys(keys) == data


@pytest.mark.parametrize("data", [b"a", b"a\nb", b"a\\\n", b"a\\x\n", b"\\\\\\\n"])
def test_malformed_keys_are_refused_with_their_line(data: bytes) -> None:
    with pytest.raises(DamageError, match=r"line \d"):
        decode_keys(data)


@given(st.lists(st.integers(16, 2**31 + 15), max_size=12))
def test_an_index_comes_back(sizes: list[int]) -> None:
    data = encode_index(np.array(sizes, dtype=np.int64))
    offsets, found = decode_index(data, len(sizes), sum(sizes))
    assert found.tolist() == sizes
    assert offsets.tolist() == [sum(sizes[:i]) for i in range(len(sizes))]
    assert found.dtype == offsets.dtype == np.int64


@pytest.mark.parametrize(
    "data",
    [
        b"0 20\n20 30",
        b"0 20\n20 30\n50 20\n",
        b"0 20\n",
        b"0 20\n21 29\n",
        b"20 30\n0 20\n",
        b"0 20\n20 29\n",
        b"0 50\n50 0\n",
        b"0 20\n20  30\n",
        b"0 20 20 30\n",
        b"0 20\n-20 30\n",
        b"0 20\n20 3x\n",
        b"0 20\n20 99999999999999999999999\n",
        b"0 20\n99999999999999999999999 30\n",
        b"0 20\n \n20 30",
        b"",
        b"\0" * 12,
    ],
)
def test_a_malformed_index_is_refused(data: bytes) -> None:
    assert decode_index(b"0 20\n20 30\n", 2, 50)
    with pytest.raises(DamageError):
        decode_index(data, 2, 50)


def test_the_end_of_a_compressed_shards_records_is_unknown() -> None:
    offsets, sizes = decode_index(b"0 20\n20 30\n", 2, None)
    assert (offsets.tolist(), sizes.tolist()) == ([0, 20], [20, 30])
    assert [len(each) for each in decode_index(b"", 0, 0)] == [0, 0]


@given(st.lists(st.binary(max_size=20), max_size=6))
def test_content_is_the_same_however_it_is_given(pieces: list[bytes]) -> None:
    seen = ContentHash()
    for piece in pieces:
        seen.update(memoryview(piece))
    whole = b"".join(pieces)
    content = seen.content
    assert (content.bytes, content.hash) == (len(whole), Hash(whole).hexdigest())
    assert content.tail == whole[-8:].hex()


def test_content_of_a_file_is_that_of_its_bytes(tmp_path: Path) -> None:
    data = os.urandom(3 * 2**20 + 5)
    path = tmp_path / "file"
    path.write_bytes(data)
    with syscalls.opened(str(path)) as handle:
        content = content_of(handle, from_disk=True)
    assert (content.bytes, content.hash, content.tail) == (len(data), Hash(data).hexdigest(), data[-8:].hex())


def test_files_beside_a_shard_are_read_no_further_than_they_can_be(tmp_path: Path) -> None:
    shard = ShardInfo(file="train-00000-of-00001.tfrecord", examples=1, bytes=40, hash="0" * 32, tail="00" * 8)
    (tmp_path / "index").mkdir()
    for suffix in ("idx", "keys"):
        with (tmp_path / f"index/train-00000-of-00001.{suffix}").open("wb") as file:
            file.truncate(2**40)  # all of it a hole
    with pytest.raises(DamageError, match=r"index/train-00000-of-00001\.idx: "):
        load_index(tmp_path, shard)
    with pytest.raises(DamageError, match=r"index/train-00000-of-00001\.keys: it is longer"):
        load_keys(tmp_path, shard)


def test_a_link_in_place_of_keys_is_not_followed(tmp_path: Path) -> None:
    shard = ShardInfo(file="train-00000-of-00001.tfrecord", examples=1, bytes=40, hash="0" * 32, tail="00" * 8)
    (tmp_path / "index").mkdir()
    (tmp_path / "elsewhere").write_bytes(b"key\n")
    (tmp_path / "index/train-00000-of-00001.keys").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic links"):
        load_keys(tmp_path, shard)

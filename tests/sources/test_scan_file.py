"""A scan as a file: the same again, and nothing believed of what a file claims."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from converted import save

from npy2tfrecord.conversion.surveyor import survey
from npy2tfrecord.errors import DamageError
from npy2tfrecord.formats.manifest import Hash
from npy2tfrecord.options import Options, parse_sources
from npy2tfrecord.planning.fingerprint import Fingerprint
from npy2tfrecord.planning.joiner import join
from npy2tfrecord.planning.planner import plan
from npy2tfrecord.sources.finder import find, passed_over
from npy2tfrecord.sources.scan_file import decode_scan, encode_scan
from npy2tfrecord.sources.scanner import Scan


def scan_of(root: Path, **given: object) -> tuple[Scan, Options]:
    options = Options(**given)  # type: ignore[arg-type]
    return survey(find(parse_sources(root), options), options), options


@pytest.fixture
def root(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    odd = {"a\nb": np.zeros((2, 3), ">f4"), "é/\udcff": np.asfortranarray(rng.normal(size=(4, 3)).astype("f4"))}
    save(tmp_path / "root", {f"{i % 3}/{i}": np.ones((i, 3), "f4") for i in range(20)} | odd)
    (tmp_path / "root" / ".hidden").touch()
    return tmp_path / "root"


def same_plan(one: Scan, other: Scan, options: Options) -> None:
    first, second = (plan(join(scan, options), options) for scan in (one, other))
    assert Fingerprint.of_files(one.found).with_plan(first) == Fingerprint.of_files(other.found).with_plan(second)
    assert first.shard_sizes() == second.shard_sizes()
    for ours, theirs in zip(first.shards(), second.shards(), strict=True):
        assert (ours.record_keys, ours.sources_hash) == (theirs.record_keys, theirs.sources_hash)
        for column, again in zip(ours.columns, theirs.columns, strict=True):
            assert (column.paths, column.headers, column.members) == (again.paths, again.headers, again.members)
    assert passed_over(one.found) == passed_over(other.found)
    assert [str(problem) for problem in one.problems] == [str(problem) for problem in other.problems]


def test_a_scan_is_the_same_again(root: Path) -> None:
    (root / "bad.npy").write_bytes(b"no array")
    scanned, options = scan_of(root, on_error="skip")
    data = encode_scan(scanned, "x")
    again = decode_scan(data, "x", options)
    assert again is not None
    same_plan(scanned, again, options)
    assert encode_scan(again, "x") == data
    assert decode_scan(data, "y", options) is None


def test_archives_groups_and_voids(tmp_path: Path) -> None:
    (tmp_path / "npz").mkdir()
    for i in range(3):
        np.savez_compressed(tmp_path / "npz" / f"{i}.npz", x=np.full(i, 1.0), y=np.arange(2))
    save(tmp_path / "groups", {"0.image": np.zeros((2, 2)), "0.mask": np.zeros(2, bool)})
    save(tmp_path / "void", {"v": np.zeros(3, "V2")})
    save(tmp_path / "ranks", {"1": np.zeros((2, 3)), "2": np.zeros((2, 3, 4))})
    ranks: dict[str, object] = {"rank": 3}
    for folder, given in (
        ("npz", {}),
        ("npz", {"members": True, "dtype": "float32"}),
        ("ranks", ranks),
        ("groups", {"group_by_suffix": True}),
        ("void", {"void_dtype": "float16"}),
    ):
        scanned, options = scan_of(tmp_path / folder, **given)
        again = decode_scan(encode_scan(scanned, ""), "", options)
        assert again is not None
        same_plan(scanned, again, options)


def test_a_file_that_is_cut_or_altered_is_an_error(root: Path) -> None:
    scanned, options = scan_of(root)
    data = encode_scan(scanned, "x")
    for length in (0, 7, 16, 40, len(data) // 2, len(data) - 1):
        with pytest.raises(DamageError):
            decode_scan(data[:length], "x", options)
    for place in range(0, len(data), 37):
        altered = bytearray(data)
        altered[place] ^= 1
        with pytest.raises(DamageError):
            decode_scan(bytes(altered), "x", options)


def test_what_a_file_claims_is_not_believed(root: Path) -> None:
    scanned, options = scan_of(root)
    data = encode_scan(scanned, "x")
    start = 16 + int.from_bytes(data[8:16], "little")
    description, columns = json.loads(data[16:start]), data[start:-16]

    def made(described: object, size: int | None = None) -> bytes:
        text = json.dumps(described).encode()
        whole = b"npyscan1" + (len(text) if size is None else size).to_bytes(8, "little") + text + columns
        return whole + bytes(Hash(whole).digest())

    assert decode_scan(made(description), "x", options) is not None
    lies: list[object] = [[], {}, {"identity": "x"}, description | {"columns": [["<i8", 2**60]]}]
    lies += [description | {"columns": [["<i8", length]]} for length in (-1, True, "3", 1e3)]
    lies += [description | {"columns": [["|O", 1]]}, description | {"files": []}, description | {"tables": [1]}]
    table = description["tables"][0]
    for name, value in (("files", 9), ("file_ids", 99), ("headers", table["stamps"]), ("members", []), ("suffix", 1)):
        lies.append(description | {"tables": [table | {name: value}]})
    lies.append(description | {"tables": [table | {"header_ids": table["stamps"]}]})
    for lie in lies:
        with pytest.raises(DamageError):
            decode_scan(made(lie), "x", options)
    for size in (0, 5, len(data), 2**63):
        with pytest.raises(DamageError):
            decode_scan(made(description, size), "x", options)

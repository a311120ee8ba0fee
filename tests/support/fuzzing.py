"""What a stranger may send: shards, manifests and archives that lie, by the thousand, read in little memory.

    python tests/support/fuzzing.py shards|manifests|npy|npz COUNT SEED [SECONDS]

Ends after COUNT cases or SECONDS, and prints how many cases were run, taken and refused. Whatever happens but the
package's own error ends it at once, as does a file that is opened outside the directories of the case.
`tests/formats/test_hostile.py` and `scripts/stress` run it.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import resource
import shutil
import sys
import tempfile
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from arrays import DTYPES, FORMS, npy_bytes, npy_start, values_of
from npy_mutations import WORDS, check_against_numpy, mutated

import readers
from npy2tfrecord import convert, export, verify
from npy2tfrecord.commands import text
from npy2tfrecord.errors import DamageError, Error, InputError
from npy2tfrecord.formats import manifest, manifest_parsing, npz
from npy2tfrecord.formats.example import parse_example
from npy2tfrecord.formats.manifest import Hash, Manifest
from npy2tfrecord.formats.neighbours import neighbour_files
from npy2tfrecord.formats.npy import header_size
from npy2tfrecord.formats.shard import encode_keys, key_of
from npy2tfrecord.formats.tfrecord import foot, head, mask
from npy2tfrecord.storage.open_files import open_source

MEMORY_BYTES = 512 * 2**20  # on top of what is taken before the first case
STRANGE_NAMES = (b"..", b"../../x", b"/etc/x", b"a\0b", b"", b".", b"a//b", b"x" * 300, b"\xff\x1b[31m", b"#1", b"a#9")
HUGE = (2**31 - 1, 2**31, 2**32, 2**40, 2**62, 2**63 - 1, 2**63, 2**64 - 1)


OF_PYTHON = tuple(os.fsencode(path) for path in (sys.base_prefix, sys.prefix, "/proc/self/", "/sys/devices/system/cpu"))


RUN = {"cases": 0, "seconds": float("inf")}  # done, and the time there is


# --- watching -----------------------------------------------------------------------------------


class Watch:
    """Notes what the process opens, makes, removes and starts outside `allowed`."""

    PATHS = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.symlink", "os.link", "os.truncate")
    NEVER = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "pickle.find_class", "socket.connect")

    def __init__(self, allowed: Path) -> None:
        self._allowed = os.fsencode(allowed)
        self.strange: list[str] = []
        self.is_on = False
        sys.addaudithook(self._hook)

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.is_on:
            return
        if event in self.NEVER:
            self.strange.append(f"{event} {arguments!r}")
        elif event in self.PATHS and isinstance(arguments[0], (str, bytes)):
            path = os.fsencode(arguments[0])
            # Names relative to an open directory are looked at for where they could lead.
            whole = os.path.normpath(path)
            inside = whole.startswith(self._allowed) if path[:1] == b"/" else b".." not in path.split(b"/")
            if not inside and not whole.startswith(OF_PYTHON):
                self.strange.append(f"{event} {path!r}")

    @contextlib.contextmanager
    def on(self) -> Iterator[None]:
        self.is_on = True
        try:
            yield
        finally:
            self.is_on = False
        assert not self.strange, f"outside: {self.strange[:3]}"


def limit_memory() -> None:
    """From here on this process may take so much more and no more."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + MEMORY_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def peak() -> int:
    """The most memory this process had, in MiB; unlike what getrusage tells, not what its parent had."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) // 1024 for line in lines if line.startswith("VmHWM"))


def cases(count: int) -> Iterator[int]:
    """The numbers of the cases there is time for."""
    end = time.monotonic() + RUN["seconds"]
    for number in range(count):
        if time.monotonic() > end:
            break
        RUN["cases"] = number + 1
        yield number


def refused(function: Callable[[], Any]) -> str:
    """The name of the package's own error, nothing when there is none. Others pass through."""
    try:
        function()
    except Error as error:
        name, text = type(error).__name__, str(error)
    else:
        return ""
    assert 0 < len(text) < 20_000
    return name


# --- shards -------------------------------------------------------------------------------------


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def field(number: int, data: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(data)) + data


def entry(name: bytes, kind: int, value: bytes) -> bytes:
    return field(1, field(1, name) + field(2, field(kind, value)))


def example(rng: random.Random, *, tame: bool) -> bytes:
    """An example of an array, its shape, dtype, key and label, any of which may be a lie unless it is `tame`."""
    chance = 0 if tame else rng.choice((0.02, 0.05, 0.15))

    def lie(truth: Any, *lies: Any) -> Any:
        return rng.choice(lies) if rng.random() < chance else truth

    sizes = (2, 3)
    shape = lie(
        sizes, (), (6,), (0, 2**62), (2**62, 4), (0, 2**63 - 1), (2**64 - 1, 3), (1,) * 40, (2**32,) * 2, (3, 2)
    )
    packed = b"".join(map(varint, shape))
    values = lie(bytes(24), b"", bytes(23), bytes(25), bytes(5000))
    key = lie(b"a/%d" % rng.randrange(10**6), *STRANGE_NAMES)
    dtype = lie(b"float32", b"object", b"O", b"float64", b"", b"V4", b"\xff", b"x" * 5000)
    entries = [
        entry(b"key", lie(1, 2, 3), lie(field(1, key), b"", field(1, key) * 2, field(2, key), varint(1) * 9)),
        entry(b"array/dtype", lie(1, 3), field(1, dtype)),
        entry(b"array/shape", lie(3, 1, 2), lie(field(1, packed), b"", packed, b"\x08" + packed, field(1, packed) * 3)),
        entry(b"array", lie(1, 2, 3), lie(field(1, values), values, field(1, values) * 2)),
        entry(
            b"label", lie(3, 1), lie(field(1, varint(rng.randrange(2))), field(1, varint(rng.choice(HUGE))), b"\x08")
        ),
    ]
    for _ in range(lie(0, 1)):
        entries.pop(rng.randrange(len(entries)))
    for _ in range(lie(0, 1, 1)):
        entries.insert(0, entry(rng.choice([b"array", b"x" * 300, b"\xff", b""]), rng.randrange(5), rng.randbytes(9)))
    data = bytearray(field(lie(1, 2, 500), b"".join(entries)))
    for _ in range(0 if tame else rng.choice((0, 0, 1, 2))):
        at = rng.randrange(len(data))
        if rng.random() < 0.5:
            data[at] = rng.randrange(256)
        else:
            data[at : at + 1] = varint(rng.choice(HUGE))
    return bytes(data)


def key_in(data: bytes) -> bytes:
    """The key of an example that may have none."""
    try:
        return key_of(parse_example(memoryview(data)))
    except DamageError:
        return b""


def framed(data: bytes, rng: random.Random) -> bytes:
    from crc32c import crc32c

    if rng.random() < 0.95:
        return head(len(data)) + data + foot(crc32c(data))
    length = rng.choice(HUGE).to_bytes(8, "little")  # a lie with a checksum that is right
    return length + mask(crc32c(length)).to_bytes(4, "little") + data[: rng.randrange(len(data))]


def make_shard(out: Path, made: Manifest, rng: random.Random) -> None:
    """Put a shard that lies into `out`, with an index and a manifest that agree with it as far as may be."""
    tame = rng.random() < 0.1
    examples = [example(rng, tame=tame) for _ in range(rng.randrange(1, 4))]
    records = [framed(data, rng) for data in examples]
    data, (shard,), (info,) = b"".join(records), made.shards, made.features
    (out / shard.file).write_bytes(data)
    offsets = [sum(map(len, records[:i])) for i in range(len(records))]
    lines = "".join(f"{offset} {len(record)}\n" for offset, record in zip(offsets, records, strict=True))
    (out / manifest.index_name(shard.file)).write_text(lines)
    keys = encode_keys([key_in(data) for data in examples])
    if rng.random() < 0.2:
        keys = rng.choice(
            [keys[:-1], keys + b"\n", keys.replace(b"\n", b"\\"), b"\\x\n" + keys, b"other\n" * len(records)]
        )
    (out / manifest.keys_name(shard.file)).write_bytes(keys)
    tail = data[-8:].hex() if rng.random() < 0.9 else "00" * min(8, len(data))
    if rng.random() < 0.5:
        info = replace(info, min_shape=(0,) * 2, max_shape=(2**63 - 1,) * 2, shape=(None,) * 2, histograms=(None,) * 2)
    shard = replace(shard, bytes=len(data), examples=len(records), hash=Hash(data).hexdigest(), tail=tail)
    options = made.options | {"rows": rng.random() < 0.3}
    lying = replace(made, features=(info,), splits={"train": (shard,)}, options=options)
    for name, content in (neighbour_files(lying) | {manifest.FILE_NAME: lying.encode()}).items():
        (out / name).write_bytes(content)


def small_set(root: Path) -> tuple[Path, Manifest]:
    for i in range(2):
        (root / "source" / f"{i}").mkdir(parents=True)
        np.save(root / "source" / f"{i}" / "x.npy", np.zeros((2, 3), "f4"))
    return root / "out", convert(root / "source", root / "out", labels="dirs", jobs=1, fsync=False)


def fuzz_shards(count: int, seed: int, root: Path, watch: Watch) -> Counter[str]:
    rng, told = random.Random(seed), Counter[str]()
    out, made = small_set(root)
    use(out, root)
    for _ in cases(count):
        make_shard(out, made, rng)
        with watch.on():
            told.update(use(out, root))
    return told


def use(out: Path, root: Path) -> list[str]:
    """Everything that is done with a data set; what each said."""
    back = root / "back"
    shutil.rmtree(back, ignore_errors=True)

    def read() -> None:
        source = readers.ArraySource(out)
        try:
            for one in source:
                assert sum(value.nbytes for value in one.values() if isinstance(value, np.ndarray)) < 10_000
            len(source) and source[len(source) - 1]
        finally:
            source.close()

    said = [
        ("verify", lambda: verify(out, jobs=1)),
        ("read", read),
        ("export", lambda: export(out, back)),
    ]
    return [f"{name} {refused(function) or 'taken'}" for name, function in said]


# --- manifests ----------------------------------------------------------------------------------


def nested(depth: int) -> Any:
    value: Any = []
    for _ in range(depth):
        value = [value]
    return value


STRANGE: tuple[Callable[[], Any], ...] = (
    *(lambda v=v: v for v in (None, True, False, -1, 0, 1, 2**31, 2**62, 2**63, 2**70, 10**400, 1.5, -0.0)),
    *(
        lambda v=v: v
        for v in (float("nan"), float("inf"), "", "x", "../../etc/passwd", "/etc/passwd", "a\0b", "\ud800")
    ),
    *(lambda v=v: v for v in ("train-00000-of-00001.tfrecord", "float32", "object", "none", "gzip", "é" * 5000)),
    *(lambda v=v: json.loads(v) for v in ("[]", "{}", "[[]]", "[null]", '{"": {}}', "[4611686018427387904, 3]")),
    *(lambda v=v: [v] * 40 for v in (0, "x", 2**62)),
    *(lambda d=d: nested(d) for d in (50, 300)),
)


def places(document: Any) -> list[tuple[Any, ...]]:
    """The path of every value in a document but itself."""
    found: list[tuple[Any, ...]] = [()]
    for path in found:  # which grows meanwhile
        value = document
        for name in path:
            value = value[name]
        if len(path) < 20:
            children = value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
            found += [(*path, name) for name in children]
    return found[1:]


def altered(document: Any, rng: random.Random) -> bytes:
    """A manifest's file with something else in some of its places."""
    document = json.loads(json.dumps(document))
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        *above, last = rng.choice(places(document))
        holder = document
        for name in above:
            holder = holder[name]
        kind = rng.random()
        if kind < 0.7:
            holder[last] = rng.choice(STRANGE)()
        elif kind < 0.85:
            del holder[last]
        elif isinstance(holder, dict):
            holder[rng.choice(["", "..", "a/b", "x", "key", "train-", "\0"])] = holder.pop(last)
        else:
            holder.append(rng.choice(STRANGE)())
    try:
        document.pop("hash", None)
        text = json.dumps(document, indent=1)
        document["hash"] = Hash(text.encode() + b"\n").hexdigest()
        data = json.dumps(document, indent=1).encode() + b"\n"
    except RecursionError:
        data = b"[" * 100_000
    if rng.random() < 0.2:
        at = rng.randrange(len(data))
        data = data[:at] + rng.choice([b"", b"\0", b"{", b"[" * 3000, b"\xff", b'"', data]) + data[at + 1 :]
    return data


def fuzz_manifests(count: int, seed: int, root: Path, watch: Watch) -> Counter[str]:
    rng, told = random.Random(seed), Counter[str]()
    out, made = small_set(root)
    labelled = made.to_json()
    convert(root / "source", root / "other", jobs=1, fsync=False, stats=True, split="train=0.5,val=0.5", seed=1)
    documents = [labelled, json.loads((root / "other" / manifest.FILE_NAME).read_bytes())]
    whole = {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()}
    use(out, root)
    refused(lambda: verify(out, source=root / "source", jobs=1))
    text.manifest_text(made, "x")
    for _ in cases(count):
        (out / manifest.FILE_NAME).write_bytes(altered(rng.choice(documents), rng))

        def inform() -> None:
            text.manifest_text(manifest_parsing.load(out), "x")

        with watch.on():
            shown = refused(inform)
            told[f"load {shown or 'taken'}"] += 1
            if not shown:
                told.update(use(out, root))
                told[f"compare {refused(lambda: verify(out, source=root / 'source', jobs=1)) or 'taken'}"] += 1
            refused(lambda: convert(root / "source", out, labels="dirs", jobs=1, fsync=False, dry_run=True))
    for name, data in whole.items():
        (out / name).write_bytes(data)
    verify(out)
    return told


# --- sources ------------------------------------------------------------------------------------


def fuzz_npy(count: int, seed: int, root: Path, watch: Watch) -> Counter[str]:
    rng, told = random.Random(seed), Counter[str]()
    shapes = [(), (3,), (2, 3), (0,), (2, 0, 3), (1,) * 32, (1, 2, 3)]
    seeds = [npy_bytes(values_of(d, s, 1), rng.choice(FORMS)) for d in DTYPES for s in shapes]
    for number in cases(count):
        if number % 3:
            data = rng.choice(seeds)
            data = mutated(rng, data, header_size(data))
        else:
            data = npy_start(b"".join(rng.choice(WORDS) for _ in range(rng.randrange(30))), rng.choice((1, 2, 3)))
        told["taken" if check_against_numpy(data) else "refused"] += 1
    return told


def fuzz_npz(count: int, seed: int, root: Path, watch: Watch) -> Counter[str]:
    rng, told = random.Random(seed), Counter[str]()
    seeds = []
    for save in (np.savez, np.savez_compressed):
        for arrays in ({"x": np.arange(6, dtype="f4")}, {"x": np.zeros((0, 2)), "y": np.arange(40).reshape(8, 5).T}):
            buffer = io.BytesIO()
            save(buffer, **arrays)
            seeds.append(buffer.getvalue())
    path = root / "x.npz"
    for _ in cases(count):
        data = bytearray(rng.choice(seeds))
        for _ in range(rng.choice((1, 1, 2, 4))):
            structures = [i for sign in (b"PK\x01\x02", b"PK\x03\x04", b"PK\x05\x06") for i in found_all(data, sign)]
            at = rng.choice(structures) + rng.randrange(50) if structures and rng.random() < 0.7 else 10**9
            at = at if at < len(data) else rng.randrange(len(data))
            kind = rng.randrange(4)
            if kind == 0:
                data[at] = rng.randrange(256)
            elif kind == 1:
                data[at : at + 4] = rng.choice((0, 1, 2**31, 2**32 - 1)).to_bytes(4, "little")
            elif kind == 2:
                del data[at : at + rng.randrange(1, 9)]
            else:
                data[at:at] = rng.randbytes(rng.randrange(1, 9))
            if not data:
                break
        path.write_bytes(data)
        with watch.on():
            told["taken" if take_npz(path, bytes(data)) else "refused"] += 1
    return told


def found_all(data: bytes | bytearray, what: bytes) -> list[int]:
    found, at = [], data.find(what)
    while at >= 0:
        found.append(at)
        at = data.find(what, at + 1)
    return found


def take_npz(path: Path, data: bytes) -> bool:
    """Whether all members of the archive can be read; if so, NumPy finds the same in them."""
    ours: dict[str, np.ndarray] = {}
    try:
        archive = open_source(os.fsencode(path))
        for name, member, header in npz.list_members(archive, os.fsencode(path), None):
            buffer = bytearray(min(member.size, 10**6))
            count = npz.MemberStream(archive, member, name).read_into(memoryview(buffer), 0)
            if count != member.size:
                return False
            array = np.frombuffer(buffer, header.dtype, offset=header.data_offset)
            ours[name] = array.reshape(header.shape, order="F" if header.fortran_order else "C")
    except InputError:
        return False
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            # What is named like a directory is none of the arrays, whatever is in it; NumPy fails when it is asked for.
            theirs = {name: archive[name] for name in archive.files if not name.endswith("/")}
    except (zipfile.BadZipFile, ValueError, OSError, EOFError, NotImplementedError) as error:
        raise AssertionError(f"taken, but not by NumPy ({error}): {data!r}") from error
    assert ours.keys() == theirs.keys(), data
    for name, array in ours.items():
        assert (array.dtype, array.shape, array.tobytes()) == (
            theirs[name].dtype, theirs[name].shape, theirs[name].tobytes()), data  # fmt: skip
    return True


KINDS = {"shards": fuzz_shards, "manifests": fuzz_manifests, "npy": fuzz_npy, "npz": fuzz_npz}


def main() -> None:
    kind, count, seed, *seconds = sys.argv[1], *map(int, sys.argv[2:4]), *map(float, sys.argv[4:])
    RUN["seconds"] = seconds[0] if seconds else float("inf")
    with tempfile.TemporaryDirectory() as directory:
        watch = Watch(Path(directory).resolve())
        limit_memory()
        told = KINDS[kind](count, seed, Path(directory).resolve(), watch)
    found = {"kind": kind, "cases": RUN["cases"], "seed": seed, "peak MiB": peak(), "told": dict(sorted(told.items()))}
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()

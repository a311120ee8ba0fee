"""Fuzzing that is guided by what code is reached.

    python scripts/stressing/guided.py npy|npz DIRECTORY [OPTION OF LIBFUZZER...]

Needs atheris (pip install atheris). Each input is read by this package, and what it takes also by NumPy, which must
find the same. Inputs that reach something new are kept in DIRECTORY, where a few that are whole are put first.
"""

from __future__ import annotations

import io
import sys
import tempfile
from pathlib import Path

import atheris  # type: ignore[import-not-found,import-untyped,unused-ignore]
import numpy as np

with atheris.instrument_imports(include=["npy2tfrecord"]):
    from npy2tfrecord.formats import npy, npz  # noqa: F401

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests" / "support"))

from arrays import DTYPES, FORMS, npy_bytes, values_of  # type: ignore[import-not-found]
from fuzzing import take_npz  # type: ignore[import-not-found]
from npy_mutations import WORDS, check_against_numpy, refitted  # type: ignore[import-not-found]


def put_seeds(kind: str, directory: Path) -> None:
    if kind == "npy":
        seeds = [npy_bytes(values_of(d, s, 1), form) for d in DTYPES for s in ((), (3,), (2, 0)) for form in FORMS]
    else:
        seeds = []
        for save in (np.savez, np.savez_compressed):
            buffer = io.BytesIO()
            save(buffer, x=np.arange(6, dtype="f4"), y=np.zeros((0, 2)))
            seeds.append(buffer.getvalue())
    directory.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(seeds):
        (directory / f"seed-{number}").write_bytes(seed)


def main() -> None:
    kind, directory, *options = sys.argv[1:]
    put_seeds(kind, Path(directory))
    words = tempfile.NamedTemporaryFile("w", suffix=".dict")  # noqa: SIM115  to be there until the end
    words.writelines('"' + "".join(f"\\x{byte:02x}" for byte in word) + '"\n' for word in WORDS)
    words.flush()
    archive = Path(directory, "..", f"{kind}.case").resolve()

    def check(data: bytes) -> None:
        if kind == "npy":
            check_against_numpy(data)
        else:
            archive.write_bytes(data)
            take_npz(archive, data)

    def mutate(data: bytes, limit: int, seed: int) -> bytes:
        """As libFuzzer does; of two, one header gets the length that its text has, and the data that it claims."""
        changed: bytes = atheris.Mutate(data, limit)
        fits = seed % 2 and changed.startswith(b"\x93NUMPY") and len(changed) > 12
        return refitted(changed)[:limit] if fits else changed

    settings = [f"-dict={words.name}", f"-artifact_prefix={directory}/", "-max_len=4096", "-len_control=0"]
    arguments = [sys.argv[0], *settings, *options, directory]
    atheris.Setup(arguments, check, custom_mutator=mutate if kind == "npy" else None)
    atheris.Fuzz()


if __name__ == "__main__":
    main()

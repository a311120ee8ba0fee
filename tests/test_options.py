"""Options as a caller of Python gives them: NumPy's numbers count as numbers, and any other type is refused by name."""

from __future__ import annotations

import dataclasses
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import npy2tfrecord
from npy2tfrecord import options
from npy2tfrecord.errors import UsageError
from npy2tfrecord.options import Options, Source, parse_size, parse_sources

FLAGS = ("follow_symlinks", "rows", "group_by_suffix", "shuffle", "stats", "read_back", "fsync")
NUMBERS = ("seed", "num_shards", "jobs")
WORDS = ("on_error", "missing", "compression", "backend")
PATHS = ("files_from", "labels")
REGEXES = ("label_by", "key_by", "split_by")


def test_the_type_of_every_option_is_checked() -> None:
    fields = {field.name for field in dataclasses.fields(Options) if field.init}
    assert fields == options._PARSERS.keys() | {"dtype", "rank", "key_by", "split"}


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("kind", [int, np.int8, np.uint8, np.int32, np.int64, np.uint64])
def test_numbers_may_be_numpys(name: str, kind: Any) -> None:
    value = getattr(Options(**{name: kind(4)}), name)
    assert value == 4
    assert type(value) is int


@pytest.mark.parametrize("name", [*NUMBERS, "shard_size"])
@pytest.mark.parametrize("value", [True, np.True_, 4.0, np.float64(4), Fraction(4), [4], b"4", object()])
def test_what_is_no_integer_is_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(UsageError, match=f"^{name} .*: expected "):
        Options(**{name: value})


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("value", ["4", ""])
def test_a_number_in_words_is_refused_by_name(name: str, value: str) -> None:
    with pytest.raises(UsageError, match=f"^{name} '{value}': expected an integer"):
        Options(**{name: value})


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("seed", -1, r"0 to 2\*\*64 - 1"),
        ("seed", 2**64, r"0 to 2\*\*64 - 1"),
        ("num_shards", 0, "1 to"),
        ("num_shards", np.int64(-3), "1 to"),
        ("num_shards", 10**9, "1 to"),
        ("jobs", 0, "1 or more, or -1"),
        ("jobs", 10**9, "-1048576 to 1048576"),
        ("shard_size", 0, "a number with kB"),
        ("shard_size", -5, "a number with kB"),
    ],
)
def test_numbers_out_of_range_are_refused_by_name(name: str, value: int, expected: str) -> None:
    with pytest.raises(UsageError, match=f"^{name} {value}: expected {expected}"):
        Options(**{name: value})


@pytest.mark.parametrize("name", FLAGS)
@pytest.mark.parametrize("value", ["no", "", "False", 0, 1, None, [], np.int64(1)])
def test_a_flag_is_true_or_false(name: str, value: Any) -> None:
    with pytest.raises(UsageError, match=f"^{name} .*: expected True or False"):
        Options(**{name: value})


@pytest.mark.parametrize("name", FLAGS)
@pytest.mark.parametrize("value", [True, False, np.True_, np.False_])
def test_a_flag_may_be_numpys(name: str, value: Any) -> None:
    assert getattr(Options(**{name: value}), name) is bool(value)


@pytest.mark.parametrize(
    "name", [*WORDS, *PATHS, "scheduler", "label_by", "key_by", "split_by", "include", "exclude", "void_dtype"]
)
@pytest.mark.parametrize("value", [5, 1.5, True, object(), [5]])
def test_what_is_no_text_is_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(UsageError, match=f"^{name} .*: expected "):
        Options(**{name: value})


@pytest.mark.parametrize("name", ["on_error", "missing", "compression", "backend"])
def test_none_is_no_word(name: str) -> None:
    with pytest.raises(UsageError, match=f"^{name} None: expected "):
        Options(**{name: None})


@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize("kind", [str, Path, str.encode])
def test_paths_of_any_kind(name: str, kind: Any) -> None:
    assert getattr(Options(**{name: kind("a/b.csv")}), name) == "a/b.csv"


@pytest.mark.parametrize("name", ["include", "exclude"])
def test_patterns_are_one_or_several(name: str) -> None:
    assert getattr(Options(**{name: "*.npy"}), name) == ("*.npy",)
    assert getattr(Options(**{name: ["a", "b"]}), name) == ("a", "b")


@pytest.mark.parametrize("dtype", ["float16", np.float16, np.dtype("float16"), ["float16"], ("float16",)])
def test_dtypes_of_any_kind(dtype: Any) -> None:
    assert Options(dtype=dtype).casts == {None: "float16"}
    assert Options(dtype={"x": dtype}).casts == {"x": "float16"} if not isinstance(dtype, (list, tuple)) else True


@pytest.mark.parametrize("dtype", [5, [5], {"x": 5}, {5: "float16"}, True, [None], object, "nonsense", {"x": ["f4"]}])
def test_what_is_no_dtype_is_refused(dtype: Any) -> None:
    with pytest.raises(UsageError, match="dtype"):
        Options(dtype=dtype)


@pytest.mark.parametrize("split", [5, True, ["train"], {5: 1.0}, {"train": "x"}, {"train": None}, {"train": True}])
def test_what_is_no_split_is_refused(split: Any) -> None:
    with pytest.raises(UsageError, match="split"):
        Options(split=split)


@pytest.mark.parametrize("share", [0.25, np.float32(0.25), np.float64(0.25), Fraction(1, 4)])
def test_fractions_of_any_kind(share: Any) -> None:
    assert dict(Options(split={"train": 0.75, "val": share}).fractions) == {
        "train": Fraction(3, 4),
        "val": Fraction(1, 4),
    }


@pytest.mark.parametrize("sources", [5, None, True, [5], {"x": 5}, {5: "a"}, {"x": [None]}, [["a"]]])
def test_what_is_no_source_is_refused(sources: Any) -> None:
    with pytest.raises(UsageError, match=r"source|feature name"):
        parse_sources(sources)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("128MB", 128 * 10**6),
        (" 1.5 GiB ", 3 * 2**29),
        ("1kb", 1000),
        ("7", 7),
        (7, 7),
        (np.int64(7), 7),
        ("0.0015kB", 1),
    ],
)
def test_sizes(text: Any, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text", ["", "MB", "1XB", "-1MB", "1e3", "0", "0.4B", "9999999999GiB", "1 2MB", 1.5, None, True]
)
def test_what_is_no_size_is_refused(text: Any) -> None:
    with pytest.raises(UsageError, match=r"^buffer .*: expected a number with kB"):
        parse_size(text, "buffer")


@pytest.mark.parametrize("text", ["7", 7, np.int64(7)])
def test_a_size_may_need_its_unit(text: Any) -> None:
    with pytest.raises(UsageError, match=r"^shuffle"):
        parse_size(text, "shuffle", needs_unit=True)
    assert parse_size("7B", "shuffle", needs_unit=True) == 7


def test_functions_refuse_them_too(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros(3))
    with pytest.raises(UsageError, match="rows 'no': expected True or False"):
        npy2tfrecord.convert(tmp_path, tmp_path / "out", rows="no")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="num_shards '4': expected an integer"):
        npy2tfrecord.convert(tmp_path, tmp_path / "out", num_shards="4")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="rows 'no': expected True or False"):
        npy2tfrecord.scan(tmp_path, rows="no")  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()
    numbers: Any = {"jobs": np.int64(1), "num_shards": np.uint8(1), "seed": np.int32(2)}
    manifest = npy2tfrecord.convert(tmp_path, tmp_path / "out", **numbers)
    assert manifest.examples == 1
    assert manifest.options["seed"] == 2


@pytest.mark.parametrize("kind", [list, tuple, iter])
def test_sources_may_be_any_iterable(kind: Any) -> None:
    assert parse_sources(kind(["a", Path("b")])) == (Source(None, b"a"), Source(None, b"b"))
    assert parse_sources({"x": kind([b"a"])}) == (Source("x", b"a"),)

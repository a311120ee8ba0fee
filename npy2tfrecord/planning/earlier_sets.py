"""Earlier data sets: which examples they hold already, and what has become of their sources since."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from npy2tfrecord.errors import DamageError, InputError
from npy2tfrecord.formats import manifest_parsing
from npy2tfrecord.formats.dtypes import stored_name
from npy2tfrecord.formats.manifest import Manifest
from npy2tfrecord.formats.npy import dtype_from_name
from npy2tfrecord.formats.shard import load_index, load_keys
from npy2tfrecord.planning.examples import Examples, Known
from npy2tfrecord.sources.cast import Cast
from npy2tfrecord.sources.finder import FoundByFeature
from npy2tfrecord.sources.table import FileSet

_KEYS_AT_ONCE = 1 << 16
_SIZE_BITS = 32  # a record is smaller than 4 GiB
_OLD, _NEW = 1, 2  # states of a file: the earlier sets hold all its examples, or lack one
_LABEL_BYTES = 10  # by which a record may differ when classes were numbered anew


class EarlierSets:
    """The keys of data sets, each with the size of its record."""

    def __init__(self, paths: Sequence[str]) -> None:
        """Read the keys and the indexes. Raises `UsageError` without a data set, `InputError` for a damaged one."""
        self._manifests: list[Manifest] = []
        self._places: dict[bytes, int] = {}  # the number of the set, and the size of the record
        self._files: list[tuple[FileSet, np.ndarray]] = []
        for number, path in enumerate(paths):
            try:
                manifest = manifest_parsing.load(path)
            except DamageError as error:
                raise InputError(path, str(error), "a whole data set") from None
            self._manifests.append(manifest)
            for shard in manifest.shards:
                try:
                    keys = load_keys(path, shard, manifest.compression)
                    _, sizes = load_index(path, shard, manifest.compression)
                except DamageError as error:
                    raise InputError(path, str(error), "a whole data set") from None
                except OSError as error:
                    raise InputError(path, f"{shard.file}: {error.strerror}", "a whole data set") from None
                self._places.update(zip(keys, (sizes + (number << _SIZE_BITS)).tolist(), strict=True))

    def leave_out(self, examples: Examples, casts: tuple[Cast, ...], record_sizes: np.ndarray) -> np.ndarray:
        """Take the examples whose keys are known from `examples`, and count them there; the numbers of those that stay.

        A size can be compared only where the features and the kind of label are the same. Integer labels may have been
        numbered anew, which changes a record by a few bytes: such a difference does not count.
        """
        find, chunks = self._places.get, []
        for first in range(0, len(examples), _KEYS_AT_ONCE):
            keys = examples.keys(first, first + _KEYS_AT_ONCE)
            chunks.append(np.fromiter((find(key, -1) for key in keys), np.int64, len(keys)))
        places = np.concatenate([np.zeros(0, dtype=np.int64), *chunks])
        known, new = np.flatnonzero(places >= 0), np.flatnonzero(places < 0)
        sets, sizes = places[known] >> _SIZE_BITS, places[known] & (2**_SIZE_BITS - 1)
        kind = _kind(examples, casts)
        comparable = np.array([_kind_of_set(manifest) == kind for manifest in self._manifests], dtype=bool)
        slack = _LABEL_BYTES if kind[1] == "int64" else 0
        changed = comparable[sets] & (abs(sizes - record_sizes[known]) > slack)
        examples.known = Known(
            examples=len(known), gone=len(self._places) - len(known), changed=int(np.count_nonzero(changed))
        )
        self._note_files(examples, known, new)
        examples.take(new)
        return new

    def _note_files(self, examples: Examples, known: np.ndarray, new: np.ndarray) -> None:
        """Remember the files of which no example is new."""
        for table, sources in zip(examples.tables, examples.sources, strict=True):
            states = np.zeros(len(table.files), dtype=np.int8)
            states[table.file_ids[sources[known]]] = _OLD
            states[table.file_ids[sources[new]]] = _NEW
            self._files.append((table.files, states))

    def without_known(self, found: FoundByFeature) -> FoundByFeature:
        """The files that were found, without those of which no example is new."""
        return {
            name: replace(each, npy=self._new_files(each.npy), npz=self._new_files(each.npz))
            for name, each in found.items()
        }

    def _new_files(self, files: FileSet) -> FileSet:
        states = [each for of, each in self._files if of is files]  # a file may hold several features
        if not states:
            return files
        new = (np.maximum.reduce(states) != _OLD).tolist()
        kept, start = FileSet(has_other_case=files.has_other_case), 0
        for directory, key, length in zip(files.dirs, files.dir_keys, files.dir_lengths, strict=True):
            names = files.names[start : start + length]
            kept.add(directory, key, [name for name, is_new in zip(names, new[start:], strict=False) if is_new])
            start += length
        return kept


Kind = tuple[dict[str, str], str | None]
"""The dtype of each feature, and that of the label if there is one."""


def _kind(examples: Examples, casts: tuple[Cast, ...]) -> Kind:
    dtypes = {
        table.feature: stored_name(dtype_from_name(cast.to_name))
        for table, cast in zip(examples.tables, casts, strict=True)
    }
    return dtypes, None if examples.labels is None else examples.label_dtype


def _kind_of_set(manifest: Manifest) -> Kind:
    dtypes = {info.name: info.dtype for info in manifest.features}
    return dtypes, None if manifest.labels is None else manifest.label_dtype

"""Looking at a data set in a notebook."""

from __future__ import annotations

from dataclasses import dataclass

from npy2tfrecord.checking import gallery, viewer
from npy2tfrecord.errors import UsageError
from readers.manifests import Paths, load_sets, united


@dataclass(frozen=True)
class Preview:
    """Some examples of a data set. A notebook shows their pictures, `str` their keys, shapes and dtypes."""

    examples: tuple[viewer.View, ...]
    html: str

    def _repr_html_(self) -> str:
        return self.html

    def __str__(self) -> str:
        return "\n".join(map(str, self.examples))

    def __repr__(self) -> str:
        return f"Preview({len(self.examples)} examples)"


def preview(path: Paths, n: int = 9, *, split: str | None = None) -> Preview:
    """Pictures of `n` examples of the data set, spread evenly over it or over one of its splits.

    Each array is drawn by what it seems to be: an image, a spectrogram, a volume in slices, a series, points. Needs
    matplotlib, but no TensorFlow. Of compressed shards the first examples are shown.

    Raises `UsageError` where there is no such split, or no matplotlib, and `DamageError` for a damaged data set.
    """
    if not isinstance(n, int) or n < 1:
        raise UsageError(f"n={n!r}: expected a number of examples, 1 or more")
    gallery.require_matplotlib()
    sets = load_sets(path)
    manifest, directories = united(sets), list(sets)
    views: list[viewer.View] = []
    for i, directory in enumerate(directories):
        views += viewer.sample(directory, -(-(n - len(views)) // (len(directories) - i)), split)
    return Preview(tuple(views), gallery.gallery_html(views, manifest.features))

"""The lines of Python that read a data set, for each kind of program that trains from it."""

from __future__ import annotations

from npy2tfrecord.formats.manifest import Manifest

_BATCH_SIZE = 32


def reading_snippets(manifest: Manifest, out: str) -> dict[str, str]:
    """Lines of Python by the name of what they are for. They run as they are, in the directory of the command."""
    split = max(manifest.splits, key=lambda name: sum(shard.examples for shard in manifest.splits[name]))
    first = manifest.features[0]
    names = [info.name for info in manifest.features[:4]]
    wanted = tuple([*names, "label"] if manifest.labels is not None else names)
    chosen = wanted if len(wanted) > 1 else first.name
    varies = any(None in info.shape for info in manifest.features if info.name in names)
    loading = f"readers.load_dataset(\n    {out!r}, split={split!r}, features={chosen!r},\n    "
    snippets = {
        "tf.data": f"import readers\n\ndataset = readers.load_dataset(\n    {out!r}, split={split!r},"
        f" batch_size={_BATCH_SIZE}, shuffle=True\n)\nfor batch in dataset:\n    print(batch[{first.name!r}].shape)",
    }
    if len(wanted) == 2:
        snippets["Keras"] = (
            f"import readers\n\ntrain = {loading}batch_size={_BATCH_SIZE}, shuffle=True\n)\n"
            "inputs, targets = train.element_spec\n"
            "# model = keras.Sequential([keras.Input(inputs.shape[1:]), ...])\n# model.fit(train, epochs=10)"
        )
    if manifest.compression != "none":
        snippets["NumPy"] = (
            f"import readers\n\ndataset = readers.load_dataset({out!r}, split={split!r})\n"
            f"for example in dataset.as_numpy_iterator():\n    print(example['key'], example[{first.name!r}].shape)"
        )
        return snippets
    source = f"source = readers.ArraySource(\n    {out!r}, split={split!r}, features={chosen!r}\n)"
    collate = ", collate_fn=list" if varies else ""
    batched = f".batch({_BATCH_SIZE}, batch_fn=list)" if varies else f".batch({_BATCH_SIZE})"
    snippets["PyTorch"] = (
        f"import readers\nimport torch\n\n{source}\n"
        f"loader = torch.utils.data.DataLoader(source, batch_size={_BATCH_SIZE}, shuffle=True{collate})\n"
        f"for batch in loader:\n    print({'len(batch)' if collate else 'type(batch)'})"
    )
    snippets["JAX with Grain"] = (
        f"import grain\nimport readers\n\n{source}\n"
        f"dataset = grain.MapDataset.source(source).seed(0).shuffle(){batched}\n"
        f"for batch in dataset:\n    print({'len(batch)' if varies else 'type(batch)'})"
    )
    snippets["NumPy"] = (
        f"import readers\n\nsource = readers.ArraySource({out!r}, split={split!r})\n"
        f"example = source[0]\nprint(example['key'], example[{first.name!r}].shape, len(source))"
    )
    return snippets

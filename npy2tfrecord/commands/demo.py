"""`npy2tfrecord demo`: small sets of arrays to try things on."""

from __future__ import annotations

import argparse
import json
import os
import shlex
from typing import Any, NamedTuple

from npy2tfrecord.commands.arguments import add_json

USAGE = "[options] DIR"
DESCRIPTION = "Make small sets of arrays in DIR to try things on, and show the commands that convert and read them."


class Set(NamedTuple):
    """A set of the demo: what it holds, the words that convert it, and what its reader is asked for."""

    name: str
    what: str
    sources: tuple[str, ...]
    options: tuple[str, ...]
    reading: str


SETS = (
    Set(
        "flowers",
        "pictures by class, uint8 (48, 48, 3)",
        ("flowers",),
        ("--labels", "dirs", "--split", "train=0.8,val=0.2"),
        "split='train', features=('array', 'label'), batch_size=32, shuffle=True",
    ),
    Set(
        "scans",
        "volumes and their masks, int16 and uint8 (slices, 48, 48)",
        ("image=scans/image", "mask=scans/mask"),
        (),
        "features=('image', 'mask'), batch_size=2",
    ),
    Set(
        "speech",
        "spectrograms of words, float32 (time, 80)",
        ("speech",),
        ("--label-by", "no|yes", "--split", "train=0.7,val=0.3", "--split-by", "^[^/]+"),
        "split='train', batch_size=8, buckets=3",
    ),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the positional arguments."""
    parser.add_argument("directory", metavar="DIR", help="the directory to make them in; it may be there already")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Make the files, and print what they are and what to do with them."""
    from npy2tfrecord.commands.demo_sets import demo_files
    from npy2tfrecord.paths import local_path

    directory = local_path(arguments.directory, "directory")
    files = dict(demo_files())
    _write(directory, files)
    sets = [_described(each, arguments.directory, files) for each in SETS]
    print(json.dumps({"sets": sets}, indent=1) if arguments.json else _text(sets))
    return 0


def _write(directory: str, files: dict[str, bytes]) -> None:
    """Write the files that are missing. Raises `ConflictError` where another file has the name of one."""
    from npy2tfrecord import syscalls
    from npy2tfrecord.errors import ConflictError, OutputError, display

    missing = {}
    for name, content in files.items():
        path = os.path.join(directory, name)
        try:
            with syscalls.opened(path) as handle:
                found = syscalls.read_up_to(handle, len(content) + 1)
        except FileNotFoundError:
            missing[path] = content
        except OSError as error:
            raise OutputError.from_os("look at", path, error) from error
        else:
            if found != content:
                raise ConflictError(f"{display(path)} is there already and is no file of the demo; choose another DIR")
    for path, content in missing.items():
        partial = f"{path}.partial"
        try:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            syscalls.write_file(partial, content, sync=False)
            syscalls.rename(partial, path)
        except OSError as error:
            raise OutputError.from_os("write", path, error) from error


def _described(each: Set, directory: str, files: dict[str, bytes]) -> dict[str, Any]:
    """A set as `--json` prints it."""
    own = [content for name, content in files.items() if name.startswith(f"{each.name}/")]
    sources = []
    for source in each.sources:
        name, named, path = source.rpartition("=")
        sources.append(f"{name}{named}{os.path.join(directory, path)}")
    out = os.path.join(directory, f"{each.name}-tfrecords")
    return {
        "path": os.path.join(directory, each.name),
        "what": each.what,
        "files": len(own),
        "bytes": sum(map(len, own)),
        "convert": ["npy2tfrecord", "convert", *sources, out, *each.options],
        "read": f"readers.load_dataset({out!r}, {each.reading})",
    }


def _text(sets: list[dict[str, Any]]) -> str:
    from npy2tfrecord.commands.text import count_text, size_text
    from npy2tfrecord.errors import display

    lines = [
        f"{display(each['path'])}: {count_text(each['files'], 'file')}, {size_text(each['bytes'])}; {each['what']}"
        for each in sets
    ]
    lines += ["", "Convert them with", *(f"    {shlex.join(each['convert'])}" for each in sets)]
    lines += ["", "Read them with", "    import readers"]
    return "\n".join(lines + [f"    {os.path.basename(each['path'])} = {each['read']}" for each in sets])

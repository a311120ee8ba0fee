"""The command line: arguments in, a result or one clear message out, and an exit code for scripts."""

from __future__ import annotations

import argparse
import codecs
import contextlib
import gc
import io
import json
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

from npy2tfrecord.commands.arguments import (
    EXIT_CODES,
    completion_parser,
    convert_parser,
    export_parser,
    info_parser,
    scan_parser,
    show_parser,
    verify_parser,
)
from npy2tfrecord.errors import Error, OutputError, UsageError, display

# --- the commands: unpack the arguments, call the function, print what it gives -----------------


def _convert(arguments: argparse.Namespace) -> int:
    from npy2tfrecord.commands import text
    from npy2tfrecord.commands.progress import shown_progress
    from npy2tfrecord.conversion.converter import Conversion
    from npy2tfrecord.options import Options

    options = Options(**_options(arguments))
    with shown_progress(arguments.progress, quiet=arguments.quiet) as progress:
        conversion = Conversion(arguments.sources, arguments.out, options, arguments.overwrite, progress)
        manifest = conversion.run(dry_run=arguments.dry_run)
    if arguments.json:
        print(json.dumps(manifest.to_json(), indent=1))
    elif conversion.was_complete:
        count = text.count_text(manifest.examples, "example")
        shards = text.count_text(len(manifest.shards), "shard")
        print(f"{display(arguments.out)}: nothing left to do, {count} in {shards} are there")
    elif arguments.dry_run:
        print(text.manifest_text(manifest, f"Would write to {display(arguments.out)}"))
    else:
        print(text.manifest_text(manifest, f"Wrote {display(arguments.out)}"))
        print()
        print(text.reading_text(manifest, os.fspath(arguments.out)))
    return 3 if manifest.skipped else 0


def _scan(arguments: argparse.Namespace) -> int:
    from npy2tfrecord.commands import text
    from npy2tfrecord.sources.scanner import scan

    found = scan(arguments.sources, **_options(arguments))
    if arguments.plot:
        from npy2tfrecord.commands.plots import plot_features

        plot_features(found.features, arguments.plot)
    if arguments.json:
        print(json.dumps(found.to_json(), indent=1))
    else:
        print(text.scan_text(found))
    return 3 if found.problems else 0


def _info(arguments: argparse.Namespace) -> int:
    from npy2tfrecord.commands import text
    from npy2tfrecord.formats import manifest as manifests

    manifest = manifests.load(arguments.out)
    if arguments.plot:
        from npy2tfrecord.commands.plots import plot_manifest

        plot_manifest(manifest, arguments.plot)
    if arguments.json:
        print(json.dumps(manifest.to_json(), indent=1))
    else:
        print(text.manifest_text(manifest, display(arguments.out)))
        if arguments.shards:
            rows = [(s.file, text.count_text(s.examples, "example"), text.size_text(s.bytes)) for s in manifest.shards]
            print(f"\nShards\n{text.table_text(rows)}")
    return 0


def _show(arguments: argparse.Namespace) -> int:
    from npy2tfrecord.checking import viewer

    seen = viewer.view(arguments.out, arguments.key)
    if arguments.plot:
        from npy2tfrecord.commands.plots import plot_example

        plot_example(seen, arguments.plot)
    print(json.dumps(seen.to_json(), indent=1) if arguments.json else viewer.view_text(seen))
    return 0


def _verify(arguments: argparse.Namespace) -> int:
    from npy2tfrecord.checking.verifier import verify
    from npy2tfrecord.commands.text import count_text

    if arguments.out is None:
        raise UsageError("verify: OUT is missing; it comes first: verify OUT --source SOURCE...")
    repaired: list[str] = []
    checked = verify(arguments.out, repaired=repaired.append, **_options(arguments))
    if arguments.json:
        counts = {"examples": checked.examples, "shards": len(checked.shards), "whole": True}
        print(json.dumps({**counts, **({"repaired": repaired} if arguments.repair else {})}))
    else:
        if repaired:
            print("Repaired:\n  " + "\n  ".join(repaired))
        print(
            f"{display(arguments.out)}: all {count_text(checked.examples, 'example')}"
            f" in {count_text(len(checked.shards), 'shard')} are whole"
        )
    return 0


def _export(arguments: argparse.Namespace) -> int:
    from npy2tfrecord.checking.exporter import export
    from npy2tfrecord.commands.text import count_text

    count = export(arguments.out, arguments.directory, overwrite=arguments.overwrite)
    if arguments.json:
        print(json.dumps({"files": count}))
    else:
        print(f"Wrote {count_text(count, 'file')} to {display(arguments.directory)}")
    return 0


def _completion(arguments: argparse.Namespace) -> int:
    from npy2tfrecord.commands.completion import completion

    commands = {name: (make_parser(), summary) for name, (make_parser, _, summary) in COMMANDS.items()}
    print(completion(arguments.shell, commands), end="")
    return 0


# --- the commands by name --------------------------------------------------------------------------------


_NOT_OPTIONS = ("sources", "out", "json", "plot", "quiet", "progress", "dry_run", "overwrite")


def _options(arguments: argparse.Namespace) -> dict[str, Any]:
    """The arguments that are keywords of the library's functions."""
    return {name: value for name, value in vars(arguments).items() if name not in _NOT_OPTIONS}


COMMANDS: dict[str, tuple[Callable[[], argparse.ArgumentParser], Callable[[argparse.Namespace], int], str]] = {
    "convert": (convert_parser, _convert, ".npy and .npz files to sharded TFRecords"),
    "scan": (scan_parser, _scan, "what arrays there are, by their headers"),
    "info": (info_parser, _info, "what is in a converted data set"),
    "show": (show_parser, _show, "one example of a converted data set"),
    "verify": (verify_parser, _verify, "check every byte of a converted data set"),
    "export": (export_parser, _export, "back to .npy files"),
    "completion": (completion_parser, _completion, "the script that completes this in a shell"),
}


def help_text() -> str:
    """What `npy2tfrecord --help` prints."""
    lines = ["usage: npy2tfrecord COMMAND [options]", "", "Convert .npy files to TFRecords.", "", "commands:"]
    lines += [f"  {name:<10}  {summary}" for name, (_, _, summary) in COMMANDS.items()]
    lines += ["", "npy2tfrecord COMMAND --help shows a command's options; --version the version.", "", EXIT_CODES]
    return "\n".join(lines)


def _without_dashes(words: list[str]) -> list[str]:
    """The same words without `--`, behind which a path may start with a dash: argparse forgets that on its way."""
    if "--" not in words:
        return words
    at = words.index("--")
    return words[:at] + [f"./{word}" if word.startswith("-") else word for word in words[at + 1 :]]


_PLAIN = {"–": "-", "█": "#", "▏": "|", "…": "..."}


def _plainly(error: UnicodeError) -> tuple[str, int]:
    """What to print instead of what a terminal's encoding lacks."""
    assert isinstance(error, UnicodeEncodeError)
    strange = error.object[error.start : error.end]
    return "".join(_PLAIN.get(c) or c.encode("ascii", "backslashreplace").decode() for c in strange), error.end


def _tell(result: str) -> None:
    """Print a result to whom it may concern: whoever reads it may leave early. Raises `OutputError`."""
    try:
        sys.stdout.write(result)
        sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is left in the buffer goes nowhere
        if not isinstance(error, BrokenPipeError):
            raise OutputError(f"all is done, but standard output took no result: {error.strerror}") from error


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    if argv is None:  # no threads that calculate: nothing here multiplies matrices, and forks want a quiet process
        for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
            os.environ[name] = "1"
    if not words or words[0] in ("-h", "--help", "help"):
        print(help_text(), end="", file=sys.stdout if words else sys.stderr)
        return 0 if words else 2
    if words[0] == "--version":
        from npy2tfrecord import __version__

        print(f"npy2tfrecord {__version__}")
        return 0
    if words[0] not in COMMANDS:
        print(f"npy2tfrecord: no command {words[0]!r}; there are {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    make_parser, command, _ = COMMANDS[words[0]]
    if isinstance(sys.stdout, io.TextIOWrapper):
        codecs.register_error("npy2tfrecord", _plainly)
        sys.stdout.reconfigure(errors="npy2tfrecord")
    arguments = make_parser().parse_intermixed_args(_without_dashes(words[1:]))
    if argv is not None:  # called by a program, whose process, signals and threads are its own
        return _run(command, arguments)
    from npy2tfrecord.commands import signals
    from npy2tfrecord.jobs import pool

    with signals.ending_in_order():
        pool.prefer_fork()
        code = _run(command, arguments)
        gc.freeze()  # what ends with this process is not searched for cycles
    return code


def _run(command: Callable[[argparse.Namespace], int], arguments: argparse.Namespace) -> int:
    """The exit code of a command, whose result is printed when it is complete."""
    try:
        result = io.StringIO()
        with contextlib.redirect_stdout(result):
            code = command(arguments)
        _tell(result.getvalue())
    except Error as error:
        print(f"npy2tfrecord: {error}", file=sys.stderr)
        return error.exit_code
    return code


if __name__ == "__main__":
    sys.exit(main())

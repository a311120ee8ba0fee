"""The command line: arguments in, a result or one clear message out, and an exit code for scripts."""

from __future__ import annotations

import argparse
import contextlib
import gc
import io
import os
import sys
from collections.abc import Sequence

from npy2tfrecord.commands import colors
from npy2tfrecord.commands.arguments import EXIT_CODES, load, parse
from npy2tfrecord.errors import Error, OutputError

# --- the commands by name --------------------------------------------------------------------------------

# Each is a module of this package; its summary is here so that `--help` imports none of them.
COMMANDS = {
    "convert": ".npy and .npz files to sharded TFRecords",
    "scan": "what arrays there are, by their headers",
    "info": "what is in a converted data set",
    "show": "one example of a converted data set",
    "verify": "check every byte of a converted data set",
    "export": "back to .npy files",
    "merge": "converted data sets into one, or one into other shards",
    "demo": "small sets of arrays to try things on",
    "completion": "the script that completes this command in a shell",
}


def help_text() -> str:
    """What `npy2tfrecord --help` prints."""
    lines = ["usage: npy2tfrecord COMMAND [options]", "", "Convert .npy files to TFRecords.", "", "commands:"]
    lines += [f"  {name:<10}  {summary}" for name, summary in COMMANDS.items()]
    lines += ["", "npy2tfrecord COMMAND --help shows a command's options; --version the version.", "", EXIT_CODES]
    return "\n".join(lines)


def _print_result(result: str) -> None:
    """Write a result to standard output. Raises `OutputError` where that fails, but not for a reader that has left."""
    try:
        sys.stdout.write(result)
        sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes what is left when it exits
        if not isinstance(error, BrokenPipeError):
            raise OutputError(f"all is done, but standard output took no result: {error.strerror}") from error


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code of the command that `argv` (or the process's own arguments) asks for, after it has run."""
    words = list(sys.argv[1:] if argv is None else argv)
    if argv is None:  # no threads that calculate: nothing here multiplies matrices, and forks want a quiet process
        for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
            os.environ.setdefault(name, "1")
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
    command = words[0]
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names may have characters that the terminal lacks
    arguments = parse(command, words[1:])
    if argv is not None:  # called by a program, whose process, signals and threads are its own
        return _run(command, arguments)
    if command != "completion":
        # From here: where a long chain of imports ends at NumPy, its own imports cross the end of a chunk of CPython's
        # stack again and again, and each time a chunk is mapped (1,700 times, 15 ms).
        import numpy  # noqa: F401
    from npy2tfrecord.commands import signals
    from npy2tfrecord.jobs import pool

    with signals.ending_in_order():
        pool.prefer_fork()
        code = _run(command, arguments)
        gc.freeze()  # what ends with this process is not searched for cycles
    return code


def _run(command: str, arguments: argparse.Namespace) -> int:
    """The exit code of a command, whose result is printed when it is complete."""
    try:
        result = io.StringIO()
        with contextlib.redirect_stdout(result):
            code = load(command).run(arguments)
        printed = result.getvalue()
        _print_result(printed if colors.are_wanted(arguments.color, sys.stdout) else colors.without(printed))
    except Error as error:
        start = "npy2tfrecord:"
        if colors.are_wanted(arguments.color, sys.stderr):
            start = colors.error(start)
        print(start, error, file=sys.stderr)
        return error.exit_code
    return code


if __name__ == "__main__":
    sys.exit(main())

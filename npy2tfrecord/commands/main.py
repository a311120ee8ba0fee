"""The command line: arguments in, a result or one clear message out, and an exit code for scripts."""

from __future__ import annotations

import argparse
import atexit
import codecs
import contextlib
import gc
import io
import json
import os
import signal
import sys
import threading
import warnings
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


class Stopped(BaseException):
    """A signal asked this process to end."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


_SIGNALS = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)
_AGAIN_SECONDS = 1.0
_owner = 0  # the process that these handlers are for
_came: int | None = None  # the signal that asked it to end


def _stop(number: int, _frame: object) -> None:
    """Raise `Stopped`, and again every second until `main` has it.

    Python drops what is raised in a finaliser or a hook of `os.fork`, and what is raised between joblib and its locks
    may leave one locked, on which joblib's way out waits for ever.
    """
    global _came
    if os.getpid() != _owner:  # a worker that has just been forked: its parent tells
        os._exit(128 + number)
    _came = number
    for each in _SIGNALS:  # a second signal ends it at once
        signal.signal(each, signal.SIG_DFL)
    sys.unraisablehook = _say_nothing  # of where it is dropped
    threading.excepthook = _say_nothing  # joblib's thread may fail when all is taken from it
    warnings.simplefilter("ignore")  # of tasks that are cancelled
    signal.signal(signal.SIGALRM, _stop_again)
    signal.setitimer(signal.ITIMER_REAL, _AGAIN_SECONDS, _AGAIN_SECONDS)
    raise Stopped(number)


def _say_nothing(_what: object) -> None:
    pass


def _stop_again(_number: int, _frame: object) -> None:
    if _came is not None:
        raise Stopped(_came)


def _leave(code: int) -> None:
    """See that Python does not wait at its end, perhaps for ever, for a child or a thread that the signal cut off."""
    import multiprocessing

    from npy2tfrecord.jobs import pool

    signal.setitimer(signal.ITIMER_REAL, _AGAIN_SECONDS)
    with contextlib.suppress(Stopped):
        pool.stop_workers()
    signal.setitimer(signal.ITIMER_REAL, 0)
    for child in multiprocessing.active_children():
        child.kill()
    if not all(thread.daemon for thread in threading.enumerate() if thread is not threading.main_thread()):
        signal.setitimer(signal.ITIMER_REAL, _AGAIN_SECONDS)
        with contextlib.suppress(Stopped):
            atexit._run_exitfuncs()
        os._exit(code)


# --- the commands: unpack the arguments, call the function, print what it gives -----------------


def _convert(arguments: argparse.Namespace) -> int:
    from npy2tfrecord.commands import text
    from npy2tfrecord.commands.progress import shown_progress
    from npy2tfrecord.conversion.converter import Conversion
    from npy2tfrecord.jobs import pool
    from npy2tfrecord.options import Options

    options = Options(**_options(arguments))
    with shown_progress(arguments.progress, quiet=arguments.quiet) as progress:
        conversion = Conversion(arguments.sources, arguments.out, options, arguments.overwrite, progress)
        manifest = conversion.run(dry_run=arguments.dry_run)
        pool.stop_workers()  # joblib would wait at the exit for one that hangs
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
    from npy2tfrecord.formats import manifest_parsing

    manifest = manifest_parsing.load(arguments.out)
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
    global _owner, _came
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
    make_parser, command, _ = COMMANDS[words[0]]
    if isinstance(sys.stdout, io.TextIOWrapper):
        codecs.register_error("npy2tfrecord", _plainly)
        sys.stdout.reconfigure(errors="npy2tfrecord")
    arguments = make_parser().parse_intermixed_args(_without_dashes(words[1:]))
    hooks = sys.unraisablehook, threading.excepthook
    handlers = {number: signal.getsignal(number) or signal.SIG_DFL for number in _SIGNALS}
    try:
        _owner, _came = os.getpid(), None
        for number, handler in handlers.items():
            if handler is not signal.SIG_IGN:  # nohup and & mean what they say
                signal.signal(number, _stop)
        if argv is None:  # not when called by a program, which may have threads of its own
            from npy2tfrecord.jobs import pool

            pool.prefer_fork()
        result = io.StringIO()
        with contextlib.redirect_stdout(result):
            code = command(arguments)
        if _came is not None:  # and was not heard
            raise Stopped(_came)
        _tell(result.getvalue())
        if argv is None:
            gc.freeze()  # what ends with this process need not be searched for cycles
        return code
    except (Stopped, Exception) as error:
        if _came is not None:  # whatever fails now, fails because of it: joblib interrupted at its start, say
            signal.setitimer(signal.ITIMER_REAL, 0)
            name = signal.Signals(_came).name
            print(f"npy2tfrecord: stopped by {name}; run the same command again to go on", file=sys.stderr, flush=True)
            if argv is None:
                _leave(128 + _came)
            return 128 + _came
        if not isinstance(error, Error):
            raise
        print(f"npy2tfrecord: {error}", file=sys.stderr)
        return error.exit_code
    finally:
        for number, handler in handlers.items():  # of a command nothing is left but to end, which takes a moment
            if handler is not signal.SIG_IGN:
                signal.signal(number, signal.SIG_DFL if argv is None else handler)
        if _came is not None:
            signal.setitimer(signal.ITIMER_REAL, 0)
            sys.unraisablehook, threading.excepthook = hooks


if __name__ == "__main__":
    sys.exit(main())

"""The command line: arguments in, a result or one clear message out, and an exit code for scripts."""

from __future__ import annotations

import atexit
import contextlib
import gc
import io
import os
import signal
import sys
import threading
import warnings
from collections.abc import Sequence

from npy2tfrecord.commands.arguments import EXIT_CODES, load, parse
from npy2tfrecord.errors import Error, OutputError


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


# --- the commands by name --------------------------------------------------------------------------------

# Each is a module of this package; its summary is here so that `--help` imports none of them.
COMMANDS = {
    "convert": ".npy and .npz files to sharded TFRecords",
    "scan": "what arrays there are, by their headers",
    "info": "what is in a converted data set",
    "show": "one example of a converted data set",
    "verify": "check every byte of a converted data set",
    "export": "back to .npy files",
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
    command = words[0]
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names may have characters that the terminal lacks
    arguments = parse(command, words[1:])
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
            code = load(command).run(arguments)
        if _came is not None:  # and was not heard
            raise Stopped(_came)
        _print_result(result.getvalue())
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

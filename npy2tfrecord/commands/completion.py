"""Completion for shells, made from the parsers of the command line."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Mapping

USAGE = "bash|zsh|fish"
DESCRIPTION = "Print the script that completes this command in a shell."
SHELLS = ("bash", "zsh", "fish")
_FREE = ("dirs", "NAME", "N", "REGEX", "SIZE", "GLOB", "[NAME:]DTYPE", "DTYPE", "ADDRESS", "KEY", "NUMBER")  # no paths


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the positional arguments."""
    parser.add_argument("shell", metavar="bash|zsh|fish", choices=SHELLS, help="the shell")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options: none."""


def run(arguments: argparse.Namespace) -> int:
    """Print the script."""
    from npy2tfrecord.commands.arguments import make_parser
    from npy2tfrecord.commands.main import COMMANDS

    print(completion(arguments.shell, {name: (make_parser(name), COMMANDS[name]) for name in COMMANDS}), end="")
    return 0


def completion(shell: str, commands: Mapping[str, tuple[argparse.ArgumentParser, str]]) -> str:
    """The script for `shell`; `commands` are the parser and the summary of each command, by name."""
    return {"bash": _bash, "zsh": _zsh, "fish": _fish}[shell](commands)


def _options(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    return [action for action in parser._actions if action.option_strings]


def _takes_path(action: argparse.Action) -> bool:
    names = str(action.metavar or "").split("|")
    return action.nargs != 0 and not action.choices and not all(name.split("=")[0] in _FREE for name in names)


def _choices(action: argparse.Action) -> list[str]:
    """The words that an option or argument takes, where it takes words."""
    listed = [str(choice) for choice in action.choices or ()]
    return listed or [word for word in str(action.metavar or "").split("|") if word == "dirs"]


def _words(names: list[str]) -> str:
    return shlex.quote(" ".join(names))


def _bash(commands: Mapping[str, tuple[argparse.ArgumentParser, str]]) -> str:
    lines = [
        "# npy2tfrecord completion bash: load it with  source <(npy2tfrecord completion bash)",
        "_npy2tfrecord() {",
        "    local current=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD - 1]}",
        "    COMPREPLY=()",
        "    if [[ $current == = ]]; then # --option=VALUE is three words here",
        "        current=''",
        "    elif [[ $before == = ]]; then",
        "        before=${COMP_WORDS[COMP_CWORD - 2]}",
        "    fi",
        "    if ((COMP_CWORD == 1)); then",
        f'        mapfile -t COMPREPLY < <(compgen -W {_words([*commands, "--help", "--version"])} -- "$current")',
        "        return",
        "    fi",
        "    local options='' words='' path=yes",
        "    case ${COMP_WORDS[1]}:$before in",
    ]
    for name, (parser, _) in commands.items():
        for action in _options(parser):
            if action.nargs == 0:
                continue
            pattern = "|".join(f"{name}:{option}" for option in action.option_strings)
            path = "yes" if _takes_path(action) else ""
            lines.append(f"    {pattern}) words={_words(_choices(action))} path={path} ;;")
    lines += ["    *)", "        case ${COMP_WORDS[1]} in"]
    for name, (parser, _) in commands.items():
        options = [option for action in _options(parser) for option in action.option_strings]
        words = [word for action in parser._actions if not action.option_strings for word in _choices(action)]
        lines.append(f"        {name}) options={_words(options)} words={_words(words)} ;;")
    lines += [
        "        esac",
        "        ;;",
        "    esac",
        "    if [[ $current == -* ]]; then",
        '        mapfile -t COMPREPLY < <(compgen -W "$options" -- "$current")',
        "    else",
        '        mapfile -t COMPREPLY < <(compgen -W "$words" -- "$current" || true',
        '            [[ -z $path ]] || compgen -f -- "$current")',
        "        compopt -o filenames 2>/dev/null || true",
        "    fi",
        "}",
        "complete -F _npy2tfrecord npy2tfrecord",
    ]
    return "\n".join(lines) + "\n"


def _zsh(commands: Mapping[str, tuple[argparse.ArgumentParser, str]]) -> str:
    def text(value: str) -> str:
        return "".join(f"\\{c}" if c in "\\[]:" else c for c in value)

    def described(action: argparse.Action) -> str:
        """What is expected, and what completes it."""
        words = " ".join(_choices(action))
        listed = f"({words})" if words else " "
        if _takes_path(action):
            listed = f"{{compadd -- {words}; _files}}" if words else "_files"
        return f"{text(str(action.metavar or 'value'))}:{listed}"

    lines = [
        "#compdef npy2tfrecord",
        "# npy2tfrecord completion zsh: put it into a file _npy2tfrecord in a directory of $fpath",
        "_npy2tfrecord() {",
        "    if ((CURRENT == 2)); then",
        "        local -a commands=(",
        *(f"            {shlex.quote(f'{name}:{text(summary)}')}" for name, (_, summary) in commands.items()),
        "        )",
        "        _describe command commands",
        "        return",
        "    fi",
        "    local command=$words[2]",
        "    shift words",
        "    ((CURRENT--))",
        "    case $command in",
    ]
    for name, (parser, _) in commands.items():
        places = [action for action in parser._actions if not action.option_strings]
        is_endless = any(action.nargs == "+" for action in parser._actions)
        specs = [f"*:{described(places[0])}"] if is_endless else [f":{described(each)}" for each in places]
        for action in _options(parser):
            value = "" if action.nargs == 0 else f":{described(action)}"
            for option in action.option_strings:
                joined = "=" * (bool(value) and option.startswith("--"))
                specs.append(f"*{option}{joined}[{text(str(action.help))}]{value}")
        lines.append(f"    {name})")
        lines.append("        _arguments " + " \\\n            ".join(map(shlex.quote, dict.fromkeys(specs))))
        lines.append("        ;;")
    lines += ["    esac", "}", '_npy2tfrecord "$@"']
    return "\n".join(lines) + "\n"


def _fish(commands: Mapping[str, tuple[argparse.ArgumentParser, str]]) -> str:
    def quoted(value: str) -> str:
        return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"

    start = "complete -c npy2tfrecord"
    lines = [
        "# npy2tfrecord completion fish: put it into ~/.config/fish/completions/npy2tfrecord.fish",
        *(
            f"{start} -n __fish_use_subcommand -f -a {name} -d {quoted(summary)}"
            for name, (_, summary) in commands.items()
        ),
    ]
    for name, (parser, _) in commands.items():
        here = f"{start} -n '__fish_seen_subcommand_from {name}'"
        for action in parser._actions:
            choices = " ".join(_choices(action))
            if not action.option_strings:
                if choices:
                    lines.append(f"{here} -f -a {quoted(choices)}")
                continue
            names = " ".join(
                f"-l {option[2:]}" if option.startswith("--") else f"-s {option[1:]}"
                for option in action.option_strings
            )
            value = "" if action.nargs == 0 else " -r" if _takes_path(action) else " -x"
            value += f" -a {quoted(choices)}" if choices and value else ""
            lines.append(f"{here} {names}{value} -d {quoted(str(action.help))}")
    return "\n".join(lines) + "\n"

"""What the shells complete, asked from real ones."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from converted import Command

from npy2tfrecord.commands import completion


def complete_in_bash(script: Path, line: str) -> list[str]:
    """What bash offers for the last word of the line, cut into words as bash would."""
    code = """
source "$1"; shift
function=$(complete -p npy2tfrecord); function=${function#*-F }; function=${function%% *}
COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
"${function}"
printf '%s\\n' "${COMPREPLY[@]}"
"""
    words = re.sub("(=)", r" \1 ", line).split(" ")
    done = run_shell(script, "bash", "-c", code, "bash", str(script), *words)
    return sorted(done.stdout.split())


ZSH = r"""
zmodload zsh/zpty
zpty shell zsh -f -i
zpty -w shell "PROMPT=; source ${(q)1}"
zpty -r shell said '*READY*'
zpty -w -n shell "$2"$'\t'
zpty -r shell said '*ENDED*'
for line in ${(f)said}; do [[ $line == *HIT:* ]] && print -r -- ${${line#*HIT:}%$'\r'}; done
zpty -d shell
"""

ZSH_STARTS = r"""
fpath=(${0:h} $fpath)
autoload -Uz compinit
compinit -u -D
bindkey '^I' complete-word
zstyle ':completion:*' insert-tab false
print_end() { print -r -- ENDED }
comppostfuncs=(print_end)
compadd() { # prints what would be offered
    local -a hits
    [[ ${@[1,(i)(-|--)]} == *-(O|A|D)\ * ]] || builtin compadd -A hits "$@"
    (($#hits)) && print -rl -- HIT:${^hits}
    builtin compadd "$@"
}
print REA''DY
"""


def complete_in_zsh(script: Path, line: str) -> list[str]:
    """What an interactive zsh offers."""
    here = script.with_name("zsh")
    here.mkdir(exist_ok=True)
    shutil.copy(script, here / "_npy2tfrecord")
    (here / "start").write_text(ZSH_STARTS)
    done = run_shell(script, "zsh", "-f", "-c", ZSH, "zsh", str(here / "start"), line)
    return sorted(set(done.stdout.split()))


def complete_in_fish(script: Path, line: str) -> list[str]:
    """What fish offers."""
    words = ["fish", "--no-config", "-c", "source $argv[1]; complete -C $argv[2]", str(script), line]
    offered = [each.partition("\t")[0] for each in run_shell(script, *words).stdout.splitlines()]
    return sorted(each.rpartition("=")[2].rstrip("/") for each in offered)


def run_shell(script: Path, *words: str) -> subprocess.CompletedProcess[str]:
    home = {**os.environ, "HOME": str(script.parent), "TERM": "dumb"}
    here = script.with_name("here")
    return subprocess.run(words, cwd=here, env=home, capture_output=True, text=True, check=True, timeout=60)


@pytest.mark.parametrize("shell", completion.SHELLS)
def test_shells_complete(shell: str, tmp_path: Path, command: Command) -> None:
    if not shutil.which(shell):
        pytest.skip(f"needs {shell}")
    script = tmp_path / "script"
    script.write_text(command.ok("completion", shell).out)
    (tmp_path / "here" / "data").mkdir(parents=True)
    complete = {"bash": complete_in_bash, "zsh": complete_in_zsh, "fish": complete_in_fish}[shell]
    expected = {
        "conv": ["convert"],
        "convert --sh": ["--shard-size"],
        "info --": ["--color", "--help", "--html", "--json", "--plot", "--shards"],
        "convert --compression ": ["gzip", "none", "zlib"],
        "convert da": ["data"],
        "convert data --rows da": ["data"],
        "convert --labels d": ["data"],
        "convert data --dtype d": [],
        "convert data --compression none da": ["data"],
        "convert --jobs d": [],
        "scan --plot d": ["data"],
        "verify data --rep": ["--repair"],
        "verify data --source d": ["data"],
        "completion z": ["zsh"],
    }
    assert {line: complete(script, f"npy2tfrecord {line}") for line in expected} == expected
    assert {"convert", "info", "verify"} <= {*complete(script, "npy2tfrecord ")}


@pytest.mark.parametrize("shell", completion.SHELLS)
def test_shells_accept_what_they_are_given(shell: str, tmp_path: Path, command: Command) -> None:
    script = tmp_path / "script"
    script.write_text(command.ok("completion", shell).out)
    for option in ("shard-size", "follow-symlinks", "repair"):
        assert option in script.read_text()
    if not shutil.which(shell):
        pytest.skip(f"needs {shell}")
    subprocess.run([shell, "-n", script], check=True)


def test_a_shell_that_is_not_known_is_refused(command: Command) -> None:
    command.refused(2, "invalid choice", words=("completion", "csh"))


def test_a_missing_shtab_is_named(monkeypatch: pytest.MonkeyPatch, command: Command) -> None:
    monkeypatch.setitem(sys.modules, "shtab", None)
    command.refused(2, "completion needs the package shtab: pip install", words=("completion", "bash"))

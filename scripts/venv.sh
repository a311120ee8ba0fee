# shellcheck shell=bash
# Sourced by the other scripts, from the repository's root: make_venv, then install.

fail() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

python_version() {
    "$1" -c 'import platform; print(platform.python_version())'
}

# make_venv: makes .venv where there is none that works, or where PYTHON names a Python of another version.
make_venv() {
    local python=${PYTHON:-python3}
    if .venv/bin/python -c 'import pip' 2>/dev/null &&
        [[ -z ${PYTHON:-} || $(python_version "$python") == "$(python_version .venv/bin/python)" ]]; then
        return
    fi
    command -v "$python" >/dev/null ||
        fail "there is no $python here; install Python 3.10 or newer, or name one: PYTHON=python3.12 $0"
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' ||
        fail "$("$python" --version) is too old, 3.10 or newer is needed; name another: PYTHON=python3.12 $0"
    echo "Making .venv with $("$python" --version)"
    # --upgrade-deps: the pip that comes with Python 3.10 searches very long for versions that fit each other.
    "$python" -m venv --clear --upgrade-deps .venv ||
        fail "$python could not make .venv with the newest pip; its own words are above (Debian and Ubuntu have what it needs in the package python3-venv)"
}

# install [EXTRA]: installs this checkout with EXTRA into .venv, unless that was done before for the same metadata,
# place and Python.
install() {
    local target=".${1:+[$1]}" stamp=".venv/installed${1:+-$1}" state
    state="$(cksum setup.cfg pyproject.toml npy2tfrecord/__init__.py) $PWD $(python_version .venv/bin/python)"
    if [[ -f $stamp && $(<"$stamp") == "$state" ]]; then
        return
    fi
    echo "Installing $target into .venv (the first time takes minutes)"
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --editable "$target" ||
        fail "pip could not install $target into .venv; its own words are above"
    printf '%s\n' "$state" >"$stamp"
}

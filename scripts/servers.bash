# What convert-tree and convert-new share: options, places, the lock, the log, signals, and a run of npy2tfrecord.
# They set `usage`, the function `own_option`, and the name `me`.
# shellcheck shell=bash
# shellcheck disable=SC2034,SC2154 # the scripts that source this set and use these names

fail() {
    printf '%s: %s\n' "$me" "$1" >&2
    exit "${2:-2}"
}

nice=() floor=0 log='' places=() passed=()
while (($# > 0)); do
    case $1 in
    --nice)
        [[ ${2-} =~ ^[0-9]+$ ]] || fail "--nice ${2-}: expected a number from 0 to 19"
        nice=(nice -n "$2")
        if command -v ionice >/dev/null; then nice+=(ionice -c 3); fi
        shift 2
        ;;
    --min-free)
        size=${2-}
        floor=$(numfmt --from=auto -- "${size%[bB]}" 2>/dev/null) || fail "--min-free $size: expected a size such as 50G"
        shift 2
        ;;
    --log)
        log=${2:?"--log: expected a file"}
        shift 2
        ;;
    -h | --help)
        usage
        exit 0
        ;;
    --)
        shift
        passed=("$@")
        break
        ;;
    -*)
        own_option "$1" "${2-}" || fail "no option $1; options of npy2tfrecord convert go behind --"
        shift 2
        ;;
    *)
        places+=("$1")
        shift
        ;;
    esac
done
((${#places[@]} == 2)) || fail "expected ROOT and OUT (see --help)"
[[ ${places[0]} != *://* ]] ||
    fail "${places[0]}: expected a directory of this machine; npy2tfrecord convert takes sources from buckets"
[[ -d ${places[0]} ]] || fail "${places[0]@Q} is no directory"
root=$(cd -- "${places[0]}" && pwd && printf x) # x: a name may end in newlines
root=${root%$'\nx'}
if [[ ${places[1]} == *://* ]]; then # mkdir would make a folder of that name here
    [[ -n ${into_buckets:-} ]] ||
        fail "${places[1]}: expected a directory of this machine; npy2tfrecord convert writes to buckets"
    ((floor == 0)) || fail "--min-free is about a disk, and OUT is in a bucket"
    [[ -n $log ]] || fail "OUT is in a bucket: --log FILE names a log on this machine, beside which the lock is"
    out=${places[1]%/}
    held=$log.lock
else
    mkdir -p -- "${places[1]}" || fail "${places[1]@Q} cannot be made" 5
    out=$(cd -- "${places[1]}" && pwd && printf x)
    out=${out%$'\nx'}
    held=$out/.$me.lock
fi

here=$(dirname -- "${BASH_SOURCE[0]}")
command=${NPY2TFRECORD:-}
[[ -n $command ]] || { [[ -x $here/../.venv/bin/npy2tfrecord ]] && command=$here/../.venv/bin/npy2tfrecord; } ||
    command=$(command -v npy2tfrecord) || fail "no npy2tfrecord in the PATH: NPY2TFRECORD=FILE names it"

exec {lock}>>"$held"
flock -n "$lock" || fail "another $me is at work on ${out@Q}" 6
exec {logged}>>"${log:-$out/$me.log}"

say() { printf '%(%Y-%m-%dT%H:%M:%S%z)T %s\n' -1 "$1" >&"$logged"; }

free_bytes() { df -B1 --output=avail -- "$out" | tail -n 1; }

child='' signal=0 signals=0
# shellcheck disable=SC2317  # it is a trap's
stop() {
    signal=$1 signals=$((signals + 1))
    if [[ -n $child ]]; then kill -TERM "$child" 2>/dev/null || true; fi
}
trap 'stop 1' HUP
trap 'stop 2' INT
trap 'stop 15' TERM

run() { # npy2tfrecord with these words; gives its exit code
    local code=0 before
    # In the background, since bash handles no signal while it waits for anything else.
    "${nice[@]}" "$command" "$@" >&"$logged" 2>&1 &
    child=$!
    if ((signal > 0)); then kill -TERM "$child" 2>/dev/null || true; fi # it came before the child was known
    while true; do # again when a signal ended the waiting, and not the child
        before=$signals code=0
        wait "$child" || code=$?
        ((signals > before)) || break
    done
    child=''
    return "$code"
}

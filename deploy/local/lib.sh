# Shared by kafka.sh and influxdb.sh, which source it: cache folder, locks, and the life of one server process.
# shellcheck shell=bash disable=SC2034
#
# A server runs in a data folder and holds a lock there for as long as it lives (it inherits the open file), so
# "does it run" never trusts a stale or reused process id.

program=${0##*/}
checkout=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd -P)
cache=${TIDEGAUGE_CACHE:-$checkout/.cache}

die() {
    echo "$program: $*" >&2
    exit 1
}

# need COMMAND WHAT: fail with what to install unless COMMAND is there
need() {
    command -v "$1" >/dev/null 2>&1 || die "needs $2 ('$1' is not on the PATH)"
}

# with_lock FILE FUNCTION: run FUNCTION while nobody else holds FILE. Descriptor 9 must not leak into servers.
with_lock() {
    need flock "flock of util-linux"
    mkdir -p "$(dirname "$1")"
    exec 9>"$1"
    flock --nonblock 9 || { echo "$program: waiting for another run of it" >&2; flock 9; }
    "$2"
    exec 9>&-
}

use_data() {
    [ -n "${1:-}" ] || usage
    mkdir -p "$1"
    data=$(cd "$1" && pwd -P)
}

use_port() {
    case "${1:-}" in '' | *[!0-9]*) die "PORT must be a number, got '${1:-}'" ;; esac
    port=$1
}

# Called by "run" just before exec: the server takes the lock over and is found by its process id.
become_server() {
    exec 8>"$data/running"
    flock --nonblock 8 || die "already running in $data"
    echo $$ >"$data/pid"
}

is_running() {
    [ -e "$data/running" ] && ! flock --nonblock "$data/running" true
}

signal() {
    is_running || die "not running in $data"
    kill "-$1" "$(cat "$data/pid")"
}

# wait_until_gone SECONDS: poll, since a process that is not our child cannot be waited for
wait_until_gone() {
    local left=$(($1 * 10))
    while is_running; do
        [ $((left--)) -gt 0 ] || return 1
        sleep 0.1
    done
}

# stop_server SIGNAL SECONDS: the orderly end, then the other one
stop_server() {
    if ! is_running; then
        echo "not running in $data"
        return
    fi
    signal CONT
    signal "$1"
    if ! wait_until_gone "$2"; then
        signal KILL
        wait_until_gone 10 || die "process $(cat "$data/pid") does not end"
        die "did not end within $2 s and was killed; see $data/log"
    fi
    echo "stopped $data"
}

kill_server() {
    signal KILL
    wait_until_gone 10 || die "process $(cat "$data/pid") does not end"
    echo "killed $data"
}

# start_server READY SECONDS: run this script's "run" in the background until function READY succeeds
start_server() {
    local pid left=$(($2 * 10))
    if is_running; then die "already running in $data with process id $(cat "$data/pid")"; fi
    : >"$data/log"
    setsid "$0" run "$data" "$port" </dev/null >>"$data/log" 2>&1 &
    pid=$!
    until "$1"; do
        if ! kill -0 "$pid" 2>/dev/null; then
            tail -n 20 "$data/log" >&2
            die "the server ended at its start; see $data/log"
        fi
        if [ $((left--)) -le 0 ]; then
            kill -KILL "$pid"
            die "not ready after $2 s; see $data/log"
        fi
        sleep 0.1
    done
}

wipe_server() {
    if is_running; then die "still running in $data; stop it first"; fi
    [ -e "$data/running" ] || die "$data holds no data of this server"
    rm -rf -- "$data"
    echo "wiped $data"
}

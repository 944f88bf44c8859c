#!/usr/bin/env bash
# A real InfluxDB 2 (OSS) on 127.0.0.1 without Docker, built from the Go module proxy and crates.
#
#   influxdb.sh install             build it into the cache (5 min on two cores, once; 1.5 GB while it builds)
#   influxdb.sh check               say what is missing to run it here, if anything (exit code 1)
#   influxdb.sh run     DATA PORT   run it in the foreground, in the data folder DATA
#   influxdb.sh start   DATA PORT   run it in the background, wait until it is ready, set up new data
#   influxdb.sh recover DATA        open and close the data of a stopped server once, to mend a torn log
#   influxdb.sh stop    DATA        end it in order
#   influxdb.sh kill|pause|resume DATA   SIGKILL, SIGSTOP, SIGCONT
#   influxdb.sh wipe    DATA        delete the data of a stopped server
#
# The cache is TIDEGAUGE_CACHE, else .cache in the checkout. Needs Go 1.23, Rust and a C compiler to install, curl
# to start. "start" sets new data up with TIDEGAUGE_INFLUXDB_ORG, _BUCKET (both default to tidegauge) and
# TIDEGAUGE_INFLUXDB_TOKEN (required), the variables that tidegauge itself reads. It has no web pages.
#
# recover: after an unclean end InfluxDB 2.7.12 cuts a torn last entry off its log at the next start, goes on writing
# behind the hole, and loses what it acknowledged there at the start after that. One clean pass in between mends it.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "$0")/lib.sh"

# The versions, with the hashes that Go's own checksum database lists for them (the "h1:" lines of a go.sum).
readonly influxdb_module=github.com/influxdata/influxdb/v2 influxdb_version=v2.7.12
readonly influxdb_sum=h1:m25dUSO7h6nm3zFC4v/aCNeFFmnN/mlN/uPo1T63bmk=
readonly flux_module=github.com/influxdata/flux flux_version=v0.196.1
readonly flux_sum=h1:RZypfrrAZeIixD/2As+qoyrwfs6Gx7VcnTRNGNjBfUA=
readonly recipe=1 # raise it when the steps below change, so that older binaries are built again
readonly home=$cache/influxdb-$influxdb_version-$recipe
readonly influxd=$home/influxd

usage() {
    sed -n '2,19s/^# \{0,1\}//p' "$0" >&2
    exit 2
}

# unpack MODULE VERSION HASH FOLDER: a writable copy of a Go module whose hash is the one expected
unpack() {
    [ ! -e "$4/.unpacked" ] || return 0
    local answer source hash
    answer=$(cd "$home/build" && GOFLAGS='' GOWORK=off go mod download -json "$1@$2") || die "go mod download: $answer"
    source=$(sed -n 's/^\s*"Dir": "\(.*\)",\?$/\1/p' <<<"$answer")
    hash=$(sed -n 's/^\s*"Sum": "\(.*\)",\?$/\1/p' <<<"$answer")
    [ "$hash" = "$3" ] || die "$1@$2 has the hash '$hash' instead of '$3'"
    rm -rf "$4"
    cp -r "$source" "$4"
    chmod -R u+w "$4"
    touch "$4/.unpacked"
}

# step LOG WHAT COMMAND…: run quietly, and show the end of the log when it fails
step() {
    local log=$1 what=$2
    shift 2
    echo "$what" >&2
    "$@" >"$log" 2>&1 || {
        tail -n 30 "$log" >&2
        die "failed: $what (all of it: $log)"
    }
}

# Flux's parser and analyser are Rust, linked into the Go program as a static library.
build_libflux() (
    cd "$home/build/flux/libflux" || die "no libflux in the module"
    unset CARGO_ENCODED_RUSTFLAGS CARGO_BUILD_TARGET
    # Its source is older than today's compilers and turns their newer warnings into errors.
    export CARGO_TARGET_DIR="$home/build/target" RUSTFLAGS=--cap-lints=warn
    cargo rustc --release --locked --package flux --crate-type staticlib
)

build_influxd() (
    cd "$home/build/influxdb" || die "no InfluxDB in the module"
    export GOFLAGS='' GOWORK=off CGO_ENABLED=1 GOCACHE="$home/build/gocache" PKG_CONFIG="$home/build/pkg-config"
    [ "$(go list -m -f '{{.Version}}' "$flux_module")" = "$flux_version" ] || die "this InfluxDB wants another Flux"
    # Without the tag "assets": the web pages are not in the module.
    go build -buildvcs=false -trimpath -tags sqlite_foreign_keys,sqlite_json \
        -ldflags "-s -w -X main.version=$influxdb_version -X main.commit=module -X main.date=1970-01-01T00:00:00Z" \
        -o "$home/build/influxd" ./cmd/influxd
)

# cgo asks pkg-config for "flux"; the project's own answer to that is a program that builds libflux elsewhere.
write_pkg_config() {
    cat >"$home/build/pkg-config" <<ANSWER
#!/bin/sh
case "\$*" in
*--cflags*flux) echo "-I$home/build/flux/libflux/include" ;;
*--libs*flux) echo "-L$home/build/target/release -l:libflux.a -ldl -lm -lpthread" ;;
*) exit 1 ;;
esac
ANSWER
    chmod +x "$home/build/pkg-config"
}

need_compilers() {
    need go "Go 1.23 or newer"
    need cargo Rust
    need cc "a C compiler"
}

check_influxdb() {
    [ -x "$influxd" ] || {
        need_compilers
        die "not built yet; run 'make servers'"
    }
}

install_influxdb() {
    [ ! -x "$influxd" ] || return 0
    need_compilers
    case "$home" in *[[:space:]]*) die "the cache folder's name must be free of white space: $home" ;; esac
    mkdir -p "$home/build"
    echo "building InfluxDB ${influxdb_version#v}, once; takes 5 minutes on two cores" >&2
    unpack "$flux_module" "$flux_version" "$flux_sum" "$home/build/flux"
    unpack "$influxdb_module" "$influxdb_version" "$influxdb_sum" "$home/build/influxdb"
    rm -f "$home/build/flux/rust-toolchain.toml" # asks for a compiler of 2022 that rustup would have to fetch
    write_pkg_config
    step "$home/build/cargo.log" "building libflux $flux_version (Rust)" build_libflux
    step "$home/build/go.log" "building influxd $influxdb_version (Go)" build_influxd
    "$home/build/influxd" version | grep -qF "InfluxDB $influxdb_version " || die "the built influxd does not run"
    mv "$home/build/influxd" "$influxd"
    # 1.5 GB. Kept when a step failed, so that the next run goes on from there.
    chmod -R u+w "$home/build" && rm -rf "$home/build"
}

run_influxdb() {
    check_influxdb
    become_server
    # influxd would read a config file lying in its working folder.
    mkdir -p "$data/empty"
    cd "$data/empty"
    unset INFLUXD_CONFIG_PATH
    exec "$influxd" run --http-bind-address "127.0.0.1:$port" \
        --bolt-path "$data/influxd.bolt" --sqlite-path "$data/influxd.sqlite" --engine-path "$data/engine" \
        --reporting-disabled --ui-disabled --hardening-enabled --log-level info
}

request() {
    curl --silent --noproxy '*' --max-time 30 "$@"
}

is_healthy() {
    request "http://127.0.0.1:$port/health" | grep -q '"status": *"pass"'
}

is_listening() {
    grep -q 'msg=Listening' "$data/log"
}

plain() {
    case "$2" in '' | *[!A-Za-z0-9._=+/@-]*) die "$1 must be set, of A-Z a-z 0-9 . _ = + / @ - only" ;; esac
}

# Secrets go to curl by its standard input, which no process list shows.
set_up() {
    local answer
    request "http://127.0.0.1:$port/api/v2/setup" | grep -q '"allowed": *true' || return 0
    answer=$(printf '{"username":"admin","password":"%s","org":"%s","bucket":"%s","token":"%s","retentionPeriodSeconds":0}' \
        "$token" "$org" "$bucket" "$token" |
        request --write-out '\n%{http_code}' --header 'Content-Type: application/json' --data-binary @- \
            "http://127.0.0.1:$port/api/v2/setup")
    [ "${answer##*$'\n'}" = 201 ] || die "the set-up was refused: $answer"
}

check_access() {
    local status
    status=$(printf 'header = "Authorization: Token %s"\n' "$token" |
        request --config - --output /dev/null --write-out '%{http_code}' --get --data-urlencode "name=$bucket" \
            --data-urlencode "org=$org" "http://127.0.0.1:$port/api/v2/buckets")
    [ "$status" = 200 ] || die "org, bucket or token are not those that $data was set up with (status $status)"
}

start_influxdb() {
    local org=${TIDEGAUGE_INFLUXDB_ORG:-tidegauge} bucket=${TIDEGAUGE_INFLUXDB_BUCKET:-tidegauge}
    local token=${TIDEGAUGE_INFLUXDB_TOKEN:-}
    need curl curl
    plain TIDEGAUGE_INFLUXDB_ORG "$org"
    plain TIDEGAUGE_INFLUXDB_BUCKET "$bucket"
    plain TIDEGAUGE_INFLUXDB_TOKEN "$token"
    start_server is_healthy 120
    (set_up && check_access) || {
        stop_server INT 60 >&2
        exit 1
    }
    echo "InfluxDB ${influxdb_version#v} on http://127.0.0.1:$port, process id $(cat "$data/pid")"
}

recover_influxdb() {
    port=0
    start_server is_listening 600
    stop_server INT 120
}

command=${1:-}
case "$command" in
install)
    with_lock "$cache/influxdb.lock" install_influxdb
    echo "installed $home"
    ;;
check) check_influxdb ;;
run | start)
    use_data "${2:-}"
    use_port "${3:-}"
    "${command}_influxdb"
    ;;
recover | stop | kill | pause | resume | wipe)
    use_data "${2:-}"
    case "$command" in
    recover) recover_influxdb ;;
    stop) stop_server INT 60 ;; # on TERM it would end at once, without closing its files
    kill) kill_server ;;
    pause) signal STOP ;;
    resume) signal CONT ;;
    wipe) wipe_server ;;
    esac
    ;;
*) usage ;;
esac

# Shared by the scripts of this directory: `. "$(dirname "$0")/lib.sh"`.
# Everything that a script makes outside the tree carries its PID in its name and is removed by its own trap.

top=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

die() { printf '%s: %s\n' "$(basename "$0")" "$*" >&2; exit 1; }
say() { printf '%s\n' "$*"; }

target_dir() { printf '%s\n' "${CARGO_TARGET_DIR:-$top/target}"; }

# build_programs [--example NAME]: puts the programs' directory into `bin`, built unless TWINLUN_BIN names it.
build_programs() {
    bin=${TWINLUN_BIN:-}
    [ -z "$bin" ] || return 0
    bin=$(target_dir)/release
    (cd "$top" && cargo build --release --locked --quiet --bins "$@")
}

# now_ms: milliseconds of the monotonic clock (it never jumps back, unlike `date`).
now_ms() { local up; read -r up _ < /proc/uptime; printf '%s\n' "$((10#${up/./} * 10))"; }

# wait_for SECONDS DESCRIPTION COMMAND…: runs COMMAND every 0.1 s until it succeeds.
wait_for() {
    local seconds=$1 what=$2 end
    shift 2
    end=$(( $(now_ms) + seconds * 1000 ))
    until "$@" >/dev/null 2>&1; do
        [ "$(now_ms)" -lt "$end" ] || { printf 'gave up after %s s waiting for %s\n' "$seconds" "$what" >&2; return 1; }
        sleep 0.1
    done
}

as_root() { [ "$(id -u)" = 0 ] || die "needs root (network namespaces, loop devices): run it with sudo"; }

# Processes are ended by id only, and waited for. A process whose leader is a zombie may have threads that still hold
# its sockets and devices: it has ended when every thread has.
ended() { ! grep -qs '^State:[[:space:]]*[^ZX[:space:]]' "/proc/$1"/task/*/status; }
end_process() {
    local pid=$1
    [ -n "$pid" ] && kill -0 "$pid" 2>/dev/null || return 0
    kill -TERM "$pid" 2>/dev/null || true
    wait_for "${2:-5}" "process $pid to end" ended "$pid" 2>/dev/null || kill -KILL "$pid" 2>/dev/null || true
    wait "$pid" 2>/dev/null || true
}

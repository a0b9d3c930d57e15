# A pair of twinlund on loop devices in the namespaces of lib-net.sh. Source lib.sh and lib-net.sh first, set
# `work` (a directory made for this run, removed by the caller) and `bin` (where the programs are).

iqn=iqn.2026-11.example:vol1
# The arbiter: file, etcd (one member, on a machine of its own on the client network), or etcd3 (that one, and one on
# each server). agents=1: the pair has failover agents.
arbiter_kind=file
agents=''
# paths=alua: each node has a portal of its own, at its own address.
paths=''
loop_a='' loop_b=''
etcd_witness=10.77.0.30 etcd_pid=''

# pair_disks MIB: a sparse file and a loop device for each server, in `disk_dir` if that is set.
pair_disks() {
    local name loop file
    for name in a b; do
        file=${disk_dir:-$work}/disk-$name
        truncate -s "$1M" "$file"
        loop=$(losetup --find --show --direct-io=on "$file" 2>/dev/null || losetup --find --show "$file")
        eval "loop_$name=\$loop"
    done
}

disk_of() { eval "printf '%s\n' \"\$loop_$1\""; }

# _volume, _node NAME ID [SHARDS]: sections of the configuration, with what is in `volume_keys` and `target_keys`.
_volume() {
    cat <<TOML
[volume]
name = "vol1"
${volume_keys:-}

[target]
iqn = "$iqn"
$(if [ "$paths" = alua ]; then say 'paths = "alua"'; else printf 'portals = ["%s"]\n' "$portal"; fi)
${target_keys:-}
TOML
}
_node() {
    cat <<TOML

[node.$1]
id = $2
disk = "$(disk_of "$1")"
shards = ${3:-1}
run_dir = "$work/run"
TOML
}

# pair_config [SHARDS]: the configuration, the same bytes for both nodes, and the secret of the link.
pair_config() {
    (umask 077; head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \n' > "$work/secret")
    mkdir -p "$work/run"
    {
        _volume
        cat <<TOML

[replication]
secret_file = "$work/secret"
$(pair_timeout)
$(pair_reads)

[arbiter]
kind = "${arbiter_kind%3}"
$(arbiter_place)

$(agent_section)
TOML
        _node a 0 "${1:-1}"
        say 'replication_address = "10.78.0.1:7790"'
        node_portal 1
        heartbeat_addresses 1
        _node b 1 "${1:-1}"
        say 'replication_address = "10.78.0.2:7790"'
        node_portal 2
        heartbeat_addresses 2
    } > "$work/twinlun.toml"
}

# With agents the default is right; without, a busy machine is given more time.
pair_timeout() {
    if [ -n "${PEER_TIMEOUT:-}" ]; then printf 'peer_timeout = "%s"\n' "$PEER_TIMEOUT"
    elif [ -z "$agents" ]; then printf 'peer_timeout = "1s"\n'; fi
}
# READS=lease: reads are leased, on whatever machine this is.
pair_reads() {
    [ "${READS:-}" != lease ] || printf 'reads = "lease"\nvirtual_machine = "never-paused"\n'
}
agent_section() {
    [ -n "$agents" ] || return 0
    say '[agent]'
    [ "$paths" = alua ] || printf 'service_addresses = ["%s/24"]\n' "$vip"
}
node_portal() { [ "$paths" != alua ] || printf 'portals = ["10.77.0.%s:3260"]\n' "$1"; }
heartbeat_addresses() {
    [ -z "$agents" ] || printf 'heartbeat_addresses = ["10.77.0.%s:7791", "10.78.0.%s:7791"]\n' "$1" "$1"
}
arbiter_place() {
    local name
    case $arbiter_kind in
        file) printf 'path = "%s/arbiter/record"\n' "$work" ;;
        etcd*) printf 'endpoints = ['; for name in $(etcd_members); do printf '"%s",' "$(etcd_url "$name")"; done; printf ']\n' ;;
    esac
}

# The members of etcd: the witness, and with etcd3 the servers' own, a and b.
etcd_members() { if [ "$arbiter_kind" = etcd3 ]; then say witness a b; else say witness; fi; }
etcd_address() { case $1 in witness) say "$etcd_witness" ;; a) say 10.77.0.1 ;; b) say 10.77.0.2 ;; esac; }
etcd_url() { say "http://$(etcd_address "$1"):2379"; }
etcd_space() { if [ "$1" = witness ]; then say "$ns_switch"; else say "$net_id-$1"; fi; }
etcd_ctl() { ip netns exec "$ns_switch" env ETCDCTL_API=3 etcdctl "$@"; }

# etcd_run NAME: starts that member on the data that it has.
etcd_run() {
    local name=$1 address member all=''
    address=$(etcd_address "$name")
    for member in $(etcd_members); do all+=,$member=http://$(etcd_address "$member"):2380; done
    ip netns exec "$(etcd_space "$name")" etcd --name "$name" --data-dir "$work/etcd-$name" \
        --heartbeat-interval 50 --election-timeout 300 --initial-cluster "${all#,}" \
        --listen-client-urls "http://$address:2379" --advertise-client-urls "http://$address:2379" \
        --listen-peer-urls "http://$address:2380" --initial-advertise-peer-urls "http://$address:2380" \
        >> "$work/etcd-$name.log" 2>&1 4>&- 5>&- &
    [ "$name" != witness ] || etcd_pid=$!
    disown $! # its end is often wanted, and is no news
}
etcd_pids() {
    local space pid
    for space in $(for name in $(etcd_members); do etcd_space "$name"; done); do
        for pid in $(ip netns pids "$space" 2>/dev/null); do
            [ "$(cat "/proc/$pid/comm" 2>/dev/null)" != etcd ] || say "$pid"
        done
    done
}
etcd_signal() { local pid; for pid in $(etcd_pids); do kill "-$1" "$pid"; done; }
etcd_down() {
    local pid pids
    pids=$(etcd_pids)
    for pid in $pids; do kill -KILL "$pid"; done
    for pid in $pids; do wait_for 5 "etcd to end" ended "$pid" || true; done
}
etcd_answers() { local name; for name in $(etcd_members); do etcd_ctl --endpoints "$(etcd_url "$name")" endpoint health || return 1; done; }
etcd_start() {
    local name
    for name in $(etcd_members); do etcd_run "$name"; done
    wait_for 20 "etcd to answer" etcd_answers
}

# etcd_lead NAME: the leader is this member from now on.
etcd_lead() {
    local id name
    id=$(etcd_ctl --endpoints "$(etcd_url witness)" member list | awk -F', ' -v name="$1" '$3 == name { print $1 }')
    for name in $(etcd_members); do
        ! etcd_ctl --endpoints "$(etcd_url "$name")" move-leader "$id" > /dev/null 2>&1 || return 0
    done
    # No other member could hand it over: it is the leader already.
    etcd_ctl --endpoints "$(etcd_url "$1")" endpoint status -w json | jq -e '.[0].Status | .leader == .header.member_id' > /dev/null
}

# arbiter_up: starts etcd, if that is the arbiter.
arbiter_up() {
    case $arbiter_kind in
        etcd*)
            ip -n "$ns_switch" address add "$etcd_witness/24" dev clients 2>/dev/null || true
            etcd_start
            ;;
    esac
}
# arbiter_lose, arbiter_return: nobody can reach it, and again.
arbiter_lose() {
    case $arbiter_kind in
        etcd*) etcd_signal STOP ;;
        *) mv "$work/arbiter" "$work/arbiter.away" && : > "$work/arbiter" ;;
    esac
}
arbiter_return() {
    case $arbiter_kind in
        etcd*) etcd_signal CONT ;;
        *) rm -f "$work/arbiter" && mv "$work/arbiter.away" "$work/arbiter" ;;
    esac
}
# arbiter_save: keeps a copy of what it holds now. arbiter_rewind: it holds that, as after the restoring of a backup;
# what it held until then is kept. arbiter_forward: it holds that again.
arbiter_exchange() {
    local from=$1 to=$2 name
    case $arbiter_kind in
        etcd*)
            etcd_down
            for name in $(etcd_members); do mv "$work/etcd-$name" "$work/$to-$name" && mv "$work/$from-$name" "$work/etcd-$name" || return 1; done
            etcd_start
            ;;
        *) mv "$work/arbiter" "$work/$to" && mv "$work/$from" "$work/arbiter" ;;
    esac
}
arbiter_save() {
    local name
    case $arbiter_kind in
        etcd*)
            etcd_down
            for name in $(etcd_members); do rm -rf "$work/saved-$name" && cp -a "$work/etcd-$name" "$work/saved-$name" || return 1; done
            etcd_start
            ;;
        *) rm -rf "$work/saved" && cp -a "$work/arbiter" "$work/saved" ;;
    esac
}
arbiter_rewind() { arbiter_exchange saved newest; }
arbiter_forward() { arbiter_exchange newest saved; }

# solo_config: server a alone, without a peer; it has `shards` shards.
solo_config() {
    mkdir -p "$work/run"
    { _volume; _node a 0 "${shards:-1}"; } > "$work/twinlun.toml"
}

# tw a|b VERB…: the command line of that server (descriptors 4 and 5 are a script's hold on its load: not for daemons).
# status a|b FILTER: one value of its status, "" without a daemon.
tw() { local node=$1; shift; ip netns exec "$net_id-$node" "$bin/twinlun" --config "$work/twinlun.toml" --node "$node" "$@" 4>&- 5>&-; }
status() { tw "$1" status --json 2>/dev/null | jq -r "(.answer.status? // .) | $2" 2>/dev/null || true; }

# daemon_pid a|b: looked up among the processes of that server's own namespace.
daemon_pid() {
    local pid
    for pid in $(ip netns pids "$net_id-$1" 2>/dev/null); do
        if [ "$(cat "/proc/$pid/comm" 2>/dev/null)" = twinlund ]; then printf '%s\n' "$pid"; return; fi
    done
}
daemon_kill() {
    local pid
    pid=$(daemon_pid "$1")
    [ -n "$pid" ] || return 1
    kill -KILL "$pid"
    wait_for 10 "twinlund of $1 to be gone" ended "$pid"
}

# promote_survivor a|b: until the silence has lasted for peer_timeout, a promotion is refused: the peer may be alive.
promote_survivor() { wait_for 15 "the promotion of $1" tw "$1" promote; }

is_connected() { [ "$(status "$1" .link)" = connected ]; }
is_synced() {
    [ "$(status "$1" '"\(.node.disk) \(.link) \(.peer.disk) \(.resync == null and .out_of_sync_bytes == 0)"')" \
        = 'up_to_date connected up_to_date true' ]
}
both_synced() { is_synced a && is_synced b; }

# pair_up: format both, start both, make a primary with the service address.
pair_up() {
    tw a init --assume-clean --yes >> "$work/log" && tw b init --assume-clean --yes >> "$work/log" || return 1
    tw a up >> "$work/log" && tw b up >> "$work/log" || return 1
    wait_for 20 "the nodes to meet" is_connected a || return 1
    tw a promote >> "$work/log" || return 1
    if [ "$paths" = alua ]; then :
    elif [ -n "$agents" ]; then wait_for 10 "a to have the service address" serves a
    else vip_take a; fi
    wait_for 20 "both copies to be up to date" both_synced
}

# serves a|b: it is primary and has the service address.
serves() { [ "$(status "$1" '"\(.node.role) \(.service != "closed") \(.agent.addresses[0].held)"')" = 'primary true true' ]; }

# pair_equal: compares the data areas of both disks, byte for byte. The daemons are down.
pair_equal() {
    blockdev --setra 16384 "$loop_a" "$loop_b"
    cmp --bytes="$1" "$loop_a" "$loop_b"
}

# pair_down: ends everything in the two servers' namespaces and gives the loop devices back.
pair_down() {
    local name pid loop
    if [ -n "$etcd_pid" ]; then kill -CONT "$etcd_pid" 2>/dev/null || true; end_process "$etcd_pid" 5; etcd_pid=''; fi
    for name in a b; do
        for pid in $(ip netns pids "$net_id-$name" 2>/dev/null); do kill -KILL "$pid" 2>/dev/null || true; done
    done
    for name in a b; do
        loop=$(disk_of "$name")
        [ -z "$loop" ] || wait_for 5 "$loop to come free" losetup -d "$loop" || true
        # It may be another's from now on.
        eval "loop_$name=''"
    done
}

# show_logs: what a person needs to see of a failure.
show_logs() {
    local file
    for file in "$work"/log "$work"/run/*.log "$work"/*.log; do
        if [ -s "$file" ]; then printf -- '--- %s\n' "${file##*/}"; tail -n 25 "$file"; fi
    done
}

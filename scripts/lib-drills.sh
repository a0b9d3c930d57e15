# What scripts/drills does to the pair of lib-pair.sh, and what it looks at. Source lib.sh, lib-net.sh and lib-pair.sh
# first. Uses `work`, `primary`, `standby`, `rate`, `stop_seconds`, `keep`.

swap() { local old=$primary; primary=$standby; standby=$old; }
# engine_pid, agent_pid a|b. `comm` holds 15 characters.
engine_pid() { daemon_pid "$1"; }
agent_pid() {
    local pid
    for pid in $(ip netns pids "$net_id-$1" 2>/dev/null); do
        case $(cat "/proc/$pid/comm" 2>/dev/null) in twinlun-agent*) printf '%s\n' "$pid"; return ;; esac
    done
}
signal_all() { local pid; for pid in $(ip netns pids "$net_id-$2"); do kill "-$1" "$pid" || true; done; }
start_node() { tw "$1" up >> "$work/log" 2>&1; }
# node_back a|b: its power is back, and what a boot starts is started.
node_back() {
    power_on "$1"
    [ "$arbiter_kind" != etcd3 ] || etcd_run "$1"
    start_node "$1"
}

# --- the load ----------------------------------------------------------------------------------------------------

# verifier NAMESPACE NAME OPTION…: blast verify in that namespace; it ends when its standard input does.
verifier() {
    local ns=$1 name=$2
    shift 2
    exec ip netns exec "$ns" "$bin/examples/blast" verify --portal "$portal" --iqn "$iqn" --until-eof --seconds 3600 \
        --reconnect-timeout 60 "$@" > "$work/$name.json" 2> "$work/$name.log" < "$work/$name-in" 4>&- 5>&-
}
# Attached from inside, where the primary's own node can still reach it and others cannot.
has_inside() { case $1 in client-cut|deaf|mute|isolated|link-cut) return 0 ;; *) return 1 ;; esac; }
start_load() {
    local most=$rate
    # So much that the slow link can carry it.
    [ "$1" != slow-link ] || most=100
    rm -f "$work/load-in" "$work/load.json" "$work/inside-in" "$work/inside.json" "$work/inside.log"
    if [ -n "$keep" ] && command -v tcpdump > /dev/null; then
        rm -f "$work/client.pcap"
        ip netns exec "$ns_client" tcpdump -n -U -s 128 -i eth0 -w "$work/client.pcap" 'arp or tcp' 2>/dev/null 4>&- 5>&- &
        capture=$!
    fi
    mkfifo "$work/load-in"
    verifier "$ns_client" load --span-blocks 4096 --rate "$most" &
    load=$!
    exec 4> "$work/load-in"
    if has_inside "$1"; then
        mkfifo "$work/inside-in"
        verifier "$net_id-$primary" inside --first-block 8192 --span-blocks 512 --rate 100 --stall-timeout 2 &
        inside=$!
        exec 5> "$work/inside-in"
    fi
    sleep "0.$((RANDOM % 50 + 40))"
}
# mark: the client's report has a new window from now on.
mark() { echo >&4; }
end_load() {
    exec 4>&- 5>&-
    wait "$load" && load_status=0 || load_status=$?
    inside_status=0
    [ -z "$inside" ] || wait "$inside" || inside_status=$?
    load='' inside=''
    if [ -n "$capture" ]; then kill "$capture" && wait "$capture" || true; capture=''; fi
}

# --- what happens ------------------------------------------------------------------------------------------------

prepare() {
    case $1 in
        leader-off) etcd_lead "$primary" ;;
        # A record that is older than what the nodes have seen: the service goes there and back meanwhile.
        arbiter-rewound)
            arbiter_save && move && move
            ;;
    esac
}
move() {
    tw "$primary" switchover >> "$work/log" 2>&1 && expect_other || return 1
    swap
    wait_for 10 "the nodes to agree" is_ready
}

# strike NAME: does it, and waits for what is expected. mend NAME NUMBER: undoes it.
strike() {
    local stopped
    case $1 in
        engine-kill) kill -KILL "$(engine_pid "$primary")"; expect_other ;;
        node-off|leader-off) power_off "$primary"; expect_other ;;
        engine-stop)
            stopped=$(engine_pid "$primary")
            kill -STOP "$stopped"
            expect_other && sleep "$stop_seconds" && kill -CONT "$stopped" && sleep 1
            ;;
        node-stop) signal_all STOP "$primary"; expect_other && sleep 10 && signal_all CONT "$primary" && sleep 1 ;;
        agent-kill) kill -KILL "$(agent_pid "$primary")"; sleep 1.5; serves_still ;;
        standby-kill) kill -KILL "$(engine_pid "$standby")"; expect_alone ;;
        standby-off) power_off "$standby"; expect_alone ;;
        standby-stop) stopped=$(engine_pid "$standby"); kill -STOP "$stopped"; expect_alone && sleep 4 && kill -CONT "$stopped" ;;
        slow-peer) slowly "$(engine_pid "$standby")" 5; serves_both ;;
        slow-link) port_slow "$standby" eth1; sleep 4; serves_both ;;
        link-cut) port_down "$primary" eth1; expect_alone && sleep 1 && serves "$primary" ;;
        link-deaf) deaf "$primary" eth1; expect_alone && sleep 1 && serves "$primary" ;;
        link-mute) mute "$primary" eth1; expect_alone && sleep 1 && serves "$primary" ;;
        client-cut) port_down "$primary" eth0; expect_other ;;
        deaf) deaf "$primary" 'eth*'; expect_other_if_it_can ;;
        mute) mute "$primary" 'eth*'; expect_other_if_it_can ;;
        isolated) port_down "$primary" eth1; port_down "$primary" eth0; expect_other_if_it_can ;;
        arbiter-lost) arbiter_lose; sleep 2; serves "$primary" ;;
        arbiter-and-link) arbiter_lose; port_down "$primary" eth1; sleep 3; serves_nothing "$primary" ;;
        arbiter-rewound) arbiter_rewind && kill -KILL "$(engine_pid "$standby")" && wait_for 10 "the primary to halt, with words" halted "$primary" ;;
        switchover) tw "$primary" switchover >> "$work/log" 2>&1; expect_other ;;
        both-off-primary-first) power_off "$primary"; expect_other && sleep 0.5; power_off "$standby"; sleep 0.5 ;;
        both-off-standby-first) power_off "$standby"; expect_alone && sleep 0.5; power_off "$primary"; sleep 0.5 ;;
        both-off-together) power_off_both ;;
    esac
}
expect_other() { wait_for 20 "$standby to serve" serves "$standby"; }
expect_alone() { wait_for 10 "$primary to go on alone" service_is "$primary" alone; }
# With a file for the arbiter a node that is cut from everybody still reaches it.
expect_other_if_it_can() {
    if [ "$arbiter_kind" = file ]; then wait_for 6 "$standby to serve" serves "$standby" || true; else expect_other; fi
}
service_is() { [ "$(status "$1" .service)" = "$2" ]; }
serves_both() { serves "$primary" && service_is "$primary" both; }
serves_still() { [ "$(status "$primary" '"\(.node.role) \(.service)"')" = 'primary both' ]; }
serves_nothing() { case $(status "$1" .service) in held|closed) return 0 ;; *) return 1 ;; esac; }
halted() { serves_nothing "$1" && tw "$1" events | grep 'the arbiter lost data or was restored from a backup' > /dev/null; }
power_off_both() {
    local first=$primary second=$standby one
    [ $((RANDOM % 2)) = 0 ] || { first=$standby; second=$primary; }
    power_off "$first" &
    one=$!
    sleep "0.$((RANDOM % 9))"
    power_off "$second"
    wait "$one"
    sleep 0.5
}
# slowly PID SECONDS: that process runs 50 ms of every 200.
slowly() {
    local end=$(( $(now_ms) + $2 * 1000 ))
    while [ "$(now_ms)" -lt "$end" ]; do
        kill -STOP "$1"; sleep 0.15
        kill -CONT "$1"; sleep 0.05
    done
}

mend() {
    case $1 in
        engine-kill|standby-kill|agent-kill) start_node "$primary"; start_node "$standby" ;;
        node-off|leader-off) node_back "$primary" ;;
        standby-off) node_back "$standby" ;;
        engine-stop|node-stop) forget_moves ;;
        slow-link) port_fast "$standby" eth1 ;;
        link-cut) port_up "$primary" eth1 ;;
        client-cut) port_up "$primary" eth0; forget_moves ;;
        deaf|mute) hearing "$primary"; forget_moves ;;
        link-deaf|link-mute) hearing "$primary" ;;
        isolated) port_up "$primary" eth0; port_up "$primary" eth1; forget_moves ;;
        arbiter-lost) arbiter_return ;;
        arbiter-and-link) arbiter_return; sleep 1; port_up "$primary" eth1 ;;
        # It serves no more, so the one that died must come back before anybody may.
        arbiter-rewound) arbiter_forward && start_node "$standby" && wait_for 30 "somebody to serve" somebody_serves ;;
        both-off-primary-first) both_back "$2" "$primary" "$standby" stale ;;
        both-off-standby-first) both_back "$2" "$standby" "$primary" stale ;;
        both-off-together) both_back "$2" "$primary" "$standby" '' ;;
    esac
}
# both_back NUMBER FIRST SECOND [stale]: both nodes return, in the order that the number says. FIRST died first; if the
# other one went on without it, it must refuse as long as it is alone.
both_back() {
    case $(($1 % 3)) in
        0) node_back "$2" && node_back "$3" ;;
        1)
            node_back "$2"
            if [ -n "$4" ]; then
                sleep 6.5
                [ "$(status "$2" '"\(.node.role) \(.service)"')" = 'secondary closed' ] || { node_back "$3"; return 1; }
            else
                sleep "$((RANDOM % 7))"
            fi
            node_back "$3"
            ;;
        2)
            node_back "$3"
            if [ -n "$4" ]; then wait_for 20 "$3 to serve alone" serves "$3" || return 1; else sleep "$((RANDOM % 7))"; fi
            node_back "$2"
            ;;
    esac
    wait_for 30 "somebody to serve" somebody_serves
}
# forget_moves: agents hesitate to move a service that has moved often of late. New ones know nothing of that.
forget_moves() {
    local node
    wait_for 60 "both copies to be up to date" both_synced || return 1
    for node in a b; do
        kill -KILL "$(agent_pid "$node")"
        start_node "$node"
    done
}

# --- what is looked at -------------------------------------------------------------------------------------------

somebody_serves() { serves a || serves b; }
# Both copies are current, and the agents have met: whatever happens now finds the pair as it should be.
is_ready() {
    local node want='up_to_date connected up_to_date true alive alive'
    for node in a b; do
        [ "$(status "$node" '"\(.node.disk) \(.link) \(.peer.disk) \(.resync == null and .out_of_sync_bytes == 0) \(.agent.engine) \(.agent.peer)"')" = "$want" ] || return 1
    done
    serves "$primary"
}

utc_ms() { date -u '+%H %M %S %3N' | awk '{ print (($1 * 60 + $2) * 60 + $3) * 1000 + $4 }'; }
# timeline FROM_MS: what engines and agents logged since, in milliseconds after it.
timeline() {
    local file
    for file in "$work"/run/*.log; do
        tail -n 500 "$file" | awk -v from="$1" -v who="$(basename "$file" .log)" '
            match($1, /T[0-9:.]+Z$/) && /event=/ {
                split(substr($1, RSTART + 1), t, /[:.Z]/)
                at = ((t[1] * 60 + t[2]) * 60 + t[3]) * 1000 + t[4]
                if (at + 43200000 < from) at += 86400000
                if (at >= from && at < from + 60000) { sub(/^[^e]*event=/, ""); printf "%6d ms  %-8s %s\n", at - from, who, substr($0, 1, 150) }
            }'
    done | sort -n
}
# phases: the first of each kind of event that makes up a gap.
phases() {
    awk '$4 ~ /^(suspended|peer_silent|peer_engine_died|takeover_asked|promoted|alone|handed_over|serving|addresses_taken)$/ && !seen[$4]++ {
        printf "%s%s %d", (n++ ? ", " : ""), $4, $1 }' "$work/timeline"
}
# late_gap NAME: true where requests wait until it is mended.
late_gap() { case $1 in arbiter-*|both-off-*|deaf|mute|isolated) say true ;; *) say false ;; esac; }

# equal: stops the pair, compares both disks byte for byte, and starts it again.
equal() {
    tw "$standby" down >> "$work/log" 2>&1 && tw "$primary" down >> "$work/log" 2>&1 || return 1
    pair_equal "$size" || return 1
    start_node a && start_node b || return 1
    wait_for 30 "somebody to serve" somebody_serves && wait_for 30 "both copies to be up to date" both_synced || return 1
    if serves b; then primary=b standby=a; else primary=a standby=b; fi
}

# one_writer: an epoch in which both nodes say that they led or went on alone has two writers.
one_writer() {
    local node
    for node in a b; do
        { grep -hE 'event=(promoted|alone) ' "$work/run/$node.log" || true; } | sed -nE "s/.*epoch ([0-9]+),.*/\1 $node/p"
    done | sort -u | cut -d' ' -f1 | uniq -d | { ! grep .; }
}

# pair_anew: whatever state it is in, a new pair on empty disks.
pair_anew() {
    local node pid
    for node in a b; do
        for pid in $(ip netns pids "$net_id-$node"); do kill -KILL "$pid" 2>/dev/null || true; done
        hearing "$node"
        net_heal "$node"
        vip_drop "$node"
        port_up "$node" eth0
        port_up "$node" eth1
        port_fast "$node" eth1
        wait_for 10 "the disk of $node to be free" empty_disk "$node" || return 1
    done
    rm -rf "$work"/run/* "$work"/arbiter* "$work"/saved* "$work"/newest*
    case $arbiter_kind in
        etcd*)
            etcd_signal CONT
            etcd_down
            for node in $(etcd_members); do rm -rf "$work/etcd-$node"; done
            etcd_start || return 1
            ;;
    esac
    primary=a standby=b
    pair_up
}
empty_disk() { [ -z "$(daemon_pid "$1")" ] && blkdiscard -f -z "$(disk_of "$1")"; }

# --- switchovers back to back ------------------------------------------------------------------------------------

# weigh: open files and resident KiB of each engine and agent.
weigh() {
    local node pid
    for node in a b; do
        for pid in $(engine_pid $node) $(agent_pid $node); do
            printf '%s-%s %d %d\n' "$node" "$(cut -c8- "/proc/$pid/comm")" "$(ls "/proc/$pid/fd" | wc -l)" "$(awk '/^VmRSS/ { print $2 }' "/proc/$pid/status")"
        done
    done
}
# Files may come and go with connections; memory may settle, and is not to grow with the count.
FD_GROWTH=4 RSS_GROWTH_KIB=4096

# leak TIMES: that many switchovers under one verified load.
leak() {
    local times=$1 reason='' number warm=$(( $1 / 10 ))
    say "switchover-leak ($arbiter_kind): $(row switchover-leak 5)"
    : > "$work/log"
    : > "$work/timeline"
    : > "$work/weights"
    start_load switchover-leak
    for number in $(seq "$times"); do
        mark
        tw "$primary" switchover >> "$work/log" 2>&1 || { reason="switchover $number was refused"; break; }
        wait_for 10 "$standby to serve" serves "$standby" 2>> "$work/log" || { reason="switchover $number did not end"; break; }
        swap
        case $number in "$warm"|"$((times / 2))"|"$times") sleep 1; weigh | sed "s/^/$number /" >> "$work/weights" ;; esac
        wait_for 10 "both copies to be up to date" both_synced 2>> "$work/log" || { reason="no two copies after switchover $number"; break; }
    done
    mark
    end_load
    awk '{ printf "  after %4d switchovers  %-8s %3d files  %6d KiB resident\n", $1, $2, $3, $4 }' "$work/weights"
    # Against the first weighing: everything has been used once by then.
    [ -n "$reason" ] || reason=$(awk -v fds=$FD_GROWTH -v kib=$RSS_GROWTH_KIB '
        !($2 in fd) { fd[$2] = $3; rss[$2] = $4 }
        $3 > fd[$2] + fds || $4 > rss[$2] + kib { print $2 " grows: " fd[$2] " to " $3 " files, " rss[$2] " to " $4 " KiB"; exit }' "$work/weights")
    jq -r '.windows_ms[1:-1] | length as $n | sort as $g
        | "  gaps of \($n) switchovers: p50 \($g[($n * 0.5 | ceil) - 1]) ms, p99 \($g[($n * 0.99 | ceil) - 1]) ms, max \($g[-1]) ms",
          ([range(0; $n)] | group_by($g[.] / 20 | floor)[] | "  \(($g[.[0]] / 20 | floor) * 20 | tostring | (" " * (5 - length)) + .) ms and more \(length | tostring | (" " * (5 - length)) + .)  \("#" * ((length * 60 / $n) | ceil))")' "$work/load.json" || true
    jq -c --arg arbiter "$arbiter_kind" --arg reason "$reason" --rawfile weights "$work/weights" --argjson limit "$(row switchover-leak 2)" \
        '. as $all | .windows_ms[1:-1][] | {drill: "switchover-leak", arbiter: $arbiter, gap_ms: ., return_gap_ms: 0, limit_ms: $limit,
          acked: 0, lost: 0, stale: 0, taken_back: 0, corrupt: 0},
          ($all | {drill: "switchover-leak", arbiter: $arbiter, weights: $weights, acked, verified, lost, stale, taken_back, corrupt, scsi_errors, logins})' \
        "$work/load.json" > "$work/verdict" 2>> "$work/log" || true
    jq -c 'select(.gap_ms)' "$work/verdict" >> "$json"
    jq -r '"  acked \(.acked), verified \(.verified), lost \(.lost), stale \(.stale), taken back \(.taken_back), torn \(.corrupt), errors \(.scsi_errors), logins \(.logins)"' "$work/load.json" || true
    [ "$load_status" = 0 ] || reason=${reason:-"the client was wronged (status $load_status)"}
    [ -z "$reason" ] || { say "  FAIL $reason"; cat "$work/log" "$work/load.log"; return 1; }
}

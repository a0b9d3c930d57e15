# A cluster of real Corosync and Pacemaker in the namespaces of lib-net.sh: servers a and b, and w, which only votes. Each
# node has network, mounts, process ids and host name of its own, so that a "machine" can lose its power: every process of its
# PID namespace dies at once. Source lib.sh and lib-net.sh first; set `work`.
#
# Files that a machine keeps over a loss of power are in $work/node-NAME; /run and /dev/shm are the machine's memory.
# The stonith device `fence_ns` asks a power switch outside all machines, as it would ask a management board: see
# power_switch.

ns_w=$net_id-w
cluster_nodes='a b w'

# cluster_net: the third node's namespace and plug.
cluster_net() {
    ip netns add "$ns_w"
    ip -n "$ns_w" link set lo up
    _plug "$ns_w" eth0 10.77.0.3 clients
}

_node_number() { case $1 in a) echo 1 ;; b) echo 2 ;; w) echo 3 ;; esac; }

# cluster_files [two_node]: corosync's configuration, and the directories that stand for each machine's disk.
cluster_files() {
    local name number
    mkdir -p "$work/power"
    for name in $cluster_nodes; do
        mkdir -p "$work/node-$name"/{corosync,libcorosync,log}
        cp -a /var/lib/pacemaker "$work/node-$name/libpacemaker"
        find "$work/node-$name/libpacemaker" -type f -delete
        mkdir -p "$work/node-$name/log/pacemaker"
        chown hacluster:haclient "$work/node-$name/log/pacemaker"
        {
            cat <<CONF
totem {
    version: 2
    cluster_name: drill
    transport: knet
    crypto_cipher: none
    crypto_hash: none
    token: ${TOKEN_MS:-3000}
}
quorum {
    provider: corosync_votequorum
CONF
            case $cluster_nodes in *w*) ;; *) say '    two_node: 1' ;; esac
            say '}'
            printf 'logging {\n    to_stderr: yes\n    to_syslog: no\n    to_logfile: no\n    timestamp: hires\n}\n'
            say 'nodelist {'
            for number in $cluster_nodes; do
                printf '    node {\n        name: %s\n        nodeid: %s\n        ring0_addr: 10.77.0.%s\n    }\n' "$number" "$(_node_number "$number")" "$(_node_number "$number")"
            done
            say '}'
        } > "$work/node-$name/corosync/corosync.conf"
    done
}

# _programs_of_machines: what every machine has besides the system's own: the resource agent and the fence agent. They lie
# over the system's directories in each machine's own mount namespace; nothing is installed here.
_programs_of_machines() {
    mkdir -p "$work/sbin" "$work/ocf/twinlun"
    cp "$top/scripts/ocf/lun" "$work/ocf/twinlun/lun"
    sed "s|@SWITCH@|$work/power|" > "$work/sbin/fence_ns" <<'FENCE'
#!/bin/sh
# The stonith device of the drills: asks the power switch outside, and says what it says.
power=@SWITCH@ action=reboot plug=
while read -r line; do
    case $line in
        action=*|option=*) action=${line#*=} ;;
        plug=*|port=*) plug=${line#*=} ;;
        nodename=*) [ -n "$plug" ] || plug=${line#*=} ;;
    esac
done
case ${1:-} in -o) action=$2 ;; esac
metadata() {
    cat <<'XML'
<?xml version="1.0" ?>
<resource-agent name="fence_ns" shortdesc="Power switch of the drills">
<longdesc>Ends every process of a machine that is a set of namespaces.</longdesc>
<vendor-url>about:blank</vendor-url>
<parameters>
<parameter name="action" unique="0" required="0"><getopt mixed="-o, --action=[action]" /><content type="string" default="off" /><shortdesc lang="en">Fencing action</shortdesc></parameter>
<parameter name="plug" unique="0" required="1" obsoletes="port"><getopt mixed="-n, --plug=[id]" /><content type="string" /><shortdesc lang="en">Machine</shortdesc></parameter>
</parameters>
<actions>
<action name="on" automatic="0"/><action name="off" /><action name="reboot" /><action name="status" /><action name="monitor" /><action name="metadata" />
</actions>
</resource-agent>
XML
}
ask() {
    answer=$(mktemp "$power/answer.XXXXXX")
    printf '%s %s %s\n' "$1" "$plug" "$answer" > "$power/switch"
    for _ in $(seq 200); do
        if [ -s "$answer" ]; then read -r said < "$answer"; rm -f "$answer"; [ "$said" = done ]; return; fi
        sleep 0.05
    done
    rm -f "$answer"
    return 1
}
case $action in
    metadata) metadata ;;
    monitor) [ -p "$power/switch" ] ;;
    status) if [ ! -p "$power/switch" ]; then exit 1; elif [ -e "$power/$plug.on" ]; then exit 0; else exit 2; fi ;;
    off|reboot) [ -p "$power/switch" ] && ask off ;;
    on) exit 0 ;;
    *) exit 1 ;;
esac
FENCE
    chmod 755 "$work/sbin/fence_ns" "$work/ocf/twinlun/lun"
}

# power_switch: takes orders from fence_ns until the end of the script. It hangs on no network, as a management board.
power_switch() {
    mkfifo "$work/power/switch"
    (
        trap - EXIT INT TERM
        exec 5<> "$work/power/switch"
        while read -r order target answer <&5; do
            printf '%s fence %s %s\n' "$(date -u +%T.%3N)" "$order" "$target" >> "$work/power/log"
            if [ "$order" = off ] && machine_off "$target"; then say 'done' > "$answer"; else say 'failed' > "$answer"; fi
        done
    ) >> "$work/log" 2>&1 4>&- &
    switch_pid=$!
}
# fencing_breaks, fencing_mends: the stonith device is dead, and again.
fencing_breaks() { mv "$work/power/switch" "$work/power/switch.away"; }
fencing_mends() { mv "$work/power/switch.away" "$work/power/switch"; }

# machine_on NAME: the machine boots, its cables are in, and its cluster software starts.
machine_on() {
    local name=$1 dir=$work/node-$1
    ip -n "$net_id-$name" link set eth0 up
    ip -n "$net_id-$name" link set eth1 up 2>/dev/null || true
    # shellcheck disable=SC2016  # the inner shell expands it
    ip netns exec "$net_id-$name" unshare --mount --uts --ipc --pid --fork --mount-proc --kill-child \
        sh -c '
            set -e
            dir=$1
            work=$3
            hostname "$2"
            mount -t tmpfs tmpfs /run
            mount -t tmpfs tmpfs /dev/shm
            mount --bind "$dir/corosync" /etc/corosync
            mount --bind "$dir/libcorosync" /var/lib/corosync
            mount --bind "$dir/libpacemaker" /var/lib/pacemaker
            mount --bind "$dir/log" /var/log
            mount -t overlay overlay -o "lowerdir=$work/sbin:/usr/sbin" /usr/sbin
            mount -t overlay overlay -o "lowerdir=$work/ocf:/usr/lib/ocf/resource.d" /usr/lib/ocf/resource.d
            mkdir -p /run/lock /run/resource-agents /run/crm
            chown hacluster:haclient /run/crm
            corosync -f >> "$dir/corosync.log" 2>&1 &
            until corosync-cfgtool -s > /dev/null 2>&1; do sleep 0.1; done
            PCMK_logfile=/var/log/pacemaker/pacemaker.log pacemakerd -f >> "$dir/pacemakerd.log" 2>&1 &
            # Process 1 of the machine: it reaps what loses its parent.
            while :; do wait || :; sleep 1; done' \
        machine "$dir" "$name" "$work" >> "$work/log" 2>&1 4>&- &
    printf '%s\n' "$!" > "$work/power/$name.pid"
    : > "$work/power/$name.on"
}

# machine_off NAME: it has no power: first the cables, so that nothing of its end is heard, then every process at once.
machine_off() {
    local outer inner
    ip -n "$net_id-$1" link set eth0 down
    ip -n "$net_id-$1" link set eth1 down 2>/dev/null || true
    outer=$(cat "$work/power/$1.pid" 2>/dev/null) || return 0
    inner=$(machine_init "$1")
    [ -z "$inner" ] || kill -KILL "$inner" 2>/dev/null || true
    [ -z "$inner" ] || wait_for 10 "machine $1 to be off" ended "$inner" || return 1
    wait_for 10 "machine $1 to be gone" machine_empty "$1" || return 1
    kill -KILL "$outer" 2>/dev/null || true
    rm -f "$work/power/$1.on" "$work/power/$1.pid"
    # What only its kernel remembered.
    ip -n "$net_id-$1" address del "$vip/24" dev eth0 2>/dev/null || true
}
# What a machine leaves in its network namespace must be gone; processes that only look in from outside do not count.
machine_empty() {
    local pid
    for pid in $(ip netns pids "$net_id-$1" 2>/dev/null); do
        case $(cat "/proc/$pid/comm" 2>/dev/null) in corosync|pacemaker*|twinlund) return 1 ;; esac
    done
}

# machine_init NAME: the process id, outside, of the machine's process 1.
machine_init() {
    local outer
    outer=$(cat "$work/power/$1.pid" 2>/dev/null) || return 0
    pgrep -P "$outer" 2>/dev/null | head -n 1
}
# in_machine NAME COMMAND…: as if it were typed there.
in_machine() {
    local inner
    inner=$(machine_init "$1")
    [ -n "$inner" ] || return 1
    shift
    nsenter --target "$inner" --mount --uts --ipc --net --pid -- "$@" 4>&- < /dev/null
}

# cluster_up: all machines boot and agree on who leads the cluster.
cluster_up() {
    local name
    cluster_files
    _programs_of_machines
    power_switch
    for name in $cluster_nodes; do machine_on "$name"; done
    wait_for 90 "the cluster to have all its nodes" all_online
}
all_online() {
    local xml
    xml=$(in_machine "${1:-a}" crm_mon --output-as=xml) || return 1
    [ "$(grep -c '<node name="[abw]" .*online="true".*unclean="false".*type="member"' <<< "$xml")" = "$(wc -w <<< "$cluster_nodes")" ]
}

cluster_down() {
    local name
    end_process "${switch_pid:-}" 2
    for name in $cluster_nodes; do machine_off "$name" 2>/dev/null || true; done
    ip netns del "$ns_w" 2>/dev/null || true
}

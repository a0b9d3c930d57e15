# Two servers and a client in network namespaces of their own, for the demo and the crash test.
#
#            client network 10.77.0.0/24                    replication network 10.78.0.0/24
#   client .9 ── ┌────────┐ ── .1 server a                  server a .1 ── ┌──────┐
#                │ switch │ ── .2 server b                  server b .2 ── │switch│
#                └────────┘    .100 service address         (veth pairs; the switches are bridges)
#
# All names carry the PID of the script that made them; `net_down` removes exactly those.

net_id=tl$$
ns_a=$net_id-a ns_b=$net_id-b ns_client=$net_id-c ns_switch=$net_id-s
vip=10.77.0.100
portal=$vip:3260

in_ns() { local ns=$1; shift; ip netns exec "$ns" "$@"; }

# _plug NAMESPACE DEVICE ADDRESS BRIDGE: a veth pair from the namespace to a bridge of the switch.
_plug() {
    local ns=$1 dev=$2 address=$3 bridge=$4 port
    port=$dev-${ns##*-}
    ip -n "$ns_switch" link add "$port" type veth peer name "$dev" netns "$ns"
    ip -n "$ns_switch" link set "$port" master "$bridge" up
    ip -n "$ns" address add "$address/24" dev "$dev"
    ip -n "$ns" link set "$dev" up
}

net_up() {
    local ns bridge
    for ns in "$ns_a" "$ns_b" "$ns_client" "$ns_switch"; do
        ip netns add "$ns"
        ip -n "$ns" link set lo up
    done
    for bridge in clients repl; do
        ip -n "$ns_switch" link add "$bridge" type bridge
        ip -n "$ns_switch" link set "$bridge" up
    done
    _plug "$ns_a" eth0 10.77.0.1 clients
    _plug "$ns_b" eth0 10.77.0.2 clients
    _plug "$ns_client" eth0 10.77.0.9 clients
    _plug "$ns_a" eth1 10.78.0.1 repl
    _plug "$ns_b" eth1 10.78.0.2 repl
}

net_down() {
    local ns
    for ns in "$ns_a" "$ns_b" "$ns_client" "$ns_switch"; do
        ip netns del "$ns" 2>/dev/null || true
    done
}

# net_cut a|b, net_heal a|b: all links of a server, as a dead switch or a pulled plug would.
net_cut() { ip -n "$net_id-$1" link set eth0 down; ip -n "$net_id-$1" link set eth1 down; }
net_heal() { ip -n "$net_id-$1" link set eth0 up; ip -n "$net_id-$1" link set eth1 up; }

# The service address: one server has it; taking it over tells the neighbours at once.
vip_drop() { ip -n "$net_id-$1" address del "$vip/24" dev eth0 2>/dev/null || true; }
vip_take() {
    ip -n "$net_id-$1" address add "$vip/24" dev eth0
    if command -v arping >/dev/null; then
        in_ns "$net_id-$1" arping -q -U -c 2 -w 1 -I eth0 "$vip" >/dev/null 2>&1 &
    else
        in_ns "$ns_client" ip neigh flush dev eth0
    fi
}

# power_off a|b: the node is gone at once, nothing of it is said any more: first the cables, then every process, then
# what only its kernel remembered. power_on a|b: the cables again; somebody must start the daemons.
power_off() {
    local pid
    net_cut "$1"
    for pid in $(ip netns pids "$net_id-$1"); do kill -KILL "$pid" 2>/dev/null || true; done
    for pid in $(ip netns pids "$net_id-$1"); do wait_for 10 "process $pid to be gone" ended "$pid" || return 1; done
    vip_drop "$1"
    in_ns "$net_id-$1" ss -K src "$vip" > /dev/null 2>&1 || true
}
power_on() { net_heal "$1"; }

# port_down a|b eth0|eth1, port_up …: the switch's port of that cable.
port_down() { ip -n "$ns_switch" link set "$2-$1" down; }
port_up() { ip -n "$ns_switch" link set "$2-$1" up; }

# port_slow a|b eth0|eth1, port_fast …: what goes to that server over that cable, 20 Mbit/s with a queue of 0.1 s; or as
# fast as it goes.
port_slow() { ip netns exec "$ns_switch" tc qdisc add dev "$2-$1" root tbf rate 20mbit burst 32k latency 100ms; }
port_fast() { ip netns exec "$ns_switch" tc qdisc del dev "$2-$1" root 2>/dev/null || true; }

# deaf a|b DEVICES, mute a|b DEVICES: nothing comes in, nothing goes out there ('eth*': on any network). hearing a|b: as
# before.
deaf() { in_ns "$net_id-$1" nft "add table inet drill; add chain inet drill in { type filter hook input priority 0; }; add rule inet drill in iifname \"$2\" drop"; }
mute() { in_ns "$net_id-$1" nft "add table inet drill; add chain inet drill out { type filter hook output priority 0; }; add rule inet drill out oifname \"$2\" drop"; }
hearing() { in_ns "$net_id-$1" nft delete table inet drill 2>/dev/null || true; }

//! A pair as a resource of a Pacemaker cluster.
//!
//! For those who run Corosync and Pacemaker anyway. Pacemaker decides which node leads, switches lost nodes off, and moves
//! the service address; twinlun's resource agent `ocf:twinlun:lun` does what it is told, and the engine asks the record in
//! the cluster's CIB whether it may. Where there is no cluster yet, `etcd` on any third machine is less to run and fails
//! over in a second; Pacemaker takes the time of Corosync's token, of fencing, and of its own resource agents.
//!
//! # What is needed
//!
//! - Both nodes in one cluster, under the names that `[node.…]` has. `crm_node --name` tells them.
//! - *Fencing that works*, for both nodes: `stonith-enabled=true` and a stonith device for each (or a hardware watchdog with
//!   `stonith-watchdog-timeout`). Without it the resource does not start and nothing is promoted. `startup-fencing=false` is
//!   refused too.
//! - *Quorum*: a third node, or a quorum device (`pcs quorum device add model net host=… algorithm=ffsplit`), or for two
//!   nodes alone `two_node: 1` in corosync.conf. Then the nodes race to fence each other when their link is cut;
//!   `priority-fencing-delay` with a priority of the resource lets the primary win. `no-quorum-policy=ignore` does not help:
//!   the engine asks for quorum itself.
//! - No `[agent]`, and no `twinlun-agent` or `twinlund` started by systemd: the cluster starts the engine.
//!
//! # Setting it up
//!
//! On both nodes: `scripts/ocf/lun` as `/usr/lib/ocf/resource.d/twinlun/lun` (mode 755), and `/etc/twinlun/twinlun.toml`,
//! the same on both, with
//!
//! ```toml
//! [target]
//! iqn = "iqn.2026-11.lan.example:vol1"
//! portals = ["192.0.2.100:3260"]     # the service address
//!
//! [arbiter]
//! kind = "pacemaker"                 # no further keys
//! ```
//!
//! Format both disks (`twinlun init --assume-clean` where both are new). Where one of them holds the data, do
//! `twinlun up` on both, `twinlun promote --seed` on that one, wait for the resync, and `twinlun down` on both, before the
//! resource is made. Then, with pcs:
//!
//! ```text
//! pcs stonith create fence-a fence_ipmilan ip=10.0.9.1 username=op password=… lanplus=1 pcmk_host_list=stor-a
//! pcs stonith create fence-b fence_ipmilan ip=10.0.9.2 username=op password=… lanplus=1 pcmk_host_list=stor-b
//! pcs property set priority-fencing-delay=5s
//! pcs resource create vol1 ocf:twinlun:lun \
//!     op monitor interval=3s role=Promoted timeout=20s op monitor interval=10s role=Unpromoted timeout=20s \
//!     op start timeout=60s op stop timeout=90s op promote timeout=120s op demote timeout=60s \
//!     meta priority=10 promotable promoted-max=1 clone-max=2 notify=true interleave=true --disabled
//! pcs resource create vol1-ip ocf:heartbeat:IPaddr2 ip=192.0.2.100 cidr_netmask=24 op monitor interval=10s
//! pcs constraint colocation add vol1-ip with Promoted vol1-clone INFINITY
//! pcs constraint order promote vol1-clone then start vol1-ip
//! pcs constraint location vol1-clone avoids quorum-node      # if there is a third node
//! pcs resource enable vol1-clone
//! ```
//!
//! or with crm:
//!
//! ```text
//! crm configure primitive fence-a stonith:fence_ipmilan params ip=10.0.9.1 username=op password=… lanplus=1 pcmk_host_list=stor-a
//! crm configure primitive fence-b stonith:fence_ipmilan params ip=10.0.9.2 username=op password=… lanplus=1 pcmk_host_list=stor-b
//! crm configure property priority-fencing-delay=5s
//! crm configure primitive vol1 ocf:twinlun:lun \
//!     op monitor interval=3s role=Promoted timeout=20s op monitor interval=10s role=Unpromoted timeout=20s \
//!     op start timeout=60s interval=0 op stop timeout=90s interval=0 \
//!     op promote timeout=120s interval=0 op demote timeout=60s interval=0 meta priority=10
//! crm configure clone vol1-clone vol1 meta promotable=true promoted-max=1 clone-max=2 notify=true interleave=true target-role=Stopped
//! crm configure primitive vol1-ip ocf:heartbeat:IPaddr2 params ip=192.0.2.100 cidr_netmask=24 op monitor interval=10s
//! crm configure colocation vol1-ip-with-primary inf: vol1-ip:Started vol1-clone:Promoted
//! crm configure order vol1-before-ip Mandatory: vol1-clone:promote vol1-ip:start
//! crm configure location vol1-not-there vol1-clone -inf: quorum-node
//! crm resource start vol1-clone
//! ```
//!
//! The address comes after the promotion and goes before the demotion, so no initiator is refused a LUN that is about to
//! come. Its kernel answers the segments of old connections with a reset; `ocf:heartbeat:portblock` with `tickle_dir` can
//! call idle initiators over, as `twinlun-agent` does elsewhere.
//!
//! # Running it
//!
//! | to do | command |
//! |---|---|
//! | look | `crm_mon -1`, `twinlun status` |
//! | move the service | `pcs resource move vol1-clone --promoted` (crm: `crm resource move vol1-clone`), then `clear` |
//! | take a node out | `pcs node standby stor-a`, `pcs node unstandby stor-a` |
//! | say that a node is off when fencing failed | `stonith_admin --confirm stor-a`, after it *is* off |
//!
//! `twinlun promote`, `demote` and `switchover` by hand are for a resource that is unmanaged.
//!
//! Points of preference: the primary and the last primary 10000, another good copy 1000, a copy that the record leaves out
//! or that is not whole minus infinity. There is no failback: the node that leads has the most points.
//!
//! # What happens when
//!
//! | failure | then |
//! |---|---|
//! | the primary's engine dies | Pacemaker's monitor finds it (at most its interval) and starts the engine again; the same node is promoted again, which keeps the best score, unless `migration-threshold=1` sends the role to the other one; nobody is fenced |
//! | the primary node is lost | Corosync's token is lost, the node is fenced, the other one is promoted |
//! | the standby node is lost | writes are held until it has been fenced, then the primary goes on alone |
//! | only the replication link is cut | the primary goes on alone as soon as the other node's copy of the CIB shows it; nobody is fenced |
//! | the part of the cluster has no quorum | nothing is decided; Pacemaker stops the resource there |
//! | fencing fails | requests are held until it works, or a person confirms |
//! | both nodes were off | both are needed, unless the one that comes back was alone before: its own disk says so |
//! | the CIB was restored from an older copy | its epoch is below what a node has seen: nothing is promoted, and `twinlun status` says how to go on |
//!
//! # The record
//!
//! It is a property set of its own, `twinlun-VOLUME`, with the record and, while a change is under way, the bid for it:
//! `cibadmin --query --xpath "//cluster_property_set[@id='twinlun-vol1']"`. Do not edit it.
//!
//! A write to the CIB is not a commit: it is answered when the own node has it, and when two parts of a cluster meet again
//! one copy replaces the other. So a change is bid for, shown by the other node's own copy of the CIB (or that node is
//! fenced or shut down in order), then made under the guard of the old record, of the bid and of quorum, with `admin_epoch`
//! raised so that it outlives a meeting, and shown once more. That a node may serve alone needs, besides, that it has met
//! the other one since it started (F5 of [`super::failover`]). The rules stand in `arbiter::pacemaker::rules`, with a test
//! that walks clusters of two and three nodes through cuts in the middle of a message, lost writes of the CIB to its disk, and
//! fences; `scripts/drills-pacemaker` does it with real ones.

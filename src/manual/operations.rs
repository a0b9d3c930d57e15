//! Running a pair.
//!
//! # Setting up
//!
//! The README walks through it. The configuration is one TOML file, the same bytes on both nodes; the node is the one
//! called like the host, or `--node NAME`. `twinlun config check` says what is wrong with the file and with what it
//! names on this machine. An unknown key is an error that names the nearest valid one.
//!
//! `twinlun init` writes metadata to this node's disk. It refuses a disk that carries a filesystem, a partition table,
//! or signatures of LVM, MD or DRBD, or is mounted or held, unless `--force DEVICE` repeats the path. On two new disks,
//! run it with `--assume-clean` on both: nothing has to be copied. On a disk with data to keep, run plain `init` on
//! both nodes and `twinlun promote --seed` on the one with the data: the other gets a full copy.
//!
//! # Verbs
//!
//! | verb | does | refuses (4) when |
//! |---|---|---|
//! | `up`, `down` | start daemon and agent; or hand over if the peer can take it, drain, and stop both | |
//! | `status` | verdict, both copies, resync with rate and ETA, sessions, what to do next | |
//! | `promote` | this node serves | this copy may lack acknowledged writes; the nodes have not met yet (`--yes`: full copy later) |
//! | `demote` | drains and stops serving | |
//! | `switchover` | drains here, promotes there; both copies stay in sync | the peer is not in sync |
//! | `standby`, `unstandby` | keep the service away from this node (until its agent ends), or allow it again | |
//! | `connect`, `disconnect` | allow or drop the replication link | |
//! | `events` | what happened and why | |
//!
//! Exit codes: 0 done, 1 failed, 2 wrong usage or configuration, 3 the daemon does not answer, 4 refused for the data's
//! safety, 5 timed out. `--json` gives one object, schema 1; fields are only ever added.
//!
//! A daemon that `up` started logs to `run_dir/NODE.log`, at most 8 MiB, and the 8 MiB before are in `NODE.log.1`; under
//! systemd (`twinlund`, or `up --foreground`) it logs to the journal.
//!
//! When the nodes connect they compare their configuration files; if these differ, both say so (`config_differs`, a
//! line of `status`) and go on.
//!
//! # Who may log in
//!
//! Without a rule every initiator that reaches a portal may use the disk: keep the portals on a network of their own,
//! or say who may. An initiator's name proves nothing; CHAP does. iSCSI is not encrypted.
//!
//! ```toml
//! [target.chap]                      # what a session must show
//! user = "win-host"
//! secret_file = "/etc/twinlun/chap-in"           # 12 to 16 bytes, mode 0600: Windows takes no others
//! target_user = "disk"                           # and what the target shows, if it is asked (mutual CHAP)
//! target_secret_file = "/etc/twinlun/chap-out"   # another secret
//! algorithms = ["sha256", "md5"]                 # default: sha3-256, sha256, sha1, md5; Windows knows md5
//!
//! [target.discovery_chap]            # the same keys, for discovery
//!
//! [[target.initiator]]               # with one of these, only initiators that fit one may log in; the first counts
//! names = ["iqn.1991-05.com.microsoft:*"]        # `*` and `?`
//! networks = ["192.0.2.0/24", "2001:db8::/32"]
//! luns = [0]                                     # default: all; { 7 = 0 } shows unit 0 as LUN 7; [] shows none
//! chap = { user = "b", secret_file = "/etc/twinlun/chap-b" }   # instead of [target.chap]
//! ```
//!
//! | key of `[target]` | default | |
//! |---|---|---|
//! | `login_timeout` | 15s | from the connection to the end of the login |
//! | `ping_interval`, `ping_timeout` | 15s, 15s | silence after which an initiator is pinged, and dropped |
//! | `header_digest`, `data_digest` | any | `required`: CRC32C wherever the initiator offers it; else what it likes best |
//! | `vendor`, `product`, `revision`, `serial`, `naa` | twinlun's, from the names | who the disk says it is |
//! | `serial_form` | `plain` | `lio`: pages 80h and 83h write the serial number as LIO does |
//! | `max_half_open`, `max_half_open_per_address` | 64, 16 | connections that have not logged in |
//! | `max_sessions`, `max_sessions_per_initiator` | 128, 32 | beyond them a login is answered "out of resources" (0302h) |
//!
//! # Taking over a disk from another target
//!
//! Initiators do not notice when the name of the target, what INQUIRY says of the disk, its size and its data stay the
//! same. All of that can come along; `twinlun` changes nothing on the old side, and the way back is open until the first
//! `promote`.
//!
//! **From LIO** (also under Pacemaker, with DRBD below):
//!
//! 1. On the node that serves: `targetcli saveconfig lio.json`, `blockdev --getsize64` of the backstore's device.
//! 2. `twinlun config import lio lio.json --secrets /etc/twinlun > /etc/twinlun/twinlun.toml`: name, serial number,
//!    NAA, vendor, product and revision as LIO derives them, portals, initiators with their LUN numbers, CHAP. With
//!    several targets or LUNs, `--target` and `--lun` choose. Read the remarks at its head; add `[replication]`,
//!    `[arbiter]`, `[agent]` and the nodes (README, "Two servers"). The portal becomes the pair's service address.
//! 3. `volume.size` is the size that initiators saw, to the byte (`echo $(($(blockdev --getsize64 DEVICE) / 1024))KiB`).
//! 4. Stop the old target on both nodes, and DRBD: `drbdadm down` (nothing may have the device open).
//! 5. `twinlun init --keep-data` on the node with the data, plain `init --force DISK` on the other, `up` on both, `twinlun
//!    promote --seed` on the first. The other node gets a full copy. Were both copies of DRBD UpToDate when it was
//!    stopped, `init --keep-data --assume-clean` on both saves the copying; then `promote`.
//!
//! Identical to LIO, byte for byte: vendor, product and revision, VPD page 80h, and the designators of the logical unit
//! in page 83h (`serial_form = "lio"`). Others: relative port and target port group numbers, the version descriptors,
//! limits in page B0h. Persistent reservations do not come along: clusters register again.
//!
//! **From tgt or others**: set `iqn`, `vendor`, `product`, `revision` and `serial` in `[target]` to what `sg_inq` and
//! `sg_vpd -p sn` tell on a client, and `naa` to the designator of type NAA 6h that `sg_vpd -p di` shows.
//! The T10 designator (tgt's is `IET     00010001`) then differs; Windows, Linux and ESX go by the NAA where there is one.
//! A disk without NAA 6h is a new disk with the old data to them: set it offline on the client before, and online after.
//!
//! **Where the metadata goes.** Data begins at byte 0 of the disk as it did; twinlun's metadata is at the end: 33 MiB for
//! each TiB and 0.6 MiB. DRBD's internal metadata was there too, and has 32 MiB for each TiB and a peer, so that the
//! volume does not quite fit: enlarge the logical volume (`lvextend -L +64M`), or give the metadata a device of its own
//! (`metadata` in `[node.NAME]`). A disk that LIO served without DRBD has no room either. `init --keep-data` refuses a
//! volume that is smaller than what DRBD, a partition table or a file system on the disk claims, and a disk without
//! room behind it; it never shrinks anything.
//!
//! # What the states mean
//!
//! | disk state | the copy… |
//! |---|---|
//! | UpToDate | holds every acknowledged write |
//! | Consistent | is whole; whether it is current is not known without the peer or the arbiter |
//! | Inconsistent | is the target of an unfinished resync and must not be served |
//! | Outdated | is whole but lacks writes that the peer acknowledged |
//! | Diskless | cannot be used: its device failed |
//!
//! # Two paths
//!
//! With `[target] paths = "vip"` (the default) initiators use one service address, which is at the node that leads. With
//! `paths = "alua"` each `[node.NAME]` has `portals` of its own; an initiator with multipath logs in at both, discovery at
//! either names both, and REPORT TARGET PORT GROUPS tells which is the better one (active/optimized: the node that
//! leads). The other forwards over the replication link, so every path works, also during a resync. A switchover keeps
//! the sessions. A node that is not connected to the leader takes no sessions.
//!
//! `paths = "both"` offers both at once: `target.portals` names the service address, `[node.NAME]` the nodes' own. An
//! initiator sees the one or the other, by which it comes: discovery at the service address names that address alone
//! (portal group 3), at a node's address those of the nodes (groups 1 and 2).
//!
//! With `[agent]` the survivor takes a dead node's own portal addresses too, so that the paths to them fail and come back
//! at once instead of hanging until the initiator's patience ends: see [`failover`](super::failover).
//!
//! # Initiators that come back fast
//!
//! After a lost connection an initiator waits DefaultTime2Wait before it logs in again. The target asks for none; Windows
//! follows, open-iscsi asks for two seconds of its own: `node.session.iscsi.DefaultTime2Wait = 0` in
//! `/etc/iscsi/iscsid.conf` saves them at every takeover. With multipath, a path to a dead node is given up after
//! `node.conn[0].timeo.noop_out_interval` + `noop_out_timeout` + `node.session.timeo.replacement_timeout`: 5 + 5 + 120 s
//! unless changed, and 2, 2, and 1 are good, with `fast_io_fail_tmo 1` in `/etc/multipath.conf`, which overrides the last.
//!
//! # What the disk remembers of its initiators
//!
//! Reservations, mode parameters and resets are one small record on both disks. A change is answered when both nodes hold
//! it and go by it, or when the other one is out by the arbiter's word; while neither can be said it waits, as a write
//! does, and where nobody may serve its session is dropped. So a cluster keeps its disk through a takeover and through the
//! loss of both nodes' power.
//!
//! - *Persistent reservations* (SPC-4): every type and service action, SPEC_I_PT, ALL_TG_PT. Registrations always persist,
//!   whatever APTPL says. Up to 512 registrations, fewer where initiators' names are long; then 05/55/04 is answered. A
//!   registration belongs to the initiator's name and ISID at one target port: with `paths = "alua"` each node has its
//!   own, with `"vip"` both are one, so nobody need register anew after a takeover.
//! - *RESERVE and RELEASE* last as long as the session, or until a reset. What a lost node's initiators had is given up by
//!   the node that goes on; everybody else hears of a reset (06/29/00).
//! - *Mode parameters*: WCE (page 08h; cleared, every write is stable on both disks before it is answered), D_SENSE, SWP
//!   and TAS (page 0Ah). With SP they are saved; a reset brings the saved ones back.
//!
//! To see and to remove what a lost cluster left behind: `sg_persist --in --full-status`, then register and `--clear`.
//!
//! # When something broke
//!
//! | you see | it means | do |
//! |---|---|---|
//! | `degraded`, link connecting | one node serves; the other is not reachable | start it, or mend the replication network; resync begins by itself |
//! | `suspended` | the primary lost its peer and may not go on alone yet | bring the peer or the arbiter back; with `manual`: fence the peer, then `promote --force --i-have-fenced` |
//! | `inactive` | nobody serves | `promote` on one node |
//! | `split_brain` | both copies took writes apart | see [`failover`](super::failover) |
//! | `failed` | this node's device failed, or answered nothing for 7 s while the peer could serve (`disk_hangs`) | replace it, `init`, `up`: everything is copied from the peer |
//!
//! A daemon that is killed loses nothing: what was acknowledged is on both disks. Its peer takes over by `promote`; the
//! killed one comes back with `up` and is resynchronised.
//!
//! # Stopping both
//!
//! `down` on the primary first: it drains, flushes both copies and empties the activity log. Stopped the other way
//! round, the primary goes on alone for a moment and there is something to resync at the next start.

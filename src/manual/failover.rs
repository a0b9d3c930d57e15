//! Who may serve.
//!
//! # The record
//!
//! One small record, `{epoch, primary, in_sync}`, is kept outside both nodes by the *arbiter* and changed only by
//! compare-and-swap. `in_sync` names the nodes whose copies hold every acknowledged write. A node may serve only if it
//! is in the `in_sync` set of the newest record that was committed (S2). Reading the record gives no right: rights
//! grow only by one's own successful compare-and-swap. The arbiter is asked when `in_sync` or `primary` changes, never
//! for an I/O.
//!
//! # Arbiters
//!
//! | kind | for |
//! |---|---|
//! | `etcd` | any third machine that runs etcd 3.4 or later, or a cluster of etcd: the one to choose |
//! | `fence` | no third machine, but a device that switches either node off, with confirmation |
//! | `pacemaker` | nodes of a Corosync and Pacemaker cluster: see [`super::pacemaker`] |
//! | `file` | two nodes on one machine: tests and the demo. Both must see the same local file. |
//! | `manual` | no third machine: when the peer is lost the primary holds its writes until a person decides |
//!
//! Whatever the kind, a change that has no definite answer is offered again until it has one, and requests are held so
//! long. Offering it twice does no harm: the record carries a nonce. There is no "best effort" kind.
//!
//! ## etcd
//!
//! ```toml
//! [arbiter]
//! kind = "etcd"
//! endpoints = ["https://192.0.2.30:2379"]     # members of one cluster, in the order of preference
//! ca = "/etc/twinlun/etcd-ca.pem"             # who vouches for them; needed for https, no other authority counts
//! cert = "/etc/twinlun/etcd.pem"              # optional: this node's certificate …
//! key = "/etc/twinlun/etcd.key"               # … and its key
//! user = "twinlun"                            # optional; https only
//! password_file = "/etc/twinlun/etcd-password"    # mode 0600
//! cluster = "stor-a+stor-b"                   # optional: the pair's name in etcd; the nodes' names otherwise
//! ```
//!
//! One member on a third machine is enough, and simplest: there is nothing to elect. While it is away nothing happens,
//! unless a node is lost in just that time; then the other one holds its requests until etcd is back. Three members
//! survive the loss of one. Give etcd a disk that syncs quickly, and `--heartbeat-interval 50 --election-timeout 300`.
//!
//! The record is the value of `/twinlun/<cluster>/<volume>`, readable with `etcdctl get`. It says which pair of nodes it
//! belongs to (a digest of the secret, the volume's and the target's name), so that two pairs with one configuration
//! refuse each other's. After a change of the secret the value is a stranger's, and the nodes say so: stop both, read the
//! value, `etcdctl del` it, and promote by force the node that it names in sync.
//!
//! A try has 250 ms; an endpoint that is silent for 75 ms is not waited for, the next is asked as well. Certificates are
//! read when the daemon starts. A client certificate for an etcd with users must have no common name: its gateway
//! refuses those that have.
//!
//! | what etcd does | what the nodes do |
//! |---|---|
//! | does not answer, has no leader | go on as they are; a node that has just lost its peer holds its requests |
//! | is full (alarm NOSPACE) | the same, and say how to make room |
//! | was restored from a backup, or emptied | its epoch is below what a node has seen: the node decides nothing, and if it needed a decision it stops serving and says how to go on |
//! | answers with another cluster's identifier at one endpoint | ask none of them any more, and say which two differ |
//!
//! *After an etcd was restored:* bring back its newest state if there is one. Otherwise compare the epochs in `twinlun
//! status` of both nodes, stop the other node, and on the one with the higher epoch write its record over etcd's:
//! `twinlun promote --force --i-have-fenced NODE`.
//!
//! ## fence
//!
//! ```toml
//! [arbiter]
//! kind = "fence"
//! delay = "2s"                # how long the node that is not primary waits, so that the two do not shoot each other
//! timeout = "60s"             # how long fencing may take, all attempts together
//! [arbiter.node.stor-a]       # what switches stor-a off; stor-b runs it
//! agent = "fence_ipmilan"     # of the package fence-agents, or a full path
//! options = { ip = "10.0.9.1", lanplus = "1", username = "op", password = "…" }
//! [arbiter.node.stor-b]
//! agent = "fence_ipmilan"
//! options = { ip = "10.0.9.2", lanplus = "1", username = "op", password = "…" }
//! ```
//!
//! There is no third vote: each node keeps the record on its own disk, and a node goes on alone only after the other one
//! was switched off. `off` must succeed and `status` must then say that it is off; a failure, a time-out and a doubt
//! are none of these. Where fencing does not succeed in time, requests stay held and a person is asked:
//! `twinlun promote --force --i-have-fenced NODE`. The rules, by the names that the code uses:
//!
//! - *F1, F2* Fence, with confirmation; then the own record, durably; then serve.
//! - *F3* The primary fences at once. The other node waits `delay` (node 1 twice that), so that one of them survives a cut
//!   cable. Both may still die; that costs availability and nothing else.
//! - *F4* A fence that failed is not a fence, however long ago it was.
//! - *F5* A node that has started serves alone only if its own record says that it alone is in sync. It never fences
//!   before it has met the other one: that one may have gone on, and lost its power since. After a loss of power on both
//!   nodes, both are needed, unless one of them was alone before.
//! - *F6* A watchdog is not a fence device: waiting until the other node *should* have reset itself confirms nothing. A
//!   configuration with `fence_sbd` or `fence_watchdog`, with an agent for one node only, or with the same switch for
//!   both, is refused.
//!
//! The device is asked for the other node's status when the daemon starts; if it does not answer, that is an event
//! (`arbiter_silent`) and `twinlun status` shows it.
//!
//! ## file
//!
//! The file is replaced whole, under a lock. A process that is stopped while it holds the lock keeps the other node from
//! changing the record; after a second the other says which process it is.
//!
//! # A peer is lost
//!
//! Writes that are not on both disks are held, not failed. Then, in this order (D3):
//!
//! 1. all disk operations of the old posture have finished, and the own device is flushed;
//! 2. the arbiter has committed `{epoch + 1, me, {me}}`;
//! 3. a new generation identifier is durable on the own disk;
//! 4. the held writes are answered, and every further one marks its blocks out of sync.
//!
//! The arbiter is asked only after it has answered a read. As long as it is out of reach, or is a person who has not
//! spoken, the peer's return ends the wait: what it lacks is copied while requests are held, and they are answered by both
//! copies. Nothing was decided, and the record stays as it is. Not so if the peer was started anew meanwhile and a record is
//! kept: it may have asked for the lead before it died, does not remember, and may be granted it yet. Then, and once the
//! change of step 2 is under way, the arbiter's answer is waited for, however long that takes.
//!
//! Initiators do not wait that long: after `replication.hold_limit` (45 s; `"forever"` for no limit) what is held, and
//! what comes, is answered NOT READY (02/04/0A), which initiators retry. Windows gives a disk up after a minute. The same
//! limit holds between two primaries, at both nodes. Nothing of a request so answered happens later.
//!
//! If step 2 finds that the other node was faster, this node stops serving. Its clients lose their TCP connection and
//! find the other node; they never see an I/O error (S4).
//!
//! # Why two nodes never serve
//!
//! - *Writes:* while both copies are in sync, a write is answered only after the peer acknowledged it in the same
//!   epoch. A peer that took over acknowledges nothing of an older epoch, so the old primary cannot answer.
//! - *Reads:* answered only after the peer confirmed, in a round trip begun after the read arrived, that it still
//!   follows. No clock is trusted, so a paused virtual machine that wakes up hours later answers nothing.
//!   (With `reads = "lease"` otherwise: see below.)
//! - *Alone:* only after its own committed record excluded the other copy, which therefore may not be promoted.
//!
//! The checks stand next to each answer. A node whose other parts died stops serving by itself.
//!
//! # Reads by lease
//!
//! A confirmation costs each read of an idle disk one round trip to the peer. On bare metal it can be spared:
//!
//! ```toml
//! [replication]
//! reads = "lease"         # both nodes; "confirm" is the default
//! ```
//!
//! Every 100 ms the primary asks for a lease, by the control link. The follower promises not to bid for the lead for
//! 700 ms, and the primary answers reads from its own disk for 600 ms, both from what their own clocks (`CLOCK_BOOTTIME`)
//! said before the one asked and after the other heard (R5). Each answer looks at the clock. A read that begins or ends
//! without a lease is confirmed as ever; none fails.
//!
//! What is trusted is that both clocks go, at rates that differ by less than 16 %. **A hypervisor may stop a machine and
//! its clock**, for a snapshot or a migration; the lease then does not run out while the other node takes over, and one
//! that is woken up answers reads with what was. So `twinlun config check` and the daemon refuse `reads = "lease"` in a
//! virtual machine, unless `virtual_machine = "never-paused"` stands beside it: the word of a person that nobody does
//! that here. A stopped *process* is no danger, its clock goes on.
//!
//! Before a node bids for the lead it waits until its promise is over: 700 ms at most after it last heard the primary ask,
//! which is about the `takeover_after` that its agent waits anyway. After a start it waits 700 ms for what it may have
//! promised before (R6), also when leases were switched off meanwhile. Nothing is waited for after a hand-over, after the
//! peer has said in a new session that it does not lead, and where the agent has the death certificate of the very engine
//! that the promise was given to. A primary whose disk fails is replaced 0.7 s later than without leases.
//!
//! Nodes that differ in `reads` refuse each other. To change it: edit both files, restart the secondary (it is refused, the
//! primary goes on alone), then restart the primary; initiators
//! wait until it serves again, and the secondary follows.
//! `twinlun status` shows the state of the lease on either node.
//!
//! # Taking over
//!
//! `twinlun promote` on the surviving node reads the record, drops the link, lets all disk operations finish, flushes,
//! and commits itself as primary. A promotion that is refused has changed nothing. It is refused (exit code 4) if this copy is not in the record's `in_sync`, because then
//! it may lack acknowledged writes. `twinlun promote --force --i-have-fenced NODE` is the only way round, is logged, and
//! destroys data if NODE is in fact alive.
//!
//! Initiators reach the volume at a service address. Whoever promotes moves that address to the new primary and
//! announces it (gratuitous ARP); the new owner has no such TCP connection and answers the next segment with a reset,
//! which is what makes initiators log in again at once.
//!
//! # A planned hand-over
//!
//! `twinlun switchover` asks first whether the arbiter is there. Then what runs finishes on both copies, and one change
//! of the record names the peer, with both copies still counted; the old primary follows in the same session. Requests
//! wait for the draining, that change, and a few messages.
//!
//! # The agent
//!
//! With a section `[agent]`, `twinlun-agent` does all of that by itself. It watches and asks; the engine wins every right
//! by its own compare-and-swap, so an agent that is wrong costs a failover that was not needed, never data, and a
//! dead agent neither holds a write nor grants a right.
//!
//! | seen | then |
//! |---|---|
//! | the primary's agent certifies that its engine has died (a pidfd says so) | take over at once |
//! | silence on every network *and* on the replication link for `takeover_after` (550 ms) | take over |
//! | the primary's agent lives, its engine has not moved for `takeover_after`, and the link is silent | take over |
//! | the primary's agent is silent, the link to its engine is not | nothing: an agent has died |
//! | the replication link is cut, the agents hear each other | nothing: the primary goes on alone |
//! | the primary has held all requests for 5 s (`takeover_after` if it hears nobody) | try to take over: perhaps only it has lost the arbiter |
//! | the primary's way to its clients is down for 0.2 s, the standby's is up | the primary hands over |
//! | the same for half a second longer: its arbiter is where its clients are, say | try to take over |
//! | the primary's disk has answered nothing for 7 s (see below) | its engine gives the lead to the standby, which takes over |
//! | nobody serves after both were down | the last primary first; a node alone waits for `start_wait` (5 s) |
//! | a person has demoted the primary | nothing, until a person promotes |
//!
//! What is refused is asked again after 100 ms, then less and less often, at least every 30 s: an arbiter that has lost
//! its own leader has another one in a moment.
//!
//! Never for a copy that the newest record known to either agent leaves out. After a move, silence must last longer
//! before the next (`hysteresis`, 5 s, doubling with every move within a minute); a certificate is not delayed.
//!
//! *The way to the clients* is down when the interface says so (the kernel tells the agent at once), or when the networks
//! that clients are on are silent while the peer is heard on another one, and none of the initiators answers when it is
//! asked for its address (ARP, neighbour solicitation). Both agents ask; so a switch that is dead behind a living cable
//! moves the service too, and only to the node that still has clients. Where no initiator is known on the link, the
//! interface's word counts.
//!
//! *Failback* never happens by itself, unless `prefer = "stor-a"` names a node. Then the service goes back by a planned
//! hand-over when that node has been alive, whole, and in sync for `failback_after` (60 s), twice as long with each time
//! that it was lost within the hour; and only if it was lost: what a person moved with `switchover` stays.
//!
//! Heartbeats (every 100 ms, UDP) are authenticated with the pair's secret, and fresh: each names its sender's
//! incarnation, counts up, and echoes what was heard, so a recording refreshes nothing. A primary's `peer_timeout` (400 ms
//! with an agent) is shorter than `takeover_after`, so that it is the first at the arbiter when only a cable is cut.
//!
//! The service addresses follow the engine's word. The new primary's agent adds them, announces them (ARP, unsolicited
//! neighbour advertisement; again after 50 ms to 5 s), looks whether somebody else claims them, and sends each of the
//! initiators that the old primary's agent has told of a *tickle*: a bare ACK that makes the initiator's kernel answer,
//! and this kernel reset the dead connection. The old owner lets go as soon as it hears that the other has them, at the
//! latest one second after its engine stopped serving, when its engine's beat is older than `takeover_after`, and when
//! its agent ends or starts on a node that does not serve. In between, its kernel refuses connections: a refused
//! initiator tries again at once, an unheard one after a second. It announces nothing meanwhile, and the new owner
//! announces the addresses once more when the old one has let go. An engine that was stopped and wakes says first what
//! was true before: its agent gives it no address while the other node leads in a newer epoch.
//!
//! *A node's own portals* (`paths = "alua"` or `"both"`): when a node is silent and the other one serves, the survivor's
//! agent asks the link who has the dead node's portal addresses, takes those that nobody has, announces them, and tickles
//! their initiators. What is seen there is the dead node's port: its portal group tag, relative port identifier and
//! target port group, in the state active/non-optimized. While it has them, the survivor looks every second whether
//! somebody else answers for them. They go back when that is so, or when anything is heard of the other node, before that
//! serves; the connections to them are dropped, and the owner announces where they are. An address that a living kernel
//! answers for (a node whose processes only are stopped) is left alone: two hosts with one address help nobody.
//!
//! # A disk that hangs
//!
//! A disk that fails says so; one that hangs says nothing, and whatever waits for it waits. It is taken for hung when no
//! read, or nothing else, was answered for 7 s although something was asked, or one operation for 20 s. A slow disk
//! answers something meanwhile.
//!
//! - The primary's, with a peer in sync: the primary answers nothing more, drops its initiators, names the peer in the
//!   record, and the peer takes over. What the disk does later is no answer to anybody. The node must be restarted.
//! - The secondary's: the primary goes on alone, and counts it in again when it has caught up.
//! - The only copy's: it is waited for.
//!
//! # Coming back
//!
//! A node that was lost and returns finds a newer record and generation at its peer, follows, and is resynchronised: the
//! blocks written meanwhile, and those that were in flight when it died (its activity log knows them). When everything
//! is copied and flushed, the primary commits `in_sync = {both}`.
//!
//! A node that comes back *alone* with a record that does not name it refuses to serve and says why.
//!
//! # Split brain
//!
//! With an arbiter it does not happen. With `--force` it can: both copies then have generations of their own, the nodes
//! refuse to copy anything, and `twinlun connect --discard-my-data` on the node whose writes may go
//! (after `twinlun demote`, if it serves) settles it; the other node follows by itself. `twinlun status` on either
//! node names the commands.
//!
//! # How this is checked
//!
//! The rules stand in `arbitration::rules`, R1 to R15, each with its tests. `twinlun-sim explore` walks every state that
//! the cores which obey them can reach within bounds (writes, reads, crashes, cuts, promotions, hand-overs, clocks that
//! drift, initiators at both nodes, in every
//! order), and `twinlun-sim explore --mutants` finds each rule that is left out. `twinlun-sim` runs the same cores with
//! many blocks, lanes and shards through random faults.

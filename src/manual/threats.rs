//! Who can reach what, and what keeps them from doing harm.
//!
//! # Doors
//!
//! | door | who reaches it | what is checked before anything is kept | bounds |
//! |---|---|---|---|
//! | portals (TCP) | whoever reaches the client network | login: name, network, CHAP | `max_half_open`, `max_half_open_per_address`, `login_timeout`, `max_sessions` |
//! | replication port (TCP) | the replication network | handshake by the pair's secret, in frames of at most 512 bytes | 128 strangers, the oldest gives way; 3 s each |
//! | agent's port (UDP) | the heartbeat networks | source address, HMAC, freshness | 256 datagrams wait; others are lost, as on a bad network |
//! | control sockets (Unix) | root of the machine | mode 0600 from the first moment | 16 clients, 4096 bytes a request |
//! | arbiter (client) | etcd's certificate | TLS, length of an answer | 64 KiB an answer |
//! | files | root | every key checked, secrets not readable by others | 1 MiB; 16 MiB for another target's |
//! | disk | whoever had it before | magic number, version, CRC of every page | fixed size |
//!
//! Data on the replication link is authenticated at its start and checked by CRC32C, not encrypted: keep the network
//! apart. So is iSCSI's on the portals.
//!
//! A client that is logged in stays undisturbed while others fill these doors: `tests/wire/hostile.rs` (portals: a
//! thousand half-open connections, slow senders, clients that never read), `tests/engine_pair.rs` (replication port),
//! `agent::heartbeat` (forged datagrams), `daemon::control` (silent and surplus clients of the socket; they are root's
//! own, so it is enough that those who were there first go on).
//!
//! # What went wrong elsewhere
//!
//! The classes of published faults in other targets and replication programs, and where each is looked for here. "Fuzz"
//! names a target of `scripts/fuzz`; its kept inputs and seeded ones also run in `cargo test --test fuzz`.
//!
//! | class | met in | here |
//! |---|---|---|
//! | decoding authentication values past a buffer | LIO 2018-14633 (CHAP_R in hexadecimal), base64 forms of it | fuzz `chap`; lengths are checked before decoding; `one_way_and_mutual_with_every_algorithm_in_both_encodings` |
//! | login text: long keys, thousands of keys, no NUL at the end | LIO 2013-2850; "NotUnderstood" answers longer than the room | fuzz `login`; `text_without_end_is_refused`, `a_long_answer_is_continued`, `text_is_bounded` |
//! | PDUs shorter than what they should hold | isert, iscsiuio, uIP | fuzz `stream`, `headers`; `bytes_may_come_one_at_a_time` |
//! | zero length or odd flags (TEXT with C and no data) | SPDK 2021-28361 | fuzz `stream`, `login`; `text_may_be_cut_anywhere` |
//! | an index or tag from the wire | kernel libiscsi (ITT) | tags are searched, never indexed; `the_reserved_tag_names_no_task`, `tags_of_data_out`, `a_tag_in_use_is_rejected` |
//! | LBA and length that wrap | LIO (UNMAP) | fuzz `cdb`, `parameters`; `an_address_error_names_the_first_block_that_does_not_exist` (up to 2^64 - 1) |
//! | parameter lists of persistent reservations | LIO (TransportID overread), SPDK 2025-57275 | fuzz `parameters`, `cdb` |
//! | one logical unit reaches another's data | LIO 2020-28374 (XCOPY), tcmu-runner 2021-3139 | no EXTENDED COPY, no tokens; a LUN is looked up in the nexus's own view; `an_initiator_sees_its_own_lun_map` |
//! | teardown: double free, use after free, forgotten references | LIO 2026-23193, tgt, 2011-0001 | no `unsafe` outside `engine`; fuzz `headers` (every buffer freed once, nothing kept); `tcp_may_end_at_any_point`, `resets_reach_the_tasks_of_every_session_on_every_shard` |
//! | memory of others in an answer | FreeBSD CTL 2024-8178 (READ BUFFER) | no READ BUFFER; every fuzz target checks that Data-In holds no byte of a buffer that nobody filled |
//! | format strings, fixed text buffers of the administration | IET/tgt 2010-0743, 2010-2221, LIO 2023-53676 | does not apply to Rust; lists of sessions are bounded by `max_sessions` |
//! | guessable challenges | tgt 2024-45751 (`rand`) | the kernel's randomness only; a core gets it as an argument |
//! | the answer tells a wrong name from a wrong secret; reflection of a challenge | many | `a_wrong_secret_and_an_unknown_name_are_answered_alike`, `nobody_shows_a_secret_that_was_not_asked_for` |
//! | helper sockets open to all, files in /tmp, parsers of local files | open-iscsi 2009-1297, 2026-44944 | `requests_are_typed_and_answered_in_order` (mode 0600), `a_secret_that_others_can_read_is_refused`; nothing in /tmp; fuzz `control`, `files` |
//! | lengths from the replication peer | DRBD (negative payload size) | fuzz `link`; `a_hostile_peer_ends_nothing`, `noise_is_refused_without_a_panic` |
//! | replayed or reflected handshakes | | `an_old_conversation_proves_nothing`, `messages_sent_back_to_their_author_are_refused` |
//! | races of activity log, resync, and local disk errors | DRBD 2026-23356, 2026-23285, 2025-38708 | `twinlun-sim`: disk errors, resync, promotion and power cuts in any order, with the [`invariants`](super::invariants) checked |
//! | metadata of a damaged or prepared disk | file systems at large | fuzz `pages`; every page has a CRC, and what is unreadable counts as out of sync |

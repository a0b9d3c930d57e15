//! The reviewer's checklist, line by line: which tests show that it holds, or why it cannot be shown. A test may live
//! anywhere in the tree; that each is still there, and is a test, is itself tested.

use std::path::Path;

/// A line of the checklist, with the clause it comes from.
struct Line {
    asks: &'static str,
    shown_by: &'static [&'static str],
    /// What of it does not apply, or is bounded otherwise.
    remark: &'static str,
}

const fn line(asks: &'static str, shown_by: &'static [&'static str]) -> Line {
    Line { asks, shown_by, remark: "" }
}

const fn remarked(asks: &'static str, shown_by: &'static [&'static str], remark: &'static str) -> Line {
    Line { asks, shown_by, remark }
}

const NUMBERS: &[Line] = &[
    remarked(
        "Non-immediate PDUs run in CmdSN order, gaps wait; serial arithmetic (RFC 7143 4.2.2.1)",
        &[
            "iscsi/tests/session.rs::cmd_sn_outside_the_window_is_ignored",
            "iscsi/command_window.rs::edges_of_the_window",
        ],
        "with one connection nothing can fill a gap: it ends the session",
    ),
    line(
        "CmdSN outside the window is dropped: no response, no disconnect (4.2.2.1)",
        &["iscsi/tests/session.rs::cmd_sn_outside_the_window_is_ignored"],
    ),
    line(
        "Immediate commands do not advance CmdSN and may exceed the window, but bounded (4.2.2.1)",
        &["iscsi/tests/session.rs::immediate_commands_go_beyond_the_window_but_not_for_ever"],
    ),
    line(
        "MaxCmdSN never shrinks; a closed window opens again (4.2.2.1)",
        &["iscsi/tests/session.rs::the_window_closes_and_opens"],
    ),
    line(
        "StatSN per connection, only with status; R2T and pings carry the next one (4.2.2.2, 11.8, 11.19)",
        &[
            "iscsi/pdu.rs::stat_sn_only_with_status",
            "wire/checklist.rs::pings",
            "wire/checklist.rs::data_out_sequences",
        ],
    ),
    remarked(
        "ExpStatSN frees retained status; login continues the numbering (4.2.2.2)",
        &["iscsi/tests/login.rs::a_stage_may_take_several_requests"],
        "no status is retained at ErrorRecoveryLevel 0",
    ),
    line(
        "ITT FFFFFFFFh reserved, duplicates rejected, NOP-Out echoed (11.18)",
        &[
            "wire/checklist.rs::tags",
            "wire/checklist.rs::pings",
            "iscsi/tests/session.rs::a_tag_in_use_is_rejected",
        ],
    ),
];

const LOGIN: &[Line] = &[
    line(
        "Stages, T, NSG, CSG, versions (6.3, 11.12, 11.13)",
        &[
            "iscsi/bhs.rs::login_stages_only_go_forward",
            "iscsi/tests/login.rs::versions_sessions_and_other_requests",
        ],
    ),
    line(
        "TSIH 0 until the end; unknown TSIH; session reinstatement closes the old one first (6.3.5)",
        &[
            "iscsi/tests/login.rs::windows_logs_in",
            "engine/registry.rs::a_new_session_waits_for_every_older_one_of_its_port",
            "wire/windows.rs::windows_comes_back_after_a_failure",
        ],
    ),
    line(
        "Same ISID, TSIH, CID: connection reinstatement; another CID: too many connections (6.3.4)",
        &[
            "iscsi/tests/chap.rs::a_connection_is_reinstated_with_its_sessions_tsih",
            "iscsi/tests/login.rs::versions_sessions_and_other_requests",
        ],
    ),
    line(
        "Key limits, case, unknown and repeated keys (6.1, 6.2)",
        &["iscsi/keys.rs::blame_of_bad_text", "iscsi/tests/login.rs::refusals_name_their_reason"],
    ),
    line(
        "Ranges enforced with Reject, not clamped (13)",
        &[
            "iscsi/keys.rs::bad_values_are_rejected_not_clamped",
            "iscsi/keys.rs::first_burst_never_exceeds_the_burst",
        ],
    ),
    line("Result functions; declarative keys unanswered (13)", &["iscsi/keys.rs::windows_offer"]),
    line(
        "Irrelevant where nothing depends on it (13)",
        &["iscsi/keys.rs::irrelevant_where_nothing_depends_on_it"],
    ),
    line(
        "C bit both ways, keys split anywhere, text bounded (6.2, 11.10.2, 11.12.2)",
        &[
            "iscsi/tests/login.rs::text_may_be_cut_anywhere",
            "iscsi/tests/login.rs::text_without_end_is_refused",
            "iscsi/tests/login.rs::a_long_answer_is_continued",
        ],
    ),
    line(
        "Status codes of a refusal (11.13.5)",
        &[
            "iscsi/tests/login.rs::refusals_name_their_reason",
            "iscsi/tests/login.rs::a_node_that_does_not_serve_says_so",
            "wire/login.rs::only_those_on_the_list_come_in",
            "wire/login.rs::sessions_are_bounded",
        ],
    ),
    line(
        "CHAP: challenge, reflection, equal secrets, encodings, constant time (9.2.1)",
        &[
            "iscsi/tests/chap.rs::one_way_and_mutual_with_every_algorithm_in_both_encodings",
            "iscsi/chap.rs::answers_are_judged",
            "iscsi/chap.rs::both_encodings_and_their_bounds",
            "wire/login.rs::chap_both_ways_with_every_algorithm",
        ],
    ),
    line(
        "Caps and timer before login, no more than 8192 bytes before full feature (13.12)",
        &[
            "wire/hostile.rs::a_thousand_half_open_connections_leave_a_client_undisturbed",
            "wire/hostile.rs::the_login_timer_ends_a_slow_loris",
            "engine/registry.rs::what_has_not_logged_in_is_bounded_per_source_and_in_all",
        ],
    ),
    line(
        "Digests only after the final response; None in discovery",
        &[
            "iscsi/tests/digest.rs::offers_are_answered_in_the_initiators_order",
            "wire/login.rs::digests_hold_in_both_directions_and_damage_is_caught",
            "wire/windows.rs::windows_finds_its_disk_reads_and_writes",
        ],
    ),
];

const FRAMING: &[Line] = &[
    line(
        "Padding, DataSegmentLength, AHS (11.1)",
        &[
            "iscsi/bhs.rs::lengths_and_padding",
            "iscsi/tests/session.rs::extended_cdbs_and_bidirectional_commands",
            "iscsi/bhs.rs::extended_cdb_is_appended_and_bidi_refused",
        ],
    ),
    line(
        "Too long a segment closes; header digest error closes; data digest error is rejected (7.8, 7.13)",
        &[
            "iscsi/tests/session.rs::a_segment_beyond_the_limit_closes_at_once",
            "iscsi/tests/digest.rs::a_wrong_header_digest_closes",
            "iscsi/tests/digest.rs::damaged_immediate_data_is_rejected_and_never_written",
        ],
    ),
    line("Reject with the header, then the end (7.7, 7.13, 11.17)", &["wire/checklist.rs::rejects"]),
];

const DATA: &[Line] = &[
    line(
        "Immediate and unsolicited bounds, F (11.3.4, 13.14)",
        &[
            "iscsi/tests/data.rs::misplaced_immediate_data",
            "iscsi/tests/data.rs::unsolicited_data_when_agreed",
        ],
    ),
    line(
        "Data-Out: ITT, TTT, DataSN, offsets, F (11.7)",
        &[
            "wire/checklist.rs::data_out_sequences",
            "iscsi/tests/data.rs::tags_of_data_out",
            "iscsi/tests/data.rs::data_sn_and_offset_are_checked",
        ],
    ),
    line(
        "The LUN of a Data-Out is not compared",
        &["wire/windows.rs::the_lun_of_a_data_out_is_not_looked_at"],
    ),
    line(
        "Unsolicited bytes of a refused command are consumed (4.2.5.2)",
        &[
            "iscsi/tests/random.rs::every_command_is_answered_once",
            "iscsi/tests/data.rs::unsolicited_data_when_agreed",
        ],
    ),
    line(
        "R2T: flags, numbers, ranges, bursts (11.8)",
        &[
            "iscsi/pdu.rs::r2t_has_the_final_bit_and_nothing_else",
            "iscsi/tests/data.rs::one_mib_write_by_r2t",
        ],
    ),
    line(
        "Data-In: segments, sequences, DataSN, S only without sense (11.7)",
        &[
            "iscsi/tests/data.rs::one_mib_read_in_order",
            "iscsi/tests/data.rs::small_segments_of_the_initiator",
        ],
    ),
    line(
        "Zero-length transfers (SBC-3)",
        &[
            "scsi/tests/access.rs::no_blocks_is_good_unless_the_address_is_outside",
            "wire/checklist.rs::residuals",
            "wire/commands.rs::an_unmap_of_nothing_is_good",
        ],
    ),
    line(
        "Residuals: exact, on GOOD and CHECK alike (11.4.5)",
        &[
            "wire/checklist.rs::residuals",
            "iscsi/pdu.rs::residuals_are_exact",
            "iscsi/tests/data.rs::residuals_are_exact_and_no_error",
        ],
    ),
    line(
        "Overflow writes take what was announced, underflow writes what the CDB says",
        &[
            "wire/checklist.rs::residuals",
            "iscsi/tests/action.rs::write_and_verify_takes_short_data_as_a_write_does",
        ],
    ),
];

const SCSI: &[Line] = &[
    line(
        "Autosense always; fixed and descriptor format (11.4.7, SPC-4 4.5)",
        &[
            "wire/commands.rs::errors_come_with_their_sense",
            "scsi/tests/sense.rs::fixed_format",
            "scsi/tests/sense.rs::descriptor_format",
            "iscsi/tests/unit.rs::sense_data_in_descriptor_format",
        ],
    ),
    line(
        "INFORMATION: failed block, offset of a miscompare (SBC-3 5.3)",
        &[
            "wire/commands.rs::errors_come_with_their_sense",
            "scsi/tests/access.rs::an_address_error_names_the_first_block_that_does_not_exist",
            "iscsi/tests/action.rs::compare_and_write_tells_where_it_differs_and_writes_nothing",
        ],
    ),
    line(
        "Allocation lengths cut, length fields stay whole, 0 is no error (SPC-4 4.2.5.6)",
        &[
            "wire/commands.rs::allocation_lengths_cut",
            "scsi/tests/decoding.rs::truncation_cuts_and_changes_nothing",
            "scsi/tests/parameters.rs::inquiry_truncates_at_every_allocation_length",
        ],
    ),
    line(
        "Unit attentions: queue per nexus and unit, precedence, commands that pass (SAM-5 5.14)",
        &[
            "scsi/tests/routing.rs::attentions_queue_by_precedence_and_resets_replace_lesser_ones",
            "scsi/tests/routing.rs::a_unit_attention_stops_a_write_before_anything_is_written",
            "scsi/tests/routing.rs::request_sense_takes_the_unit_attention",
            "scsi/tests/routing.rs::report_luns_clears_the_attention_that_asks_for_it",
        ],
    ),
    line(
        "After failover each nexus hears exactly one 29h",
        &[
            "scsi/tests/routing.rs::a_new_nexus_hears_of_one_reset_per_logical_unit",
            "wire/windows.rs::windows_comes_back_after_a_failure",
            "engine_pair.rs::initiators_at_both_nodes_see_one_disk_through_a_switchover",
        ],
    ),
    line(
        "RESERVATION CONFLICT per command and type (SPC-4 table 66)",
        &[
            "scsi/tests/reservations.rs::the_conflict_matrix",
            "scsi/tests/reservations.rs::the_matrix_has_every_command",
            "scsi/tests/reservations.rs::only_registrants_with_their_key_may_act",
        ],
    ),
    line(
        "PREEMPT AND ABORT ends the tasks of the preempted; PRgeneration; APTPL",
        &[
            "iscsi/tests/unit.rs::preempt_and_abort_ends_tasks_and_waits_for_them",
            "scsi/tests/reservations.rs::preempting_the_holder",
            "scsi/tests/reservations.rs::capabilities_say_that_registrations_persist",
        ],
    ),
    line(
        "RESERVE(6) conflicts; with registrations it is a formality",
        &[
            "scsi/tests/reservations.rs::reserve_and_release",
            "scsi/tests/reservations.rs::with_registrations_reserving_is_a_formality",
        ],
    ),
    line(
        "TMF answered when the tasks are quiet, with their writes on both copies (4.2.3, 11.6.1)",
        &[
            "iscsi/tests/session.rs::abort_task_is_answered_when_the_task_is_quiet",
            "iscsi/tests/reset.rs::functions_wait_for_every_other_session",
            "iscsi/tests/session.rs::functions_that_wait_are_bounded",
        ],
    ),
    line(
        "LU RESET clears the tasks of other nexuses, 29/03, TASK ABORTED (SAM-5 5.3)",
        &[
            "wire/sessions.rs::resets_reach_the_tasks_of_every_session_on_every_shard",
            "iscsi/tests/reset.rs::others_hear_task_aborted_and_a_unit_attention",
            "scsi/tests/reservations.rs::registrations_survive_resets_and_nexuses",
            "scsi/tests/modes.rs::without_tas_tasks_end_in_silence",
        ],
    ),
    line(
        "TMF to a wrong LUN, unknown, unsupported",
        &[
            "wire/checklist.rs::functions_by_number",
            "scsi/tests/health.rs::supported_task_management_functions",
        ],
    ),
    line(
        "LUN addressing; PQ 3 where there is none (SAM-5 4.7)",
        &[
            "scsi/tests/routing.rs::lun_fields_decode_by_their_addressing_method",
            "scsi/tests/routing.rs::an_absent_lun_answers_what_it_must_and_refuses_the_rest",
            "wire/commands.rs::luns_that_are_not_there",
        ],
    ),
    line(
        "REPORT LUNS: select, lengths, any LUN (SPC-4 6.33)",
        &[
            "scsi/tests/routing.rs::report_luns_selects_and_truncates",
            "wire/commands.rs::luns_that_are_not_there",
        ],
    ),
    line(
        "Reserved bits with field pointer, NACA, operation codes, ranges without overflow",
        &[
            "scsi/tests/decoding.rs::every_reserved_bit_is_refused_and_pointed_at",
            "scsi/tests/decoding.rs::naca_is_refused",
            "scsi/tests/decoding.rs::what_is_not_in_the_table_is_refused_as_operation_or_as_service_action",
            "scsi/tests/access.rs::every_form_reaches_the_last_block_and_not_beyond",
            "wire/commands.rs::errors_come_with_their_sense",
        ],
    ),
    line(
        "UNMAP lists and caps; COMPARE AND WRITE beyond its maximum",
        &[
            "iscsi/tests/action.rs::unmap_gives_back_every_range_of_its_list",
            "wire/commands.rs::unmap_lists_are_taken_as_far_as_they_go",
            "wire/commands.rs::compare_and_write_is_bounded",
        ],
    ),
    line(
        "Write protection, medium errors; GOOD only when both copies have it",
        &[
            "scsi/tests/health.rs::a_read_only_disk_refuses_every_change_and_says_so",
            "iscsi/tests/data.rs::medium_errors_come_when_everything_is_back",
            "iscsi/tests/data.rs::not_serving_is_never_an_error",
            "simulation.rs::no_seed_breaks_an_invariant",
        ],
    ),
    line(
        "Logout reasons; tasks end with the connection; DefaultTime2Retain 0 (7.6)",
        &[
            "wire/checklist.rs::logouts",
            "iscsi/tests/session.rs::logout_waits_for_what_is_in_flight",
            "wire/windows.rs::windows_comes_back_after_a_failure",
        ],
    ),
];

#[test]
fn every_line_is_shown_by_tests_that_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut faults = Vec::new();
    let mut lines = 0;
    for line in [NUMBERS, LOGIN, FRAMING, DATA, SCSI].into_iter().flatten() {
        lines += 1;
        if line.shown_by.is_empty() && line.remark.is_empty() {
            faults.push(format!("{}: neither a test nor a reason", line.asks));
        }
        for name in line.shown_by {
            let (file, test) = name.split_once("::").expect("file::test");
            let text = ["src", "tests"]
                .iter()
                .find_map(|folder| std::fs::read_to_string(root.join(folder).join(file)).ok())
                .unwrap_or_default();
            let at = text.find(&format!("fn {test}("));
            if !at.is_some_and(|at| is_test(&text[..at])) {
                faults.push(format!("{}: there is no test {name}", line.asks));
            }
        }
    }
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
    assert_eq!(lines, 48, "lines of the checklist");
}

/// Does the text end with the attribute of a test? Those of a property have arguments, and lines of their own.
fn is_test(before: &str) -> bool {
    let attributes = before.trim_end_matches("pub ").trim_end();
    attributes.ends_with("#[test]")
        || attributes
            .rsplit_once("#[test]")
            .is_some_and(|(_, between)| between.trim_start().starts_with("#["))
}

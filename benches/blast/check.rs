//! `blast check`: a target is walked through what an initiator may expect of it, one small check after the other.
//!
//! The session itself already refuses wrong sequence numbers, offsets, lengths, residuals and unknown tasks; so each
//! check here need only say what should happen. The first 16 MiB of the disk are overwritten.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use clap::Args;

use crate::error::Error;
use crate::load::{capacity, settle};
use crate::login::Offer;
use crate::pdu::{self, get32};
use crate::random::Random;
use crate::scsi::{self, Capacity, Cdb};
use crate::session::Session;
use crate::transfer::{Answer, Command, Data};
use crate::{Failure, TargetArgs};

const PATIENCE: Duration = Duration::from_secs(5);
/// Part of the disk that is overwritten.
const SCRATCH_BYTES: u64 = 16 << 20;

#[derive(Args)]
pub struct CheckArgs {
    #[command(flatten)]
    target: TargetArgs,
    /// Only checks whose name contains this
    #[arg(long, default_value = "")]
    only: String,
}

type Outcome = Result<(), String>;
type Check = fn(&Bench) -> Outcome;

const CHECKS: &[(&str, Check)] = &[
    ("discovery_lists_the_target", discovery_lists_the_target),
    ("login_declares_what_it_must", login_declares_what_it_must),
    ("login_to_an_unknown_target_is_refused", login_to_an_unknown_target_is_refused),
    ("garbage_instead_of_a_login_is_survived", garbage_instead_of_a_login_is_survived),
    ("inquiry_and_its_allocation_length", inquiry_and_its_allocation_length),
    ("vital_product_data_pages", vital_product_data_pages),
    ("capacities_agree", capacities_agree),
    ("report_luns_has_the_unit", report_luns_has_the_unit),
    ("mode_sense_caching_page", mode_sense_caching_page),
    ("unknown_command_is_refused", unknown_command_is_refused),
    ("reads_and_writes_end_at_the_last_block", reads_and_writes_end_at_the_last_block),
    ("transfers_end_at_the_declared_length", transfers_end_at_the_declared_length),
    ("zero_blocks_are_good", zero_blocks_are_good),
    ("short_and_long_transfer_lengths", short_and_long_transfer_lengths),
    ("flush_and_fua", flush_and_fua),
    ("write_shapes_immediate_and_r2t", write_shapes_immediate_and_r2t),
    ("write_shapes_immediate_and_unsolicited", write_shapes_immediate_and_unsolicited),
    ("write_shapes_unsolicited_only", write_shapes_unsolicited_only),
    ("write_shapes_r2t_only", write_shapes_r2t_only),
    ("write_shapes_small_bursts", write_shapes_small_bursts),
    ("ten_byte_commands", ten_byte_commands),
    ("many_large_writes_at_once", many_large_writes_at_once),
    ("ping_is_echoed", ping_is_echoed),
    ("two_sessions_see_one_disk", two_sessions_see_one_disk),
    ("a_new_login_replaces_the_session", a_new_login_replaces_the_session),
    ("a_connection_cut_inside_a_write_is_survived", a_connection_cut_inside_a_write_is_survived),
    ("logout_is_answered", logout_is_answered),
];

/// Runs the checks and prints one JSON line. `Ok(false)` when one failed.
pub fn run(args: &CheckArgs) -> Result<bool, Failure> {
    args.target.pin().map_err(Failure::Usage)?;
    let address = args.target.addresses().map_err(Failure::Usage)?[0];
    let mut session = Session::login(address, &args.target.offer(0), args.target.lun, 1)?;
    settle(&mut session)?;
    let capacity = capacity(&mut session)?;
    session.logout(PATIENCE)?;
    if capacity.bytes() < 2 * SCRATCH_BYTES {
        return Err(Failure::Usage(format!("the disk is smaller than {} bytes", 2 * SCRATCH_BYTES)));
    }
    let bench = Bench { args: &args.target, address, capacity };
    let (mut passed, mut failures) = (0, Vec::new());
    for (name, check) in CHECKS.iter().filter(|(name, _)| name.contains(args.only.as_str())) {
        match check(&bench) {
            Ok(()) => {
                passed += 1;
                eprintln!("ok {name}");
            }
            Err(why) => {
                eprintln!("not ok {name}: {why}");
                failures.push(format!("{name}: {why}"));
            }
        }
    }
    let right = failures.is_empty() && passed > 0;
    println!("{}", serde_json::json!({"passed": passed, "failed": failures.len(), "failures": failures}));
    Ok(right)
}

struct Bench<'a> {
    args: &'a TargetArgs,
    address: SocketAddr,
    capacity: Capacity,
}

impl Bench<'_> {
    fn offer(&self) -> Offer {
        self.args.offer(0)
    }

    fn session(&self) -> Result<Session, String> {
        self.session_with(&self.offer(), 32)
    }

    fn session_with(&self, offer: &Offer, depth: usize) -> Result<Session, String> {
        let mut session = Session::login(self.address, offer, self.args.lun, depth).map_err(text)?;
        settle(&mut session).map_err(text)?;
        Ok(session)
    }

    fn block(&self) -> u32 {
        self.capacity.block_bytes
    }
}

fn text(error: Error) -> String {
    error.to_string()
}

fn ensure(holds: bool, otherwise: impl Into<String>) -> Outcome {
    if holds { Ok(()) } else { Err(otherwise.into()) }
}

fn read(session: &mut Session, cdb: Cdb, length: u32) -> Result<Answer, String> {
    let data = Data::Read { length, keep: true };
    session.run(Command { cdb, data, name: 0 }, PATIENCE).map_err(text)
}

fn good(answer: Answer) -> Result<Vec<u8>, String> {
    match (answer.status, answer.sense) {
        (scsi::GOOD, _) => Ok(answer.data),
        (status, Some(sense)) => Err(format!("status {status:02x}, {sense}")),
        (status, None) => Err(format!("status {status:02x}")),
    }
}

fn read_good(session: &mut Session, cdb: Cdb, length: u32) -> Result<Vec<u8>, String> {
    good(read(session, cdb, length)?)
}

fn write(session: &mut Session, cdb: Cdb, bytes: &[u8]) -> Result<Answer, String> {
    session.run(Command { cdb, data: Data::Write(bytes.into()), name: 0 }, PATIENCE).map_err(text)
}

fn plain(session: &mut Session, cdb: Cdb) -> Result<Answer, String> {
    session.run(Command { cdb, data: Data::None, name: 0 }, PATIENCE).map_err(text)
}

fn refused(answer: Answer, asc: u8) -> Outcome {
    match answer.sense {
        Some(sense) if sense.key == scsi::ILLEGAL_REQUEST && sense.asc == asc => Ok(()),
        other => Err(format!("status {:02x}, {other:?}, not ILLEGAL REQUEST {asc:02x}", answer.status)),
    }
}

fn noise(seed: u64, bytes: usize) -> Vec<u8> {
    let mut random = Random::new(seed);
    (0..bytes.div_ceil(8)).flat_map(|_| random.next().to_le_bytes()).take(bytes).collect()
}

fn discovery_lists_the_target(bench: &Bench) -> Outcome {
    let mut session = Session::discovery(bench.address, &bench.offer()).map_err(text)?;
    let ask = b"SendTargets=All\0";
    session.send_other(pdu::text(7, ask.len()), ask);
    let answer = session.await_other(PATIENCE).map_err(text)?;
    ensure(pdu::opcode(&answer.header) == pdu::TEXT_RESPONSE, "the answer is not a Text Response")?;
    ensure(answer.header[1] == pdu::FINAL && pdu::task_tag(&answer.header) == 7, "flags or task tag")?;
    ensure(get32(&answer.header, 20) == pdu::NO_TAG, "a final Text Response has no target transfer tag")?;
    let keys = crate::login::parse_keys(&answer.data).map_err(text)?;
    let name = keys.iter().position(|(key, value)| key == "TargetName" && *value == bench.args.iqn);
    let name = name.ok_or_else(|| format!("{} is not among {keys:?}", bench.args.iqn))?;
    let address = keys.get(name + 1).filter(|(key, _)| key == "TargetAddress");
    let (_, address) = address.ok_or("no TargetAddress follows TargetName")?;
    let (portal, group) = address.rsplit_once(',').ok_or("TargetAddress without a portal group tag")?;
    let right = portal.parse::<SocketAddr>().is_ok() && group.parse::<u16>().is_ok_and(|tag| tag > 0);
    ensure(right, format!("TargetAddress={address}"))?;
    session.logout(PATIENCE).map_err(text)
}

fn login_declares_what_it_must(bench: &Bench) -> Outcome {
    let session = bench.session()?;
    ensure(session.tsih != 0, "TSIH is 0")?;
    let said = |wanted: &str| session.login_answers.iter().filter(|(key, _)| key == wanted).count();
    for key in ["TargetPortalGroupTag", "HeaderDigest", "DataDigest", "MaxRecvDataSegmentLength"] {
        ensure(said(key) == 1, format!("{key} is declared {} times", said(key)))?;
    }
    Ok(())
}

fn login_to_an_unknown_target_is_refused(bench: &Bench) -> Outcome {
    let offer = Offer { target: format!("{}.nowhere", bench.args.iqn), ..bench.offer() };
    match Session::login(bench.address, &offer, 0, 1) {
        Err(Error::Refused { class: 2, detail: 3 }) => Ok(()),
        Err(other) => Err(format!("{other}, not status 0203")),
        Ok(_) => Err("the login succeeded".into()),
    }
}

fn garbage_instead_of_a_login_is_survived(bench: &Bench) -> Outcome {
    for byte in [0x00, 0x43, 0x7f, 0xff] {
        let mut stream = TcpStream::connect(bench.address).map_err(|e| e.to_string())?;
        stream.set_read_timeout(Some(Duration::from_millis(200))).map_err(|e| e.to_string())?;
        // The target may close at any moment: neither a failed write nor what it answers matters here.
        let _ = stream.write_all(&[byte; 4096]);
        let _ = stream.read(&mut [0; 4096]);
    }
    bench.session().map(drop)
}

fn inquiry_and_its_allocation_length(bench: &Bench) -> Outcome {
    let mut session = bench.session()?;
    let whole = read_good(&mut session, scsi::inquiry(None, 255), 255)?;
    ensure(whole.len() >= 36, format!("standard INQUIRY data of {} bytes", whole.len()))?;
    ensure(whole[0] == 0, format!("peripheral byte {:02x}", whole[0]))?;
    ensure(usize::from(whole[4]) + 5 == whole.len(), "ADDITIONAL LENGTH is not the length")?;
    let part = read_good(&mut session, scsi::inquiry(None, 5), 255)?;
    ensure(part == whole[..5], "5 bytes were asked for")?;
    refused(read(&mut session, scsi::cdb(&[0x12, 0, 0x83, 0, 255]), 255)?, 0x24)
}

fn vital_product_data_pages(bench: &Bench) -> Outcome {
    let mut session = bench.session()?;
    let list = read_good(&mut session, scsi::inquiry(Some(0), 255), 255)?;
    let pages = list.get(4..).ok_or("page 00 is too short")?.to_vec();
    ensure(pages.windows(2).all(|pair| pair[0] < pair[1]), format!("pages {pages:02x?} do not ascend"))?;
    for page in [0x00, 0x80, 0x83, 0xb0] {
        ensure(pages.contains(&page), format!("page {page:02x} is not listed"))?;
    }
    for page in pages {
        let data = read_good(&mut session, scsi::inquiry(Some(page), 1024), 1024)?;
        ensure(data.len() >= 4 && data[1] == page, format!("page {page:02x} begins {:02x?}", data.first()))?;
        let length = usize::from(u16::from_be_bytes([data[2], data[3]])) + 4;
        ensure(length == data.len(), format!("page {page:02x}: {length} bytes, {} came", data.len()))?;
    }
    refused(read(&mut session, scsi::inquiry(Some(0x55), 255), 255)?, 0x24)
}

fn capacities_agree(bench: &Bench) -> Outcome {
    let mut session = bench.session()?;
    let ten = read_good(&mut session, scsi::read_capacity_10(), 8)?;
    ensure(ten.len() == 8, "READ CAPACITY(10) has 8 bytes")?;
    let last = u32::from_be_bytes([ten[0], ten[1], ten[2], ten[3]]);
    let size = u32::from_be_bytes([ten[4], ten[5], ten[6], ten[7]]);
    let expected = u32::try_from(bench.capacity.blocks - 1).unwrap_or(u32::MAX);
    ensure(last == expected && size == bench.block(), format!("last block {last}, {size} bytes a block"))
}

fn report_luns_has_the_unit(bench: &Bench) -> Outcome {
    let mut session = bench.session()?;
    let data = read_good(&mut session, scsi::report_luns(1024), 1024)?;
    let list = data.get(8..).ok_or("the list is too short")?;
    let length = u32::from_be_bytes([data[0], data[1], data[2], data[3]]) as usize;
    ensure(
        length == list.len() && length % 8 == 0,
        format!("LUN LIST LENGTH {length}, {} came", list.len()),
    )?;
    let wanted = pdu::lun_field(bench.args.lun);
    ensure(list.chunks(8).any(|lun| lun == wanted), format!("{wanted:02x?} is not in {list:02x?}"))
}

fn mode_sense_caching_page(bench: &Bench) -> Outcome {
    let mut session = bench.session()?;
    for page in [0x08, 0x3f] {
        let data = read_good(&mut session, scsi::mode_sense_6(page, 255), 255)?;
        ensure(data.len() > 4 && usize::from(data[0]) + 1 == data.len(), "MODE DATA LENGTH")?;
        let first = 4 + usize::from(data[3]);
        let mut at = first;
        let mut found = false;
        while let Some(header) = data.get(at..at + 2) {
            found |= header[0] & 0x3f == 0x08 && header[1] >= 0x0a;
            at += 2 + usize::from(header[1]);
        }
        ensure(at == data.len() && found, format!("page {page:02x}: no caching page in {data:02x?}"))?;
    }
    Ok(())
}

fn unknown_command_is_refused(bench: &Bench) -> Outcome {
    let mut session = bench.session()?;
    refused(plain(&mut session, scsi::cdb(&[0xff]))?, 0x20)?;
    refused(read(&mut session, scsi::cdb(&[0x9e, 0x1f]), 32)?, 0x24).or_else(|_| {
        // SPC-5 allows INVALID COMMAND OPERATION CODE for an unknown service action as well.
        refused(read(&mut session, scsi::cdb(&[0x9e, 0x1f]), 32)?, 0x20)
    })
}

fn reads_and_writes_end_at_the_last_block(bench: &Bench) -> Outcome {
    let mut session = bench.session()?;
    let (blocks, size) = (bench.capacity.blocks, bench.block());
    read_good(&mut session, scsi::read_16(blocks - 2, 2), 2 * size)?;
    for (lba, count) in [(blocks - 1, 2), (blocks, 1), (u64::MAX, 1), (u64::MAX - 1, 8), (1 << 60, 1)] {
        refused(read(&mut session, scsi::read_16(lba, count), count * size)?, 0x21)
            .map_err(|e| format!("read of {count} at {lba}: {e}"))?;
        let bytes = vec![0; (count * size) as usize];
        refused(write(&mut session, scsi::write_16(lba, count, false), &bytes)?, 0x21)
            .map_err(|e| format!("write of {count} at {lba}: {e}"))?;
    }
    Ok(())
}

fn zero_blocks_are_good(bench: &Bench) -> Outcome {
    let mut session = bench.session()?;
    good(plain(&mut session, scsi::read_16(5, 0))?)?;
    good(plain(&mut session, scsi::write_16(5, 0, false))?)?;
    good(plain(&mut session, scsi::media_10(0x28, 5, 0))?).map(drop)
}

/// The transfer length of the iSCSI command and that of the CDB need not agree (RFC 7143 §11.4.5).
fn short_and_long_transfer_lengths(bench: &Bench) -> Outcome {
    let mut session = bench.session()?;
    let size = bench.block();
    let written = noise(3, 4 * size as usize);
    good(write(&mut session, scsi::write_16(64, 4, false), &written)?)?;
    let long = read_good(&mut session, scsi::read_16(64, 4), 6 * size)?;
    ensure(long == written, "a read into a larger buffer")?;
    let short = read_good(&mut session, scsi::read_16(64, 4), 2 * size)?;
    ensure(short == written[..2 * size as usize], "a read into a smaller buffer")
}

fn flush_and_fua(bench: &Bench) -> Outcome {
    let mut session = bench.session()?;
    let written = noise(4, bench.block() as usize);
    good(write(&mut session, scsi::write_16(9, 1, true), &written)?)?;
    good(plain(&mut session, scsi::synchronize_cache())?)?;
    let sixteen = scsi::cdb(&[0x91]);
    good(plain(&mut session, sixteen)?)?;
    let back = read_good(&mut session, scsi::read_16(9, 1), bench.block())?;
    ensure(back == written, "what was written with FUA is not there")
}

/// MAXIMUM TRANSFER LENGTH of the block limits page, in blocks; the whole disk where it sets no limit.
fn longest_transfer(bench: &Bench, session: &mut Session) -> Result<u64, String> {
    let page = read_good(session, scsi::inquiry(Some(0xb0), 64), 64)?;
    let field = page.get(8..12).ok_or("page b0 is too short")?;
    let limit = u32::from_be_bytes([field[0], field[1], field[2], field[3]]);
    Ok(if limit == 0 { bench.capacity.blocks } else { u64::from(limit) })
}

fn transfers_end_at_the_declared_length(bench: &Bench) -> Outcome {
    let mut session = bench.session()?;
    let longest = longest_transfer(bench, &mut session)?;
    // Where no limit is declared, or one beyond the scratch part, there is nothing to cross.
    let Some(over) =
        u32::try_from(longest + 1).ok().filter(|n| u64::from(*n * bench.block()) < SCRATCH_BYTES)
    else {
        return Ok(());
    };
    refused(read(&mut session, scsi::read_16(0, over), over * bench.block())?, 0x24)?;
    let bytes = vec![0; (over * bench.block()) as usize];
    refused(write(&mut session, scsi::write_16(0, over, false), &bytes)?, 0x24)?;
    read_good(&mut session, scsi::read_16(0, over - 1), (over - 1) * bench.block()).map(drop)
}

/// Writes of many lengths at odd places are read back, and their neighbours are left alone.
fn write_shapes(bench: &Bench, change: impl Fn(&mut Offer)) -> Outcome {
    let mut offer = bench.offer();
    change(&mut offer);
    let mut session = bench.session_with(&offer, 1)?;
    let longest = longest_transfer(bench, &mut session)?;
    // Blocks in 4 KiB.
    let unit = u64::from(4096 / bench.block()).max(1);
    let counts = [1, unit, unit + 1, 15 * unit + 1, 16 * unit, 17 * unit, 64 * unit - 1, 64 * unit];
    let mut lba = 1;
    for count in counts.into_iter().chain([80 * unit, 256 * unit]).map(|count| count.min(longest)) {
        one_shape(bench, &mut session, lba, count)
            .map_err(|why| format!("{count} blocks at {lba}: {why}"))?;
        lba += count + 3;
        ensure(lba * u64::from(bench.block()) < SCRATCH_BYTES, "the shapes fit into the scratch part")?;
    }
    session.logout(PATIENCE).map_err(text)
}

/// Writes one block before and one after the place, then the place itself, and reads all three.
fn one_shape(bench: &Bench, session: &mut Session, lba: u64, count: u64) -> Outcome {
    let size = bench.block();
    let (before, after) = (noise(lba, size as usize), noise(lba + count, size as usize));
    let inside = noise(lba ^ 0xff00, count as usize * size as usize);
    good(write(session, scsi::write_16(lba, 1, false), &before)?)?;
    good(write(session, scsi::write_16(lba + 1 + count, 1, false), &after)?)?;
    good(write(session, scsi::write_16(lba + 1, count as u32, false), &inside)?)?;
    let back = read_good(session, scsi::read_16(lba + 1, count as u32), count as u32 * size)?;
    ensure(back == inside, "wrong data")?;
    ensure(read_good(session, scsi::read_16(lba, 1), size)? == before, "the block before changed")?;
    ensure(read_good(session, scsi::read_16(lba + 1 + count, 1), size)? == after, "the block after changed")
}

fn write_shapes_immediate_and_r2t(bench: &Bench) -> Outcome {
    write_shapes(bench, |offer| offer.initial_r2t = true)
}

fn write_shapes_immediate_and_unsolicited(bench: &Bench) -> Outcome {
    write_shapes(bench, |offer| offer.initial_r2t = false)
}

fn write_shapes_unsolicited_only(bench: &Bench) -> Outcome {
    write_shapes(bench, |offer| {
        offer.initial_r2t = false;
        offer.immediate_data = false;
    })
}

fn write_shapes_r2t_only(bench: &Bench) -> Outcome {
    write_shapes(bench, |offer| {
        offer.initial_r2t = true;
        offer.immediate_data = false;
    })
}

/// Bursts and segments that are no multiple of a block.
fn write_shapes_small_bursts(bench: &Bench) -> Outcome {
    write_shapes(bench, |offer| {
        offer.initial_r2t = false;
        offer.first_burst = 1000;
        offer.max_burst = 5000;
        offer.max_recv = 1500;
    })
}

fn ten_byte_commands(bench: &Bench) -> Outcome {
    let mut session = bench.session()?;
    let written = noise(5, 8 * bench.block() as usize);
    good(write(&mut session, scsi::media_10(0x2a, 33, 8), &written)?)?;
    let back = read_good(&mut session, scsi::media_10(0x28, 33, 8), 8 * bench.block())?;
    ensure(back == written, "what WRITE(10) wrote is not there")
}

fn many_large_writes_at_once(bench: &Bench) -> Outcome {
    let mut session = bench.session()?;
    let size = bench.block() as usize;
    let count = (256 * 1024 / size) as u32;
    let bytes = noise(6, 256 * 1024);
    let mut answers = Vec::new();
    let mut sent = 0u32;
    while answers.len() < 32 {
        while sent < 32 && session.can_submit() {
            let lba = u64::from(sent) * u64::from(count);
            let command = Command {
                cdb: scsi::write_16(lba, count, false),
                data: Data::Write(bytes.clone().into()),
                name: 0,
            };
            session.submit(command, std::time::Instant::now());
            sent += 1;
        }
        ensure(session.pump(PATIENCE, &mut answers).map_err(text)?, "no answer in time")?;
    }
    for answer in answers {
        good(answer)?;
    }
    for index in [0u64, 13, 31] {
        let back = read_good(&mut session, scsi::read_16(index * u64::from(count), count), 256 * 1024)?;
        ensure(back == bytes, format!("write {index} reads back wrong"))?;
    }
    Ok(())
}

fn ping_is_echoed(bench: &Bench) -> Outcome {
    let mut session = bench.session()?;
    for length in [0, 4, 7, 1000] {
        let sent = noise(8, length);
        session.send_other(pdu::ping(bench.args.lun, 0x1234, length), &sent);
        let answer = session.await_other(PATIENCE).map_err(text)?;
        let header = answer.header;
        ensure(pdu::opcode(&header) == pdu::NOP_IN, "the answer is not a NOP-In")?;
        ensure(pdu::task_tag(&header) == 0x1234 && get32(&header, 20) == pdu::NO_TAG, "wrong tags")?;
        ensure(answer.data == sent, format!("{length} bytes came back as {}", answer.data.len()))?;
    }
    Ok(())
}

fn two_sessions_see_one_disk(bench: &Bench) -> Outcome {
    let (mut first, mut second) = (bench.session()?, bench.session_with(&bench.args.offer(1), 4)?);
    for seed in 10..20 {
        let written = noise(seed, 2 * bench.block() as usize);
        good(write(&mut first, scsi::write_16(100 + seed, 2, false), &written)?)?;
        let back = read_good(&mut second, scsi::read_16(100 + seed, 2), 2 * bench.block())?;
        ensure(back == written, "the second session reads other data")?;
    }
    Ok(())
}

fn a_new_login_replaces_the_session(bench: &Bench) -> Outcome {
    let mut old = bench.session()?;
    let mut new = bench.session()?;
    match old.pump(PATIENCE, &mut Vec::new()) {
        Err(Error::Closed | Error::Io(_)) => {}
        Err(other) => return Err(text(other)),
        Ok(_) => return Err("the replaced session is still connected".into()),
    }
    good(plain(&mut new, scsi::test_unit_ready())?).map(drop)
}

fn a_connection_cut_inside_a_write_is_survived(bench: &Bench) -> Outcome {
    for cut in [1usize, 47, 48, 49, 1000, 4096] {
        let offer = bench.offer();
        let login = crate::login::normal(bench.address, &offer).map_err(text)?;
        let mut header = pdu::scsi_command(
            bench.args.lun,
            9,
            &scsi::write_16(0, 64, false),
            pdu::Direction::Write,
            64 * bench.block(),
        );
        header[1] |= pdu::FINAL;
        pdu::set_data_length(&mut header, 8192);
        pdu::put32(&mut header, 24, login.cmd_sn);
        pdu::put32(&mut header, 28, login.exp_stat_sn);
        let mut bytes = header.to_vec();
        bytes.resize(48 + 8192, 0x77);
        let mut stream = login.stream;
        stream.write_all(&bytes[..cut]).map_err(|e| e.to_string())?;
        stream.shutdown(Shutdown::Both).map_err(|e| e.to_string())?;
    }
    let mut session = bench.session()?;
    read_good(&mut session, scsi::read_16(0, 64), 64 * bench.block()).map(drop)
}

fn logout_is_answered(bench: &Bench) -> Outcome {
    bench.session()?.logout(PATIENCE).map_err(text)
}

//! Sense data as bytes.

use super::*;

fn encoded(sense: SenseData, format: SenseFormat) -> Vec<u8> {
    let mut bytes = [0xEE; SENSE_BYTES_MAX];
    let length = sense.encode(format, &mut bytes);
    bytes[..length].to_vec()
}

fn fixed(sense: SenseData) -> Vec<u8> {
    encoded(sense, SenseFormat::Fixed)
}

fn descriptor(sense: SenseData) -> Vec<u8> {
    encoded(sense, SenseFormat::Descriptor)
}

#[test]
fn fixed_format() {
    assert_eq!(fixed(SenseData::NO_SENSE), [0x70, 0, 0, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(
        fixed(SenseData::invalid_cdb_bit(1, 4)),
        [0x70, 0, 5, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0x24, 0, 0, 0xCC, 0, 1]
    );
    assert_eq!(
        fixed(SenseData::invalid_parameter(0x0123)),
        [0x70, 0, 5, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0x26, 0, 0, 0x80, 0x01, 0x23]
    );
    assert_eq!(
        fixed(SenseData::unrecovered_read_error(Lba(0x0102_0304))),
        [0xF0, 0, 3, 1, 2, 3, 4, 10, 0, 0, 0, 0, 0x11, 0, 0, 0, 0, 0]
    );
    assert_eq!(
        fixed(SenseData::write_error(Lba(7)))[..14],
        [0xF0, 0, 3, 0, 0, 0, 7, 10, 0, 0, 0, 0, 0x0C, 0]
    );
}

#[test]
fn fixed_format_leaves_out_an_address_that_does_not_fit() {
    let sense = SenseData::lba_out_of_range(Lba(1 << 32));
    assert_eq!(fixed(sense)[..8], [0x70, 0, 5, 0, 0, 0, 0, 10]);
    let sense = SenseData::lba_out_of_range(Lba(u64::from(u32::MAX)));
    assert_eq!(fixed(sense)[..8], [0xF0, 0, 5, 0xFF, 0xFF, 0xFF, 0xFF, 10]);
}

#[test]
fn descriptor_format() {
    assert_eq!(descriptor(SenseData::LOGICAL_UNIT_NOT_SUPPORTED), [0x72, 5, 0x25, 0, 0, 0, 0, 0]);
    assert_eq!(
        descriptor(SenseData::unrecovered_read_error(Lba(0x0102_0304_0506_0708))),
        [0x72, 3, 0x11, 0, 0, 0, 0, 12, 0, 10, 0x80, 0, 1, 2, 3, 4, 5, 6, 7, 8]
    );
    assert_eq!(
        descriptor(SenseData::invalid_cdb_field(10)),
        [0x72, 5, 0x24, 0, 0, 0, 0, 8, 2, 6, 0, 0, 0xC0, 0, 10, 0]
    );
}

#[test]
fn the_longest_encoding_fits() {
    let sense = SenseData { information: Some(u64::MAX), ..SenseData::invalid_cdb_bit(15, 7) };
    assert_eq!(descriptor(sense).len(), SENSE_BYTES_MAX);
    assert_eq!(fixed(sense).len(), FIXED_SENSE_BYTES);
}

#[test]
fn errors_of_the_transport_have_the_codes_of_rfc_7143() {
    let code = |sense: SenseData| (sense.key as u8, sense.additional.code, sense.additional.qualifier);
    assert_eq!(code(SenseData::UNEXPECTED_UNSOLICITED_DATA), (0x0B, 0x0C, 0x0C));
    assert_eq!(code(SenseData::NOT_ENOUGH_UNSOLICITED_DATA), (0x0B, 0x0C, 0x0D));
    assert_eq!(code(SenseData::PROTOCOL_SERVICE_CRC_ERROR), (0x0B, 0x47, 0x05));
}

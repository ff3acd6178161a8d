use proptest::prelude::*;

use super::*;
use crate::sense::SenseKey;
use crate::table::{DeviceType, Profile, decode};

const PREAMBLE: Preamble = Preamble {
    medium_type: 0,
    device_specific: disk_parameter(true, true),
    blocks: Some(BlockDescriptor {
        blocks: 0x1_0000_0000,
        block_length: 4096,
    }),
};
const TRUNCATED: Sense = Sense::illegal_request(AdditionalSense::PARAMETER_LIST_LENGTH_ERROR);

fn pages() -> ModePages {
    ModePages::new([
        ModePage::control_extension(),
        ModePage::control().with_changeable(2, 0x04),
        ModePage::caching(false),
        ModePage::informational_exceptions(),
    ])
}

fn cdb(bytes: &[u8]) -> [u8; 32] {
    let mut cdb = [0; 32];
    cdb[..bytes.len()].copy_from_slice(bytes);
    assert!(decode(Profile::new(DeviceType::Disk), &cdb).is_ok());
    cdb
}

fn sense_6(pages: &ModePages, flags: u8, page: u8, subpage: u8) -> Result<Vec<u8>, Sense> {
    let mut out = Vec::new();
    let cdb = cdb(&[0x1a, flags, page, subpage, 255, 0]);
    pages.sense(&mut out, Cdb(&cdb), &PREAMBLE).map(|()| out)
}

fn sense_10(pages: &ModePages, flags: u8, page: u8) -> Vec<u8> {
    let mut out = Vec::new();
    let cdb = cdb(&[0x5a, flags, page, 0, 0, 0, 0, 1, 0, 0]);
    pages.sense(&mut out, Cdb(&cdb), &PREAMBLE).unwrap();
    out
}

fn select_6(pages: &ModePages, list: &[u8]) -> Result<ModePages, Sense> {
    pages.select(Cdb(&cdb(&[0x15, 0x10, 0, 0, 0, 0])), list, &PREAMBLE)
}

fn select_10(pages: &ModePages, list: &[u8]) -> Result<ModePages, Sense> {
    pages.select(
        Cdb(&cdb(&[0x55, 0x10, 0, 0, 0, 0, 0, 0, 0, 0])),
        list,
        &PREAMBLE,
    )
}

const CACHING_ON: [u8; 20] = [
    0x08, 0x12, 0x04, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
];

#[test]
fn mode_sense_6_is_header_block_descriptor_and_page() {
    let data = sense_6(&pages(), 0, 0x08, 0).unwrap();
    assert_eq!(data[..4], [31, 0, 0x90, 8]);
    assert_eq!(data[4..12], [0xff, 0xff, 0xff, 0xff, 0, 0, 0x10, 0]);
    assert_eq!(data[12..15], [0x08, 0x12, 0x00]);
    assert_eq!(data.len(), 32);
}

#[test]
fn mode_sense_10_has_a_long_block_descriptor_if_llbaa_asks_for_it() {
    let data = sense_10(&pages(), 0x10, 0x08);
    assert_eq!(data[..8], [0, 42, 0, 0x90, 1, 0, 0, 16]);
    assert_eq!(
        data[8..24],
        [0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10, 0]
    );
    let data = sense_10(&pages(), 0x00, 0x08);
    assert_eq!(data[..8], [0, 34, 0, 0x90, 0, 0, 0, 8]);
}

#[test]
fn dbd_leaves_the_block_descriptor_out() {
    assert_eq!(
        sense_6(&pages(), 0x08, 0x08, 0).unwrap()[..5],
        [23, 0, 0x90, 0, 0x08]
    );
}

#[test]
fn page_control_selects_current_changeable_or_default_values() {
    let pages = select_6(&pages(), &[&[0, 0, 0, 0], &CACHING_ON[..]].concat()).unwrap();
    let wce = |control: u8| sense_6(&pages, 0x08, control << 6 | 0x08, 0).unwrap()[4..7].to_vec();
    assert_eq!(wce(0), [0x08, 0x12, 0x04]);
    assert_eq!(wce(1), [0x08, 0x12, 0x04]);
    assert_eq!(wce(2), [0x08, 0x12, 0x00]);
    let sense = sense_6(&pages, 0, 0xc8, 0).unwrap_err();
    assert_eq!(
        sense.additional,
        AdditionalSense::SAVING_PARAMETERS_NOT_SUPPORTED
    );
}

#[test]
fn all_pages_come_in_ascending_order_and_subpages_only_when_asked_for() {
    let keys = |page, subpage| {
        let data = sense_6(&pages(), 0x08, page, subpage).unwrap();
        let (mut at, mut keys) = (4, vec![]);
        while at < data.len() {
            let (sub, length) = match data[at] & 0x40 {
                0 => (0, 2 + usize::from(data[at + 1])),
                _ => (data[at + 1], 4 + usize::from(data[at + 3])),
            };
            keys.push((data[at] & 0x3f, sub));
            at += length;
        }
        keys
    };
    assert_eq!(keys(0x3f, 0x00), [(0x08, 0), (0x0a, 0), (0x1c, 0)]);
    assert_eq!(
        keys(0x3f, 0xff),
        [(0x08, 0), (0x0a, 0), (0x0a, 1), (0x1c, 0)]
    );
    assert_eq!(keys(0x0a, 0xff), [(0x0a, 0), (0x0a, 1)]);
    assert_eq!(keys(0x0a, 0x01), [(0x0a, 1)]);
}

#[test]
fn a_page_or_subpage_that_the_unit_lacks_is_an_invalid_field() {
    for (page, subpage, byte, bit) in [(0x02, 0, 2, 5), (0x08, 1, 3, 7), (0x3f, 1, 3, 7)] {
        let sense = sense_6(&pages(), 0, page, subpage).unwrap_err();
        assert_eq!(sense, Sense::invalid_bits_in_cdb(byte, bit));
    }
}

#[test]
fn select_changes_wce_and_nothing_else() {
    let before = pages();
    let after = select_10(&before, &[&[0; 8], &CACHING_ON[..]].concat()).unwrap();
    assert!(after.write_cache_enabled() && !before.write_cache_enabled());
    assert_ne!(after, before);
    let mut reset = after;
    reset.reset();
    assert_eq!(reset, before);
}

#[test]
fn an_empty_list_changes_nothing_even_without_pf() {
    let cdb = cdb(&[0x15, 0x00, 0, 0, 0, 0]);
    assert_eq!(pages().select(Cdb(&cdb), &[], &PREAMBLE), Ok(pages()));
    let sense = pages().select(Cdb(&cdb), &[0; 4], &PREAMBLE).unwrap_err();
    assert_eq!(sense, Sense::invalid_bits_in_cdb(1, 4));
}

#[test]
fn a_list_cut_off_anywhere_but_between_pages_is_a_length_error() {
    let descriptor = [0xff, 0xff, 0xff, 0xff, 0, 0, 0x10, 0];
    let list = [&[0, 0, 0, 8], &descriptor[..], &CACHING_ON[..]].concat();
    for length in 1..list.len() {
        let result = select_6(&pages(), &list[..length]);
        match length {
            12 => assert_eq!(result, Ok(pages())),
            _ => assert_eq!(result, Err(TRUNCATED), "{length} bytes"),
        }
    }
    assert!(select_6(&pages(), &list).unwrap().write_cache_enabled());
}

#[test]
fn each_wrong_field_is_pointed_at() {
    let header = [0, 0, 0, 0];
    let with_page = |change: &dyn Fn(&mut [u8; 20])| {
        let mut page = CACHING_ON;
        change(&mut page);
        select_6(&pages(), &[&header[..], &page].concat()).unwrap_err()
    };
    let bit = Sense::invalid_bits_in_parameters;
    let byte = Sense::invalid_field_in_parameters;
    assert_eq!(with_page(&|p| p[0] = 0x3f), bit(4, 5)); // all pages is not a page
    assert_eq!(with_page(&|p| p[0] = 0x48), byte(5)); // SPF: byte 1 is a subpage now
    assert_eq!(with_page(&|p| p[1] = 0x11), byte(5)); // PAGE LENGTH
    assert_eq!(with_page(&|p| p[2] = 0x05), bit(6, 0)); // RCD
    assert_eq!(with_page(&|p| p[19] = 0x80), bit(23, 7));

    let second = [
        &header[..],
        &CACHING_ON,
        &[0x0a, 0x0a, 0x04, 0x10, 0x08, 0, 0, 0, 0, 0, 0, 0],
    ];
    assert_eq!(select_6(&pages(), &second.concat()), Err(bit(28, 3))); // SWP of the second page

    let preamble = |list: &[u8]| select_6(&pages(), list).unwrap_err();
    assert_eq!(preamble(&[0, 1, 0, 0]), byte(1)); // MEDIUM TYPE
    assert_eq!(preamble(&[0, 0, 0, 16, 0, 0, 0, 0, 0, 0, 0, 0]), byte(3));
    assert_eq!(preamble(&[0, 0, 0, 8, 0, 0, 0, 7, 0, 0, 0x10, 0]), byte(4));
    assert_eq!(preamble(&[0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 2, 0]), byte(9));
    let long = [&[0, 0, 0, 0, 1, 0, 0, 16][..], &[0; 12], &[0, 0, 2, 0]].concat();
    assert_eq!(select_10(&pages(), &long), Err(byte(20)));
}

#[test]
fn ps_in_a_returned_page_is_ignored() {
    let mut page = CACHING_ON;
    page[0] |= 0x80;
    assert!(select_6(&pages(), &[&[0; 4], &page[..]].concat()).is_ok());
}

proptest! {
    /// What MODE SENSE returns can be sent back: it changes nothing.
    #[test]
    fn select_accepts_what_sense_returns(wce: bool, d_sense: bool, dbd: bool, long: bool) {
        let mut list = [&[0; 4], &CACHING_ON[..], &[0x0a, 0x0a, 0, 0x10, 0, 0, 0, 0, 0, 0, 0, 0]].concat();
        list[6] = u8::from(wce) << 2;
        list[26] = u8::from(d_sense) << 2;
        let changed = select_6(&pages(), &list).unwrap();
        prop_assert_eq!((changed.write_cache_enabled(), changed.descriptor_sense()), (wce, d_sense));

        let mut returned = Vec::new();
        let flags = u8::from(dbd) << 3 | u8::from(long) << 4;
        let cdb = cdb(&[0x5a, flags, 0x3f, 0xff, 0, 0, 0, 1, 0, 0]);
        changed.sense(&mut returned, Cdb(&cdb), &PREAMBLE).unwrap();
        prop_assert_eq!(select_10(&changed, &returned), Ok(changed));
    }

    #[test]
    fn select_of_any_bytes_changes_changeable_bits_or_is_refused(
        list in proptest::collection::vec(any::<u8>(), 1..80), near: bool,
    ) {
        let mut list = list;
        if near {
            list.splice(0..0, [[0; 4].as_slice(), &CACHING_ON].concat());
        }
        match select_6(&pages(), &list) {
            Ok(after) => for (new, old) in after.pages.iter().zip(&pages().pages) {
                for ((a, b), mask) in new.current().iter().zip(old.current()).zip(old.changeable()) {
                    prop_assert_eq!((a ^ b) & !mask, 0);
                }
            },
            Err(sense) => prop_assert_eq!(sense.key, SenseKey::IllegalRequest),
        }
    }
}

#![allow(
    clippy::cast_possible_truncation,
    reason = "the numbers of a test are chosen to fit"
)]

use proptest::prelude::*;

use super::*;

const LIMITS: Limits = Limits {
    cscds: 3,
    segments: 4,
    segment_bytes: 1 << 20,
    concurrent: 5,
    granularity: 9,
};

fn cscd() -> Vec<u8> {
    let mut d = vec![0; 32];
    d[..8].copy_from_slice(&[0xe4, 0, 0, 0, 1, 3, 0, 8]);
    d[8..16].copy_from_slice(&[1, 2, 3, 4, 5, 6, 7, 8]);
    d[30] = 2;
    d
}

fn blocks() -> Vec<u8> {
    let mut d = vec![0; 28];
    d[..8].copy_from_slice(&[0x02, 0, 0, 0x18, 0, 1, 0, 2]);
    d[11] = 9;
    d[19] = 7;
    d[27] = 5;
    d
}

fn bytes() -> Vec<u8> {
    let mut d = vec![0; 32];
    d[..8].copy_from_slice(&[0x0a, 0, 0, 0x1c, 0, 0, 0, 0]);
    d[10] = 4;
    d[29] = 1;
    d[31] = 2;
    d
}

fn list(cscds: &[Vec<u8>], segments: &[Vec<u8>]) -> Vec<u8> {
    let (cscds, segments) = (cscds.concat(), segments.concat());
    let mut list = vec![9, 0];
    list.extend((cscds.len() as u16).to_be_bytes());
    list.extend([0; 4]);
    list.extend((segments.len() as u32).to_be_bytes());
    list.extend([0; 4]);
    [list, cscds, segments].concat()
}

fn code_of(list: &[u8]) -> (u8, u8) {
    let sense = parse(list, LIMITS).unwrap_err();
    assert_eq!(sense.key, crate::SenseKey::IllegalRequest);
    (sense.additional.asc, sense.additional.ascq)
}

#[test]
fn descriptors_are_read_as_spc_lays_them_out() {
    let list = list(&[cscd()], &[blocks(), bytes()]);
    let copy = parse(&list, LIMITS).unwrap().unwrap();
    assert_eq!(copy.list_id, ListId::Held(9));
    let expected = Cscd {
        at: 16,
        lu_id_type: 0,
        null: false,
        device_type: 0,
        initiator_port: 0,
        kind: [1, 3],
        designator: &[1, 2, 3, 4, 5, 6, 7, 8],
        block_length: 512,
    };
    assert_eq!(copy.cscds, [expected]);
    let first = Segment {
        at: 48,
        source: 1,
        destination: 2,
        amount: Amount::SourceBlocks(9),
        source_lba: 7,
        destination_lba: 5,
    };
    assert_eq!(copy.segments[0], first);
    let amount = Amount::Bytes {
        count: 0x400,
        source_offset: 1,
        destination_offset: 2,
    };
    assert_eq!((copy.segments[1].at, copy.segments[1].amount), (76, amount));
}

#[test]
fn nothing_and_no_descriptors_are_no_errors() {
    assert_eq!(parse(&[], LIMITS), Ok(None));
    let empty = list(&[], &[]);
    let copy = parse(&empty, LIMITS).unwrap().unwrap();
    assert_eq!((copy.cscds.len(), copy.segments.len()), (0, 0));
}

#[test]
fn a_list_that_is_cut_off_is_a_parameter_list_length_error() {
    let whole = list(&[cscd()], &[blocks()]);
    for length in 1..whole.len() {
        assert_eq!(code_of(&whole[..length]), (0x1a, 0), "{length}");
    }
}

#[test]
fn each_limit_has_its_own_answer() {
    let (c, s) = (cscd(), blocks());
    let many = |cscds, segments| list(&vec![c.clone(); cscds], &vec![s.clone(); segments]);
    assert!(parse(&many(3, 4), LIMITS).is_ok());
    assert_eq!(code_of(&many(4, 1)), (0x26, 0x06));
    assert_eq!(code_of(&many(1, 5)), (0x26, 0x08));
    assert_eq!(code_of(&many(4, 5)), (0x1a, 0x00));
    let mut inline = many(1, 1);
    inline[15] = 1;
    assert_eq!(code_of(&inline), (0x26, 0x0b));
}

#[test]
fn types_that_are_not_known_are_refused() {
    let mut foreign = cscd();
    foreign[0] = 0xe0;
    assert_eq!(code_of(&list(&[foreign], &[blocks()])), (0x26, 0x07));
    let mut stream = blocks();
    stream[0] = 0x04;
    assert_eq!(code_of(&list(&[cscd()], &[stream])), (0x26, 0x09));
}

#[test]
fn fields_that_cannot_be_are_pointed_at() {
    let mut long = cscd();
    long[7] = 21;
    let sense = parse(&list(&[long], &[]), LIMITS).unwrap_err();
    assert_eq!(sense, Sense::invalid_field_in_parameters(16 + 7));
    let mut odd = blocks();
    odd[3] = 0x1c;
    let sense = parse(&list(&[], &[odd]), LIMITS).unwrap_err();
    assert_eq!(sense, Sense::invalid_field_in_parameters(16 + 2));
    let mut reserved = list(&[], &[]);
    reserved[1] = 0b01 << 3;
    let sense = parse(&reserved, LIMITS).unwrap_err();
    assert_eq!(sense, Sense::invalid_bits_in_parameters(1, 4));
    let mut no_list = list(&[], &[]);
    no_list[1] = 0b11 << 3;
    assert_eq!(
        parse(&no_list, LIMITS),
        Err(Sense::invalid_field_in_parameters(0))
    );
    no_list[0] = 0;
    assert_eq!(
        parse(&no_list, LIMITS).unwrap().unwrap().list_id,
        ListId::None
    );
}

#[test]
fn results_are_laid_out_as_spc_says() {
    let done = status(CopyState::Done, 0x0102, 0x0304_0506);
    assert_eq!(done, [0, 0, 0, 8, 1, 1, 2, 0, 3, 4, 5, 6]);
    let large = status(CopyState::Failed, 1, 5 << 30);
    assert_eq!(large, [0, 0, 0, 8, 2, 0, 1, 1, 0, 0x50, 0, 0]);
    let parameters = operating_parameters(LIMITS);
    let mut expected = [0; 47];
    expected[3] = 43;
    expected[4] = 1;
    expected[8..20].copy_from_slice(&[0, 3, 0, 4, 0, 0, 0, 224, 0, 0x10, 0, 0]);
    expected[35..38].copy_from_slice(&[5, 5, 9]);
    expected[43..].copy_from_slice(&[3, 0x02, 0x0a, 0xe4]);
    assert_eq!(parameters, expected);
}

proptest! {
    #[test]
    fn parsing_any_bytes_ends(
        head in prop::collection::vec(any::<u8>(), 0..20), body in prop::collection::vec(any::<u8>(), 0..300),
        kind in prop::sample::select(vec![0x02u8, 0x0a, 0xe4, 0x00]),
    ) {
        let mut list = [head, body].concat();
        if let Some(byte) = list.get_mut(16) {
            *byte = kind;
        }
        if let Ok(Some(copy)) = parse(&list, LIMITS) {
            prop_assert!(copy.cscds.len() <= 3 && copy.segments.len() <= 4);
        }
    }
}

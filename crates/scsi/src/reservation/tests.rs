use proptest::prelude::*;

use super::*;

const LENGTH: AdditionalSense = AdditionalSense::PARAMETER_LIST_LENGTH_ERROR;

fn list(flags: u8, extra: &[u8]) -> Vec<u8> {
    let mut list = vec![0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0];
    list.extend([flags, 0, 0, 0]);
    list.extend(extra);
    list
}

#[test]
fn a_list_is_24_bytes_and_nothing_else() {
    for action in [
        Out::Register,
        Out::Reserve,
        Out::Clear,
        Out::PreemptAndAbort,
    ] {
        for len in 0..40 {
            let whole = list(0, &[0; 16]);
            match Parameters::parse(action, &whole[..len]) {
                Ok(read) => assert_eq!((len, read.key, read.action_key), (24, 1, 2)),
                Err(sense) => assert_eq!((sense.additional, len == 24), (LENGTH, false)),
            }
        }
    }
}

#[test]
fn flags_mean_something_in_registrations_only() {
    let read = Parameters::parse(Out::Register, &list(0x05, &[])).unwrap();
    assert!(read.all_target_ports && read.persist && read.initiators.is_none());
    let read = Parameters::parse(Out::Preempt, &list(0x05, &[])).unwrap();
    assert!(!read.all_target_ports && !read.persist);
}

#[test]
fn initiator_ports_are_listed_behind_their_length() {
    let ports = [TransportId(0x5000_c500_0000_0001), TransportId(7)];
    let mut extra = vec![0, 0, 0, 48];
    extra.extend(ports.iter().flat_map(|port| port.to_bytes()));
    let read = Parameters::parse(Out::Register, &list(0x08, &extra)).unwrap();
    assert_eq!(read.initiators.as_deref(), Some(&ports[..]));
    let empty = Parameters::parse(Out::Register, &list(0x08, &[0; 4])).unwrap();
    assert_eq!(empty.initiators, Some(vec![]));

    let refused = |extra: &[u8]| {
        let sense = Parameters::parse(Out::Register, &list(0x08, extra)).unwrap_err();
        sense.additional
    };
    assert_eq!(refused(&[]), LENGTH);
    assert_eq!(refused(&extra[..51]), LENGTH);
    assert_eq!(refused(&[0, 0, 0, 4, 0, 0, 0, 0]), LENGTH);
    extra[4] = 0x05; // iSCSI
    assert_eq!(
        refused(&extra),
        AdditionalSense::INVALID_FIELD_IN_PARAMETER_LIST
    );
}

#[test]
fn register_and_move_names_a_port_of_each_side() {
    let mut bytes = list(0, &TransportId(9).to_bytes());
    bytes[17] = 0x03;
    bytes[18..24].copy_from_slice(&[0, 5, 0, 0, 0, 24]);
    let read = Parameters::parse(Out::RegisterAndMove, &bytes).unwrap();
    assert!(read.persist);
    let expected = Destination {
        unregister: true,
        target_port: 5,
        initiator: TransportId(9),
    };
    assert_eq!(read.destination, expected);
    let sense = Parameters::parse(Out::RegisterAndMove, &bytes[..47]).unwrap_err();
    assert_eq!(sense.additional, LENGTH);
}

#[test]
fn a_port_is_its_name_or_what_follows_from_it() {
    assert_eq!(
        TransportId::of_name("naa.5000c50000000001").0,
        0x5000_c500_0000_0001
    );
    assert_eq!(TransportId::of_name("vm1").0, naa("vm1"));
    assert_eq!(TransportId::of_name("naa.5000c5000000000").0 >> 60, 3);
    assert_eq!(
        TransportId(0x5000_c500_0000_0001).to_string(),
        "naa.5000c50000000001"
    );
    let bytes = TransportId(0x5000_c500_0000_0001).to_bytes();
    assert_eq!(bytes[..12], [6, 0, 0, 0, 0x50, 0, 0xc5, 0, 0, 0, 0, 1]);
    assert_eq!(bytes[12..], [0; 12]);
}

fn naa(name: &str) -> u64 {
    crate::naa::locally_assigned(name)
}

#[test]
fn data_for_the_initiator_is_laid_out_as_spc_says() {
    let mut out = Vec::new();
    read_keys(&mut out, 3, [0x0102_0304_0506_0708, 9]);
    assert_eq!(out[..8], [0, 0, 0, 3, 0, 0, 0, 16]);
    assert_eq!(out[8..], [1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0, 0, 0, 0, 0, 9]);

    out.clear();
    read_reservation(&mut out, 3, None);
    assert_eq!(out, [0, 0, 0, 3, 0, 0, 0, 0]);
    out.clear();
    let kind = Kind::WriteExclusiveRegistrants;
    read_reservation(&mut out, 3, Some(Reservation { key: 9, kind }));
    assert_eq!(
        out[4..],
        [0, 0, 0, 16, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 0, 0, 5, 0, 0]
    );

    out.clear();
    let status = FullStatus {
        key: 9,
        holds: Some(kind),
        target_port: 2,
        initiator: TransportId(1),
    };
    read_full_status(&mut out, 3, [status]);
    assert_eq!(out[4..16], [0, 0, 0, 48, 0, 0, 0, 0, 0, 0, 0, 9]);
    assert_eq!(
        out[16..32],
        [0, 0, 0, 0, 1, 5, 0, 0, 0, 0, 0, 2, 0, 0, 0, 24]
    );
    assert_eq!(out[32..], TransportId(1).to_bytes());

    let capabilities = Capabilities {
        can_persist: true,
        persists: false,
    };
    assert_eq!(
        report_capabilities(capabilities),
        [0, 8, 0x1d, 0x80, 0xea, 0x01, 0, 0]
    );
}

#[test]
fn scope_and_type_are_checked() {
    for byte in 0..=u8::MAX {
        let known = matches!(byte, 1 | 3 | 5 | 6 | 7 | 8);
        assert_eq!(Kind::from_cdb(byte).is_ok(), known, "{byte:#x}");
    }
}

proptest! {
    #[test]
    fn any_list_is_read_or_refused(action in 0u16..8, list in prop::collection::vec(any::<u8>(), 0..96)) {
        let action = Out::from_service_action(action).unwrap();
        if let Ok(read) = Parameters::parse(action, &list) {
            prop_assert!(read.initiators.is_none_or(|ports| ports.len() * TransportId::LEN <= list.len()));
        }
    }
}

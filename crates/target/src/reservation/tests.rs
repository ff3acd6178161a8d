#![allow(clippy::indexing_slicing, reason = "the tests know their lengths")]

use std::sync::Mutex;

use lunar_scsi::be::u32_at;
use lunar_scsi::{Cdb, DeviceType, Features, Profile, Row, SenseKey};

use super::*;

pub(super) const PORTS: [u16; 2] = [1, 2];

pub(super) fn registrant(number: u64) -> Registrant {
    Registrant {
        initiator: TransportId(number),
        target_port: PORTS[usize::try_from(number).unwrap() % 2],
    }
}

const A: u64 = 0;
const B: u64 = 1;
const C: u64 = 2;

fn send(
    state: &mut Reservations,
    from: u64,
    action: Out,
    kind: u8,
    keys: (u64, u64),
) -> Result<Consequences> {
    let parameters = Parameters {
        key: keys.0,
        action_key: keys.1,
        ..Parameters::default()
    };
    send_with(state, from, action, kind, parameters)
}

fn send_with(
    state: &mut Reservations,
    from: u64,
    action: Out,
    kind: u8,
    parameters: Parameters,
) -> Result<Consequences> {
    let request = Request {
        from: registrant(from),
        action,
        scope_and_type: kind,
        parameters,
    };
    let around = Surroundings {
        target_ports: &PORTS,
        can_persist: true,
    };
    let mut next = state.clone();
    let told = next.apply(&request, around)?;
    *state = next;
    Ok(told)
}

/// A (key A+1) holds a reservation; B is registered.
fn reserved(kind: Kind) -> Reservations {
    let mut state = Reservations::default();
    for who in [A, B] {
        send(&mut state, who, Out::Register, 0, (0, who + 1)).unwrap();
    }
    send(&mut state, A, Out::Reserve, kind as u8, (A + 1, 0)).unwrap();
    state
}

fn full() -> impl Iterator<Item = &'static Row> {
    Profile::new(DeviceType::Disk).with(Features::all()).rows()
}

/// SC-042, written down once more: what each kind of command may do under (WE, EA, registrant of RO/AR, stranger to
/// WE-RO/AR, stranger to EA-RO/AR).
const ALWAYS: [bool; 5] = [true; 5];
const READS: [bool; 5] = [true, false, true, true, false];
const WRITES: [bool; 5] = [false, false, true, false, false];

const MATRIX: &[(&[u8], [bool; 5])] = &[
    (&[0x00], ALWAYS),
    (&[0x03], ALWAYS),
    (&[0x12], ALWAYS),
    (&[0xa0], ALWAYS),
    (&[0x25], ALWAYS),
    (&[0x9e, 0x10], ALWAYS),
    (&[0xa3, 0x0a], ALWAYS),
    (&[0x1b, 0, 0, 0, 0x01], ALWAYS),
    (&[0x1e, 0, 0, 0, 0x00], ALWAYS),
    (&[0x5e, 0x00], ALWAYS),
    (&[0x5e, 0x03], ALWAYS),
    (&[0x08], READS),
    (&[0x28], READS),
    (&[0xa8], READS),
    (&[0x88], READS),
    (&[0x2f], READS),
    (&[0xaf], READS),
    (&[0x8f], READS),
    (&[0x1a], READS),
    (&[0x5a], READS),
    (&[0xa3, 0x0c], READS),
    (&[0x0a], WRITES),
    (&[0x2a], WRITES),
    (&[0xaa], WRITES),
    (&[0x8a], WRITES),
    (&[0x35], WRITES),
    (&[0x91], WRITES),
    (&[0x41], WRITES),
    (&[0x93], WRITES),
    (&[0x42], WRITES),
    (&[0x15], WRITES),
    (&[0x55], WRITES),
    (&[0xa4, 0x0a], WRITES),
    (&[0x1b, 0, 0, 0, 0x00], WRITES),
    (&[0x1b, 0, 0, 0, 0x03], WRITES),
    (&[0x1e, 0, 0, 0, 0x01], WRITES),
];

#[test]
fn every_command_meets_with_every_reservation_as_the_standard_says() {
    for (bytes, expected) in MATRIX {
        let mut cdb = [0; 32];
        cdb[..bytes.len()].copy_from_slice(bytes);
        let view = Cdb(&cdb);
        let row = full()
            .filter(|row| row.opcode() == view.opcode())
            .find(|row| {
                row.service_action()
                    .is_none_or(|action| action == view.service_action())
            })
            .unwrap();
        for kind in Kind::ALL {
            let state = reserved(kind);
            let allowed = |who| !state.excludes(registrant(who), row.reservation.effect(view));
            assert!(allowed(A), "the holder: {} {kind:?}", row.name);
            let exclusive_access = matches!(
                kind,
                Kind::ExclusiveAccess | Kind::ExclusiveAccessRegistrants | Kind::ExclusiveAccessAll
            );
            let (registered, stranger) = match kind {
                Kind::WriteExclusive => (0, 0),
                Kind::ExclusiveAccess => (1, 1),
                _ => (2, if exclusive_access { 4 } else { 3 }),
            };
            assert_eq!(
                allowed(B),
                expected[registered],
                "registered: {} {kind:?}",
                row.name
            );
            assert_eq!(
                allowed(C),
                expected[stranger],
                "a stranger: {} {kind:?}",
                row.name
            );
        }
    }
}

#[test]
fn reservation_actions_by_those_who_do_not_hold_it_are_as_the_standard_says() {
    for kind in Kind::ALL {
        let all = kind.is_held_by_all();
        let answer = |who: u64, key, action, action_key| {
            let mut state = reserved(kind);
            send(&mut state, who, action, kind as u8, (key, action_key)).map(drop)
        };
        let conflict = Err(Refusal::Conflict);
        for action in [
            Out::Reserve,
            Out::Release,
            Out::Clear,
            Out::Preempt,
            Out::PreemptAndAbort,
        ] {
            assert_eq!(answer(C, 0, action, 1), conflict, "unregistered {action:?}");
            assert_eq!(answer(B, 9, action, 1), conflict, "wrong key {action:?}");
        }
        assert_eq!(answer(C, 0, Out::Register, 7), Ok(()));
        assert_eq!(answer(C, 5, Out::Register, 7), conflict);
        assert_eq!(answer(C, 5, Out::RegisterAndIgnoreExistingKey, 7), Ok(()));
        assert_eq!(
            answer(B, 2, Out::Reserve, 0),
            if all { Ok(()) } else { conflict }
        );
        assert_eq!(answer(B, 2, Out::Release, 0), Ok(()));
        assert_eq!(answer(B, 2, Out::Clear, 0), Ok(()));
        assert_eq!(answer(B, 2, Out::Preempt, 1), Ok(()));
        assert_eq!(
            answer(B, 2, Out::Preempt, 99),
            conflict,
            "nobody has that key"
        );
    }
}

#[test]
fn only_the_right_nexuses_hear_of_it() {
    use UnitAttention::{RegistrationsPreempted, ReservationsPreempted, ReservationsReleased};
    for kind in Kind::ALL {
        let heard = |action, scope, keys| {
            let mut state = reserved(kind);
            send(&mut state, C, Out::Register, 0, (0, C + 1)).unwrap();
            let mut heard = send(&mut state, A, action, scope, keys).unwrap().attentions;
            heard.sort_by_key(|(who, _)| *who);
            heard
        };
        let others = |attention| vec![(registrant(C), attention), (registrant(B), attention)];
        let sorted = |mut all: Vec<(Registrant, UnitAttention)>| {
            all.sort_by_key(|(who, _)| *who);
            all
        };
        let released = match kind.admits_registrants() {
            true => sorted(others(ReservationsReleased)),
            false => vec![],
        };
        assert_eq!(heard(Out::Release, kind as u8, (1, 0)), released);
        assert_eq!(
            heard(Out::Clear, 0, (1, 0)),
            sorted(others(ReservationsPreempted))
        );
        let one = vec![(registrant(B), RegistrationsPreempted)];
        assert_eq!(heard(Out::Preempt, kind as u8, (1, B + 1)), one);
        // An all-registrants reservation does not end with the one who made it.
        let unregistered = if kind.is_held_by_all() {
            vec![]
        } else {
            released
        };
        assert_eq!(heard(Out::Register, 0, (1, 0)), unregistered);
    }
}

#[test]
fn preempting_everybody_takes_an_all_registrants_reservation_over() {
    let mut state = reserved(Kind::WriteExclusiveAll);
    let told = send(&mut state, B, Out::PreemptAndAbort, 3, (2, 0)).unwrap();
    assert_eq!(told.preempted, [registrant(A)]);
    assert_eq!(
        told.attentions,
        [(registrant(A), UnitAttention::RegistrationsPreempted)]
    );
    assert!(state.excludes(registrant(A), Effect::Read));
    assert!(!state.excludes(registrant(B), Effect::Write));

    let mut state = reserved(Kind::WriteExclusive);
    let refused = send(&mut state, B, Out::Preempt, 3, (2, 0)).unwrap_err();
    assert_eq!(
        refused,
        Refusal::Check(Sense::invalid_field_in_parameters(8))
    );
}

#[test]
fn register_and_move_takes_the_reservation_along() {
    let destination = Destination {
        unregister: true,
        target_port: 2,
        initiator: TransportId(77),
    };
    let parameters = Parameters {
        key: 1,
        action_key: 42,
        destination,
        ..Parameters::default()
    };
    let mut state = reserved(Kind::ExclusiveAccess);
    send_with(&mut state, A, Out::RegisterAndMove, 0, parameters.clone()).unwrap();
    let to = Registrant {
        initiator: TransportId(77),
        target_port: 2,
    };
    assert!(!state.excludes(to, Effect::Write));
    assert!(state.excludes(registrant(A), Effect::Read));
    assert_eq!(
        (state.key_of(to), state.key_of(registrant(A))),
        (Some(42), None)
    );

    let by = |kind, who, parameters| {
        let mut state = reserved(kind);
        send_with(&mut state, who, Out::RegisterAndMove, 0, parameters).unwrap_err()
    };
    let from_b = Parameters {
        key: 2,
        ..parameters.clone()
    };
    assert_eq!(by(Kind::ExclusiveAccess, B, from_b), Refusal::Conflict);
    assert_eq!(
        by(Kind::ExclusiveAccessAll, A, parameters.clone()),
        Refusal::Conflict
    );
    let mut elsewhere = parameters;
    elsewhere.destination.target_port = 3;
    let unknown = Sense::invalid_field_in_parameters(18);
    assert_eq!(
        by(Kind::ExclusiveAccess, A, elsewhere),
        Refusal::Check(unknown)
    );
}

#[test]
fn ports_can_be_registered_for_others_and_everywhere() {
    let mut state = Reservations::default();
    let parameters = Parameters {
        action_key: 5,
        initiators: Some(vec![TransportId(50)]),
        all_target_ports: true,
        ..Parameters::default()
    };
    send_with(&mut state, A, Out::Register, 0, parameters.clone()).unwrap();
    assert_eq!(
        state.registrations.len(),
        4,
        "two initiator ports, two target ports"
    );
    let mut keys = Vec::new();
    state.read_keys(&mut keys);
    assert_eq!((u32_at(&keys, 0), u32_at(&keys, 4)), (Some(1), Some(32)));
    let again = send_with(
        &mut state,
        A,
        Out::Register,
        0,
        Parameters {
            key: 5,
            ..parameters
        },
    );
    assert_eq!(
        again,
        Err(Refusal::Check(Sense::invalid_bits_in_parameters(20, 3)))
    );
}

#[test]
fn registrations_are_limited() {
    let mut state = Reservations::default();
    for number in 0..MAX_REGISTRATIONS as u64 {
        send(&mut state, number, Out::Register, 0, (0, 1)).unwrap();
    }
    let before = state.clone();
    let refused = send(
        &mut state,
        MAX_REGISTRATIONS as u64,
        Out::Register,
        0,
        (0, 1),
    )
    .unwrap_err();
    let full = AdditionalSense::INSUFFICIENT_REGISTRATION_RESOURCES;
    assert_eq!(refused, Refusal::Check(Sense::illegal_request(full)));
    assert_eq!(state, before);
}

/// A store that fails before or after it has kept the record, and what it has kept.
#[derive(Default)]
struct Failing {
    kept: std::sync::Arc<Mutex<Option<Vec<u8>>>>,
    /// Whether the next saves fail, and whether the record is kept all the same.
    failure: std::sync::Arc<Mutex<Option<bool>>>,
}

impl Store for Failing {
    fn save(&self, record: &[u8]) -> std::io::Result<()> {
        let failure = *self.failure.lock().unwrap();
        if failure != Some(false) {
            *self.kept.lock().unwrap() = Some(record.to_vec());
        }
        match failure {
            Some(_) => Err(std::io::Error::other("injected")),
            None => Ok(()),
        }
    }

    fn load(&self) -> std::io::Result<Option<Vec<u8>>> {
        Ok(self.kept.lock().unwrap().clone())
    }
}

#[test]
fn a_crash_leaves_the_state_before_the_command_or_after_it() {
    use crate::{LuState, NexusId, Path};
    let persist = |action_key| OutRequest {
        action: Out::RegisterAndIgnoreExistingKey,
        scope_and_type: 0,
        parameters: Parameters {
            action_key,
            persist: true,
            ..Parameters::default()
        },
    };
    let unit = |kept: &std::sync::Arc<Mutex<_>>, failure: &std::sync::Arc<Mutex<_>>| {
        let state = std::sync::Arc::new(LuState::default());
        let store = Failing {
            kept: kept.clone(),
            failure: failure.clone(),
        };
        state.keep_reservations(Box::new(store)).unwrap();
        state
            .add_nexus(NexusId(1), Path::new(TransportId(1), 1))
            .unwrap();
        state
    };
    let run = |state: &std::sync::Arc<LuState>, request| match state
        .persistent_reserve_out(NexusId(1), request)
    {
        Persisted::Later(answer) => lunar_reactor::block_on(answer),
        Persisted::Now(_) => panic!("there is a store"),
    };
    let keys = |state: &LuState| {
        let mut keys = Vec::new();
        state
            .persistent_reservations(|r, _| r.read_keys(&mut keys))
            .unwrap();
        keys.split_off(8)
    };
    for kept_all_the_same in [false, true] {
        let (kept, failure) = Default::default();
        let state = unit(&kept, &failure);
        assert_eq!(run(&state, persist(7)), Ok(vec![]));
        assert_eq!(keys(&unit(&kept, &failure)), 7u64.to_be_bytes(), "restored");
        *failure.lock().unwrap() = Some(kept_all_the_same);
        let failed = run(&state, persist(8)).unwrap_err();
        assert!(matches!(failed, Refusal::Check(sense) if sense.key == SenseKey::HardwareError));
        assert_eq!(
            keys(&state),
            7u64.to_be_bytes(),
            "what was not saved is not so"
        );
        let found = keys(&unit(&kept, &failure));
        let expected: u64 = if kept_all_the_same { 8 } else { 7 };
        assert_eq!(found, expected.to_be_bytes());
    }
}

#[test]
fn a_record_that_makes_no_sense_is_refused() {
    let mut state = reserved(Kind::WriteExclusiveRegistrants);
    state.persists = true;
    let text = state.encode();
    let mut restored = Reservations::decode(text.as_bytes()).unwrap();
    restored.generation = state.generation;
    assert_eq!(restored, state);
    let lines: Vec<&str> = text.lines().collect();
    let without = |gone: usize| {
        let kept = lines.iter().enumerate().filter(|(at, _)| *at != gone);
        kept.map(|(_, line)| format!("{line}\n"))
            .collect::<String>()
    };
    assert!(
        Reservations::decode(without(0).as_bytes()).is_none(),
        "no title"
    );
    assert!(
        Reservations::decode(without(1).as_bytes()).is_none(),
        "no holder"
    );
    assert!(
        Reservations::decode(format!("{text}{}\n", lines[1]).as_bytes()).is_none(),
        "twice"
    );
    assert!(Reservations::decode(format!("{text}reservation 2 0 1\n").as_bytes()).is_none());
    assert!(Reservations::decode(b"").is_none());
    assert!(Reservations::decode(&[0xff; 64]).is_none());
}

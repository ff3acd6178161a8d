//! A second, naive account of persistent reservations, and the comparison of both over random histories.
//!
//! The model knows who is registered with which key, who holds what, and nothing of unit attentions or parameter data.
//! It is written from the rules (SC-042 to SC-044) as a table of cases, not from the implementation.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::tests::{PORTS, registrant};
use super::*;

#[derive(Clone, Debug, Default)]
struct Model {
    keys: BTreeMap<u64, u64>,
    /// Type, and the holder unless all registrants are.
    held: Option<(u8, Option<u64>)>,
    generation: u32,
}

#[derive(Clone, Debug)]
struct Step {
    from: u64,
    action: u16,
    kind: u8,
    key: u64,
    action_key: u64,
    to: u64,
    unregister: bool,
}

/// What the command is told.
#[derive(Debug, PartialEq, Eq)]
enum Answer {
    Good,
    Conflict,
    Check,
}

const PEOPLE: u64 = 4;

impl Model {
    fn holds(&self, who: u64) -> bool {
        match self.held {
            None => false,
            Some((_, Some(holder))) => holder == who,
            Some((_, None)) => self.keys.contains_key(&who),
        }
    }

    fn hold(&mut self, kind: u8, who: u64) {
        self.held = Some((kind, (kind < 7).then_some(who)));
    }

    /// The reservation ends when there is nobody left to hold it.
    fn settle(&mut self) {
        let gone = match self.held {
            Some((_, Some(holder))) => !self.keys.contains_key(&holder),
            Some((_, None)) => self.keys.is_empty(),
            None => false,
        };
        if gone {
            self.held = None;
        }
    }

    fn run(&mut self, step: &Step) -> Answer {
        let own = self.keys.get(&step.from).copied();
        let valid = [1, 3, 5, 6, 7, 8].contains(&step.kind);
        if !matches!(step.action, 0 | 6) && own != Some(step.key) {
            return Answer::Conflict;
        }
        match step.action {
            0 | 6 => {
                if step.action == 0 && own.unwrap_or(0) != step.key {
                    return Answer::Conflict;
                }
                match (own, step.action_key) {
                    (None, 0) => return Answer::Good,
                    (Some(_), 0) => drop(self.keys.remove(&step.from)),
                    (_, key) => drop(self.keys.insert(step.from, key)),
                }
                self.settle();
            }
            1 => {
                if !valid {
                    return Answer::Check;
                }
                return match self.held {
                    None => {
                        self.hold(step.kind, step.from);
                        Answer::Good
                    }
                    Some((kind, _)) if self.holds(step.from) && kind == step.kind => Answer::Good,
                    Some(_) => Answer::Conflict,
                };
            }
            2 => {
                if !valid {
                    return Answer::Check;
                }
                if self.holds(step.from) {
                    if self.held.is_some_and(|(kind, _)| kind != step.kind) {
                        return Answer::Check;
                    }
                    self.held = None;
                }
                return Answer::Good;
            }
            3 => {
                self.keys.clear();
                self.held = None;
            }
            4 | 5 => {
                let victims: Vec<u64> = self
                    .keys
                    .iter()
                    .filter(|(_, key)| **key == step.action_key)
                    .map(|(who, _)| *who)
                    .collect();
                match self.held {
                    Some((_, None)) if step.action_key == 0 => {
                        if !valid {
                            return Answer::Check;
                        }
                        self.keys.retain(|who, _| *who == step.from);
                        self.hold(step.kind, step.from);
                    }
                    _ if step.action_key == 0 => return Answer::Check,
                    Some((_, Some(holder))) if victims.contains(&holder) => {
                        if !valid {
                            return Answer::Check;
                        }
                        self.keys
                            .retain(|who, key| *who == step.from || *key != step.action_key);
                        self.hold(step.kind, step.from);
                    }
                    _ if victims.is_empty() => return Answer::Conflict,
                    _ => {
                        self.keys.retain(|_, key| *key != step.action_key);
                        self.settle();
                    }
                }
            }
            _ => {
                let Some((kind, holder)) = self.held else {
                    return Answer::Check;
                };
                if holder != Some(step.from) {
                    return Answer::Conflict;
                }
                if step.action_key == 0 || step.to == step.from {
                    return Answer::Check;
                }
                self.keys.insert(step.to, step.action_key);
                self.held = Some((kind, Some(step.to)));
                if step.unregister {
                    self.keys.remove(&step.from);
                }
            }
        }
        self.generation += 1;
        Answer::Good
    }

    fn may(&self, who: u64, write: bool) -> bool {
        let Some((kind, _)) = self.held else {
            return true;
        };
        self.holds(who)
            || (kind >= 5 && self.keys.contains_key(&who))
            || (!write && matches!(kind, 1 | 5 | 7))
    }
}

fn request(step: &Step) -> Request {
    let to = registrant(step.to);
    Request {
        from: registrant(step.from),
        action: Out::from_service_action(step.action).unwrap(),
        scope_and_type: step.kind,
        parameters: Parameters {
            key: step.key,
            action_key: step.action_key,
            destination: Destination {
                unregister: step.unregister,
                target_port: to.target_port,
                initiator: to.initiator,
            },
            ..Parameters::default()
        },
    }
}

prop_compose! {
    fn any_step()(
        from in 0..PEOPLE,
        action in 0u16..8,
        kind in prop_oneof![8 => prop::sample::select(vec![1u8, 3, 5, 6, 7, 8]), 1 => 0u8..16],
        key in 0u64..4,
        action_key in 0u64..4,
        to in 0..PEOPLE,
        unregister: bool,
    ) -> Step {
        Step { from, action, kind, key, action_key, to, unregister }
    }
}

proptest! {
    #[test]
    fn any_history_is_as_a_naive_model_says(steps in prop::collection::vec((any_step(), any::<bool>()), 1..120)) {
        let mut model = Model::default();
        let mut state = Reservations::default();
        for (mut step, knows) in steps {
            // Mostly the right key: histories of nothing but refusals tell little.
            if knows {
                step.key = model.keys.get(&step.from).copied().unwrap_or(0);
            }
            let around = Surroundings { target_ports: &PORTS, can_persist: false };
            let mut next = state.clone();
            let answer = match next.apply(&request(&step), around) {
                Ok(told) => {
                    for who in &told.preempted {
                        prop_assert!(*who != registrant(step.from), "nobody aborts itself");
                        prop_assert!(state.key_of(*who).is_some() && next.key_of(*who).is_none());
                    }
                    for (who, _) in &told.attentions {
                        prop_assert!(*who != registrant(step.from), "who asked, knows");
                        prop_assert!(state.key_of(*who).is_some(), "strangers hear nothing");
                    }
                    state = next;
                    Answer::Good
                }
                Err(Refusal::Conflict) => Answer::Conflict,
                Err(Refusal::Check(_)) => Answer::Check,
            };
            prop_assert_eq!(&answer, &model.run(&step), "{:?}", step);
            prop_assert_eq!(state.generation, model.generation);
            for who in 0..PEOPLE {
                prop_assert_eq!(state.key_of(registrant(who)), model.keys.get(&who).copied());
                prop_assert_eq!(state.is_held_by(registrant(who)), model.holds(who));
                prop_assert_eq!(!state.excludes(registrant(who), Effect::Read), model.may(who, false));
                prop_assert_eq!(!state.excludes(registrant(who), Effect::Write), model.may(who, true));
            }
            let mut persisting = state.clone();
            persisting.persists = state.has_registrations();
            let mut restored = Reservations::decode(persisting.encode().as_bytes()).unwrap();
            restored.generation = state.generation;
            prop_assert_eq!(restored, persisting);
        }
    }
}

//! Which logical unit is at which address.

/// Logical units in one page of a target's map.
const PAGE: usize = 64;
/// LUNs that fit the 14 bits of single-level addressing (VS-020).
const LUNS: u16 = 1 << 14;
/// Target identifiers that fit one byte (VS-020).
const TARGETS: usize = 256;

/// target (0-255) x LUN (0-16383) -> `T`, looked up in constant time.
///
/// A lookup is three dependent loads whatever is attached. Memory follows the LUNs in use: a target costs nothing
/// until it has a unit, and then one page of 64 slots per group of 64 neighbouring LUNs (and 8 bytes for each
/// group below the highest).
#[derive(Debug)]
pub struct LunMap<T> {
    targets: Box<[Option<Box<Target<T>>>]>,
    count: usize,
}

#[derive(Debug)]
struct Target<T> {
    /// Indexed by LUN / [`PAGE`], as long as the highest LUN needs.
    pages: Vec<Option<Box<[Option<T>; PAGE]>>>,
    count: usize,
}

fn split(lun: u16) -> (usize, usize) {
    (usize::from(lun) / PAGE, usize::from(lun) % PAGE)
}

impl<T> Default for LunMap<T> {
    fn default() -> LunMap<T> {
        LunMap::new()
    }
}

impl<T> LunMap<T> {
    /// The map without any unit.
    pub fn new() -> LunMap<T> {
        LunMap {
            targets: (0..TARGETS).map(|_| None).collect(),
            count: 0,
        }
    }

    /// How many units there are.
    #[inline]
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The unit at an address.
    #[inline]
    pub fn get(&self, target: u8, lun: u16) -> Option<&T> {
        let (page, slot) = split(lun);
        let target = self.targets.get(usize::from(target))?.as_ref()?;
        target.pages.get(page)?.as_ref()?.get(slot)?.as_ref()
    }

    /// Whether a target has any unit (an absent target is BAD TARGET, an absent LUN is not: VS-024).
    pub fn has_target(&self, target: u8) -> bool {
        self.targets
            .get(usize::from(target))
            .is_some_and(Option::is_some)
    }

    /// Puts a unit at an address. Gives it back when the address is taken or the LUN is above 16383.
    pub fn insert(&mut self, target: u8, lun: u16, value: T) -> Result<(), T> {
        if lun >= LUNS {
            return Err(value);
        }
        let (page, slot) = split(lun);
        let Some(entry) = self.targets.get_mut(usize::from(target)) else {
            return Err(value);
        };
        let target = entry.get_or_insert_with(|| {
            Box::new(Target {
                pages: Vec::new(),
                count: 0,
            })
        });
        if target.pages.len() <= page {
            target.pages.resize_with(page + 1, || None);
        }
        let slot = target
            .pages
            .get_mut(page)
            .map(|p| p.get_or_insert_with(|| Box::new([const { None }; PAGE])))
            .and_then(|p| p.get_mut(slot));
        match slot {
            Some(free @ None) => {
                *free = Some(value);
                target.count += 1;
                self.count += 1;
                Ok(())
            }
            _ => Err(value),
        }
    }

    /// Takes the unit away from an address.
    pub fn remove(&mut self, target: u8, lun: u16) -> Option<T> {
        let (page, slot) = split(lun);
        let entry = self.targets.get_mut(usize::from(target))?;
        let target = entry.as_mut()?;
        let slots = target.pages.get_mut(page)?;
        let value = slots.as_mut()?.get_mut(slot)?.take()?;
        if slots.iter().all(|p| p.iter().all(Option::is_none)) {
            *slots = None;
        }
        target.count -= 1;
        self.count -= 1;
        if target.count == 0 {
            *entry = None;
        }
        Some(value)
    }

    /// The units of one target by ascending LUN.
    pub fn luns(&self, target: u8) -> impl Iterator<Item = (u16, &T)> {
        self.targets
            .get(usize::from(target))
            .and_then(Option::as_deref)
            .into_iter()
            .flat_map(Target::luns)
    }

    /// All units by ascending target and LUN.
    pub fn iter(&self) -> impl Iterator<Item = (u8, u16, &T)> {
        (0u8..=255)
            .zip(self.targets.iter())
            .filter_map(|(number, target)| Some((number, target.as_deref()?)))
            .flat_map(|(number, target)| {
                target.luns().map(move |(lun, value)| (number, lun, value))
            })
    }
}

impl<T> Target<T> {
    fn luns(&self) -> impl Iterator<Item = (u16, &T)> {
        // A missing page is one step, not one for each of its slots.
        let pages = (0..LUNS).step_by(PAGE).zip(&self.pages);
        pages
            .filter_map(|(first, page)| Some((first, page.as_deref()?)))
            .flat_map(|(first, page)| {
                (first..)
                    .zip(page)
                    .filter_map(|(lun, slot)| Some((lun, slot.as_ref()?)))
            })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_address_holds_one_unit_and_luns_end_at_16383() {
        let mut map = LunMap::new();
        assert_eq!(map.insert(255, 16383, 'a'), Ok(()));
        assert_eq!(map.insert(255, 16383, 'b'), Err('b'));
        assert_eq!(map.insert(255, 16384, 'c'), Err('c'));
        assert_eq!(map.get(255, 16383), Some(&'a'));
        assert_eq!(map.get(255, 16384), None);
        assert_eq!(map.get(254, 16383), None);
    }

    #[test]
    fn a_target_disappears_with_its_last_unit() {
        let mut map = LunMap::new();
        assert_eq!(map.insert(3, 0, 1), Ok(()));
        assert_eq!(map.insert(3, 300, 2), Ok(()));
        assert_eq!(map.remove(3, 0), Some(1));
        assert!(map.has_target(3));
        assert_eq!(map.remove(3, 300), Some(2));
        assert!(!map.has_target(3));
        assert_eq!(map.remove(3, 300), None);
    }

    proptest! {
        #[test]
        fn behaves_like_a_sorted_map(
            steps in prop::collection::vec((any::<bool>(), 0u8..4, prop_oneof![0u16..80, 16300u16..16384]), 0..200),
        ) {
            let mut map = LunMap::new();
            let mut model = BTreeMap::new();
            for (step, (insert, target, lun)) in steps.into_iter().enumerate() {
                if insert {
                    let taken = model.contains_key(&(target, lun));
                    prop_assert_eq!(map.insert(target, lun, step).is_err(), taken);
                    model.entry((target, lun)).or_insert(step);
                } else {
                    prop_assert_eq!(map.remove(target, lun), model.remove(&(target, lun)));
                }
                prop_assert_eq!(map.get(target, lun), model.get(&(target, lun)));
                prop_assert_eq!(map.has_target(target), model.keys().any(|k| k.0 == target));
            }
            let all: Vec<_> = map.iter().map(|(t, l, v)| ((t, l), *v)).collect();
            prop_assert_eq!(&all, &model.clone().into_iter().collect::<Vec<_>>());
            for target in 0..4 {
                let some: Vec<_> = map.luns(target).map(|(l, v)| ((target, l), *v)).collect();
                let want: Vec<_> = model.iter().filter(|(k, _)| k.0 == target).map(|(k, v)| (*k, *v)).collect();
                prop_assert_eq!(some, want);
            }
        }
    }
}

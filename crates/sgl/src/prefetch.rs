//! Hints to the processor. They are only that: any address may be given, and on other processors nothing happens.

/// The cache line at `address` will be read.
#[inline]
pub fn to_read(address: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a hint changes nothing and faults nowhere; every x86-64 processor has this instruction.
    unsafe {
        std::arch::asm!("prefetcht0 [{}]", in(reg) address, options(nostack, preserves_flags, readonly));
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: a hint changes nothing and faults nowhere.
    unsafe {
        std::arch::asm!("prfm pldl1keep, [{}]", in(reg) address, options(nostack, preserves_flags, readonly));
    }
}

/// The cache line at `address` will be written, so that no other processor may keep it. By the intrinsic, compilers do not
/// say so unless they may take for granted that the processor understands it; one that does not, ignores it.
#[inline]
pub fn to_write(address: *mut u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a hint changes nothing and faults nowhere; processors that do not know it do nothing.
    unsafe {
        std::arch::asm!("prefetchw [{}]", in(reg) address, options(nostack, preserves_flags, readonly));
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: a hint changes nothing and faults nowhere.
    unsafe {
        std::arch::asm!("prfm pstl1keep, [{}]", in(reg) address, options(nostack, preserves_flags, readonly));
    }
}

/// Places in memory that are always looked at together, as cache lines. Who knows that they will be soon can ask for all of
/// them at once, and they come at the same time, instead of one after the other.
///
/// These are hints, too: a place that is something else meanwhile does no harm.
#[derive(Debug, Default)]
pub struct Lines {
    addresses: [usize; Lines::MOST],
    count: usize,
}

impl Lines {
    /// As many as a disk on a file has; those that are added later are left out.
    const MOST: usize = 14;
    const LINE: usize = 64;

    /// Adds the lines in which `value` lies.
    pub fn add<T>(&mut self, value: &T) {
        let start = std::ptr::from_ref(value).addr();
        self.add_range(start, start + size_of::<T>().max(1));
    }

    /// Adds the line in which `value` begins, for one that is made so that no more of it is looked at.
    pub fn add_first<T>(&mut self, value: &T) {
        let start = std::ptr::from_ref(value).addr();
        self.add_range(start, start + 1);
    }

    fn add_range(&mut self, start: usize, end: usize) {
        for address in (start & !(Lines::LINE - 1)..end).step_by(Lines::LINE) {
            let known = self.addresses.iter().take(self.count);
            if known.copied().any(|other| other == address) {
                continue;
            }
            if let Some(place) = self.addresses.get_mut(self.count) {
                *place = address;
                self.count += 1;
            }
        }
    }

    /// Asks for all of them.
    #[inline]
    pub fn expect(&self) {
        for &address in self.addresses.iter().take(self.count) {
            to_read(std::ptr::without_provenance(address));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_in_the_same_line_is_asked_for_once() {
        #[repr(align(64))]
        struct Aligned([u8; 192]);
        let object = Aligned([0; 192]);
        let mut lines = Lines::default();
        let Aligned(bytes) = &object;
        lines.add(&bytes[3]);
        lines.add(&bytes[60]);
        assert_eq!(lines.count, 1);
        lines.add(&object);
        assert_eq!(lines.count, 3);
        lines.expect();
    }

    #[test]
    fn there_is_an_end_to_what_is_asked_for() {
        let mut lines = Lines::default();
        lines.add(&[0_u8; 64 * 100]);
        assert_eq!(lines.count, Lines::MOST);
    }
}

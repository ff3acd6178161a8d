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

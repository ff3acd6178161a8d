//! One mode page, and the layouts of those that disks have.

/// Page and subpage codes.
pub mod code {
    /// Read-Write Error Recovery (SBC-3).
    pub const READ_WRITE_ERROR_RECOVERY: (u8, u8) = (0x01, 0x00);
    /// Caching (SBC-3).
    pub const CACHING: (u8, u8) = (0x08, 0x00);
    /// Control (SPC-4).
    pub const CONTROL: (u8, u8) = (0x0a, 0x00);
    /// Control Extension (SPC-4).
    pub const CONTROL_EXTENSION: (u8, u8) = (0x0a, 0x01);
    /// Power Condition (SPC-4).
    pub const POWER_CONDITION: (u8, u8) = (0x1a, 0x00);
    /// Informational Exceptions Control (SBC-3).
    pub const INFORMATIONAL_EXCEPTIONS: (u8, u8) = (0x1c, 0x00);
    /// Logical Block Provisioning (SBC-3).
    pub const LOGICAL_BLOCK_PROVISIONING: (u8, u8) = (0x1c, 0x02);
}

/// A mode page: its values, those that were saved, their defaults, and the mask of what an initiator may change.
///
/// All have the page's form on the wire, header included, so MODE SENSE returns them as they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModePage {
    current: Box<[u8]>,
    default: Box<[u8]>,
    /// The values after a reset.
    saved: Box<[u8]>,
    changeable: Box<[u8]>,
    subpage_format: bool,
}

impl ModePage {
    /// A page without changeable bits. `parameters` follow the page header, which is 4 bytes long (SPF = 1) if `subpage`
    /// is not 0.
    #[must_use]
    pub fn new((page, subpage): (u8, u8), parameters: &[u8]) -> Self {
        let subpage_format = subpage != 0;
        let length = u16::try_from(parameters.len()).unwrap_or(u16::MAX);
        let [high, low] = length.to_be_bytes();
        let mut bytes = if subpage_format {
            vec![0x40 | page, subpage, high, low]
        } else {
            vec![page, low]
        };
        let mut changeable = bytes.clone();
        bytes.extend_from_slice(parameters);
        changeable.resize(bytes.len(), 0);
        Self {
            current: bytes.clone().into(),
            saved: bytes.clone().into(),
            default: bytes.into(),
            changeable: changeable.into(),
            subpage_format,
        }
    }

    /// The same page, in which an initiator may change the bits `mask` of byte `at`, counted from the page's start.
    #[must_use]
    pub fn with_changeable(mut self, at: usize, mask: u8) -> Self {
        if at >= self.header_length()
            && let Some(byte) = self.changeable.get_mut(at)
        {
            *byte |= mask;
        }
        self
    }

    /// Read-Write Error Recovery: blocks are reallocated below us when they are written (AWRE).
    #[must_use]
    pub fn read_write_error_recovery() -> Self {
        Self::new(
            code::READ_WRITE_ERROR_RECOVERY,
            &[0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        )
    }

    /// Caching, with WCE changeable (SC-021).
    #[must_use]
    pub fn caching(write_cache_enabled: bool) -> Self {
        let mut parameters = [0; 18];
        parameters[0] = u8::from(write_cache_enabled) << 2;
        Self::new(code::CACHING, &parameters).with_changeable(2, 0x04)
    }

    /// Control (SC-022): commands may be reordered freely (QAM = 1). Which bits may be changed is for the unit to say.
    #[must_use]
    pub fn control() -> Self {
        Self::new(code::CONTROL, &[0, 0x10, 0, 0, 0, 0, 0, 0, 0, 0])
    }

    /// Control Extension: SET TIMESTAMP has the last word on the clock (TCMOS, SCSIP), and sense data is as long as it is
    /// (MAXIMUM SENSE DATA LENGTH 0).
    #[must_use]
    pub fn control_extension() -> Self {
        let mut parameters = [0; 0x1c];
        parameters[0] = 0x06;
        Self::new(code::CONTROL_EXTENSION, &parameters)
    }

    /// Power Condition (SBC-3): no timer runs; START STOP UNIT alone changes conditions.
    #[must_use]
    pub fn power_condition() -> Self {
        Self::new(code::POWER_CONDITION, &[0; 0x26])
    }

    /// Page and subpage code.
    #[must_use]
    pub fn key(&self) -> (u8, u8) {
        match *self.default {
            [page, subpage, ..] if self.subpage_format => (page & 0x3f, subpage),
            [page, ..] => (page & 0x3f, 0),
            [] => (0, 0),
        }
    }

    /// Bytes before the parameters.
    pub(super) fn header_length(&self) -> usize {
        if self.subpage_format { 4 } else { 2 }
    }

    /// The values in force, header included.
    #[must_use]
    pub fn current(&self) -> &[u8] {
        &self.current
    }

    /// The values of a unit that nobody has changed.
    #[must_use]
    pub fn default(&self) -> &[u8] {
        &self.default
    }

    /// The values after a reset: the defaults until others are saved.
    #[must_use]
    pub fn saved(&self) -> &[u8] {
        &self.saved
    }

    /// Sets the bytes from `at` on, which no initiator can change, to what the unit knows of itself.
    pub(super) fn describe(&mut self, at: usize, bytes: &[u8]) {
        for values in [&mut self.current, &mut self.default, &mut self.saved] {
            for (old, new) in values.iter_mut().skip(at).zip(bytes) {
                *old = *new;
            }
        }
    }

    /// Sets or clears the bits `mask` of byte `at`.
    pub(super) fn set(&mut self, at: usize, mask: u8, on: bool) {
        if let Some(byte) = self.current.get_mut(at) {
            *byte = if on { *byte | mask } else { *byte & !mask };
        }
    }

    /// Makes the present values the saved ones.
    pub(super) fn save(&mut self) {
        self.saved.copy_from_slice(&self.current);
    }

    /// Takes over what may be changed from `page`, which was saved earlier.
    pub(super) fn restore(&mut self, page: &[u8]) {
        let header = self.header_length();
        let places = self.current.iter_mut().zip(page).zip(&self.changeable);
        for ((old, new), mask) in places.skip(header) {
            *old = *old & !mask | new & mask;
        }
    }

    /// Whether `page`, as MODE SELECT sends it, is this page.
    pub(super) fn has_header_of(&self, page: &[u8]) -> bool {
        let header = self.header_length();
        self.default.get(..header) == page.get(..header)
    }

    /// Ones where an initiator may change a bit.
    #[must_use]
    pub fn changeable(&self) -> &[u8] {
        &self.changeable
    }

    /// Back to the saved values.
    pub(super) fn reset(&mut self) {
        self.current.copy_from_slice(&self.saved);
    }

    /// Takes the parameters over from `page`, a page as MODE SELECT sends it, of the right length. The error is the
    /// place of the first bit that may not change: byte and bit.
    pub(super) fn change_to(&mut self, page: &[u8]) -> Result<(), (usize, u8)> {
        let parameters = || page.iter().enumerate().skip(self.header_length());
        for ((at, new), (old, mask)) in parameters().zip(
            self.current
                .iter()
                .zip(&self.changeable)
                .skip(self.header_length()),
        ) {
            let odd = (new ^ old) & !mask;
            if let Some(bit) = (0..8).rev().find(|bit| odd >> bit & 1 == 1) {
                return Err((at, bit));
            }
        }
        let header = self.header_length();
        for (old, new) in self.current.iter_mut().zip(page).skip(header) {
            *old = *new;
        }
        Ok(())
    }
}

//! Names of objects.

use super::Error;

/// QEMU's rule for ids. Generated names begin with `#` and so never clash.
pub(super) fn check(name: &str) -> Result<(), Error> {
    let mut chars = name.chars();
    let starts = chars.next().is_some_and(|c| c.is_ascii_alphabetic());
    if starts && chars.all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_')) {
        return Ok(());
    }
    Err(Error::BadName(name.to_owned()))
}

/// What identifies the image at `path` to guests when the user has given it no name: the same at every start, and
/// different from other images of this host, without telling the guest a path of the host.
pub(super) fn of_file(path: &str) -> String {
    let path = std::fs::canonicalize(path).unwrap_or_else(|_| path.into());
    // FNV-1a: guests remember the result, so it must never change.
    let bytes = path.as_os_str().as_encoded_bytes().iter();
    let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    format!("image-{hash:016x}")
}

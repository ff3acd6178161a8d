//! Who the disk says it is.

use lunar_scsi::naa;

use super::config::DiskConfig;
use crate::ConfigError;

/// The texts and identifiers of INQUIRY and its vital product data, checked and complete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) vendor: String,
    pub(super) product: String,
    pub(super) revision: String,
    pub(super) serial: String,
    pub(super) device_id: Option<String>,
    /// The NAA designator of the logical unit.
    pub(super) naa: u64,
}

const REVISION: &str = concat!(
    env!("CARGO_PKG_VERSION_MAJOR"),
    ".",
    env!("CARGO_PKG_VERSION_MINOR")
);

/// The longest default and configured vendor specific designator.
const DEVICE_ID: usize = 128;

impl Identity {
    pub(super) fn check(config: &DiskConfig) -> Result<Identity, ConfigError> {
        let text = |property, value: &Option<String>, most, default: &str| match value {
            None => Ok(default.to_owned()),
            Some(value) => check_text(property, value, most).map(|()| value.clone()),
        };
        let source = config.serial.as_deref().unwrap_or(&config.identity);
        let derived = naa::locally_assigned(source);
        let serial = text("serial", &config.serial, 36, &format!("{derived:016x}"))?;
        let device_id = match (&config.device_id, &config.serial) {
            (Some(id), _) => {
                check_text("device_id", id, DEVICE_ID)?;
                Some(id.clone())
            }
            (None, Some(serial)) => Some(serial.clone()),
            (None, None) => Some(config.identity.clone())
                .filter(|id| !id.is_empty() && check_text("device_id", id, DEVICE_ID).is_ok()),
        };
        Ok(Identity {
            vendor: text("vendor", &config.vendor, 8, "LUNAR")?,
            product: text("product", &config.product, 16, "LUNAR HARDDISK")?,
            revision: text("ver", &config.ver, 4, REVISION)?,
            serial,
            device_id,
            naa: config.wwn.filter(|&wwn| wwn != 0).unwrap_or(derived),
        })
    }
}

fn check_text(property: &'static str, value: &str, most: usize) -> Result<(), ConfigError> {
    let problem = if value.is_empty() {
        "is empty".to_owned()
    } else if value.len() > most {
        format!("has {} characters", value.len())
    } else if !value.bytes().all(|b| (0x20..0x7F).contains(&b)) {
        "has characters other than printable ASCII".to_owned()
    } else {
        return Ok(());
    };
    let remedy = format!("use 1 to {most} printable ASCII characters");
    Err(ConfigError::new(property, value, &problem, &remedy))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(identity: &str) -> DiskConfig {
        DiskConfig {
            identity: identity.into(),
            ..DiskConfig::default()
        }
    }

    #[test]
    fn the_derived_identifier_is_stable_and_locally_assigned() {
        let identity = Identity::check(&config("drive0")).unwrap();
        assert_eq!(
            identity.naa, 0x384b_6d33_f486_9108_u64,
            "{:#x}",
            identity.naa
        );
        assert_eq!(identity.serial, format!("{:016x}", identity.naa));
        assert_eq!(identity.device_id.as_deref(), Some("drive0"));
        assert_ne!(
            identity.naa,
            Identity::check(&config("drive1")).unwrap().naa
        );
    }

    #[test]
    fn the_serial_decides_when_there_is_one() {
        let with_serial = |identity: &str| DiskConfig {
            serial: Some("S1".into()),
            ..config(identity)
        };
        let identity = Identity::check(&with_serial("a")).unwrap();
        assert_eq!(identity, Identity::check(&with_serial("b")).unwrap());
        assert_eq!(identity.serial, "S1");
        assert_eq!(identity.device_id.as_deref(), Some("S1"));
    }

    #[test]
    fn an_identity_that_no_designator_can_carry_is_only_hashed() {
        let identity = Identity::check(&config("Datenträger")).unwrap();
        assert_eq!(identity.device_id, None);
        assert_eq!(identity.naa >> 60, 3);
    }

    #[test]
    fn what_does_not_fit_is_refused_by_name() {
        for (config, message) in [
            (
                DiskConfig {
                    vendor: Some("TOO LONG VENDOR".into()),
                    ..config("d")
                },
                "vendor=TOO LONG VENDOR has 15 characters; use 1 to 8 printable ASCII characters",
            ),
            (
                DiskConfig {
                    serial: Some("ä".into()),
                    ..config("d")
                },
                "serial=ä has characters other than printable ASCII; use 1 to 36 printable ASCII characters",
            ),
            (
                DiskConfig {
                    ver: Some(String::new()),
                    ..config("d")
                },
                "ver= is empty; use 1 to 4 printable ASCII characters",
            ),
        ] {
            assert_eq!(Identity::check(&config).unwrap_err().to_string(), message);
        }
    }
}

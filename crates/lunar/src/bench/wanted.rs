//! What is written behind the options: sizes, times, logical units.

use std::ops::RangeInclusive;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use lunar_scsi::Lun;

use super::Place;

/// Which logical units.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Luns {
    /// Every disk that there is.
    All,
    /// These.
    These(Vec<Place>),
}

/// `512`, `4k`, `1M`.
pub fn bytes(text: &str) -> Result<u32, String> {
    const LEAST: u32 = 512;
    const MOST: u32 = 16 << 20;
    let (number, shift) = match text.to_ascii_lowercase() {
        text if text.ends_with('k') => (text, 10),
        text if text.ends_with('m') => (text, 20),
        text => (text + "b", 0),
    };
    let number = number.get(..number.len() - 1).unwrap_or_default();
    let bytes = number.parse::<u32>().ok();
    let bytes = bytes.and_then(|n| n.checked_mul(1 << shift));
    bytes
        .filter(|bytes| (LEAST..=MOST).contains(bytes) && bytes.is_multiple_of(LEAST))
        .ok_or_else(|| "must be a multiple of 512 bytes up to 16M, such as 4k".to_owned())
}

/// `10`, `10s`, `0.5`, `500ms`, `2m`.
pub fn span(text: &str) -> Result<Duration, String> {
    const MOST: f64 = 1e6;
    let units = [("ms", 1e-3), ("s", 1.0), ("m", 60.0)];
    let (number, unit) = units
        .into_iter()
        .find_map(|(name, unit)| Some((text.strip_suffix(name)?, unit)))
        .unwrap_or((text, 1.0));
    let seconds = number.parse::<f64>().map(|n| n * unit);
    seconds
        .ok()
        .filter(|seconds| (0.0..=MOST).contains(seconds))
        .map(Duration::from_secs_f64)
        .ok_or_else(|| "must be a time in seconds, or such as 500ms or 2m".to_owned())
}

/// `all`, or `TARGET:LUN,…` where both can be ranges.
pub fn luns(text: &str) -> anyhow::Result<Luns> {
    /// As many as fit a controller.
    const MOST: usize = 256 * 16384;
    if text == "all" {
        return Ok(Luns::All);
    }
    let mut places = Vec::new();
    for part in text.split(',') {
        let (targets, luns) = part.split_once(':').with_context(|| {
            format!("{part}: must be TARGET:LUN or ranges such as 0-3:0 and 0:0-255")
        })?;
        let targets = range(targets, u8::MAX.into())?;
        let luns = range(luns, Lun::MAX.number())?;
        for target in targets {
            for lun in luns.clone() {
                let target = u8::try_from(target)?;
                let lun = Lun::new(lun).ok_or_else(|| anyhow!("{part}: no such LUN"))?;
                places.push(Place { target, lun });
            }
        }
        if places.len() > MOST {
            bail!("more logical units than a controller has");
        }
    }
    places.sort_unstable();
    places.dedup();
    Ok(Luns::These(places))
}

fn range(text: &str, most: u16) -> anyhow::Result<RangeInclusive<u16>> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let number = |text: &str| {
        let number = text.parse::<u16>().ok().filter(|&number| number <= most);
        number.ok_or_else(|| anyhow!("{text}: must be a number from 0 to {most}"))
    };
    let (first, last) = (number(first)?, number(last)?);
    if first > last {
        bail!("{text}: the range ends before it begins");
    }
    Ok(first..=last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_whole_sectors() {
        for (text, size) in [
            ("512", 512),
            ("4k", 4096),
            ("128K", 131_072),
            ("1M", 1 << 20),
        ] {
            assert_eq!(bytes(text), Ok(size));
        }
        for text in [
            "", "k", "0", "511", "513", "1G", "17M", "-1", "4 k", "1.5k", "ü", "8388608k",
        ] {
            assert!(bytes(text).is_err(), "{text}");
        }
    }

    #[test]
    fn times_are_seconds_unless_they_say_otherwise() {
        for (text, ms) in [
            ("10", 10_000),
            ("0.5", 500),
            ("250ms", 250),
            ("2m", 120_000),
            ("3s", 3000),
        ] {
            assert_eq!(span(text), Ok(Duration::from_millis(ms)));
        }
        for text in ["", "s", "-1", "nan", "inf", "1h", "1e99"] {
            assert!(span(text).is_err(), "{text}");
        }
    }

    #[test]
    fn logical_units_are_lists_of_ranges_without_doubles() {
        let place = |target, lun| Place {
            target,
            lun: Lun::new(lun).unwrap(),
        };
        assert_eq!(luns("all").unwrap(), Luns::All);
        assert_eq!(luns("1:2").unwrap(), Luns::These(vec![place(1, 2)]));
        assert_eq!(
            luns("0-1:0-1,1:1,255:16383").unwrap(),
            Luns::These(vec![
                place(0, 0),
                place(0, 1),
                place(1, 0),
                place(1, 1),
                place(255, 16383)
            ])
        );
        for text in [
            "", "1", "1:", ":1", "256:0", "0:16384", "0:3-1", "0:1-", "0:0,", "x:y",
        ] {
            assert!(luns(text).is_err(), "{text}");
        }
    }
}

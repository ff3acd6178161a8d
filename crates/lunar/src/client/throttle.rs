//! `lunar throttle`: limits of a disk, set, shown and taken away while it is in use.

use anyhow::{Context, bail};
use lunar_host::property;
use lunar_monitor::Client;
use serde_json::{Map, Value, json};

use super::{connect, disk, tell, tree};
use crate::Failure;
use crate::args::Throttle;
use crate::qemu::size;

/// How many in a second on average, during a burst, and how long that may last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    average: u64,
    burst: Option<u64>,
    seconds: Option<u64>,
}

/// Reads `500`, `500:2000` or `10M:50M:5`.
pub fn parse(text: &str) -> Result<Rate, String> {
    let mut parts = text.split(':');
    let mut number = || match parts.next() {
        None => Ok(None),
        Some(part) => match property::size(part) {
            Some(number @ 1..) => Ok(Some(number)),
            _ => Err(format!(
                "{part:?} is not a number above 0, such as 500 or 10M"
            )),
        },
    };
    let (average, burst, seconds) = (number()?, number()?, number()?);
    let average = average.ok_or("the limit is missing")?;
    if parts.next().is_some() {
        return Err("must be LIMIT, LIMIT:BURST or LIMIT:BURST:SECONDS".to_owned());
    }
    Ok(Rate {
        average,
        burst,
        seconds,
    })
}

/// Has it done.
pub fn run(options: &Throttle) -> Result<(), Failure> {
    throttle(options).map_err(Failure::Runtime)
}

/// QMP's names of the limits.
const NAMES: [&str; 6] = ["iops", "iops_rd", "iops_wr", "bps", "bps_rd", "bps_wr"];

fn throttle(options: &Throttle) -> anyhow::Result<()> {
    let mut client = connect(&options.at)?;
    let target = Target::find(&mut client, &options.name)?;
    let rates = [
        options.iops,
        options.read_iops,
        options.write_iops,
        options.bps,
        options.read_bps,
        options.write_bps,
    ];
    if options.off || rates.iter().any(Option::is_some) {
        let mut arguments = Map::new();
        arguments.insert(target.key.to_owned(), target.value.clone().into());
        for (name, rate) in NAMES.iter().zip(rates) {
            arguments.insert(
                (*name).to_owned(),
                rate.map_or(0, |rate| rate.average).into(),
            );
            if let Some(burst) = rate.and_then(|rate| rate.burst) {
                arguments.insert(format!("{name}_max"), burst.into());
            }
            if let Some(seconds) = rate.and_then(|rate| rate.seconds) {
                arguments.insert(format!("{name}_max_length"), seconds.into());
            }
        }
        if let Some(bytes) = options.iops_size {
            arguments.insert("iops_size".to_owned(), bytes.into());
        }
        if let Some(group) = &options.group {
            arguments.insert("group".to_owned(), group.as_str().into());
        }
        client.execute::<Value>("block_set_io_throttle", arguments.into())?;
    } else if options.group.is_some() || options.iops_size.is_some() {
        bail!("--group and --iops-size go with a limit, such as --iops 500");
    }
    let limits = target.limits(&mut client)?;
    let text = match options.json {
        true => limits.to_string(),
        false => format!("{}: {}", options.name, show(&limits)),
    };
    tell(&(text + "\n")).map(drop)
}

/// Whose limits, as QMP wants to be told.
struct Target {
    key: &'static str,
    value: String,
    node: String,
}

impl Target {
    fn find(client: &mut Client, wanted: &str) -> anyhow::Result<Target> {
        let controllers = tree(client)?;
        if let Some(disk) = disk(&controllers, wanted) {
            return Ok(Target {
                key: "id",
                value: disk.id.clone().unwrap_or_else(|| disk.path.clone()),
                node: disk.node_name.clone(),
            });
        }
        let drives: Vec<Value> = client.execute("query-block", json!({}))?;
        let drive = drives
            .iter()
            .find(|drive| drive.get("device").and_then(Value::as_str) == Some(wanted));
        let node = drive.and_then(|drive| drive.pointer("/inserted/node-name")?.as_str());
        let node = node.with_context(|| format!("there is no disk or drive {wanted:?}"))?;
        Ok(Target {
            key: "device",
            value: wanted.to_owned(),
            node: node.to_owned(),
        })
    }

    /// What it is limited to now: members of QMP that are not 0.
    fn limits(&self, client: &mut Client) -> anyhow::Result<Value> {
        let nodes: Vec<Value> = client.execute("query-named-block-nodes", json!({}))?;
        let node = nodes
            .into_iter()
            .find(|node| node.get("node-name").and_then(Value::as_str) == Some(&self.node));
        let Some(Value::Object(mut node)) = node else {
            bail!("it has gone meanwhile");
        };
        node.retain(|name, value| {
            let limit = NAMES.iter().any(|limit| {
                let rest = name.strip_prefix(limit);
                matches!(rest, Some("" | "_max" | "_max_length"))
            });
            (limit || name == "iops_size" || name == "group") && *value != json!(0)
        });
        Ok(Value::Object(node))
    }
}

fn show(limits: &Value) -> String {
    let number = |name: &str| limits.get(name).and_then(Value::as_u64);
    let mut parts = Vec::new();
    for (name, people) in NAMES.iter().zip([
        "",
        " for reads",
        " for writes",
        "",
        " for reads",
        " for writes",
    ]) {
        let Some(average) = number(name) else {
            continue;
        };
        let rate = |n: u64| match name.starts_with("bps") {
            true => format!("{}/s", size(n.into())),
            false => format!("{n} IOPS"),
        };
        let mut part = rate(average) + people;
        if let Some(burst) = number(&format!("{name}_max")) {
            let seconds = number(&format!("{name}_max_length")).unwrap_or(1);
            part += &format!(" (bursts of {} for {seconds} s)", rate(burst));
        }
        parts.push(part);
    }
    if parts.is_empty() {
        return "no limits".to_owned();
    }
    if let Some(bytes) = number("iops_size") {
        parts.push(format!(
            "an operation counts for each {}",
            size(bytes.into())
        ));
    }
    if let Some(group) = limits.get("group").and_then(Value::as_str) {
        parts.push(format!("group {group}"));
    }
    parts.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_has_a_burst_and_the_burst_a_length() {
        let rate = |average, burst, seconds| {
            Ok(Rate {
                average,
                burst,
                seconds,
            })
        };
        assert_eq!(parse("500"), rate(500, None, None));
        assert_eq!(parse("10M:50M"), rate(10 << 20, Some(50 << 20), None));
        assert_eq!(parse("500:2000:5"), rate(500, Some(2000), Some(5)));
        for wrong in ["", "0", "-1", "5:", "5:6:7:8", "many"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn limits_are_told_in_words() {
        let limits = json!({"iops": 500, "iops_max": 2000, "bps_wr": 10 << 20, "group": "g"});
        assert_eq!(
            show(&limits),
            "500 IOPS (bursts of 2000 IOPS for 1 s), 10 MiB/s for writes, group g"
        );
        assert_eq!(show(&json!({})), "no limits");
    }
}

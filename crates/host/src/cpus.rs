//! Lists of processors: `0-3,8`, or `node0` for those of a NUMA node.

use std::collections::BTreeSet;
use std::fmt;
use std::path::Path;
use std::str::FromStr;

use rustix::thread::{CpuSet, sched_getaffinity};

use crate::property::decimal;

/// Processors, by the system's numbers, ascending.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cpus(BTreeSet<usize>);

/// A list that is none, or names processors that are not there.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// It does not follow the syntax.
    #[error(
        "{0:?} is no list of CPUs; write their numbers, such as 0-3,8, or node0 for those of a NUMA node"
    )]
    Syntax(String),
    /// There is no such NUMA node.
    #[error("there is no NUMA node {node}; this machine has {there}")]
    NoNode {
        /// Its number.
        node: usize,
        /// Those that there are.
        there: String,
    },
    /// A NUMA node without a processor that this process may use.
    #[error("NUMA node {node} has no CPU that this process may run on; it may run on {available}")]
    IdleNode {
        /// Its number.
        node: usize,
        /// The processors that it may run on.
        available: Cpus,
    },
    /// There is no such processor, or this process may not use it.
    #[error("CPU {cpu} is not available; this process may run on {available}")]
    Unavailable {
        /// The first that is missing.
        cpu: usize,
        /// Those that there are.
        available: Cpus,
    },
}

impl Cpus {
    /// Those that this process may use.
    ///
    /// # Errors
    /// The system does not say.
    fn available() -> std::io::Result<Cpus> {
        let allowed = sched_getaffinity(None)?;
        let all = 0..CpuSet::MAX_CPU;
        Ok(Cpus(all.filter(|&cpu| allowed.is_set(cpu)).collect()))
    }

    /// Whether this process may use all of them.
    ///
    /// # Errors
    /// It may not use one.
    pub fn check(&self) -> Result<(), Error> {
        // Where the system does not say, it may still do as it is told.
        let Ok(available) = Cpus::available() else {
            return Ok(());
        };
        match self.0.difference(&available.0).next() {
            None => Ok(()),
            Some(&cpu) => Err(Error::Unavailable { cpu, available }),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Their numbers.
    pub fn numbers(&self) -> Vec<usize> {
        self.0.iter().copied().collect()
    }
}

impl FromStr for Cpus {
    type Err = Error;

    /// Reads a list. Of a node's processors, those that this process may not use are left out.
    fn from_str(text: &str) -> Result<Cpus, Error> {
        Cpus::read(text, Path::new(NODES))
    }
}

/// Where the system says which NUMA nodes there are.
const NODES: &str = "/sys/devices/system/node";

/// What the system says there.
fn said(nodes: &Path, file: &str) -> Option<String> {
    let text = std::fs::read_to_string(nodes.join(file)).ok()?;
    Some(text.trim().to_owned())
}

impl Cpus {
    /// Lists that can be written on this machine, and what they are: all that this process may use, and the nodes.
    pub fn choices() -> Vec<(String, Cpus)> {
        Cpus::choices_among(Path::new(NODES))
    }

    fn choices_among(nodes: &Path) -> Vec<(String, Cpus)> {
        let all = Cpus::available().ok();
        let all = all.map(|all| (all.to_string(), all));
        // Nodes are numbered as processors are.
        let online = said(nodes, "online").and_then(|list| Cpus::read(&list, nodes).ok());
        let online = online.unwrap_or_default().0.into_iter();
        let usable = online.filter_map(|node| Some((node, Cpus::of_node(node, nodes).ok()?)));
        let named = usable.map(|(node, cpus)| (format!("node{node}"), cpus));
        all.into_iter().chain(named).collect()
    }

    fn read(text: &str, nodes: &Path) -> Result<Cpus, Error> {
        let wrong = || Error::Syntax(text.to_owned());
        let mut cpus = BTreeSet::new();
        for part in text.split(',') {
            if let Some(node) = part.strip_prefix("node") {
                cpus.extend(Cpus::of_node(number(node).ok_or_else(wrong)?, nodes)?.0);
                continue;
            }
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last) = number(first).zip(number(last)).ok_or_else(wrong)?;
            if first > last {
                return Err(wrong());
            }
            cpus.extend(first..=last);
        }
        Ok(Cpus(cpus))
    }

    /// Those of a NUMA node that this process may use.
    fn of_node(node: usize, nodes: &Path) -> Result<Cpus, Error> {
        let list = said(nodes, &format!("node{node}/cpulist")).ok_or_else(|| Error::NoNode {
            node,
            there: said(nodes, "online").unwrap_or_else(|| "none".to_owned()),
        })?;
        // A node can be memory alone.
        let mut cpus = match list.is_empty() {
            true => BTreeSet::new(),
            false => Cpus::read(&list, nodes)?.0,
        };
        let Ok(available) = Cpus::available() else {
            return Ok(Cpus(cpus));
        };
        cpus.retain(|cpu| available.0.contains(cpu));
        match cpus.is_empty() {
            true => Err(Error::IdleNode { node, available }),
            false => Ok(Cpus(cpus)),
        }
    }
}

/// A number as high as the system numbers processors.
fn number(text: &str) -> Option<usize> {
    decimal(text).filter(|&cpu| cpu < CpuSet::MAX_CPU)
}

impl fmt::Display for Cpus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut ranges: Vec<(usize, usize)> = Vec::new();
        for &cpu in &self.0 {
            match ranges.last_mut() {
                Some((_, last)) if *last + 1 == cpu => *last = cpu,
                _ => ranges.push((cpu, cpu)),
            }
        }
        for (i, (first, last)) in ranges.into_iter().enumerate() {
            let comma = if i == 0 { "" } else { "," };
            match first == last {
                true => write!(f, "{comma}{first}")?,
                false => write!(f, "{comma}{first}-{last}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read_and_written_in_ranges() {
        for (text, numbers, written) in [
            ("0", vec![0], "0"),
            ("0-3,8", vec![0, 1, 2, 3, 8], "0-3,8"),
            ("4,2,3,3", vec![2, 3, 4], "2-4"),
            ("1,3", vec![1, 3], "1,3"),
        ] {
            let cpus: Cpus = text.parse().unwrap();
            assert_eq!(cpus.numbers(), numbers, "{text}");
            assert_eq!(cpus.to_string(), written, "{text}");
        }
    }

    #[test]
    fn what_is_no_list_is_refused() {
        for text in [
            "",
            ",",
            "1,",
            "-1",
            "1-",
            "3-1",
            "a",
            "+1",
            "0x1",
            "1 2",
            "0-99999999",
            "node",
            "node-1",
            "node0-1",
            "nodes",
        ] {
            let refused = text.parse::<Cpus>();
            assert_eq!(refused, Err(Error::Syntax(text.to_owned())), "{text}");
        }
    }

    #[test]
    fn a_node_is_those_of_its_processors_that_can_be_used() {
        let nodes = tempfile::tempdir().unwrap();
        let available = Cpus::available().unwrap();
        let first = available.numbers()[0];
        for (node, cpulist) in [
            ("node0", format!("{first},1000-1023\n")),
            ("node1", "1000-1023\n".to_owned()),
            ("node2", "\n".to_owned()),
        ] {
            std::fs::create_dir(nodes.path().join(node)).unwrap();
            std::fs::write(nodes.path().join(node).join("cpulist"), cpulist).unwrap();
        }
        let read = |text: &str| Cpus::read(text, nodes.path());
        let refusal = |text: &str| read(text).unwrap_err().to_string();
        assert_eq!(read("node0"), Ok(Cpus([first].into())));
        assert_eq!(read("900,node0"), Ok(Cpus([first, 900].into())));
        for node in [1, 2] {
            assert_eq!(
                refusal(&format!("node{node}")),
                format!(
                    "NUMA node {node} has no CPU that this process may run on; it may run on {available}"
                )
            );
        }
        assert_eq!(
            refusal("node7"),
            "there is no NUMA node 7; this machine has none"
        );
        std::fs::write(nodes.path().join("online"), "0-2\n").unwrap();
        assert_eq!(
            refusal("node7"),
            "there is no NUMA node 7; this machine has 0-2"
        );
        let choices = Cpus::choices_among(nodes.path());
        let all = (available.to_string(), available);
        assert_eq!(choices, [all, ("node0".to_owned(), Cpus([first].into()))]);
    }

    #[test]
    fn a_processor_that_is_not_there_is_named() {
        let cpus = Cpus([CpuSet::MAX_CPU - 1].into());
        let refused = cpus.check().unwrap_err().to_string();
        assert!(refused.starts_with("CPU 1023 is not available; this process may run on "));
        assert_eq!(Cpus::available().unwrap().check(), Ok(()));
    }
}

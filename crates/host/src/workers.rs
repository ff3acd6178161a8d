//! `--workers`: how many threads serve the queues of all controllers, and where they run.
//!
//! `4` is four threads that run anywhere, `cpus=2-5` one on each of these processors, and `2,cpus=node1` two on any of a
//! NUMA node's.

use std::fmt;
use std::str::FromStr;

use crate::cpus::{self, Cpus};
use crate::file::MAX_WORKERS;
use crate::property::decimal;

/// The threads that serve all controllers, as declared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkerThreads {
    count: u16,
    cpus: Cpus,
    /// As it was written, which `node0` is no longer in the list.
    written: String,
}

/// What is no such declaration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// It does not follow the syntax.
    #[error("must be a number from 1 to {MAX_WORKERS}, cpus=LIST, or both, such as 2,cpus=0-3")]
    Syntax,
    /// More processors than there can be threads.
    #[error("{0} CPUs are too many for a thread on each; say how many threads: N,cpus=LIST")]
    TooMany(usize),
    /// The list of processors is not right.
    #[error(transparent)]
    Cpus(#[from] cpus::Error),
}

impl WorkerThreads {
    /// How many there are.
    pub fn count(&self) -> u16 {
        self.count
    }

    /// The processors that they stay on; none are any. As many as there are threads are one for each; otherwise every
    /// thread may use all.
    pub fn cpus(&self) -> &Cpus {
        &self.cpus
    }
}

impl Default for WorkerThreads {
    /// One, which runs anywhere.
    fn default() -> WorkerThreads {
        WorkerThreads {
            count: 1,
            cpus: Cpus::default(),
            written: "1".to_owned(),
        }
    }
}

impl FromStr for WorkerThreads {
    type Err = Error;

    fn from_str(text: &str) -> Result<WorkerThreads, Error> {
        let (count, list) = match text.strip_prefix("cpus=") {
            Some(list) => (None, Some(list)),
            None => {
                let (count, rest) = match text.split_once(',') {
                    Some((count, rest)) => (count, Some(rest)),
                    None => (text, None),
                };
                let list = rest.map(|rest| rest.strip_prefix("cpus=").ok_or(Error::Syntax));
                (Some(number(count)?), list.transpose()?)
            }
        };
        // Nothing follows the list, so its commas need not be doubled as elsewhere; they may be.
        let cpus: Option<Cpus> = list
            .map(|list| list.replace(",,", ",").parse())
            .transpose()?;
        let cpus = cpus.unwrap_or_default();
        cpus.check()?;
        let count = match count {
            Some(count) => count,
            None => u16::try_from(cpus.len())
                .ok()
                .filter(|count| *count <= MAX_WORKERS)
                .ok_or(Error::TooMany(cpus.len()))?,
        };
        Ok(WorkerThreads {
            count,
            cpus,
            written: text.to_owned(),
        })
    }
}

/// As it was written.
impl fmt::Display for WorkerThreads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.written)
    }
}

fn number(text: &str) -> Result<u16, Error> {
    decimal(text)
        .filter(|count| (1..=MAX_WORKERS).contains(count))
        .ok_or(Error::Syntax)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(text: &str) -> String {
        text.parse::<WorkerThreads>().unwrap_err().to_string()
    }

    #[test]
    fn threads_are_counted_or_one_for_each_processor_listed() {
        for (text, count, cpus) in [
            ("1", 1, ""),
            ("256", 256, ""),
            ("cpus=0", 1, "0"),
            ("3,cpus=0", 3, "0"),
            ("2,cpus=0,,0", 2, "0"),
            ("2,cpus=0,0", 2, "0"),
        ] {
            let threads: WorkerThreads = text.parse().unwrap();
            assert_eq!(threads.count(), count, "{text}");
            assert_eq!(threads.cpus().to_string(), cpus, "{text}");
            assert_eq!(threads.to_string(), text);
        }
        let node: WorkerThreads = "2,cpus=node0".parse().unwrap();
        assert_eq!(node.count(), 2);
        assert!(!node.cpus().is_empty());
        assert_eq!(node.to_string(), "2,cpus=node0");
    }

    #[test]
    fn what_is_no_declaration_is_refused_with_what_would_be_one() {
        for text in [
            "", "0", "257", "+1", "2,", "2,3", "2,cpu=1", ",cpus=1", "cpu=1", "many",
        ] {
            assert_eq!(
                refusal(text),
                "must be a number from 1 to 256, cpus=LIST, or both, such as 2,cpus=0-3",
                "{text}"
            );
        }
        assert!(refusal("cpus=").starts_with("\"\" is no list of CPUs; write their numbers"));
        assert!(refusal("2,cpus=0-x").starts_with("\"0-x\" is no list of CPUs"));
        assert!(
            refusal("2,cpus=1023")
                .starts_with("CPU 1023 is not available; this process may run on ")
        );
        assert!(
            refusal("cpus=node999").starts_with("there is no NUMA node 999; this machine has ")
        );
    }
}

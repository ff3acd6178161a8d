//! Nodes: what they are, who uses them, and how a declaration with nested nodes becomes several of them.

use std::path::PathBuf;

use lunar_block::{DetectZeroes, FaultRule, Faults, NodeOptions};

use super::error::{Error, Taken};
use super::record::Record;
use super::{Model, block_driver, name};
use crate::catalog::{self, BlockKind, BlockOptions, FaultOptions};
use crate::keyval::{Options, Value};
use crate::property;

/// A place where blocks live: a file, or a format on top of another node.
#[derive(Clone, Debug)]
pub struct Node {
    /// Its name; `#blockN` if the user gave none.
    pub name: String,
    /// How it was declared, for messages: `--drive file=x.img`.
    pub origin: String,
    /// What it is.
    pub driver: NodeDriver,
    /// How it is opened.
    pub options: NodeOptions,
    /// Declared inside another node or by a drive, with which it goes.
    pub(super) inline: bool,
    /// Empty for those that a drive makes.
    pub(super) record: Record,
    pub(super) users: Vec<User>,
}

/// A driver with what it needs; other nodes by name.
#[derive(Clone, Debug, PartialEq)]
pub enum NodeDriver {
    /// A regular file.
    File {
        /// Its path.
        filename: PathBuf,
    },
    /// A host block device.
    HostDevice {
        /// Its path.
        filename: PathBuf,
    },
    /// A part of another node, or all of it.
    Raw {
        /// The other node.
        file: String,
        /// Where the part begins.
        offset: u64,
        /// How long it is; to the end if absent.
        size: Option<u64>,
    },
    /// qcow2 in a file or host device.
    Qcow2 {
        /// The node that holds it.
        file: String,
    },
    /// Stores nothing.
    Null {
        /// Bytes.
        size: u64,
        /// Reads give zeroes.
        read_zeroes: bool,
        /// The time every operation takes.
        latency_ns: u64,
    },
    /// RAM.
    Memory {
        /// Bytes.
        size: u64,
    },
    /// Another node, with faults.
    Blkdebug {
        /// The other node.
        image: String,
        /// What goes wrong.
        faults: Faults,
    },
    /// Nothing: there is no medium in the drive.
    Empty,
    /// Another node, with limits.
    Throttle {
        /// The other node.
        file: String,
        /// The name of the group that has the limits.
        group: String,
    },
}

/// Who uses a node, and whether another may beside it.
#[derive(Clone, Debug)]
pub(super) struct User {
    pub(super) name: String,
    pub(super) shares: bool,
}

impl Node {
    pub(super) fn as_user(&self) -> User {
        User {
            name: format!("node {}", self.name),
            // Parts of one file may be many; a format has its file for itself.
            shares: matches!(self.driver, NodeDriver::Raw { .. }) || self.options.read_only,
        }
    }

    /// Declared inside another node or by a drive, with which it goes.
    pub fn is_inline(&self) -> bool {
        self.inline
    }

    /// Who uses it: devices and other nodes, for people.
    pub fn users(&self) -> impl Iterator<Item = &str> {
        self.users.iter().map(|user| user.name.as_str())
    }

    /// Takes a user away. Users of the same name are alike.
    pub(super) fn dismiss(&mut self, name: &str) {
        if let Some(at) = self.users.iter().position(|user| user.name == name) {
            self.users.remove(at);
        }
    }

    /// Adds a user, if it and all others put up with one another.
    pub(super) fn admit(&mut self, drive: &str, user: User) -> Result<(), Error> {
        // Where there are several, all of them share: one answers for all.
        match self
            .users
            .first()
            .filter(|other| !(other.shares && user.shares))
        {
            Some(other) => Err(Error::InUse {
                drive: drive.to_owned(),
                by: other.name.clone(),
            }),
            None => {
                self.users.push(user);
                Ok(())
            }
        }
    }
}

impl NodeDriver {
    /// QEMU's name for it.
    pub fn name(&self) -> &'static str {
        match self {
            NodeDriver::File { .. } => "file",
            NodeDriver::HostDevice { .. } => "host_device",
            NodeDriver::Raw { .. } => "raw",
            NodeDriver::Qcow2 { .. } => "qcow2",
            NodeDriver::Null { .. } => "null-co",
            NodeDriver::Memory { .. } => "memory",
            NodeDriver::Empty => "empty",
            NodeDriver::Blkdebug { .. } => "blkdebug",
            NodeDriver::Throttle { .. } => "throttle",
        }
    }

    /// The node below, if there is one.
    pub fn file(&self) -> Option<&str> {
        match self {
            NodeDriver::Raw { file, .. }
            | NodeDriver::Qcow2 { file }
            | NodeDriver::Throttle { file, .. } => Some(file),
            NodeDriver::Blkdebug { image, .. } => Some(image),
            _ => None,
        }
    }
}

/// Nodes on their way into a model: none or all of them get there.
pub(super) struct Draft<'a> {
    pub(super) model: &'a mut Model,
    pub(super) nodes: Vec<Node>,
}

impl Draft<'_> {
    /// Declares a node and what is nested in it; returns its name.
    pub(super) fn node(
        &mut self,
        mut options: Options,
        origin: &str,
        parent: Option<&NodeOptions>,
    ) -> Result<String, Error> {
        let declared = options.clone();
        let name = options
            .take("driver")
            .ok_or(Error::Missing("the block driver's name"))?;
        let driver = block_driver(&name)?;
        let nested = options.take_nested(match driver.kind {
            BlockKind::Blkdebug => "image",
            _ => "file",
        });
        let rules = match driver.kind {
            BlockKind::Blkdebug => faults(&mut options)?,
            _ => Vec::new(),
        };
        let mut node = BlockOptions {
            node: parent.map_or_else(NodeOptions::default, inherited),
            ..BlockOptions::default()
        };
        property::apply(&mut node, &name, &options, &driver.tables())?;
        if let Some(name) = &node.node_name {
            name::check(name)?;
            self.model.check_free_node_name(name)?;
            if self.nodes.iter().any(|node| node.name == *name) {
                return Err(Error::DuplicateId {
                    id: name.clone(),
                    taken: Taken::Node,
                });
            }
        }
        let filename = |node: &mut BlockOptions| {
            node.filename
                .take()
                .map(PathBuf::from)
                .ok_or(Error::Missing("filename=PATH"))
        };
        let driver = match driver.kind {
            BlockKind::File => NodeDriver::File {
                filename: filename(&mut node)?,
            },
            BlockKind::HostDevice => NodeDriver::HostDevice {
                filename: filename(&mut node)?,
            },
            BlockKind::Raw => NodeDriver::Raw {
                file: self.child(node.file.take(), &node.node, nested, origin)?,
                offset: node.offset,
                size: node.size,
            },
            BlockKind::Qcow2 => {
                let file = self.child(node.file.take(), &node.node, nested, origin)?;
                self.check_holds_qcow2(&file)?;
                NodeDriver::Qcow2 { file }
            }
            BlockKind::Null => NodeDriver::Null {
                size: node.size.unwrap_or(1 << 30),
                read_zeroes: node.read_zeroes,
                latency_ns: node.latency_ns,
            },
            BlockKind::Memory => NodeDriver::Memory {
                size: node.size.ok_or(Error::Missing("size=BYTES"))?,
            },
            BlockKind::Blkdebug => {
                let faults = Faults {
                    rules,
                    seed: node.seed,
                };
                faults.check().map_err(Error::Filter)?;
                NodeDriver::Blkdebug {
                    image: self.child(node.image.take(), &node.node, nested, origin)?,
                    faults,
                }
            }
            BlockKind::Throttle => {
                let group = node.throttle_group.take();
                let group = group.ok_or(Error::Missing("throttle-group=NAME"))?;
                self.model.check_group(&group)?;
                NodeDriver::Throttle {
                    file: self.child(node.file.take(), &node.node, nested, origin)?,
                    group,
                }
            }
        };
        let name = self.push(node.node_name, origin, driver, node.node);
        let record = Record::new(self.model, declared);
        if let Some(node) = self.nodes.last_mut() {
            node.record = record;
        }
        Ok(name)
    }

    /// The node below one with these options: one that is there, or one declared inline.
    fn child(
        &mut self,
        file: Option<String>,
        node: &NodeOptions,
        nested: Options,
        origin: &str,
    ) -> Result<String, Error> {
        match (file, nested.is_empty()) {
            (None, true) => Err(Error::Missing("file=NODE")),
            (None, false) => self.node(nested, origin, Some(node)),
            (Some(_), false) => Err(Error::TwoFiles),
            (Some(name), true) => {
                let user = User {
                    name: "another node".to_owned(),
                    shares: true,
                };
                let found = self.model.nodes.get(&name);
                let found = found.ok_or_else(|| Error::NoSuchNode(name.clone()))?;
                // Only a look: the real user is registered when the whole declaration is accepted.
                found.clone().admit(&name, user)?;
                Ok(name)
            }
        }
    }

    fn check_holds_qcow2(&self, name: &str) -> Result<(), Error> {
        let drafted = self.nodes.iter().find(|node| node.name == name);
        let node = drafted.or_else(|| self.model.nodes.get(name));
        match node.map(|node| &node.driver) {
            Some(NodeDriver::File { .. } | NodeDriver::HostDevice { .. }) => Ok(()),
            _ => Err(Error::Qcow2NeedsFile(name.to_owned())),
        }
    }

    pub(super) fn push(
        &mut self,
        name: Option<String>,
        origin: &str,
        driver: NodeDriver,
        options: NodeOptions,
    ) -> String {
        let name = name.unwrap_or_else(|| {
            self.model.unnamed_nodes += 1;
            format!("#block{}", self.model.unnamed_nodes - 1)
        });
        self.nodes.push(Node {
            name: name.clone(),
            origin: origin.to_owned(),
            driver,
            options,
            inline: true,
            record: Record::default(),
            users: Vec::new(),
        });
        name
    }
}

/// What can be changed of a node that is open.
#[derive(Clone, Debug)]
pub(crate) enum Reopened {
    Blkdebug(Faults),
    Throttle(String),
}

impl Model {
    /// Changes what can be changed of a node: the faults of a blkdebug node, the group of a throttle node. What is not
    /// said is as it would be for a new node, as in QEMU, except that the node below stays.
    ///
    /// # Errors
    /// It is not there, or something else would change.
    pub(crate) fn reopen(&mut self, mut options: Options) -> Result<(String, Reopened), Error> {
        let name = options.take("node-name");
        let name = name.ok_or(Error::Missing("node-name=NAME"))?;
        let node = self.nodes.get(&name).ok_or_else(|| Error::Absent {
            what: Taken::Node,
            name: name.clone(),
        })?;
        let declared = options.clone();
        let refuse = |what: &str| {
            let (node, what) = (name.clone(), what.to_owned());
            Err(Error::NotReopened { node, what })
        };
        let driver = options.take("driver");
        let driver = driver.ok_or(Error::Missing("the block driver's name"))?;
        if driver != node.driver.name() {
            return refuse(&format!("its driver is {}, and stays", node.driver.name()));
        }
        let kind = block_driver(&driver)?;
        let rules = match kind.kind {
            BlockKind::Blkdebug => faults(&mut options)?,
            BlockKind::Throttle => Vec::new(),
            _ => {
                return refuse(
                    "only the faults of a blkdebug node and the group of a throttle node can be changed while it is open",
                );
            }
        };
        if options
            .iter()
            .any(|(key, _)| key.starts_with("file.") || key.starts_with("image."))
        {
            return refuse("the node below stays: give its name, or leave it out");
        }
        let mut wanted = BlockOptions::default();
        property::apply(&mut wanted, &driver, &options, &kind.tables())?;
        let below = wanted.file.or(wanted.image);
        if below.is_some_and(|below| node.driver.file() != Some(&below)) {
            return refuse("the node below stays: give its name, or leave it out");
        }
        wanted.node.share_rw = node.options.share_rw;
        if wanted.node != node.options {
            return refuse(
                "what every node has (read-only, discard, detect-zeroes, cache) stays as it is",
            );
        }
        let reopened = match kind.kind {
            BlockKind::Throttle => {
                let group = wanted.throttle_group;
                let group = group.ok_or(Error::Missing("throttle-group=NAME"))?;
                self.check_group(&group)?;
                Reopened::Throttle(group)
            }
            _ => {
                let seed = wanted.seed;
                let faults = Faults { rules, seed };
                faults.check().map_err(Error::Filter)?;
                Reopened::Blkdebug(faults)
            }
        };
        if let Some(node) = self.nodes.get_mut(&name) {
            let record = node.record.options();
            let changed: &[&str] = match kind.kind {
                BlockKind::Blkdebug => &["inject-error", "seed"],
                _ => &["throttle-group"],
            };
            for key in changed {
                record.take(key);
                record.take_nested(key);
            }
            for (key, value) in declared.iter() {
                if let Value::Text(text) = value
                    && changed.contains(&key.split('.').next().unwrap_or(key))
                {
                    record.set(key, text);
                }
            }
            match (&mut node.driver, &reopened) {
                (NodeDriver::Blkdebug { faults, .. }, Reopened::Blkdebug(new)) => {
                    faults.clone_from(new);
                }
                (NodeDriver::Throttle { group, .. }, Reopened::Throttle(new)) => {
                    group.clone_from(new);
                }
                _ => {}
            }
        }
        Ok((name, reopened))
    }
}

/// `inject-error.0.…`, `inject-error.1.…` and so on.
fn faults(options: &mut Options) -> Result<Vec<FaultRule>, Error> {
    let mut rules = Vec::new();
    loop {
        let name = format!("inject-error.{}", rules.len());
        let own = options.take_nested(&name);
        if own.is_empty() {
            return Ok(rules);
        }
        let mut rule = FaultOptions::default();
        property::apply(&mut rule, &name, &own, &[catalog::FAULT])?;
        rules.push(rule.rule());
    }
}

/// What a node passes on to one declared inside it: formats respect the discard policy and detect zeroes themselves.
pub(super) fn inherited(options: &NodeOptions) -> NodeOptions {
    NodeOptions {
        discard_unmap: true,
        detect_zeroes: DetectZeroes::Off,
        ..options.clone()
    }
}

/// The driver of a drive's file: what kind of file it is decides, a missing one is reported when it is opened.
pub(super) fn protocol(file: &str) -> NodeDriver {
    use std::os::unix::fs::FileTypeExt;
    let filename = PathBuf::from(file);
    match std::fs::metadata(&filename) {
        Ok(metadata) if metadata.file_type().is_block_device() => {
            NodeDriver::HostDevice { filename }
        }
        _ => NodeDriver::File { filename },
    }
}

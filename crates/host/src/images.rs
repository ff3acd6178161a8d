//! The images behind declared nodes, each open once.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use lunar_block::{
    Driver, Error as BlockError, FaultInjection, Image, NodeOptions, Throttle, no_medium, open_node,
};

use crate::growth::Growth;
use crate::model::{Model, Node, NodeDriver, Reopened};
use crate::throttling::Groups;

/// An image that cannot be opened, changed or closed: what declares it, and why.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct ImageError(String);

/// Open nodes by name.
#[derive(Debug)]
pub(crate) struct Images {
    open: BTreeMap<String, Open>,
    growth: Option<Arc<Growth>>,
    groups: Groups,
}

#[derive(Debug)]
struct Open {
    image: Arc<dyn Image>,
    filter: Filter,
    /// It was opened with `share-rw=on`.
    shared: bool,
}

/// What can be changed of an open node.
#[derive(Debug)]
enum Filter {
    None,
    Faults(Arc<FaultInjection>),
    Throttle(Arc<Throttle>),
}

impl Images {
    /// None yet. Those that may grow by themselves will be watched.
    pub fn new(growth: Option<Arc<Growth>>, groups: Groups) -> Images {
        Images {
            open: BTreeMap::new(),
            growth,
            groups,
        }
    }

    /// Changes an open node as its declaration was.
    pub fn reopen(&self, node: &str, reopened: Reopened) -> Result<(), BlockError> {
        let filter = self.open.get(node).map(|open| &open.filter);
        match (filter, reopened) {
            (Some(Filter::Faults(injection)), Reopened::Blkdebug(faults)) => injection.set(faults),
            (Some(Filter::Throttle(throttle)), Reopened::Throttle(group)) => {
                let group = self.groups.get(&group);
                throttle.set_group(Some(group.ok_or(BlockError::Unsupported)?));
                Ok(())
            }
            // It will be opened as it is declared.
            _ => Ok(()),
        }
    }

    /// An open image.
    pub fn get(&self, node: &str) -> Option<&Arc<dyn Image>> {
        self.open.get(node).map(|open| &open.image)
    }

    /// The image that a node declares, opened if it is not, and anew if its first user shares it in another way than it
    /// was opened for.
    pub fn open(&mut self, model: &Model, name: &str) -> Result<Arc<dyn Image>, ImageError> {
        let node = self.node(model, name)?;
        let Some(open) = self.open.get(name) else {
            return self.open_new(model, node);
        };
        if open.shared == node.options.share_rw || !is_owned(model, node) {
            return Ok(Arc::clone(&open.image));
        }
        self.close_chain(model, node)?;
        self.open_new(model, node)
    }

    fn open_new(&mut self, model: &Model, node: &Node) -> Result<Arc<dyn Image>, ImageError> {
        let mut options = node.options.clone();
        let driver = match &node.driver {
            NodeDriver::File { filename } => Driver::File {
                filename: filename.clone(),
            },
            NodeDriver::HostDevice { filename } => Driver::HostDevice {
                filename: filename.clone(),
            },
            NodeDriver::Raw { file, offset, size } => Driver::Raw {
                file: self.open(model, file)?,
                offset: *offset,
                size: *size,
            },
            NodeDriver::Qcow2 { file } => {
                let below = self.node(model, file)?;
                options = through(&options, &below.options);
                match &below.driver {
                    NodeDriver::File { filename } | NodeDriver::HostDevice { filename } => {
                        // The format opens the file itself, and would find it locked.
                        self.close_chain(model, below)?;
                        Driver::Qcow2 {
                            file: filename.clone(),
                        }
                    }
                    _ => return Err(refuse(node, &BlockError::Unsupported)),
                }
            }
            NodeDriver::Null {
                size,
                read_zeroes,
                latency_ns,
            } => Driver::Null {
                size: *size,
                read_zeroes: *read_zeroes,
                latency_ns: *latency_ns,
            },
            NodeDriver::Empty => return Ok(self.keep(node, no_medium(), Filter::None)),
            NodeDriver::Memory { size } => Driver::Memory { size: *size },
            NodeDriver::Blkdebug { image, faults } => {
                let below = self.open(model, image)?;
                let made = FaultInjection::new(below, faults.clone(), &options);
                let made = made.map_err(|source| refuse(node, &source))?;
                return Ok(self.keep(node, made.clone(), Filter::Faults(made)));
            }
            NodeDriver::Throttle { file, group } => {
                let below = self.open(model, file)?;
                let made = (self.groups.get(group).ok_or(BlockError::Unsupported))
                    .and_then(|group| Throttle::new(below, group, &options));
                let made = made.map_err(|source| refuse(node, &source))?;
                return Ok(self.keep(node, made.clone(), Filter::Throttle(made)));
            }
        };
        let image = open_node(driver, &options).map_err(|source| match &source {
            BlockError::InUse(_) => self
                .refuse_second(model, node)
                .unwrap_or_else(|| refuse(node, &source)),
            _ => refuse(node, &source),
        })?;
        Ok(self.keep(node, image, Filter::None))
    }

    fn keep(&mut self, node: &Node, image: Arc<dyn Image>, filter: Filter) -> Arc<dyn Image> {
        let open = Open {
            image: Arc::clone(&image),
            filter,
            shared: node.options.share_rw,
        };
        self.open.insert(node.name.clone(), open);
        if let Some(growth) = &self.growth {
            match &node.driver {
                NodeDriver::File { filename } => growth.add_file(&node.name, filename),
                NodeDriver::HostDevice { .. } => growth.add_device(&node.name),
                _ => {}
            }
        }
        image
    }

    /// What to say of a node whose file is locked by another node of ours, if it is.
    fn refuse_second(&self, model: &Model, node: &Node) -> Option<ImageError> {
        let wanted = identity(model, node)?;
        let mut others = model.nodes().filter(|other| {
            other.name != node.name
                && self.open.contains_key(&other.name)
                && identity(model, other) == Some(wanted)
        });
        let other = others.next()?;
        let mut drives = model.drives().filter(|drive| drive.node == other.name);
        let (holder, with) = match drives.next() {
            Some(drive) => (format!("drive {}", drive.id), &drive.id),
            None => (format!("node {}", other.name), &other.name),
        };
        let path = filename(model, node)?.display();
        Some(refuse(
            node,
            &BlockError::Open(format!(
                "{path}: {holder} has it open already; for a second path to the same disk, give the device drive={with}"
            )),
        ))
    }

    /// Makes everything durable and lets go of the images; all are closed even if some fail.
    pub fn close<'a>(
        &mut self,
        nodes: impl IntoIterator<Item = &'a Node>,
    ) -> Result<(), ImageError> {
        let mut outcome = Ok(());
        for node in nodes {
            let Some(open) = self.open.remove(&node.name) else {
                continue;
            };
            if let Some(growth) = &self.growth {
                growth.remove(&node.name);
            }
            // What a part is cut out of is a node of its own, which others may use.
            if !matches!(
                node.driver,
                NodeDriver::Raw { .. } | NodeDriver::Blkdebug { .. } | NodeDriver::Throttle { .. }
            ) && let Err(source) = open.image.close()
            {
                outcome = Err(refuse(node, &source));
            }
        }
        outcome
    }

    /// Closes a node and what is beneath it.
    pub fn close_chain(&mut self, model: &Model, node: &Node) -> Result<(), ImageError> {
        let below = |node: &&Node| node.driver.file().and_then(|name| model.node(name));
        self.close(std::iter::successors(Some(node), below))
    }

    fn node<'a>(&self, model: &'a Model, name: &str) -> Result<&'a Node, ImageError> {
        let missing = || ImageError(format!("there is no node {name:?}"));
        model.node(name).ok_or_else(missing)
    }
}

/// Opens all images that a model names, and closes them again: whether it would do for a server.
///
/// # Errors
/// The first that cannot be opened.
pub fn try_images(model: &Model) -> Result<(), ImageError> {
    let mut images = Images::new(None, Groups::default());
    let beneath = |node: &Node| {
        let mut others = model.nodes();
        others.any(|other| other.driver.file() == Some(node.name.as_str()))
    };
    let opened = (model.nodes().filter(|node| !beneath(node)))
        .try_for_each(|node| images.open(model, &node.name).map(drop));
    opened.and(images.close(model.nodes()))
}

/// The file that a node is in, whatever is between.
fn filename<'a>(model: &'a Model, node: &'a Node) -> Option<&'a Path> {
    match &node.driver {
        NodeDriver::File { filename } | NodeDriver::HostDevice { filename } => Some(filename),
        driver => filename(model, model.node(driver.file()?)?),
    }
}

/// The same file has the same, whatever it is called.
fn identity(model: &Model, node: &Node) -> Option<(u64, u64)> {
    let found = std::fs::metadata(filename(model, node)?).ok()?;
    Some((found.dev(), found.ino()))
}

/// Whether a node and those beneath it have one user each at most.
fn is_owned(model: &Model, node: &Node) -> bool {
    let below = |node: &&Node| node.driver.file().and_then(|name| model.node(name));
    std::iter::successors(Some(node), below).all(|node| node.users().count() <= 1)
}

/// The reason begins with the file's name, which for an `IMAGE` is all that was written.
pub(crate) fn refuse(node: &Node, source: &BlockError) -> ImageError {
    let (origin, reason) = (&node.origin, source.to_string());
    ImageError(match reason.starts_with(origin.as_str()) {
        true => reason,
        false => format!("{origin}: {reason}"),
    })
}

/// A format node and its file are opened as one: what either of them restricts is restricted.
fn through(format: &NodeOptions, file: &NodeOptions) -> NodeOptions {
    NodeOptions {
        read_only: format.read_only || file.read_only,
        direct: format.direct || file.direct,
        no_flush: format.no_flush || file.no_flush,
        discard_unmap: format.discard_unmap && file.discard_unmap,
        detect_zeroes: format.detect_zeroes,
        force_share: format.force_share || file.force_share,
        share_rw: format.share_rw,
        locking: file.locking,
    }
}

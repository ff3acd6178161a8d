//! Opening what the model declares, each node once.

use std::collections::BTreeMap;
use std::sync::Arc;

use lunar_block::{Driver, Error as BlockError, Image, NodeOptions, open_node};

use crate::model::{Model, Node, NodeDriver};

/// An image that cannot be opened or closed: the option that declares it, and why.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Error(String);

/// Open nodes by name.
#[derive(Debug)]
pub struct Images<'a> {
    model: &'a Model,
    open: BTreeMap<String, Arc<dyn Image>>,
}

impl<'a> Images<'a> {
    /// None yet.
    pub fn new(model: &'a Model) -> Images<'a> {
        Images {
            model,
            open: BTreeMap::new(),
        }
    }

    /// The image that `node` declares, opened if it is not.
    pub fn open(&mut self, node: &Node) -> Result<Arc<dyn Image>, Error> {
        if let Some(image) = self.open.get(&node.name) {
            return Ok(Arc::clone(image));
        }
        let mut options = node.options.clone();
        let driver = match &node.driver {
            NodeDriver::File { filename } => Driver::File {
                filename: filename.clone(),
            },
            NodeDriver::HostDevice { filename } => Driver::HostDevice {
                filename: filename.clone(),
            },
            NodeDriver::Raw { file, offset, size } => Driver::Raw {
                file: self.open(self.below(node, file)?)?,
                offset: *offset,
                size: *size,
            },
            NodeDriver::Qcow2 { file } => {
                let below = self.below(node, file)?;
                options = through(&options, &below.options);
                match &below.driver {
                    NodeDriver::File { filename } | NodeDriver::HostDevice { filename } => {
                        Driver::Qcow2 {
                            file: filename.clone(),
                        }
                    }
                    _ => return Err(refuse(node, BlockError::Unsupported)),
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
            NodeDriver::Memory { size } => Driver::Memory { size: *size },
        };
        let image = open_node(driver, &options).map_err(|source| refuse(node, source))?;
        self.open.insert(node.name.clone(), Arc::clone(&image));
        Ok(image)
    }

    /// Makes everything durable and lets go of the images; all are closed even if some fail.
    pub fn close(self) -> Result<(), Error> {
        let mut outcome = Ok(());
        let nodes: Vec<_> = self
            .open
            .keys()
            .filter_map(|name| self.model.node(name))
            .collect();
        let below: Vec<_> = nodes.iter().filter_map(|node| node.driver.file()).collect();
        for node in &nodes {
            // An image closes the one it is made of.
            let Some(image) = self
                .open
                .get(&node.name)
                .filter(|_| !below.contains(&&*node.name))
            else {
                continue;
            };
            if let Err(source) = image.close() {
                outcome = Err(refuse(node, source));
            }
        }
        outcome
    }

    fn below(&self, node: &Node, name: &str) -> Result<&'a Node, Error> {
        self.model
            .node(name)
            .ok_or_else(|| refuse(node, BlockError::Unsupported))
    }
}

/// The reason begins with the file's name, which for an `IMAGE` is all that was written.
fn refuse(node: &Node, source: BlockError) -> Error {
    let (origin, reason) = (&node.origin, source.to_string());
    Error(match reason.starts_with(origin.as_str()) {
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

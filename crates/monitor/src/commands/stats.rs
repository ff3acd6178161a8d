//! What was done with drives and nodes, how long it took, and how far writes may go untold.

use std::sync::Arc;

use lunar_host::{Activities, Boundaries, DeviceInfo, HistogramOf, Host};
use serde_json::Value;

use super::block::{Entry, entries};
use crate::Error;
use crate::schema::{Empty, qapi};

qapi! {
    /// Whose statistics.
    struct QueryStats {
        query_nodes = "query-nodes": Option<bool>,
    }

    /// How many operations took how long: `bins` has one more than there are boundaries (in nanoseconds), and a time that
    /// is on a boundary is in the bin above it.
    struct BlockLatencyHistogramInfo {
        boundaries: Vec<u64>,
        bins: Vec<u64>,
    }

    /// What was done. Operations of a device count when they end: those that have succeeded, and apart from them those
    /// that the host failed, and those that the image refused. Their time is that of both. It is taken where the device
    /// hands them to its image, so waiting for a limit or for an error to be mended is part of it. Operations are never
    /// merged. Discards and write-zeroes are `unmap`. Nodes count what is started, and take no time.
    struct BlockDeviceStats {
        rd_bytes: u64,
        wr_bytes: u64,
        unmap_bytes: u64,
        rd_operations: u64,
        wr_operations: u64,
        flush_operations: u64,
        unmap_operations: u64,
        rd_total_time_ns: u64,
        wr_total_time_ns: u64,
        flush_total_time_ns: u64,
        unmap_total_time_ns: u64,
        wr_highest_offset: u64,
        rd_merged: u64,
        wr_merged: u64,
        unmap_merged: u64,
        idle_time_ns: Option<u64>,
        failed_rd_operations: u64,
        failed_wr_operations: u64,
        failed_flush_operations: u64,
        failed_unmap_operations: u64,
        invalid_rd_operations: u64,
        invalid_wr_operations: u64,
        invalid_flush_operations: u64,
        invalid_unmap_operations: u64,
        account_invalid: bool,
        account_failed: bool,
        timed_stats: Vec<Value>,
        rd_latency_histogram: Option<BlockLatencyHistogramInfo>,
        wr_latency_histogram: Option<BlockLatencyHistogramInfo>,
        zap_latency_histogram = "zone_append_latency_histogram": Option<BlockLatencyHistogramInfo>,
        flush_latency_histogram: Option<BlockLatencyHistogramInfo>,
    }

    /// Statistics of a drive, a device or a node.
    struct BlockStats {
        device: Option<String>,
        qdev: Option<String>,
        node_name = "node-name": Option<String>,
        stats: BlockDeviceStats,
        parent: Option<Box<BlockStats>>,
    }

    /// A device, and the boundaries of its histograms: all of them, or those of one kind of operation. Without any, it has
    /// none.
    struct BlockLatencyHistogramSet {
        id: String,
        boundaries: Option<Vec<u64>>,
        boundaries_read = "boundaries-read": Option<Vec<u64>>,
        boundaries_write = "boundaries-write": Option<Vec<u64>>,
        boundaries_zap = "boundaries-zap": Option<Vec<u64>>,
        boundaries_flush = "boundaries-flush": Option<Vec<u64>>,
    }

    /// A node, and the offset behind which a write is told of, once; 0 is none.
    struct BlockSetWriteThreshold {
        node_name = "node-name": String,
        write_threshold = "write-threshold": u64,
    }

    /// Writing has passed the mark that was set.
    struct BlockWriteThreshold {
        node_name = "node-name": String,
        amount_exceeded = "amount-exceeded": u64,
        write_threshold = "write-threshold": u64,
    }
}

/// `block-latency-histogram-set`.
pub fn set_histograms(
    host: &Arc<Host>,
    arguments: BlockLatencyHistogramSet,
) -> Result<Empty, Error> {
    let a = arguments;
    if !matches!(host.device(&a.id), Ok(Some(_))) {
        return Err(Error::no_device(&a.id));
    }
    let all = a.boundaries;
    let wanted = Boundaries {
        reads: a.boundaries_read.or_else(|| all.clone()),
        writes: a.boundaries_write.or_else(|| all.clone()),
        zone_appends: a.boundaries_zap.or_else(|| all.clone()),
        flushes: a.boundaries_flush.or(all),
    };
    let any = wanted != Boundaries::default();
    host.set_histograms(&a.id, any.then_some(wanted))?;
    Ok(Empty {})
}

/// `block-set-write-threshold`.
pub fn set_write_threshold(
    host: &Arc<Host>,
    arguments: BlockSetWriteThreshold,
) -> Result<Empty, Error> {
    let node = arguments.node_name;
    if host.model().node(&node).is_none() {
        return Err(Error::generic(format!("Device '{node}' not found")));
    }
    host.set_write_threshold(&node, arguments.write_threshold)?;
    Ok(Empty {})
}

/// `query-blockstats`.
pub fn query(host: &Arc<Host>, arguments: QueryStats) -> Result<Vec<BlockStats>, Error> {
    let nodes = host.nodes();
    if arguments.query_nodes == Some(true) {
        let all = nodes.iter().map(|node| BlockStats {
            device: None,
            qdev: None,
            node_name: Some(node.name.clone()),
            stats: of_node(&node.stats),
            parent: None,
        });
        return Ok(all.collect());
    }
    let stats = |entry: Entry| {
        let node = nodes.iter().find(|node| node.name == entry.node);
        let node = node.map(|node| node.stats).unwrap_or_default();
        BlockStats {
            device: Some(entry.drive.clone().unwrap_or_default()),
            qdev: entry.qdev(),
            stats: match &entry.device {
                Some(device) => of_device(device, &node),
                None => of_node(&node),
            },
            node_name: Some(entry.node),
            parent: None,
        }
    };
    Ok(entries(host).into_iter().map(stats).collect())
}

/// What is 0 for everybody, and what a node knows.
fn of_node(stats: &lunar_host::BlockStats) -> BlockDeviceStats {
    BlockDeviceStats {
        rd_bytes: stats.read_bytes,
        wr_bytes: stats.written_bytes,
        unmap_bytes: 0,
        rd_operations: stats.reads,
        wr_operations: stats.writes,
        flush_operations: stats.flushes,
        unmap_operations: stats.discards,
        rd_total_time_ns: 0,
        wr_total_time_ns: 0,
        flush_total_time_ns: 0,
        unmap_total_time_ns: 0,
        wr_highest_offset: stats.highest,
        rd_merged: 0,
        wr_merged: 0,
        unmap_merged: 0,
        idle_time_ns: None,
        failed_rd_operations: 0,
        failed_wr_operations: 0,
        failed_flush_operations: 0,
        failed_unmap_operations: 0,
        invalid_rd_operations: 0,
        invalid_wr_operations: 0,
        invalid_flush_operations: 0,
        invalid_unmap_operations: 0,
        account_invalid: true,
        account_failed: true,
        timed_stats: Vec::new(),
        rd_latency_histogram: None,
        wr_latency_histogram: None,
        zap_latency_histogram: None,
        flush_latency_histogram: None,
    }
}

fn of_device(device: &DeviceInfo, node: &lunar_host::BlockStats) -> BlockDeviceStats {
    let Activities {
        reads,
        writes,
        flushes,
        discards,
        idle,
    } = &device.activities;
    let histogram = |of: HistogramOf| {
        let set = device.histograms.iter().find(|set| set.of == of)?;
        Some(BlockLatencyHistogramInfo {
            boundaries: set.boundaries.clone(),
            bins: set.bins.clone(),
        })
    };
    BlockDeviceStats {
        rd_bytes: reads.bytes,
        wr_bytes: writes.bytes,
        unmap_bytes: discards.bytes,
        rd_operations: reads.operations,
        wr_operations: writes.operations,
        flush_operations: flushes.operations,
        unmap_operations: discards.operations,
        rd_total_time_ns: reads.nanoseconds,
        wr_total_time_ns: writes.nanoseconds,
        flush_total_time_ns: flushes.nanoseconds,
        unmap_total_time_ns: discards.nanoseconds,
        idle_time_ns: *idle,
        failed_rd_operations: reads.failed,
        failed_wr_operations: writes.failed,
        failed_flush_operations: flushes.failed,
        failed_unmap_operations: discards.failed,
        invalid_rd_operations: reads.invalid,
        invalid_wr_operations: writes.invalid,
        invalid_flush_operations: flushes.invalid,
        invalid_unmap_operations: discards.invalid,
        rd_latency_histogram: histogram(HistogramOf::Reads),
        wr_latency_histogram: histogram(HistogramOf::Writes),
        zap_latency_histogram: histogram(HistogramOf::ZoneAppends),
        flush_latency_histogram: histogram(HistogramOf::Flushes),
        ..of_node(node)
    }
}

//! Limits of rate, and the objects that have them.

use std::sync::Arc;

use lunar_host::keyval::Options;
use lunar_host::{Host, Limit, Limited, Limits, Throttling};
use serde_json::Value;

use super::device::object_options;
use crate::Error;
use crate::schema::{Empty, qapi};

qapi! {
    /// What something is limited to. 0 is no limit; what says more about a limit is there if that is set.
    struct IoLimits {
        bps: u64,
        bps_rd: u64,
        bps_wr: u64,
        iops: u64,
        iops_rd: u64,
        iops_wr: u64,
        bps_max: Option<u64>,
        bps_rd_max: Option<u64>,
        bps_wr_max: Option<u64>,
        iops_max: Option<u64>,
        iops_rd_max: Option<u64>,
        iops_wr_max: Option<u64>,
        bps_max_length: Option<u64>,
        bps_rd_max_length: Option<u64>,
        bps_wr_max_length: Option<u64>,
        iops_max_length: Option<u64>,
        iops_rd_max_length: Option<u64>,
        iops_wr_max_length: Option<u64>,
        iops_size: Option<u64>,
        group: Option<String>,
    }

    /// A drive (`device`) or a device (`id`), and what it is limited to; without any limit it has none.
    struct BlockIOThrottle {
        ..limits: IoLimits,
        device: Option<String>,
        id: Option<String>,
    }

    /// An object.
    struct ObjectDel {
        id: String,
    }
}

impl IoLimits {
    /// What limits something, if anything does.
    pub fn of(throttling: Option<&Throttling>) -> IoLimits {
        let limits = throttling.map(|found| found.limits).unwrap_or_default();
        let set = |value: u64| (value > 0).then_some(value);
        let length = |limit: Limit| set(limit.burst).map(|_| limit.burst_seconds);
        IoLimits {
            bps: limits.bps_total.average,
            bps_rd: limits.bps_read.average,
            bps_wr: limits.bps_write.average,
            iops: limits.iops_total.average,
            iops_rd: limits.iops_read.average,
            iops_wr: limits.iops_write.average,
            bps_max: set(limits.bps_total.burst),
            bps_rd_max: set(limits.bps_read.burst),
            bps_wr_max: set(limits.bps_write.burst),
            iops_max: set(limits.iops_total.burst),
            iops_rd_max: set(limits.iops_read.burst),
            iops_wr_max: set(limits.iops_write.burst),
            bps_max_length: length(limits.bps_total),
            bps_rd_max_length: length(limits.bps_read),
            bps_wr_max_length: length(limits.bps_write),
            iops_max_length: length(limits.iops_total),
            iops_rd_max_length: length(limits.iops_read),
            iops_wr_max_length: length(limits.iops_write),
            iops_size: set(limits.iops_size),
            group: throttling.map(|throttling| throttling.group.clone()),
        }
    }

    fn limits(&self) -> Limits {
        let limit = |average, burst: Option<u64>, length: Option<u64>| Limit {
            average,
            burst: burst.unwrap_or(0),
            burst_seconds: length.unwrap_or(1),
        };
        Limits {
            iops_total: limit(self.iops, self.iops_max, self.iops_max_length),
            iops_read: limit(self.iops_rd, self.iops_rd_max, self.iops_rd_max_length),
            iops_write: limit(self.iops_wr, self.iops_wr_max, self.iops_wr_max_length),
            bps_total: limit(self.bps, self.bps_max, self.bps_max_length),
            bps_read: limit(self.bps_rd, self.bps_rd_max, self.bps_rd_max_length),
            bps_write: limit(self.bps_wr, self.bps_wr_max, self.bps_wr_max_length),
            iops_size: self.iops_size.unwrap_or(0),
        }
    }
}

/// `block_set_io_throttle`.
pub fn set(host: &Arc<Host>, arguments: BlockIOThrottle) -> Result<Empty, Error> {
    let a = arguments;
    let whose = match (&a.device, &a.id) {
        (Some(drive), None) => Limited::Drive(drive),
        (None, Some(device)) => Limited::Device(device),
        _ => return Err(Error::generic("Need exactly one of 'device' and 'id'")),
    };
    if let Limited::Drive(drive) = whose
        && host.model().drive(drive).is_none()
    {
        return Err(Error::no_device(drive));
    }
    host.set_limits(whose, a.limits.limits(), a.limits.group.as_deref())?;
    Ok(Empty {})
}

/// `object-add`.
pub fn add_object(host: &Arc<Host>, arguments: Value) -> Result<Empty, Error> {
    let options: Options = object_options(arguments)?;
    host.add_object(options)?;
    Ok(Empty {})
}

/// `object-del`.
pub fn remove_object(host: &Arc<Host>, arguments: ObjectDel) -> Result<Empty, Error> {
    let id = arguments.id;
    let is_group = host.throttle_groups().iter().any(|group| group.group == id);
    if !is_group && !host.iothreads().iter().any(|thread| thread.id == id) {
        return Err(Error::generic(format!("object '{id}' not found")));
    }
    host.remove_object(&id)?;
    Ok(Empty {})
}

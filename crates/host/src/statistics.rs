//! What somebody wants to have counted, or to be told of.

use std::sync::Arc;

use lunar_block::{Histogram, Histograms};

use crate::event::{Event, Events};
use crate::live::Live;
use crate::model::{self, Place};

/// The boundaries of latency histograms in nanoseconds, for each kind of operation; `None` leaves that kind as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Boundaries {
    /// Of reads.
    pub reads: Option<Vec<u64>>,
    /// Of writes.
    pub writes: Option<Vec<u64>>,
    /// Of flushes.
    pub flushes: Option<Vec<u64>>,
    /// Of appending to zones.
    pub zone_appends: Option<Vec<u64>>,
}

/// Which histogram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HistogramOf {
    /// That of reads.
    Reads,
    /// That of writes.
    Writes,
    /// That of flushes.
    Flushes,
    /// That of appending to zones.
    ZoneAppends,
}

impl HistogramOf {
    fn name(self) -> &'static str {
        match self {
            HistogramOf::Reads => "read",
            HistogramOf::Writes => "write",
            HistogramOf::Flushes => "flush",
            HistogramOf::ZoneAppends => "append write",
        }
    }
}

/// A histogram that somebody has set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetHistogram {
    /// Of which operations.
    pub of: HistogramOf,
    /// In nanoseconds, ascending.
    pub boundaries: Vec<u64>,
    /// How many operations took less than the first, less than the next, and so on; the last are the rest.
    pub bins: Vec<u64>,
}

pub(crate) fn collect(histograms: &Histograms) -> Vec<SetHistogram> {
    let all = [
        (HistogramOf::Reads, &histograms.reads),
        (HistogramOf::Writes, &histograms.writes),
        (HistogramOf::Flushes, &histograms.flushes),
        (HistogramOf::ZoneAppends, &histograms.zone_appends),
    ];
    let set = all.into_iter().filter_map(|(of, histogram)| {
        let histogram = histogram.as_ref()?;
        Some(SetHistogram {
            of,
            boundaries: histogram.boundaries().to_vec(),
            bins: histogram.bins(),
        })
    });
    set.collect()
}

impl Live {
    /// Sets histograms of a disk, which begin empty, or takes all away.
    pub fn set_histograms(
        &self,
        device: &str,
        boundaries: Option<Boundaries>,
    ) -> Result<(), model::Error> {
        let absent = || model::Error::Absent {
            what: model::Taken::Device,
            name: device.to_owned(),
        };
        let Place::Disk { bus, address } = self.model.device(device)? else {
            return Err(absent());
        };
        let disk = self.model.disk(bus, *address).ok_or_else(absent)?;
        let backend = self.units.backend(&disk.node).ok_or_else(absent)?;
        let Some(wanted) = boundaries else {
            backend.set_histograms(Histograms::default());
            return Ok(());
        };
        let mut histograms = backend.histograms();
        for (of, wanted, histogram) in [
            (HistogramOf::Reads, wanted.reads, &mut histograms.reads),
            (HistogramOf::Writes, wanted.writes, &mut histograms.writes),
            (
                HistogramOf::ZoneAppends,
                wanted.zone_appends,
                &mut histograms.zone_appends,
            ),
            (
                HistogramOf::Flushes,
                wanted.flushes,
                &mut histograms.flushes,
            ),
        ] {
            let Some(wanted) = wanted else { continue };
            let made = Histogram::new(wanted).ok_or_else(|| model::Error::Histogram {
                device: device.to_owned(),
                of: of.name(),
            })?;
            *histogram = Some(Arc::new(made));
        }
        backend.set_histograms(histograms);
        Ok(())
    }

    /// Sets the write threshold of a node, which is told of once; 0 takes it away.
    pub fn set_write_threshold(
        &self,
        node: &str,
        offset: u64,
        events: &Events,
    ) -> Result<(), model::Error> {
        if self.model.node(node).is_none() {
            return Err(model::Error::Absent {
                what: model::Taken::Node,
                name: node.to_owned(),
            });
        }
        let image = self.images.get(node);
        let threshold = image.and_then(|image| image.write_threshold());
        let Some(threshold) = threshold else {
            return Err(model::Error::NoThreshold(node.to_owned()));
        };
        if offset == 0 {
            threshold.clear();
            return Ok(());
        }
        let (name, events) = (node.to_owned(), events.clone());
        threshold.set(offset, move |amount_exceeded, write_threshold| {
            events.publish(Event::BlockWriteThreshold {
                node_name: name,
                amount_exceeded,
                write_threshold,
            });
        });
        Ok(())
    }
}

//! The disk: a direct access block device over an image.

mod alone;
mod background;
mod capacity;
mod config;
mod copy;
mod defects;
mod erase;
mod error;
mod identity;
mod inquiry;
mod lba_status;
mod log;
mod medium;
mod mode;
mod power;
mod prefetch;
mod self_test;
mod settings;
mod thresholds;
mod transfer;
mod tray;
mod unmap;
mod verify;
mod write_same;

use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lunar_block::{Asked, Error as BlockError, Image, OpKind};
use lunar_scsi::log::{Parameter, Values};
use lunar_scsi::mode::{ModePages, Preamble};
use lunar_scsi::table::ReservationClass;
use lunar_scsi::{Cdb, DeviceType, Features, Operation, Profile, Row, Sense};
use lunar_sgl::prefetch::Lines;
use lunar_target::reservation::{RestoreError, Store};
use lunar_target::{
    Command, Completion, Extent, LogicalUnit, LuState, NexusId, Outcome, UnitAttention, Who, spc,
};

pub use config::DiskConfig;
pub use tray::TrayError;

use crate::{ConfigError, OnOffAuto, Sidecar};
use background::Background;
use config::Limits;
use erase::Eraser;
use identity::Identity;
use power::{Power, State};
use thresholds::Told;
use tray::Tray;

/// A disk (`scsi-hd`).
#[derive(Debug)]
pub struct Disk {
    /// Shared with the tasks of commands that take several steps.
    unit: Arc<Unit>,
}

/// Everything about a disk. What each READ and WRITE looks at comes first, in one cache line: with thousands of disks, each
/// of them is in no cache.
#[derive(Debug)]
#[repr(C, align(64))]
struct Unit {
    state: Arc<LuState>,
    /// Logical blocks of the image.
    capacity: AtomicU64,
    limits: Limits,
    profile: Profile,
    power: Power,
    /// WCE of the caching page: completed writes may not be durable until they are flushed.
    write_cache: AtomicBool,
    read_only: bool,
    /// How full the host is can be known, and initiators can have themselves told.
    thresholds: bool,
    identity: Identity,
    config: DiskConfig,
    image: Arc<dyn Image>,
    mode: Mutex<ModePages>,
    tray: Arc<Tray>,
    /// Initiators have not heard of this medium yet.
    fresh: AtomicBool,
    common: Arc<spc::Common>,
    counters: log::Counters,
    background: Background,
    eraser: Eraser,
    /// Where saved mode pages and the like are kept.
    settings: Option<Sidecar>,
    /// Initiators were told of an informational exception that is still there.
    exception_told: AtomicBool,
    /// Which thresholds initiators have been told of.
    told: Told,
    /// What the copy manager remembers.
    copies: copy::Copies,
}

/// What a READ or a WRITE looks at.
const _: () = assert!(std::mem::offset_of!(Unit, thresholds) <= 64);

impl Disk {
    /// A disk with these properties on `image`. Bytes of the image behind the last whole block are not used.
    ///
    /// # Errors
    /// The first property that is not possible, alone or with this image.
    pub fn new(config: DiskConfig, image: Arc<dyn Image>) -> Result<Arc<Disk>, ConfigError> {
        Disk::make(config, image, None)
    }

    /// A disk that is new, or takes the place of one that had another medium.
    fn make(
        config: DiskConfig,
        image: Arc<dyn Image>,
        before: Option<&Unit>,
    ) -> Result<Arc<Disk>, ConfigError> {
        let info = image.info();
        let has_medium = image.has_medium();
        let limits = Limits::check(&config, Some(&info).filter(|_| has_medium))?;
        let identity = Identity::check(&config)?;
        // Whether initiators may use it now, the ports know.
        let mut features = Features::EXPLICIT_ALUA;
        features.set(Features::DPO_FUA, config.dpofua);
        // What a write-protected medium refuses, it refuses for that reason.
        features.set(Features::PROVISIONING, limits.unmap || info.read_only);
        features.set(Features::REMOVABLE, config.removable);
        // An unfinished SANITIZE must not be forgotten, unless everything is forgotten.
        let kept = config.beside.is_some() || info.volatile;
        let erase = limits.unmap && limits.unmapped_reads_zero;
        // What is saved beside an image goes with it, and mode pages are the drive's.
        let saving = config.beside.is_some() && !config.removable;
        features.set(Features::SAVING, saving);
        features.set(Features::SANITIZE, kept);
        features.set(Features::BLOCK_ERASE, kept && erase);
        features.set(Features::ATOMIC_WRITE, limits.max_atomic != 0);
        let write_cache = config.write_cache != OnOffAuto::Off;
        let common = before.map(|before| Arc::clone(&before.common));
        let common = common.unwrap_or_default();
        let thresholds = limits.unmap && !config.removable && image.space().is_some();
        let mut mode = match before {
            Some(before) => lock(&before.mode).clone(),
            None => mode::pages(write_cache, thresholds, saving),
        };
        let beside = config.beside.as_deref().filter(|_| saving);
        let settings = beside.map(|image| settings::sidecar(image, identity.naa));
        if let Some(settings) = &settings {
            settings::restore(settings, &common, &mut mode)?;
        }
        let state = before.map(|before| Arc::clone(&before.state));
        let state = state.unwrap_or_default();
        state.follow(&mode);
        let eraser = Eraser::find(config.beside.as_deref())?;
        let power = match (before, has_medium) {
            (Some(_), true) => Power::new(State::Ejected, State::Running),
            (Some(_), false) => Power::new(State::Ejected, State::Empty),
            (None, true) => Power::new(eraser.state(), State::Running),
            (None, false) => Power::new(State::Empty, State::Empty),
        };
        let unit = Unit {
            state,
            profile: Profile::new(DeviceType::Disk).with(features),
            limits,
            thresholds,
            identity,
            read_only: info.read_only,
            capacity: AtomicU64::new(info.size >> limits.block_shift),
            write_cache: AtomicBool::new(mode.write_cache_enabled()),
            mode: Mutex::new(mode),
            power,
            tray: before
                .map(|before| Arc::clone(&before.tray))
                .unwrap_or_default(),
            fresh: AtomicBool::new(before.is_some()),
            common,
            counters: log::Counters::default(),
            background: Background::default(),
            eraser,
            settings,
            exception_told: AtomicBool::new(false),
            told: Told::default(),
            copies: copy::Copies::default(),
            config,
            image,
        };
        unit.describe_in_mode_pages();
        let unit = Arc::new(unit);
        if !unit.thresholds_in_force().is_empty() {
            thresholds::watch(&unit);
        }
        Ok(Arc::new(Disk { unit }))
    }

    /// Restores the persistent reservations that are kept in the file at `path`, and keeps them there from now on.
    ///
    /// # Errors
    /// What was kept is damaged, or another disk's.
    pub fn keep_reservations(&self, path: PathBuf) -> Result<(), RestoreError> {
        let owner = self.unit.identity.naa.to_be_bytes();
        let store = Reservations(Sidecar::new(path, &owner));
        self.unit.state.keep_reservations(Box::new(store))
    }

    /// The image may have another size now: every nexus hears of a change (2A/09). Returns whether there was one.
    pub fn refresh_capacity(&self) -> bool {
        let unit = &self.unit;
        let blocks = unit.image.info().size >> unit.limits.block_shift;
        self.set_capacity(blocks)
    }

    /// The image is about to be cut to this many bytes: commands beyond them are refused from now on, and every nexus
    /// hears of it. Those that are under way go on.
    pub fn limit_capacity(&self, bytes: u64) {
        let unit = &self.unit;
        self.set_capacity(unit.capacity().min(bytes >> unit.limits.block_shift));
    }

    /// Whether something is going on that no command waits for.
    pub fn is_in_background(&self) -> bool {
        self.unit.background.is_running()
    }

    fn set_capacity(&self, blocks: u64) -> bool {
        let unit = &self.unit;
        let changed = unit.capacity.swap(blocks, Ordering::Relaxed) != blocks;
        if changed {
            unit.describe_in_mode_pages();
            unit.state.raise(Who::All, UnitAttention::CapacityChanged);
        }
        changed
    }
}

fn lock(mode: &Mutex<ModePages>) -> MutexGuard<'_, ModePages> {
    mode.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The sidecar that keeps persistent reservations.
struct Reservations(Sidecar);

impl Store for Reservations {
    fn save(&self, record: &[u8]) -> io::Result<()> {
        self.0.store(record).map_err(io::Error::other)
    }

    fn load(&self) -> io::Result<Option<Vec<u8>>> {
        self.0.load().map_err(io::Error::other)
    }
}

impl LogicalUnit for Disk {
    fn state(&self) -> &Arc<LuState> {
        &self.unit.state
    }

    #[inline]
    fn profile(&self) -> Profile {
        self.unit.profile
    }

    fn execute(&self, row: &'static Row, command: &mut Command<'_>) -> Outcome {
        if self.unit.power.is_restricted()
            && let Err(sense) = self.unit.admit(row, command)
        {
            return Outcome::check(sense);
        }
        let outcome = match row.operation {
            Operation::Read => transfer::read(&self.unit, command),
            Operation::Write => transfer::write(&self.unit, command),
            Operation::Verify => verify::verify(&self.unit, command),
            Operation::WriteAndVerify => verify::write_and_verify(&self.unit, command),
            Operation::CompareAndWrite => alone::compare_and_write(&self.unit, command),
            Operation::OrWrite => alone::or_write(&self.unit, command),
            Operation::WriteAtomic => alone::write_atomic(&self.unit, command),
            Operation::PreFetch => prefetch::prefetch(&self.unit, command),
            Operation::SynchronizeCache => transfer::synchronize(&self.unit, command),
            Operation::Unmap => unmap::unmap(&self.unit, command),
            Operation::WriteSame => write_same::write_same(&self.unit, command),
            Operation::ReadCapacity10 => capacity::read_capacity_10(&self.unit, command),
            Operation::ReadCapacity16 => capacity::read_capacity_16(&self.unit, command),
            Operation::ReadDefectData10 => defects::read_defect_data_10(&self.unit, command),
            Operation::ReadDefectData12 => defects::read_defect_data_12(&self.unit, command),
            Operation::ExtendedCopy => copy::extended_copy(&self.unit, command),
            Operation::ReceiveCopyStatus => copy::receive_copy_status(&self.unit, command),
            Operation::ReceiveCopyParameters => Ok(copy::receive_copy_parameters(command)),
            Operation::GetLbaStatus => lba_status::get_lba_status(&self.unit, command),
            Operation::StartStopUnit => power::start_stop(&self.unit, command),
            Operation::FormatUnit => erase::format(&self.unit, command),
            Operation::Sanitize => erase::sanitize(&self.unit, command),
            Operation::PreventAllowMediumRemoval => power::prevent_allow(&self.unit, command),
            Operation::LogSense if thresholds::is_asked_for(&self.unit, command) => {
                thresholds::log_sense(&self.unit, command)
            }
            _ => Ok(spc::execute(self, row, command)),
        };
        outcome.unwrap_or_else(Outcome::check)
    }

    fn extent(&self, row: &'static Row, cdb: Cdb<'_>) -> Extent {
        match row.operation {
            Operation::Read
            | Operation::Write
            | Operation::Verify
            | Operation::WriteAndVerify
            | Operation::CompareAndWrite
            | Operation::OrWrite
            | Operation::WriteAtomic => {
                let shift = self.unit.limits.block_shift;
                let end = cdb.lba().saturating_add(u64::from(cdb.transfer_length()));
                // Inside the medium neither shift can lose a bit.
                (end <= self.unit.capacity()).then(|| cdb.lba() << shift..end << shift)
            }
            Operation::TestUnitReady
            | Operation::ReadCapacity10
            | Operation::ReadCapacity16
            | Operation::ModeSense6
            | Operation::ModeSense10
            | Operation::PreFetch
            | Operation::GetLbaStatus
            | Operation::ReadDefectData10
            | Operation::ReadDefectData12
            | Operation::SynchronizeCache
            // Who fences others off must not stand in line behind what they have queued up.
            | Operation::PersistentReserveIn
            | Operation::PersistentReserveOut
            | Operation::Reserve
            | Operation::Release
            // Nor must who looks for another path.
            | Operation::ReportTargetPortGroups
            | Operation::SetTargetPortGroups => Some(0..0),
            _ => None,
        }
    }

    fn finish(&self, asked: &Asked, result: Result<(), BlockError>) -> Completion {
        match result {
            Ok(()) => match asked.kind {
                OpKind::Read | OpKind::Write { .. } => {
                    // It is the length of a buffer.
                    Completion::good(usize::try_from(asked.len).unwrap_or(usize::MAX))
                }
                OpKind::Flush | OpKind::Discard | OpKind::WriteZeroes { .. } => Completion::good(0),
            },
            Err(BlockError::Cancelled) => Completion::busy(),
            Err(error) => Completion::check(self.unit.sense(&error, asked.kind, asked.offset)),
        }
    }

    fn reset(&self) {
        // Active, as after power on (SPC-4 5.12), whoever has stopped it: the reset is everybody's, and all hear of it.
        self.unit.reset_power();
        self.unit.copies.forget(None);
        self.unit.state.reset();
        self.unit.reset_mode_pages();
        if !self.unit.thresholds_in_force().is_empty() {
            thresholds::watch(&self.unit);
        }
    }

    fn nexus_loss(&self, nexus: NexusId) {
        // A guest that starts anew finds its disk running. One that is shared is what somebody wants it to be.
        if !self.unit.state.is_shared() {
            self.unit.reset_power();
        }
        self.unit.copies.forget(Some(nexus));
        self.unit.state.nexus_loss(nexus);
    }

    fn lines(&self, lines: &mut Lines) {
        lines.add(self);
        lines.add_first(&*self.unit);
        self.unit.state.lines(lines);
    }

    fn detached(&self) {
        if !self.unit.state.has_nexus() {
            self.unit.image.end_waits();
            self.unit.background.stop();
        }
    }

    fn image(&self) -> Option<Arc<dyn Image>> {
        Some(Arc::clone(&self.unit.image))
    }
}

impl spc::Primary for Disk {
    fn inquiry(&self, data: &mut Vec<u8>) {
        self.unit.standard_inquiry(data);
    }

    fn vpd_pages(&self) -> &'static [u8] {
        inquiry::PAGES
    }

    fn vpd(&self, page: u8, data: &mut Vec<u8>) {
        self.unit.vpd_page(page, data);
    }

    fn ready(&self) -> Result<(), Sense> {
        self.unit.power.test()
    }

    fn condition(&self) -> Sense {
        self.unit.condition()
    }

    fn mode_pages(&self) -> &Mutex<ModePages> {
        &self.unit.mode
    }

    fn mode_preamble(&self) -> Preamble {
        self.unit.mode_preamble()
    }

    fn mode_changed(
        &self,
        pages: &ModePages,
        command: &Command<'_>,
        transferred: usize,
    ) -> Result<Outcome, Sense> {
        mode::changed(&self.unit, pages, command, transferred)
    }

    fn common(&self) -> &spc::Common {
        &self.unit.common
    }

    fn log_pages(&self) -> &'static [(u8, u8)] {
        self.unit.log_pages()
    }

    fn log_page(&self, key: (u8, u8), values: Values) -> Vec<Parameter> {
        self.unit.log_page(key, values)
    }

    fn reset_log(&self, key: (u8, u8)) {
        self.unit.reset_log(key);
    }

    fn self_test(&self, test: spc::SelfTest, command: &Command<'_>) -> Result<Outcome, Sense> {
        self_test::run(&self.unit, test, command)
    }

    fn abort_self_test(&self) -> bool {
        let testing = self.unit.common.self_tests.is_running();
        if testing {
            self.unit.background.ask_to_stop();
        }
        testing
    }

    fn keep_settings(&self) -> spc::Stored {
        settings::keep_with_pages(&self.unit)
    }
}

impl Unit {
    /// Logical blocks.
    #[inline]
    fn capacity(&self) -> u64 {
        self.capacity.load(Ordering::Relaxed)
    }

    /// WCE.
    #[inline]
    fn write_cache(&self) -> bool {
        self.write_cache.load(Ordering::Relaxed)
    }

    /// Whether the initiator must not change the medium.
    #[inline]
    fn write_protected(&self) -> bool {
        self.read_only || self.state.software_write_protect()
    }

    /// Whether a command may be run while an operation has the medium, or after it has failed (SC-070): those that say
    /// how things are, and SANITIZE, which knows itself.
    ///
    /// # Errors
    /// Why not.
    #[cold]
    fn admit(self: &Arc<Unit>, row: &Row, command: &Command<'_>) -> Result<(), Sense> {
        erase::resume(self, command);
        match row.operation {
            Operation::ReportSupportedOperationCodes
            | Operation::ModeSense6
            | Operation::ModeSense10 => Ok(()),
            Operation::Sanitize | Operation::FormatUnit if !self.background.is_running() => Ok(()),
            _ if row.reservation == ReservationClass::Always => Ok(()),
            _ => self.power.test(),
        }
    }

    /// # Errors
    /// 7/27/00
    #[inline]
    fn writable(&self) -> Result<(), Sense> {
        if self.write_protected() {
            return Err(error::write_protected());
        }
        Ok(())
    }
}

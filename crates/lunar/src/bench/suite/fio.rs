//! `fio` on the file itself: what can be had without any machine around it.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde_json::Value;

use super::Suite;
use super::case::Case;
use super::contestant::RAMP;
use super::figures::Sample;
use super::pinning::{Processors, stay_on};
use crate::bench::args::Rw;
use crate::bench::{cpu, report};

/// How fio does I/O.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    Psync,
    Libaio,
    IoUring,
}

impl Engine {
    pub const ALL: [Engine; 3] = [Engine::Psync, Engine::Libaio, Engine::IoUring];

    pub fn name(self) -> &'static str {
        match self {
            Engine::Psync => "psync",
            Engine::Libaio => "libaio",
            Engine::IoUring => "io_uring",
        }
    }
}

/// One job on one processor.
pub fn measure(
    engine: Engine,
    case: &Case,
    image: &Path,
    options: &Suite,
    processors: &Processors,
) -> anyhow::Result<Sample> {
    stay_on(processors.server)?;
    let mut command = Command::new("fio");
    command.arg("--name=limit").arg("--output-format=json");
    command.args([
        "--thread",
        "--time_based",
        "--norandommap",
        "--randrepeat=0",
    ]);
    for (name, value) in [
        ("filename", image.display().to_string()),
        ("size", format!("{}M", options.size)),
        ("rw", report::name(case.rw).to_owned()),
        ("bs", case.bs.to_string()),
        ("iodepth", case.depth.to_string()),
        ("ioengine", engine.name().to_owned()),
        ("direct", u8::from(case.image.is_direct()).to_string()),
        ("runtime", format!("{}ms", options.runtime.as_millis())),
        ("ramp_time", format!("{}ms", RAMP.as_millis())),
    ] {
        command.arg(format!("--{name}={value}"));
    }
    command.stdin(Stdio::null());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let start = Instant::now();
    let child = command.spawn().context("fio")?;
    let busy = busy(&child, start, options.runtime);
    let output = child.wait_with_output().context("fio")?;
    if !output.status.success() {
        bail!("fio: {}", String::from_utf8_lossy(&output.stderr));
    }
    let said = String::from_utf8_lossy(&output.stdout);
    // It may say something for people first.
    let said = said.find('{').and_then(|at| said.get(at..));
    let said: Value = serde_json::from_str(said.unwrap_or_default()).context("what fio says")?;
    read(&said, case.rw, busy).context("what fio says has another form")
}

/// How much of a processor fio uses while it is at work: what it says itself is without the threads that the kernel makes
/// for its io_uring.
fn busy(fio: &Child, start: Instant, runtime: Duration) -> Option<f64> {
    let process = i32::try_from(fio.id()).ok()?;
    let used_at = |moment: Duration| {
        std::thread::sleep((start + RAMP + moment).saturating_duration_since(Instant::now()));
        Some((Instant::now(), cpu::used(process)?))
    };
    let (from, before) = used_at(runtime / 3)?;
    let (to, after) = used_at(runtime)?;
    let used = after.checked_sub(before)?.as_secs_f64();
    Some(used / (to - from).as_secs_f64())
}

fn read(said: &Value, rw: Rw, busy: Option<f64>) -> Option<Sample> {
    let job = said.get("jobs")?.get(0)?;
    let side = match rw {
        Rw::Randread | Rw::Read => job.get("read")?,
        _ => job.get("write")?,
    };
    let number = |value: &Value, name: &str| value.get(name)?.as_f64();
    let iops = number(side, "iops")?;
    let percentile = |name: &str| number(side.get("clat_ns")?.get("percentile")?, name);
    Some(Sample {
        iops,
        p50_us: percentile("50.000000")? / 1000.0,
        p99_us: percentile("99.000000")? / 1000.0,
        cpu_us: busy.filter(|_| iops > 0.0).map(|busy| busy * 1e6 / iops),
        kicks: None,
        interrupts: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_found_in_what_fio_says() {
        let said = serde_json::json!({"jobs": [{
            "read": {"iops": 1000.0, "clat_ns": {"percentile": {"50.000000": 8000, "99.000000": 9000}}},
            "write": {"iops": 0.0, "clat_ns": {}},
        }]});
        let sample = read(&said, Rw::Randread, Some(0.5)).unwrap();
        assert_eq!(
            (sample.iops, sample.p50_us, sample.p99_us),
            (1000.0, 8.0, 9.0)
        );
        assert_eq!(sample.cpu_us, Some(500.0));
        assert!(read(&said, Rw::Write, None).is_none());
    }
}

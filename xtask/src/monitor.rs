//! What a test says to a running server or machine: QMP, which Lunar and QEMU both speak.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

/// How long an answer or an event may take; generous, because the machine may be busy and the guest is emulated.
const PATIENCE: Duration = Duration::from_secs(60);

/// A connection to a monitor.
pub struct Monitor {
    stream: BufReader<UnixStream>,
    /// What has happened and nobody has asked for yet.
    events: VecDeque<Value>,
}

impl Monitor {
    /// Connects to the monitor behind a socket.
    pub fn connect(path: &Path) -> Result<Self> {
        let stream =
            UnixStream::connect(path).with_context(|| format!("monitor {}", path.display()))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut monitor = Self {
            stream: BufReader::new(stream),
            events: VecDeque::new(),
        };
        // The greeting.
        monitor.receive()?;
        monitor.execute("qmp_capabilities", json!({}))?;
        Ok(monitor)
    }

    /// Gives an order, which must succeed, and returns the answer.
    pub fn execute(&mut self, command: &str, arguments: Value) -> Result<Value> {
        let order = json!({ "execute": command, "arguments": arguments });
        let stream = self.stream.get_mut();
        stream.write_all(format!("{order}\n").as_bytes())?;
        loop {
            let mut message = self.receive().with_context(|| order.to_string())?;
            if let Some(answer) = message.get_mut("return") {
                return Ok(answer.take());
            }
            match message.get("error") {
                Some(error) => bail!("{order}: {error}"),
                None => self.events.push_back(message),
            }
        }
    }

    /// Adds a device from its properties in the notation of the command line.
    pub fn device_add(&mut self, properties: &str) -> Result<()> {
        let mut arguments = serde_json::Map::new();
        let (driver, rest) = properties.split_once(',').unwrap_or((properties, ""));
        arguments.insert("driver".to_owned(), driver.into());
        for property in rest.split(',').filter(|property| !property.is_empty()) {
            let (name, value) = property.split_once('=').context("a property has a value")?;
            arguments.insert(name.to_owned(), value.into());
        }
        self.execute("device_add", Value::Object(arguments))?;
        Ok(())
    }

    /// Removes a device, and waits until it is gone.
    pub fn device_del(&mut self, id: &str) -> Result<()> {
        self.execute("device_del", json!({ "id": id }))?;
        self.wait_for("DEVICE_DELETED", "device", id)
    }

    /// Waits for an event, forgets what came before, and returns what the event says.
    pub fn event(&mut self, event: &str) -> Result<Value> {
        self.find(event, |_| true)
    }

    /// Waits for an event whose member has this value, and forgets what came before.
    pub fn wait_for(&mut self, event: &str, member: &str, value: &str) -> Result<()> {
        self.find(event, |data| {
            data.get(member).is_some_and(|found| found == value)
        })
        .with_context(|| value.to_owned())?;
        Ok(())
    }

    fn find(&mut self, event: &str, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            let mut message = match self.events.pop_front() {
                Some(message) => message,
                None => self.receive().with_context(|| event.to_owned())?,
            };
            let named = message.get("event").is_some_and(|name| name == event);
            let data = message.get_mut("data").map(Value::take).unwrap_or_default();
            if named && wanted(&data) {
                return Ok(data);
            }
        }
        bail!("no event {event} in {PATIENCE:?}")
    }

    fn receive(&mut self) -> Result<Value> {
        let mut line = String::new();
        if self.stream.read_line(&mut line)? == 0 {
            bail!("the monitor has hung up");
        }
        Ok(serde_json::from_str(&line)?)
    }
}

//! `--monitor`: where a running server takes commands.

use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;

use anyhow::{Context, bail};
use lunar_host::Host;
use lunar_host::keyval::{Options, Syntax, Value, escape};
use lunar_monitor::{Endpoint, Running, Server, forward, table, version};

use crate::{runtime, warn};

/// Where a monitor is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// Nowhere: not even where clients look for servers.
    None,
    /// A socket that we make.
    Unix(PathBuf),
    /// Standard input and output.
    Stdio,
}

impl Place {
    /// The option's value that says the same from any directory.
    pub fn absolute(&self) -> String {
        match self {
            Place::None => "none".to_owned(),
            Place::Unix(path) => {
                let absolute = std::path::absolute(path);
                let path = absolute.as_ref().unwrap_or(path);
                format!("unix:{}", escape(&path.to_string_lossy()))
            }
            Place::Stdio => "stdio".to_owned(),
        }
    }
}

/// `unix:PATH`, with what QEMU users have to add to it.
const UNIX: Syntax = Syntax {
    implied: Some("path"),
    switches: true,
    json: false,
};

/// Reads the option's value.
pub fn place(text: &str) -> Result<Place, String> {
    let rest = match text {
        "none" => return Ok(Place::None),
        "stdio" => return Ok(Place::Stdio),
        _ => text
            .strip_prefix("unix:")
            .ok_or("must be unix:PATH, stdio or none")?,
    };
    let options = Options::parse(rest, UNIX).map_err(|error| error.to_string())?;
    let mut path = None;
    for (name, value) in options.iter() {
        match (name, value) {
            ("path", Value::Text(text)) if !text.is_empty() => path = Some(PathBuf::from(text)),
            ("server", Value::Bare) | ("nowait", Value::Bare) => {}
            ("server", Value::Text(text)) if text == "on" => {}
            ("wait", Value::Text(text)) if text == "off" => {}
            ("server", _) => return Err("a monitor listens: it must be server=on".to_owned()),
            ("wait", _) => {
                return Err("the server does not wait for a client: it must be wait=off".to_owned());
            }
            (name, _) => return Err(format!("{name:?} is not known here")),
        }
    }
    path.map(Place::Unix)
        .ok_or_else(|| "the path is missing: unix:PATH".to_owned())
}

/// The monitors of a server, bound and not yet served.
#[derive(Debug)]
pub struct Monitors {
    endpoints: Vec<Endpoint>,
    on_stdout: bool,
}

impl Monitors {
    /// Takes all places, and the one where clients look.
    pub fn bind(places: &[Place]) -> anyhow::Result<Monitors> {
        let mut monitors = Monitors {
            endpoints: Vec::new(),
            on_stdout: false,
        };
        if !places.contains(&Place::None) {
            match runtime::bind() {
                Ok(endpoint) => monitors.endpoints.extend(endpoint),
                Err(error) => warn(&format!(
                    "clients will not find this server by themselves: {error:#}"
                )),
            }
        }
        for place in places {
            let endpoint = match place {
                Place::None => continue,
                Place::Unix(path) => Endpoint::bind(path).context("--monitor")?,
                Place::Stdio if monitors.on_stdout => {
                    bail!("--monitor stdio: only one monitor can be there");
                }
                Place::Stdio => {
                    monitors.on_stdout = true;
                    Endpoint::stdio().context("--monitor stdio")?
                }
            };
            monitors.endpoints.push(endpoint);
        }
        Ok(monitors)
    }

    /// Serves them.
    pub fn start(self, host: &Arc<Host>) -> anyhow::Result<RunningMonitors> {
        let mut running = RunningMonitors {
            on_stdout: self.on_stdout,
            served: None,
        };
        if !self.endpoints.is_empty() {
            let server = Server::new(table(), Arc::clone(host), version(), self.endpoints);
            let server = server.context("cannot start the monitor")?;
            let events = forward(host.events(), server.notifier());
            let events = events.context("cannot start the monitor")?;
            let server = server.start().context("cannot start the monitor")?;
            running.served = Some((events, server));
        }
        Ok(running)
    }
}

/// Monitors at work.
#[derive(Debug)]
pub struct RunningMonitors {
    on_stdout: bool,
    served: Option<(JoinHandle<()>, Running)>,
}

impl RunningMonitors {
    /// Standard output speaks QMP: nothing else must be written there.
    pub fn is_on_stdout(&self) -> bool {
        self.on_stdout
    }

    /// Ends them, when the host has ended: after the last event has been told.
    pub fn stop(self) {
        if let Some((events, server)) = self.served {
            // It ends with the host's events; if it has panicked, there are none.
            let _ = events.join();
            server.stop();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_read_as_qemu_users_write_them() {
        let unix = |path: &str| Ok(Place::Unix(path.into()));
        assert_eq!(place("stdio"), Ok(Place::Stdio));
        assert_eq!(place("none"), Ok(Place::None));
        assert_eq!(place("unix:/run/x"), unix("/run/x"));
        assert_eq!(place("unix:/a,,b,server=on,wait=off"), unix("/a,b"));
        assert_eq!(place("unix:/run/x,server,nowait"), unix("/run/x"));
        for (text, message) in [
            ("tcp:localhost:4444", "must be unix:PATH, stdio or none"),
            ("unix:", "the path is missing: unix:PATH"),
            (
                "unix:/x,server=off",
                "a monitor listens: it must be server=on",
            ),
            (
                "unix:/x,wait=on",
                "the server does not wait for a client: it must be wait=off",
            ),
            ("unix:/x,mode=control", "\"mode\" is not known here"),
        ] {
            assert_eq!(place(text), Err(message.to_owned()));
        }
    }
}

//! From the command line's declarations to a [`Model`], or to the help text that one of them asks for.

use lunar_host::catalog::{self, DeviceKind};
use lunar_host::keyval::{BLOCKDEV, DEVICE, DRIVE, Options, Syntax};
use lunar_host::model::{self, Model, Socket};
use lunar_host::property;

use crate::args::Serve;

/// A command line that cannot be carried out: the option, its value, and what is wrong with it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A declaration is refused.
    #[error("{origin}")]
    Declaration {
        /// The option as written.
        origin: String,
        /// Why.
        #[source]
        error: model::Error,
    },
    /// The sockets do not suit the controllers.
    #[error(transparent)]
    Socket(#[from] model::Error),
    /// More than one controller waits for the one socket of the command line.
    #[error(
        "{option} is for one controller, but {first} and {second} have no socket of their own; give socket=PATH in their --device"
    )]
    OneSocket {
        /// `--socket-path` or `--fd`.
        option: &'static str,
        /// A controller.
        first: String,
        /// Another.
        second: String,
    },
    /// The command line has a socket that no controller needs.
    #[error("{option} is not needed: every controller has its own socket=")]
    SpareSocket {
        /// `--socket-path` or `--fd`.
        option: &'static str,
    },
}

/// An option's declarations: how they are spelled, read, and taken.
struct Kind {
    option: &'static str,
    syntax: Syntax,
}
const DRIVES: Kind = Kind {
    option: "--drive",
    syntax: DRIVE,
};
const BLOCKDEVS: Kind = Kind {
    option: "--blockdev",
    syntax: BLOCKDEV,
};
const DEVICES: Kind = Kind {
    option: "--device",
    syntax: DEVICE,
};

impl Kind {
    fn origin(&self, text: &str) -> String {
        format!("{} {text}", self.option)
    }

    fn parse(&self, text: &str) -> Result<(Options, String), Error> {
        let origin = self.origin(text);
        match Options::parse(text, self.syntax) {
            Ok(options) => Ok((options, origin)),
            Err(error) => Err(Error::Declaration {
                origin,
                error: error.into(),
            }),
        }
    }
}

/// The help text that a declaration asks for, if one does.
pub fn help(serve: &Serve) -> Result<Option<String>, Error> {
    let all = [
        (&DRIVES, &serve.drive),
        (&BLOCKDEVS, &serve.blockdev),
        (&DEVICES, &serve.device),
    ];
    for (kind, texts) in all {
        for text in texts {
            let (mut options, origin) = kind.parse(text)?;
            if !options.wants_help() {
                continue;
            }
            let driver = options
                .take("driver")
                .filter(|driver| !matches!(&**driver, "help" | "?"));
            let refused = |error| Error::Declaration { origin, error };
            return match (kind.option, driver) {
                ("--drive", _) => Ok(property::help("--drive", catalog::DRIVE)),
                ("--blockdev", None) => Ok(block_drivers()),
                ("--blockdev", Some(name)) => model::block_driver(&name)
                    .map(|driver| property::help(driver.name, &driver.tables()))
                    .map_err(refused),
                (_, None) => Ok(devices()),
                (_, Some(name)) => model::device(&name).map(device_help).map_err(refused),
            }
            .map(Some);
        }
    }
    Ok(None)
}

fn device_help(device: &catalog::Device) -> String {
    match device.kind {
        DeviceKind::Controller => property::help(device.name, &[catalog::CONTROLLER]),
        DeviceKind::Disk => property::help(device.name, &[catalog::DISK]),
    }
}

/// In the form of `qemu -device help`.
fn devices() -> String {
    let line = |device: &catalog::Device| {
        format!(
            "name {:?}, bus {}, alias {:?}, desc {:?}\n",
            device.name, device.bus, device.alias, device.description
        )
    };
    catalog::DEVICES.iter().map(line).collect()
}

fn block_drivers() -> String {
    let line = |driver: &catalog::BlockDriver| {
        format!("name {:?}, desc {:?}\n", driver.name, driver.description)
    };
    catalog::BLOCK_DRIVERS.iter().map(line).collect()
}

/// Everything that the command line declares: nodes, drives, controllers, images, other devices, in this order, and
/// within each in the order written.
pub fn model(serve: &Serve) -> Result<Model, Error> {
    let mut model = Model::default();
    let refused = |origin: String| move |error| Error::Declaration { origin, error };
    for text in &serve.blockdev {
        let (options, origin) = BLOCKDEVS.parse(text)?;
        model
            .add_blockdev(options, &origin)
            .map_err(refused(origin))?;
    }
    for text in &serve.drive {
        let (options, origin) = DRIVES.parse(text)?;
        model.add_drive(options, &origin).map_err(refused(origin))?;
    }
    let mut others = Vec::new();
    for text in &serve.device {
        let (options, origin) = DEVICES.parse(text)?;
        if is_controller(&options) {
            model
                .add_device(options, &origin)
                .map_err(refused(origin))?;
        } else {
            others.push((options, origin));
        }
    }
    if model.controllers().is_empty() {
        let refused = refused("the implied controller".to_owned());
        model.add_implied_controller().map_err(refused)?;
    }
    for (target, path) in serve.images.iter().enumerate() {
        model
            .add_image(path, target)
            .map_err(refused(path.clone()))?;
    }
    for (options, origin) in others {
        model
            .add_device(options, &origin)
            .map_err(refused(origin))?;
    }
    model
        .add_automatic_disks()
        .map_err(|(origin, error)| Error::Declaration { origin, error })?;
    give_socket(serve, &mut model)?;
    Ok(model)
}

/// Controllers first: a disk may be written before the controller it is on.
fn is_controller(options: &Options) -> bool {
    let driver = options
        .get("driver")
        .and_then(|name| model::device(name).ok());
    driver.is_some_and(|device| device.kind == DeviceKind::Controller)
}

/// Gives the command line's socket to the controller that has none of its own.
fn give_socket(serve: &Serve, model: &mut Model) -> Result<(), Error> {
    let (option, socket) = match (&serve.socket_path, serve.fd) {
        (_, Some(fd)) => ("--fd", Some(Socket::Fd(fd))),
        (Some(path), None) => ("--socket-path", Some(Socket::Path(path.clone()))),
        (None, None) => ("--socket-path", None),
    };
    let controllers = model.controllers().iter();
    let mut waiting = controllers.filter(|controller| controller.socket.is_none());
    match (socket, waiting.next(), waiting.next()) {
        (None, None, _) => Ok(()),
        (Some(_), None, _) => Err(Error::SpareSocket { option }),
        (None, Some(first), _) => Err(model::Error::NoSocket(first.name().to_owned()).into()),
        (Some(_), Some(first), Some(second)) => Err(Error::OneSocket {
            option,
            first: first.name().to_owned(),
            second: second.name().to_owned(),
        }),
        (Some(socket), Some(only), None) => {
            let bus = only.bus.clone();
            Ok(model.set_socket(&bus, socket)?)
        }
    }
}

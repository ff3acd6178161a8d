//! From the declarations of the command line and of a configuration file to a [`Model`], or to the help text that one of
//! them asks for.

use std::path::{Path, PathBuf};

use clap::ValueEnum;
use lunar_host::catalog::{self, DeviceKind};
use lunar_host::file::{self, Declaration, File, Settings};
use lunar_host::keyval::{BLOCKDEV, DEVICE, DRIVE, OBJECT, Options, Syntax};
use lunar_host::model::{self, Model, Socket};
use lunar_host::property;
use tracing_subscriber::EnvFilter;

use crate::args::Serve;
use crate::log;
use crate::metrics::Address;
use crate::monitors::{self, Place};

/// A command line or configuration file that cannot be carried out: where, and what is wrong there.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration file cannot be read.
    #[error("{}", .path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Something in the configuration file is refused.
    #[error(transparent)]
    File(#[from] file::Error),
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
const OBJECTS: Kind = Kind {
    option: "--object",
    syntax: OBJECT,
};
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
        (&OBJECTS, &serve.object),
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
            let key = kind.syntax.implied.unwrap_or("driver");
            let driver = options
                .take(key)
                .filter(|driver| !matches!(&**driver, "help" | "?"));
            let refused = |error| Error::Declaration { origin, error };
            return match (kind.option, driver) {
                ("--object", None) => Ok(objects()),
                ("--object", Some(name)) => model::object(&name)
                    .map(catalog::Object::help)
                    .map_err(refused),
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
        DeviceKind::Controller => property::help(device.name, catalog::CONTROLLER),
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

fn objects() -> String {
    let line = |object: &catalog::Object| {
        format!("name {:?}, desc {:?}\n", object.name, object.description)
    };
    catalog::OBJECTS.iter().map(line).collect()
}

fn block_drivers() -> String {
    let line = |driver: &catalog::BlockDriver| {
        format!("name {:?}, desc {:?}\n", driver.name, driver.description)
    };
    catalog::BLOCK_DRIVERS.iter().map(line).collect()
}

/// Reads a configuration file.
pub fn file(path: &Path) -> Result<File, Error> {
    let text = std::fs::read_to_string(path).map_err(|source| Error::Unreadable {
        path: path.to_owned(),
        source,
    })?;
    Ok(File::parse(&path.display().to_string(), text)?)
}

/// What holds for the whole server: by the command line, where it says something, else by the file. What there can be
/// several of, adds up.
pub fn settings(serve: &Serve, file: Option<&File>) -> Settings {
    let mut settings = file.map_or_else(Settings::default, |file| file.settings().clone());
    if serve.socket_path.is_some() || serve.fd.is_some() {
        settings.socket_path.clone_from(&serve.socket_path);
    }
    settings.images.extend(serve.images.iter().cloned());
    settings.queues = serve.queues.or(settings.queues);
    settings.workers = serve.workers.clone().or(settings.workers);
    settings.poll_us = serve.poll_us.or(settings.poll_us);
    let metrics = serve.metrics.as_ref().map(ToString::to_string);
    settings.metrics = metrics.or(settings.metrics);
    let machine = serve.qemu_monitor.clone();
    let machine = machine.or_else(|| settings.qemu_monitor.as_deref().map(PathBuf::from));
    settings.qemu_monitor = machine.map(|path| {
        let path = std::path::absolute(&path).unwrap_or(path);
        path.to_string_lossy().into_owned()
    });
    settings.log = serve.log.clone().or(settings.log);
    let format = serve
        .log_format
        .and_then(|format| format.to_possible_value());
    let format = format.map(|value| value.get_name().to_owned());
    settings.log_format = format.or(settings.log_format);
    settings
}

/// Where commands are taken.
pub fn monitors(serve: &Serve, file: Option<&File>) -> Result<Vec<Place>, Error> {
    let mut places = Vec::new();
    for (file, text) in file.iter().flat_map(|file| {
        let texts = file.settings().monitor.iter();
        texts.map(move |text| (file, text))
    }) {
        let place = monitors::place(text);
        places.push(place.map_err(|error| file.refuse_setting("monitor", text, &error))?);
    }
    places.extend(serve.monitor.iter().cloned());
    Ok(places)
}

/// Where metrics are given.
pub fn metrics(serve: &Serve, file: Option<&File>) -> Result<Option<Address>, Error> {
    let written = file.and_then(|file| Some((file, file.settings().metrics.as_ref()?)));
    let Some((file, text)) = written.filter(|_| serve.metrics.is_none()) else {
        return Ok(serve.metrics);
    };
    let address = text.parse::<Address>();
    let address = address.map_err(|error| file.refuse_setting("metrics", text, error))?;
    Ok(Some(address))
}

/// What is logged.
pub fn log(serve: &Serve, file: Option<&File>) -> anyhow::Result<EnvFilter> {
    let written = file.and_then(|file| Some((file, file.settings().log.as_ref()?)));
    let Some((file, text)) = written.filter(|_| serve.log.is_none()) else {
        return log::filter(serve.log.as_deref().unwrap_or("warn"));
    };
    log::filter(text).map_err(|_| {
        let message = "must be error, warn, info, debug, trace or filters";
        file.refuse_setting("log", text, message).into()
    })
}

/// How it is logged.
pub fn log_format(serve: &Serve, file: Option<&File>) -> Result<log::Format, Error> {
    let written = file.and_then(|file| Some((file, file.settings().log_format.as_ref()?)));
    let Some((file, text)) = written.filter(|_| serve.log_format.is_none()) else {
        return Ok(serve.log_format.unwrap_or_default());
    };
    let format = log::Format::from_str(text, false);
    let refused = |_| file.refuse_setting("log-format", text, "must be text or json");
    Ok(format.map_err(refused)?)
}

/// A declaration on its way into the model, and who hears of it if it is refused.
struct Declared<'a> {
    options: Options,
    origin: String,
    source: Option<(&'a File, &'a Declaration)>,
}

impl<'a> Declared<'a> {
    fn all(
        file: Option<&'a File>,
        written: fn(&'a File) -> &'a [Declaration],
        kind: &Kind,
        texts: &[String],
    ) -> Result<Vec<Declared<'a>>, Error> {
        let of_file = file.into_iter().flat_map(|file| {
            written(file).iter().map(move |declaration| Declared {
                options: declaration.options.clone(),
                origin: declaration.origin.clone(),
                source: Some((file, declaration)),
            })
        });
        let mut all: Vec<_> = of_file.collect();
        for text in texts {
            let (options, origin) = kind.parse(text)?;
            let source = None;
            all.push(Declared {
                options,
                origin,
                source,
            });
        }
        Ok(all)
    }

    fn add<T>(
        self,
        add: impl FnOnce(Options, &str) -> Result<T, model::Error>,
    ) -> Result<T, Error> {
        add(self.options, &self.origin).map_err(|error| match self.source {
            Some((file, declaration)) => file.refuse(declaration, &error).into(),
            None => Error::Declaration {
                origin: self.origin,
                error,
            },
        })
    }
}

/// Everything that is declared: objects, nodes, drives, controllers, images, other devices, in this order, and within each in the
/// order written, the file before the command line.
pub fn model(serve: &Serve, file: Option<&File>) -> Result<Model, Error> {
    let mut model = Model::default();
    let refused = |origin: String| move |error| Error::Declaration { origin, error };
    for declared in Declared::all(file, File::objects, &OBJECTS, &serve.object)? {
        declared.add(|options, _| model.add_object(options))?;
    }
    for declared in Declared::all(file, File::blockdevs, &BLOCKDEVS, &serve.blockdev)? {
        declared.add(|options, origin| model.add_blockdev(options, origin))?;
    }
    for declared in Declared::all(file, File::drives, &DRIVES, &serve.drive)? {
        declared.add(|options, origin| model.add_drive(options, origin))?;
    }
    let mut others = Vec::new();
    for declared in Declared::all(file, File::devices, &DEVICES, &serve.device)? {
        if is_controller(&declared.options) {
            declared.add(|options, origin| model.add_device(options, origin))?;
        } else {
            others.push(declared);
        }
    }
    if model.controllers().is_empty() {
        let refused = refused("the implied controller".to_owned());
        model.add_implied_controller().map_err(refused)?;
    }
    let settings = settings(serve, file);
    for (target, path) in settings.images.iter().enumerate() {
        model
            .add_image(path, target)
            .map_err(refused(path.clone()))?;
    }
    for declared in others {
        declared.add(|options, origin| model.add_device(options, origin))?;
    }
    model
        .add_automatic_disks()
        .map_err(|(origin, error)| Error::Declaration { origin, error })?;
    give_socket(serve, &settings, &mut model)?;
    Ok(model)
}

/// Controllers first: a disk may be written before the controller it is on.
fn is_controller(options: &Options) -> bool {
    let driver = options
        .get("driver")
        .and_then(|name| model::device(name).ok());
    driver.is_some_and(|device| device.kind == DeviceKind::Controller)
}

/// Gives the one socket that is for any controller to the one that has none of its own.
fn give_socket(serve: &Serve, settings: &Settings, model: &mut Model) -> Result<(), Error> {
    let (option, socket) = match (&settings.socket_path, serve.fd) {
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

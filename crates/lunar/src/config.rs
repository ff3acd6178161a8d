//! Configuration files: `lunar check-config` says what `lunar serve --config` would say about one, without opening an
//! image unless it is told to; `lunar config dump` asks a running server for one.

use serde_json::json;

use crate::args::{At, CheckConfig, Config, Serve};
use crate::{Failure, client, declare, qemu, say};

/// Asks for what there is.
pub fn config(options: &Config) -> Result<(), Failure> {
    let Config::Dump { socket, at } = options;
    let monitor = socket.as_ref().or(at.monitor.as_ref()).cloned();
    let ask = || {
        let mut client = client::connect(&At { monitor })?;
        Ok(client.execute("x-lunar-config", json!({}))?)
    };
    let text: String = ask().map_err(Failure::Runtime)?;
    say(&text);
    Ok(())
}

/// Looks at a file.
pub fn check(options: &CheckConfig) -> Result<(), Failure> {
    let file = declare::file(&options.file).map_err(Failure::usage)?;
    let model = declare::model(&Serve::default(), Some(&file)).map_err(Failure::usage)?;
    declare::monitors(&Serve::default(), Some(&file)).map_err(Failure::usage)?;
    declare::metrics(&Serve::default(), Some(&file)).map_err(Failure::usage)?;
    declare::log(&Serve::default(), Some(&file)).map_err(Failure::Usage)?;
    declare::log_format(&Serve::default(), Some(&file)).map_err(Failure::usage)?;
    for (_, _, disk) in model.disks() {
        if let Err(error) = disk.options.config.check() {
            let message = error.to_string();
            let refused = file.refuse_property(&disk.origin, error.property, &message);
            return Err(match refused {
                Some(refused) => Failure::usage(refused),
                None => Failure::usage(error),
            });
        }
    }
    if options.open {
        lunar_host::try_images(&model).map_err(Failure::runtime)?;
    }
    say(&format!(
        "{}: {} on {}\n",
        options.file.display(),
        qemu::count(model.disks().count(), "disk"),
        qemu::count(model.controllers().len(), "controller"),
    ));
    Ok(())
}

//! Configuration files: `lunar check-config` says what `lunar serve --config` would say about one, without opening an
//! image; `lunar config dump` asks a running server for one.

use anyhow::{Context, bail};
use serde_json::{Value, json};

use crate::args::{CheckConfig, Config, Serve};
use crate::console::Link;
use crate::{Failure, declare, qemu, say};

/// Asks for what there is.
pub fn config(options: &Config) -> Result<(), Failure> {
    let Config::Dump { socket } = options;
    let ask = || {
        let answer = Link::to(socket, drop)?.ask(&json!({"execute": "x-lunar-config"}))?;
        if let Some(error) = answer.pointer("/error/desc").and_then(Value::as_str) {
            bail!("{error}");
        }
        let text = answer.get("return").and_then(Value::as_str);
        text.map(str::to_owned).context("an answer without content")
    };
    say(&ask().map_err(Failure::Runtime)?);
    Ok(())
}

/// Looks at a file.
pub fn check(options: &CheckConfig) -> Result<(), Failure> {
    let file = declare::file(&options.file).map_err(Failure::usage)?;
    let model = declare::model(&Serve::default(), Some(&file)).map_err(Failure::usage)?;
    declare::monitors(&Serve::default(), Some(&file)).map_err(Failure::usage)?;
    declare::metrics(&Serve::default(), Some(&file)).map_err(Failure::usage)?;
    declare::log(&Serve::default(), Some(&file)).map_err(Failure::Usage)?;
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
    say(&format!(
        "{}: {} on {}\n",
        options.file.display(),
        qemu::count(model.disks().count(), "disk"),
        qemu::count(model.controllers().len(), "controller"),
    ));
    Ok(())
}

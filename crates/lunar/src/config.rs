//! `lunar check-config`: what `lunar serve --config` would say about a file, without opening an image.

use crate::args::{CheckConfig, Serve};
use crate::{Failure, declare, qemu, say};

/// Looks at a file.
pub fn check(options: &CheckConfig) -> Result<(), Failure> {
    let file = declare::file(&options.file).map_err(Failure::usage)?;
    let model = declare::model(&Serve::default(), Some(&file)).map_err(Failure::usage)?;
    declare::monitors(&Serve::default(), Some(&file)).map_err(Failure::usage)?;
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

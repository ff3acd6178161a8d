//! `lunar man`: manual pages, made of what `--help` says.

use std::path::Path;

use anyhow::{Context, bail};
use clap::CommandFactory;
use clap_mangen::Man as Page;

use crate::args::{CommandLine, Man};
use crate::{Failure, say};

/// Prints a page, or writes all of them.
pub fn run(options: &Man) -> Result<(), Failure> {
    match &options.output {
        Some(directory) => write(directory),
        None => print(&options.command),
    }
    .map_err(Failure::Runtime)
}

/// The grammar with the full name of each command, by which its page is called.
fn grammar() -> clap::Command {
    let mut grammar = CommandLine::command().disable_help_subcommand(true);
    grammar.build();
    grammar
}

fn print(words: &[String]) -> anyhow::Result<()> {
    let mut command = &grammar();
    for word in words {
        command = match command.find_subcommand(word) {
            Some(found) => found,
            None => bail!(
                "lunar {} is no command; lunar --help lists them",
                words.join(" ")
            ),
        };
    }
    let mut page = Vec::new();
    Page::new(command.clone()).render(&mut page)?;
    say(&String::from_utf8_lossy(&page));
    Ok(())
}

fn write(directory: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(directory)
        .and_then(|()| clap_mangen::generate_to(grammar(), directory))
        .with_context(|| directory.display().to_string())
}

//! `docs/howto.md`, done as it says.
//!
//! A section is a session: an empty directory, and one bash that is told what follows each `$`. What it answers must be what
//! the page shows, where `…` stands for anything, and in a line of its own for any lines. A block whose first line names a
//! file (```` ```xml vm1.xml ````) is that file.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::apt;
use crate::guest_tests::Tally;
use crate::process::{self, step, tied};
use crate::scratch::Scratch;
use crate::storage::build_lunar;
use crate::target_directory;

const PAGE: &str = "docs/howto.md";

/// What the page uses beside what guest tests do.
const PACKAGES: &[(&str, &str)] = &[
    ("libvirt-clients", "/usr/bin/virt-xml-validate"),
    ("libxml2-utils", "/usr/bin/xmllint"),
];

/// How long an answer may take; generous, because the machine may be busy.
const PATIENCE: Duration = Duration::from_secs(30);

/// Follows every section of the page.
pub fn test() -> Result<Tally> {
    apt::ensure_installed(apt::HOST_PACKAGES)?;
    apt::ensure_installed(PACKAGES)?;
    let target = target_directory()?;
    let lunar = step("Building lunar", || build_lunar(&target))?;
    let page = std::fs::read_to_string(PAGE).context(PAGE)?;
    let mut tally = Tally::default();
    for section in sections(&page)? {
        match step(&format!("{PAGE}: {}", section.title), || {
            follow(&section, &lunar)
        }) {
            Ok(()) => tally.passed += 1,
            Err(error) => {
                println!("{error:#}");
                tally.failed += 1;
            }
        }
    }
    ensure!(tally.passed + tally.failed > 0, "{PAGE} has no sections");
    Ok(tally)
}

struct Section<'a> {
    title: &'a str,
    steps: Vec<Step<'a>>,
}

enum Step<'a> {
    File {
        name: &'a str,
        content: String,
    },
    Command {
        /// Its line in the page.
        number: usize,
        typed: String,
        answer: Vec<&'a str>,
    },
}

/// The sections with something to do.
fn sections(page: &str) -> Result<Vec<Section<'_>>> {
    let mut sections = Vec::new();
    let mut lines = page.lines().enumerate();
    while let Some((_, line)) = lines.next() {
        if let Some(title) = line.strip_prefix("## ") {
            let steps = Vec::new();
            sections.push(Section { title, steps });
        }
        let Some(opening) = line.strip_prefix("```") else {
            continue;
        };
        let block: Vec<_> = lines
            .by_ref()
            .take_while(|(_, line)| *line != "```")
            .collect();
        let section = sections.last_mut().context("a block before any section")?;
        match opening.split_once(' ') {
            Some((_, name)) => section.steps.push(Step::File {
                name,
                content: block.iter().map(|(_, line)| format!("{line}\n")).collect(),
            }),
            None if opening == "console" => section.steps.extend(commands(&block)?),
            None => {}
        }
    }
    sections.retain(|section| !section.steps.is_empty());
    Ok(sections)
}

fn commands<'a>(block: &[(usize, &'a str)]) -> Result<Vec<Step<'a>>> {
    let mut steps = Vec::new();
    for (number, line) in block {
        match (line.strip_prefix("$ "), steps.last_mut()) {
            (Some(line), _) => steps.push(Step::Command {
                number: number + 1,
                typed: line.to_owned(),
                answer: Vec::new(),
            }),
            (None, Some(Step::Command { typed, answer, .. })) => {
                if typed.ends_with('\\') {
                    typed.push('\n');
                    typed.push_str(line);
                } else {
                    answer.push(*line);
                }
            }
            (None, _) => bail!("{PAGE}:{}: a console begins with a command", number + 1),
        }
    }
    Ok(steps)
}

fn follow(section: &Section<'_>, lunar: &Path) -> Result<()> {
    let scratch = Scratch::new()?;
    let mut session = Session::start(&scratch, lunar)?;
    for step in &section.steps {
        match step {
            Step::File { name, content } => std::fs::write(scratch.join(name), content)?,
            Step::Command {
                number,
                typed,
                answer,
            } => session
                .follow(typed, answer)
                .with_context(|| format!("{PAGE}:{number}: $ {typed}"))?,
        }
    }
    Ok(())
}

/// A bash at work. What it has started ends with it.
struct Session {
    bash: Child,
    input: ChildStdin,
    output: Receiver<String>,
}

/// Ends the answer to a command, with its exit status.
const END: &str = "\u{1}end ";

impl Session {
    fn start(scratch: &Scratch, lunar: &Path) -> Result<Session> {
        let programs = lunar.parent().context("lunar is in no directory")?;
        let path = std::env::var("PATH").unwrap_or_default();
        let mut command = tied("bash");
        command
            .args(["--norc", "--noprofile"])
            .current_dir(scratch.join(""))
            .env("PATH", format!("{}:{path}", programs.display()))
            .env("LUNAR_RUNTIME_DIR", scratch.join("run"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut bash = process::spawn(&mut command)?;
        let mut input = bash.stdin.take().context("no pipe")?;
        let lines = BufReader::new(bash.stdout.take().context("no pipe")?);
        let (sender, output) = channel();
        thread::spawn(move || {
            for line in lines.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        writeln!(
            input,
            "exec 2>&1; trap 'kill $(jobs -p) 2>/dev/null; wait' EXIT"
        )?;
        Ok(Session {
            bash,
            input,
            output,
        })
    }

    /// Types a command, and compares the answer. Who asks what there is asks again until it has come.
    fn follow(&mut self, typed: &str, expected: &[&str]) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let (mut said, status) = self.run(typed)?;
            if typed.ends_with('&') {
                while !fits(expected, &said) {
                    let line = self.line(deadline);
                    said.push(line.with_context(|| difference(expected, &said))?);
                }
                return Ok(());
            }
            let refusal = expected
                .first()
                .is_some_and(|line| line.starts_with("lunar: "));
            if fits(expected, &said) && (status == "0") != refusal {
                return Ok(());
            }
            let question = ["lunar ls", "lunar stats"];
            let again = question.iter().any(|words| typed.starts_with(words));
            if !again || Instant::now() > deadline {
                bail!("exit status {status}; {}", difference(expected, &said));
            }
            thread::sleep(Duration::from_millis(200));
        }
    }

    /// The answer and the exit status.
    fn run(&mut self, typed: &str) -> Result<(Vec<String>, String)> {
        writeln!(self.input, "{typed}\nprintf '\\n{END}%d\\n' $?")?;
        let deadline = Instant::now() + PATIENCE;
        let mut said: Vec<String> = Vec::new();
        loop {
            let line = self.line(deadline);
            let line = line.with_context(|| format!("no end after\n{}", said.join("\n")))?;
            let Some(status) = line.strip_prefix(END) else {
                said.push(line);
                continue;
            };
            // The empty one is of the marker, unless a line was not ended.
            if said.last().is_some_and(String::is_empty) {
                said.pop();
            }
            return Ok((said, status.to_owned()));
        }
    }

    fn line(&self, deadline: Instant) -> Result<String> {
        let left = deadline.saturating_duration_since(Instant::now());
        self.output.recv_timeout(left).map_err(|error| match error {
            RecvTimeoutError::Timeout => anyhow::anyhow!("nothing more within {PATIENCE:?}"),
            RecvTimeoutError::Disconnected => anyhow::anyhow!("the shell has ended"),
        })
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // Its trap ends its jobs; the kernel ends it with us if it does not.
        let _ = self.input.write_all(b"exit\n");
        let _ = process::wait(&mut self.bash, Duration::from_secs(5));
        let _ = process::stop(&mut self.bash, Duration::from_secs(1));
    }
}

fn difference(expected: &[&str], said: &[String]) -> String {
    let (expected, said) = (expected.join("\n"), said.join("\n"));
    format!("the page shows\n{expected}\nand the answer is\n{said}")
}

/// Whether lines are as shown.
fn fits(shown: &[&str], said: &[String]) -> bool {
    match (shown.split_first(), said.split_first()) {
        (None, None) => true,
        (Some((&"…", shown)), None) => fits(shown, said),
        (Some((&"…", rest)), Some((_, others))) => fits(rest, said) || fits(shown, others),
        (Some((line, shown)), Some((other, said))) => line_fits(line, other) && fits(shown, said),
        _ => false,
    }
}

/// Whether a line is as shown. How columns are spaced depends on what is in them.
fn line_fits(shown: &str, said: &str) -> bool {
    let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let (shown, said) = (words(shown), words(said));
    let mut parts = shown.split('…');
    let Some(mut rest) = parts.next().and_then(|first| said.strip_prefix(first)) else {
        return false;
    };
    let mut last = None;
    for part in parts {
        let Some(at) = rest.find(part) else {
            return false;
        };
        rest = rest.get(at + part.len()..).unwrap_or_default();
        last = Some(part);
    }
    // The last part is at the end, wherever else it is.
    rest.is_empty() || last.is_some_and(|part| part.is_empty() || rest.ends_with(part))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ellipses_stand_for_anything() {
        assert!(line_fits("a … d", "a b  c d"));
        assert!(line_fits("a  b", "a b"));
        assert!(line_fits("…/vm.sock", "/x/vm.sock/vm.sock"));
        assert!(!line_fits("a … d", "a b d e"));
        assert!(!line_fits("a", "a b"));
        let said = ["x".to_owned(), "y".to_owned(), "z".to_owned()];
        assert!(fits(&["…", "z"], &said));
        assert!(fits(&["x", "…"], &said));
        assert!(fits(&["x", "y", "z", "…"], &said));
        assert!(!fits(&["…", "y"], &said));
        assert!(!fits(&[], &said));
    }

    #[test]
    fn a_page_is_sections_of_files_and_commands() {
        let page = "# T\n## One\ntext\n```toml a.toml\nx = 1\n```\n```console\n$ a \\\n  b\nsaid\n$ c\n```\n## Two\n";
        let sections = sections(page).unwrap();
        let [
            Section {
                title: "One",
                steps,
            },
        ] = &sections[..]
        else {
            panic!();
        };
        assert!(
            matches!(&steps[0], Step::File { name: "a.toml", content } if content == "x = 1\n")
        );
        assert!(
            matches!(&steps[1], Step::Command { number: 8, typed, answer }
            if typed == "a \\\n  b" && answer == &["said"])
        );
        assert!(
            matches!(&steps[2], Step::Command { typed, answer, .. } if typed == "c" && answer.is_empty())
        );
    }
}

//! `lunar monitor`: a running server at the keyboard, with history and completion.
//!
//! A line is carried out by the server as QEMU's human monitor would; one that begins with `{` is QMP. Events are shown
//! as they come, also while a line is being typed.

use std::cell::RefCell;
use std::io::{BufRead, BufReader, IsTerminal, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::mpsc::{Receiver, Sender, channel};

use anyhow::{Context, anyhow, bail};
use lunar_host::catalog::DEVICES;
use lunar_monitor::hmp::{Completes, ROWS};
use rustyline::completion::Completer;
use rustyline::error::ReadlineError;
use rustyline::history::FileHistory;
use rustyline::{Editor, ExternalPrinter};
use rustyline::{Helper, Highlighter, Hinter, Validator};
use serde_json::{Value, json};

use crate::args::Monitor;
use crate::{Failure, say};

/// Runs until the user or the server has had enough.
pub fn run(options: &Monitor) -> Result<(), Failure> {
    talk(options).map_err(Failure::Runtime)
}

fn talk(options: &Monitor) -> anyhow::Result<()> {
    let path = options.socket.display();
    let stream = UnixStream::connect(&options.socket).with_context(|| {
        format!("{path}: no server takes commands here; start one with --monitor unix:{path}")
    })?;
    let mut editor: Editor<Words, FileHistory> = Editor::new()?;
    let interactive = std::io::stdin().is_terminal();
    let show: Show = match editor.create_external_printer() {
        Ok(mut printer) if interactive => Box::new(move |text| {
            let _ = printer.print(text);
        }),
        _ => Box::new(|text| say(&text)),
    };
    let link = Rc::new(RefCell::new(Link::open(stream, show)?));
    editor.set_helper(Some(Words(Rc::clone(&link))));
    let history = history();
    if let Some(path) = &history {
        // There may be none yet.
        let _ = editor.load_history(path);
    }
    if interactive {
        say(&format!(
            "{}. Type help for the commands.\n",
            link.borrow().server
        ));
    }
    let prompt = if interactive { "(lunar) " } else { "" };
    let outcome = loop {
        match editor.readline(prompt) {
            Ok(line) if line.trim().is_empty() => {}
            Ok(line) => {
                // A history that cannot grow is no reason to stop.
                let _ = editor.add_history_entry(&line);
                match link.borrow_mut().carry_out(&line) {
                    Ok(answer) => say(&answer),
                    Err(_) if line.trim() == "quit" => break Ok(()),
                    Err(error) => break Err(error),
                }
            }
            Err(ReadlineError::Interrupted) => {}
            Err(ReadlineError::Eof) => break Ok(()),
            Err(error) => break Err(error.into()),
        }
    };
    if let Some(path) = &history {
        let _ = path.parent().map(std::fs::create_dir_all);
        let _ = editor.save_history(path);
    }
    outcome
}

/// Shows a text beside what is being typed.
type Show = Box<dyn FnMut(String) + Send>;

/// Where lines are remembered.
fn history() -> Option<PathBuf> {
    let state = std::env::var_os("XDG_STATE_HOME").filter(|path| !path.is_empty());
    let home = || Some(PathBuf::from(std::env::var_os("HOME")?).join(".local/state"));
    let directory = state.map(PathBuf::from).or_else(home)?;
    Some(directory.join("lunar/monitor_history"))
}

/// The connection: answers come in the order of the commands, events at any time.
pub struct Link {
    stream: UnixStream,
    answers: Receiver<Value>,
    /// What the server says it is.
    server: String,
}

impl Link {
    /// Talks to the server whose monitor is at `path`.
    pub fn to(path: &Path, show: impl FnMut(String) + Send + 'static) -> anyhow::Result<Link> {
        let stream = UnixStream::connect(path).with_context(|| {
            let path = path.display();
            format!("{path}: no server takes commands here; start one with --monitor unix:{path}")
        })?;
        Link::open(stream, show)
    }

    fn open(stream: UnixStream, show: impl FnMut(String) + Send + 'static) -> anyhow::Result<Link> {
        let mut reader = BufReader::new(stream.try_clone()?);
        let mut greeting = String::new();
        reader.read_line(&mut greeting)?;
        let greeting: Value =
            serde_json::from_str(&greeting).context("what answers there speaks no QMP")?;
        let text = |pointer: &str| greeting.pointer(pointer).and_then(Value::as_str);
        if let Some(refusal) = text("/error/desc") {
            bail!("{refusal}");
        }
        let server = text("/QMP/version/package");
        let server = server
            .context("what answers there speaks no QMP")?
            .to_owned();
        let (sender, answers) = channel();
        std::thread::spawn(move || receive(reader, &sender, show));
        let mut link = Link {
            stream,
            answers,
            server,
        };
        link.ask(&json!({"execute": "qmp_capabilities"}))?;
        Ok(link)
    }

    /// What the server answers to a line, as it is to be shown.
    fn carry_out(&mut self, line: &str) -> anyhow::Result<String> {
        if line.trim_start().starts_with('{') {
            let command: Value = match serde_json::from_str(line) {
                Ok(command) => command,
                Err(error) => return Ok(format!("not JSON: {error}\n")),
            };
            return Ok(format!("{:#}\n", self.ask(&command)?));
        }
        let command = json!({
            "execute": "human-monitor-command",
            "arguments": {"command-line": line.trim()}
        });
        let answer = self.ask(&command)?;
        let text = answer.get("return").and_then(Value::as_str);
        let error = || answer.pointer("/error/desc").and_then(Value::as_str);
        Ok(match text {
            Some(text) => text.to_owned(),
            None => format!(
                "Error: {}\n",
                error().unwrap_or("an answer without content")
            ),
        })
    }

    /// The whole answer to a command.
    pub fn ask(&mut self, command: &Value) -> anyhow::Result<Value> {
        let gone = || anyhow!("the server has closed the connection");
        writeln!(self.stream, "{command}").map_err(|_| gone())?;
        self.answers.recv().map_err(|_| gone())
    }

    /// The strings at `pointer` in each element of an answer.
    fn names(&mut self, command: &Value, pointer: &str) -> Vec<String> {
        let Ok(answer) = self.ask(command) else {
            return Vec::new();
        };
        let elements = answer.get("return").and_then(Value::as_array);
        let names = elements.into_iter().flatten();
        names
            .filter_map(|element| element.pointer(pointer)?.as_str())
            .filter(|name| !name.is_empty())
            .map(str::to_owned)
            .collect()
    }
}

/// Hands answers on and shows events, until the connection ends.
fn receive(reader: BufReader<UnixStream>, answers: &Sender<Value>, mut show: impl FnMut(String)) {
    for line in reader.lines() {
        let Ok(message) = line
            .map_err(anyhow::Error::from)
            .and_then(|line| Ok(serde_json::from_str::<Value>(&line)?))
        else {
            return;
        };
        if let Some(event) = message.get("event").and_then(Value::as_str) {
            let data = message.get("data").map(|data| format!(" {data}"));
            show(format!("{event}{}\n", data.unwrap_or_default()));
        } else if answers.send(message).is_err() {
            return;
        }
    }
}

/// What can be completed.
#[derive(Helper, Hinter, Highlighter, Validator)]
struct Words(Rc<RefCell<Link>>);

impl Words {
    fn candidates(&self, line: &str) -> Vec<String> {
        let commands = || ROWS.iter().map(|row| row.name.to_owned()).collect();
        let typed = line.trim_start();
        let row = ROWS.iter().find(|row| {
            let rest = typed.strip_prefix(row.name);
            rest.is_some_and(|rest| rest.starts_with(' '))
        });
        let query = |command: &str| json!({"execute": command});
        let mut link = self.0.borrow_mut();
        match row.map(|row| row.completes) {
            None => commands(),
            Some(Completes::Nothing) if typed.starts_with("help ") => commands(),
            Some(Completes::Nothing) => Vec::new(),
            Some(Completes::DeviceType) => DEVICES
                .iter()
                .map(|device| device.name.to_owned())
                .collect(),
            Some(Completes::Device) => {
                let command = json!({
                    "execute": "qom-list",
                    "arguments": {"path": "/machine/peripheral"}
                });
                let mut names = link.names(&command, "/name");
                names.retain(|name| name != "type");
                names
            }
            Some(Completes::Drive) => link.names(&query("query-block"), "/device"),
            Some(Completes::Node) => link.names(&query("query-named-block-nodes"), "/node-name"),
        }
    }
}

impl Completer for Words {
    type Candidate = String;

    fn complete(
        &self,
        line: &str,
        position: usize,
        _: &rustyline::Context<'_>,
    ) -> rustyline::Result<(usize, Vec<String>)> {
        let before = line.get(..position).unwrap_or(line);
        let candidates = self.candidates(before);
        // "info b" is the beginning of a command of two words; else the last word counts.
        let whole = before.trim_start();
        let as_whole: Vec<String> = candidates
            .iter()
            .filter(|candidate| candidate.starts_with(whole))
            .cloned()
            .collect();
        if !as_whole.is_empty() {
            return Ok((before.len() - whole.len(), as_whole));
        }
        let start = before.rfind(' ').map_or(0, |space| space + 1);
        let word = before.get(start..).unwrap_or_default();
        let fitting = candidates.into_iter().filter(|name| name.starts_with(word));
        Ok((start, fitting.collect()))
    }
}

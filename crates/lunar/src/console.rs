//! `lunar monitor`: a running server at the keyboard, with history and completion.
//!
//! A line is carried out by the server as QEMU's human monitor would; one that begins with `{` is QMP. Events are shown
//! as they come, also while a line is being typed.

use std::cell::RefCell;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::rc::Rc;

use lunar_host::catalog::DEVICES;
use lunar_monitor::hmp::{Completes, ROWS};
use lunar_monitor::{Client, ClientError};
use rustyline::completion::Completer;
use rustyline::error::ReadlineError;
use rustyline::history::FileHistory;
use rustyline::{CompletionType, Config, Editor, ExternalPrinter};
use rustyline::{Helper, Highlighter, Hinter, Validator};
use serde_json::{Value, json};

use crate::args::{At, Monitor};
use crate::client::listen;
use crate::{Failure, say};

/// Runs until the user or the server has had enough.
pub fn run(options: Monitor) -> Result<(), Failure> {
    let monitor = options.socket.or(options.at.monitor);
    talk(&At { monitor }).map_err(Failure::Runtime)
}

fn talk(at: &At) -> anyhow::Result<()> {
    let interactive = std::io::stdin().is_terminal();
    // A list lets events be shown while somebody chooses, a cycle does not.
    let config = Config::builder().completion_type(CompletionType::List);
    let mut editor: Editor<Words, FileHistory> = Editor::with_config(config.build())?;
    let mut show: Show = match editor.create_external_printer() {
        Ok(mut printer) if interactive => Box::new(move |text| {
            let _ = printer.print(text);
        }),
        _ => Box::new(|text| say(&text)),
    };
    let client = listen(at, move |event| show(line_of(&event)))?;
    let client = Rc::new(RefCell::new(client));
    editor.set_helper(Some(Words(Rc::clone(&client))));
    let history = history();
    if let Some(path) = &history {
        // There may be none yet.
        let _ = editor.load_history(path);
    }
    if interactive {
        let server = client.borrow().server().to_owned();
        say(&format!("{server}. Type help for the commands.\n"));
    }
    let prompt = if interactive { "(lunar) " } else { "" };
    let outcome = loop {
        match editor.readline(prompt) {
            Ok(line) if line.trim().is_empty() => {}
            Ok(line) => {
                // A history that cannot grow is no reason to stop.
                let _ = editor.add_history_entry(&line);
                let mut client = client.borrow_mut();
                match carry_out(&mut client, line.trim()) {
                    Ok(_) | Err(ClientError::Gone) if line.trim() == "quit" => {
                        client.wait_for_end();
                        break Ok(());
                    }
                    Ok(answer) => say(&answer),
                    Err(error) => break Err(error.into()),
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

/// What the server answers to a line, as it is to be shown.
fn carry_out(client: &mut Client, line: &str) -> Result<String, ClientError> {
    if !line.starts_with('{') {
        return match client.line(line) {
            Err(ClientError::Refused(reason)) => Ok(format!("Error: {reason}\n")),
            answer => answer,
        };
    }
    match serde_json::from_str(line) {
        Ok(command) => Ok(format!("{:#}\n", client.ask(&command)?)),
        Err(error) => Ok(format!("not JSON: {error}\n")),
    }
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

/// `DEVICE_DELETED {"device":"disk1",…}`.
fn line_of(event: &Value) -> String {
    let name = event.get("event").and_then(Value::as_str);
    let data = event.get("data").map(|data| format!(" {data}"));
    format!("{}{}\n", name.unwrap_or("?"), data.unwrap_or_default())
}

/// The strings at `pointer` in each element of an answer.
fn names(client: &mut Client, command: &str, arguments: Value, pointer: &str) -> Vec<String> {
    let elements: Vec<Value> = client.execute(command, arguments).unwrap_or_default();
    elements
        .iter()
        .filter_map(|element| element.pointer(pointer)?.as_str())
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
        .collect()
}

/// What can be completed.
#[derive(Helper, Hinter, Highlighter, Validator)]
struct Words(Rc<RefCell<Client>>);

impl Words {
    fn candidates(&self, line: &str) -> Vec<String> {
        let commands = || ROWS.iter().map(|row| row.name.to_owned()).collect();
        let typed = line.trim_start();
        let row = ROWS.iter().find(|row| {
            let rest = typed.strip_prefix(row.name);
            rest.is_some_and(|rest| rest.starts_with(' '))
        });
        let client = &mut *self.0.borrow_mut();
        match row.map(|row| row.completes) {
            None => commands(),
            Some(Completes::Nothing) if typed.starts_with("help ") => commands(),
            Some(Completes::Nothing) => Vec::new(),
            Some(Completes::DeviceType) => DEVICES
                .iter()
                .map(|device| device.name.to_owned())
                .collect(),
            Some(Completes::Device) => {
                let path = json!({"path": "/machine/peripheral"});
                let mut names = names(client, "qom-list", path, "/name");
                names.retain(|name| name != "type");
                names
            }
            Some(Completes::Drive) => names(client, "query-block", json!({}), "/device"),
            Some(Completes::Node) => {
                names(client, "query-named-block-nodes", json!({}), "/node-name")
            }
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

//! The table of commands: one row says what a command is called, takes, answers, means and does.
//!
//! From a row's function come the types of its arguments and of its answer; from the table follow dispatch, the check
//! of arguments, `query-commands` and `query-qmp-schema`. A command that is not carried out has no row.

use std::fmt;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use crate::Error;
use crate::error::Class;
use crate::schema::{Described, Empty, Introspection, Type, qapi};

/// A command that changes or queries an `S`.
pub struct Command<S> {
    name: &'static str,
    description: &'static str,
    arguments: Type,
    returns: Type,
    run: Run<S>,
}

/// The function behind a row, with its types taken off.
type Handler<S> = Box<dyn Fn(&S, Value) -> Result<Value, Error> + Send + Sync>;

enum Run<S> {
    /// On what is managed.
    Subject(Handler<S>),
    /// On the table itself.
    Table(fn(&Table<S>) -> Value),
    /// On the session: it only matters before it has begun.
    Negotiate,
}

impl<S> Command<S> {
    /// A command that `run` carries out.
    pub fn new<A, R>(
        name: &'static str,
        description: &'static str,
        run: impl Fn(&S, A) -> Result<R, Error> + Send + Sync + 'static,
    ) -> Command<S>
    where
        A: Described + DeserializeOwned,
        R: Described + Serialize,
    {
        let handler = move |subject: &S, arguments| {
            // The description and the type come from one declaration: what the one accepts the other does.
            let arguments = serde_json::from_value(arguments).map_err(internal)?;
            serde_json::to_value(run(subject, arguments)?).map_err(internal)
        };
        Command {
            name,
            description,
            arguments: A::describe(),
            returns: R::describe(),
            run: Run::Subject(Box::new(handler)),
        }
    }

    /// The same with arguments as this description has it, which may depend on tables.
    #[must_use]
    pub fn taking(self, arguments: Type) -> Command<S> {
        Command { arguments, ..self }
    }

    /// Its name.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// One line for people.
    pub fn description(&self) -> &'static str {
        self.description
    }

    /// Its arguments.
    pub fn arguments(&self) -> &Type {
        &self.arguments
    }
}

fn internal(error: serde_json::Error) -> Error {
    Error::generic(format!("internal error: {error}"))
}

impl<S> fmt::Debug for Command<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Command")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// An event that may be sent.
#[derive(Clone, Debug)]
pub struct EventType {
    /// Its name.
    pub name: &'static str,
    /// Its data.
    pub data: Type,
}

qapi! {
    /// A command's name.
    struct CommandInfo {
        name: String,
    }

    /// What a client may switch on in a session. Commands that overtake others are not served.
    enum QMPCapability {
        /// Commands out of turn.
        Oob = "oob",
    }

    /// The arguments of `qmp_capabilities`.
    struct Capabilities {
        enable: Option<Vec<QMPCapability>>,
    }
}

/// All commands and events.
#[derive(Debug)]
pub struct Table<S> {
    commands: Vec<Command<S>>,
    events: Vec<EventType>,
    schema: Value,
}

impl<S> Table<S> {
    /// These, and the commands that every server has: `qmp_capabilities`, `query-commands`, `query-qmp-schema`.
    pub fn new(commands: Vec<Command<S>>, events: Vec<EventType>) -> Table<S> {
        let mut all = vec![
            Command {
                name: "qmp_capabilities",
                description: "ends the negotiation of capabilities: from here on commands are taken",
                arguments: Capabilities::describe(),
                returns: Empty::describe(),
                run: Run::Negotiate,
            },
            Command {
                name: "query-commands",
                description: "the names of all commands",
                arguments: Empty::describe(),
                returns: Vec::<CommandInfo>::describe(),
                run: Run::Table(|table| {
                    let names = table
                        .commands
                        .iter()
                        .map(|command| json!({"name": command.name}));
                    Value::Array(names.collect())
                }),
            },
            Command {
                name: "query-qmp-schema",
                description: "what commands, events and their types look like",
                arguments: Empty::describe(),
                returns: Type::Array(Box::new(crate::introspect::schema_info())),
                run: Run::Table(|table| table.schema.clone()),
            },
        ];
        all.extend(commands);
        let mut table = Table {
            commands: all,
            events,
            schema: Value::Null,
        };
        table.schema = table.introspect();
        table
    }

    fn introspect(&self) -> Value {
        let mut types = Introspection::default();
        let mut entries = Vec::new();
        for command in &self.commands {
            entries.push(json!({
                "name": command.name,
                "meta-type": "command",
                "arg-type": types.add(&command.arguments),
                "ret-type": types.add(&command.returns),
            }));
        }
        for event in &self.events {
            entries.push(json!({
                "name": event.name,
                "meta-type": "event",
                "arg-type": types.add(&event.data),
            }));
        }
        entries.extend(types.into_entries());
        Value::Array(entries)
    }

    /// The commands.
    pub fn commands(&self) -> &[Command<S>] {
        &self.commands
    }

    /// The events.
    pub fn events(&self) -> &[EventType] {
        &self.events
    }

    /// The type of a command's answer.
    pub fn returns(&self, name: &str) -> Option<&Type> {
        let found = self.commands.iter().find(|command| command.name == name);
        found.map(|command| &command.returns)
    }

    /// Carries a command out. `negotiated` says whether the session has begun, and is set when this begins it.
    pub fn execute(
        &self,
        subject: &S,
        negotiated: &mut bool,
        name: &str,
        arguments: Map<String, Value>,
    ) -> Result<Value, Error> {
        let found = self.commands.iter().find(|command| command.name == name);
        let begins = found.is_some_and(|command| matches!(command.run, Run::Negotiate));
        let not_found = |text: &str| Err(Error::new(Class::CommandNotFound, text));
        let command = match (found, *negotiated) {
            (Some(command), _) if begins != *negotiated => command,
            (_, false) => {
                return not_found("Expecting capabilities negotiation with 'qmp_capabilities'");
            }
            (Some(_), true) => {
                return not_found("Capabilities negotiation is already complete, command ignored");
            }
            (None, true) => {
                return not_found(&format!("The command {name} has not been found"));
            }
        };
        let arguments = Value::Object(arguments);
        command.arguments.check("", &arguments)?;
        match &command.run {
            Run::Subject(run) => run(subject, arguments),
            Run::Table(run) => Ok(run(self)),
            Run::Negotiate => {
                negotiate(&arguments)?;
                *negotiated = true;
                Ok(json!({}))
            }
        }
    }
}

/// We offer no capability, so that none can be switched on.
fn negotiate(arguments: &Value) -> Result<(), Error> {
    let wanted = arguments.pointer("/enable/0").and_then(Value::as_str);
    match wanted {
        Some(name) => Err(Error::generic(format!(
            "Capability '{name}' is not available"
        ))),
        None => Ok(()),
    }
}

//! One client's conversation: a greeting, the negotiation of capabilities, then commands and their answers.

use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::command::Table;
use crate::json::Reader;
use crate::{Error, Version};

/// What has been agreed with a client, and what it is about to say.
#[derive(Debug, Default)]
pub struct Session {
    reader: Reader,
    negotiated: bool,
}

impl Session {
    /// What the server says first.
    pub fn greeting(version: &Version) -> Vec<u8> {
        line(&json!({"QMP": {"version": version, "capabilities": []}}))
    }

    /// Whether the client has ended the negotiation: only then it is told of events.
    pub fn is_negotiated(&self) -> bool {
        self.negotiated
    }

    /// Takes bytes off the front of `input` until a message is complete, carries it out, and returns the answer;
    /// `None` when there is no complete message.
    pub fn next<S>(&mut self, input: &mut &[u8], table: &Table<S>, subject: &S) -> Option<Vec<u8>> {
        let message = self.reader.next(input)?;
        let (id, outcome) = match message {
            Err(desc) => (None, Err(Error::generic(desc))),
            Ok(Value::Object(mut message)) => {
                let id = message.remove("id");
                (id, self.handle(message, table, subject))
            }
            Ok(_) => (None, Err(Error::generic("QMP input must be a JSON object"))),
        };
        Some(answer(outcome, id))
    }

    fn handle<S>(
        &mut self,
        message: Map<String, Value>,
        table: &Table<S>,
        subject: &S,
    ) -> Result<Value, Error> {
        let mut name = None;
        let mut arguments = Map::new();
        for (key, value) in message {
            match (&*key, value) {
                ("execute", Value::String(text)) => name = Some(text),
                ("execute", _) => {
                    return refuse("QMP input member 'execute' must be a string");
                }
                ("arguments", Value::Object(members)) => arguments = members,
                ("arguments", _) => {
                    return refuse("QMP input member 'arguments' must be an object");
                }
                (key, _) => return refuse(format!("QMP input member '{key}' is unexpected")),
            }
        }
        let Some(name) = name else {
            return refuse("QMP input lacks member 'execute'");
        };
        tracing::debug!(command = name, "monitor");
        table.execute(subject, &mut self.negotiated, &name, arguments)
    }
}

fn refuse(desc: impl Into<String>) -> Result<Value, Error> {
    Err(Error::generic(desc))
}

fn answer(outcome: Result<Value, Error>, id: Option<Value>) -> Vec<u8> {
    #[derive(Serialize)]
    struct Answer {
        #[serde(rename = "return", skip_serializing_if = "Option::is_none")]
        value: Option<Value>,
        #[serde(skip_serializing_if = "Option::is_none")]
        error: Option<Error>,
        #[serde(skip_serializing_if = "Option::is_none")]
        id: Option<Value>,
    }
    let (value, error) = match outcome {
        Ok(value) => (Some(value), None),
        Err(error) => (None, Some(error)),
    };
    line(&Answer { value, error, id })
}

/// A message to a client: one line, ended as QEMU does it, which some clients wait for.
pub fn line(message: &impl Serialize) -> Vec<u8> {
    // Of the things that can fail here, such as maps with keys that are no strings, messages have none.
    let mut line = serde_json::to_vec(message).unwrap_or_default();
    line.extend(b"\r\n");
    line
}

//! QEMU's option syntax: `key=value,key=value`, or a JSON object.
//!
//! A value ends at a comma; `,,` inside it is one comma. Some options name their first value implicitly
//! (`scsi-hd,drive=d0` is `driver=scsi-hd,drive=d0`) and some take bare words (`readonly` for `readonly=on`,
//! `noreadonly` for `readonly=off`). A JSON object says the same with nesting: `{"file": {"driver": "file"}}` is
//! `file.driver=file`, and the elements of an array are called by their place, so whoever reads the result need not know how it was written.

/// Which forms an option takes.
#[derive(Clone, Copy, Debug)]
pub struct Syntax {
    /// The key of a first value written without one.
    pub implied: Option<&'static str>,
    /// Bare words are switches.
    pub switches: bool,
    /// A JSON object may stand in place of the list.
    pub json: bool,
}

/// `--drive`.
pub const DRIVE: Syntax = Syntax {
    implied: None,
    switches: true,
    json: false,
};
/// `--device`.
pub const DEVICE: Syntax = Syntax {
    implied: Some("driver"),
    switches: true,
    json: true,
};
/// `--blockdev`.
pub const BLOCKDEV: Syntax = Syntax {
    implied: Some("driver"),
    switches: false,
    json: true,
};

/// `--object`.
pub const OBJECT: Syntax = Syntax {
    implied: Some("qom-type"),
    switches: false,
    json: true,
};

/// Keys with their values, in the order written. A later value of a key replaces an earlier one, as in QEMU.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options(Vec<(String, Value)>);

/// What was written after a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// `key=text`. JSON numbers and booleans arrive as the text that says the same.
    Text(String),
    /// A bare word: the property table knows whether it is a switch.
    Bare,
}

/// Text that does not follow the syntax.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// `at` counts characters from 1.
    #[error("at character {at}: {expected}")]
    Text {
        /// Where.
        at: usize,
        /// What is wrong there.
        expected: &'static str,
    },
    /// The JSON parser's words, position included.
    #[error("not a JSON object: {0}")]
    Json(String),
    /// Valid JSON that no option has a meaning for.
    #[error("{key}: {found} cannot be the value of a property")]
    JsonValue {
        /// The dotted key.
        key: String,
        /// The JSON type.
        found: &'static str,
    },
}

impl Options {
    /// Reads an option's argument.
    pub fn parse(text: &str, syntax: Syntax) -> Result<Options, Error> {
        if syntax.json && text.trim_start().starts_with('{') {
            return Options::from_json(text);
        }
        let mut options = Options::default();
        let mut rest = text;
        while !rest.is_empty() {
            let at = text.len() - rest.len();
            let wrong = |expected| Error::Text {
                at: text.get(..at).unwrap_or(text).chars().count() + 1,
                expected,
            };
            let first = at == 0;
            let word = rest.find(['=', ',']).unwrap_or(rest.len());
            let (key, after) = rest.split_at(word);
            if let Some(after) = after.strip_prefix('=') {
                if key.is_empty() {
                    return Err(wrong("a property name is missing before \"=\""));
                }
                let (value, next) = take_value(after);
                options.0.push((key.to_owned(), Value::Text(value)));
                rest = next;
            } else if let (true, Some(implied)) = (first, syntax.implied) {
                let (value, next) = take_value(rest);
                options.0.push((implied.to_owned(), Value::Text(value)));
                rest = next;
            } else if key.is_empty() {
                return Err(wrong("a property is missing between two commas"));
            } else if syntax.switches || is_help(key) {
                options.0.push((key.to_owned(), Value::Bare));
                rest = after.strip_prefix(',').unwrap_or(after);
            } else {
                return Err(wrong("this property needs \"=\" and a value"));
            }
        }
        Ok(options)
    }

    fn from_json(text: &str) -> Result<Options, Error> {
        let object: serde_json::Map<String, serde_json::Value> =
            serde_json::from_str(text).map_err(|e| Error::Json(e.to_string()))?;
        Options::from_object(&object)
    }

    /// The members of a JSON object.
    pub fn from_object(
        object: &serde_json::Map<String, serde_json::Value>,
    ) -> Result<Options, Error> {
        let mut options = Options::default();
        flatten("", object, &mut options)?;
        Ok(options)
    }

    /// Gives `key` this value, in place of all that were written.
    pub fn set(&mut self, key: &str, value: &str) {
        let value = Value::Text(value.to_owned());
        let at = self.0.iter().position(|(k, _)| k == key);
        self.0.retain(|(k, _)| k != key);
        let at = at.unwrap_or(self.0.len()).min(self.0.len());
        self.0.insert(at, (key.to_owned(), value));
    }

    /// The last value of `key`.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.iter().rev().find_map(|(k, value)| match value {
            Value::Text(text) if k == key => Some(text.as_str()),
            _ => None,
        })
    }

    /// Takes every value of `key` out and returns the last.
    pub fn take(&mut self, key: &str) -> Option<String> {
        let mut found = None;
        self.0.retain(|(k, value)| match value {
            Value::Text(text) if k == key => {
                found = Some(text.clone());
                false
            }
            _ => true,
        });
        found
    }

    /// Moves what is written about `key` to the front: it is read before all else.
    pub fn put_first(&mut self, key: &str) {
        self.0.sort_by_key(|(k, _)| k != key);
    }

    /// Takes out all keys below `prefix` (`file` for `file.driver`), without it.
    pub fn take_nested(&mut self, prefix: &str) -> Options {
        let mut nested = Options::default();
        self.0.retain_mut(|(key, value)| {
            let inner = key.strip_prefix(prefix).and_then(|k| k.strip_prefix('.'));
            match inner {
                Some(inner) => {
                    nested.0.push((inner.to_owned(), value.clone()));
                    false
                }
                None => true,
            }
        });
        nested
    }

    /// Whether nothing is left.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What was written, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.0.iter().map(|(key, value)| (key.as_str(), value))
    }

    /// Whether the user asks what can be written here (`help` or `?`).
    pub fn wants_help(&self) -> bool {
        self.0.iter().any(|(key, value)| match value {
            Value::Bare => is_help(key),
            Value::Text(text) => (key == "driver" || key == "qom-type") && is_help(text),
        })
    }
}

impl FromIterator<(String, String)> for Options {
    fn from_iter<I: IntoIterator<Item = (String, String)>>(pairs: I) -> Options {
        let texts = pairs.into_iter();
        Options(texts.map(|(key, text)| (key, Value::Text(text))).collect())
    }
}

/// `text` as a value: each comma doubled.
pub fn escape(text: &str) -> String {
    text.replace(',', ",,")
}

fn is_help(word: &str) -> bool {
    word == "help" || word == "?"
}

/// A value up to its comma, and what follows that comma.
fn take_value(text: &str) -> (String, &str) {
    let mut value = String::new();
    let mut rest = text;
    while let Some(comma) = rest.find(',') {
        let (before, after) = rest.split_at(comma);
        value.push_str(before);
        match after.strip_prefix(",,") {
            Some(after) => {
                value.push(',');
                rest = after;
            }
            None => return (value, after.strip_prefix(',').unwrap_or(after)),
        }
    }
    value.push_str(rest);
    (value, "")
}

/// Depth is bounded by the JSON parser's own limit.
fn flatten(
    prefix: &str,
    object: &serde_json::Map<String, serde_json::Value>,
    options: &mut Options,
) -> Result<(), Error> {
    object
        .iter()
        .try_for_each(|(name, value)| put(format!("{prefix}{name}"), value, options))
}

fn put(key: String, value: &serde_json::Value, options: &mut Options) -> Result<(), Error> {
    use serde_json::Value as Json;
    let text = match value {
        Json::Object(inner) => return flatten(&format!("{key}."), inner, options),
        Json::Array(elements) => {
            let mut elements = elements.iter().enumerate();
            return elements.try_for_each(|(i, e)| put(format!("{key}.{i}"), e, options));
        }
        Json::String(text) => text.clone(),
        Json::Bool(true) => "on".to_owned(),
        Json::Bool(false) => "off".to_owned(),
        Json::Number(number) => number.to_string(),
        Json::Null => return Err(Error::JsonValue { key, found: "null" }),
    };
    options.0.push((key, Value::Text(text)));
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fmt;

    use super::*;
    use proptest::prelude::*;

    /// The options as QEMU's syntax spells them.
    impl fmt::Display for Options {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            for (i, (key, value)) in self.0.iter().enumerate() {
                let comma = if i == 0 { "" } else { "," };
                match value {
                    Value::Text(text) => write!(f, "{comma}{key}={}", escape(text))?,
                    Value::Bare => write!(f, "{comma}{key}")?,
                }
            }
            Ok(())
        }
    }

    fn parsed(text: &str, syntax: Syntax) -> Vec<(String, Value)> {
        Options::parse(text, syntax).expect(text).0
    }

    fn text(key: &str, value: &str) -> (String, Value) {
        (key.to_owned(), Value::Text(value.to_owned()))
    }

    fn bare(key: &str) -> (String, Value) {
        (key.to_owned(), Value::Bare)
    }

    #[test]
    fn values_end_at_single_commas_and_double_commas_are_one() {
        assert_eq!(
            parsed("file=/a,,b,,,id=x", DRIVE),
            [text("file", "/a,b,"), text("id", "x")]
        );
        assert_eq!(
            parsed("id=,file=a=b", DRIVE),
            [text("id", ""), text("file", "a=b")]
        );
        assert_eq!(parsed("id=x,", DRIVE), [text("id", "x")]);
    }

    #[test]
    fn first_value_of_a_device_is_its_driver() {
        assert_eq!(
            parsed("scsi-hd,removable,drive=d", DEVICE),
            [
                text("driver", "scsi-hd"),
                bare("removable"),
                text("drive", "d")
            ]
        );
        assert_eq!(parsed("drive=d,driver=scsi-hd", DEVICE).len(), 2);
    }

    #[test]
    fn errors_carry_the_position_in_characters() {
        let error = Options::parse("file=ä,=x", DRIVE).unwrap_err();
        assert_eq!(
            error.to_string(),
            "at character 8: a property name is missing before \"=\""
        );
        let error = Options::parse("id=x,,y,,z=1,,,a=b,,,=", DRIVE).unwrap_err();
        assert!(matches!(error, Error::Text { at: 22, .. }), "{error:?}");
        let error = Options::parse("scsi-hd,,x", DEVICE).expect("an escaped comma");
        assert_eq!(error.0, [text("driver", "scsi-hd,x")]);
        let error = Options::parse("file,node-name=x,read-only", BLOCKDEV).unwrap_err();
        assert_eq!(
            error.to_string(),
            "at character 18: this property needs \"=\" and a value"
        );
    }

    #[test]
    fn json_objects_nest_with_dots() {
        let mut options = Options::parse(
            r#"{"driver":"raw","read-only":true,"file":{"driver":"file","filename":"a,b"},"size":512}"#,
            BLOCKDEV,
        )
        .unwrap();
        assert_eq!(options.take_nested("file").take("filename").unwrap(), "a,b");
        assert_eq!(options.take("read-only").unwrap(), "on");
        assert_eq!(options.take("size").unwrap(), "512");
        assert_eq!(
            Options::parse(r#"{"a":[null]}"#, DEVICE)
                .unwrap_err()
                .to_string(),
            "a.0: null cannot be the value of a property"
        );
        assert_eq!(
            parsed(r#"{"a":[{"b":1},{"b":"x"}],"c":[]}"#, BLOCKDEV),
            [text("a.0.b", "1"), text("a.1.b", "x")]
        );
        assert!(Options::parse("{\"a\":1", DEVICE).is_err());
    }

    #[test]
    fn help_is_recognised_in_every_place() {
        for (text, syntax) in [
            ("help", DEVICE),
            ("?", DEVICE),
            ("scsi-hd,help", DEVICE),
            ("scsi-hd,drive=x,?", DEVICE),
            ("help", DRIVE),
            ("file,help", BLOCKDEV),
        ] {
            assert!(Options::parse(text, syntax).unwrap().wants_help(), "{text}");
        }
        assert!(!Options::parse("file=help", DRIVE).unwrap().wants_help());
    }

    #[test]
    fn take_returns_the_last_value_of_a_key() {
        let mut options = Options::parse("id=a,file=x,id=b", DRIVE).unwrap();
        assert_eq!(options.take("id").unwrap(), "b");
        assert_eq!(options.to_string(), "file=x");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        #[test]
        fn what_is_written_is_what_is_read(
            pairs in prop::collection::vec(("[a-z][a-z0-9._-]{0,8}", "\\PC{0,12}|[,=]{0,6}"), 0..6)
        ) {
            let mut options = Options::default();
            for (key, value) in pairs {
                options.0.push((key, Value::Text(value)));
            }
            for syntax in [DRIVE, DEVICE, BLOCKDEV] {
                prop_assert_eq!(Options::parse(&options.to_string(), syntax).unwrap(), options.clone());
            }
        }

        #[test]
        fn any_text_is_read_or_refused_without_panic(text in "\\PC{0,40}|[a,=.{}\"?]{0,20}") {
            for syntax in [DRIVE, DEVICE, BLOCKDEV] {
                let _ = Options::parse(&text, syntax);
            }
        }
    }
}

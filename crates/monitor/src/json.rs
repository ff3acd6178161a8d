//! From a stream of bytes to JSON values: where one message ends and the next begins, and what is wrong with one.
//!
//! Messages are JSON values one after the other, separated by white space or by nothing; a line break is not needed and
//! means nothing, except within a string, where it is an error and the place from which we go on. As in QEMU a string may stand
//! in single quotes, which people type, and a control character or one of the bytes FE and FF, which no JSON has,
//! brings the reader back to the beginning from whatever it was in.
//!
//! A message of more than [`MAX_MESSAGE`] bytes is refused when it gets that long, and what follows of it is skipped without being
//! kept.

use std::fmt;

use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

/// The longest message that is read. QEMU takes 64 MiB; the longest command that makes sense is a few KiB.
pub const MAX_MESSAGE: usize = 1 << 20;

/// Finds the messages in a stream.
#[derive(Debug, Default)]
pub struct Reader {
    state: State,
    message: Vec<u8>,
    braces: i64,
    brackets: i64,
    /// The message has been refused; the rest of it is of no interest.
    skipping: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    /// Between two messages.
    #[default]
    Between,
    /// In a message, between strings.
    Within,
    /// In a string that began with this quote.
    Text(u8),
    /// After a backslash in such a string.
    Escape(u8),
    /// In a word that is a message of its own.
    Word,
    /// After an error, until something that may begin a message.
    Lost,
}

impl Reader {
    /// Takes bytes off the front of `input` until a message is complete or known to be wrong; `None` when there are
    /// no more.
    pub fn next(&mut self, input: &mut &[u8]) -> Option<Result<Value, String>> {
        while let Some((&byte, rest)) = input.split_first() {
            if self.ends_word(byte) {
                if let Some(found) = self.finish() {
                    return Some(found);
                }
                continue;
            }
            let (found, rest) = match self.plain_text(input) {
                (run @ [_, ..], rest) => (self.push(run), rest),
                ([], _) => (self.take(byte), rest),
            };
            *input = rest;
            if found.is_some() {
                return found;
            }
        }
        None
    }

    /// Whether a word has ended before this byte, which belongs to what follows.
    fn ends_word(&self, byte: u8) -> bool {
        self.state == State::Word && (byte.is_ascii_whitespace() || is_structural(byte))
    }

    /// What of `input` is within a string and means nothing but itself, and what follows.
    fn plain_text<'a>(&self, input: &'a [u8]) -> (&'a [u8], &'a [u8]) {
        let plain = |byte: &u8| (b' '..0xfe).contains(byte) && !b"\"'\\\x7f".contains(byte);
        let run = match self.state {
            State::Text(_) => input.iter().take_while(|byte| plain(byte)).count(),
            _ => 0,
        };
        input.split_at(run)
    }

    fn take(&mut self, byte: u8) -> Option<Result<Value, String>> {
        let blank = matches!(byte, b' ' | b'\t' | b'\r' | b'\n');
        let resets = byte >= 0xfe || byte.is_ascii_control() && !blank;
        let in_text = matches!(self.state, State::Text(_) | State::Escape(_));
        if resets || in_text && byte < b' ' {
            let silent = self.skipping || self.state == State::Lost;
            let stray = self.stray(byte);
            // The rest of the line is still a part of the broken string if this was, say, a tabulator.
            self.restart();
            if !resets && byte == b'\t' {
                self.state = State::Lost;
            }
            return (!silent).then_some(Err(stray));
        }
        match self.state {
            State::Between | State::Lost => match byte {
                _ if blank && byte != b' ' && byte != b'\t' => self.state = State::Between,
                _ if blank => {}
                b'{' | b'[' => {
                    self.state = State::Within;
                    return self.bracket(byte);
                }
                b'}' | b']' | b',' | b':' => {
                    let lost = std::mem::take(&mut self.state) == State::Lost;
                    return (!lost).then(|| Err("JSON parse error, expecting value".to_owned()));
                }
                _ if self.state == State::Lost => {}
                b'"' | b'\'' => {
                    self.state = State::Text(byte);
                    return self.push(b"\"");
                }
                _ => {
                    self.state = State::Word;
                    return self.push(&[byte]);
                }
            },
            State::Within => match byte {
                b'"' | b'\'' => {
                    self.state = State::Text(byte);
                    return self.push(b"\"");
                }
                b'{' | b'[' | b'}' | b']' => return self.bracket(byte),
                _ => return self.push(&[byte]),
            },
            State::Text(quote) => match byte {
                b'\\' => self.state = State::Escape(quote),
                _ if byte == quote => {
                    let refused = self.push(b"\"");
                    if refused.is_some() || self.depth() > 0 {
                        self.state = State::Within;
                        return refused;
                    }
                    return self.finish();
                }
                // Within single quotes only.
                b'"' => {
                    let refused = self.push(b"\\");
                    return refused.or_else(|| self.push(&[byte]));
                }
                _ => return self.push(&[byte]),
            },
            State::Escape(quote) => {
                self.state = State::Text(quote);
                if byte != b'\'' {
                    let refused = self.push(b"\\");
                    if refused.is_some() {
                        return refused;
                    }
                }
                return self.push(&[byte]);
            }
            State::Word => return self.push(&[byte]),
        }
        None
    }

    fn depth(&self) -> i64 {
        self.braces.saturating_add(self.brackets)
    }

    /// A bracket opens or closes; the message is complete when all are closed, or when one too many is.
    fn bracket(&mut self, byte: u8) -> Option<Result<Value, String>> {
        let count = match byte {
            b'{' | b'}' => &mut self.braces,
            _ => &mut self.brackets,
        };
        let step = if matches!(byte, b'{' | b'[') { 1 } else { -1 };
        *count = count.saturating_add(step);
        let complete =
            self.braces < 0 || self.brackets < 0 || (self.braces, self.brackets) == (0, 0);
        let refused = self.push(&[byte]);
        match complete {
            true => refused.or_else(|| self.finish()),
            false => refused,
        }
    }

    fn push(&mut self, bytes: &[u8]) -> Option<Result<Value, String>> {
        if self.skipping {
            return None;
        }
        if self.message.len() + bytes.len() > MAX_MESSAGE {
            self.skipping = true;
            self.message = Vec::new();
            return Some(Err(format!(
                "JSON message size limit exceeded: a message may have {MAX_MESSAGE} bytes"
            )));
        }
        self.message.extend(bytes);
        None
    }

    fn finish(&mut self) -> Option<Result<Value, String>> {
        let skipped = self.skipping;
        let word = self.state == State::Word;
        let message = std::mem::take(&mut self.message);
        self.restart();
        (!skipped).then(|| {
            serde_json::from_slice::<Unambiguous>(&message)
                .map(|value| value.0)
                .map_err(|error| match word {
                    true => format!("JSON parse error, invalid keyword '{}'", excerpt(&message)),
                    false => format!("JSON parse error, {error}"),
                })
        })
    }

    /// The message for a byte that cannot be where it is.
    fn stray(&self, byte: u8) -> String {
        let mut text = self.message.clone();
        text.push(byte);
        let start = text.iter().rposition(|b| *b == b'"').unwrap_or(0);
        let text = text.get(start..).unwrap_or_default();
        format!("JSON parse error, stray '{}'", excerpt(text))
    }

    fn restart(&mut self) {
        *self = Reader::default();
    }
}

fn is_structural(byte: u8) -> bool {
    matches!(byte, b'{' | b'}' | b'[' | b']' | b',' | b':' | b'"' | b'\'')
}

/// What to show of bytes that may be many, and anything.
fn excerpt(bytes: &[u8]) -> String {
    const SHOWN: usize = 40;
    let mut shown = String::new();
    for &byte in bytes.iter().take(SHOWN) {
        match byte {
            b' '..=b'~' => shown.push(char::from(byte)),
            _ => shown.extend(std::ascii::escape_default(byte).map(char::from)),
        }
    }
    let more = if bytes.len() > SHOWN { "..." } else { "" };
    shown + more
}

/// A value in which no object has a key twice: two readers would disagree about it.
struct Unambiguous(Value);

impl<'de> Deserialize<'de> for Unambiguous {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Anything).map(Unambiguous)
    }
}

struct Anything;

impl<'de> Visitor<'de> for Anything {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value)
            .map(Value::Number)
            .ok_or_else(|| E::custom("number out of range"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(Unambiguous(value)) = seq.next_element()? {
            values.push(value);
        }
        Ok(Value::Array(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut members = Map::new();
        while let Some(key) = map.next_key::<String>()? {
            if members.contains_key(&key) {
                return Err(de::Error::custom("duplicate key"));
            }
            let Unambiguous(value) = map.next_value()?;
            members.insert(key, value);
        }
        Ok(Value::Object(members))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn read(text: &[u8]) -> Vec<Result<Value, String>> {
        let mut reader = Reader::default();
        let mut input = text;
        std::iter::from_fn(|| reader.next(&mut input)).collect()
    }

    fn values(text: &str) -> Vec<Value> {
        read(text.as_bytes())
            .into_iter()
            .map(|value| value.expect(text))
            .collect()
    }

    fn error(text: &[u8]) -> String {
        match read(text).as_slice() {
            [Err(error)] => error.clone(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn messages_need_no_separator_and_may_span_lines() {
        assert_eq!(
            values("{\"a\":1}{\"b\":\r\n[2,{}]}\t [3] \"x\" 4\n{}"),
            [
                json!({"a": 1}),
                json!({"b": [2, {}]}),
                json!([3]),
                json!("x"),
                json!(4),
                json!({})
            ]
        );
    }

    #[test]
    fn brackets_and_quotes_in_strings_mean_nothing() {
        assert_eq!(
            values(r#"{"a":"}\"]{\\"} {"b":"'"}"#),
            [json!({"a": "}\"]{\\"}), json!({"b": "'"})]
        );
    }

    #[test]
    fn strings_may_stand_in_single_quotes() {
        assert_eq!(
            values(r#"{'a':'say "hi"\n', "b":'it\'s'}"#),
            [json!({"a": "say \"hi\"\n", "b": "it's"})]
        );
    }

    #[test]
    fn an_incomplete_message_is_waited_for() {
        assert!(read(b"{\"a\":[1,\n").is_empty());
        assert!(read(b"{\"a").is_empty());
        assert!(read(b"12").is_empty());
    }

    #[test]
    fn what_is_wrong_is_said_and_the_next_message_is_read() {
        let wrong: &[(&[u8], &str)] = &[
            (
                b"{\"a\":1 \"b\"}",
                "JSON parse error, expected `,` or `}` at line 1 column 8",
            ),
            (b"}", "JSON parse error, expecting value"),
            (b"foo ", "JSON parse error, invalid keyword 'foo'"),
            (b"\"a\n", "JSON parse error, stray '\"a\\n'"),
            (b"{\"a\":\"b\x01", "JSON parse error, stray '\"b\\x01'"),
            (b"{\"a\":\xff", "JSON parse error, stray '\":\\xff'"),
            (
                b"{\"a\":1,\"a\":2}",
                "JSON parse error, duplicate key at line 1 column 10",
            ),
            (
                b"{]",
                "JSON parse error, key must be a string at line 1 column 2",
            ),
            (
                b"{\"a\":\"\\x41\"}",
                "JSON parse error, invalid escape at line 1 column 8",
            ),
            (
                b"{\"a\":1e999}",
                "JSON parse error, number out of range at line 1 column 10",
            ),
            (
                b"{\"\xc3\":1}",
                "JSON parse error, invalid unicode code point at line 1 column 3",
            ),
        ];
        for (text, message) in wrong {
            assert_eq!(error(text), *message);
            let mut followed = text.to_vec();
            followed.extend(b"\n{\"next\":1}");
            assert_eq!(
                read(&followed).last(),
                Some(&Ok(json!({"next": 1}))),
                "{message}"
            );
        }
    }

    #[test]
    fn a_byte_that_no_json_has_ends_whatever_it_meets() {
        let all = read(b"{\"a\":[{\"b\":\xff{\"c\":1}");
        assert_eq!(all.len(), 2);
        assert_eq!(all[1], Ok(json!({"c": 1})));
    }

    #[test]
    fn depth_is_limited() {
        let deep = "[".repeat(200) + &"]".repeat(200);
        assert!(error(deep.as_bytes()).contains("recursion limit"));
    }

    #[test]
    fn a_message_that_is_too_long_is_refused_once_and_not_kept() {
        let mut reader = Reader::default();
        let mut errors = 0;
        let chunk = vec![b'x'; 1 << 16];
        let mut feed = |reader: &mut Reader, mut bytes: &[u8]| {
            let mut last = None;
            while let Some(found) = reader.next(&mut bytes) {
                errors += usize::from(found.is_err());
                last = Some(found);
            }
            last
        };
        feed(&mut reader, b"{\"execute\":\"");
        for _ in 0..64 {
            feed(&mut reader, &chunk);
            assert!(reader.message.capacity() <= 2 * MAX_MESSAGE);
        }
        feed(&mut reader, b"\"}");
        let after = feed(&mut reader, b"{\"next\":1}");
        assert_eq!(after, Some(Ok(json!({"next": 1}))));
        assert_eq!(errors, 1);
    }

    #[test]
    fn the_longest_message_is_read() {
        let text = "x".repeat(MAX_MESSAGE - 2);
        assert_eq!(values(&format!("\"{text}\"")), [json!(text)]);
        assert_eq!(
            error(format!("\"{text}x\"").as_bytes()),
            "JSON message size limit exceeded: a message may have 1048576 bytes"
        );
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            "\\PC{0,8}|[\"'{}\\[\\],:\\\\]{0,6}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map("\\PC{0,5}", inner, 0..4)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        #[test]
        fn what_is_written_is_read_however_it_is_cut(
            sent in prop::collection::vec((any_json(), prop::sample::select(vec![" ", "\n", "\r\n", "\t"])), 0..5),
            cuts in prop::collection::vec(1usize..9, 1..20),
        ) {
            let mut text = String::new();
            for (value, space) in &sent {
                text.push_str(&value.to_string());
                text.push_str(space);
            }
            let mut reader = Reader::default();
            let mut got = Vec::new();
            let mut rest = text.as_bytes();
            for cut in cuts.iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                let (mut piece, after) = rest.split_at((*cut).min(rest.len()));
                while let Some(found) = reader.next(&mut piece) {
                    got.push(found);
                }
                rest = after;
            }
            let sent: Vec<_> = sent.into_iter().map(|(value, _)| Ok(value)).collect();
            prop_assert_eq!(got, sent);
        }

        #[test]
        fn after_any_bytes_a_reset_makes_the_next_message_readable(
            bytes in prop::collection::vec(prop_oneof![any::<u8>(), prop::sample::select(b"{}[]\"':,\\\n\xff1".to_vec())], 0..200)
        ) {
            let mut all = bytes;
            all.extend(b"\xff\n{\"next\":1}");
            let found = read(&all);
            prop_assert_eq!(found.last(), Some(&Ok(json!({"next": 1}))));
        }
    }
}

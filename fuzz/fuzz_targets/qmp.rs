//! Any bytes, however they are cut, are read as messages or refused; nothing is kept without bound, the cuts make no
//! difference, and after a byte that no JSON has the next message is read.
#![no_main]

use libfuzzer_sys::fuzz_target;
use lunar_monitor::json::{MAX_MESSAGE, Reader};

fuzz_target!(|input: (Vec<u8>, Vec<u8>)| {
    let (bytes, cuts) = input;
    let mut whole = Reader::default();
    let together = read(&mut whole, &bytes);

    let mut pieces = Reader::default();
    let mut apart = Vec::new();
    let mut rest = bytes.as_slice();
    for cut in cuts {
        let (piece, after) = rest.split_at(usize::from(cut).min(rest.len()));
        apart.extend(read(&mut pieces, piece));
        rest = after;
    }
    apart.extend(read(&mut pieces, rest));
    assert_eq!(together, apart);

    let next = read(&mut whole, b"\xff\n{\"next\":1}");
    assert_eq!(next.last(), Some(&Ok(serde_json::json!({"next": 1}))));
});

fn read(reader: &mut Reader, mut bytes: &[u8]) -> Vec<Result<serde_json::Value, String>> {
    let mut found = Vec::new();
    while let Some(message) = reader.next(&mut bytes) {
        if let Err(error) = &message {
            assert!(error.len() < 1000 && error.len() < MAX_MESSAGE);
        }
        found.push(message);
    }
    assert!(bytes.is_empty());
    found
}

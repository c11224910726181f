//! Fuzz targets: parsing a Redis server's answers.

use redis::Value;

use super::diagnose::Info;
use super::resp::ReplyBuffer;
use super::snapshot;

pub(crate) fn fuzz(bytes: &[u8]) {
    // In two pieces, as a network may bring them.
    let (first, second) = bytes.split_at(bytes.len() / 2);
    let mut inbox = ReplyBuffer::default();
    for piece in [first, second] {
        inbox.received.extend(piece);
        loop {
            match inbox.next() {
                Ok(Some(value)) => understood(value),
                Ok(None) => break,
                Err(_) => return,
            }
        }
    }
}

fn understood(value: Value) {
    if let Value::BulkString(text) = &value {
        let info = Info::new(String::from_utf8_lossy(text).into_owned());
        let _ = info.evicts();
    }
    snapshot::fuzz(value);
}

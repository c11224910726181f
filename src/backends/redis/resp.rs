//! Reading answers of the Redis protocol as they come, each up to a size that a semaphore can have.
//! Anything else or larger is refused as soon as that shows, because anything may answer at a URL.

use redis::{Value, parse_redis_value};

use crate::permits::error::{OtherProtocol, StoreError};

/// The longest line, and the longest text: a holder's record or what a server says of itself.
const LONGEST_LINE: usize = 64 << 10;
const LONGEST_TEXT: usize = 1 << 20;

/// The most parts of an answer, and its bytes: enough for a semaphore with hundreds of thousands of
/// waiters.
const MOST_PARTS: usize = 1 << 20;
const LARGEST: usize = 32 << 20;

/// What arrived and has not been read yet.
#[derive(Default)]
pub(super) struct ReplyBuffer {
    pub(super) received: Vec<u8>,
    /// How far the first answer is known, and how many of its parts come after that.
    known: usize,
    to_come: usize,
    parts: usize,
}

impl ReplyBuffer {
    /// The first answer, if all of it is there.
    pub(super) fn next(&mut self) -> Result<Option<Value>, StoreError> {
        let Some(length) = self.whole()? else { return Ok(None) };
        let answer = parse_redis_value(&self.received[..length]);
        self.received.drain(..length);
        answer.map(Some).map_err(|_| foreign(&[]))
    }

    /// How long the first answer is, if all of it is there: a line for each part, and after some of
    /// them a text.
    fn whole(&mut self) -> Result<Option<usize>, StoreError> {
        if self.known == 0 {
            (self.to_come, self.parts) = (1, 0);
        }
        while self.to_come > 0 {
            let Some(rest) = self.received.get(self.known..) else { return Ok(None) };
            let Some(kind) = rest.first() else { return Ok(None) };
            if !b"+-:$*".contains(kind) {
                return Err(foreign(rest));
            }
            let end = rest.iter().take(LONGEST_LINE).position(|byte| *byte == b'\n');
            let Some(end) = end else {
                return if rest.len() < LONGEST_LINE { Ok(None) } else { Err(StoreError::TooMuch) };
            };
            let line = &rest[1..end];
            self.known += end + 1;
            self.to_come -= 1;
            if let Some(number) = number(*kind, line)? {
                if *kind == b'$' {
                    if number > LONGEST_TEXT {
                        return Err(StoreError::TooMuch);
                    }
                    self.known += number + 2;
                } else {
                    self.parts = self.parts.saturating_add(number);
                    self.to_come = self.to_come.saturating_add(number);
                }
            }
            if self.parts > MOST_PARTS || self.known > LARGEST {
                return Err(StoreError::TooMuch);
            }
        }
        if self.known > self.received.len() {
            return Ok(None);
        }
        Ok(Some(std::mem::take(&mut self.known)))
    }
}

/// How long the text after a line is, or how many parts follow. None: there are none.
fn number(kind: u8, line: &[u8]) -> Result<Option<usize>, StoreError> {
    if !b"$*".contains(&kind) {
        return Ok(None);
    }
    match std::str::from_utf8(line.trim_ascii_end()) {
        Ok("-1") => Ok(None),
        Ok(number) if number.bytes().all(|byte| byte.is_ascii_digit()) => {
            // A number too long to be read is too much as well.
            number
                .parse()
                .map(Some)
                .map_err(|_| if number.is_empty() { foreign(line) } else { StoreError::TooMuch })
        }
        _ => Err(foreign(line)),
    }
}

/// The server is no Redis. The first bytes may show what it is instead.
fn foreign(bytes: &[u8]) -> StoreError {
    // The beginning of a TLS alert record.
    const ALERT: &[u8] = &[0x15, 0x03];
    StoreError::NotRedis(if bytes.starts_with(ALERT) {
        Some(OtherProtocol::Tls)
    } else if bytes.starts_with(b"HTTP/") {
        Some(OtherProtocol::Http)
    } else {
        None
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply_buffer(bytes: &[u8]) -> ReplyBuffer {
        ReplyBuffer { received: bytes.to_vec(), ..ReplyBuffer::default() }
    }

    #[test]
    fn an_answer_is_read_when_all_of_it_is_there() {
        for answer in [
            "+OK\r\n",
            "-ERR no\r\n",
            ":-1\r\n",
            "$-1\r\n",
            "$0\r\n\r\n",
            "$4\r\na\r\nb\r\n",
            "*-1\r\n",
            "*0\r\n",
            "*3\r\n:1\r\n*2\r\n$1\r\nx\r\n+y\r\n$2\r\nab\r\n",
        ] {
            let bytes = format!("{answer}:7\r\n").into_bytes();
            assert_eq!(reply_buffer(&bytes).whole().unwrap(), Some(answer.len()), "{answer}");
            let mut slowly = ReplyBuffer::default();
            for byte in &bytes[..answer.len() - 1] {
                slowly.received.push(*byte);
                assert_eq!(slowly.whole().unwrap(), None, "{answer}");
            }
            slowly.received.extend(&bytes[answer.len() - 1..]);
            assert!(slowly.next().unwrap().is_some(), "{answer}");
            assert_eq!(slowly.next().unwrap(), Some(Value::Int(7)), "{answer}");
        }
    }

    #[test]
    fn what_is_no_answer_or_too_much_is_refused_at_once() {
        let refused = |bytes: &[u8]| reply_buffer(bytes).next().expect_err("it is refused");
        assert_eq!(
            refused(b"HTTP/1.1 400 Bad Request\r\n"),
            StoreError::NotRedis(Some(OtherProtocol::Http))
        );
        assert_eq!(refused(b"SSH-2.0-OpenSSH_9\r\n"), StoreError::NotRedis(None));
        assert_eq!(
            refused(&[0x15, 0x03, 0x03, 0, 2]),
            StoreError::NotRedis(Some(OtherProtocol::Tls))
        );
        for text in ["$x\r\n", "$\r\n", "*-2\r\n", "\r\n", "*1\r\nx"] {
            assert_eq!(refused(text.as_bytes()), StoreError::NotRedis(None), "{text}");
        }
        for text in [
            "$1048577\r\n",
            "$18446744073709551615\r\n",
            "$99999999999999999999\r\n",
            "*1048577\r\n",
            "*18446744073709551615\r\n",
            "*1048576\r\n*1\r\n",
        ] {
            assert_eq!(refused(text.as_bytes()), StoreError::TooMuch, "{text}");
        }
        let long = [b"+", vec![b'a'; LONGEST_LINE].as_slice()].concat();
        assert_eq!(refused(&long), StoreError::TooMuch);
        let full = "$1048576\r\n".to_owned() + &"x".repeat(LONGEST_TEXT) + "\r\n";
        assert_eq!(refused(format!("*40\r\n{}", full.repeat(40)).as_bytes()), StoreError::TooMuch);
        let deep = "*1\r\n".repeat(1000) + ":1\r\n";
        assert!(reply_buffer(deep.as_bytes()).next().is_err());
    }
}

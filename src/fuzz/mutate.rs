//! Random changes to bytes, as a fuzzer without coverage makes them. The same for the same seed.

/// Repeatable random numbers.
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed | 1)
    }

    /// A number below `end`, or 0.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap_or(0) % end.max(1)
    }
}

/// Texts that parsers stumble over.
const ODD: [&[u8]; 32] = [
    b"0",
    b"-1",
    b"1e999",
    b"nan",
    b"inf",
    b"-inf",
    b"4294967296",
    b"9223372036854775807",
    b"9223372036854775808",
    b"18446744073709551615",
    b"18446744073709551616",
    b"99999999999999999999999999",
    b"null",
    b"true",
    b"{}",
    b"[]",
    b"[[[[[[[[[[[[[[[[",
    b"\"",
    b"\\u0000",
    b"\\ud800",
    b"\0",
    b"\r\n",
    b"\n",
    b" ",
    b"%",
    b"%00",
    b"\x1b]0;x\x07",
    b"\xff\xfe",
    b"\xe2\x80\xae",
    b"\xe2\x80\xa8",
    b"*1\r\n*1\r\n*1\r\n",
    b"$-1\r\n",
];

/// The longest result.
const LONGEST: usize = 64 << 10;

/// One of these with a few things changed.
pub(crate) fn changed(corpus: &[Vec<u8>], dice: &mut Dice) -> Vec<u8> {
    let mut bytes = corpus[dice.below(corpus.len())].clone();
    for _ in 0..=dice.below(4) {
        let at = dice.below(bytes.len() + 1);
        let end = (at + dice.below(12)).min(bytes.len());
        match dice.below(9) {
            0 => bytes.truncate(at),
            1 => drop(bytes.drain(at..end)),
            2 => {
                let byte = u8::try_from(dice.below(256)).unwrap_or(0);
                bytes.get_mut(at).into_iter().for_each(|there| *there = byte);
            }
            3 => bytes.get_mut(at).into_iter().for_each(|there| *there ^= 1 << dice.below(8)),
            4 => drop(bytes.splice(at..end, ODD[dice.below(ODD.len())].iter().copied())),
            // Whole words and numbers, as these have meaning.
            5 => {
                let word = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'-';
                let rest = bytes.get(at..).unwrap_or_default();
                let length = rest.iter().take_while(|byte| word(byte)).count();
                drop(bytes.splice(at..at + length, ODD[dice.below(ODD.len())].iter().copied()));
            }
            6 => {
                let again = bytes[at..end].repeat(1 + dice.below(200));
                drop(bytes.splice(at..at, again));
            }
            7 => {
                let other = &corpus[dice.below(corpus.len())];
                let from = dice.below(other.len() + 1);
                bytes.truncate(at);
                bytes.extend(&other[from..]);
            }
            _ => {
                let other = &corpus[dice.below(corpus.len())];
                drop(bytes.splice(at..at, other.iter().copied()));
            }
        }
        bytes.truncate(LONGEST);
    }
    bytes
}

//! Seals prove that a place in a queue was given to the client that claims it: a MAC over name,
//! identity and number, made with a key that only the server has.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Read};

use ring::hmac;
use ring::rand::{SecureRandom, SystemRandom};
use rustix::fs::{OFlags, renameat};
use subtle::ConstantTimeEq;
use uuid::Uuid;

use crate::files::create::{self, UnsafeDirectory};

/// The file of the key in a state directory, and that of its replacement in progress.
const KEY: &str = "seal-key";
const ASIDE: &str = "seal-key.new";

/// The length of a key, in bytes.
const LENGTH: usize = 32;

/// Sealed text begins with its kind.
const PLACE: &[u8] = b"place\0";
const SERVER: &[u8] = b"server\0";

/// A key, and the seals that it makes.
#[derive(Debug)]
pub(crate) struct Seals {
    key: hmac::Key,
    server: Uuid,
}

impl Seals {
    /// With a key that is forgotten when the server ends.
    pub(crate) fn for_this_process() -> Self {
        Self::with(&random().expect("the kernel has randomness"))
    }

    /// With the key in a state directory, which is made if need be. An incomplete key is made anew:
    /// then no earlier place is honoured, but no permit is granted twice.
    pub(super) fn open(directory: &File) -> Result<Self, UnsafeDirectory> {
        if let Some(file) = create::open_private(directory, KEY, OFlags::RDONLY)? {
            let mut bytes = Vec::new();
            file.take(LENGTH as u64 + 1).read_to_end(&mut bytes)?;
            if let Ok(key) = <[u8; LENGTH]>::try_from(bytes) {
                return Ok(Self::with(&key));
            }
        }
        let key = random()?;
        create::write_aside(directory, ASIDE, &key)?;
        renameat(directory, ASIDE, directory, KEY)?;
        directory.sync_all()?;
        Ok(Self::with(&key))
    }

    fn with(key: &[u8; LENGTH]) -> Self {
        let key = hmac::Key::new(hmac::HMAC_SHA256, key);
        let server = hmac::sign(&key, SERVER);
        let server = server
            .as_ref()
            .first_chunk()
            .map_or(Uuid::nil(), |half| uuid::Builder::from_random_bytes(*half).into_uuid());
        Self { key, server }
    }

    /// Which server this is, as long as it remembers: another one after a restart that forgets all.
    pub(crate) fn server(&self) -> Uuid {
        self.server
    }

    /// The seal that the client with this identity gets with a place.
    pub(crate) fn of(&self, name: &str, id: Uuid, ticket: u64) -> String {
        let mut context = hmac::Context::with_key(&self.key);
        // Only the last part has a length of its own.
        let parts = [PLACE, id.as_bytes(), &ticket.to_be_bytes(), name.as_bytes()];
        for part in parts {
            context.update(part);
        }
        let mut seal = String::with_capacity(2 * LENGTH);
        for byte in context.sign().as_ref() {
            let _ = write!(seal, "{byte:02x}");
        }
        seal
    }

    /// Whether a client was given that place. Takes the same time whichever character is wrong.
    pub(crate) fn is_right(&self, name: &str, id: Uuid, ticket: u64, seal: &str) -> bool {
        self.of(name, id, ticket).as_bytes().ct_eq(seal.as_bytes()).into()
    }
}

fn random() -> io::Result<[u8; LENGTH]> {
    let mut bytes = [0; LENGTH];
    let filled = SystemRandom::new().fill(&mut bytes);
    filled.map_err(|_| io::Error::other("the kernel gives no random numbers"))?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use tempfile::TempDir;

    use super::*;

    #[test]
    fn a_seal_is_right_for_one_place_of_one_client_at_one_name_and_one_server() {
        let seals = Seals::with(&[7; LENGTH]);
        let (id, other) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let seal = seals.of("x", id, 9);
        assert!(seal.len() == 64 && seal.bytes().all(|byte| byte.is_ascii_hexdigit()), "{seal}");
        assert!(seals.is_right("x", id, 9, &seal));
        for (name, id, ticket) in [("y", id, 9), ("x", other, 9), ("x", id, 8), ("", id, 9)] {
            assert!(!seals.is_right(name, id, ticket, &seal), "{name} {id} {ticket}");
        }
        let changed = |at: usize| {
            let digit = if seal.as_bytes()[at] == b'0' { "1" } else { "0" };
            format!("{}{digit}{}", &seal[..at], &seal[at + 1..])
        };
        let long = format!("{seal}0");
        for wrong in ["", "ü", &seal[..63], &long, &changed(0), &changed(63), &seal.to_uppercase()]
        {
            assert!(!seals.is_right("x", id, 9, wrong), "{wrong}");
        }
        let another = Seals::for_this_process();
        assert!(!another.is_right("x", id, 9, &seal) && another.server() != seals.server());
        assert_ne!(Seals::for_this_process().of("x", id, 9), another.of("x", id, 9));
    }

    #[test]
    fn a_key_lies_in_the_state_directory_for_its_owner_alone_and_is_made_anew_if_it_is_not_whole() {
        let directory = TempDir::new().unwrap();
        let file = File::open(directory.path()).unwrap();
        let path = directory.path().join(KEY);
        let seal = || Seals::open(&file).unwrap().of("x", Uuid::nil(), 1);
        // What a crash left is not written to.
        fs::write(directory.path().join(ASIDE), "half").unwrap();
        let first = seal();
        assert_eq!(seal(), first, "it is read again");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
        let key = fs::read(&path).unwrap();
        assert_eq!(key.len(), LENGTH);
        for bytes in [&b""[..], &key[1..], &[&key[..], b"\n"].concat()] {
            fs::write(&path, bytes).unwrap();
            let anew = seal();
            assert!(anew != first && anew == seal(), "{bytes:?}");
        }
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
        fs::rename(&path, directory.path().join("elsewhere")).unwrap();
        symlink("elsewhere", &path).unwrap();
        assert!(
            matches!(Seals::open(&file), Err(UnsafeDirectory::Unsafe(_))),
            "a link is not followed"
        );
    }
}

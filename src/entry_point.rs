//! The entrance of the program, from the words of its command line to its exit code.

use std::ffi::{OsString, c_char, c_int};

use crate::cli::messages::FatalError;
use crate::console::{Console, Loudness};
use crate::supervise::signals;
use crate::{commands, exit, sys};

/// What `main` does.
///
/// # Safety
///
/// `count` and `words` are what the C library hands to a `main`, and nothing of the program ran before.
#[expect(unsafe_code, reason = "the words of the command line come as pointers")]
pub unsafe fn main(count: c_int, words: *const *const c_char) -> c_int {
    if !signals::record() {
        return exit::Failure::Internal.code().into();
    }
    // SAFETY: the caller promises it.
    run(&unsafe { sys::arguments(count, words) }).into()
}

/// From the command line to the exit code.
fn run(line: &[OsString]) -> u8 {
    // A defect of ours is still one of the documented codes; what it was has been printed.
    let Ok(done) = std::panic::catch_unwind(|| commands::dispatch(line)) else {
        return exit::Failure::Internal.code();
    };
    match done {
        Ok(exit) => exit.finish(),
        Err(error) => {
            Console::new(Loudness::Quiet).say(Loudness::Quiet, FatalError(&error));
            commands::class(&error).code()
        }
    }
}

//! Taking a permit that outlives this process.

use std::fmt::Write as _;
use std::io::{self, Write as _};

use anyhow::Context;
use serde::Serialize;

use super::nested::{held_around, outer_permits};
use super::runtime::{block_on, cannot_write, connect};
use super::waiting::{GIVING_BACK, WaitOutcome, acquire_request, wait_in_turn};
use crate::cli::messages::{Detail, Output, Warning};
use crate::console::{Console, Loudness};
use crate::exit::Exit;
use crate::permits::{AcquireRequest, Lease};
use crate::settings::{AcquireOutput, AcquireSettings};
use crate::supervise::guardian::FrontProcess;
use crate::supervise::signals::HandlersInstalled;
use crate::user::User;

pub(super) fn run(settings: &AcquireSettings, user: &User) -> anyhow::Result<Exit> {
    let caught = HandlersInstalled::install().context("cannot listen to signals")?;
    let acquire_request = acquire_request(&settings.request, user, true);
    block_on(acquire(settings, user, &acquire_request, caught))?
}

async fn acquire(
    settings: &AcquireSettings,
    user: &User,
    acquire_request: &AcquireRequest,
    caught: HandlersInstalled,
) -> anyhow::Result<Exit> {
    let AcquireSettings { request, printed, .. } = settings;
    let mut signals = caught.listen().context("cannot listen to signals")?;
    let mut console = Console::new(request.loudness);
    let backend = connect(&request.location, user)?;
    if !outer_permits(&acquire_request.name).is_empty() {
        console.say(Loudness::Normal, Warning::HeldAround(&acquire_request.name));
    }
    let (front_process, console) = (FrontProcess::Itself, &mut console);
    let turned = wait_in_turn(
        request,
        None,
        &*backend,
        acquire_request,
        &front_process,
        &mut signals,
        console,
    )
    .await?;
    let lease = match turned {
        WaitOutcome::Granted(lease) => lease,
        WaitOutcome::Outer(_) => unreachable!("a permit that outlives us is asked for"),
        WaitOutcome::Away(exit) => return Ok(exit),
    };
    let url = backend.url();
    console.say(Loudness::Verbose, Detail::Backend(&url));
    console.say(Loudness::Verbose, Detail::Holding(lease.permit()));
    let text = text(&*lease, &url, *printed);
    let mut stdout = io::stdout().lock();
    if let Err(error) = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        // The caller never learned of the permit.
        if let Err(error) = lease.discard(GIVING_BACK).await {
            console.say(Loudness::Normal, Warning::NotReleased(&error));
        }
        return Err(cannot_write(error));
    }
    Ok(Exit::Success)
}

/// The JSON document. Fields are only ever added; a change of meaning is a new version.
#[derive(Serialize)]
struct AcquireJson<'a> {
    version: u32,
    permit: String,
    name: &'a str,
    fencing_token: Option<u64>,
    ttl_ms: Option<u128>,
    backend: &'a str,
}

fn text(lease: &dyn Lease, url: &str, printed: AcquireOutput) -> String {
    let permit = lease.permit();
    match printed {
        AcquireOutput::Plain => format!("{permit}\n"),
        AcquireOutput::Json => {
            let document = AcquireJson {
                version: 1,
                permit: permit.to_string(),
                name: permit.name.as_str(),
                fencing_token: permit.token,
                ttl_ms: lease.validity().map(|validity| validity.borrow().ttl.as_millis()),
                backend: url,
            };
            Output::document(&document).expect("plain data").text().into()
        }
        AcquireOutput::Shell => {
            let held = permit.with_backend(url);
            let held = held_around().map_or(held.clone(), |outer| format!("{outer} {held}"));
            let mut text = format!("export SEMRUN_PERMIT={}\n", quoted(&permit.to_string()));
            if let Some(token) = permit.token {
                let _ = writeln!(text, "export SEMRUN_FENCING_TOKEN={token}");
            }
            let _ = writeln!(text, "export SEMRUN_HELD={}", quoted(&held));
            text
        }
    }
}

/// As one word of a shell.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_is_in_a_name_is_one_word_of_a_shell() {
        assert_eq!(quoted("a b"), "'a b'");
        assert_eq!(quoted("it's $(x)"), r"'it'\''s $(x)'");
    }
}

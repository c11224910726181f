//! Shares a semaphore with a shell script: both write to one file, never at the same time.
//!
//!     cargo run --example library &
//!     semrun --backend file:///tmp/shared-permits --name report -- sh -c 'echo shell >> /tmp/report'

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::io::Write;
use std::time::Duration;

use semrun::{Lost, Semaphore};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let url = std::env::args().nth(1).unwrap_or("file:///tmp/shared-permits".into());
    let path = std::env::args().nth(2).unwrap_or("/tmp/report".into());
    let semaphore = Semaphore::connect(&url, "report")?.label("library example");
    for client in semaphore.snapshot().await?.holders {
        println!("waiting for {} (pid {}, {})", client.label, client.pid, client.host);
    }
    let Some(mut permit) = semaphore.acquire_timeout(Duration::from_mins(1)).await? else {
        return Err("waited for a minute".into());
    };
    println!("fencing token {:?}", permit.fencing_token());
    tokio::select! {
        written = write(&path) => written?,
        // After that another holder may write.
        why = permit.lost() => return Err(match why {
            Lost::Revoking => "stopped: an operator revoked the permit".into(),
            why => format!("stopped: {why}").into(),
        }),
    }
    permit.release().await?;
    Ok(())
}

async fn write(path: &str) -> std::io::Result<()> {
    let mut report = std::fs::OpenOptions::new().create(true).append(true).open(path)?;
    for part in ["library begins", "library ends"] {
        writeln!(report, "{part}")?;
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    Ok(())
}

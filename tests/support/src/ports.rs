//! Ports for servers that go and come back.

use std::fs;
use std::net::TcpListener;
use std::sync::atomic::{AtomicU32, Ordering};

/// The lowest port that is given out. A member of a Redis Cluster takes the one 10,000 above its own
/// as well.
const LOWEST: u32 = 11_000;

/// A port that is free now, and that the kernel gives to no outgoing connection: one of those would
/// be in the way of a server that comes back after a kill. Each call gives another one; if another
/// process takes it meanwhile, the next will do.
pub(crate) fn free() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let count = lowest_outgoing().saturating_sub(LOWEST).max(1);
    // Test binaries that run at the same time begin at different places.
    let first = std::process::id().wrapping_mul(61);
    for _ in 0..count {
        let next = first.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
        let port = u16::try_from(LOWEST + next % count).unwrap();
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no free port from {LOWEST} on");
}

/// The lowest port that an outgoing connection may have.
fn lowest_outgoing() -> u32 {
    let range = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    range.split_whitespace().next().and_then(|lowest| lowest.parse().ok()).unwrap_or(32_768)
}

//! What a server tells its operator, as facts: that it is crowded, short of descriptors, cannot
//! write its journal, hears wrong keys or another version. The program that starts it has the words.

use std::io;
use std::net::IpAddr;

#[derive(Debug)]
pub(crate) enum ServerFact<'a> {
    /// Connections without a key are closed for others.
    Crowded,
    /// Connections cannot be taken now.
    NoDescriptors(io::Error),
    /// The disk refuses what has to be recorded, or takes it again.
    DoesNotRecord(&'a str),
    Records,
    /// So many from there. None: from addresses that are not counted one by one.
    WrongKeys {
        address: Option<IpAddr>,
        times: u64,
    },
    /// A client speaks this version of the protocol, which is not ours. It is told so itself.
    OtherVersion(&'a str),
}

//! Fuzz targets: parsing a cloud-semaphore server's answers.

use super::node_lease::ObserveAnswer;
use super::protocol::{RegisterReply, RegisterRequest, ReleaseReply, RevokeReply, ServerInfo};
use super::{lenient, parse_body};
use crate::backends::Name;

pub(crate) fn fuzz(bytes: &[u8]) {
    let name: Name = "x".parse().expect("a good name");
    if let Ok(look) = lenient::look(bytes) {
        let snapshot = look.snapshot(&name);
        assert!(snapshot.limit.is_none_or(|limit| (1..=10_000).contains(&limit)));
    }
    for one in lenient::page(bytes).into_iter().flat_map(|page| page.semaphores) {
        let _ = one.look.snapshot(&name);
    }
    if let Ok(told) = parse_body::<RegisterReply>(bytes).and_then(RegisterReply::validated) {
        let _ = (told.queue_status(), told.withheld());
    }
    let _ = parse_body::<ServerInfo>(bytes);
    let _ = parse_body::<RegisterRequest>(bytes);
    let _ = parse_body::<ReleaseReply>(bytes);
    let _ = parse_body::<RevokeReply>(bytes);
    let _ = ObserveAnswer::parse(bytes).map(|observed| observed.snapshot(&name));
}

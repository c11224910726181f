//! What a cloud-semaphore server answers, as a function of bytes.

use super::node_lease::ObserveAnswer;
use super::protocol::{RegisterReply, RegisterRequest, ReleaseReply, RevokeReply, ServerInfo};
use super::{lenient, understood};
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
    if let Ok(told) = understood::<RegisterReply>(bytes).and_then(RegisterReply::believed) {
        let _ = (told.standing(), told.withheld());
    }
    let _ = understood::<ServerInfo>(bytes);
    let _ = understood::<RegisterRequest>(bytes);
    let _ = understood::<ReleaseReply>(bytes);
    let _ = understood::<RevokeReply>(bytes);
    let _ = ObserveAnswer::parse(bytes).map(|observed| observed.snapshot(&name));
}

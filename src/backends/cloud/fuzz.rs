//! Fuzz targets: parsing a cloud-semaphore server's answers.

use super::original_server::lease::ObserveAnswer;
use super::protocol::{Event, ExecuteAnswer, Greeting, NamedRequest, ServerInfo, validated};
use super::{lenient, parse_body};
use crate::permits::Name;
use crate::request::Outcome;

pub(crate) fn fuzz(bytes: &[u8]) {
    let name: Name = "x".parse().expect("a good name");
    if let Ok(look) = lenient::look(bytes) {
        let snapshot = look.snapshot(&name);
        assert!(snapshot.limit.is_none_or(|limit| (1..=10_000).contains(&limit)));
    }
    for one in lenient::page(bytes).into_iter().flat_map(|page| page.semaphores) {
        let _ = one.look.snapshot(&name);
    }
    for answer in parse_body::<Vec<ExecuteAnswer>>(bytes).into_iter().flatten() {
        if let ExecuteAnswer::Reply(reply) = answer
            && let Ok(reply) = validated(*reply)
        {
            assert!(reply.outcome != Outcome::Holding || (1..=10_000).contains(&reply.terms.limit));
            let _ = reply.queue_status();
        }
    }
    let _ = parse_body::<ServerInfo>(bytes);
    let _ = parse_body::<Vec<NamedRequest>>(bytes);
    let _ = parse_body::<Greeting>(bytes);
    let _ = parse_body::<Event>(bytes);
    let _ = ObserveAnswer::parse(bytes).map(|observed| observed.snapshot(&name));
}

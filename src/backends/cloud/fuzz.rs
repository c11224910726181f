//! Fuzz targets: parsing a cloud-semaphore server's answers.

use super::node::Observed;
use super::wire::{About, Asking, Returned, Revoked, Told};
use super::{mending, understood};
use crate::backends::Name;

pub(crate) fn fuzz(bytes: &[u8]) {
    let name: Name = "x".parse().expect("a good name");
    if let Ok(look) = mending::look(bytes) {
        let snapshot = look.snapshot(&name);
        assert!(snapshot.limit.is_none_or(|limit| (1..=10_000).contains(&limit)));
    }
    for one in mending::page(bytes).into_iter().flat_map(|page| page.semaphores) {
        let _ = one.look.snapshot(&name);
    }
    if let Ok(told) = understood::<Told>(bytes).and_then(Told::believed) {
        let _ = (told.standing(), told.withheld());
    }
    let _ = understood::<About>(bytes);
    let _ = understood::<Asking>(bytes);
    let _ = understood::<Returned>(bytes);
    let _ = understood::<Revoked>(bytes);
    let _ = Observed::parse(bytes).map(|observed| observed.snapshot(&name));
}

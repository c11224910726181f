//! What clients may see of the semaphores of a server.

use std::ops::Bound;
use std::rc::Rc;

use uuid::Uuid;

use super::{COMING_BACK, MOST_LOOKS, MOST_PARTIES, Semaphores};
use crate::backends::cloud::protocol::{NamedSemaphore, SemaphorePage, SemaphoreView};
use crate::clock;
use crate::permits::json::millis;
use crate::serve::bearer::Bearer;

impl Semaphores {
    /// How the semaphores that are in use or pinned stand, for our clients: some of them, from the
    /// first after a name on, as far as the key is for them.
    pub(crate) fn page(&self, behind: &str, asks: &Bearer) -> SemaphorePage {
        let all = self.all.borrow();
        let rest = all.range::<str, _>((Bound::Excluded(behind), Bound::Unbounded));
        let matter = rest.filter(|(name, semaphore)| semaphore.is_in_use() && asks.is_for(name));
        let names: Vec<_> = matter.map(|(name, _)| Rc::clone(name)).take(MOST_LOOKS).collect();
        drop(all);
        let (mut page, mut parties) = (SemaphorePage::default(), 0);
        for name in &names {
            let look = self.look(name, asks);
            parties += look.holders.len() + look.waiters.len();
            page.semaphores.push(NamedSemaphore { name: name.to_string(), look });
            if parties >= MOST_PARTIES {
                break;
            }
        }
        page.more = page.semaphores.len() < names.len() || names.len() == MOST_LOOKS;
        page
    }

    /// How a semaphore stands, for our clients.
    pub(crate) fn look(&self, name: &Rc<str>, asks: &Bearer) -> SemaphoreView {
        let now = clock::now();
        let paused = self.paused().filter(|left| *left > COMING_BACK);
        let mut look = SemaphoreView { paused_ms: paused.map(millis), ..SemaphoreView::default() };
        self.change_known(name, |semaphore| {
            let changes = semaphore.ledger.expire(now);
            look = semaphore.look(now, asks);
            changes
        });
        look
    }

    /// About how many bytes it takes to tell how it stands.
    pub(crate) fn size(&self, name: &Rc<str>) -> usize {
        const EACH: usize = 150;
        self.all.borrow().get(name).map_or(0, |semaphore| semaphore.clients.len() * EACH)
    }

    /// How it stands, for clients of the original; none if no client ever registered there.
    pub(crate) fn observe(&self, name: &Rc<str>, asks: &Bearer) -> Option<String> {
        let all = self.all.borrow();
        Some(all.get(name)?.observed(name, asks))
    }

    /// The key of a client that registered, waits or holds there.
    pub(crate) fn taker(&self, name: &str, id: Uuid) -> Option<Rc<Bearer>> {
        Some(Rc::clone(&self.all.borrow().get(name)?.clients.get(&id)?.taker))
    }
}

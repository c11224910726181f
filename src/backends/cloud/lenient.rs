//! Reading a server's lists even if some entries are malformed: only these are replaced by
//! placeholders.

use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use uuid::Uuid;

use super::protocol::{ClientView, NamedSemaphore, SemaphorePage, SemaphoreView};

pub(super) fn look(body: &[u8]) -> serde_json::Result<SemaphoreView> {
    let mend = |look: &mut Value| mend_look(look);
    read(body, mend)
}

pub(super) fn page(body: &[u8]) -> serde_json::Result<SemaphorePage> {
    read(body, |page| {
        let Some(Value::Array(semaphores)) = page.get_mut("semaphores") else { return };
        for semaphore in &mut *semaphores {
            if !is::<NamedSemaphore>(semaphore)
                && let Some(look) = semaphore.get_mut("look")
            {
                mend_look(look);
            }
        }
        // Without a name there is nothing to show.
        semaphores.retain(is::<NamedSemaphore>);
    })
}

/// Nearly all answers need no mending, and are parsed at once.
fn read<T: DeserializeOwned>(body: &[u8], mend: impl FnOnce(&mut Value)) -> serde_json::Result<T> {
    serde_json::from_slice(body).or_else(|error| {
        let mut value = serde_json::from_slice(body).map_err(|_| error)?;
        mend(&mut value);
        serde_json::from_value(value)
    })
}

fn is<T: DeserializeOwned>(value: &Value) -> bool {
    T::deserialize(value).is_ok()
}

fn mend_look(look: &mut Value) {
    let Value::Object(look) = look else { return };
    for parties in ["holders", "waiters"] {
        if let Some(Value::Array(parties)) = look.get_mut(parties) {
            for party in parties.iter_mut().filter(|party| !is::<ClientView>(party)) {
                *party = json!({ "id": Uuid::nil() });
            }
        }
    }
    // Numbers that no semaphore has.
    let mut mend = |field: &str, good: fn(&Value) -> bool, odd: u64| {
        if let Some(value) = look.get_mut(field).filter(|value| !good(value)) {
            *value = odd.into();
        }
    };
    mend("limit", is::<Option<u32>>, 0);
    mend("ttl_ms", is::<Option<u64>>, u64::MAX);
    mend("paused_ms", is::<Option<u64>>, u64::MAX);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::permits::{Holder, Name};

    const GOOD: &str = r#"{"id":"1b4e28ba-2fa1-4d5e-883f-0016d3cca427","token":7,"record":{"permit":
        "1b4e28ba-2fa1-4d5e-883f-0016d3cca427","label":"l","host":"h","pid":1,"user":"u","since":1}}"#;

    #[test]
    fn what_is_odd_is_marked_and_hides_nothing_else() {
        let name: Name = "x".parse().unwrap();
        let body = |holder: &str, limit: &str| {
            format!(
                r#"{{"limit":{limit},"ttl_ms":5000,"paused_ms":null,"holders":[{GOOD},{holder},{GOOD}],"waiters":[]}}"#
            )
        };
        let century = GOOD.replace("\"token\"", "\"left_ms\":18446744073709551615,\"token\"");
        for odd in ["7", "null", "{}", r#"{"id":"x"}"#, &GOOD.replace(":1,", ":-1,"), &century] {
            let snapshot = look(body(odd, "3").as_bytes()).unwrap().snapshot(&name);
            assert_eq!((snapshot.limit, &snapshot.odd), (Some(3), &None), "{odd}");
            assert_eq!(snapshot.holders[1], Holder::unknown(), "{odd}");
            assert_eq!(snapshot.holders.iter().filter_map(Holder::token).count(), 2, "{odd}");
        }
        for limit in ["0", "-1", "10001", "4294967296", "\"3\"", "1.5"] {
            let snapshot = look(body(GOOD, limit).as_bytes()).unwrap().snapshot(&name);
            assert_eq!((snapshot.limit, snapshot.holders.len()), (None, 3), "{limit}");
            assert!(snapshot.odd.is_some(), "{limit}");
        }
        let semaphore = |name: &str, look: &str| format!(r#"{{"name":{name},"look":{look}}}"#);
        let (odd, good) = (body("{}", "-1"), body(GOOD, "1"));
        let semaphores =
            [semaphore("\"a\"", &odd), semaphore("7", &good), semaphore("\"b\"", &good)].join(",");
        let read = page(format!(r#"{{"more":false,"semaphores":[{semaphores}]}}"#).as_bytes());
        let names: Vec<_> = read.unwrap().semaphores.into_iter().map(|one| one.name).collect();
        assert_eq!(names, ["a", "b"]);
        assert!(look(b"{}").is_err() && look(b"[").is_err() && page(b"7").is_err());
    }
}

//! How times and defaults are written as JSON.

use std::time::Duration;

/// What need not be written.
pub(crate) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// A time as it is written.
pub(crate) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Times in whole milliseconds.
pub(crate) mod millis {
    use std::time::{Duration, SystemTime};

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(crate) trait Time {
        fn write(&self) -> Option<u64>;
        fn read(millis: Option<u64>) -> Self;
    }

    impl Time for Duration {
        fn write(&self) -> Option<u64> {
            Some(super::millis(*self))
        }

        fn read(millis: Option<u64>) -> Self {
            Self::from_millis(millis.unwrap_or(0))
        }
    }

    impl Time for Option<Duration> {
        fn write(&self) -> Option<u64> {
            self.map(super::millis)
        }

        fn read(millis: Option<u64>) -> Self {
            millis.map(Duration::from_millis)
        }
    }

    /// A moment for people is the time until then: the clocks of both ends differ.
    impl Time for Option<SystemTime> {
        fn write(&self) -> Option<u64> {
            let left = self.as_ref()?.duration_since(SystemTime::now()).unwrap_or_default();
            Some(super::millis(left))
        }

        fn read(millis: Option<u64>) -> Self {
            SystemTime::now().checked_add(Duration::from_millis(millis?))
        }
    }

    pub(crate) fn serialize<T: Time, S: Serializer>(time: &T, to: S) -> Result<S::Ok, S::Error> {
        time.write().serialize(to)
    }

    pub(crate) fn deserialize<'de, T: Time, D: Deserializer<'de>>(from: D) -> Result<T, D::Error> {
        Option::deserialize(from).map(T::read)
    }
}

//! Chance that can be repeated.

use std::ops::Range;
use std::time::Duration;

/// The same throws again for the same seed and name.
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64, name: &str) -> Self {
        // FNV-1a, so that arenas of one seed do not do the same.
        let mixed = name.bytes().fold(seed ^ 0xcbf2_9ce4_8422_2325, |sum, byte| {
            (sum ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        Self(mixed | 1)
    }

    pub(crate) fn below(&mut self, end: usize) -> usize {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % end
    }

    pub(crate) fn part_of(&mut self, time: Duration) -> Duration {
        self.millis(0..u64::try_from(time.as_millis()).unwrap())
    }

    pub(crate) fn one_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }

    pub(crate) fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }

    pub(crate) fn millis(&mut self, range: Range<u64>) -> Duration {
        let width = usize::try_from(range.end - range.start).unwrap();
        Duration::from_millis(range.start + self.below(width) as u64)
    }
}

//! Sets of signals.

use libc::c_int;

use crate::InvalidInput;

/// The highest signal number, `_NSIG` of the x86-64 kernel.
const HIGHEST: c_int = 64;

/// A set of signals, in the kernel's form: bit *n* - 1 stands for signal *n*, for the signals 1 to 64.
///
/// Unlike the C library's `sigset_t` it can hold every number the kernel knows, also the two real-time signals that
/// glibc keeps for itself (32 and 33).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[repr(transparent)]
pub struct SignalSet(u64);

impl SignalSet {
    /// The set without any signal.
    pub const fn empty() -> Self {
        SignalSet(0)
    }

    /// The set of all 64 signals.
    pub const fn full() -> Self {
        SignalSet(u64::MAX)
    }

    /// The set of the given signals.
    ///
    /// ```
    /// use spawn_template::SignalSet;
    ///
    /// // SIGINT and SIGPIPE
    /// let set = SignalSet::of([2, 13])?;
    /// assert!(set.contains(13) && !set.contains(15));
    /// # Ok::<(), spawn_template::InvalidInput>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`InvalidInput::SignalNumber`] for a number outside 1 to 64.
    pub fn of(signals: impl IntoIterator<Item = c_int>) -> Result<Self, InvalidInput> {
        signals.into_iter().try_fold(Self::empty(), |set, signal| Ok(SignalSet(set.0 | bit(signal)?)))
    }

    /// The set whose bits these are.
    pub const fn from_bits(bits: u64) -> Self {
        SignalSet(bits)
    }

    /// The bits of the set.
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// Adds a signal.
    ///
    /// # Errors
    ///
    /// [`InvalidInput::SignalNumber`] for a number outside 1 to 64.
    pub fn insert(&mut self, signal: c_int) -> Result<(), InvalidInput> {
        self.0 |= bit(signal)?;
        Ok(())
    }

    /// Takes a signal out.
    ///
    /// # Errors
    ///
    /// [`InvalidInput::SignalNumber`] for a number outside 1 to 64.
    pub fn remove(&mut self, signal: c_int) -> Result<(), InvalidInput> {
        self.0 &= !bit(signal)?;
        Ok(())
    }

    /// Whether the signal is in the set; false for a number that is no signal.
    pub fn contains(self, signal: c_int) -> bool {
        bit(signal).is_ok_and(|bit| self.0 & bit != 0)
    }
}

fn bit(signal: c_int) -> Result<u64, InvalidInput> {
    if (1..=HIGHEST).contains(&signal) { Ok(1 << (signal - 1)) } else { Err(InvalidInput::SignalNumber(signal)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Result<T = ()> = std::result::Result<T, InvalidInput>;

    #[test]
    fn bits_follow_the_kernel() -> Result {
        let set = SignalSet::of([libc::SIGHUP, libc::SIGKILL, 64])?;
        assert_eq!(set.bits(), 1 | 1 << 8 | 1 << 63);
        assert!(set.contains(9) && set.contains(64) && !set.contains(2));
        Ok(())
    }

    #[test]
    fn refuses_numbers_that_are_no_signal() {
        for number in [0, -1, 65, c_int::MIN, c_int::MAX] {
            assert_eq!(SignalSet::of([number]), Err(InvalidInput::SignalNumber(number)));
            assert!(!SignalSet::full().contains(number));
        }
    }

    #[test]
    fn insert_and_remove() -> Result {
        let mut set = SignalSet::empty();
        set.insert(libc::SIGTERM)?;
        assert!(set.contains(libc::SIGTERM));
        set.remove(libc::SIGTERM)?;
        assert_eq!(set, SignalSet::empty());
        assert!(set.insert(0).is_err() && set.remove(65).is_err());
        Ok(())
    }
}

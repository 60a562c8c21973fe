//! The state of the kernel's clock: whether it is synchronised, and its largest possible error.
//!
//! Promise:  reads only, so it needs no rights.

/// The kernel's own estimate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClockState {
    pub synchronised: bool,
    /// Largest possible error. The kernel raises it while no time service corrects the clock.
    pub error_us_max: u64,
}

/// `None` if a sandbox forbids the system call.
pub fn read() -> Option<ClockState> {
    // SAFETY: `timex` is a struct of integers, for which all zeroes is a value; with no modes set
    // the call only reads.
    let mut state: libc::timex = unsafe { std::mem::zeroed() };
    // SAFETY: `state` is valid and outlives the call.
    let answer = unsafe { libc::adjtimex(&mut state) };
    (answer >= 0).then(|| ClockState {
        synchronised: answer != libc::TIME_ERROR && state.status & libc::STA_UNSYNC == 0,
        error_us_max: u64::try_from(state.maxerror).unwrap_or(0),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_answers_and_stays_as_it_was() {
        let (first, second) = (read(), read());
        assert_eq!(first.map(|state| state.synchronised), second.map(|state| state.synchronised));
    }
}

//! The clock: whether it is synchronised.

use crate::boot::check::CLOCK;
use crate::boot::check::Finding;
use crate::boot::clock;
use crate::boot::clock::ClockState;
use crate::doctor::subject::Subject;

/// Retries and TLS tolerate a second; comparing logs of several hosts does not.
const ERROR_US_MAX: u64 = 1_000_000;

pub fn examine(_: &Subject) -> Vec<Finding> {
    vec![judge(clock::read())]
}

fn judge(state: Option<ClockState>) -> Finding {
    let Some(ClockState { synchronised, error_us_max }) = state else {
        return CLOCK.note("the state of the clock cannot be read", "check `timedatectl`");
    };
    let error_ms = error_us_max / 1000;
    match (synchronised, error_us_max) {
        (false, _) => CLOCK.warn(
            "the clock is not synchronised (NTP)",
            "install chrony, or enable systemd-timesyncd",
        ),
        (true, ERROR_US_MAX..) => CLOCK.warn(
            format!("the error of the clock may be {error_ms} ms"),
            "check the time sources with `chronyc tracking`",
        ),
        (true, _) => CLOCK.ok(format!("synchronised, error at most {error_ms} ms")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::boot::check::Level;

    #[test]
    fn clocks_are_judged() {
        let state = |synchronised, error_us_max| Some(ClockState { synchronised, error_us_max });
        for (row, state, level) in [
            ("kept", state(true, 20_000), Level::Ok),
            ("kept badly", state(true, 3_000_000), Level::Warn),
            ("let run", state(false, 16_000_000), Level::Warn),
            ("hidden", None, Level::Note),
        ] {
            assert_eq!(judge(state).level, level, "{row}");
        }
    }
}

//! The clock: whether somebody keeps it right.

use crate::boot::clock;
use crate::boot::clock::ClockState;
use crate::doctor::finding::Finding;
use crate::doctor::knob::CLOCK;
use crate::doctor::subject::Subject;

/// Retries and TLS do not mind a second; logs of several hosts do.
const ERROR_US_MAX: u64 = 1_000_000;

pub fn examine(_: &Subject) -> Vec<Finding> {
    vec![judge(clock::read())]
}

fn judge(state: Option<ClockState>) -> Finding {
    let Some(ClockState { synchronised, error_us_max }) = state else {
        return CLOCK.note("the kernel does not tell about its clock", "look at `timedatectl`");
    };
    let error_ms = error_us_max / 1000;
    match (synchronised, error_us_max) {
        (false, _) => CLOCK
            .warn("nobody keeps the clock right", "install chrony, or enable systemd-timesyncd"),
        (true, ERROR_US_MAX..) => CLOCK.warn(
            format!("the clock may be wrong by {error_ms} ms"),
            "see `chronyc tracking` for its sources",
        ),
        (true, _) => CLOCK.ok(format!("synchronised, within {error_ms} ms")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::doctor::finding::Level;

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

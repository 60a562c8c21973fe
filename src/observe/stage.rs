//! What is measured with its distribution: the stages of a message and what they are made of.
//!
//! Bounds:   one histogram per stage and shard, `METRIC_BUCKETS_MAX` buckets each in `/metrics`.

use crate::base::limits::METRIC_BUCKETS_MAX;

/// Bucket bounds in seconds, for what usually ends within a second.
const FAST_BOUNDS: &[f64] = &[
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
    5.0, 10.0, 30.0, 60.0, 300.0,
];

/// Bucket bounds in seconds, for what may take days when a destination is down.
const SLOW_BOUNDS: &[f64] = &[
    0.001, 0.005, 0.025, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 14400.0, 43200.0,
    86400.0, 172800.0, 432000.0,
];

/// Bucket bounds in messages.
const MESSAGES_BOUNDS: &[f64] = &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0];

const _: () = assert!(FAST_BOUNDS.len() <= METRIC_BUCKETS_MAX);
const _: () = assert!(SLOW_BOUNDS.len() <= METRIC_BUCKETS_MAX);
const _: () = assert!(MESSAGES_BOUNDS.len() <= METRIC_BUCKETS_MAX);

/// How values of a stage are measured and shown.
struct Scale {
    /// The unit of recorded values.
    unit: &'static str,
    /// The unit in `/metrics`, and recorded values in one of it.
    suffix: &'static str,
    per_unit: f64,
    bounds: &'static [f64],
    /// Larger values are recorded as this.
    highest: u64,
}

/// Up to ten minutes, the longest timeout of a state.
const FAST: Scale = Scale { bounds: FAST_BOUNDS, highest: 600_000_000, ..SLOW };

/// Up to a week, longer than mail is retried by default.
const SLOW: Scale = Scale {
    unit: "microseconds",
    suffix: "seconds",
    per_unit: 1e6,
    bounds: SLOW_BOUNDS,
    highest: 7 * 24 * 3600 * 1_000_000,
};

const MESSAGES: Scale = Scale {
    unit: "messages",
    suffix: "messages",
    per_unit: 1.0,
    bounds: MESSAGES_BOUNDS,
    highest: (1 << 16) - 1,
};

macro_rules! stages {
    ($($stage:ident $scale:ident $name:literal $help:literal,)*) => {
        /// A stage whose distribution is recorded.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Stage { $(#[doc = $help] $stage,)* }

        impl Stage {
            pub const ALL: [Stage; [$($name),*].len()] = [$(Stage::$stage),*];

            /// The name in `/stats`; `metric` derives the name in `/metrics` from it.
            pub fn name(self) -> &'static str {
                match self { $(Stage::$stage => $name,)* }
            }

            pub fn help(self) -> &'static str {
                match self { $(Stage::$stage => $help,)* }
            }

            fn scale(self) -> &'static Scale {
                match self { $(Stage::$stage => &$scale,)* }
            }
        }
    };
}

stages! {
    Greeting FAST "greeting" "Time from an accepted connection to its greeting.",
    TlsHandshake FAST "tls_handshake" "Time of a completed TLS handshake with a client.",
    Command FAST "command" "Time from the last byte of a command to its reply.",
    Body FAST "body" "Time from the 354 reply or the first BDAT to the last byte of the body.",
    Commit FAST "commit" "Time from the last byte of a body until the message is durable.",
    CommitBatch MESSAGES "commit_batch" "Messages made durable by one batch.",
    Accept FAST "accept" "Time from MAIL to the 250 after the body.",
    QueueWait SLOW "queue_wait" "Time from handing a job to its destination until it is sent.",
    Connect FAST "delivery_connect"
        "Time from connecting to a server until it is ready for mail, with greeting, EHLO and TLS.",
    DeliveryTls FAST "delivery_tls_handshake" "Time of a completed TLS handshake with a server.",
    Transfer FAST "delivery_transfer" "Time from MAIL to the last reply for a message sent.",
    Delivered SLOW "accept_to_delivered"
        "Time from accepting a message until its delivery to a recipient is recorded.",
}

impl Stage {
    pub fn from_name(name: &str) -> Option<Stage> {
        Stage::ALL.into_iter().find(|stage| stage.name() == name)
    }

    /// The unit of recorded values.
    pub fn unit(self) -> &'static str {
        self.scale().unit
    }

    /// The name in `/metrics`, in base units.
    pub fn metric(self) -> String {
        format!("{}_{}", self.name(), self.scale().suffix)
    }

    /// Recorded values in one unit of `metric`.
    pub(super) fn per_unit(self) -> f64 {
        self.scale().per_unit
    }

    /// The upper bounds of the buckets in `/metrics`, but for infinity.
    pub(super) fn bounds(self) -> &'static [f64] {
        self.scale().bounds
    }

    /// Larger values are recorded as this.
    pub(super) fn highest(self) -> u64 {
        self.scale().highest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stages_are_named_once_and_their_buckets_grow() {
        for (place, stage) in Stage::ALL.into_iter().enumerate() {
            assert_eq!(Stage::from_name(stage.name()), Some(stage));
            assert_eq!(stage as usize, place, "a stage indexes its histogram");
            assert!(stage.help().ends_with('.'), "{}", stage.name());
            assert!(stage.bounds().is_sorted_by(|low, high| low < high), "{}", stage.name());
            let highest = stage.bounds()[stage.bounds().len() - 1] * stage.per_unit();
            assert!(highest <= stage.highest() as f64, "{}", stage.name());
        }
        assert_eq!(Stage::from_name("no such stage"), None);
    }
}

//! What is measured with its distribution: the stages of a message and what they are made of.
//!
//! Bounds:   one histogram per stage and shard, `METRIC_BUCKETS_MAX` buckets each in `/metrics`.

use crate::base::limits::METRIC_BUCKETS_MAX;

/// Bucket bounds in seconds, for what usually ends within a second.
const FAST: &[f64] = &[
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
    5.0, 10.0, 30.0, 60.0, 300.0,
];

/// Bucket bounds in seconds, for what may take days when a destination is down.
const SLOW: &[f64] = &[
    0.001, 0.005, 0.025, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 14400.0, 43200.0,
    86400.0, 172800.0, 432000.0,
];

/// Bucket bounds in messages.
const MESSAGES: &[f64] = &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0];

const _: () = assert!(FAST.len() <= METRIC_BUCKETS_MAX);
const _: () = assert!(SLOW.len() <= METRIC_BUCKETS_MAX);
const _: () = assert!(MESSAGES.len() <= METRIC_BUCKETS_MAX);

/// The longest time told apart in `FAST`: ten minutes, the longest timeout of a state.
const FAST_US_MAX: u64 = 600_000_000;

/// The longest time told apart in `SLOW`: a week, longer than mail is retried by default.
const SLOW_US_MAX: u64 = 7 * 24 * 3600 * 1_000_000;

/// The largest batch told apart.
const BATCH_MESSAGES_MAX: u64 = (1 << 16) - 1;

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

            fn scale(self) -> Scale {
                match self { $(Stage::$stage => Scale::$scale,)* }
            }
        }
    };
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scale {
    Fast,
    Slow,
    Messages,
}

stages! {
    Greeting Fast "greeting" "Time from an accepted connection to its greeting.",
    TlsHandshake Fast "tls_handshake" "Time of a completed TLS handshake with a client.",
    Command Fast "command" "Time from the last byte of a command to its reply.",
    Body Fast "body" "Time from the 354 reply or the first BDAT to the last byte of the body.",
    Commit Fast "commit" "Time from the last byte of a body until the message is durable.",
    CommitBatch Messages "commit_batch" "Messages made durable by one batch.",
    Accept Fast "accept" "Time from MAIL to the 250 after the body.",
    QueueWait Slow "queue_wait" "Time from handing a job to its destination until it is sent.",
    Connect Fast "delivery_connect"
        "Time from connecting to a server until it is ready for mail, with greeting, EHLO and TLS.",
    DeliveryTls Fast "delivery_tls_handshake" "Time of a completed TLS handshake with a server.",
    Transfer Fast "delivery_transfer" "Time from MAIL to the last reply for a message sent.",
    Delivered Slow "accept_to_delivered"
        "Time from accepting a message until its delivery to a recipient is recorded.",
}

impl Stage {
    pub fn from_name(name: &str) -> Option<Stage> {
        Stage::ALL.into_iter().find(|stage| stage.name() == name)
    }

    /// The unit of recorded values.
    pub fn unit(self) -> &'static str {
        match self.scale() {
            Scale::Messages => "messages",
            Scale::Fast | Scale::Slow => "microseconds",
        }
    }

    /// The name in `/metrics`, in base units.
    pub fn metric(self) -> String {
        match self.scale() {
            Scale::Messages => format!("{}_messages", self.name()),
            Scale::Fast | Scale::Slow => format!("{}_seconds", self.name()),
        }
    }

    /// Recorded values in one unit of `metric`.
    pub(super) fn per_unit(self) -> f64 {
        match self.scale() {
            Scale::Messages => 1.0,
            Scale::Fast | Scale::Slow => 1e6,
        }
    }

    /// The upper bounds of the buckets in `/metrics`, but for infinity.
    pub(super) fn bounds(self) -> &'static [f64] {
        match self.scale() {
            Scale::Fast => FAST,
            Scale::Slow => SLOW,
            Scale::Messages => MESSAGES,
        }
    }

    /// Larger values are recorded as this.
    pub(super) fn highest(self) -> u64 {
        match self.scale() {
            Scale::Fast => FAST_US_MAX,
            Scale::Slow => SLOW_US_MAX,
            Scale::Messages => BATCH_MESSAGES_MAX,
        }
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

//! What the process reports about itself: the text log, metrics, distributions.
//!
//! Owner:    each shard alone writes its metrics, histograms and log lane. The monitor reads what
//!           the shards publish; the log thread drains the lanes.
//! Promise:  observing never stalls a shard. A line that finds its lane full is dropped and counted;
//!           a metric is one load and one store; a shard copies its histograms only on request, and
//!           never waits for the reader.
//! Bounds:   a lane of fixed size per thread, a fixed set of metrics and labels, a fixed number of
//!           histograms with fixed bounds. Nothing here grows with traffic.

pub mod counters;
pub mod exposition;
mod hgrm;
pub mod histogram;
pub mod label;
pub mod log;
pub mod metric;
pub mod observed;
pub mod stage;

pub use counters::PartitionMetrics;
pub use counters::ProcessMetrics;
pub use counters::ShardMetrics;
pub use histogram::Histograms;
pub use observed::Observed;
pub use observed::ShardObserved;
pub use stage::Stage;

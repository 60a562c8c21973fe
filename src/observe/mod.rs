//! What the process says about itself: records (the log), metrics, histograms.
//!
//! Owner:    each shard writes its own metrics, histograms and log lane, and nobody else does.
//!           The control thread reads what the shards publish; the log thread drains the lanes.
//! Promise:  observing never stalls a shard. A line that finds its lane full is dropped and
//!           counted; a metric is a plain load and store; a histogram is copied out by its shard
//!           only when somebody asked, and never while the reader holds the copy.
//! Bounds:   a lane of fixed size per thread, a fixed set of metrics with fixed labels, a fixed
//!           number of histograms with fixed bounds. Nothing here grows with traffic.

pub mod counters;
pub mod histogram;
pub mod log;
pub mod metric;
pub mod observed;

pub use counters::ProcessMetrics;
pub use counters::ShardMetrics;
pub use histogram::Histograms;
pub use histogram::Stage;
pub use observed::Observed;
pub use observed::ShardObserved;

//! Communication between threads.
//!
//! ```text
//! placement   which shard is home to which partition
//! lane        a bounded queue into one shard
//! frame       next hops, and what attempts come to
//! frames mesh jobs and outcomes between shards
//! waiters     senders that wait for room in a lane
//! upload      a message from any thread to a shard, and its outcome back
//! ask reader  questions of a shard to OS threads, with a deadline; reading the store
//! sts         MTA-STS policies that the control plane publishes
//! ```
//!
//! Promise:  if everything in the lanes is lost, no mail is lost. The durable record stays in its
//!           partition; lanes carry only orders, jobs and outcomes.

pub mod ask;
pub mod frame;
pub mod frames;
pub mod lane;
pub mod mesh;
pub mod placement;
pub mod reader;
pub mod sts;
pub mod upload;
pub mod waiters;

pub use ask::AskPool;
pub use ask::Asker;
pub use ask::NoAnswer;
pub use ask::Question;
pub use frames::Frame;
pub use lane::Receiver;
pub use lane::Sender;
pub use mesh::Mesh;
pub use mesh::MeshSeed;
pub use placement::Placement;
pub use reader::Reader;
pub use sts::StsPolicies;
pub use waiters::Waiters;

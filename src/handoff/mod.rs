//! Communication between threads: the placement of partitions on shards, the lanes for orders and
//! frames, and the MTA-STS policies that the control plane publishes.
//!
//! Promise:  losing everything in the lanes loses no mail. The durable record stays in its partition;
//!           lanes carry only orders, jobs and outcomes.

pub mod frame;
pub mod lane;
pub mod mesh;
pub mod placement;
pub mod sts;

pub use frame::Frame;
pub use lane::Receiver;
pub use lane::Sender;
pub use mesh::Mesh;
pub use mesh::MeshSeed;
pub use placement::Placement;
pub use sts::StsPolicies;

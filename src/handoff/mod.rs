//! What crosses from one thread to another: which shard owns which partition, the lanes in which
//! orders and, with delivery, frames travel, and the MTA-STS policies that the control plane
//! publishes.
//!
//! Promise:  losing everything that is in a lane loses no mail. The durable record stays with its
//!           partition; a lane carries only orders and outcomes.

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

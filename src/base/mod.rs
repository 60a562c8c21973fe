//! Types that every other folder uses. Standard library only; nothing here does I/O or waits.

pub mod backoff;
pub mod chunk;
pub mod class;
pub mod clock;
pub mod fault;
pub mod hash;
pub mod id;
pub mod labels;
pub mod limits;
pub mod random;

pub use chunk::Chunk;
pub use chunk::ChunkPool;
pub use chunk::Slice;
pub use class::Class;
pub use clock::Mono;
pub use clock::ScheduleClock;
pub use clock::Wall;
pub use hash::IdMap;
pub use id::CredentialId;
pub use id::MessageId;
pub use id::PartitionId;
pub use id::PublicId;
pub use id::ShardId;
pub use id::SpoolNumber;
pub use id::StreamNumber;
pub use id::TenantId;
pub use random::Random;

//! The one way in: SMTP, HTTP, bounces and replies all become a `Submission` and pass this intake.
//!
//! ```text
//! submission  what a way in brings: identity, envelope, header block, options, placement
//! head        the header block while its bytes arrive, bounded
//! edit        ordered changes to a header block
//! rules       which changes the header block of which sender gets
//! signature   the place of a signature over header and streamed body
//! intake      the intake of a shard: its partitions, limits and buffers
//! incoming    submission -> header stage -> body -> commit, on the home shard of the partition
//! record      what is stored, counted and logged of a message
//! gateway     the same for other threads, through one bounded lane for each shard
//! refusal     why a message is not accepted, for every protocol
//! ```
//!
//! Promise:  nothing here knows a socket, a session or a protocol. A message is durable when
//!           `Incoming::finish` or `Gateway::send` returns `Ok`.
//! Bounds:   a header block of `HEAD_BYTES_MAX` and `HEAD_FIELDS_MAX`; the body in pooled chunks,
//!           constant memory whatever its size.

pub mod edit;
pub mod envelope;
pub mod gateway;
pub mod head;
pub mod incoming;
pub mod intake;
pub mod record;
pub mod refusal;
pub mod rules;
pub mod signature;
pub mod submission;

pub use envelope::EnvelopeBuf;
pub use envelope::Text;
pub use gateway::Gateway;
pub use gateway::gateway;
pub use head::HeadPolicy;
pub use head::LabelFields;
pub use head::RawHead;
pub use incoming::Accepted;
pub use incoming::Incoming;
pub use intake::Intake;
pub use refusal::Refusal;
pub use refusal::RefusalCode;
pub use submission::Placement;
pub use submission::SendOptions;
pub use submission::Submission;

//! The one way in: SMTP, HTTP, bounces and replies all become a `Submission` and pass this intake.
//!
//! ```text
//! submission  identity, envelope, header block, options and placement of a message
//! head        the header block while it is received, bounded
//! edit        ordered changes to a header block
//! rules       which changes apply to the header block of which sender
//! signature   the hook for a signature over header and streamed body
//! intake      the intake of a shard: its partitions, limits and buffers
//! compose     the header of a message as it is stored
//! incoming    submission -> header stage -> body -> commit, on the home shard of the partition
//! batch       several messages in one commit, all or none
//! record      the stored records, counters and log line of a message
//! gateway     the same for other threads, through one bounded lane for each shard
//! room        the memory of a shard for such submissions
//! refusal     why a message is not accepted, for every protocol
//! ```
//!
//! Promise:  nothing here depends on a socket, a session or a protocol. A message is durable when
//!           `Incoming::finish` or `Gateway::send` returns `Ok`.
//! Bounds:   a header block of `HEAD_BYTES_MAX` and `HEAD_FIELDS_MAX`; the body in pooled chunks,
//!           constant memory for any size.

pub mod batch;
pub mod compose;
pub mod edit;
pub mod envelope;
pub mod gateway;
pub mod head;
pub mod incoming;
pub mod intake;
pub mod record;
pub mod refusal;
pub mod room;
pub mod rules;
pub mod signature;
pub mod submission;

pub use envelope::EnvelopeBuf;
pub use envelope::Text;
pub use gateway::Gateway;
pub use gateway::gateway;
pub use head::HeadPolicy;
pub use head::LabelFields;
pub use head::MailboxLine;
pub use head::RawHead;
pub use incoming::Incoming;
pub use intake::Intake;
pub use refusal::Refusal;
pub use refusal::RefusalCode;
pub use submission::Accepted;
pub use submission::Placement;
pub use submission::SendOptions;
pub use submission::Submission;

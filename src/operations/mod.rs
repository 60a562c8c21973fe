//! What people and programs can ask of a server: typed requests, results, errors and permissions.
//!
//! Promise:  no I/O. The CLI and the HTTP API are faces of the same operations: the list in
//!           `list` makes the routes, and an operation without a route, a permission or a
//!           result type does not compile.
//!
//! ```text
//! operation     what each operation consists of
//! list          all of them
//! fault         why an operation failed; the exit code and the HTTP status of each kind
//! permission    what a caller must be allowed to do
//! queue         messages: list, show, count, change
//! why           what a message waits for
//! events        the event log
//! destination   where mail goes
//! route_test    where mail of a recipient would go
//! server        health and reload
//! ```

pub mod destination;
pub mod events;
pub mod fault;
pub mod list;
pub mod operation;
pub mod permission;
pub mod queue;
pub mod route_test;
pub mod server;
pub mod why;

pub use fault::FaultKind;
pub use fault::OpFault;
pub use list::ALL;
pub(crate) use list::each_operation;
pub use operation::Bytes;
pub use operation::Change;
pub use operation::Input;
pub use operation::Method;
pub use operation::Operation;
pub use operation::Route;
pub use permission::Permission;

//! What people and programs can ask of a server: typed requests, results, errors and permissions.
//!
//! Promise:  no I/O. The CLI and the HTTP API are faces of the same operations: the list in
//!           `each_operation` makes the routes, and an operation without a route, a permission or a
//!           result type does not compile.
//!
//! ```text
//! fault         why an operation failed; the exit code and the HTTP status of each kind
//! permission    what a caller must be allowed to do
//! queue         messages: list, show, count, change
//! why           what a message waits for
//! destination   where mail goes
//! route_test    where mail of a recipient would go
//! server        health and reload
//! ```

use serde::Serialize;
use serde::de::DeserializeOwned;

pub mod destination;
pub mod fault;
pub mod permission;
pub mod queue;
pub mod route_test;
pub mod server;
pub mod why;

pub use fault::FaultKind;
pub use fault::OpFault;
pub use permission::Permission;

/// A request that a server can carry out.
pub trait Operation: Serialize + DeserializeOwned + Send + 'static {
    /// The name in logs and audits, such as `queue.list`.
    const NAME: &'static str;
    const ROUTE: Route;
    /// What the caller must be allowed to do.
    const NEEDS: Permission;
    type Output: Serialize + DeserializeOwned + Send + 'static;

    /// The value of the parameter in the route's path, for a route that has one.
    fn path_value(&self) -> &str {
        ""
    }
}

/// Where HTTP clients find an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    pub method: Method,
    /// At most one parameter, as `{id}`.
    pub path: &'static str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// Changes nothing.
    Get,
    Post,
}

/// Where the fields of a request stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input {
    /// In the path, as its parameter.
    Path,
    Query,
    /// As JSON.
    Body,
}

impl Route {
    /// The parameter of the path, with its braces.
    pub fn parameter(&self) -> Option<&'static str> {
        self.path.split('/').find(|part| part.starts_with('{'))
    }

    pub fn input(&self) -> Input {
        match (self.parameter(), self.method) {
            (Some(_), _) => Input::Path,
            (None, Method::Get) => Input::Query,
            (None, Method::Post) => Input::Body,
        }
    }
}

/// The result of an operation that answers with bytes instead of JSON.
#[derive(Debug, Serialize, serde::Deserialize)]
pub enum Bytes {}

/// Implements `Operation`: type, name, method and path, permission, result.
macro_rules! operation {
    ($op:ty, $name:literal, $method:ident $path:literal, $needs:ident => $output:ty $(, $field:ident)?) => {
        impl $crate::operations::Operation for $op {
            const NAME: &'static str = $name;
            const ROUTE: $crate::operations::Route = $crate::operations::Route {
                method: $crate::operations::Method::$method,
                path: $path,
            };
            const NEEDS: $crate::operations::Permission =
                $crate::operations::Permission::$needs;
            type Output = $output;
            $(fn path_value(&self) -> &str {
                &self.$field
            })?
        }
    };
}
pub(crate) use operation;

/// The one list of operations: calls a macro with all types. Those behind `;` answer with bytes.
macro_rules! each_operation {
    ($each:ident) => {
        $each! {
            $crate::operations::queue::ListMessages,
            $crate::operations::queue::SummarizeQueue,
            $crate::operations::queue::ShowMessage,
            $crate::operations::queue::QueueStats,
            $crate::operations::queue::AuditQueue,
            $crate::operations::queue::ChangeMessages,
            $crate::operations::why::ExplainMessage,
            $crate::operations::destination::ListDestinations,
            $crate::operations::destination::ShowDestination,
            $crate::operations::destination::PauseDestination,
            $crate::operations::destination::ResumeDestination,
            $crate::operations::route_test::TestRoute,
            $crate::operations::server::CheckHealth,
            $crate::operations::server::ReloadConfig;
            $crate::operations::queue::ReadMessage,
        }
    };
}
pub(crate) use each_operation;

/// An operation without its types.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Described {
    pub name: &'static str,
    pub route: Route,
    pub needs: Permission,
}

macro_rules! describe {
    ($($op:ty),+; $($bytes:ty),+ $(,)?) => {
        /// All operations.
        pub const ALL: &[Described] = &[
            $(Described { name: <$op>::NAME, route: <$op>::ROUTE, needs: <$op>::NEEDS },)+
            $(Described { name: <$bytes>::NAME, route: <$bytes>::ROUTE, needs: <$bytes>::NEEDS },)+
        ];
    };
}
each_operation!(describe);

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn names_and_routes_are_unique_and_well_formed() {
        let names: HashSet<&str> = ALL.iter().map(|one| one.name).collect();
        let routes: HashSet<(&str, &str)> = ALL
            .iter()
            .map(|one| {
                (if one.route.method == Method::Get { "GET" } else { "POST" }, one.route.path)
            })
            .collect();
        assert_eq!((names.len(), routes.len()), (ALL.len(), ALL.len()));
        for Described { name, route, needs } in ALL {
            assert!(
                name.split_once('.')
                    .is_some_and(|(area, verb)| !area.is_empty() && !verb.is_empty()),
                "{name}"
            );
            assert!(route.path.starts_with("/v1/"), "{name}: {}", route.path);
            let parameters = route.path.matches('{').count();
            assert!(parameters <= 1, "{name}: {}", route.path);
            assert!(
                route.method == Method::Post || needs.is_reading(),
                "{name}: a GET changes nothing"
            );
        }
    }

    #[test]
    fn an_operation_with_a_parameter_knows_its_value() {
        let show = queue::ShowMessage { id: "A".to_owned() };
        assert_eq!((show.path_value(), queue::ShowMessage::ROUTE.parameter()), ("A", Some("{id}")));
        assert_eq!(queue::ShowMessage::ROUTE.input(), Input::Path);
        assert_eq!(queue::ListMessages::ROUTE.input(), Input::Query);
        assert_eq!(queue::ChangeMessages::ROUTE.input(), Input::Body);
    }
}

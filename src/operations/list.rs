//! The list of all operations.

use crate::operations::operation::Operation;
use crate::operations::operation::Route;
use crate::operations::permission::Permission;

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
            $crate::operations::events::ListEvents,
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

    use crate::operations::operation::Input;
    use crate::operations::operation::Method;
    use crate::operations::queue;

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

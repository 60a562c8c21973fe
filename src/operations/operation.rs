//! What each operation consists of: a request type with its name, route, permission and result.

use serde::Deserialize;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::operations::permission::Permission;

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

    /// What the log says of the operation, if it may change something.
    fn change(&self) -> Change {
        let object = Some(self.path_value()).filter(|value| !value.is_empty());
        let objects = object.map(str::to_owned).into_iter().collect();
        Change { action: Self::NAME, objects, to: None }
    }

    /// Objects that were changed, and objects that were not.
    fn counts(_: &Self::Output) -> (usize, usize) {
        (1, 0)
    }
}

/// A change as the log names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    pub action: &'static str,
    /// Messages or destinations.
    pub objects: Vec<String>,
    /// The value that was set.
    pub to: Option<Box<str>>,
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
#[derive(Debug, Serialize, Deserialize)]
pub enum Bytes {}

/// Declares an operation: the request with its fields; name, method and path with the field that is its
/// parameter; permission and result; then other methods of the trait.
macro_rules! operation {
    (
        $(#[$about:meta])*
        $op:ident { $($(#[$doc:meta])* $field:ident: $type:ty),* $(,)? }
        $name:literal, $method:ident $path:literal $(by $key:ident)?, $needs:ident => $output:ty
        $(; $($method_of:item)+)?
    ) => {
        #[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
        #[serde(deny_unknown_fields)]
        $(#[$about])*
        pub struct $op { $($(#[$doc])* pub $field: $type,)* }

        impl $crate::operations::operation::Operation for $op {
            const NAME: &'static str = $name;
            const ROUTE: $crate::operations::operation::Route = $crate::operations::operation::Route {
                method: $crate::operations::operation::Method::$method,
                path: $path,
            };
            const NEEDS: $crate::operations::permission::Permission =
                $crate::operations::permission::Permission::$needs;
            type Output = $output;
            $(fn path_value(&self) -> &str {
                &self.$key
            })?
            $($($method_of)+)?
        }
    };
}
pub(crate) use operation;

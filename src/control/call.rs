//! Who may do what: only `authorize` makes a `Call`, and only a `Call` is carried out.

use std::future::Future;

use crate::control::server::Control;
use crate::operations::FaultKind;
use crate::operations::OpFault;
use crate::operations::Operation;
use crate::operations::Permission;
use crate::queue::Spool;

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Actor {
    /// At the control socket: root, or the user who owns the server's files. May do everything.
    Operator,
    /// Anybody else. May do nothing.
    Stranger,
}

impl Actor {
    pub fn may(self, _needs: Permission) -> bool {
        match self {
            Actor::Operator => true,
            Actor::Stranger => false,
        }
    }
}

/// An operation that its caller is allowed to ask for.
pub struct Call<O> {
    operation: O,
}

impl<O> Call<O> {
    pub fn into_operation(self) -> O {
        self.operation
    }
}

/// Lets a caller ask for an operation, or refuses.
pub fn authorize<O: Operation>(actor: Actor, operation: O) -> Result<Call<O>, OpFault> {
    check_permission::<O>(actor)?;
    Ok(Call { operation })
}

/// What `authorize` checks first, for a caller whose request is not read yet.
pub fn check_permission<O: Operation>(actor: Actor) -> Result<(), OpFault> {
    match actor.may(O::NEEDS) {
        true => Ok(()),
        false => Err(OpFault::new(
            FaultKind::Denied,
            "denied",
            format!("you have no permission for {}", O::NAME),
        )
        .hint("run this command as root or as the user of the server")),
    }
}

/// How an operation is carried out.
pub trait CarryOut: Operation {
    /// Whether it runs however many others do.
    const ALWAYS_RUNS: bool = false;

    /// On a running server.
    fn run(
        call: Call<Self>,
        control: &Control,
    ) -> impl Future<Output = Result<Self::Output, OpFault>> + Send;

    /// On the spool of a stopped server.
    fn run_stopped(_call: Call<Self>, _spool: &Spool) -> Result<Self::Output, OpFault> {
        Err(OpFault::not_running())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::operations::queue::QueueStats;

    #[test]
    fn operators_may_do_everything_and_strangers_nothing() {
        for needs in Permission::ALL {
            assert!(Actor::Operator.may(needs) && !Actor::Stranger.may(needs), "{needs:?}");
        }
        assert!(authorize(Actor::Operator, QueueStats {}).is_ok());
        let fault = authorize(Actor::Stranger, QueueStats {}).err().expect("it is refused");
        assert_eq!((fault.kind, &*fault.code), (FaultKind::Denied, "denied"));
    }
}

//! Who may do what: only `authorize` makes a `Call`, and only a `Call` is carried out.

use std::future::Future;

use crate::control::server::Control;
use crate::observe::log::Record;
use crate::operations::FaultKind;
use crate::operations::OpFault;
use crate::operations::Operation;
use crate::operations::Permission;
use crate::queue::Spool;

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Actor {
    /// Root, or the user who owns the server's files, at the control socket or at the spool of a
    /// stopped server. May do everything.
    Operator {
        /// As the kernel names the user of the socket.
        user: Option<u32>,
    },
    /// Anybody else. May do nothing.
    Stranger,
}

impl Actor {
    pub fn may(self, _needs: Permission) -> bool {
        match self {
            Actor::Operator { .. } => true,
            Actor::Stranger => false,
        }
    }

    /// The actor in the log.
    fn name(self) -> String {
        match self {
            Actor::Operator { user: Some(user) } => format!("uid:{user}"),
            Actor::Operator { user: None } => "operator".to_owned(),
            Actor::Stranger => "stranger".to_owned(),
        }
    }
}

/// An operation that its caller is allowed to ask for.
pub struct Call<O> {
    actor: Actor,
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
    Ok(Call { actor, operation })
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

/// Carries out an operation on a running server. One that may change something is logged.
pub async fn carry_out<O: CarryOut>(call: Call<O>, control: &Control) -> Outcome<O> {
    if O::NEEDS.is_reading() {
        return O::run(call, control).await;
    }
    let (actor, change) = (call.actor.name(), call.operation.change());
    let done = O::run(call, control).await;
    let (changed, refused) = done.as_ref().map_or((0, 0), O::counts);
    Record::Operation {
        actor: &actor,
        action: change.action,
        objects: &change.objects,
        to: change.to.as_deref(),
        changed,
        refused,
        error: done.as_ref().err().map(|fault| &*fault.code),
    }
    .emit();
    done
}

/// The result of an operation.
pub type Outcome<O> = Result<<O as Operation>::Output, OpFault>;

/// How an operation is carried out.
pub trait CarryOut: Operation {
    /// Whether it runs however many others do.
    const ALWAYS_RUNS: bool = false;

    /// On a running server.
    fn run(call: Call<Self>, control: &Control) -> impl Future<Output = Outcome<Self>> + Send;

    /// On the spool of a stopped server.
    fn run_stopped(_call: Call<Self>, _spool: &Spool) -> Outcome<Self> {
        Err(OpFault::not_running())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::operations::queue::QueueStats;

    #[test]
    fn operators_may_do_everything_and_strangers_nothing() {
        let operator = Actor::Operator { user: Some(0) };
        for needs in Permission::ALL {
            assert!(operator.may(needs) && !Actor::Stranger.may(needs), "{needs:?}");
        }
        assert!(authorize(operator, QueueStats {}).is_ok());
        let fault = authorize(Actor::Stranger, QueueStats {}).err().expect("it is refused");
        assert_eq!((fault.kind, &*fault.code), (FaultKind::Denied, "denied"));
    }
}
